"""For all tests."""

import gc

import jax
import pytest


@pytest.fixture(autouse=True, scope='module')
def compiled_programs_end_with_their_module():
  """A whole run in one process died in the compiler with a thousand programs alive, probably out of memory maps."""
  yield
  jax.clear_caches()
  gc.collect()


@pytest.fixture(scope='module')
def lightly_compiled():
  """For modules whose programs are large and run once: they are compiled without most optimisations, in half the time.

  A test of memory, of speed or of what a compiler makes of the code is no user of it.
  """
  before = jax.config.values['jax_disable_most_optimizations']
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', before)
