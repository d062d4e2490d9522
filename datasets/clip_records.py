"""What the builders of footage share: from a list of parts of files to ArrayRecords, without
TensorFlow.

A builder says in `parts(folder)` which clips its users' folder holds: clips that are cut already,
or places in raw videos together with the publishers' own lists. Nothing is downloaded. Records hold
encoded files only.

| key | content |
|---|---|
| clip_id, subject_id | text; splits never share a subject |
| video | bytes of a video file; cut ones are H.264 mp4, others as they were |
| frame_rate | text, a fraction such as 30000/1001 |
| height, width | pixels of the first frame, upright |
| attributes | JSON text: what the publisher says of the clip |
| source, license, sha256 | text; the file's name in the user's folder, and the digest of `video` |

A clip that cannot be used is left out, and told with its reason in
<data_dir>/<dataset>/build_report.jsonl.
This folder must have no __init__.py and be on sys.path: `datasets` is the name of a well-known
package.
"""

import abc
import dataclasses
import hashlib
import json
import math
import pathlib
import re
import sys
import tempfile
import zlib

import numpy as np
import tensorflow_datasets as tfds

sys.path.append(str(pathlib.Path(__file__).parents[1]))

from exp_jax.errors import UserError, item_failure, without_folders  # noqa: E402
from exp_jax.media.formats import CLIP_SUFFIXES  # noqa: E402
from exp_jax.media.video import read_frames, video_rate, write_timed_video  # noqa: E402

# splits whose people are in no other: a publisher's list that says otherwise is overruled
_HELD_OUT = 'validation', 'test'
VALIDATION_SHARE = 50  # one subject in so many, chosen by its name, so that more subjects move none


@dataclasses.dataclass(frozen=True)
class Part:
  """A clip: a whole file, or a span and box of one.

  begin, end: seconds from the file's first frame; frames: or first and last + 1 frame number at
  `rate` (None: the file's).
  box: left, top, right, bottom, shares of the picture; or in pixels of a picture of `reference`
    (height, width) pixels, width 0: as wide as the file's own shape makes it.
  problem: why it cannot be used, known without opening a file.
  """

  clip_id: str
  subject_id: str
  file: pathlib.Path
  split: str = ''
  begin: float = 0.0
  end: float = math.inf
  frames: tuple[int, int] | None = None
  rate: float | None = None
  box: tuple[float, float, float, float] | None = None
  reference: tuple[int, int] = (1, 1)
  attributes: dict = dataclasses.field(default_factory=dict)
  problem: str = ''

  @property
  def is_cut(self) -> bool:
    """Whether it is a whole file."""
    return self.box is None and self.frames is None and self.begin == 0 and self.end == math.inf


def split_of(subject_id: str) -> str:
  """'train' or 'validation', by the name alone."""
  return 'validation' if zlib.crc32(subject_id.encode()) % VALIDATION_SHARE == 0 else 'train'


def _split(part: Part) -> str:
  return part.split or split_of(part.subject_id)


def videos_below(folder: pathlib.Path) -> list[pathlib.Path]:
  """All video files below a folder, sorted; none if there is no such folder."""
  return (
    sorted(path for path in folder.rglob('*') if path.suffix.lower() in CLIP_SUFFIXES)
    if folder.is_dir()
    else []
  )


def file_called(folder: pathlib.Path, stem: str) -> pathlib.Path:
  """folder/stem with the suffix that is there; .mp4 if there is none."""
  return next(
    (
      folder / f'{stem}{suffix}'
      for suffix in CLIP_SUFFIXES
      if (folder / f'{stem}{suffix}').is_file()
    ),
    folder / f'{stem}.mp4',
  )


def square(
  box, *, grow: float = 0.0, shape: tuple[float, float]
) -> tuple[float, float, float, float]:
  """A box in shares of a picture of `shape` (height, width), grown by `grow` of the picture on each
  side, then made square in pixels about its centre, and moved or shrunk to lie inside."""
  height, width = shape
  left, top, right, bottom = (np.asarray(box) + [-grow, -grow, grow, grow]) * [
    width,
    height,
    width,
    height,
  ]
  side = min(max(right - left, bottom - top), width, height)
  left = float(np.clip((left + right - side) / 2, 0, width - side))
  top = float(np.clip((top + bottom - side) / 2, 0, height - side))
  return left / width, top / height, (left + side) / width, (top + side) / height


def cut(part: Part, target: pathlib.Path, *, make_square: float | None = None) -> None:
  """Writes the span and box of a part as an mp4, frame by frame, its times kept, without sound.

  Args:
    make_square: None, or by how much a box is grown before it is made square (see `square`).

  Raises:
    UserError: as the reader; or nothing lies in the span, or the box outside of the picture.
  """
  rate = video_rate(part.file)
  begin, end = part.begin, part.end
  if part.frames is not None:
    per_second = part.rate or float(rate)
    begin, end = (part.frames[0] - 0.5) / per_second, (part.frames[1] - 0.5) / per_second
  begin = max(begin, 0.0)

  def frames():
    first, window = None, None
    for frame, time in read_frames(part.file, begin=begin):
      if time >= end:
        return
      first = time if first is None else first
      window = window or _window(part, frame.shape[:2], make_square)
      rows, columns = window
      yield np.ascontiguousarray(frame[rows, columns]), time - first

  stream = frames()
  try:
    one = next(stream)
  except StopIteration:
    raise UserError(f'{part.file.name} has no frame between {begin:g} and {end:g} s') from None
  write_timed_video(target, _chain(one, stream), rate, crf=14)


def _chain(first, rest):
  yield first
  yield from rest


def _window(part: Part, size: tuple[int, int], make_square: float | None) -> tuple[slice, slice]:
  """Rows and columns of the box in a picture of this size; even, so that no row is repeated by the
  encoder."""
  height, width = size
  if part.box is None:
    return slice(0, height), slice(0, width)
  by_height = part.reference[0]
  by_width = part.reference[1] or by_height * width / height
  box = np.asarray(part.box, float) / [by_width, by_height, by_width, by_height]
  if make_square is not None:
    box = square(box, grow=make_square, shape=size)
  left, top, right, bottom = np.clip(
    np.round(np.asarray(box) * [width, height, width, height]), 0, [width, height, width, height]
  )
  rows, columns = int(bottom - top) // 2 * 2, int(right - left) // 2 * 2
  if rows < 16 or columns < 16:
    raise UserError(
      f'the box of {part.clip_id} is {columns}x{rows} pixels in {part.file.name} of '
      f'{width}x{height}; '
      'is it the video that the list speaks of?'
    )
  return slice(int(top), int(top) + rows), slice(int(left), int(left) + columns)


class ClipBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Base of the footage builders; see the top of the file.

  Set `use_beam` on an instance (datasets/build.py --beam) to share the work out over Apache Beam
  workers.
  """

  DESCRIPTION = LICENSE = HOMEPAGE = ''
  MAKE_SQUARE: float | None = None
  use_beam = False

  @abc.abstractmethod
  def parts(self, folder: pathlib.Path) -> list[Part]:
    """All clips that the folder holds or that its lists speak of.

    UserError if a list cannot be read.
    """

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text
    return self.dataset_info_from_configs(
      description=self.DESCRIPTION,
      license=self.LICENSE,
      homepage=self.HOMEPAGE,
      features=tfds.features.FeaturesDict(
        {
          'clip_id': text(),
          'subject_id': text(),
          'video': tfds.features.Tensor(shape=(), dtype=np.object_),
          'frame_rate': text(),
          'height': np.int32,
          'width': np.int32,
          'attributes': text(),
          'source': text(),
          'license': text(),
          'sha256': text(),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    folder = pathlib.Path(dl_manager.manual_dir)
    parts = sorted(self.parts(folder), key=lambda part: part.clip_id)
    if not parts:
      raise AssertionError(
        f'{folder} holds no clips of {self.name}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}'
      )
    splits: dict[str, list[Part]] = {}
    self._report().unlink(missing_ok=True)
    held_out = {part.subject_id for part in parts if _split(part) in _HELD_OUT}
    for part in parts:
      leaks = part.subject_id in held_out and _split(part) not in _HELD_OUT
      problem = part.problem or (
        f'{part.subject_id} is in a split that nothing is trained on' if leaks else ''
      )
      problem = problem or ('' if part.file.is_file() else f'{part.file.name} is not there')
      if problem:
        self._tell(part, problem)
      else:
        splits.setdefault(_split(part), []).append(part)
    if not splits:
      raise AssertionError(
        f'None of the {len(parts)} clips that the lists in {folder} speak of is there '
        f'({self._report()}). {self.MANUAL_DOWNLOAD_INSTRUCTIONS}'
      )
    return {split: self._generate_examples(folder, splits[split]) for split in sorted(splits)}

  def _generate_examples(self, folder, parts):
    if self.use_beam:
      beam = tfds.core.lazy_imports.apache_beam
      return beam.Create(parts) | beam.FlatMap(lambda part: list(self._examples(folder, part)))
    return (example for part in parts for example in self._examples(folder, part))

  def _examples(self, folder: pathlib.Path, part: Part):
    """The example of a part, or none with a line in the report."""
    try:
      with tempfile.TemporaryDirectory(prefix='exp_jax_cut_') as scratch:
        file = part.file
        if not part.is_cut:
          file = pathlib.Path(scratch) / 'clip.mp4'
          cut(part, file, make_square=self.MAKE_SQUARE)
        first, _ = next(read_frames(file))
        rate, content = video_rate(file), file.read_bytes()
    except Exception as error:  # the clip's failure, whatever a library raises; the others go on
      self._tell(part, item_failure(part.clip_id, error))
      return
    yield (
      part.clip_id,
      {
        'clip_id': part.clip_id,
        'subject_id': part.subject_id,
        'video': content,
        'frame_rate': str(rate),
        'height': first.shape[0],
        'width': first.shape[1],
        'attributes': json.dumps(part.attributes, sort_keys=True),
        'source': part.file.relative_to(folder).as_posix(),
        'license': self.LICENSE,
        'sha256': hashlib.sha256(content).hexdigest(),
      },
    )

  def _report(self) -> pathlib.Path:
    return pathlib.Path(self._data_dir_root) / self.name / 'build_report.jsonl'

  def _tell(self, part: Part, reason: str) -> None:
    self._report().parent.mkdir(parents=True, exist_ok=True)
    with open(self._report(), 'a') as stream:
      reason = without_folders(reason, part.file.parent)
      stream.write(
        json.dumps({'clip_id': part.clip_id, 'file': part.file.name, 'reason': reason}) + '\n'
      )


def seconds_of(stamp: str) -> float:
  """'mm:ss' or 'hh:mm:ss' as seconds. ValueError otherwise."""
  if not re.fullmatch(r'(\d+:)?\d+:\d+(\.\d+)?', stamp.strip()):
    raise ValueError(f'{stamp!r} is no time')
  total = 0.0
  for field in stamp.strip().split(':'):
    total = 60 * total + float(field)
  return total
