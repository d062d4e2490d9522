"""Normals, depth, parts and matte of a head in a picture, by a network that learned from synthetic
people alone.

Exports are made by `exp_jax.estimator`; figures and failures are in `docs/results/estimator.md`. A
picture is seen twice: as a whole, which is expected to be a head's square
(`media.squares.head_place`), and, larger, where landmarks say that the face is. Weights fall
with the error that the network itself expects: 0.3 / (1 + (expected / 8 degrees)^2). Errors of
neighbours are alike, so that many pixels tell little more than one; 0.3 is what does no harm beside
landmarks of 0.5 % noise.

Letters: H, W pixels of a picture, S of the network's square, K landmarks.
"""

import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.digests import file_digest
from exp_jax.media.squares import Crop
from exp_jax.networks.face_maps import PARTS, STRIDE, FaceMaps, face_maps_net
from exp_jax.training.exports import RELEASE, load_export

TASK = 'estimator/face_maps'
_CLOSE = 1.4  # side of the second square, in face heights
_FADE = 0.12  # of its side, over which it gives way to the first
_SKIN = 468  # of MediaPipe's landmarks; the others are irises
# an expected error at which a pixel counts half, and the most that it counts
_BELIEVED, _MOST = np.deg2rad(8.0), 0.3
_UNSEEN = [PARTS.index(part) for part in ('background', 'eyes', 'mouth')]


@functools.partial(jax.jit, static_argnames='model')
def _see(model, params, images) -> tuple[FaceMaps, jax.Array]:
  maps = model.apply({'params': params}, images.astype(jnp.float32) / 255)
  return maps, jax.nn.softmax(maps.logits)


def expected_error(concentration: np.ndarray) -> np.ndarray:
  """Mean angle, radians, of the density of `estimator/losses.py`, as in its source: about 2 /
  concentration where that is large."""
  k = np.asarray(concentration, np.float32)
  return 2 * k / (k**2 + 1) + np.exp(-k * np.pi) * np.pi / (1 + np.exp(-k * np.pi))


class FaceMapEstimator:
  """An export of task 'estimator/face_maps'; used as a `MapEstimator` is.

  Attributes:
    kind, name, licence, digest, num_tokens, signs: as of `MapEstimator`.
    side: pixels of the network's square.
  """

  kind, licence, num_tokens, signs = 'face-maps', 'Apache-2.0', 0, (1, 1, 1)

  def __init__(self, path: str | os.PathLike, *, side: int | None = None):
    """Loads the weights.

    Args:
      path: of the export.
      side: pixels of the network's square; None: 4/3 of those that it was trained on, at which it
        sees best.

    Raises:
      UserError: no such export, a damaged one, or one of another task.
    """
    folder = pathlib.Path(path)
    config, params = load_export(folder)
    if config.task != TASK:
      raise UserError(
        f'{folder} is an export of task {config.task!r}, an estimator of face maps is needed '
        f'({TASK})'
      )
    side = 4 * config.data.side // 3 // STRIDE * STRIDE if side is None else side
    if side % STRIDE or side < STRIDE:
      raise UserError(f'the side must be a multiple of {STRIDE} pixels, got {side}')
    sizes = {
      name: value
      for name, value in dict(config.model).items()
      if name not in ('variant', 'weights')
    }
    self._model, self._params, self.side = (
      face_maps_net(config.model.variant, **sizes),
      jax.device_put(params),
      side,
    )
    weights = folder / RELEASE
    self.digest = (
      f'{file_digest(weights if weights.is_file() else folder / "manifest.json")}-{side}'
    )
    self.name = 'exp_jax face maps'

  def __call__(self, image: np.ndarray, points: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """What is seen of one picture.

    Args:
      image: uint8 RGB [H, W, 3], best a head's square.
      points: [K, 2] landmarks in its pixels, for the closer look; None: there is none.

    Returns:
      normals [H, W, 3] unit, x right, y up, z to the viewer; depth [H, W] growing away from the
      camera, up to scale and shift; weights [H, W] in 0..1.
    """
    found = self.see(image, points)
    del found['foreground']  # the matte of the landmarks' network saw photographs in its training
    return found

  def maps(self, square: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One look at a uint8 picture [S, S, 3] of the network's own size.

    Returns:
      normals [S, S, 3] unit, x right, y up, z to the viewer; depth [S, S] in sides; expected [S,
      S], the error that it expects of its normals, radians; and the probabilities of parts [S, S,
      P], see `exp_jax.networks.face_maps.PARTS`.
    """
    found, parts = _see(self._model, self._params, np.asarray(square)[None])
    return {
      'normals': np.asarray(found.normals[0]) * np.float32([1, -1, -1]),
      'depth': np.asarray(found.depth[0]),
      'expected': expected_error(found.concentration[0]),
    }, np.asarray(parts[0])

  def see(self, image: np.ndarray, points: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """As `__call__`, with foreground [H, W] in 0..1, person or not."""
    height, width = image.shape[:2]
    side = max(height, width)
    crops = [Crop((width - side) / 2, (height - side) / 2, float(side), self.side)]
    if points is not None and np.isfinite(points[:_SKIN]).all():
      low, high = points[:_SKIN].min(0), points[:_SKIN].max(0)
      close = _CLOSE * float((high - low).max())
      if 8 < close < 0.9 * side:
        crops.append(Crop(*((low + high - close) / 2), close, self.side))
    maps, parts = _see(self._model, self._params, np.stack([crop.cut(image) for crop in crops]))
    normals, parts = np.asarray(maps.normals) * np.float32([1, -1, -1]), np.asarray(parts)
    believed = _MOST / (1 + (expected_error(maps.concentration) / _BELIEVED) ** 2)
    believed = believed * (1 - parts[..., _UNSEEN].sum(-1))
    cover, depth = 1 - parts[..., PARTS.index('background')], np.asarray(maps.depth)
    place = _back(crops[0], image.shape[:2])
    found = {
      'normals': place(normals[0]),
      'depth': place(depth[0]),
      'foreground': place(cover[0]),
      'weights': place(believed[0]),
    }
    if len(crops) > 1:
      share = _share(crops[1], image.shape[:2])
      place = _back(crops[1], image.shape[:2])
      # depths are in sides of their squares, each up to a constant of its own
      closer = place(depth[1]) * crops[1].side / crops[0].side
      weight = share * place(cover[1])
      closer += np.average(found['depth'] - closer, weights=weight) if weight.sum() > 0 else 0.0
      near = {
        'normals': place(normals[1]),
        'depth': closer,
        'foreground': place(cover[1]),
        'weights': place(believed[1]),
      }
      mixed = lambda a, b: a + (share[..., None] if a.ndim == 3 else share) * (b - a)
      found = {name: mixed(value, near[name]) for name, value in found.items()}
    length = np.linalg.norm(found['normals'], axis=-1, keepdims=True)
    found['normals'] = found['normals'] / np.maximum(length, 1e-6)
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def _back(crop: Crop, size: tuple[int, int]):
  """Maps of a crop's pixels -> of the picture's, linear; outside the crop its border repeats."""
  x = (np.arange(size[1]) + 0.5 - crop.left) * crop.scale - 0.5
  y = (np.arange(size[0]) + 0.5 - crop.top) * crop.scale - 0.5

  def matrix(place):
    place = np.clip(place, 0, crop.size - 1)
    low = np.minimum(place.astype(int), crop.size - 2)
    rows = np.zeros((len(place), crop.size), np.float32)
    rows[np.arange(len(place)), low], rows[np.arange(len(place)), low + 1] = (
      1 - (place - low),
      place - low,
    )
    return rows

  rows, columns = matrix(y), matrix(x)
  return lambda values: np.moveaxis(
    np.tensordot(np.tensordot(rows, values, (1, 0)), columns, (1, 1)), -1, 1
  )


def _share(crop: Crop, size: tuple[int, int]) -> np.ndarray:
  """[H, W] 1 inside the crop, falling to 0 at its border."""
  fade = lambda place: np.clip(np.minimum(place, 1 - place) / _FADE, 0, 1)
  x = fade((np.arange(size[1]) + 0.5 - crop.left) / crop.side)
  y = fade((np.arange(size[0]) + 0.5 - crop.top) / crop.side)
  return (y[:, None] * x[None]).astype(np.float32)
