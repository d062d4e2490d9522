"""Footage into records for training: one face per clip, cropped once, with landmarks and head
angles.

  python -m exp_jax liveportrait.prepare clips/*.mp4 photos/*.jpg -o out/faces/train.array_record --size 512

A photograph becomes a clip of one frame. A file that cannot be used is named and left out; the
others go on. Long clips are cut into records of --frames frames, --stride apart. Angles are read
off MediaPipe's mesh (`records.angles_from_mesh`).
"""

import argparse
import pathlib
import sys

import numpy as np
import tqdm

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly, item_failure, one_line
from exp_jax.files.array_records import write_packed
from exp_jax.media.footage import stream_footage
from exp_jax.observe.landmarks import FaceEstimator
from exp_jax.observe.people import check_seen, follow, seen
from exp_jax.systems.liveportrait.crop import cut, mean_square
from exp_jax.systems.liveportrait.networks.landmarks import square_of
from exp_jax.systems.liveportrait.training.records import angles_from_mesh, to_bytes


def face_records(
  path: pathlib.Path, estimator, *, size: int, frames: int, stride: int, least: int = 64
):
  """Yields the records of one file.

  Args:
    size: pixels of the crop, twice the networks' input. frames: of a record. stride: of the frames
      that are taken.
    least: a face whose crop has a smaller side is not worth training on.

  Raises:
    UserError: no face, or one that is too small.
  """
  faces = [
    np.asarray(estimator(frame)[0], np.float64)
    for i, (frame, _) in enumerate(stream_footage(path))
    if i % stride == 0
  ]
  track, _ = follow([f[:, :, :2].astype(np.float32) for f in faces], name=path.name, face=0)
  shown = seen(track)
  check_seen(shown, path.name)
  mesh = np.stack(
    [f[np.abs(f[:, :, :2] - t).sum((1, 2)).argmin()] for f, t, s in zip(faces, track, shown) if s]
  )
  square = mean_square([square_of(points[:, :2] - 0.5) for points in mesh])
  if square.side < least:
    raise UserError(
      f'the face in {path.name} is too small: its crop has {square.side:.0f} pixels, {least} are '
      'wanted'
    )
  matrix = square.matrix(size)
  places = ((mesh[:, :, :2] - 0.5) @ matrix[:2, :2].T + matrix[:2, 2] + 0.5) * 2 / size - 1
  angles, kept, video, done = angles_from_mesh(mesh), 0, [], 0
  for i, (frame, _) in enumerate(stream_footage(path)):
    if i % stride or not shown[i // stride]:
      continue
    video.append(np.clip(np.rint(cut(frame, matrix, size)), 0, 255).astype(np.uint8))
    kept += 1
    if len(video) == frames or kept == shown.sum():
      part = slice(done, done + len(video))
      yield dict(
        video=np.stack(video), landmarks=places[part].astype(np.float32), angles=angles[part]
      )
      done, video = done + len(video), []


def write_face_records(paths, output: pathlib.Path, estimator, **options) -> tuple[int, list[str]]:
  """Writes an ArrayRecord file, whole or not at all; returns how many records, and a sentence for
  every file left out.

  Raises:
    UserError: nothing could be used.
  """
  complaints = []

  def packed():
    empty = True
    for path in tqdm.tqdm(paths, unit='file', desc='prepare'):
      try:
        for record in face_records(path, estimator, **options):
          empty = False
          yield to_bytes(record)
      except Exception as error:  # the file's failure, whatever a library raises; the others go on
        complaints.append(item_failure(path.name, error))
    if empty:
      raise UserError(
        f'none of {len(paths)} files could be used; the first: '
        f'{complaints[0] if complaints else "there is none"}'
      )

  return write_packed(output, packed(), compress=True), complaints


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(
    prog='python -m exp_jax liveportrait.prepare',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('clips', type=pathlib.Path, nargs='+')
  parser.add_argument(
    '-o', '--output', type=pathlib.Path, required=True, help='file to write (.array_record)'
  )
  parser.add_argument(
    '--size',
    type=int,
    default=512,
    help="pixels of the crop, twice the networks' input (default 512)",
  )
  parser.add_argument('--frames', type=int, default=16, help='frames of a record (default 16)')
  parser.add_argument('--stride', type=int, default=1, help='use every N-th frame (default 1)')
  args = parser.parse_args(argv)
  if args.output.suffix != '.array_record':
    raise UserError(f'the output {str(args.output)!r} must end in .array_record')
  for name, low in (('size', 32), ('frames', 1), ('stride', 1)):
    if getattr(args, name) < low:
      raise UserError(f'--{name} must be at least {low}, got {getattr(args, name)}')
  with FaceEstimator() as estimator:
    count, complaints = write_face_records(
      args.clips, args.output, estimator, size=args.size, frames=args.frames, stride=args.stride
    )
  for words in complaints:
    print(one_line(f'warning: {words}; it is left out'), file=sys.stderr)
  print(f'{args.output}: {count} records of {len(args.clips) - len(complaints)} files')
  return 0


if __name__ == '__main__':
  raise SystemExit(main())
