"""Two processes with one output: the second says so in one sentence and changes nothing."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from exp_jax.commands import animate, demo, evaluate, export
from exp_jax.errors import UserError
from exp_jax.media.images import write_image
from exp_jax.media.video import write_video
from tests.test_batches import ROOT, fit  # noqa: F401

HOLDS = """
import sys
from exp_jax.files.locks import only_one
with only_one(sys.argv[1], folder=sys.argv[2] == 'folder'):
  print('ready', flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def hold():
  """Starts a process that writes an output until the end of the test."""
  running = []

  def start(path, kind):
    process = subprocess.Popen(
      [sys.executable, '-c', HOLDS, str(path), kind],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env=os.environ | {'PYTHONPATH': str(ROOT)},
    )
    process.stdout.readline()
    running.append(process)
    return process

  yield start
  for process in running:
    process.kill()
    process.wait()


@pytest.fixture
def here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  write_image('me.png', np.zeros((16, 18, 3), np.uint8))
  for name in ('clips/d.mp4', 'd.mp4'):
    write_video(name, np.zeros((3, 16, 18, 3), np.uint8), 10)
  return tmp_path


@pytest.mark.parametrize(
  'command, arguments, output, kind',
  [
    (animate, ['-s', 'me.png', '-d', 'd.mp4', '-o', 'out/a.mp4'], 'out/a.mp4', 'file'),
    (animate, ['-s', 'me.png', '-d', 'clips', '-o', 'out'], 'out', 'folder'),
    (demo, ['-o', 'out', '--portrait', 'me.png', '--driving', 'd.mp4'], 'out', 'folder'),
    (export, ['--workdir', 'run', '-o', 'out/e'], 'out/e', 'file'),
    (
      evaluate,
      [
        '--protocol',
        'all-self',
        '--result',
        'clips',
        '--truth',
        'clips',
        '-o',
        'out',
        '--no_landmarks',
      ],
      'out',
      'folder',
    ),
  ],
  ids=lambda value: getattr(value, '__name__', None),
)
def test_the_second_says_so(here, hold, command, arguments, output, kind, capsys):
  hold(here / output, kind)
  before = sorted(here.rglob('*'))
  with pytest.raises(SystemExit) as ended:
    command.main(arguments)
  said = capsys.readouterr().err
  assert ended.value.code == 2 and 'another run writes' in said and said.count('error:') == 1
  assert sorted(here.rglob('*')) == before


def test_fit(fit, hold, tmp_path):  # noqa: F811
  process = hold(tmp_path / 'out' / 'bob.npz', 'file')
  with pytest.raises(UserError, match='another run writes .*bob.npz'):
    fit('save_subject', ValueError())
  assert not list((tmp_path / 'out').glob('*.npz'))
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert fit('save_subject', ValueError()) == (['bad'], ['ann', 'bob'])
  assert not [path for path in (tmp_path / 'out').iterdir() if path.name.endswith('.lock')]
