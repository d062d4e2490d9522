"""A worker whose model draws tiny grey frames at once, and fails as a job's seed says.

Started as a process by the tests.
"""

import dataclasses
import fractions
import io
import json
import os
import pathlib
import signal
import sys
import time
import zipfile

import numpy as np
from PIL import Image

from exp_jax.errors import UserError
from exp_jax.files.atomic import write_text
from exp_jax.media.images import write_image
from exp_jax.performance.animation import Animation, Estimate
from exp_jax.performance.options import SharedOptions
from exp_jax.progress import Watch
from exp_jax.studio import worker

COMMAND = (sys.executable, '-c', 'from tests.studio.stand_in import main; main()')
KILLED, REFUSED, BROKEN, HANGS, SLOW, WARNED, HALF, DRAWS = 101, 102, 103, 104, 105, 106, 107, 108


@dataclasses.dataclass
class StandIn:
  """Does what its options' seed says; every other seed is a job of three frames."""

  name: str = 'stand_in'
  closed: int = 0

  def close(self):
    self.closed += 1

  def estimate(self, driving, *, options):
    return Estimate(3, 3.0, 2.0, 1, 1, False)

  def animate(self, portrait, driving, *, options, progress, cancel, warn):
    watch, seed = Watch(progress, cancel, warn), options.seed
    assert pathlib.Path(portrait).is_file() and pathlib.Path(driving).is_file()
    print('{"report": "failed", "words": "forged by what a library prints"}', flush=True)
    count = 400 if seed == SLOW else 3
    for _ in watch.each_slowly(iter(range(count)), 'track', count):
      time.sleep(0.02 if seed == SLOW else 0)
    if seed == REFUSED:
      raise UserError(f'no face found in {str(portrait)!r}')
    if seed == BROKEN:
      raise KeyError(f'{portrait}')
    if seed == WARNED:
      warn(f'{portrait}: looks to the side')
    if seed == HANGS:  # neither reports nor asks
      watch.tell('hang', 0)
      time.sleep(3600)
    rate = 1 if seed == DRAWS else 10
    return Animation(
      self._frames(seed),
      np.arange(3) / rate,
      fractions.Fraction(rate),
      np.zeros((16, 16, 3), np.uint8),
      {'engine': 'stand_in', 'seed': seed},
      watch=watch,
      write_motion=lambda path: write_text(path, 'motion'),
    )

  def editor(self, portrait, *, options):
    return StandInEditor(options.seed)

  def live(self, portrait, *, options, view):
    return StandInLive(view)

  def _frames(self, seed):
    for number in range(3):
      if seed == DRAWS and number:
        time.sleep(3600)
      if number == 1 and seed in (KILLED, HALF):
        os.kill(os.getpid(), signal.SIGKILL)
      yield np.full((16, 16, 3), 80 * number, np.uint8)


@dataclasses.dataclass
class StandInEditor:
  """Grey as the slider 'yaw' says; dies, or hangs, as the seed says."""

  seed: int
  sliders = {'yaw': (-40.0, 40.0), 'smile': (-1.0, 1.0)}

  def draw(self, values):
    if self.seed == KILLED and values:
      os.kill(os.getpid(), signal.SIGKILL)
    if wrong := set(values) - set(self.sliders):
      raise UserError(f'there is no slider {wrong.pop()!r}')
    return np.full((24, 32, 3), 100 + round(values.get('yaw', 0)), np.uint8)

  def save_motion(self, path, values):
    write_text(path, 'motion')


@dataclasses.dataclass
class StandInLive:
  """Gives back each frame's mean colour."""

  view: str
  fed: int = 0
  seen: int = 0
  rate: float = 0.0
  seconds: dict = dataclasses.field(default_factory=dict)

  def feed(self, frame, *, at):
    if frame.mean() < 1:
      raise UserError('no face found in the first frame of the camera')
    self.fed, self.seen, self.rate, self.seconds = (
      self.fed + 1,
      self.seen + 1,
      5.0,
      {'landmarks': 0.05, 'draw': 0.15},
    )
    return np.full((48, 64, 3), frame.mean((0, 1)), np.uint8)


def run_fit(model, request, options, reports, say, cancel):
  from exp_jax.files.atomic import replacing

  folder = pathlib.Path(request['folder'])
  write_text(folder / 'subject.npz', 'subject')
  with replacing(folder / 'normals.zip') as partial, zipfile.ZipFile(partial, 'w') as archive:
    for kind, red in (('full', 200), ('static', 20)):
      for number in range(3):
        made = io.BytesIO()
        Image.fromarray(np.full((32, 32, 3), (red, 80 * number, 40), np.uint8)).save(made, 'PNG')
        archive.writestr(f'{kind}/{number:04d}.png', made.getvalue())
    archive.writestr('frames.json', json.dumps({'frames': [0, 5, 9], 'all': 10, 'detail': 'full'}))
  return {}


def run_portrait(model, request, options, reports, say, cancel):
  write_text(pathlib.Path(request['folder']) / 'faces.json', '{}')
  write_image(
    pathlib.Path(request['folder']) / 'head.png', np.full((32, 48, 3), (200, 120, 40), np.uint8)
  )
  return {}


def load(engine, loading):
  if loading.get('slow'):
    time.sleep(3600)
  return StandIn()


def main():
  worker.main(
    load=load,
    runs=worker.RUNS | {'portrait': run_portrait, 'fit': run_fit},
    options=lambda engine, given: SharedOptions(seed=given.get('seed', 0)),
  )
