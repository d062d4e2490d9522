"""What lies beside a result: the same beside its inputs, a contact sheet, and a record of how it was made. Atomic, streamed."""

import hashlib
import json
import os
import pathlib
import platform

import numpy as np

from exp_jax.media.atomic import replacing
from exp_jax.media.footage import is_image
from exp_jax.media.images import contact_sheet, resize, write_image
from exp_jax.media.video import read_frames, video_rate, write_video

_HEIGHT = 512   # pixels at most


def beside(output: pathlib.Path, ending: str) -> pathlib.Path:
  """`output` with `ending` instead of its suffix, the stem shortened where the name would exceed 255 bytes."""
  stem = os.fsencode(output.stem)[:255 - len(os.fsencode(ending))]
  return output.with_name(stem.decode(errors='ignore') + ending)


def write_side_by_side(output: pathlib.Path, still: np.ndarray, driving: pathlib.Path | None, *, kept: np.ndarray | None = None,
                       moments: int = 12) -> None:
  """<output>_side_by_side.mp4 and <output>_sheet.png: portrait, driver, result, at the height of the result or 512 pixels.

  Args:
    output: the finished video.
    still: [H, W, 3] uint8 portrait.
    driving: the clip, or None where there is none to show.
    kept: [T] the driver's frame of every frame of the result; None: one by one.
  """
  rate = video_rate(output)
  total = sum(1 for _ in read_frames(output))
  kept = np.arange(total) if kept is None else kept
  chosen = set(np.unique(np.linspace(0, total - 1, moments).round().astype(int)))
  sheet = []

  def rows():
    driver = enumerate(read_frames(driving, allow_partial=True)) if driving is not None and not is_image(driving) else None
    left = None
    for i, (frame, _) in enumerate(read_frames(output)):
      height = min(frame.shape[0], _HEIGHT)
      scaled = lambda picture, height=height: resize(picture, (height, max(1, round(picture.shape[1] * height / picture.shape[0]))))
      left = scaled(still) if left is None else left
      columns = [left, scaled(frame)]
      if driver is not None:
        shown = next(picture for number, (picture, _) in driver if number == kept[i])
        columns.insert(1, scaled(shown))
      row = np.concatenate(columns, axis=1)
      if i in chosen:
        sheet.append(row)
      yield row

  write_video(beside(output, '_side_by_side.mp4'), rows(), rate)
  write_image(beside(output, '_sheet.png'), contact_sheet(sheet, columns=2))


def digest(path: os.PathLike) -> str:
  """sha256 of a file, read in parts."""
  with open(path, 'rb') as stream:
    return hashlib.file_digest(stream, 'sha256').hexdigest()


def settings_of(args) -> dict:
  """The plain values of parsed arguments; paths are left out, so that a record tells nothing of the machine."""
  return {k: v for k, v in vars(args).items() if isinstance(v, (str, int, float, bool))}


def write_record(output: pathlib.Path, record: dict, **inputs: pathlib.Path) -> None:
  """<output>.json: `record`, versions, and the digests of the result and of its inputs. Written last: it says that all is done."""
  import jax

  import exp_jax
  versions = {'exp_jax': exp_jax.__version__, 'jax': jax.__version__, 'numpy': np.__version__, 'python': platform.python_version()}
  digests = {f'{name}_sha256': digest(path) for name, path in inputs.items() if path is not None}
  whole = record | {'versions': versions} | digests | {'output_sha256': digest(output)}
  with replacing(beside(output, '.json')) as partial:
    partial.write_text(json.dumps(whole, indent=1) + '\n')
