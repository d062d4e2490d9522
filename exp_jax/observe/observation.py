"""What is seen of one face in one clip: the record that every estimator fills and every fitter reads."""

import dataclasses
import io
import os
import pathlib
import zipfile

import numpy as np

from exp_jax.errors import UserError

_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Observation:
  """Landmarks and matte of one face over T frames of H x W pixels.

  points: [T, 478, 2] float32 pixels (x, y), MediaPipe's numbering; 468-477 are the irises.
  found: [T] bool, False where no face was seen (its points repeat the nearest seen frame).
  matte: [T, H, W] uint8 person coverage, or None.
  estimator: name and version, for the record.
  """
  points: np.ndarray
  found: np.ndarray
  matte: np.ndarray | None
  image_size: tuple[int, int]
  estimator: str

  def __post_init__(self):
    if self.points.ndim != 3 or self.points.shape[1:] != (478, 2):
      raise UserError(f'landmarks must be [T, 478, 2], got {list(self.points.shape)}; use MediaPipe numbering')
    if not np.isfinite(self.points).all():
      raise UserError('landmarks hold NaN or infinite values; mark such frames as not found instead')


def save_observation(path: str | os.PathLike, observation: Observation) -> None:
  """Writes an .npz (no pickle), atomically."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  arrays = dict(version=_VERSION, points=observation.points.astype(np.float32), found=observation.found,
                image_size=np.array(observation.image_size), estimator=np.array(observation.estimator))
  if observation.matte is not None:
    arrays['matte'] = observation.matte
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **arrays)
  partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
  try:
    partial.write_bytes(buffer.getvalue())
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def load_observation(path: str | os.PathLike) -> Observation:
  """Reads what `save_observation` wrote; UserError if it is missing, foreign or damaged."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f'observation {str(path)!r} does not exist')
  try:
    with np.load(path, allow_pickle=False) as data:
      if int(data['version']) != _VERSION:
        raise UserError(f'observation {str(path)!r} has version {int(data["version"])}, this program reads '
                        f'{_VERSION}; observe the clip again')
      return Observation(points=data['points'], found=data['found'],
                         matte=data['matte'] if 'matte' in data else None,
                         image_size=tuple(int(x) for x in data['image_size']),
                         estimator=str(data['estimator']))
  except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f'{str(path)!r} is no observation file or is damaged; observe the clip again') from None
