"""Studios with a stand-in worker, and small files to hand over."""

import asyncio

import numpy as np
import pytest

from exp_jax.media.images import write_image
from exp_jax.media.video import write_video
from exp_jax.studio.manager import Studio
from exp_jax.studio.settings import Settings
from tests.studio.stand_in import COMMAND


async def _chunks(content):
  for at in range(0, len(content), 1000):
    yield content[at:at + 1000]


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
  return {'portrait': hand_over(studio, files / 'me.png').id, 'driving': hand_over(studio, files / 'clip.mp4').id}
