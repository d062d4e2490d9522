"""Antialiasing along silhouette edges: the source of gradients with respect to what covers what.

A pixel-driven search finds an edge only where a triangle with that edge owns a pixel centre: on a
mesh finer than the pixels it finds next to none. We go from the edges instead. A silhouette edge
(between a face that is drawn from one side and one that is drawn from the other or not at all) that
is steeper than 45 degrees meets each scanline between two horizontal neighbours, a shallow one each
column between two vertical neighbours. Where it separates a nearer pixel on its inner side from a
farther one, the pixel that the edge cuts takes on its neighbour's value by the cut fraction. Of
several edges between two pixels the outermost counts. Each output pixel is a convex mix of the
input.

Of a dense mesh few edges are silhouettes: one sign per face and two look-ups per edge find them,
and only they are streamed. Only the pixels of the pairs they cut are written; the rest is a copy.

Notation: v runs along the scanline index, u across the pair; pixel i is the one at the smaller u, t
in [0, 1) is the distance of the crossing from its centre, alpha = 1/2 - t > 0 is the share of pixel
i beyond the edge, -alpha > 0 the share of pixel i + 1 before it. E edges, P = H * W pixels, K edges
or crossings of a chunk.

Known limits: where surfaces intersect there is no edge; features that miss all pixel centres stay
unseen; edges with an end behind the camera are left out.

Sources: Laine et al., Modular Primitives for High-Performance Differentiable Rendering, SIGGRAPH
Asia 2020, sec. 3.4 (blending neighbours analytically); the view from edges is that of Li et al.,
Differentiable Monte Carlo Ray Tracing through Edge Sampling, SIGGRAPH Asia 2018.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from exp_jax.rendering.rasterize import Fragments
from exp_jax.rendering.streams import (
  Chosen,
  chosen_of,
  keep_largest,
  over_frames,
  stream_of,
  visit_all,
  visit_each,
)
from exp_jax.rendering.topology import Topology

_MIN_W = 1e-3  # metres
_EDGES, _CROSSINGS = 2048, 4096  # a trip's worth of each


def antialias(
  image: jax.Array, clip: jax.Array, topology: Topology, fragments: Fragments
) -> jax.Array:
  """Blends pixels across silhouettes; differentiable in `image` and `clip` (reverse mode).

  Apply it to finished images (mask, depth over a background, unit normals), never to attributes;
  stack several along the channels to blend them in one pass.
  Unbatched; vmap makes one longer stream of all frames.

  Args:
    image: [H, W, C].
    clip: [V, 4] clip coordinates, as given to `rasterize`.
    topology: the faces and edges.
    fragments: of [H, W]; constant.

  Returns:
    [H, W, C], each value within the range of its pixel and that pixel's four neighbours.

  Raises:
    ValueError: if image and fragments differ in size.
  """
  if image.shape[:2] != fragments.face_id.shape:
    raise ValueError(f'image {image.shape} does not fit fragments {fragments.face_id.shape}')
  if not topology.edges.shape[0]:
    return image
  size = fragments.face_id.shape
  nearness, parallel = _nearness(fragments)
  of_edges = _silhouettes(size, fragments.cull)
  sides = of_edges(lax.stop_gradient(clip), topology.faces, topology.edge_faces)
  return _blend(image, clip, topology.edges, sides, nearness, parallel)


def _nearness(fragments):
  """What is larger for the nearer of two pixels [H, W], and whether it is -z [] bool; else it is
  1/w."""
  inv_w = lax.stop_gradient(fragments.inv_w)
  if fragments.parallel is None:
    return inv_w, jnp.zeros((), bool)
  minus_z = jnp.where(fragments.face_id >= 0, -lax.stop_gradient(fragments.z), -jnp.inf)
  return jnp.where(fragments.parallel, minus_z, inv_w), fragments.parallel


@jax.custom_vjp
def _blend(image, clip, edges, sides, nearness, parallel):
  return _forward(image, clip, edges, sides, nearness, parallel)[0]


def _forward(image, clip, edges, sides, nearness, parallel):
  output, *found = _blend_lifted(image, clip, edges, sides, nearness, parallel)
  return output, (image, clip, edges, sides, *found)


def _backward(residuals, cotangent):
  d_image, d_clip = _blend_transposed_lifted(*residuals, cotangent)
  return d_image, d_clip, None, None, None, None


_blend.defvjp(_forward, _backward)


def _screen(clip, height, width):
  """clip [..., 4] -> pixels [..., 2], for w > 0."""
  half = jnp.array([width, height]) / 2
  return (clip[..., :2] / clip[..., 3:] + 1) * half


@functools.cache
def _silhouettes(size, cull):
  """Lifted `_sides_of_edges`, for images of this (height, width)."""
  function = functools.partial(_sides_of_edges, height=size[0], width=size[1], cull=cull)
  return over_frames(function, shared=(1, 2), together=True)


def _sides_of_edges(clip, faces, edge_faces, *, height, width, cull):
  """The side on which the surface lies of edges that may separate pixels, as the sign of a turn.

  The side on which a face lies of its edge is that to which the face turns, and all three edges
  get it from one computation: the outlines they form are closed, whatever rounding does. Frames lie
  side by side, so that one look-up serves all of them.

  Args:
    clip: [B, V, 4]. faces: [B or 1, F, 3]. edge_faces: [B or 1, E, 2].

  Returns:
    [B, E] int8: 0 = no silhouette, 1 or -1: going from a to b the surface lies where the turn has
    this sign.
  """
  usable = (jnp.isfinite(clip).all(-1) & (clip[..., 3] >= _MIN_W))[..., None]
  pixels = _screen(jnp.where(usable, clip, 1.0), height, width)
  pixels = jnp.where(usable, pixels, jnp.nan)  # NaN: neither side

  def of_edges(pixels, faces, edge_faces):
    """[V, b, 2], [F, 3], [E, 2] -> [E, b]."""
    x, y = pixels[..., 0], pixels[..., 1]
    (ax, bx, cx), (ay, by, cy) = ([plane[faces[:, k]] for k in range(3)] for plane in (x, y))
    turn = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)  # [F, b]
    drawn_backward = 0 if cull == 'back' else (turn >= 0).astype(jnp.int8)
    sides = jnp.pad(drawn_backward - (turn < 0).astype(jnp.int8), ((1, 0), (0, 0)))
    runs = jnp.sign(edge_faces).astype(jnp.int8)
    one, other = (sides[jnp.abs(edge_faces[:, k])] * runs[:, k, None] for k in range(2))
    return jnp.sign(one + other)

  if faces.shape[0] == edge_faces.shape[0] == 1:
    return of_edges(pixels.swapaxes(0, 1), faces[0], edge_faces[0]).T
  own = [None if table.shape[0] == 1 else 0 for table in (faces, edge_faces)]
  tables = [table[0] if axis is None else table for table, axis in zip((faces, edge_faces), own)]
  return jax.vmap(of_edges, (0, *own))(pixels[:, :, None], *tables)[..., 0]


@flax.struct.dataclass
class _Crossings:
  """Where edges cut scanlines between two pixel centres of the image."""

  frame: jax.Array  # [K] int32
  edge: jax.Array  # [K] int32, within its frame
  ends: jax.Array  # [K, 2] int32, into the vertices of all frames
  corners: jax.Array  # [K, 2, 4] clip coordinates of a, b
  in_rows: jax.Array  # [K] bool, whether the scanline is a row (or a column)
  inner: jax.Array  # [K] int8, as of `_sides_of_edges`
  along: jax.Array  # [K] int32, the scanline
  before: jax.Array  # [K] int32, the pair's first pixel on it
  pixels: tuple[jax.Array, jax.Array]  # [K] int32 each, the pair, within its frame
  valid: jax.Array  # [K] bool; the others mean nothing


def _fold(clip, edges, sides, silhouettes, image_size, state, visit, *, both_ways):
  """Folds `visit` (state, _Crossings) -> state over all crossings of silhouettes.

  Args:
    clip: [B, V, 4]. edges: [B or 1, E, 2]. sides: [B, E] of `_sides_of_edges`, not 0 at
      `silhouettes`.
    both_ways: every edge crosses rows and columns; else rows if it is steep, else columns.
  """
  (height, width), per_frame, vertices = image_size, edges.shape[1], clip.shape[1]
  clip, sides = clip.reshape(-1, 4), sides.reshape(-1)

  def some_edges(state, index, valid):
    frame = index // per_frame
    edge = index - frame * per_frame
    ends = edges[jnp.minimum(frame, edges.shape[0] - 1), edge] + vertices * frame[:, None]
    corners = clip[ends]
    # The barriers make all passes round alike, whatever each of them is fused with.
    screen = lax.optimization_barrier(_screen(corners, height, width))
    rise = jnp.abs(screen[:, 1] - screen[:, 0])
    steep = rise[:, 1] >= rise[:, 0]
    if both_ways:
      twice = lambda x: jnp.concatenate([x, x])
      steep = jnp.arange(2 * index.size) < index.size
      frame, edge, ends, corners, screen, index, valid = map(
        twice, (frame, edge, ends, corners, screen, index, valid)
      )
    along = _along(screen, steep)
    first = jnp.clip(jnp.ceil(along.min(1) - 0.5), 0, 2.0**20).astype(jnp.int32)
    end = jnp.clip(jnp.ceil(along.max(1) - 0.5), 0, jnp.where(steep, height, width))
    counts = jnp.where(valid, jnp.maximum(end.astype(jnp.int32) - first, 0), 0)
    first, counts = lax.optimization_barrier((first, counts))
    inner = sides[index]

    def some_crossings(state, owner, local, valid):
      in_rows, line = steep[owner], first[owner] + local
      u = _cut(screen[owner], in_rows, line)[0]
      before = jnp.floor(jnp.clip(u, -2.0, max(height, width) + 1.0)).astype(jnp.int32)
      before = lax.optimization_barrier(before)
      inside = (before >= 0) & (before < jnp.where(in_rows, width, height) - 1)
      one = jnp.where(in_rows, line * width + before, before * width + line)
      crossings = _Crossings(
        frame=frame[owner],
        edge=edge[owner],
        ends=ends[owner],
        corners=corners[owner],
        in_rows=in_rows,
        inner=inner[owner],
        along=line,
        before=before,
        pixels=(one, one + jnp.where(in_rows, 1, width)),
        valid=valid & inside,
      )
      return visit(state, crossings)

    stream = stream_of(counts, chunk=_CROSSINGS, most=max(height, width))
    return visit_all(stream, state, some_crossings)

  return visit_each(silhouettes, state, some_edges)


def _compact(sides) -> Chosen:
  return chosen_of(sides.reshape(-1) != 0, chunk=_EDGES)


def _along(screen, in_rows):
  """v of both ends [K, 2] of edges screen [K, 2, 2]."""
  return jnp.where(in_rows[:, None], screen[..., 1], screen[..., 0])


def _cut(screen, in_rows, line):
  """Where edges screen [K, 2, 2] meet the middle of their scanline [K].

  Returns:
    u [K], in pixels from the centre of pixel 0; s [K], the place between the ends, 0 at a, 1 at b.
  """
  v = _along(screen, in_rows)
  span = v[:, 1] - v[:, 0]
  s = (line + 0.5 - v[:, 0]) / jnp.where(span == 0, 1.0, span)
  u = _along(screen, ~in_rows)
  return u[:, 0] + s * (u[:, 1] - u[:, 0]) - 0.5, s


def _blend_frames(image, clip, edges, sides, nearness, parallel):
  """`_blend_seen`, where anything is seen.

  The condition also keeps XLA from starting on this before the visibility is known, and from
  holding the buffers of both: a third of the memory of a whole pass.
  """
  arguments = image, clip, edges, sides, nearness, parallel
  _, *found = jax.eval_shape(_blend_seen, *arguments)
  nothing = lambda image, *_: (image, *(jnp.zeros(x.shape, x.dtype) for x in found))
  empty = jnp.where(parallel, -jnp.inf, 0.0)[:, None, None]
  return lax.cond(jnp.any(nearness > empty), _blend_seen, nothing, *arguments)


def _blend_seen(image, clip, edges, sides, nearness, parallel):
  """image [B, H, W, C], clip [B, V, 4], edges [B or 1, E, 2], sides [B, E], nearness [B, H, W],
  parallel [B].

  Returns:
    the output [B, H, W, C], and for its transpose the winning edge of each pair [B, 2 P] (rows,
    columns; of pixel i with the next) or -1, and the shares taken by each pixel in total [B, P].
  """
  frames, height, width, channels = image.shape
  pixels = height * width
  fold = functools.partial(_fold, clip, edges, sides, _compact(sides), (height, width))
  depth = nearness.reshape(-1)

  def nominate(state, c):
    first, second = (depth.at[c.frame * pixels + p].get(mode='clip') for p in c.pixels)
    screen = _screen(c.corners, height, width)
    u, s = _cut(screen, c.in_rows, c.along)
    t = u - c.before
    # Where v falls from a to b, larger u has the negative turn in rows; swapping the axes mirrors
    # it.
    v = _along(screen, c.in_rows)
    inner_is_second = (c.inner > 0) ^ (v[:, 1] > v[:, 0]) ^ ~c.in_rows
    outer = jnp.where(inner_is_second, first, second)
    inner = jnp.where(inner_is_second, second, first)
    at = jnp.where(parallel[c.frame][:, None], -c.corners[..., 2], 1 / c.corners[..., 3])
    at = at[:, 0] + s * (at[:, 1] - at[:, 0])
    accepted = c.valid & (inner > outer) & (at > outer)
    reach = jnp.clip(jnp.where(inner_is_second, 1 - t, t), 0.0, 1.0)
    slot = jnp.where(accepted, _slot(c, pixels), 2 * frames * pixels)
    return keep_largest(*state, slot, lax.bitcast_convert_type(reach + 1, jnp.int32), c.edge)

  # All edges stand for election in both directions, and a winner of the wrong steepness leaves its
  # pair to the other direction: else an edge hidden behind it would count in its place.
  empty = jnp.zeros(2 * frames * pixels, jnp.int32)
  best, winner = fold((empty, empty), nominate, both_ways=True)
  winner = jnp.where(best > 0, winner, -1)
  flat = image.reshape(-1, channels)

  def add_share(shares, c):
    share, into, _ = _pair(c, winner, height, width, frames * pixels)
    return shares.at[into].add(share, mode='drop')

  shares = fold(jnp.zeros(frames * pixels), add_share, both_ways=False)

  def mix(output, c):
    share, into, source = _pair(c, winner, height, width, frames * pixels)
    share = share / jnp.maximum(_take(shares, into), 1.0)
    change = share[:, None] * (_take(flat, source) - _take(flat, into))
    return output.at[into].add(change, mode='drop')

  output = fold(flat, mix, both_ways=False).reshape(image.shape)
  return output, winner.reshape(frames, -1), shares.reshape(frames, -1)


def _blend_transposed(image, clip, edges, sides, winner, shares, cotangent):
  """`_blend_transposed_seen`, where anything was blended."""
  arguments = image, clip, edges, sides, winner, shares, cotangent
  nothing = lambda *_: (cotangent, jnp.zeros_like(clip))
  return lax.cond(jnp.any(shares > 0), _blend_transposed_seen, nothing, *arguments)


def _blend_transposed_seen(image, clip, edges, sides, winner, shares, cotangent):
  """The transpose of `_blend_frames` at its result, over the same crossings.

  out_p = c_p + sum_k s_k (c_k - c_p) / m_p with m_p = max(1, sum_k s_k).
  """
  frames, height, width, channels = image.shape
  flat, cotangent = (x.reshape(-1, channels) for x in (image, cotangent))
  winner, shares = winner.reshape(-1), shares.reshape(-1)
  silhouettes = _compact(sides)
  fold = functools.partial(_fold, clip, edges, sides, silhouettes, (height, width), both_ways=False)

  # What the loss gains by mixing at each pixel, for pixels whose shares are scaled down.
  def add_gain(gains, c):
    share, into, source = _pair(c, winner, height, width, frames * height * width)
    gain = (_take(cotangent, into) * (_take(flat, source) - _take(flat, into))).sum(-1)
    return gains.at[into].add(share * gain / jnp.maximum(_take(shares, into), 1.0), mode='drop')

  gains = fold(jnp.zeros_like(shares), add_gain)

  def pull(state, c):
    d_image, d_clip = state

    def share_of(corners):
      c_moved = c.replace(corners=corners)
      share, *pair = _pair(c_moved, winner, height, width, frames * height * width)
      return share, pair

    share, transpose, (into, source) = jax.vjp(share_of, c.corners, has_aux=True)
    total = _take(shares, into)
    most = jnp.maximum(total, 1.0)
    d_out, here = _take(cotangent, into), _take(flat, into)
    moved = d_out * (share / most)[:, None]
    d_image = d_image.at[source].add(moved, mode='drop').at[into].add(-moved, mode='drop')
    d_share = (d_out * (_take(flat, source) - here)).sum(-1)
    d_share = (d_share - jnp.where(total > 1, _take(gains, into), 0.0)) / most
    (d_corners,) = transpose(d_share)
    return d_image, d_clip.at[c.ends].add(d_corners)

  state = (cotangent, jnp.zeros_like(clip.reshape(-1, 4)))
  d_image, d_clip = fold(state, pull)
  return d_image.reshape(image.shape), d_clip.reshape(clip.shape)


_blend_lifted = over_frames(_blend_frames, shared=(2,))
_blend_transposed_lifted = over_frames(_blend_transposed, shared=(2,))


def _take(values, at):
  """values[at], 0 where `at` is out of range."""
  return values.at[at].get(mode='fill', fill_value=0)


def _slot(c, pixels):
  """Flat index of each pair: by frame, rows or columns, and first pixel."""
  return (2 * c.frame + jnp.where(c.in_rows, 0, 1)) * pixels + c.pixels[0]


def _pair(c, winner, height, width, nowhere):
  """The pixel pair of each crossing that won its pair; differentiable in c.corners.

  Returns:
    share [K] in [0, 1/2], into [K], source [K]: pixel `into` takes this share of pixel `source`;
    `nowhere`, with share 0, where another edge won.
  """
  pixels = height * width
  won = winner.at[_slot(c, pixels)].get(mode='fill', fill_value=-1) == c.edge
  won &= c.valid
  u, _ = _cut(_screen(c.corners, height, width), c.in_rows, c.along)
  alpha = 0.5 - (u - c.before)
  first, second = (c.frame * pixels + p for p in c.pixels)
  into = jnp.where(won, jnp.where(alpha > 0, first, second), nowhere)
  source = jnp.where(won, jnp.where(alpha > 0, second, first), nowhere)
  return jnp.where(won, jnp.abs(alpha), 0.0), into, source
