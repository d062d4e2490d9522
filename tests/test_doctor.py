"""The doctor tells what is wrong of versions and of what set-up fetches, in a checkout and in an
installed copy."""

import sys

import jax
import numpy as np
from packaging.requirements import Requirement

from exp_jax.commands import doctor
from exp_jax.files import resources


def test_the_doctor_compares_versions(monkeypatch):
  """With requirements and with what was tested; where there is nothing to compare with, that is a
  problem."""
  have = jax.__version__
  asked = [Requirement('jax>=0.1'), Requirement('numpy<1.0'), Requirement('no-such-package>=1.0')]
  found = dict(reversed(line) for line in doctor.versions(asked, {'jax': '0.0.1'}))
  assert found[f'jax {have}, tested with 0.0.1'] == 'note'
  assert found[f'numpy {np.__version__}, <1.0 is asked for: pip install "numpy<1.0"'] == 'problem'
  assert (
    found['no-such-package is not installed, >=1.0 is asked for: install exp_jax again']
    == 'problem'
  )
  assert all(verdict == 'ok' for verdict, _ in doctor.versions(asked[:1], {'jax': have}))
  assert [verdict for verdict, _ in doctor.versions([], {})][-1] == 'problem'
  assert {one.name for one in doctor.requirements()} > {
    'jax',
    'flax',
    'numpy',
  } and doctor.tested_versions()['jax']
  monkeypatch.setattr(resources, 'checkout', lambda: None)  # as an installed copy
  monkeypatch.setattr(
    doctor.importlib.metadata, 'requires', lambda name: ['jax>=0.1', 'torch>=2; extra == "convert"']
  )
  assert [one.name for one in doctor.requirements()] == ['jax'] and doctor.tested_versions() == {}


def test_the_doctor_misses_what_was_not_fetched(tmp_path, monkeypatch):
  monkeypatch.setenv('EXP_JAX_HOME', str(tmp_path / 'home'))
  for name in ('EXP_JAX_ASSETS', 'EXP_JAX_MEDIAPIPE'):
    monkeypatch.delenv(name, raising=False)
  for verdict, words in (doctor.head(), doctor.estimator()):
    assert verdict == 'problem' and str(tmp_path / 'home') in words and '`make setup`' in words
  assert doctor.home() == ('ok', f'home {str(tmp_path / "home")!r}')
  python = tmp_path / 'home' / '.venv-mediapipe' / 'bin' / 'python'  # begun, and interrupted
  python.parent.mkdir(parents=True)
  python.touch()
  assert doctor.estimator()[0] == 'problem' and 'lacks mediapipe==0.10.21' in doctor.estimator()[1]
  monkeypatch.setenv('EXP_JAX_MEDIAPIPE', sys.executable)  # a Python without MediaPipe
  assert doctor.estimator()[0] == 'problem' and 'cannot import mediapipe' in doctor.estimator()[1]
