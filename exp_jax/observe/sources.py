"""One door to observations that exist already: by what the file is."""

import os
import pathlib

from exp_jax.errors import UserError
from exp_jax.files import npz
from exp_jax.observe.arrays import read_arrays
from exp_jax.observe.observation import Observation, load_observation
from exp_jax.observe.sapiens import read_sapiens


def read_observation(
  path: str | os.PathLike,
  *,
  image_size: tuple[int, int],
  num_frames: int,
  name: str,
  frame: str = 'viewer',
  near_is_large: bool = False,
) -> Observation:
  """An observation file, an npz of the user's arrays, or Sapiens JSON, of a clip that is at hand.

  Args:
    path: .npz, .json, or a folder of .json, one a frame.
    image_size: (height, width) and num_frames: of the clip, which the file must agree with.
    name: what to call the clip in messages.
    frame, near_is_large: of the user's arrays, see `read_arrays`.

  Raises:
    UserError: none of these, or of a clip of another size or length.
  """
  path = pathlib.Path(path)
  if path.is_dir() or path.suffix.lower() == '.json':
    found = read_sapiens(path, image_size=image_size, name=name)
  elif path.suffix.lower() == '.npz':
    if {'version', 'estimator', 'points'} <= set(npz.read_npz(path)):
      found = load_observation(path)
    else:
      found = read_arrays(
        path, image_size=image_size, name=name, frame=frame, near_is_large=near_is_large
      )
  else:
    raise UserError(
      f'{path} is neither an .npz of observations nor Sapiens .json (or a folder of them)'
    )
  if found.image_size != tuple(image_size) or len(found.points) != num_frames:
    raise UserError(
      f'{path} speaks of {len(found.points)} frames of {found.image_size[0]} x '
      f'{found.image_size[1]} pixels, '
      f'{name} has {num_frames} of {image_size[0]} x {image_size[1]}'
    )
  return found
