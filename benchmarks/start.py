"""What a user waits for: the first video after set-up, the next start, a clip of another length, and
the next portrait of a process that is warm; how many programs each of them compiles.

  python benchmarks/start.py [--frames 60] [--other 90]

The portrait is scikit-image's astronaut, 512 pixels, the next one its mirror image; the driver a
synthetic actor of 384 pixels. Set-up compiles into an empty folder, all others start from there.
Seconds of the clock hold for an idle machine, those of the processor (all threads, the landmark
estimator included) for any. Leaves docs/results/figures/start.json.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import skimage.data
from animate import make_inputs
from record import Column, write_record

from exp_jax.media.images import write_image
from exp_jax.media.video import write_video

ROOT = pathlib.Path(__file__).parents[1]
COLUMNS = [
  Column('case', 'what'),
  Column('clock', 'clock', 's', 1),
  Column('processor', 'processor', 's', 1),
  Column('compiled', 'programs compiled'),
  Column('taken', 'taken from the folder'),
]
_COUNTED = """
import json, resource, sys, time
import jax
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition('/')[2]))
def spent():
  who = (resource.getrusage(each) for each in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
  return sum(each.ru_utime + each.ru_stime for each in who)
def tell(clock, processor):
  counts = {'compiled': events.count('cache_misses'), 'taken': events.count('cache_hits')}
  print(json.dumps({'clock': time.perf_counter() - clock, 'processor': spent() - processor} | counts))
"""
_COMMAND = """
clock = time.perf_counter()
from exp_jax.commands.%s import main
status = main(sys.argv[1:])
tell(clock, 0.0)
sys.exit(status)
"""
_SAME_PROCESS = """
from exp_jax.errors import exits_cleanly
@exits_cleanly
def main():
  import exp_jax
  first, other, clip, output = sys.argv[1:]
  with exp_jax.load('expportrait') as model:
    model.animate(first, clip).save(output)
    events.clear()
    clock, processor = time.perf_counter(), spent()
    model.animate(other, clip).save(output)
    tell(clock, processor)
main()
"""


def measured(script: str, arguments: list, folder: pathlib.Path) -> dict:
  """Figures of a process of its own."""
  done = subprocess.run(
    [sys.executable, '-c', _COUNTED + script, *map(str, arguments)],
    env=os.environ | {'PYTHONPATH': str(ROOT), 'EXP_JAX_COMPILED': str(folder)},
    capture_output=True,
    text=True,
  )
  if done.returncode:
    sys.exit(f'{arguments}: {done.stderr[-800:]}')
  return json.loads(done.stdout.splitlines()[-1])


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--frames', type=int, default=60)
  parser.add_argument('--other', type=int, default=90, help='frames of the clip of another length')
  args = parser.parse_args()
  before = os.getloadavg()[0]
  with tempfile.TemporaryDirectory() as name:
    out = pathlib.Path(name)
    frames = make_inputs(out, max(args.frames, args.other))
    write_image(out / 'mirrored.png', np.ascontiguousarray(skimage.data.astronaut()[:, ::-1]))
    for count in (args.frames, args.other):
      write_video(out / f'driver_{count}.mp4', frames[:count], 24)
    inputs = lambda count: [
      *('-s', out / 'portrait.png', '-d', out / f'driver_{count}.mp4', '-o', out / f'{count}.mp4')
    ]
    animate = _COMMAND % 'animate'
    pair = [out / 'portrait.png', out / 'mirrored.png', out / f'driver_{args.frames}.mp4']
    cases = (
      ("set-up's programs", _COMMAND % 'setup', []),
      ('first video', animate, inputs(args.frames)),
      ('the same, next process', animate, inputs(args.frames)),
      (f'a clip of {args.other} frames', animate, inputs(args.other)),
      ('next portrait, same process', _SAME_PROCESS, [*pair, out / 'again.mp4']),
    )
    rows = []
    for case, script, arguments in cases:
      rows.append(row := {'case': case} | measured(script, arguments, out / 'compiled'))
      print(row, flush=True)
  write_record('start', COLUMNS, rows, load=(before, os.getloadavg()[0]))


if __name__ == '__main__':
  main()
