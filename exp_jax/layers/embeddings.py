"""Position and time embeddings of the video transformer.

  sinusoid:  angle_i = t * 10000^(-i/n), i < n; the vector is [cos(angle), sin(angle)], cos first.
  rotary:    an axis with n pairs rotates pair j of a token at position p by p * 10000^(-j/n).
             A head of e channels gives floor(e/6) pairs to rows and to columns, the rest to frames.
             Pairs are adjacent channels (2j, 2j+1).

Letters: F, H, W frames, rows and columns of the token grid; tokens are ordered (frame, row,
column).
Source: Su et al., RoFormer, 2021, eq. 34; Wan 2.1 technical report, section 4.
"""

import jax
import jax.numpy as jnp
import numpy as np

_THETA = 10_000.0


def sinusoid(t: jax.Array, width: int) -> jax.Array:
  """[...] times -> float32 [..., width]; `width` must be even."""
  half = width // 2
  frequencies = _THETA ** (-np.arange(half) / half)
  angles = t.astype(jnp.float32)[..., None] * frequencies.astype(np.float32)
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def rotary_angles(grid: tuple[int, int, int], head_width: int) -> np.ndarray:
  """Angles of every token of a (F, H, W) grid: float32 [F*H*W, head_width / 2].

  Computed in float64 on the host: it is a constant of the compiled program.
  Under context parallelism slice this table; local positions are not global positions.
  """
  spatial = head_width // 6
  pairs = (head_width // 2 - 2 * spatial, spatial, spatial)
  angles = []
  for axis, (size, count) in enumerate(zip(grid, pairs)):
    table = np.arange(size)[:, None] * _THETA ** (-np.arange(count) / max(count, 1))
    shape = [1, 1, 1, count]
    shape[axis] = size
    angles.append(np.broadcast_to(table.reshape(shape), (*grid, count)))
  return np.concatenate(angles, axis=-1).reshape(-1, head_width // 2).astype(np.float32)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
  """Rotates adjacent channel pairs: [..., N, h, e], [N, e/2] -> [..., N, h, e], in float32."""
  x = x.astype(jnp.float32)
  pairs = x.reshape(*x.shape[:-1], -1, 2)
  cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]  # [N, 1, e/2]
  a, b = pairs[..., 0], pairs[..., 1]
  return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)
