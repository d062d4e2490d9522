"""S, R_eyes and R_lip: small perceptrons that move keypoints so that seams close, eyes and lips
open or shut.

  stitching   (x_s, x_d)                      -> a move of every keypoint, and one of all in the plane
  eyes        (x_s, left and right, target)   -> a move of every keypoint
  lip         (x_s, ratio, target)            -> a move of every keypoint

Letters: B batch, K = 21 keypoints. Source: LivePortrait section 3.3, Algorithm 1, sizes of its
implementation details.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

VARIANTS = {
  'stitching': (126, 128, 128, 64, 65),
  'eyes': (66, 256, 256, 128, 128, 64, 63),
  'lip': (65, 128, 128, 64, 63),
}
KEYPOINTS = 21


class Perceptron(nn.Module):
  """[B, sizes[0]] -> [B, sizes[-1]], ReLU between the layers; at the start of training it
  answers 0."""

  sizes: tuple[int, ...]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    last = len(self.sizes) - 2
    for i, size in enumerate(self.sizes[1:]):
      init = nn.initializers.zeros if i == last else nn.initializers.he_normal()
      x = nn.Dense(size, kernel_init=init, name=f'layer{i}')(x)
      x = x if i == last else jax.nn.relu(x)
    return x


def stitching_move(
  network: Perceptron, params: dict, source: jax.Array, driving: jax.Array
) -> jax.Array:
  """[B, K, 3], [B, K, 3] -> [B, K, 3] to be added to the driving keypoints; z has no common
  part."""
  flat = jnp.concatenate([source.reshape(len(source), -1), driving.reshape(len(driving), -1)], -1)
  out = network.apply({'params': params}, flat)
  move = out[:, : 3 * KEYPOINTS].reshape(-1, KEYPOINTS, 3)
  return move + jnp.pad(out[:, None, 3 * KEYPOINTS :], ((0, 0), (0, 0), (0, 1)))


def retargeting_move(
  network: Perceptron, params: dict, source: jax.Array, condition: jax.Array
) -> jax.Array:
  """[B, K, 3], [B, 3] (eyes: left, right, target) or [B, 2] (lip: ratio, target) -> [B, K, 3]."""
  flat = jnp.concatenate([source.reshape(len(source), -1), condition], -1)
  return network.apply({'params': params}, flat).reshape(-1, KEYPOINTS, 3)
