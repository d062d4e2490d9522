"""Results of estimators on disk, found again by what they were computed from."""

import json
import pathlib
from collections.abc import Callable

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files import npz
from exp_jax.files.digests import arrays_digest


def content_key(frames: np.ndarray, *, estimator: str, digest: str = '', **options) -> str:
  """24 hex digits of the frames (with their shape), the estimator, its weights' digest and its
  options."""
  what = json.dumps(
    [estimator, digest, options, list(frames.shape), str(frames.dtype)], sort_keys=True
  )
  return arrays_digest(frames, about=what)[:24]


def cached_arrays(
  folder: pathlib.Path | None, key: str, compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
  """What `compute` gave before, or gives now; a damaged file counts as absent, files appear
  whole."""
  if folder is None:
    return compute()
  path = pathlib.Path(folder) / f'{key}.npz'
  if path.is_file():
    try:
      return npz.read_npz(path)
    except UserError:
      pass
  found = compute()
  npz.write_npz(path, found)
  return found
