"""Whoever is killed, by himself or for want of memory, at any moment of writing leaves nothing
under the name that he writes."""

import os
import subprocess
import sys

import pytest

from tests.small_process import ROOT

# Children of the process kill themselves when they open, rename or make something for the n-th
# time, each in a folder of its own; the first is not killed and tells how often that happens.
CHILD = """
import os, pathlib, signal, sys
import numpy as np
root, folder = pathlib.Path(sys.argv[1]), None
pixels = np.random.default_rng(0).integers(0, 255, (3, 24, 32, 3), np.uint8)

def image():
  from exp_jax.media.images import write_image
  return lambda: write_image(folder / 'a.png', pixels[0])

def video():
  from exp_jax.media.video import write_video
  def frames():
    for frame in pixels:
      yield frame
      os.stat(folder)
  return lambda: write_video(folder / 'a.mp4', frames(), 10)

def text():
  from exp_jax.files.atomic import write_text
  return lambda: write_text(folder / 'a.json', '{"a": 1}')

def arrays():
  from exp_jax.files.npz import write_npz
  return lambda: write_npz(folder / 'a.npz', {'a': pixels})

def records():
  from exp_jax.files.array_records import write_packed
  return lambda: write_packed(folder / 'a.array_record', [b'one', b'two'])

def export():
  from exp_jax.files import manifest
  from exp_jax.files.safetensors import write_safetensors
  def write():
    with manifest.new_folder(folder / 'a') as place:
      write_safetensors(place / 'params.safetensors', {'a': pixels})
      (place / 'config.json').write_text('{}')
  return write

def figure():
  import matplotlib
  matplotlib.use('Agg')
  from exp_jax.systems.expportrait.transfer.transfer_scores import METHODS, Pair, plot_age_gap
  pairs = [Pair(0, 1, 0.1, age, dict.fromkeys(METHODS, 1.0), dict.fromkeys(METHODS, 2.0), 1.0, 1.0)
           for age in (0.1, 0.5, 0.9)]
  return lambda: plot_age_gap(pairs, folder / 'a.png')

def stand_in():
  from exp_jax.convert import stand_in
  small = {'v_template': pixels}
  stand_in.smplx_model = lambda **_: small
  stand_in.flame_model = lambda **_: (small, small, small)
  return lambda: (stand_in.write_smplx(folder), stand_in.write_flame(folder))

write = globals()[sys.argv[2]]()

def child(name, moment):
  global folder
  folder, count = root / name, 0
  folder.mkdir()
  def hook(event, args):
    nonlocal count
    if event in ('open', 'os.rename', 'os.mkdir') and isinstance(args[0], (str, os.PathLike)):
      count += os.fspath(args[0]).startswith(str(folder))
      if count == moment:
        os.kill(os.getpid(), signal.SIGKILL)
  number = os.fork()
  if number == 0:
    sys.addaudithook(hook)
    write()
    (root / 'moments').write_text(str(count))
    os._exit(0)
  return os.waitpid(number, 0)[1]

assert child('whole', -1) == 0
count = int((root / 'moments').read_text())
for moment in {1, 2, count // 2, count - 1, count}:
  assert child(str(moment), moment) == signal.SIGKILL, moment
"""
KINDS = ('image', 'video', 'text', 'arrays', 'records', 'export', 'figure', 'stand_in')


def contents(folder) -> dict[str, int]:
  return {
    str(path.relative_to(folder)): path.stat().st_size
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


@pytest.mark.parametrize('kind', KINDS)
def test_nothing_half_made_stands_under_a_name_that_was_free(tmp_path, kind):
  done = subprocess.run(
    [sys.executable, '-W', 'ignore', '-c', CHILD, str(tmp_path), kind],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
  )
  assert done.returncode == 0, done.stderr
  whole, killed = (
    contents(tmp_path / 'whole'),
    [path for path in tmp_path.iterdir() if path.name.isdecimal()],
  )
  assert whole and len(killed) >= 2
  for folder in killed:
    for name, size in contents(folder).items():
      assert name.startswith('.') or size == whole[name], (
        f'{name} is half-made after a kill at moment {folder.name}'
      )
