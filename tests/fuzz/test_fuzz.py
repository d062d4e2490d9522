"""A short part of `python -m tests.fuzz` in the quick suite."""

import pytest

from tests.fuzz.__main__ import Watcher, fuzz
from tests.fuzz.mutants import KINDS


@pytest.mark.parametrize('kind', KINDS)
def test_damaged_files_end_in_a_sentence(kind):
  assert fuzz(kind, 120, 1, Watcher())[0] == []
