"""One frame of the textured preview, drawn from its three layers.

Letters: H, W image, N dense vertices, J joints, G grid points.
"""

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.controls.preview.proxy import Proxy, with_teeth
from exp_jax.controls.preview.skin import lash_lines, lash_share, openness, rim_lines, shut_share
from exp_jax.controls.preview.texture import ATTRIBUTES, EYEBALL, INSIDE, NEAR_EYES
from exp_jax.geometry import clip_coordinates, project
from exp_jax.media.fill import push_pull
from exp_jax.rendering import antialias, interpolate, rasterize
from exp_jax.rendering.shading import camera_normals, unit

_BIAS = 0.016  # metres by which the cut-out must be nearer than the head to hide it
_TORN = (1.7, 2.6)  # times longer between grid points than in the portrait: soft outlines fade out
_LASH_WINDOW = 0.2  # of the picture's height, about an eye, in which its lashes are drawn
_FARTHEST = 0.25  # of the picture's height that a pixel may have come from, for `KNOWN`
# What `draw_known_frame` knows of a pixel, 0..1: the head's normal now and in the portrait, n / 2 +
# 1/2 (x right, y down, z away; 0 off the head); head shown with the portrait's own pixels, and with
# filled-in colour; eyeball; inside of the mouth; cut-out; and the way to the portrait's pixel that
# is shown, x and y, 1/2 for none, 0 and 1 for a quarter of the picture's height.
KNOWN = 13


def _sample(image: jax.Array, pixels: jax.Array) -> jax.Array:
  """Bilinear look-up of [H, W, C] at [..., 2] pixel positions (x, y), mirrored at the border."""
  height, width = image.shape[:2]
  mirrored = lambda x, size: jnp.clip(size - jnp.abs(size - jnp.abs(x)) - 0.5, 0, size - 1)
  x, y = mirrored(pixels[..., 0], width), mirrored(pixels[..., 1], height)
  left, top = (
    jnp.minimum(jnp.floor(x), width - 2).astype(int),
    jnp.minimum(jnp.floor(y), height - 2).astype(int),
  )
  s, t = (x - left)[..., None], (y - top)[..., None]
  upper = image[top, left] * (1 - s) + image[top, left + 1] * s
  lower = image[top + 1, left] * (1 - s) + image[top + 1, left + 1] * s
  return upper * (1 - t) + lower * t


@jax.jit
def _carry(proxy: Proxy, vertices: jax.Array, transforms: jax.Array):
  """Cut-out points moved by the joints alone [G, 3], and what the skin did beyond that [G, 3]."""
  change = jnp.einsum('jab,jbc->jac', transforms, jnp.linalg.inv(proxy.reference_transforms))[:, :3]

  def by_joints(points, weights):
    blended = jnp.einsum('nj,jab->nab', weights, change)
    return jnp.einsum('nab,nb->na', blended[..., :3], points) + blended[..., 3]

  own = vertices - by_joints(proxy.reference_vertices, proxy.weights)
  on_grid = jnp.einsum('gcd,gc->gd', own[proxy.grid_faces], proxy.grid_barycentric)
  return by_joints(proxy.grid_points, proxy.grid_weights), on_grid


def _whole(now: jax.Array, before: jax.Array) -> jax.Array:
  """[G, 1] 1 where the cut-out is whole, 0 where it is torn apart: pixels [rows, columns, 2] far
  apart that were neighbours."""
  length = lambda at, axis: jnp.linalg.norm(jnp.diff(at, axis=axis), axis=-1)
  longer = [
    jnp.pad(
      length(now, axis) / jnp.maximum(length(before, axis), 1e-6),
      [(1 - axis, 1 - axis), (axis, axis)],
      mode='edge',
    )
    for axis in (0, 1)
  ]
  most = jnp.maximum(
    jnp.maximum(longer[0][1:], longer[0][:-1]), jnp.maximum(longer[1][:, 1:], longer[1][:, :-1])
  )
  return 1 - jax.nn.sigmoid(8 * ((most - _TORN[0]) / (_TORN[1] - _TORN[0]) - 0.5)).reshape(-1, 1)


def _layers(
  proxy: Proxy, grid: jax.Array, vertices: jax.Array, attributes: jax.Array, columns: jax.Array
):
  """One frame's layers: the picture [H, W, 3], and what `KNOWN` is made of.

  attributes: [N, `ATTRIBUTES`] of the texture now. columns [N, K]: the brightness factor of the
  dynamic offsets, and whatever else shall be interpolated over the head.
  """
  size = proxy.camera.image_size
  clip = clip_coordinates(grid, proxy.camera)
  rows = (*proxy.grid_seen.shape, 2)
  whole = _whole(project(grid, proxy.camera)[0].reshape(rows), proxy.grid_pixels.reshape(rows))
  fragments = rasterize(clip, proxy.grid_topology, size)
  carried = interpolate(
    jnp.concatenate([proxy.grid_pixels, proxy.grid_loose, whole], -1),
    clip,
    proxy.grid_topology,
    fragments,
  )
  pixels, loose = carried[..., :2], carried[..., 2] > 0.99
  covered = fragments.face_id >= 0
  person = _sample(proxy.cut_out, pixels)
  # Where the cut-out is torn apart its inside still holds together, but soft outlines would become
  # veils.
  alpha = person[..., 3:]
  alpha = jnp.where(
    covered[..., None], alpha + (1 - carried[..., 3:]) * (jnp.clip(4 * alpha - 3, 0, 1) - alpha), 0
  )
  image = proxy.background * (1 - alpha) + person[..., :3] * alpha

  head_clip = clip_coordinates(vertices, proxy.camera)
  head = rasterize(head_clip, proxy.topology, size)
  maps = interpolate(jnp.concatenate([attributes, columns], -1), head_clip, proxy.topology, head)
  colour, opacity = proxy.texture.shade(maps[..., : ATTRIBUTES + 1], _sample, proxy.photo)
  colour = _lashed(proxy, vertices, colour, maps)
  depth = 1 / jnp.maximum(head.inv_w, 1e-6)
  cut_out_depth = 1 / jnp.maximum(fragments.inv_w, 1e-6)
  hidden = (
    covered
    & loose
    & (alpha[..., 0] > 0.5)
    & (cut_out_depth < depth - _BIAS)
    & (maps[..., INSIDE] < 0.5)
  )
  shown = jnp.where((head.face_id >= 0) & ~hidden, opacity, 0)[..., None]
  # Premultiplied, so that outlines of what is transparent leave no trace.
  layer = antialias(jnp.concatenate([colour * shown, shown], -1), head_clip, proxy.topology, head)
  return (
    jnp.clip(image * (1 - layer[..., 3:]) + layer[..., :3], 0, 1),
    (head.face_id >= 0)[..., None],
    maps,
    shown,
    alpha,
    pixels,
  )


def _lashed(proxy: Proxy, vertices: jax.Array, colour: jax.Array, maps: jax.Array) -> jax.Array:
  """Colours [H, W, 3] of the head with lashes along lids that shut, where skin about the eyes or an
  eyeball is seen."""
  texture = proxy.texture
  if texture.rims is None:
    return colour
  rims = rim_lines(vertices, texture.rims)
  shut = shut_share(openness(rims), texture.openness)
  lines = lash_lines(project(rims, proxy.camera)[0], shut)
  height, width = proxy.camera.image_size
  tall, wide = (min(round(_LASH_WINDOW * height), each) for each in (height, width))
  there = jnp.where(maps[..., EYEBALL] > 0.5, 1, jnp.clip(maps[..., NEAR_EYES], 0, 1))
  for line, much in zip(lines, shut):
    corner = jnp.clip(
      line.mean(0) - jnp.array([wide, tall]) / 2, 0, jnp.array([width - wide, height - tall])
    )
    left, top = jnp.floor(corner).astype(jnp.int32)
    start = (top, left, 0)
    places = jnp.stack(
      jnp.meshgrid(left + jnp.arange(wide) + 0.5, top + jnp.arange(tall) + 0.5), -1
    )
    own = jax.lax.dynamic_slice(colour, start, (tall, wide, 3))
    share = lash_share(places, line)[..., None] * jax.lax.dynamic_slice(
      there[..., None], start, (tall, wide, 1)
    )
    colour = jax.lax.dynamic_update_slice(
      colour, own + much * share * (texture.lashes - own), start
    )
  return colour


@jax.jit
def _draw(
  proxy: Proxy, grid: jax.Array, vertices: jax.Array, attributes: jax.Array, wrinkles: jax.Array
) -> jax.Array:
  """Composites one frame, [H, W, 3]. wrinkles [N]: brightness factor of the dynamic offsets."""
  return _layers(proxy, grid, vertices, attributes, wrinkles[:, None])[0]


@jax.jit
def _draw_known(
  proxy: Proxy, grid: jax.Array, vertices: jax.Array, attributes: jax.Array, wrinkles: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The same frame, and what is known of its pixels [H, W, `KNOWN`] in 0..1."""
  both = [
    camera_normals(each, proxy.topology.faces, proxy.camera)
    for each in (vertices, proxy.reference_vertices)
  ]
  image, there, maps, shown, alpha, pixels = _layers(
    proxy, grid, vertices, attributes, jnp.concatenate([wrinkles[:, None], *both], -1)
  )
  height, width = proxy.camera.image_size
  here = jnp.stack(jnp.meshgrid(jnp.arange(width) + 0.5, jnp.arange(height) + 0.5), -1)
  source = jnp.where(shown > 0.5, maps[..., :2], jnp.where(alpha > 0.5, pixels, here))
  moved = jnp.clip(0.5 + (source - here) / (2 * _FARTHEST * height), 0, 1)
  normals = (
    jnp.where(there, 0.5 + 0.5 * unit(maps[..., k : k + 3]), 0.0)
    for k in (ATTRIBUTES + 1, ATTRIBUTES + 4)
  )
  inside = maps[..., INSIDE : INSIDE + 1]
  seen, eyeball = maps[..., 2:3] * (1 - inside), maps[..., 7:8]
  return image, jnp.concatenate(
    [
      *normals,
      shown * seen,
      shown * (1 - seen),
      shown * eyeball,
      shown * inside,
      alpha * (1 - shown),
      moved,
    ],
    -1,
  )


@jax.jit
def _lit(
  proxy: Proxy,
  vertices: jax.Array,
  transforms: jax.Array,
  wrinkles: jax.Array,
  lips: jax.Array | None,
):
  """Vertices with the rows of teeth in their place, attributes, and brightness with the light
  inside the mouth."""
  vertices = with_teeth(vertices, transforms, proxy.weights, proxy.teeth, proxy.teeth_shift)
  wrinkles = wrinkles if lips is None else proxy.texture.lit(vertices, lips, wrinkles)
  return vertices, proxy.texture.now(vertices), wrinkles


def draw_frame(
  proxy: Proxy,
  vertices: jax.Array,
  transforms: jax.Array,
  wrinkles: jax.Array,
  lips: jax.Array | None = None,
) -> np.ndarray:
  """One re-posed frame, uint8 [H, W, 3].

  Args:
    vertices: [N, 3] posed dense head, offsets included.
    transforms: [J, 4, 4] joint transforms of that pose.
    wrinkles: [N] brightness factors, 1 for none.
    lips: [K, 3] the loop of the inner lips (`mouth.INNER_LIPS`), through which light comes in;
      None: the mouth is lit as the face.
  """
  return _bytes(_draw(proxy, *_posed(proxy, vertices, transforms, wrinkles, lips)))


def draw_known_frame(
  proxy: Proxy,
  vertices: jax.Array,
  transforms: jax.Array,
  wrinkles: jax.Array,
  lips: jax.Array | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """`draw_frame`, and what is known of each of its pixels: uint8 [H, W, `KNOWN`], see there."""
  return tuple(
    map(_bytes, _draw_known(proxy, *_posed(proxy, vertices, transforms, wrinkles, lips)))
  )


def _bytes(values: jax.Array) -> np.ndarray:
  return np.asarray(_rounded(values))


@jax.jit
def _rounded(values: jax.Array) -> jax.Array:
  return jnp.rint(values * 255).astype(jnp.uint8)


def _posed(
  proxy: Proxy,
  vertices: jax.Array,
  transforms: jax.Array,
  wrinkles: jax.Array,
  lips: jax.Array | None,
) -> tuple:
  """(grid points [G, 3], vertices, attributes, brightness [N]) of a frame."""
  vertices, attributes, wrinkles = _lit(proxy, vertices, transforms, wrinkles, lips)
  carried, own = _carry(proxy, vertices, transforms)
  own = np.asarray(own).reshape(*proxy.grid_seen.shape, 3)
  spread = push_pull(own, proxy.grid_seen) * proxy.grid_fade[..., None]
  moved = proxy.grid_points + proxy.grid_free * (
    carried + spread.reshape(-1, 3) - proxy.grid_points
  )
  return moved, vertices, attributes, wrinkles


def wrinkle_shading(
  with_offsets: jax.Array, without: jax.Array, light=(0.25, 0.5, 0.83)
) -> jax.Array:
  """[N] brightness change of dynamic offsets: Lambert of unit normals [N, 3] with and without
  them."""
  light = jnp.asarray(light) / np.linalg.norm(light)
  lit = lambda normal: 0.5 + 0.5 * jnp.clip(normal @ light, 0, 1)
  return jnp.clip(lit(with_offsets) / lit(without), 0.6, 1.5)
