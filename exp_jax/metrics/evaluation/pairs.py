"""Which clip is compared with which: one generated video, or a folder of them, with its truth or
its driver and portrait.

A folder's videos find their counterparts by name: `a.mp4` is compared with `a.mp4`; in
cross-reenactment also `portrait--driver.mp4` with `driver.mp4` and `portrait.jpg`. A single truth,
driver or portrait serves all of a folder.
"""

import collections.abc
import dataclasses
import itertools
import pathlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.names import normal
from exp_jax.media.formats import CLIP_SUFFIXES, PICTURE_SUFFIXES
from exp_jax.media.images import resize
from exp_jax.media.squares import Crop
from exp_jax.media.video import read_frames
from exp_jax.metrics.evaluation.probes import WINDOW
from exp_jax.metrics.framing import Framing, check_rates, target_frames
from exp_jax.metrics.steadiness import StreamTimes, stream_times


@dataclasses.dataclass(frozen=True)
class Pair:
  """name: of the clip in all reports; result, target (truth or driver), reference (cross only):
  files."""

  name: str
  result: pathlib.Path
  target: pathlib.Path
  reference: pathlib.Path | None = None


def _listed(folder: pathlib.Path, suffixes: tuple[str, ...], what: str) -> dict[str, pathlib.Path]:
  """{stem: file} of a folder.

  Raises:
    UserError: nothing there, or two files of one stem.
  """
  found = {}
  for path in sorted(folder.iterdir()):
    if path.suffix.lower() in suffixes and not path.name.startswith('.'):
      if (stem := normal(path.stem)) in found:
        raise UserError(
          f'{str(folder)!r} holds {found[stem].name!r} and {path.name!r}; which {what} is meant?'
        )
      found[stem] = path
  if not found:
    raise UserError(f'{str(folder)!r} holds no {what}; looked for {", ".join(suffixes)}')
  return found


def _counterpart(
  path: pathlib.Path, names: tuple[str, ...], suffixes, what: str
) -> pathlib.Path | None:
  if not path.is_dir():
    return path
  listed = _listed(path, suffixes, what)
  return next((listed[name] for name in names if name in listed), None)


def find_pairs(
  result: pathlib.Path, target: pathlib.Path, reference: pathlib.Path | None = None
) -> list[Pair]:
  """All pairs, by name.

  Raises:
    UserError: something does not exist, or has no counterpart.
  """
  for path in (result, target, reference):
    if path is not None and not path.exists():
      raise UserError(
        f'there is no {str(path)!r}; give a video (or a portrait), or a folder of them'
      )
  what = 'truth' if reference is None else 'driver'
  results = (
    _listed(result, CLIP_SUFFIXES, 'generated video')
    if result.is_dir()
    else {normal(result.stem): result}
  )
  if not result.is_dir() and target.is_dir():
    raise UserError(
      f'{str(result)!r} is a video and {str(target)!r} a folder; give the {what} of that video'
    )
  made = []
  for name, path in results.items():
    first, mark, last = name.partition('--')
    names = (name, last) if mark and reference is not None else (name,)
    other = _counterpart(target, names, CLIP_SUFFIXES, what)
    portrait = (
      None
      if reference is None
      else _counterpart(
        reference, (name, first) if mark else (name,), PICTURE_SUFFIXES + CLIP_SUFFIXES, 'portrait'
      )
    )
    for found, where, kind in ((other, target, what), (portrait, reference, 'portrait')):
      if found is None and where is not None:
        raise UserError(
          f'{path.name!r} has no {kind} in {str(where)!r}; name it {name!r}'
          + (', or the result PORTRAIT--DRIVER' if reference is not None else '')
        )
    made.append(Pair(name, path, other, portrait))
  return made


def without_result(pairs: list[Pair], target: pathlib.Path) -> list[str]:
  """Names of the truths or drivers of a folder that nothing was generated for: a set that leaves
  them out flatters."""
  if not target.is_dir():
    return []
  used = {pair.target for pair in pairs}
  return [
    path.name for path in _listed(target, CLIP_SUFFIXES, 'video').values() if path not in used
  ]


def check(
  pair: Pair, frames: int | None, framing: Framing = Framing()
) -> tuple[StreamTimes, StreamTimes]:
  """Timestamps of result and target, which must go together.

  Raises:
    UserError: other lengths (within the first `frames`) or rates.
  """
  a, b = stream_times(pair.result), stream_times(pair.target)
  there = b.frames if framing.frames is None else len(framing.frames)
  most = frames or max(a.frames, there)
  if min(a.frames, most) != min(there, most):
    belong = '' if framing.frames is None else ' that belong to it'
    raise UserError(
      f'{pair.result.name!r} has {a.frames} frames, {pair.target.name!r} {there}{belong}; they '
      'must agree, cut the '
      'longer one'
    )
  if framing.frames is None:
    check_rates(pair.result, pair.target, a.rate, b.rate)
  return a, b


def _square(frame: np.ndarray, size: int | None, name: str, square) -> np.ndarray:
  if square is not None:
    return Crop(*square, size or round(square[2])).cut(frame)
  if size is None or frame.shape[:2] == (size, size):
    return frame
  if abs(frame.shape[0] / frame.shape[1] - 1) > 0.01:
    raise UserError(
      f'{name!r} is {frame.shape[1]} x {frame.shape[0]}, the protocol compares squares of {size} '
      'pixels; pass '
      '--face_crop, or choose --protocol=all-self or all-cross, or make the result without '
      '--paste_back'
    )
  return resize(frame, (size, size))


def first_frames(path: pathlib.Path, framing: Framing = Framing()) -> np.ndarray:
  """The first window of a video, [T, H, W, 3] uint8; of a target as `framing` says."""
  return np.stack(list(itertools.islice(target_frames(path, framing), WINDOW)))


def windows(
  pair: Pair,
  *,
  kind: str,
  size: int | None,
  frames: int | None = None,
  squares=(None, None),
  framing: Framing = Framing(),
) -> collections.abc.Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields result and target, [T, H, W, 3] uint8 each, T at most WINDOW; memory does not depend on
  the clip's length.

  The target's frames and the part of them are those of `framing`. At most `frames` of them, whole
  or the part in a square (`faces.face_square`) of result and target. In self-reenactment both have
  one size.

  Raises:
    UserError: sizes differ, are not square where the protocol wants squares, or one ends before the
      other.
  """
  a = (frame for frame, _ in read_frames(pair.result))
  b, done = target_frames(pair.target, framing, size if squares[1] is None else None), 0
  while frames is None or done < frames:
    count = WINDOW if frames is None else min(WINDOW, frames - done)
    pieces = [list(itertools.islice(each, count)) for each in (a, b)]
    if len(pieces[0]) != len(pieces[1]):
      raise UserError(
        f'{pair.result.name!r} and {pair.target.name!r} decode to different numbers of frames '
        f'({done + len(pieces[0])} and {done + len(pieces[1])} or more); export them again'
      )
    if not pieces[0]:
      return
    if (
      kind == 'self'
      and pieces[0][0].shape != pieces[1][0].shape
      and (size is None or squares[0] is not None)
    ):
      (h, w), (y, x) = (piece[0].shape[:2] for piece in pieces)
      raise UserError(f'{pair.result.name!r} is {w} x {h}, its truth {x} x {y}; they must agree')
    result, target = (
      [_square(f, size, path.name, square) for f in piece]
      for piece, path, square in zip(pieces, (pair.result, pair.target), squares)
    )
    yield np.stack(result), np.stack(target)
    done += len(pieces[0])
    if len(pieces[0]) < count:
      return
