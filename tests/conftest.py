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
