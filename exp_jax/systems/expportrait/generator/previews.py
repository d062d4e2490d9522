"""Adds textured previews to records: what `controls.preview` makes of a clip from single frames of
it.

  python -m exp_jax previews -i out/shards/train.array_record --subjects out/actors/truth \\
      -o out/previews [--references 2]

For K frames of every clip, spread over it, that frame's pixels are laid on the fitted head and
moved through the whole clip. A generator with `config.condition.preview` learns from these what the
preview cannot know: light, what was hidden, the inside of the mouth. Subjects are the files that
the records were prepared with.
"""

import pathlib
import zlib
from collections.abc import Iterator

import numpy as np
import tqdm

from exp_jax.controls import maps
from exp_jax.data.sources import PortraitClips, write_records
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.fitting.tracked_driver import frames_of
from exp_jax.heads.densify import Dense, densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject, check_head, load_subject
from exp_jax.heads.trained_head import carry_head
from exp_jax.systems.expportrait.portrait import Portrait, fitted_mouth, preview_frames, scaled


def portrait_of(record: dict, subject: Subject, frame: int, head: HeadModel) -> Portrait:
  """One frame of a record as a portrait, at the record's size; the matte is the record's."""
  one = frames_of(subject, slice(frame, frame + 1))
  size = record['video'].shape[1]
  blank = np.zeros(subject.image_size, bool)
  one = scaled(
    Portrait(one, np.zeros((*subject.image_size, 3), np.uint8), blank.astype(np.uint8), blank), size
  ).subject
  return Portrait(one, record['video'][frame], record['matte'][frame], fitted_mouth(head, one, 0))


def reference_frames(clip_id: str, total: int, count: int) -> np.ndarray:
  """[K] int32 frames spread over a clip, the same whenever they are asked for."""
  rng = np.random.default_rng(zlib.crc32(clip_id.encode()))
  count = min(count, total)
  return np.minimum((np.arange(count) + rng.random(count)) * total / count, total - 1).astype(
    np.int32
  )


def with_previews(
  record: dict, subject: Subject, head: HeadModel, dense: Dense, count: int
) -> dict:
  """The record with `previews` [K, T, H, W, 3] and `preview_references` [K].

  Raises:
    UserError: record and subject have different numbers of frames.
  """
  total = len(record['video'])
  if total != subject.num_frames:
    raise UserError(
      f'clip {record["clip_id"]} has {total} frames, its subject {subject.num_frames}: prepare it '
      'again'
    )
  frames = reference_frames(record['clip_id'], total, count)
  motion, dynamic = maps.own_motion(subject), maps.full_offsets(subject)
  drawn = [
    np.stack(
      list(preview_frames(portrait_of(record, subject, k, head), motion, dynamic, head, dense))
    )
    for k in frames
  ]
  return record | {'previews': np.stack(drawn), 'preview_references': frames}


def _all(source, subjects: pathlib.Path, head_name: str, count: int) -> Iterator[dict]:
  head, meshes = load_head(head_name), {}
  for index in range(len(source)):
    record = source[index]
    subject = load_subject(subjects / f'{record["clip_id"]}.npz')
    if subject.levels not in meshes:
      meshes[subject.levels] = densify(head, subject.levels)
    check_head(subject, head, meshes[subject.levels])
    yield with_previews(record, subject, head, meshes[subject.levels], count)


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__.partition('\n\n')[0])
  parser.add_argument('-i', '--input', required=True, help='records: a folder, file or pattern')
  parser.add_argument(
    '--subjects',
    type=pathlib.Path,
    required=True,
    help='folder of their subject files, <clip id>.npz',
  )
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True, help='a folder')
  parser.add_argument(
    '--references', type=int, default=2, help='frames of each clip that are drawn from (default 2)'
  )
  parser.add_argument(
    '--head', default='makehuman', help="head model: 'makehuman', 'procedural' or a file"
  )
  args = parser.parse_args(argv)
  if args.references < 1:
    raise UserError(f'--references must be at least 1, got {args.references}')
  source = PortraitClips(args.input)
  records = tqdm.tqdm(
    _all(source, args.subjects, args.head, args.references), total=len(source), unit='clip'
  )
  count = write_records(args.output / 'previews.array_record', records)
  carry_head(args.input, args.output)
  print(f'{args.output}: {count} clips with previews')


if __name__ == '__main__':
  main()
