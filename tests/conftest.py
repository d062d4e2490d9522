"""For all tests."""

import gc

import jax
import pytest


@pytest.fixture(autouse=True, scope='module')
def compiled_programs_end_with_their_module():
  """A thousand live programs exhaust the memory maps that a process may have, and the compiler dies of it."""
  yield
  jax.clear_caches()
  gc.collect()
