"""Programs of others that answer live.

Where one is not installed its tests are skipped; under `make oracles` they fail.
"""

import importlib
import os

import pytest


def oracle(name: str):
  """The module of that name, or a skip; with EXP_JAX_ORACLES set, as `make oracles` does, its
  absence is a failure."""
  try:
    return importlib.import_module(name)
  except ImportError as error:
    if os.environ.get('EXP_JAX_ORACLES'):
      pytest.fail(f'the oracle {name} is missing: {error}')
    pytest.skip(f'{name} is not installed; `make oracles` installs it')
