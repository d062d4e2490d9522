"""For all tests."""

import gc

import jax
import pytest


def pytest_make_parametrize_id(config, val, argname):
  """A function is called by its argument: its address differs between workers, which must agree on the names of tests."""
  del config
  return argname if '<' in repr(val) and callable(val) else None


@pytest.fixture(autouse=True, scope='module')
def compiled_programs_end_with_their_module():
  """A whole run in one process died in the compiler with a thousand programs alive, probably out of memory maps."""
  yield
  jax.clear_caches()
  gc.collect()
