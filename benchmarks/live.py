"""Frames a second of a portrait that follows a camera, by view and size, and where the time of a
frame goes.

  python benchmarks/live.py [--frames 60] [--sizes 256 512]

The portrait is scikit-image's astronaut, the camera a synthetic actor of 384 pixels. Frames are fed
as fast as they are taken; the first two, whose programs are compiled, are left out of the rate and
shown apart. Leaves docs/results/figures/live.json.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import skimage.data
from record import Column, write_record

import exp_jax
from exp_jax.files.programs.compiled import keep_compiled
from exp_jax.media.video import read_video

ROOT = pathlib.Path(__file__).parents[1]
STEPS = ('landmarks', 'fit', 'draw')
COLUMNS = [
  Column('view', 'what is drawn'),
  Column('size', 'size', 'pixels'),
  Column('rate', 'frames a second', '', 1),
  *(Column(name, name, 'ms', 0) for name in STEPS),
  Column('slow', 'first two frames', 's', 1),
]


def camera(folder: pathlib.Path, frames: int):
  """uint8 [T, 384, 384, 3] of an actor."""
  actor = ['--num', '1', '--frames', str(frames), '--size', '384', '--fps', '24', '--seed', '359']
  subprocess.run(
    [sys.executable, '-m', 'exp_jax.actors', '-o', folder / 'actor', *actor],
    check=True,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )
  return read_video(folder / 'actor' / 'clips' / 'actor_00000.mp4').frames


def measure(model, frames, view: str, size: int) -> dict:
  """One row."""
  session = model.live(skimage.data.astronaut(), options=model.Options(size=size), view=view)
  started = time.perf_counter()
  for frame in frames[:2]:
    session.feed(frame)
  slow, started = time.perf_counter() - started, time.perf_counter()
  for frame in frames[2:]:
    session.feed(frame)
  rate = (len(frames) - 2) / (time.perf_counter() - started)
  return {'view': view, 'size': size, 'rate': rate, 'slow': slow} | {
    k: 1e3 * v for k, v in session.seconds.items()
  }


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--frames', type=int, default=60)
  parser.add_argument('--sizes', type=int, nargs='+', default=[256, 512])
  args = parser.parse_args()
  keep_compiled()
  before = os.getloadavg()[0]
  with tempfile.TemporaryDirectory() as name, exp_jax.load('expportrait') as model:
    frames = camera(pathlib.Path(name), args.frames)
    rows = [
      measure(model, frames, view, size) for size in args.sizes for view in ('normals', 'preview')
    ]
  print(write_record('live', COLUMNS, rows, load=(before, os.getloadavg()[0])))


if __name__ == '__main__':
  main()
