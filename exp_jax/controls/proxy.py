"""The textured preview: a portrait's own pixels on its fitted head, re-posed, over its inpainted
background.

No network is involved, so it can be looked at before any training. Three layers, far to near:

  background   the portrait with the person taken out and the hole filled smoothly; it never moves
  cut-out      a fine grid over the person's matte at the fitted depth: hair, clothes, everything the head model
               does not have. It follows the joints of the nearest skin, and the skin's own
               deformation near it
  head         the fitted dense mesh: the photograph where the portrait showed the surface, mirrored and diffused
               colour where it did not, painted eyeballs, teeth and mouth cavity where lips and lids
               uncover them

The two moving layers agree wherever the portrait showed skin, so no seam is visible between them.
Letters: H, W image, N dense vertices, J joints, G grid points.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.sparse.linalg

from exp_jax.controls.mouth import shown_edge, tooth_places, tooth_share, tooth_shift
from exp_jax.controls.skin import lash_lines, lash_share, openness, rim_lines, shut_share
from exp_jax.controls.texture import (
  ATTRIBUTES,
  EYEBALL,
  INSIDE,
  NEAR_EYES,
  HeadTexture,
  make_texture,
)
from exp_jax.geometry import Camera, clip_coordinates, project
from exp_jax.heads.densify import Dense
from exp_jax.media.fill import push_pull
from exp_jax.media.matte import refined_matte
from exp_jax.rendering import Topology, antialias, barycentrics, interpolate, rasterize
from exp_jax.rendering.shading import camera_normals, unit

_STEP = 4 / 512  # between grid points; this and the next two are shares of the picture's height
_REACH = 24 / 512  # over which the skin's own deformation fades out of the cut-out
_MARGIN = 8 / 512  # that the cut-out reaches beyond the picture
_FACES_AT_ONCE = 16384
_PINNED = 0.24  # share of the picture's height over which the cut-out comes to rest at the border
_EAR_FLAT = 3.0  # grid points over which the depth of an ear is smoothed
_BIAS = 0.016  # metres by which the cut-out must be nearer than the head to hide it
_TORN = (1.7, 2.6)  # times longer between grid points than in the portrait: soft outlines fade out
_ALIKE = 0.12  # difference of colours, 0..1, over which what hangs together becomes doubtful
_LASH_WINDOW = 0.2  # of the picture's height, about an eye, in which its lashes are drawn
_FITTED_TEETH = (
  0.003  # metres by which teeth are moved to end where those of the portrait do, at most
)
_FARTHEST = 0.25  # of the picture's height that a pixel may have come from, for `KNOWN`
# What `draw_known_frame` knows of a pixel, 0..1: the head's normal now and in the portrait, n / 2 +
# 1/2 (x right, y down, z away; 0 off the head); head shown with the portrait's own pixels, and with
# filled-in colour; eyeball; inside of the mouth; cut-out; and the way to the portrait's pixel that
# is shown, x and y, 1/2 for none, 0 and 1 for a quarter of the picture's height.
KNOWN = 13
# one program for all portraits
_rasterize, _interpolate = jax.jit(rasterize, static_argnums=2), jax.jit(interpolate)


@flax.struct.dataclass
class Proxy:
  """Everything about one portrait that does not change from frame to frame."""

  photo: jax.Array  # [H, W, 4] in 0..1, the last how much of a tooth
  # [H, W, 4] the person's own colour, without what shines through at outlines, and the matte
  cut_out: jax.Array
  background: jax.Array  # [H, W, 3]
  texture: HeadTexture
  topology: Topology  # of the dense head
  camera: Camera
  weights: jax.Array  # [N, J] skinning of the dense head
  teeth: jax.Array  # [M] int32 vertices of teeth
  teeth_shift: jax.Array  # [M, 3] metres at rest, `mouth.tooth_shift`
  reference_vertices: jax.Array  # [N, 3] posed in the portrait
  reference_transforms: jax.Array  # [J, 4, 4]
  grid_topology: Topology
  grid_points: jax.Array  # [G, 3] metres, in the portrait's pose
  grid_pixels: jax.Array  # [G, 2]
  grid_weights: jax.Array  # [G, J]
  # [G, 1] 1 where no drawn skin lies under the grid point: hair, clothes, hands
  grid_loose: jax.Array
  grid_faces: jax.Array  # [G, 3] dense vertices of the skin under each grid point
  grid_barycentric: jax.Array  # [G, 3]
  grid_seen: np.ndarray  # [rows, columns] 1 where skin lies under the grid point
  grid_fade: np.ndarray  # [rows, columns] 1 on skin, falling to 0 away from it
  # [G, 1] 0 at the picture's border, where a moving body would show what was cut off
  grid_free: jax.Array


def inpaint_background(photo: np.ndarray, matte: np.ndarray) -> np.ndarray:
  """[H, W, 3] and [H, W] in 0..1 -> the picture without the person, filled from what surrounds
  them."""
  person = scipy.ndimage.binary_dilation(matte > 0.08, iterations=max(2, photo.shape[0] // 64))
  if person.all():
    return np.broadcast_to(photo.reshape(-1, 3).mean(0), photo.shape).astype(np.float32)
  filled = push_pull(photo, ~person)
  # The hole is filled with the surroundings' own fine grain, so that it does not look like fog.
  detail = photo - scipy.ndimage.gaussian_filter(photo, (3, 3, 0))
  grain = np.std(detail[~person]) * np.random.default_rng(0).normal(size=photo.shape[:2])
  grain = np.clip(scipy.ndimage.gaussian_filter(grain, 0.7)[..., None] * 1.5, -0.02, 0.02)
  return np.clip(np.where(person[..., None], filled + grain, photo), 0, 1).astype(np.float32)


def person_colours(photo: np.ndarray, matte: np.ndarray, background: np.ndarray) -> np.ndarray:
  """[H, W, 4]: the colour F of the person by I = matte F + (1 - matte) background, and the matte.

  Where little of the person is in a pixel, F is not to be had from it: it is that of the person
  further inside. Without this, hair that moves takes a rim of the old background along.
  """
  sure = scipy.ndimage.minimum_filter(matte, 2 * round(photo.shape[0] / 256) + 1) > 0.97
  if not sure.any():
    return np.concatenate([photo, matte[..., None]], -1)
  share = matte[..., None]
  own = np.clip((photo - (1 - share) * background) / np.maximum(share, 0.05), 0, 1)
  t = np.clip((share - 0.4) / 0.55, 0, 1)
  inner = push_pull(photo, sure.astype(np.float32))
  return np.concatenate([inner + t * t * (3 - 2 * t) * (own - inner), share], -1).astype(np.float32)


def make_proxy(
  photo: np.ndarray,
  matte: np.ndarray,
  mouth: np.ndarray,
  *,
  dense: Dense,
  template: np.ndarray,
  vertices: jax.Array,
  transforms: jax.Array,
  camera: Camera,
  eye_centers: np.ndarray,
  lips: tuple | None = None,
  rims: tuple | None = None,
  shut: jax.Array | None = None,
) -> Proxy:
  """Prepares a portrait.

  Args:
    photo: [H, W, 3] uint8 crop that the head was fitted in; H and W are camera.image_size.
    matte: [H, W] uint8 person matte.
    mouth: [H, W] bool, the opening between the lips (`portrait.mouth_opening`).
    dense: the dense head.
    template: [N, 3] its rest vertices, for mirroring and for the eyes' painted irises.
    vertices: [N, 3] posed as in the portrait, static and dynamic offsets included.
    transforms: [J, 4, 4] rest-relative joint transforms of that pose.
    camera: the fitted camera.
    eye_centers: [2, 3] left and right eye joint in rest coordinates.
    lips: of `mouth.inner_lips`; rims: of `skin.rims_of`; None for heads without such landmarks.
    shut: [N, 3] `vertices` with the eyes shut, where the skin that then comes out can be seen;
      None: it is not known.
  """
  photo, coarse = photo.astype(np.float32) / 255, matte.astype(np.float32) / 255
  matte = refined_matte(photo, coarse)
  topology = Topology.from_faces(np.asarray(dense.faces))
  teeth, shift = _teeth_in_place(photo, mouth, dense, template, vertices, transforms, camera, lips)
  vertices = _with_teeth(vertices, transforms, dense.weights, teeth, shift)
  clip = clip_coordinates(vertices, camera)
  fragments = _rasterize(clip, topology, camera.image_size)
  texture, tooth = make_texture(
    photo,
    matte,
    mouth,
    dense=dense,
    template=template,
    vertices=vertices,
    camera=camera,
    topology=topology,
    fragments=fragments,
    eye_centers=eye_centers,
    lips=lips,
    rims=rims,
    shut=shut,
  )
  background = inpaint_background(photo, np.maximum(coarse, matte))
  return Proxy(
    photo=jnp.asarray(np.concatenate([photo, tooth[..., None]], -1)),
    teeth=teeth,
    teeth_shift=shift,
    cut_out=jnp.asarray(person_colours(photo, matte, background)),
    background=jnp.asarray(background),
    texture=texture,
    topology=topology,
    camera=camera,
    weights=dense.weights,
    reference_vertices=vertices,
    reference_transforms=transforms,
    **_make_grid(
      photo,
      matte,
      dense,
      vertices,
      np.asarray(texture.opacity()),
      camera,
      clip,
      topology,
      fragments,
    ),
  )


def _teeth_in_place(
  photo, mouth, dense, template, vertices, transforms, camera, lips
) -> tuple[jax.Array, jax.Array]:
  """Vertices of teeth [M] and their shift at rest [M, 3]: as people show teeth, and where the
  portrait shows them, as it does."""
  region = np.asarray(dense.regions.get('teeth', np.zeros(len(template)))) > 0.5
  ids = np.flatnonzero(region)
  places = tooth_places(template, np.asarray(dense.faces), region)
  shift = tooth_shift(template, places, lips)[ids]
  teeth = jnp.asarray(ids, jnp.int32)
  front = np.flatnonzero((places[:, 2] > 0) & (np.abs(places[:, 0]) < 9) & (places[:, 1] < 1.5))
  if mouth.any() and len(front) and lips is not None:
    pixels = np.asarray(project(vertices, camera)[0])
    face = pixels[np.asarray(dense.regions['face']) > 0.5].astype(int)
    face = face[((face >= 0) & (face < photo.shape[1::-1])).all(-1)]
    skin = np.median(photo[face[:, 1], face[:, 0]], axis=0) if len(face) else np.full(3, 0.6)
    posed = _with_teeth(vertices, transforms, dense.weights, teeth, jnp.asarray(shift))[front]
    edge = np.asarray(project(posed, camera)[0])
    row = shown_edge(tooth_share(photo, skin) * mouth, (edge[:, 0].min(), edge[:, 0].max()))
    if row is not None:
      lower = (row - edge[:, 1].max()) * float(-posed[:, 2].mean() / np.asarray(camera.focal)[1])
      shift[places[ids, 2] > 0, 1] -= np.clip(lower, -_FITTED_TEETH, _FITTED_TEETH)
  return teeth, jnp.asarray(shift)


def _make_grid(photo, matte, dense, vertices, opacity, camera, clip, topology, fragments) -> dict:
  """The cut-out: a grid over the matte, with depth and joints of the skin below or beside it."""
  height, width = matte.shape
  step, margin = max(1, round(_STEP * height)), max(2, round(_MARGIN * height))
  rows, columns = (np.arange(-margin, extent + margin + 1, step) for extent in (height, width))
  at = np.ix_(np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))
  face_id = np.asarray(fragments.face_id)
  inside = (face_id >= 0) & (matte > 0.5)
  seen = inside[at]
  body = sum(
    jnp.asarray(dense.regions.get(name, jnp.zeros(len(vertices))))
    for name in ('clothing', 'scalp', 'ears')
  )
  ears = jnp.asarray(dense.regions.get('ears', jnp.zeros(len(vertices))))
  depth_weights = jnp.concatenate(
    [-vertices[:, 2:], dense.weights, body[:, None], opacity[:, None], ears[:, None]], -1
  )
  maps = np.asarray(_interpolate(depth_weights, clip, topology, fragments))
  maps, ear = maps[..., :-1], seen & (maps[at][..., -1] > 0.5)
  loose = ~seen | (maps[at][..., -1] < 0.5)
  maps = maps[..., :-1]
  core = scipy.ndimage.binary_erosion(inside, iterations=max(1, round(1.5 * _STEP * height)))[at]
  depth = sheet_depth(maps[at][..., 0], seen, core, ear)
  weights = spread_weights(
    maps[at][..., 1:-1], seen & (~loose | (maps[at][..., -1] > 0.5)), photo[at]
  )
  pixels = np.stack(np.meshgrid(columns, rows), -1).astype(np.float32)
  offset = (pixels - np.asarray(camera.center)) / np.asarray(camera.focal) * depth[..., None]
  points = np.stack([offset[..., 0], -offset[..., 1], -depth], -1)
  kept = scipy.ndimage.binary_dilation(matte > 0.02, iterations=step + max(1, step // 2))[at]
  index = np.arange(kept.size).reshape(kept.shape)
  corner = [index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]]
  cell = (kept[:-1, :-1] & kept[:-1, 1:] & kept[1:, 1:] & kept[1:, :-1]).ravel()
  quads = np.stack([c.ravel() for c in corner], -1)[cell]
  faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
  # Filled up with faces of no area, so that portraits share a compiled program. Nothing asks for
  # its edges.
  faces = np.pad(faces, ((0, -len(faces) % _FACES_AT_ONCE), (0, 0)))
  no_edges = jnp.zeros((0, 2), jnp.int32)
  under = np.asarray(dense.faces)[np.maximum(face_id[at], 0)].reshape(-1, 3)
  bary = np.asarray(jax.jit(barycentrics)(clip, topology, fragments))[at].reshape(-1, 3)
  away = scipy.ndimage.distance_transform_edt(~seen) * step
  flat = lambda values: jnp.asarray(values.reshape(len(under), -1), jnp.float32)
  return dict(
    grid_topology=Topology(jnp.asarray(faces, jnp.int32), no_edges, no_edges),
    grid_points=flat(points),
    grid_pixels=flat(pixels),
    grid_weights=flat(weights),
    grid_free=flat(_free(pixels, width, height)),
    grid_loose=flat(loose),
    grid_faces=jnp.asarray(under),
    grid_barycentric=jnp.asarray(bary),
    grid_seen=seen.astype(np.float32),
    grid_fade=np.exp(-((away / (_REACH * height)) ** 2)).astype(np.float32),
  )


def sheet_depth(
  depth: np.ndarray, seen: np.ndarray, core: np.ndarray, ear: np.ndarray
) -> np.ndarray:
  """Depths [rows, columns] of the cut-out's grid, positive.

  Near the model's silhouette depth falls away steeply; hair continues at the depth a little further
  inside. Ears stand behind the cheek and are a sheet of their own that continues at its own depth:
  at that of the cheek the ear of a head that turns would be folded over by the cells around it.

  Args:
    depth: [rows, columns] of the head model, any value where it is not `seen` [rows, columns] bool.
    core: [rows, columns] bool, well within the model's silhouette; ear: [rows, columns] bool, on
      its ears.
  """
  core = core & ~ear if (core & ~ear).any() else seen & ~ear
  soft = lambda values: scipy.ndimage.gaussian_filter(values.astype(np.float32), _EAR_FLAT)
  flat = soft(np.where(ear, depth, 0)) / np.maximum(soft(ear), 1e-6)
  known = np.where(ear, flat, depth)
  spread = push_pull(np.maximum(known, 1e-3)[..., None], (core | ear).astype(np.float32))[..., 0]
  spread = np.where(seen & ~ear, depth, spread)
  return np.where(core, depth, scipy.ndimage.gaussian_filter(spread, 2))


def spread_weights(weights: np.ndarray, known: np.ndarray, colours: np.ndarray) -> np.ndarray:
  """Joints of grid points that no part of the head model lies under, from those of points that look
  alike and hang together.

  Known weights are spread as heat spreads through a sheet that conducts well between points of one
  colour: a collar moves with the clothes below it and not with the neck before it.

  Args:
    weights: [rows, columns, J]; known: [rows, columns] bool, where they hold; colours: [rows,
      columns, 3] in 0..1.
  """
  if known.all() or not known.any():
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-6)
  index = np.arange(known.size).reshape(known.shape)
  flat = colours.reshape(-1, 3)
  pairs = np.concatenate(
    [[index[:, :-1].ravel(), index[:, 1:].ravel()], [index[:-1].ravel(), index[1:].ravel()]], 1
  )
  flow = np.exp(-((flat[pairs[0]] - flat[pairs[1]]) ** 2).sum(-1) / _ALIKE**2) + 0.02
  sheet = scipy.sparse.coo_array(
    (np.tile(flow, 2), np.concatenate([pairs, pairs[::-1]], 1)), (known.size,) * 2
  ).tocsr()
  laplacian = (scipy.sparse.diags_array(sheet.sum(0)) - sheet).tocsr()
  free, fixed = np.flatnonzero(~known.ravel()), np.flatnonzero(known.ravel())
  found = weights.reshape(known.size, -1).astype(np.float64)
  found[free] = scipy.sparse.linalg.spsolve(
    laplacian[free][:, free].tocsc(), -laplacian[free][:, fixed] @ found[fixed]
  )
  found = np.clip(found, 0, None).reshape(weights.shape)
  return found / found.sum(-1, keepdims=True)


@jax.jit
def _with_teeth(vertices, transforms, weights, teeth, shift):
  """Posed vertices [N, 3] whose rows of teeth are moved by a shift at rest [M, 3]."""
  turned = jnp.einsum('mj,jab,mb->ma', weights[teeth], transforms[:, :3, :3], shift)
  return vertices.at[teeth].add(turned)


def _free(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
  """[..., 2] pixels -> [...] 0 at the left, right and lower border, 1 well inside."""
  away = np.minimum(np.minimum(pixels[..., 0], width - pixels[..., 0]), height - pixels[..., 1])
  t = np.clip(away / (_PINNED * height), 0, 1)
  return t * t * (3 - 2 * t)


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
  vertices = _with_teeth(vertices, transforms, proxy.weights, proxy.teeth, proxy.teeth_shift)
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
