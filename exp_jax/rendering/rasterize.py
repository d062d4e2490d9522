"""Which face is seen in which pixel: an exact, capacity-free rasterizer in JAX.

Every face emits the pixels of its clipped bounding box into one flat stream (`streams.visit_all`),
each candidate is tested with exact integer edge functions and a top-left rule (`coverage`), and the
nearest one is kept by integer maxima on the bits of its depth order. Nothing here is
differentiable: the visibility is a constant, and `interpolate` and `antialias` bring the gradients.

The depth order is a positive number, linear on the screen, that is larger for what is nearer:

  perspective:  1/w; z is not read.
  parallel:     1 + (farthest - z) / (farthest - nearest) over the vertices of the frame. A frame is
                parallel where all its vertices in front have the same w, but not the same z, and no
                face goes through the near plane, as of an orthographic camera: there 1/w tells
                nothing, and z decides.

Conventions: clip coordinates as in `geometry.cameras` (y down, w > 0); pixel centres at +0.5, row 0
on top; a face's front is the side from which its corners run counter-clockwise; of equally near
faces the lowest index wins. B frames, N = B * F faces of all frames, P pixels of a frame, L corners
of a clipped polygon.

Nothing is ever left out for lack of room: no buffer holds a list whose length depends on the data.
The two places where numbers could overflow are bounded by the shapes alone and refused with a
ValueError before anything runs: the int32 prefix sums of a stream (`stream_of`, most) and the
number of frames at once. A clipped polygon has room for all corners that five planes can make.

Source: Laine et al., Modular Primitives for High-Performance Differentiable Rendering, SIGGRAPH
Asia 2020 (deferred interpolation from a visibility buffer); those of `coverage` and `clipping`.
"""

import dataclasses
import functools
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from exp_jax.rendering.clipping import FAN, clip_polygons, guard_planes
from exp_jax.rendering.coverage import cover, cover_small, divide, turn
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
_XYW = np.array([0, 1, 3])
CULLS = ('none', 'back')


@flax.struct.dataclass
class Fragments:
  """The visible surface of each pixel.

  Attributes:
    face_id: [..., H, W] int32, -1 = empty.
    inv_w: [..., H, W] float32, 1/w at the pixel centre, 0 = empty; 1/metres in perspective.
    z: [..., H, W] float32, z at the pixel centre where all w of the frame are equal, the depth in
      metres of an orthographic camera; 0 where empty, and where w differ. None stands for zeros.
    parallel: [...] bool, whether z decided what is seen, and not w. None stands for False.
    cull: which faces were not drawn.
  """

  face_id: jax.Array
  inv_w: jax.Array
  z: jax.Array | None = None
  parallel: jax.Array | None = None
  cull: str = flax.struct.field(pytree_node=False, default='none')


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
    clip: [V, 4] clip coordinates of `geometry.clip_coordinates`; where all w are equal, z decides
      what is nearer, else w.
    topology: the faces.
    image_size: (height, width) pixels.
    near: what has w < near is not seen; metres in perspective.
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
  plan = _Plan(height, width, near, cull, sub_bits, chunk, method)
  return _lifted(plan)(lax.stop_gradient(clip).astype(jnp.float32), topology.faces)


@dataclasses.dataclass(frozen=True)
class _Plan:
  """How a frame is drawn: what `rasterize` was asked for."""

  height: int
  width: int
  near: float
  cull: str
  sub_bits: int
  chunk: int | None
  method: str

  @property
  def pixels(self) -> int:
    return self.height * self.width


@flax.struct.dataclass
class _Order:
  """The depth order of the vertices of B frames; see the top of the file."""

  of_vertices: jax.Array  # [B * V] positive, larger is nearer
  nearness: jax.Array  # [B * V] the same where the frame is parallel, linear in z; else meaningless
  parallel: jax.Array  # [B] bool, whether z decides
  one_w: jax.Array  # [B] bool, whether all w are equal
  inv_w: jax.Array  # [B] the 1/w of a frame of one w
  farthest: jax.Array  # [B] largest z
  span: jax.Array  # [B] largest less smallest z


@flax.struct.dataclass
class _Triangles:
  """M triangles on the screen."""

  xy: jax.Array  # [M, 3, 2] int32 sub-pixels from the image centre
  depth: jax.Array  # [M, 3] depth order
  frame: jax.Array  # [M] int32
  face: jax.Array  # [M] int32, within the frame
  drawn: jax.Array  # [M] bool; the others emit nothing


@functools.cache
def _lifted(plan):
  return over_frames(functools.partial(_rasterize_frames, plan=plan), shared=(1,))


def _rasterize_frames(clip, faces, *, plan) -> Fragments:
  """clip [B, V, 4], faces [B or 1, F, 3] -> Fragments [B, H, W]."""
  (frames, vertices), per_frame = clip.shape[:2], faces.shape[1]
  if frames * plan.pixels >= 2**31 or frames * per_frame >= 2**28:
    raise ValueError(
      f'{frames} frames of {per_frame} faces, {plan.pixels} pixels: map over fewer at once'
    )
  if not per_frame:
    empty = jnp.zeros((frames, plan.height, plan.width))
    ids, flat = empty.astype(jnp.int32) - 1, jnp.zeros(frames, bool)
    return Fragments(face_id=ids, inv_w=empty, z=empty, parallel=flat, cull=plan.cull)
  corners = (faces + vertices * jnp.arange(frames)[:, None, None]).reshape(-1, 3)
  clip = clip.reshape(-1, 4)
  finite = jnp.isfinite(clip).all(-1)
  clip = jnp.where(finite[:, None], clip, 1.0)
  in_front = clip[:, 3] >= plan.near
  vertex_xy, vertex_inv_w, inside = _snap(jnp.where(in_front[:, None], clip, 1.0), plan)
  whole_front, some_front = in_front[corners].all(1), in_front[corners].any(1)
  usable = finite[corners].all(1)
  crossing = (usable & some_front & ~whole_front).reshape(frames, per_frame).any(1)
  order = _order(clip[:, 2], vertex_inv_w, finite & in_front, crossing)
  xy = vertex_xy[corners]
  whole = usable & (in_front & inside)[corners].all(1)
  extent = (xy.max(1) - xy.min(1)).max(-1)
  # The candidates of all small faces together must fit an int32.
  most = min(_SMALL, math.isqrt(2**30 // (frames * per_frame)) - 2)
  small = whole & (extent < min(most << plan.sub_bits, 2**14))
  index = jnp.arange(frames * per_frame, dtype=jnp.int32)
  triangles = _Triangles(
    xy=xy,
    depth=order.of_vertices[corners],
    frame=index // per_frame,
    face=index % per_frame,
    drawn=small & (turn(xy) < 0) if plan.cull == 'back' else small,
  )
  nothing = jnp.zeros(frames * plan.pixels, jnp.int32)
  state = _draw(
    (nothing, nothing), triangles, plan, edges=cover_small, chunk=2**15, most=(most + 2) ** 2
  )
  rest = usable & ~small & some_front
  # Beyond the guard band coordinates are clamped, which leaves outside what is outside.
  rest &= (_pixel_box(xy, plan)[1] > 0).all(1) | ~whole_front
  best, winner = _draw_clipped(state, rest, clip, corners, order, per_frame, plan)
  return _fragments(best, winner, order, plan)


def _order(z, inv_w, in_front, crossing):
  """The depth order of B * V vertices.

  Args:
    z: [B * V].
    inv_w: [B * V].
    in_front: [B * V] bool, finite vertices in front of the near plane.
    crossing: [B] bool, whether a face of the frame goes through the near plane.
  """
  frames = crossing.shape[0]
  by_frame = lambda values, empty: jnp.where(in_front, values, empty).reshape(frames, -1)
  low, high = by_frame(inv_w, jnp.inf).min(1), by_frame(inv_w, -jnp.inf).max(1)
  one_w = (low == high) & ~crossing
  nearest, farthest = by_frame(z, jnp.inf).min(1), by_frame(z, -jnp.inf).max(1)
  span = farthest - nearest
  parallel = one_w & (span > 0)
  steps = (farthest[:, None] - z.reshape(frames, -1)) / jnp.where(span > 0, span, 1.0)[:, None]
  nearness = 1 + jnp.clip(steps, 0.0, 1.0)
  of_vertices = jnp.where(parallel[:, None], nearness, inv_w.reshape(frames, -1))
  return _Order(
    of_vertices.reshape(-1), nearness.reshape(-1), parallel, one_w, high, farthest, span
  )


def _draw(state, triangles, plan, *, edges, chunk, most):
  """Streams the candidate pixels of triangles, none of which has more than `most`, into the state.

  Args:
    state: the largest keys [B * P] so far, and their faces [B * P].
    edges: `cover`, or `cover_small` where all triangles are.
  """
  low, size = _pixel_box(triangles.xy, plan)
  counts = jnp.where(triangles.drawn, size[:, 0] * size[:, 1], 0)
  keep, nowhere = KEEP_LARGEST[plan.method], state[0].shape[0]
  half = jnp.array([plan.width, plan.height]) << (plan.sub_bits - 1)

  def visit(state, owner, local, valid):
    columns = size[owner, 0]
    row = divide(local, columns)
    at = low[owner] + jnp.stack([local - row * columns, row], -1)  # [C, 2] (x, y)
    point = (at << plan.sub_bits) + (1 << (plan.sub_bits - 1)) - half
    covered, from_front, key = edges(triangles.xy[owner], triangles.depth[owner], point)
    if plan.cull == 'back':
      covered &= from_front
    slot = triangles.frame[owner] * plan.pixels + at[:, 1] * plan.width + at[:, 0]
    slot = jnp.where(covered & valid, slot, nowhere)
    return keep(*state, slot, key, triangles.face[owner])

  return visit_all(stream_of(counts, chunk=plan.chunk or chunk, most=most), state, visit)


def _draw_clipped(state, chosen, clip, corners, order, per_frame, plan):
  """Draws the chosen faces [N] bool, large or to be clipped: a few at a time, each up to a whole
  frame of candidates.
  """
  at_once = max(1, min(256, 2**30 // (FAN.shape[0] * plan.pixels)))
  size = (plan.height, plan.width)
  planes = guard_planes(size, near=plan.near, guard=_GUARD, sub_bits=plan.sub_bits)

  def draw(state, owner, valid):
    at = corners[owner]  # [K, 3]
    polygon = jnp.concatenate([clip[at][..., _XYW], order.nearness[at][..., None]], -1)
    polygon, count = clip_polygons(polygon, planes)  # [K, L, 4]
    xy, inv_w, _ = _snap(polygon[..., :3], plan)
    depth = jnp.where(order.parallel[owner // per_frame][:, None], polygon[..., 3], inv_w)
    drawn = valid[:, None] & (jnp.arange(FAN.shape[0]) < count[:, None] - 2)
    owner = jnp.repeat(owner, FAN.shape[0])
    triangles = _Triangles(
      xy=xy[:, FAN].reshape(-1, 3, 2),
      depth=depth[:, FAN].reshape(-1, 3),
      frame=owner // per_frame,
      face=owner % per_frame,
      drawn=drawn.reshape(-1),
    )
    return _draw(state, triangles, plan, edges=cover, chunk=2**14, most=plan.pixels)

  return visit_each(chosen_of(chosen, chunk=at_once), state, draw)


def _fragments(best, winner, order, plan) -> Fragments:
  """Keys and faces [B * P] -> Fragments [B, H, W]."""
  best, winner = (x.reshape(-1, plan.height, plan.width) for x in (best, winner))
  seen, depth = best > 0, lax.bitcast_convert_type(best, jnp.float32)
  parallel, one_w, inv_w, farthest, span = (
    x[:, None, None] for x in (order.parallel, order.one_w, order.inv_w, order.farthest, order.span)
  )
  return Fragments(
    face_id=jnp.where(seen, winner, -1),
    inv_w=jnp.where(parallel, jnp.where(seen, inv_w, 0.0), depth),
    z=jnp.where(one_w & seen, farthest - (depth - 1) * span, 0.0),
    parallel=order.parallel,
    cull=plan.cull,
  )


def _snap(corners, plan):
  """[..., (x, y, [z,] w)] -> xy [..., 2] int32 sub-pixels from the centre, 1/w, whether within the
  guard band.
  """
  w = corners[..., -1]
  half = jnp.array([plan.width, plan.height], jnp.float32) * 2.0 ** (plan.sub_bits - 1)
  xy = corners[..., :2] / w[..., None] * half
  inside = (jnp.abs(xy) <= _GUARD).all(-1)
  return jnp.round(jnp.clip(xy, -_LIMIT / 2, _LIMIT / 2)).astype(jnp.int32), 1 / w, inside


def _pixel_box(xy, plan):
  """First pixel (x, y) [M, 2] and size [M, 2] of the pixel centres in the boxes about xy [M, 3,
  2]."""
  sub_bits, size = plan.sub_bits, jnp.array([plan.width, plan.height])
  first_centre = (1 << (sub_bits - 1)) - (size << (sub_bits - 1))
  low = (xy.min(1) - first_centre + (1 << sub_bits) - 1) >> sub_bits
  high = (xy.max(1) - first_centre) >> sub_bits
  low = jnp.maximum(low, 0)
  high = jnp.minimum(high, size - 1)
  return low, jnp.maximum(high - low + 1, 0)
