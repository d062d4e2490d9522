"""What training records take: bytes on disk, milliseconds to read and to parse, and readers side by
side.

  python benchmarks/records.py [-o records.json] [--size 512 --frames 49 --references 4 --clip_tokens]

A 49-frame window of a talking actor at 512 pixels with its control maps, codes and references, as
`encode` stores it, beside the same window as it was stored before (an uncompressed npz of pixels,
codes and one reference, read under a lock). Codes are
random numbers: no compressor gains on them. Prints a table and JSON; ends with 1 above 25 MB or 100
ms of one core.
"""

import argparse
import concurrent.futures
import io
import json
import os
import pathlib
import sys
import tempfile
import threading
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from exp_jax.actors.__main__ import main as make_actors  # noqa: E402
from exp_jax.controls.maps import control_maps, full_offsets, own_motion  # noqa: E402
from exp_jax.data.sources import PortraitClips, from_bytes, to_bytes, write_records  # noqa: E402
from exp_jax.errors import exits_cleanly  # noqa: E402
from exp_jax.heads.densify import densify  # noqa: E402
from exp_jax.heads.head_files import load_head  # noqa: E402
from exp_jax.heads.personalized import load_subject  # noqa: E402
from exp_jax.media.images import resize  # noqa: E402
from exp_jax.media.video import read_video  # noqa: E402

REPEATS = 7  # the fastest counts: others may use the machine
LARGEST_MB, SLOWEST_MS = 25.0, 100.0


def fastest(action, clock=time.perf_counter) -> float:
  """Milliseconds of `action` by a clock, the least of several."""
  times = []
  for _ in range(REPEATS):
    began = clock()
    action()
    times.append(clock() - began)
  return 1e3 * min(times)


def processor_ms(action) -> float:
  """Milliseconds of one core that `action` takes in this thread; others on the machine do not
  count."""
  return fastest(action, time.thread_time)


def actor(folder: pathlib.Path, frames: int, size: int) -> tuple[np.ndarray, np.ndarray]:
  """(frames, control maps) uint8 [T, size, size, 3] of one synthetic person."""
  make_actors(
    ['-o', str(folder), '--num', '1', '--frames', str(frames), '--size', '256', '--seed', '7']
  )
  subject = load_subject(next((folder / 'truth').glob('*.npz')))
  head = load_head('makehuman')
  normals = control_maps(
    head,
    densify(head, subject.levels),
    subject,
    own_motion(subject),
    full_offsets(subject),
    size=size,
  )
  video = read_video(next((folder / 'clips').glob('*.mp4'))).frames
  return np.stack([resize(frame, (size, size)) for frame in video]), normals


def window_record(video, normals, references: int, clip_tokens: bool) -> dict:
  """As `encode` makes it, with random codes of Wan's form."""
  rng, N, size = np.random.default_rng(0), len(normals), normals.shape[1]
  codes = lambda *lead: rng.normal(size=(*lead, (N - 1) // 4 + 1, size // 8, size // 8, 16)).astype(
    np.float16
  )
  picked = np.linspace(0, N - 1, references).astype(int)
  record = dict(
    clip_id='actor',
    subject_id='actor',
    window=np.array([0, 1, 2, 0], np.int32),
    normals=normals,
    latents=codes(),
    offsets='full',
    valid=np.full(codes().shape[:3], 255, np.uint8),
    turns=np.zeros((N, 3), np.float32),
    references=video[picked],
    weights='{}',
    references_normals=normals[picked],
    references_turns=np.zeros((references, 3), np.float32),
    references_latents=codes(references),
  )
  if clip_tokens:
    record['references_clip'] = rng.normal(size=(references, 257, 1280)).astype(np.float16)
  return record


def as_before(record: dict, video) -> bytes:
  """The bytes of the same window in the form that records had: npz, with pixels, mattes and one
  reference."""
  buffer = io.BytesIO()
  np.savez(
    buffer,
    video=video,
    normals=record['normals'],
    matte=record['normals'][..., 0],
    reference=video[0],
    reference_normals=record['normals'][0],
    latents=record['latents'],
    reference_latents=record['references_latents'][0],
  )
  return buffer.getvalue()


_LOCK = threading.Lock()


def parse_as_before(data: bytes) -> dict:
  """One reader at a time, as it had to be."""
  with _LOCK, np.load(io.BytesIO(data), allow_pickle=False) as arrays:
    return {name: arrays[name] for name in arrays.files}


def side_by_side(action, readers: int, count: int = 16) -> float:
  """Milliseconds a record when `readers` threads read `count` of them."""
  with concurrent.futures.ThreadPoolExecutor(readers) as pool:
    return fastest(lambda: list(pool.map(lambda _: action(), range(count)))) / count


@exits_cleanly
def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('-o', '--output', type=pathlib.Path, help='JSON')
  parser.add_argument(
    '--clip_tokens',
    action='store_true',
    help='with CLIP tokens of every reference, as 14B modes need them',
  )
  for name, value in dict(size=512, frames=49, references=4, readers=2).items():
    parser.add_argument(f'--{name}', type=int, default=value)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    video, normals = actor(folder, args.frames, args.size)
    record = window_record(video, normals, args.references, args.clip_tokens)
    write_records(folder / 'r.array_record', [record])
    source, data, before = (
      PortraitClips(str(folder / 'r.array_record')),
      to_bytes(record),
      as_before(record, video),
    )
    parse, old = (lambda: from_bytes(data)), (lambda: parse_as_before(before))
    result = dict(
      megabytes=os.path.getsize(folder / 'r.array_record') / 1e6,
      megabytes_before=len(before) / 1e6,
      maps_megabytes=len(to_bytes(record)) / 1e6
      - len(to_bytes(record | {'normals': np.zeros_like(normals)})) / 1e6,
      read_ms=fastest(lambda: source.packed(0)),
      parse_ms=processor_ms(parse),
      parse_ms_before=processor_ms(old),
      parse_ms_by_threads=side_by_side(parse, args.readers),
      parse_ms_by_threads_before=side_by_side(old, args.readers),
      readers=args.readers,
      cores=os.cpu_count(),
    )
  for key, value in result.items():
    print(f'{key:28s} {value:10.4g}')
  print(json.dumps(result))
  if args.output:
    args.output.write_text(json.dumps(result, indent=1) + '\n')
  return 0 if result['megabytes'] <= LARGEST_MB and result['parse_ms'] <= SLOWEST_MS else 1


if __name__ == '__main__':
  sys.exit(main())
