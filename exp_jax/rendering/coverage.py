"""Exact coverage: integer edge functions with a top-left rule, and the order of depths as integers.

Corners and points are int32 sub-pixels from the image centre, so that every test is exact: a pixel
centre on an edge that two triangles share belongs to one of them. Small triangles need one 32-bit
word for an edge function, large ones two.

Source: Pineda, A Parallel Algorithm for Polygon Rasterization, SIGGRAPH 1988.
"""

import jax
import jax.numpy as jnp
from jax import lax


def turn(xy: jax.Array) -> jax.Array:
  """Twice the signed area [M] of xy [M, 3, 2], negative from the front; right for small
  triangles."""
  a, b = xy[:, 1] - xy[:, 0], xy[:, 2] - xy[:, 0]
  return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def divide(a: jax.Array, b: jax.Array) -> jax.Array:
  """floor(a / b) of int32 a >= 0, b >= 1 without the slow integer division."""
  quotient = (a.astype(jnp.float32) / b.astype(jnp.float32)).astype(jnp.int32)
  rest = a - quotient * b
  return quotient + (rest >= b).astype(jnp.int32) - (rest < 0).astype(jnp.int32)


def _sides(corner, point):
  """The three directed edges (opposite corner 0, 1, 2): direction (dx, dy) and point relative to
  the start.
  """
  for start, end in ((1, 2), (2, 0), (0, 1)):
    dx, dy = (corner[:, end] - corner[:, start]).T
    qx, qy = (point - corner[:, start]).T
    yield dx, dy, qx, qy


def cover_small(
  corner: jax.Array, depth: jax.Array, point: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """As `cover`, for triangles whose edge functions fit one int32: of an extent up to 63 pixels."""
  values, tops = [], []
  for dx, dy, qx, qy in _sides(corner, point):
    values.append(dx * qy - dy * qx)
    tops.append((dy < 0) | ((dy == 0) & (dx > 0)))
  area = values[0] + values[1] + values[2]
  flipped = area < 0
  covered = area != 0
  for value, top in zip(values, tops):
    value = jnp.where(flipped, -value, value)
    # Walking the other way round turns a left edge into a right one, for dx, dy not both zero.
    covered &= (value > 0) | ((value == 0) & (top ^ flipped))
  return covered, flipped, _key([v.astype(jnp.float32) for v in values], depth)


def cover(
  corner: jax.Array, depth: jax.Array, point: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Exact coverage of points by triangles, and the key of their depth.

  Each edge function, up to 2^41, is high * 1024 + low with 0 <= low < 1024.

  Args:
    corner: [C, 3, 2] int32 sub-pixels from the image centre.
    depth: [C, 3] positive float32 that is linear on the screen, larger is nearer.
    point: [C, 2] int32 sub-pixels.

  Returns:
    covered [C] bool (top-left rule), from_front [C] bool, key [C] int32: the bits of the
    interpolated depth order.
  """
  highs, lows, tops = [], [], []
  for dx, dy, qx, qy in _sides(corner, point):
    low = (dx & 1023) * qy - (dy & 1023) * qx
    highs.append((dx >> 10) * qy - (dy >> 10) * qx + (low >> 10))
    lows.append(low & 1023)
    tops.append((dy < 0) | ((dy == 0) & (dx > 0)))
  # The area, summed limb by limb; a third of each high limb keeps the sum inside an int32.
  values = [h.astype(jnp.float32) * 1024 + l.astype(jnp.float32) for h, l in zip(highs, lows)]
  (ax, ay), (bx, by), (cx, cy) = (corner[:, i].T for i in range(3))
  low = ((bx - ax) & 1023) * (cy - ay) - ((by - ay) & 1023) * (cx - ax)
  high = ((bx - ax) >> 10) * (cy - ay) - ((by - ay) >> 10) * (cx - ax) + (low >> 10)
  flipped = high < 0
  covered = (high != 0) | ((low & 1023) != 0)
  for high, low, top in zip(highs, lows, tops):
    zero = (high == 0) & (low == 0)
    positive = (high >= 0) & ~zero
    covered &= jnp.where(flipped, high < 0, positive) | (zero & (top ^ flipped))
  return covered, flipped, _key(values, depth)


def _key(values, depth):
  """Bits of sum(value * depth) / sum(value): positive floats are ordered as integers are."""
  a, b, c = values
  area = a + b + c
  at = (a * depth[:, 0] + b * depth[:, 1] + c * depth[:, 2]) / jnp.where(area == 0, 1.0, area)
  return jnp.maximum(lax.bitcast_convert_type(at, jnp.int32), 1)
