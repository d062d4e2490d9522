"""What lies beside a result: the same beside its inputs, a contact sheet, and a record of how it
was made. Atomic, streamed.

A record tells later commands two things that the video does not show:

  square    the part of the source picture that the result shows (`square_record`)
  driving   which frames of the driver the frames of the result follow (`driving_record`)
"""

import json
import os
import pathlib
import platform
import queue
import threading
from collections.abc import Callable

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.atomic import write_text
from exp_jax.files.digests import file_digest
from exp_jax.media.footage import is_image
from exp_jax.media.images import contact_sheet, resize, write_image
from exp_jax.media.squares import Cut
from exp_jax.media.video import read_frames, write_timed_video

_HEIGHT = 512  # pixels at most
_AHEAD = 4  # frames that wait to be encoded


class _Abandoned(Exception):
  """The result will not be finished."""


def beside(output: pathlib.Path, ending: str) -> pathlib.Path:
  """`output` with `ending` instead of its suffix, the stem shortened where the name would exceed
  255 bytes."""
  stem = os.fsencode(output.stem)[: 255 - len(os.fsencode(ending))]
  return output.with_name(stem.decode(errors='ignore') + ending)


class SideBySide:
  """<output>_side_by_side.mp4 and <output>_sheet.png: portrait, driver, result, at the height of
  the result or 512 pixels.

  Made while the result is drawn: a thread encodes the frames that `add` hands over, a few at a
  time. They appear with `finish`; where the `with` block is left without it, or with an error,
  neither does.

  Args:
    output: the video beside which they lie.
    still: [H, W, 3] uint8 portrait.
    driving: the clip, or None where there is none to show.
    times: [T] seconds of the frames. rate: frames a second, average.
    kept: [T] the driver's frame of every frame of the result; None: one by one.
    moments: frames on the sheet.
    finish: is given the whole video before it takes its name.
  """

  def __init__(
    self,
    output: pathlib.Path,
    still: np.ndarray,
    driving: pathlib.Path | None,
    *,
    times: np.ndarray,
    rate,
    kept: np.ndarray | None = None,
    moments: int = 12,
    finish: Callable[[pathlib.Path], None] | None = None,
  ):
    self._finish = finish
    self._output, self._still, self._driving, self._times, self._rate = (
      output,
      still,
      driving,
      times,
      rate,
    )
    self._kept = np.arange(len(times)) if kept is None else kept
    self._chosen = set(np.unique(np.linspace(0, len(times) - 1, moments).round().astype(int)))
    self._waiting: queue.Queue = queue.Queue(_AHEAD)
    self._sheet, self._error = [], None
    self._thread = threading.Thread(target=self._write, name='exp_jax side by side', daemon=True)
    self._thread.start()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._hand_over(_Abandoned())
    self._thread.join()

  def add(self, frame: np.ndarray) -> None:
    """The next frame of the result, uint8 [H, W, 3]; after an error, which `finish` raises, it is
    dropped."""
    self._hand_over(frame)

  def finish(self) -> None:
    """Waits until both files are there.

    Raises:
      Exception: what went wrong with them.
    """
    self._hand_over(None)
    self._thread.join()
    if self._error is not None:
      raise self._error

  def _hand_over(self, item) -> None:
    while self._thread.is_alive():
      try:
        return self._waiting.put(item, timeout=0.1)
      except queue.Full:
        continue

  def _write(self) -> None:
    try:
      write_timed_video(
        beside(self._output, '_side_by_side.mp4'),
        zip(self._rows(), self._times),
        self._rate,
        finish=self._finish,
      )
      write_image(beside(self._output, '_sheet.png'), contact_sheet(self._sheet, columns=2))
    except Exception as error:  # carried to the caller's thread
      self._error = error

  def _rows(self):
    driving = self._driving
    driver = (
      enumerate(read_frames(driving, allow_partial=True))
      if driving is not None and not is_image(driving)
      else None
    )
    left, i = None, 0
    while (frame := self._waiting.get()) is not None:
      if isinstance(frame, _Abandoned):
        raise frame
      height = min(frame.shape[0], _HEIGHT)
      scaled = lambda picture, height=height: resize(
        picture, (height, max(1, round(picture.shape[1] * height / picture.shape[0])))
      )
      left = scaled(self._still) if left is None else left
      columns = [left, scaled(frame)]
      if driver is not None:
        shown = next((picture for number, (picture, _) in driver if number == self._kept[i]), None)
        if shown is None:
          raise UserError(
            f'{str(driving)!r} has no frame {self._kept[i]} to show beside the result; was it '
            'changed meanwhile?'
          )
        columns.insert(1, scaled(shown))
      row = np.concatenate(columns, axis=1)
      if i in self._chosen:
        self._sheet.append(row)
      yield row
      i += 1


def write_record(output: pathlib.Path, record: dict, **inputs: pathlib.Path) -> None:
  """<output>.json: `record`, versions, and the digests of the result and of its inputs.

  Written last: it says that all is done.
  """
  import jax

  import exp_jax

  versions = {
    'exp_jax': exp_jax.__version__,
    'jax': jax.__version__,
    'numpy': np.__version__,
    'python': platform.python_version(),
  }
  digests = {
    f'{name}_sha256': file_digest(path) for name, path in inputs.items() if path is not None
  }
  whole = record | {'versions': versions} | digests | {'output_sha256': file_digest(output)}
  write_text(beside(output, '.json'), json.dumps(whole, indent=1) + '\n')


def read_record(video: pathlib.Path) -> dict | None:
  """What `write_record` left beside a video; None where there is no such file, or one of another
  kind.

  Raises:
    UserError: the record is of another video: its digest says so.
  """
  try:
    record = json.loads(beside(video, '.json').read_text())
  except (OSError, ValueError):
    return None
  if not isinstance(record, dict) or 'output_sha256' not in record:
    return None
  if record['output_sha256'] != file_digest(video):
    raise UserError(
      f'{video.name!r} is not the video that {beside(video, ".json").name!r} beside it was written '
      'for; it was '
      'changed or replaced: make it again, or take that file away'
    )
  return record


def square_record(picture_size: tuple[int, int], cut: Cut | None) -> dict:
  """The part of the source picture that a result shows, for its record.

  Args:
    picture_size: (height, width) of the source picture.
    cut: source pixels -> result pixels; None: the whole picture.
  """
  matrix = None if cut is None else np.asarray(cut.matrix, np.float64).tolist()
  return {
    'picture_size': [int(n) for n in picture_size],
    'matrix': matrix,
    'size': [int(n) for n in (picture_size if cut is None else cut.size)],
  }


def cut_of(square: dict) -> Cut | None:
  """The cut of a `square_record`; None: the whole picture."""
  return (
    None
    if square['matrix'] is None
    else Cut(np.array(square['matrix'], np.float64), tuple(square['size']))
  )


def driving_record(stride: int, frames: np.ndarray | None) -> dict:
  """Which frames of the driver a result follows, for its record.

  Args:
    stride: of the driver's frames that were looked at.
    frames: [T] their numbers in the clip, increasing; None: the driver is a motion file, which does
      not tell.
  """
  if frames is None:
    return {'stride': int(stride), 'frames': None}
  steps = np.diff(frames)
  if len(frames) and (not len(steps) or (steps == steps[0]).all()):
    return {
      'stride': int(stride),
      'frames': {
        'first': int(frames[0]),
        'step': int(steps[0]) if len(steps) else int(stride),
        'count': len(frames),
      },
    }
  return {'stride': int(stride), 'frames': [int(n) for n in frames]}


def driven_frames(driving: dict) -> np.ndarray | None:
  """[T] the frame numbers of a `driving_record`; None where it does not tell."""
  frames = driving['frames']
  if isinstance(frames, dict):
    return frames['first'] + frames['step'] * np.arange(frames['count'])
  return None if frames is None else np.array(frames, int)
