"""Which face is seen in which pixel: an exact, capacity-free rasterizer in JAX.

Every face emits the pixels of its clipped bounding box into one flat stream (`streams.visit_all`),
each candidate is tested with exact integer edge functions and a top-left rule, and the nearest one
is kept by integer maxima on the bits of 1/w. Nothing here is differentiable: the visibility is a
constant, and `interpolate` and `antialias` bring the gradients.

Conventions: clip coordinates as in `geometry.cameras` (y down, w = depth > 0; z is not read); pixel
centres at +0.5, row 0 on top; a face's front is the side from which its corners run
counter-clockwise; of equally near faces the lowest index wins. N = B * F faces of all frames, P
pixels of a frame, L corners of a clipped polygon.

Nothing is ever left out for lack of room: no buffer holds a list whose length depends on the data.
The two places where numbers could overflow are bounded by the shapes alone and refused with a
ValueError before anything runs: the int32 prefix sums of a stream (`stream_of`, most) and the
number of frames at once. A clipped polygon has room for all corners that five planes can make.

Sources: Pineda, A Parallel Algorithm for Polygon Rasterization, SIGGRAPH 1988 (edge functions);
Sutherland & Hodgman, Reentrant Polygon Clipping, CACM 1974; Laine et al., Modular Primitives for
High-Performance Differentiable Rendering, SIGGRAPH Asia 2020 (deferred interpolation from a
visibility buffer).
"""

import functools
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from exp_jax.rendering.streams import (
  KEEP_LARGEST,
  chosen_of,
  over_frames,
  stream_of,
  visit_all,
  visit_each,
)
from exp_jax.rendering.topology import Topology

_LIMIT = 2**20  # sub-pixels; two-limb edge functions are exact for triangles of a smaller extent
_GUARD = 2**19 - 2**12  # sub-pixels from the image centre; beyond it faces are clipped
_SMALL = 63  # pixels; triangles of a smaller extent need one int32 limb (at 8 sub-pixel bits)
# Corners of a triangle clipped by five planes. A convex polygon gains one a plane, 8 in the end; one
# that rounding has bent gains at most half its corners: 3, 4, 6, 9, 13, 19.
_POLYGON = 19
_FAN = np.stack([[0, i + 1, i + 2] for i in range(_POLYGON - 2)])  # its triangles
_XYW = np.array([0, 1, 3])
CULLS = ('none', 'back')


@flax.struct.dataclass
class Fragments:
  """The visible surface of each pixel."""

  face_id: jax.Array  # [..., H, W] int32, -1 = empty
  inv_w: jax.Array  # [..., H, W] float32, 1/metres at the pixel centre, 0 = empty
  cull: str = flax.struct.field(pytree_node=False, default='none')  # which faces were not drawn


def rasterize(
  clip: jax.Array,
  topology: Topology,
  image_size: tuple[int, int],
  *,
  near: float = 1e-3,
  cull: str = 'none',
  sub_bits: int = 8,
  chunk: int | None = None,
  method: str = 'scatter',
) -> Fragments:
  """Finds the visible face of every pixel. Unbatched; vmap makes one longer stream of all frames.

  Faces that cross the near plane or reach far outside the image are clipped; faces with a vertex
  that is not finite, without area, or wholly behind the near plane are not drawn. No gradient.

  Args:
    clip: [V, 4] clip coordinates, w in metres.
    topology: the faces.
    image_size: (height, width) pixels.
    near: metres; what has w < near is not seen.
    cull: 'none', or 'back' to leave out faces seen from behind. A closed surface looks the same and
      takes less time.
    sub_bits: vertices snap to 2^-sub_bits pixels; lowered by itself for images above 2048 pixels.
    chunk: candidates per trip, a matter of speed alone.
    method: 'scatter', or 'sort' for devices with slow colliding scatters. Equal results.

  Returns:
    Fragments of [H, W].

  Raises:
    ValueError: for clip coordinates that are not [V, 4], an empty image, or an unknown cull or
      method; and for more frames at once than int32 can number.
  """
  height, width = image_size
  if clip.ndim != 2 or clip.shape[-1] != 4:
    raise ValueError(f'clip must be [V, 4] (use vmap for batches), got {clip.shape}')
  if height < 1 or width < 1 or height * width >= 2**26:
    raise ValueError(f'image_size must be positive and below 2^26 pixels, got {image_size}')
  if method not in KEEP_LARGEST:
    raise ValueError(f'method must be one of {sorted(KEEP_LARGEST)}, got {method!r}')
  if cull not in CULLS:
    raise ValueError(f'cull must be one of {CULLS}, got {cull!r}')
  sub_bits = min(sub_bits, 19 - math.ceil(math.log2(max(height, width))))
  frames_function = _lifted(height, width, near, cull, sub_bits, chunk, method)
  return frames_function(lax.stop_gradient(clip).astype(jnp.float32), topology.faces)


@functools.cache
def _lifted(height, width, near, cull, sub_bits, chunk, method):
  return over_frames(
    functools.partial(
      _rasterize_frames,
      height=height,
      width=width,
      near=near,
      cull=cull,
      sub_bits=sub_bits,
      chunk=chunk,
      method=method,
    ),
    shared=(1,),
  )


def _rasterize_frames(
  clip, faces, *, height, width, near, cull, sub_bits, chunk, method
) -> Fragments:
  """clip [B, V, 4], faces [B or 1, F, 3] -> Fragments [B, H, W]."""
  frames, vertices = clip.shape[:2]
  per_frame = faces.shape[1]
  pixels = height * width
  if frames * pixels >= 2**31 or frames * per_frame >= 2**28:
    raise ValueError(
      f'{frames} frames of {per_frame} faces, {pixels} pixels: map over fewer at once'
    )
  if not per_frame:
    empty = jnp.zeros((frames, height, width))
    return Fragments(face_id=empty.astype(jnp.int32) - 1, inv_w=empty, cull=cull)
  screen = functools.partial(_snap, height=height, width=width, sub_bits=sub_bits)
  boxes = functools.partial(_pixel_box, height=height, width=width, sub_bits=sub_bits)
  keep = KEEP_LARGEST[method]
  corners = (faces + vertices * jnp.arange(frames)[:, None, None]).reshape(-1, 3)
  clip = clip.reshape(-1, 4)
  finite = jnp.isfinite(clip).all(-1)
  clip = jnp.where(finite[:, None], clip, 1.0)
  in_front = clip[:, 3] >= near
  vertex_xy, vertex_inv_w, inside = screen(jnp.where(in_front[:, None], clip, 1.0))
  xy, inv_w = vertex_xy[corners], vertex_inv_w[corners]
  finite = finite[corners].all(1)
  whole = finite & (in_front & inside)[corners].all(1)
  extent = (xy.max(1) - xy.min(1)).max(-1)
  # The candidates of all small faces together must fit an int32.
  most = min(_SMALL, math.isqrt(2**30 // (frames * per_frame)) - 2)
  small = whole & (extent < min(most << sub_bits, 2**14))
  drawn = small & (_turn(xy) < 0) if cull == 'back' else small
  best = jnp.zeros(frames * pixels, jnp.int32)
  winner = jnp.zeros(frames * pixels, jnp.int32)

  def draw(state, xy, inv_w, frame, face, drawn, *, edges, chunk, most):
    """Streams triangles xy [M, 3, 2] (sub-pixels from the centre), inv_w [M, 3], frame, face
    [M].
    """
    low, size = boxes(xy)
    counts = jnp.where(drawn, size[:, 0] * size[:, 1], 0)

    def visit(state, owner, local, valid):
      corner = xy[owner]
      columns = size[owner, 0]
      row = _divide(local, columns)
      at = low[owner] + jnp.stack([local - row * columns, row], -1)  # [C, 2] (x, y)
      half = jnp.array([width, height]) << (sub_bits - 1)
      point = (at << sub_bits) + (1 << (sub_bits - 1)) - half
      covered, from_front, key = edges(corner, inv_w[owner], point)
      if cull == 'back':
        covered &= from_front
      slot = frame[owner] * pixels + at[:, 1] * width + at[:, 0]
      slot = jnp.where(covered & valid, slot, frames * pixels)
      return keep(*state, slot, key, face[owner])

    return visit_all(stream_of(counts, chunk=chunk, most=most), state, visit)

  index = jnp.arange(frames * per_frame, dtype=jnp.int32)
  state = draw(
    (best, winner),
    xy,
    inv_w,
    index // per_frame,
    index % per_frame,
    drawn,
    edges=_cover_small,
    chunk=chunk or 2**15,
    most=(most + 2) ** 2,
  )

  # Large triangles and those that need clipping: a few at a time, each up to a whole frame of
  # candidates.
  at_once = max(1, min(256, 2**30 // (_FAN.shape[0] * pixels)))
  rest = finite & ~small & in_front[corners].any(1)
  # Beyond the guard band coordinates are clamped, which leaves outside what is outside.
  rest &= (boxes(xy)[1] > 0).all(1) | ~in_front[corners].all(1)
  planes = _planes(height, width, near, sub_bits)

  def draw_clipped(state, owner, valid):
    polygon, count = _clip(clip[corners[owner]][..., _XYW], planes)  # [K, L, 3]
    xy, inv_w, _ = screen(polygon)
    drawn = valid[:, None] & (jnp.arange(_FAN.shape[0]) < count[:, None] - 2)
    owner = jnp.repeat(owner, _FAN.shape[0])
    return draw(
      state,
      xy[:, _FAN].reshape(-1, 3, 2),
      inv_w[:, _FAN].reshape(-1, 3),
      owner // per_frame,
      owner % per_frame,
      drawn.reshape(-1),
      edges=_cover,
      chunk=chunk or 2**14,
      most=pixels,
    )

  state = visit_each(chosen_of(rest, chunk=at_once), state, draw_clipped)
  best, winner = (x.reshape(frames, height, width) for x in state)
  return Fragments(
    face_id=jnp.where(best > 0, winner, -1),
    inv_w=lax.bitcast_convert_type(best, jnp.float32),
    cull=cull,
  )


def _snap(corners, *, height, width, sub_bits):
  """[..., (x, y, [z,] w)] -> xy [..., 2] int32 sub-pixels from the centre, inv_w, within guard
  band.
  """
  w = corners[..., -1]
  half = jnp.array([width, height], jnp.float32) * 2.0 ** (sub_bits - 1)
  xy = corners[..., :2] / w[..., None] * half
  inside = (jnp.abs(xy) <= _GUARD).all(-1)
  return jnp.round(jnp.clip(xy, -_LIMIT / 2, _LIMIT / 2)).astype(jnp.int32), 1 / w, inside


def _pixel_box(xy, *, height, width, sub_bits):
  """First pixel (x, y) [M, 2] and size [M, 2] of the pixel centres in the bounding boxes of xy [M,
  3, 2].
  """
  size = jnp.array([width, height])
  first_centre = (1 << (sub_bits - 1)) - (size << (sub_bits - 1))
  low = (xy.min(1) - first_centre + (1 << sub_bits) - 1) >> sub_bits
  high = (xy.max(1) - first_centre) >> sub_bits
  low = jnp.maximum(low, 0)
  high = jnp.minimum(high, size - 1)
  return low, jnp.maximum(high - low + 1, 0)


def _turn(xy):
  """Twice the signed area of xy [M, 3, 2], negative from the front; right for small triangles."""
  a, b = xy[:, 1] - xy[:, 0], xy[:, 2] - xy[:, 0]
  return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _divide(a, b):
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


def _cover_small(corner, inv_w, point):
  """As `_cover`, for triangles whose edge functions fit one int32."""
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
  return covered, flipped, _key([v.astype(jnp.float32) for v in values], inv_w)


def _cover(corner, inv_w, point):
  """Exact coverage of points [C, 2] by triangles corner [C, 3, 2], and the key of their depth.

  Each edge function, up to 2^41, is high * 1024 + low with 0 <= low < 1024.

  Returns:
    covered [C] bool (top-left rule), from_front [C] bool, key [C] int32: the bits of the
    interpolated 1/w.
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
  return covered, flipped, _key(values, inv_w)


def _key(values, inv_w):
  """Bits of sum(value * inv_w) / sum(value): positive floats are ordered as integers are."""
  a, b, c = values
  area = a + b + c
  at = (a * inv_w[:, 0] + b * inv_w[:, 1] + c * inv_w[:, 2]) / jnp.where(area == 0, 1.0, area)
  return jnp.maximum(lax.bitcast_convert_type(at, jnp.int32), 1)


def _planes(height, width, near, sub_bits):
  """[5, 4] coefficients of (x, y, w, 1) >= 0: near plane and the four sides of the guard band."""
  across, down = (_GUARD / (size * 2.0 ** (sub_bits - 1)) for size in (width, height))
  return jnp.array(
    [[0, 0, 1, -near], [1, 0, across, 0], [-1, 0, across, 0], [0, 1, down, 0], [0, -1, down, 0]],
    jnp.float32,
  )


def _clip(triangles, planes):
  """Clips triangles [K, 3, 3] (x, y, w) to polygons [K, L, 3] with count [K] corners in use.

  New corners depend on the two ends of an edge only, not on their order: neighbours agree on them.
  """
  polygon = jnp.pad(triangles, ((0, 0), (0, _POLYGON - 3), (0, 0)))
  slots = jnp.arange(_POLYGON)

  def one_plane(carry, plane):
    polygon, count = carry
    used = slots < count[:, None]
    distance = polygon @ plane[:3] + plane[3]
    following = jnp.where(slots + 1 < count[:, None], slots + 1, 0)
    end = jnp.take_along_axis(polygon, following[..., None], 1)
    end_distance = jnp.take_along_axis(distance, following, 1)
    inside, end_inside = distance >= 0, end_distance >= 0
    swap = _after(polygon, end)
    first = jnp.where(swap[..., None], end, polygon)
    last = jnp.where(swap[..., None], polygon, end)
    first_distance = jnp.where(swap, end_distance, distance)
    last_distance = jnp.where(swap, distance, end_distance)
    span = first_distance - last_distance
    t = first_distance / jnp.where(span == 0, 1.0, span)
    crossing = first + t[..., None] * (last - first)
    emits = jnp.stack([used & inside, used & (inside != end_inside)], -1).reshape(-1, 2 * _POLYGON)
    emitted = jnp.stack([polygon, crossing], 2).reshape(-1, 2 * _POLYGON, 3)
    target = jnp.where(emits, jnp.cumsum(emits, -1) - 1, _POLYGON)
    place = lambda row, at: jnp.ones((_POLYGON, 3)).at[at].set(row, mode='drop')
    return (jax.vmap(place)(emitted, target), emits.sum(-1)), None

  (polygon, count), _ = lax.scan(one_plane, (polygon, jnp.full(polygon.shape[0], 3)), planes)
  return polygon, count


def _after(a, b):
  """Lexicographic a > b over the last axis of three."""
  greater, equal = a > b, a == b
  return greater[..., 0] | (equal[..., 0] & (greater[..., 1] | (equal[..., 1] & greater[..., 2])))
