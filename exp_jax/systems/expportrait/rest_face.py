"""Where the landmarks of a face at rest lie, without a picture."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.skinning import head_landmarks


def resting_landmarks(head: HeadModel, size: int) -> np.ndarray:
  """[478, 3] pixels of the head at rest, facing a camera, in a square of that size."""
  zero = lambda *shape: jnp.zeros(shape)
  params = HeadParams(
    zero(head.shape_basis.shape[-1]),
    zero(head.expression_basis.shape[-1]),
    zero(len(head.parents), 3),
    zero(3),
  )
  points = np.array(head_landmarks(head, params)) * [1, -1, -1]
  points = (points - points.mean(0)) * (0.45 * size / np.ptp(points[:, 1]))
  return (points + [size / 2, size / 2, 0]).astype(np.float32)


def synthetic_face(head: HeadModel, size: int = 256) -> tuple[np.ndarray, Callable]:
  """A picture uint8 [S, S, 3] that stands for a face, and an estimator that finds the landmarks of
  the head at rest in it: what compiling needs to see."""
  points, image = resting_landmarks(head, size), np.full((size, size, 3), 128, np.uint8)
  image[3 * size // 8 : 5 * size // 8, 3 * size // 8 : 5 * size // 8] = 200
  matte = np.full((size, size), 255, np.uint8)
  return image, lambda _: (points[None], np.ones(1, np.float32), matte)
