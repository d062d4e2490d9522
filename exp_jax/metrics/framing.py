"""How a generated video goes together with its truth or driver: which part of the picture, which
frames.

`animate` writes the square of the portrait, without asking, while the truth is a whole picture; and
a driver may have been sampled with a stride. The record beside the result says both, so the truth
is cut and sampled as the result was. Where nothing
says it, nothing is guessed: the caller declares that both show the same, or the pair is refused.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator

import numpy as np

from exp_jax.errors import UserError
from exp_jax.media.squares import Cut, cut_picture
from exp_jax.media.video import read_frames
from exp_jax.metrics.steadiness import stream_times
from exp_jax.performance.results import cut_of, driven_frames, driving_record, read_record

_SAME_PLACE = 0.05  # pixels of the result by which the corners of two equal squares may differ


@dataclasses.dataclass(frozen=True)
class Framing:
  """Attributes:
  cut: pixels of the target -> pixels of the result; None: the target shows what the result shows.
  frames: numbers of the target's frames, one for each of the result, increasing; None: all, one by
  one.
  stride: the driver was sampled with.
  said_by: 'record', 'same' (declared), or 'files' (nothing was asked).
  """

  cut: Cut | None = None
  frames: tuple[int, ...] | None = None
  stride: int = 1
  said_by: str = 'files'

  def as_json(self) -> dict:
    """Plain values, for keys and reports."""
    return {
      **driving_record(self.stride, None if self.frames is None else np.array(self.frames)),
      'said_by': self.said_by,
      'matrix': None if self.cut is None else np.round(self.cut.matrix, 6).tolist(),
      'size': None if self.cut is None else list(self.cut.size),
    }


def target_frames(
  path: pathlib.Path, framing: Framing, size: int | None = None
) -> Iterator[np.ndarray]:
  """The target's frames that belong to the result's, uint8 [H, W, 3] each, cut as the result is.

  Args:
    size: edge of a square that they are cut to, pixels; None: as large as the result.

  Raises:
    UserError: the clip ends before the last of them.
  """
  cut = framing.cut
  if cut is not None and size is not None and cut.size[0] == cut.size[1]:
    cut = cut.resized((size, size))
  wanted = iter(framing.frames) if framing.frames is not None else itertools.count()
  following, count = next(wanted), 0
  for number, (frame, _) in enumerate(read_frames(path)):
    count += 1
    if number == following:
      yield frame if cut is None else cut_picture(frame, cut)
      if (following := next(wanted, None)) is None:
        return
  if framing.frames is not None:
    raise UserError(
      f'{path.name!r} has {count} frames, the result follows its frame {following} (they count '
      'from 0)'
    )


def framing_of(
  result: pathlib.Path,
  target: pathlib.Path,
  *,
  kind: str,
  stride: int | None = None,
  declared: str = 'record',
) -> Framing:
  """How a pair goes together, by the records beside its files.

  Args:
    kind: 'self': the target is the truth and must show what the result shows; 'cross': the driver,
      whose place does not matter.
    stride: the driver must have been sampled with; None: whatever the record says, 1 without one.
    declared: 'record', or 'same': result and truth show the same part of the picture, whatever a
      record says.

  Raises:
    UserError: it cannot be known, the stride is another, or the truth shows another part of the
      picture.
  """
  record, other = read_record(result) or {}, read_record(target) or {}
  frames, made = _frames(result, target, record.get('driving'), other.get('driving'), stride)
  if kind != 'self':
    return Framing(None, frames, made)
  if declared == 'same':
    return Framing(None, frames, made, 'same')
  square = record.get('square')
  if square is None:
    raise UserError(
      f'no record of `animate` beside {result.name!r} says which part of the picture it shows: if '
      'it shows the '
      f'same as {target.name!r}, pixel by pixel, say --framing=same; else animate it again'
    )
  return Framing(_cut(result, target, square, other.get('square')), frames, made, 'record')


def _cut(result, target, square: dict, other: dict | None) -> Cut | None:
  """What must be cut out of the truth; UserError where that is not what the result shows."""
  cut, known = cut_of(square), other and cut_of(other)
  sizes = lambda size: f'{size[1]}x{size[0]}'
  if known is not None:  # the truth is a square itself
    corners = np.array([[0, 0], [known.size[1], 0], [0, known.size[0]]], np.float64)
    if (
      cut is None
      or square['picture_size'] != other['picture_size']
      or np.abs(cut.resized(known.size).to_crop(known.to_source(corners)) - corners).max()
      > _SAME_PLACE
    ):
      raise UserError(
        f'{result.name!r} and {target.name!r} show other squares of the picture; give the whole '
        'clip as truth, it '
        'is cut as the result is'
      )
    return None
  size = next(read_frames(target))[0].shape[:2]
  if list(size) != square['picture_size']:
    raise UserError(
      f'{result.name!r} belongs to a picture of {sizes(square["picture_size"])}, {target.name!r} '
      f'is {sizes(size)}; '
      'give the clip that the portrait is of, or say --framing=same if it was cut to the same '
      'square'
    )
  return cut


def _frames(result, target, driving: dict | None, other: dict | None, stride: int | None):
  """(numbers of the target's frames or None, stride) of a pair."""
  made = driving['stride'] if driving else stride or 1
  if stride is not None and made != stride:
    raise UserError(
      f'{result.name!r} follows a driver sampled with a stride of {made}, {stride} is wanted: '
      'animate it again '
      f'with --driving_stride {stride}, or say --stride {made}'
    )
  if driving and other:
    if (driving['stride'], driving['frames']) != (other['stride'], other['frames']):
      raise UserError(
        f'{result.name!r} and {target.name!r} follow other frames of their drivers; give the whole '
        'clip'
      )
    return None, made
  frames = driven_frames(driving) if driving else None
  if frames is None and made > 1:
    a, b = stream_times(result), stream_times(target)
    if a.frames != -(-b.frames // made):
      raise UserError(
        f'{result.name!r} has {a.frames} frames; with a stride of {made}, {target.name!r} gives '
        f'{-(-b.frames // made)}: the driver is sampled, not the result (animate --driving_stride '
        f'{made}); or say '
        '--stride 1'
      )
    check_rates(result, target, a.rate * made, b.rate)
    frames = made * np.arange(a.frames)
  return None if frames is None else tuple(int(n) for n in frames), made


def check_rates(result: pathlib.Path, target: pathlib.Path, rate: float, other: float) -> None:
  """UserError where frames a second of result and target differ by more than 0.5 %."""
  if abs(rate / other - 1) > 0.005:
    raise UserError(
      f'{result.name!r} runs at {rate:.3f} frames a second, {target.name!r} at {other:.3f}; they '
      'must agree, '
      'convert one'
    )
