"""Studios with a stand-in worker, and small files to hand over."""

import asyncio
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from exp_jax.media.images import write_image
from exp_jax.media.video import write_video
from exp_jax.studio.manager import Studio
from exp_jax.studio.settings import Settings
from exp_jax.training.metrics_log import MetricsLog
from tests.studio.browser import ROOT, SERVER, Reader
from tests.studio.stand_in import COMMAND


async def _chunks(content):
  for at in range(0, len(content), 1000):
    yield content[at : at + 1000]


def hand_over(studio, path, name=None):
  """The upload of a file."""
  return asyncio.run(studio.uploads.add(name or path.name, _chunks(path.read_bytes())))


@pytest.fixture(scope='session')
def files(tmp_path_factory):
  """A folder with me.png and clip.mp4."""
  folder = tmp_path_factory.mktemp('files')
  pixels = np.random.default_rng(0).integers(0, 255, (6, 32, 48, 3), np.uint8)
  write_image(folder / 'me.png', pixels[0])
  write_video(folder / 'clip.mp4', pixels, 10)
  return folder


@pytest.fixture
def open_studio(tmp_path):
  """Opens studios on one folder; keywords are settings."""
  opened = []

  def make(**settings):
    loading = {'proxy': {'export': None}, 'dit': {'slow': True}}
    studio = Studio(Settings(folder=tmp_path / 'studio', **settings), loading, command=COMMAND)
    opened.append(studio)
    return studio.__enter__()

  yield make
  for studio in opened:
    studio.__exit__()


@pytest.fixture
def studio(open_studio):
  return open_studio(patience=0.5)


@pytest.fixture
def pair(studio, files):
  """The uploads of a portrait and a clip."""
  return {
    'portrait': hand_over(studio, files / 'me.png').id,
    'driving': hand_over(studio, files / 'clip.mp4').id,
  }


@pytest.fixture(scope='module')
def address(tmp_path_factory):
  """Where the page is; its server knows one training run, called small."""
  runs = tmp_path_factory.mktemp('runs')
  draw = {
    'picture': lambda path, x: write_image(path.with_suffix('.png'), (255 * x).astype(np.uint8))
  }
  log = MetricsLog(runs / 'small', 40, draw=draw)
  log.start(0)
  for step in range(1, 41):
    log.write(
      step,
      {
        'loss': 3 / step,
        'grad_norm': 1 + 0.1 * (step % 5),
        'step_seconds': 0.5,
        'data_seconds': 0.05,
      },
    )
  picture = np.stack(np.broadcast_arrays(*np.ogrid[:1:48j, :1:64j], 0.4), -1)
  log.write(40, {'psnr': 21.5, 'frames': picture}, kind='eval')
  log.close()
  with subprocess.Popen(
    [
      sys.executable,
      '-c',
      SERVER,
      '--port',
      '0',
      '--folder',
      tmp_path_factory.mktemp('studio') / 's',
      '--runs',
      runs,
      '--load',
      'liveportrait.random_weights=tiny',
    ],
    stdout=subprocess.PIPE,
    text=True,
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'EXP_JAX_COMPILED': 'none'},
  ) as process:
    yield re.search(r'http://\S+', process.stdout.readline())[0]
    process.terminate()


@pytest.fixture(scope='module')
def media(tmp_path_factory):
  folder = tmp_path_factory.mktemp('media')
  rows, columns = np.mgrid[:240, :320]
  pixels = np.stack([columns * 0.7, rows * 0.9, 80 + 0 * rows], -1).astype(np.uint8)
  write_image(folder / 'me.png', pixels)
  write_video(folder / 'clip.mp4', np.repeat(pixels[None, :, :240], 5, 0), 10)
  (folder / 'postscript.jpg').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n')
  (folder / '<img src=x onerror=alert(1)>.png').write_bytes(b'no picture')
  return folder


@pytest.fixture
def reader(address, tmp_path):
  opened = []

  def open_one(**size):
    opened.append(Reader(address, tmp_path / f'profile{len(opened)}', **size))
    return opened[-1]

  yield open_one
  for each in opened:
    each.browser.quit()
