"""Frames per second of each stage of `animate`, and its peak memory for a short and a long driver.

  python benchmarks/animate.py [--frames 60 600] [--engines proxy dit] [-o out/benchmark_animate]

The portrait is scikit-image's astronaut, the driver a synthetic actor whose 60 frames of 384 pixels
run to and fro. Every run is a process of its own; seconds are those of its record, compilation
included, memory is the process's peak (and its estimator's apart). Prints a table and leaves it as
figures.json.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import skimage.data

from exp_jax.media.images import write_image
from exp_jax.media.video import read_video, write_video

ROOT = pathlib.Path(__file__).parents[1]


def make_inputs(out: pathlib.Path, longest: int) -> list[np.ndarray]:
  """The portrait, and the frames of the actor to and fro."""
  write_image(out / 'portrait.png', skimage.data.astronaut())
  environment = os.environ | {'PYTHONPATH': f'{ROOT}'}
  actor = ['--num', '1', '--frames', '60', '--size', '384', '--fps', '24', '--seed', '359']
  subprocess.run(
    [sys.executable, '-m', 'exp_jax.actors', '-o', out / 'actor', *actor],
    check=True,
    env=environment,
  )
  frames = read_video(out / 'actor' / 'clips' / 'actor_00000.mp4').frames
  there = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
  return [frames[there[i % len(there)]] for i in range(longest)]


_MEASURED = """
import json, resource, sys
from exp_jax.commands.animate import main
status = main(sys.argv[1:])
peak = lambda who: resource.getrusage(who).ru_maxrss / 1024
print(json.dumps({'mb': peak(resource.RUSAGE_SELF), 'estimator_mb': peak(resource.RUSAGE_CHILDREN)}))
"""


def run(out: pathlib.Path, engine: str, count: int) -> dict:
  """One run; its row of the table."""
  result = out / f'{engine}_{count}.mp4'
  inputs = [
    '-s',
    f'{out / "portrait.png"}',
    '-d',
    f'{out / f"driver_{count}.mp4"}',
    '-o',
    f'{result}',
    '--engine',
    engine,
  ]
  environment = os.environ | {'PYTHONPATH': f'{ROOT}'}
  done = subprocess.run(
    [sys.executable, '-c', _MEASURED, *inputs], env=environment, capture_output=True, text=True
  )
  if done.returncode:
    sys.exit(f'{engine}, {count} frames: {done.stderr[-500:]}')
  seconds = json.loads(result.with_suffix('.json').read_text())['seconds']
  return {
    'engine': engine,
    'frames': count,
    'track_fps': count / seconds['track'],
    'portrait_seconds': seconds['portrait'],
    'draw_fps': count / seconds['draw'],
  } | json.loads(done.stdout.splitlines()[-1])


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '-o', '--output', type=pathlib.Path, default=pathlib.Path('out/benchmark_animate')
  )
  parser.add_argument('--frames', type=int, nargs='+', default=[60, 600])
  parser.add_argument('--engines', nargs='+', default=['proxy', 'dit'])
  args = parser.parse_args()
  out = args.output.absolute()
  frames = make_inputs(out, max(args.frames))
  rows = []
  print(
    '| engine | frames | track, frames/s | portrait, s | draw, frames/s | peak MB | estimator MB '
    '|\n' + '|---' * 7 + '|'
  )
  for count in args.frames:
    write_video(out / f'driver_{count}.mp4', frames[:count], 24)
    for engine in args.engines:
      rows.append(row := run(out, engine, count))
      print(
        '| {engine} | {frames} | {track_fps:.1f} | {portrait_seconds:.0f} | {draw_fps:.1f} | '
        '{mb:.0f} | {estimator_mb:.0f} |'.format(**row),
        flush=True,
      )
  (out / 'figures.json').write_text(json.dumps(rows, indent=1) + '\n')


if __name__ == '__main__':
  main()
