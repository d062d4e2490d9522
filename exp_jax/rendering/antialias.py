"""Antialiasing along silhouette edges: the source of gradients with respect to what covers what.

A pixel-driven search finds an edge only where a triangle with that edge owns a pixel centre: on a
mesh finer than the pixels it finds next to none. We go from the edges instead. A silhouette edge
(both faces on the same side, or a boundary) that is steeper than 45 degrees meets each scanline
between two horizontal neighbours, a shallow one each column between two vertical neighbours. Where
it separates a nearer pixel on its
inner side from a farther one, the pixel that the edge cuts takes on its neighbour's value by the
cut fraction. Of several edges between two pixels the outermost counts. Each output pixel is a
convex mix of the input.

Notation: v runs along the scanline index, u across the pair; pixel i is the one at the smaller u, t
in [0, 1) is the distance of the crossing from its centre, alpha = 1/2 - t > 0 is the share of pixel
i beyond the edge, -alpha > 0 the share of pixel i + 1 before it. E edges, P = H * W pixels, C
candidates of a chunk.

Known limits: where surfaces intersect there is no edge; features that miss all pixel centres stay
unseen; edges with an end behind the camera are left out.

Sources: Laine et al., Modular Primitives for High-Performance Differentiable Rendering, SIGGRAPH
Asia 2020, sec. 3.4 (blending neighbours analytically); the view from edges is that of Li et al.,
Differentiable Monte Carlo Ray Tracing through Edge Sampling, SIGGRAPH Asia 2018.
"""

import jax
import jax.numpy as jnp
from jax import lax

from exp_jax.rendering.rasterize import Fragments
from exp_jax.rendering.streams import keep_largest, over_frames, stream_of, visit_all
from exp_jax.rendering.topology import Topology

_MIN_W = 1e-3  # metres
_CHUNK = 8192


def antialias(
  image: jax.Array, clip: jax.Array, topology: Topology, fragments: Fragments
) -> jax.Array:
  """Blends pixels across silhouettes; differentiable in `image` and `clip` (reverse mode).

  Apply it to finished images (mask, depth over a background, unit normals), never to attributes.
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
  inv_w = lax.stop_gradient(fragments.inv_w)
  return _blend(image, clip, topology.edges, topology.edge_opposite, inv_w)


@jax.custom_vjp
def _blend(image, clip, edges, opposite, inv_w):
  return _forward(image, clip, edges, opposite, inv_w)[0]


def _forward(image, clip, edges, opposite, inv_w):
  output, pairs = _blend_lifted(image, clip, edges, opposite, inv_w)
  return output, (image, output, clip, edges, pairs)


def _backward(residuals, cotangent):
  image, output, clip, edges, pairs = residuals
  d_image, d_clip = _blend_transposed_lifted(image, output, clip, edges, *pairs, cotangent)
  return d_image, d_clip, None, None, None


_blend.defvjp(_forward, _backward)


def _screen(clip, height, width):
  """clip [..., 4] -> pixels [..., 2] and 1/w [...], for w > 0."""
  half = jnp.array([width, height]) / 2
  return (clip[..., :2] / clip[..., 3:] + 1) * half, 1 / clip[..., 3]


def _is_steep(a, b):
  """Of edges between pixels a, b [..., 2]: whether they act on rows. The others act on columns."""
  return jnp.abs(b[..., 1] - a[..., 1]) >= jnp.abs(b[..., 0] - a[..., 0])


def _crossings(a, b, local, in_rows, height, width):
  """Where the local-th scanline of each edge cuts it.

  Args:
    a, b: [C, 2] pixels, the ends of the edges.
    local: [C] int32.
    in_rows: [C] bool, whether the scanlines are rows (or columns).

  Returns:
    along [C] int32 (scanline), before [C] int32 (the pair's first pixel), t [C], s [C] (place on
    the edge from a to b), inside [C] bool (both pixels within the image).
  """
  a, b = _across(a, in_rows), _across(b, in_rows)
  along = _first_line(a[:, 1], b[:, 1]) + local
  span = b[:, 1] - a[:, 1]
  s = (along + 0.5 - a[:, 1]) / jnp.where(span == 0, 1.0, span)
  u = a[:, 0] + s * (b[:, 0] - a[:, 0]) - 0.5
  before = jnp.floor(jnp.clip(u, -2.0, max(height, width) + 1.0))
  inside = (before >= 0) & (before < jnp.where(in_rows, width, height) - 1)
  return along, before.astype(jnp.int32), u - before, s, inside


def _across(pixels, in_rows):
  """(x, y) -> (u, v): (x, y) where scanlines are rows, (y, x) where they are columns."""
  return jnp.where(in_rows[..., None], pixels, pixels[..., ::-1])


def _first_line(a_v, b_v):
  first = jnp.ceil(jnp.minimum(a_v, b_v) - 0.5)
  return jnp.clip(first, 0, 2.0**20).astype(jnp.int32)


def _count_lines(a, b, in_rows, height, width):
  """[E] scanlines v + 1/2 in the half-open range of each edge that lie in the image."""
  a, b = _across(a, in_rows), _across(b, in_rows)
  end = jnp.ceil(jnp.maximum(a[:, 1], b[:, 1]) - 0.5)
  end = jnp.clip(end, 0, jnp.where(in_rows, height, width)).astype(jnp.int32)
  return jnp.maximum(end - _first_line(a[:, 1], b[:, 1]), 0)


def _turn(a, b, p):
  return (b[..., 0] - a[..., 0]) * (p[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (
    p[..., 0] - a[..., 0]
  )


def _pair_pixels(along, before, in_rows, width):
  """Flat indices of the two pixels of a pair."""
  first = jnp.where(in_rows, along * width + before, before * width + along)
  return first, first + jnp.where(in_rows, 1, width)


def _flat_edges(edges, frames, vertices):
  """[B or 1, E, 2] vertex ids -> [B * E, 2] ids into the vertices of all frames."""
  return (edges + vertices * jnp.arange(frames)[:, None, None]).reshape(-1, 2)


def _silhouettes(clip, ends, third, height, width):
  """Which edges [N] may separate pixels, their screen ends, 1/w, and the turn towards their inner
  side.
  """
  usable = jnp.isfinite(clip).all(-1) & (clip[:, 3] >= _MIN_W)
  pixels, inv_w = _screen(jnp.where(usable[:, None], clip, 1.0), height, width)
  a, b = pixels[ends[:, 0]], pixels[ends[:, 1]]
  side = _turn(a, b, pixels[third[:, 0]])
  lone = third[:, 1] < 0
  other = jnp.where(lone, side, _turn(a, b, pixels[third[:, 1]]))
  usable = usable[ends].all(1) & usable[third[:, 0]] & (usable[third[:, 1]] | lone)
  return usable & (side * other > 0), a, b, inv_w[ends], side


def _blend_frames(image, clip, edges, opposite, inv_w):
  """image [B, H, W, C], clip [B, V, 4], edges, opposite [B or 1, E, 2], inv_w [B, H, W]."""
  frames, height, width, channels = image.shape
  vertices, per_frame, pixels = clip.shape[1], edges.shape[1], height * width
  ends = _flat_edges(edges, frames, vertices)
  third = jnp.where(opposite < 0, -vertices * frames, opposite)
  third = jnp.maximum(_flat_edges(third, frames, vertices), -1)
  clip = clip.reshape(-1, 4)
  silhouette, a, b, edge_inv_w, side = _silhouettes(clip, ends, third, height, width)
  lines = lambda in_rows: jnp.where(silhouette, _count_lines(a, b, in_rows, height, width), 0)
  steep = _is_steep(a, b)
  depth = inv_w.reshape(-1)

  def nominate(state, owner, local, valid):
    in_rows = owner < silhouette.size
    edge = jnp.where(in_rows, owner, owner - silhouette.size)
    start, end = a[edge], b[edge]
    along, before, t, s, inside = _crossings(start, end, local, in_rows, height, width)
    first, second = _pair_pixels(along, before, in_rows, width)
    frame = edge // per_frame
    near_first = depth.at[frame * pixels + first].get(mode='clip')
    near_second = depth.at[frame * pixels + second].get(mode='clip')
    # The turn to the inner side is that of larger u where it opposes dv; swapping the axes mirrors
    # it.
    rises = _across(end, in_rows)[:, 1] > _across(start, in_rows)[:, 1]
    inner_is_second = (side[edge] > 0) ^ rises ^ ~in_rows
    outer = jnp.where(inner_is_second, near_first, near_second)
    inner = jnp.where(inner_is_second, near_second, near_first)
    at = edge_inv_w[edge, 0] + s * (edge_inv_w[edge, 1] - edge_inv_w[edge, 0])
    accepted = valid & inside & (inner > outer) & (at > outer)
    reach = jnp.where(inner_is_second, 1 - t, t)
    key = lax.bitcast_convert_type(jnp.maximum(reach, 0.0) + 1.0, jnp.int32)
    slot = (2 * frame + jnp.where(in_rows, 0, 1)) * pixels + first
    slot = jnp.where(accepted, slot, 2 * frames * pixels)
    return keep_largest(*state, slot, key, edge % per_frame)

  # All edges stand for election in both directions, and a winner of the wrong steepness leaves its
  # pair to the other direction: else an edge hidden behind it would count in its place.
  everywhere = jnp.ones(silhouette.shape, bool)
  both = jnp.concatenate([lines(everywhere), lines(~everywhere)])
  empty = jnp.zeros(2 * frames * pixels, jnp.int32)
  best, winner = visit_all(stream_of(both, chunk=_CHUNK), (empty, empty), nominate)
  winner = jnp.where(best > 0, winner, -1)
  flat = image.reshape(-1, channels)

  def pair(edge, local, valid):
    return _pair(clip[ends[edge]], edge, local, valid, winner, per_frame, frames, height, width)

  def add(state, edge, local, valid):
    shares, changes = state
    share, into, source = pair(edge, local, valid)
    change = share[:, None] * (_take(flat, source) - _take(flat, into))
    return shares.at[into].add(share, mode='drop'), changes.at[into].add(change, mode='drop')

  counts = lines(steep)
  stream = stream_of(counts, chunk=_CHUNK)
  shares, changes = visit_all(stream, (jnp.zeros(frames * pixels), jnp.zeros_like(flat)), add)
  output = flat + changes / jnp.maximum(shares, 1.0)[:, None]
  pairs = winner.reshape(frames, -1), counts.reshape(frames, -1), shares.reshape(frames, -1)
  return output.reshape(image.shape), pairs


def _blend_transposed(image, output, clip, edges, winner, counts, shares, cotangent):
  """The transpose of `_blend_frames` at its result, over the same stream of crossings.

  out_p = c_p + sum_k s_k (c_k - c_p) / m_p with m_p = max(1, sum_k s_k).
  """
  frames, height, width, channels = image.shape
  vertices, per_frame = clip.shape[1], edges.shape[1]
  ends = _flat_edges(edges, frames, vertices)
  flat, mixed, cotangent = (x.reshape(-1, channels) for x in (image, output, cotangent))
  shape, clip = clip.shape, clip.reshape(-1, 4)
  winner, counts, shares = winner.reshape(-1), counts.reshape(-1), shares.reshape(-1)

  def pull(state, edge, local, valid):
    d_image, d_clip = state

    def share_of(corners):
      share, *pixels = _pair(corners, edge, local, valid, winner, per_frame, frames, height, width)
      return share, pixels

    share, transpose, (into, source) = jax.vjp(share_of, clip[ends[edge]], has_aux=True)
    total = _take(shares, into)
    most = jnp.maximum(total, 1.0)
    d_out, here = _take(cotangent, into), _take(flat, into)
    moved = d_out * (share / most)[:, None]
    d_image = d_image.at[source].add(moved, mode='drop').at[into].add(-moved, mode='drop')
    d_share = (d_out * (_take(flat, source) - here)).sum(-1)
    saturated = (d_out * (_take(mixed, into) - here)).sum(-1)
    d_share = (d_share - jnp.where(total > 1, saturated, 0.0)) / most
    (d_corners,) = transpose(d_share)
    return d_image, d_clip.at[ends[edge]].add(d_corners)

  state = (cotangent, jnp.zeros_like(clip))
  d_image, d_clip = visit_all(stream_of(counts, chunk=_CHUNK), state, pull)
  return d_image.reshape(image.shape), d_clip.reshape(shape)


_blend_lifted = over_frames(_blend_frames, shared=(2, 3))
_blend_transposed_lifted = over_frames(_blend_transposed, shared=(3,))


def _take(values, at):
  """values[at], 0 where `at` is out of range."""
  return values.at[at].get(mode='fill', fill_value=0)


def _pair(corners, edge, local, valid, winner, per_frame, frames, height, width):
  """The pixel pair of each crossing that won its pair; differentiable in corners [C, 2, 4].

  Returns:
    share [C] in [0, 1/2], into [C], source [C]: pixel `into` takes this share of pixel `source`;
    out of range, with share 0, where another edge won.
  """
  pixels = height * width
  # The barrier makes all passes over the stream round alike, whatever each is fused with.
  screen = lax.optimization_barrier(_screen(corners, height, width)[0])
  start, end = screen[:, 0], screen[:, 1]
  steep = _is_steep(start, end)
  along, before, t, _, inside = _crossings(start, end, local, steep, height, width)
  first, second = _pair_pixels(along, before, steep, width)
  frame = edge // per_frame
  slot = (2 * frame + jnp.where(steep, 0, 1)) * pixels + first
  won = valid & inside & (winner.at[slot].get(mode='fill', fill_value=-1) == edge % per_frame)
  alpha = 0.5 - t
  nowhere = frames * pixels
  into = jnp.where(won, frame * pixels + jnp.where(alpha > 0, first, second), nowhere)
  source = jnp.where(won, frame * pixels + jnp.where(alpha > 0, second, first), nowhere)
  return jnp.where(won, jnp.abs(alpha), 0.0), into, source
