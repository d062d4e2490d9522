"""How often the invisible mark is found, and how often it is seen where there is none.

  python benchmarks/provenance.py -o out/provenance [--videos 200] [--frames 24] [--size 512] [--clips FOLDER]

Each video is a photograph that scikit-image carries (or a clip of FOLDER), cut and enlarged at
random, its middle moving over a still background, with a sensor's noise. It is marked with a random
identity, written as the program writes it (x264, CRF 16), cropped by a tenth of each side at a
random place, and encoded again at CRF 28; another copy is scaled to three quarters at CRF 23. The
same video without a mark goes the same way. Leaves scores.json with command, commit and versions.
"""

import argparse
import io
import json
import pathlib
import subprocess
import sys
import time

import av
import numpy as np
from skimage import data

from exp_jax import __version__
from exp_jax.errors import UserError, exits_cleanly
from exp_jax.files.atomic import write_text
from exp_jax.media.images import resize
from exp_jax.media.video import read_frames
from exp_jax.provenance.mark import SCALES, find, marked, tile

PHOTOS = (
  'astronaut',
  'chelsea',
  'coffee',
  'rocket',
  'retina',
  'hubble_deep_field',
  'immunohistochemistry',
)


def photographs() -> list[np.ndarray]:
  """What scikit-image carries without a download, uint8 [H, W, 3]."""
  found = []
  for name in PHOTOS:
    try:
      found.append(np.asarray(getattr(data, name)())[..., :3])
    except (OSError, ModuleNotFoundError):  # those that would be fetched
      continue
  return found


def video_of(photo: np.ndarray, rng: np.random.Generator, frames: int, size: int) -> np.ndarray:
  """uint8 [T, S, S, 3] of a random part of a photograph, its middle moving."""
  side = int(rng.uniform(0.4, 1) * min(photo.shape[:2]))
  top, left = (int(rng.integers(0, n - side + 1)) for n in photo.shape[:2])
  still = resize(np.ascontiguousarray(photo[top : top + side, left : left + side]), (size, size))
  quarter, noise = size // 4, rng.uniform(0, 3)
  clip, speed = [], rng.uniform(-1.5, 1.5, 2)
  for t in range(frames):
    dy, dx = (int(round(np.clip(s * 6 * np.sin(t / 4), -quarter + 1, quarter - 1))) for s in speed)
    frame = still.copy()
    frame[quarter + dy : 3 * quarter + dy, quarter + dx : 3 * quarter + dx] = still[
      quarter : 3 * quarter, quarter : 3 * quarter
    ]
    clip.append(
      np.uint8(np.clip(frame + noise * rng.standard_normal(frame.shape[:2])[..., None], 0, 255))
    )
  return np.stack(clip)


def encoded(frames, crf: int) -> list[np.ndarray]:
  """The frames as a decoder gives them after x264."""
  memory = io.BytesIO()
  with av.open(memory, 'w', format='mp4') as output:
    stream = output.add_stream('libx264', rate=25, options={'crf': str(crf), 'preset': 'medium'})
    stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], 'yuv420p'
    for frame in frames:
      output.mux(
        stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format='rgb24'))
      )
    output.mux(stream.encode(None))
  memory.seek(0)
  with av.open(memory) as source:
    return [frame.to_ndarray(format='rgb24') for frame in source.decode(video=0)]


def spread(frames, rng: np.random.Generator) -> list[np.ndarray]:
  """As it is passed on: written, cropped by a tenth, encoded again at CRF 28."""
  size = frames[0].shape[0]
  kept = size * 9 // 10 // 2 * 2
  top, left = rng.integers(0, size - kept + 1, 2)
  return encoded([frame[top : top + kept, left : left + kept] for frame in encoded(frames, 16)], 28)


def outcome(found, identity: str) -> str:
  return 'missed' if found is None else 'found' if found.identity == identity else 'wrong identity'


@exits_cleanly
def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True)
  parser.add_argument('--videos', type=int, default=200)
  parser.add_argument('--frames', type=int, default=24)
  parser.add_argument('--size', type=int, default=512)
  parser.add_argument(
    '--clips', type=pathlib.Path, help='a folder of mp4 files instead of photographs'
  )
  options = parser.parse_args()
  sources = sorted(options.clips.glob('*.mp4')) if options.clips else photographs()
  if not sources:
    raise UserError(f'no mp4 files in {str(options.clips)!r}')
  counts = {
    kind: {}
    for kind in ('CRF 28 and crop', 'three quarters at CRF 23', 'unmarked', 'unmarked, all scales')
  }
  psnrs, seconds = [], []
  for number in range(options.videos):
    rng = np.random.default_rng(number)
    source, identity = sources[number % len(sources)], f'{rng.integers(0, 2**24):06x}'
    photo = source if not options.clips else next(iter(read_frames(source)))[0]
    frames = video_of(photo, rng, options.frames, options.size)
    square, begun = tile(identity), time.perf_counter()
    with_mark = [marked(frame, square) for frame in frames]
    seconds.append((time.perf_counter() - begun) / len(frames))
    psnrs.append(10 * np.log10(255**2 / np.mean((np.float32(with_mark) - frames) ** 2)))
    three = options.size * 3 // 4 // 2 * 2
    plain = spread(frames, rng)
    smaller = encoded([resize(frame, (three, three)) for frame in with_mark], 23)
    for kind, what in (
      ('CRF 28 and crop', outcome(find(spread(with_mark, rng)), identity)),
      ('three quarters at CRF 23', outcome(find(smaller, SCALES), identity)),
      ('unmarked', 'false alarm' if find(plain) else 'none'),
      ('unmarked, all scales', 'false alarm' if find(plain, SCALES) else 'none'),
    ):
      counts[kind][what] = counts[kind].get(what, 0) + 1
    if (number + 1) % 10 == 0:
      print(number + 1, counts, flush=True)
  git = subprocess.run(
    ['git', 'rev-parse', 'HEAD'],
    capture_output=True,
    text=True,
    check=False,
    cwd=pathlib.Path(__file__).parent,
  )
  told = {
    'command': ['python', 'benchmarks/provenance.py', *sys.argv[1:]],
    'commit': git.stdout.strip(),
    'versions': {'exp_jax': __version__, 'av': av.__version__},
    'counts': counts,
    'psnr': float(np.mean(psnrs)),
    'least_psnr': float(np.min(psnrs)),
    'milliseconds_a_frame': 1000 * float(np.median(seconds)),
  }
  options.output.mkdir(parents=True, exist_ok=True)
  write_text(options.output / 'scores.json', json.dumps(told, indent=1) + '\n')
  print(json.dumps({k: v for k, v in told.items() if k != 'command'}, indent=1))


if __name__ == '__main__':
  main()
