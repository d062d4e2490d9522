"""How long a second portrait takes in a server that is warm, as a share of the first.

  python benchmarks/second_portrait.py [--frames 24] [--size 256]

Two servers (`exp-jax serve`) are started one after the other, the first with an empty folder of
compiled programs, the second with what that one left. Each is given three portraits by one driver:
scikit-image's astronaut and two synthetic actors, driven by a third. Seconds are those of a client,
from the order to the finished video. Leaves docs/results/figures/second_portrait.json.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

import skimage.data
from record import Column, write_record

from exp_jax.media.images import write_image
from exp_jax.media.video import read_video

ROOT = pathlib.Path(__file__).parents[1]
STAGES = ('track', 'portrait', 'draw')
COLUMNS = [
  Column('programs', 'compiled programs'),
  Column('portrait_number', 'portrait'),
  Column('seconds', 'in all', 's', 1),
  Column('share', 'of the first', '', 2),
  *(Column(f'{name}_seconds', name, 's', 1) for name in STAGES),
]


def make_inputs(folder: pathlib.Path, frames: int) -> tuple[list[pathlib.Path], pathlib.Path]:
  """Three portraits and a driver."""
  actors = ['--num', '3', '--frames', str(frames), '--size', '384', '--fps', '24', '--seed', '359']
  subprocess.run(
    [sys.executable, '-m', 'exp_jax.actors', '-o', folder / 'cast', *actors],
    check=True,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )
  clips = sorted((folder / 'cast' / 'clips').glob('*.mp4'))
  pictures = [skimage.data.astronaut(), *(read_video(clip).frames[0] for clip in clips[1:])]
  portraits = [folder / f'portrait_{number}.png' for number in range(len(pictures))]
  for path, picture in zip(portraits, pictures):
    write_image(path, picture)
  return portraits, clips[0]


@contextlib.contextmanager
def server(folder: pathlib.Path, compiled: pathlib.Path):
  """The address of a server's interface."""
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'EXP_JAX_COMPILED': str(compiled)}
  command = [sys.executable, '-m', 'exp_jax', 'serve', '--port', '0', '--folder', str(folder)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
    try:
      yield re.search(r'http://\S+', process.stdout.readline())[0] + '/api'
    finally:
      process.terminate()


def asked(address: str, body: bytes | None = None, kind: str = 'application/json') -> dict:
  """The answer to a request."""
  request = urllib.request.Request(address, body, {'Content-Type': kind})
  with urllib.request.urlopen(request) as answer:
    return json.loads(answer.read())


def upload(address: str, path: pathlib.Path) -> str:
  """The id of a file that is handed over."""
  binary = 'application/octet-stream'
  return asked(f'{address}/uploads?name={path.name}', path.read_bytes(), binary)['id']


def measure(address: str, portrait: str, driving: str, size: int) -> dict:
  """Seconds of one job, in all and by stage."""
  started = time.perf_counter()
  wanted = {'portrait': portrait, 'driving': driving, 'engine': 'proxy', 'options': {'size': size}}
  job = asked(f'{address}/jobs', json.dumps(wanted).encode())['id']
  while (now := asked(f'{address}/jobs/{job}'))['state'] in ('queued', 'running'):
    time.sleep(0.1)
  seconds = time.perf_counter() - started
  if now['state'] != 'done':
    sys.exit(f'a job ended as {now["state"]}: {now["words"]}')
  spent = asked(f'{address}/jobs/{job}/results/record')['seconds']
  return {'seconds': seconds} | {f'{name}_seconds': spent[name] for name in STAGES}


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--frames', type=int, default=24)
  parser.add_argument('--size', type=int, default=256)
  args = parser.parse_args()
  before, rows = os.getloadavg()[0], []
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    portraits, driver = make_inputs(folder, args.frames)
    for programs in ('none before', 'of the first server'):
      with server(folder / programs, folder / 'compiled') as address:
        driving, first = upload(address, driver), None
        for number, portrait in enumerate(portraits, 1):
          row = measure(address, upload(address, portrait), driving, args.size)
          first = first or row['seconds']
          rows.append(
            {'programs': programs, 'portrait_number': number, 'share': row['seconds'] / first} | row
          )
          shown = {key: round(v, 2) if isinstance(v, float) else v for key, v in rows[-1].items()}
          print(shown, flush=True)
  print(write_record('second_portrait', COLUMNS, rows, load=(before, os.getloadavg()[0])))


if __name__ == '__main__':
  main()
