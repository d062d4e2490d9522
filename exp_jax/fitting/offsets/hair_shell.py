"""Where hair lies, read from depth: what static offsets of the scalp start from, and of ears that
hair covers.

An ear under hair cannot be unfolded by following gradients, and a scalp two centimetres below its
hair is far from what the maps show. So the place of the surface is read first: from each vertex a
line leaves the head, and every frame votes, at each point of it, how far in front of or behind the
seen surface that point lies. The surface is where the mean of the votes changes sign.

  vote(d) = clip(z_seen(pixel) - z(point(d)), +-1 cm),   free where the matte is empty

Seen depth is known up to scale and shift, which the face settles. Ears are hidden when most of what
is seen in their place lies clearly in front of them; they then go straight out to it.
Source: votes as in Curless & Levoy, A volumetric method for building complex models from range
images, 1996, here on
lines of the head's own instead of a grid. Letters: T frames, N dense vertices, L places on a line,
h, w maps.
"""

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.fitting.coarse.coarse_fit import CoarseFit, make_camera
from exp_jax.fitting.offsets.fields import Meshes
from exp_jax.fitting.offsets.static_field import initial_static, region, smooth
from exp_jax.fitting.offsets.targets import Targets, take_frame
from exp_jax.geometry import clip_coordinates, project
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import laplacian, lift
from exp_jax.heads.model import HeadParams
from exp_jax.heads.skinning import joint_transforms, pose_vertices
from exp_jax.rendering import interpolate, rasterize

_FRAMES = 9  # of a clip that are looked at, spread over it
_PLAIN = 50  # half-steps of smoothing that leave no folds of an ear
_INNER, _OUTER, _STEP = -0.010, 0.048, 0.002  # metres along a line
_TRUNCATED = 0.010  # metres beyond which a vote counts no more
_OCCLUDER = 0.060  # metres before the head at which something is not hair
# cosine by which a line may lead away from the viewer and still be believed: outlines tell most of
# such
_ASIDE = 0.15
_HIDDEN = 0.012  # metres: what is seen so far before an ear is hair
# pixels of the face, and spreads of the depth map per metre, that its line needs
_FEWEST, _FLATTEST = 50, 1.0
_ALIKE = 0.77  # cosine of 40 degrees between normals where the face is trusted for scale and shift


def hair_shell(
  meshes: Meshes, fit: CoarseFit, coarse: jax.Array, along: jax.Array, targets: Targets
) -> tuple[jax.Array, jax.Array]:
  """Static offsets that the hair of one clip suggests, and their main directions.

  Args:
    meshes: of the head model.
    fit: of T frames.
    coarse: [V, 3] vertices of the coarse head at rest, metres.
    along: [N, 3] unit, directions of offsets.
    targets: of the frames of `fit`, with depth and normals.

  Returns:
    start: [N, 3] metres, that of `initial_static` off scalp and hidden ears. along: [N, 3] with
      hidden ears going straight out.
  """
  chosen = np.unique(np.linspace(0, len(fit.expression) - 1, _FRAMES).round().astype(int))
  chosen = np.resize(chosen, _FRAMES)  # a short clip counts its frames more than once
  maps = take_frame(targets, chosen)
  params = HeadParams(
    fit.shape, *(jnp.asarray(a)[chosen] for a in (fit.expression, fit.pose, fit.translation))
  )
  size = maps.depth.shape[-1]
  scaled = make_camera(jnp.float32(fit.focal) * size / fit.image_size[0], (size, size))
  rest = lift(meshes.dense, coarse)
  before, ears, line = _compare(meshes, params, rest, maps, scaled)
  before, ears = np.asarray(before), np.asarray(ears)
  hidden = jnp.zeros(len(rest))
  for side, sign in enumerate((1, -1)):
    seen = before[ears == side + 1]
    if len(seen) > 50 and np.median(seen) > _HIDDEN:
      hidden = jnp.maximum(hidden, region(meshes.dense, 'ears') * (sign * rest[:, 0] > 0))
  return _start(meshes, params, coarse, along, hidden, line, maps, scaled)


@jax.jit
def _compare(meshes, params, rest, maps, camera):
  """[T, h, w] metres by which the seen surface lies before the coarse one, ears (1 left, 2 right),
  and depth's line [T, 3]."""
  dense, topology = meshes.dense, meshes.topology
  hard = jnp.max(
    jnp.stack([region(dense, name) for name in ('eyeballs', 'lids', 'inner_mouth')]), 0
  )
  skin = region(dense, 'face') * (1 - hard)
  ears = region(dense, 'ears')
  columns = jnp.stack([skin, ears * (rest[:, 0] > 0), ears * (rest[:, 0] < 0)], -1)

  def one(arguments):
    moving, maps = arguments
    vertices = _posed(meshes, params.shape, moving, rest)
    clip = clip_coordinates(vertices, camera)
    fragments = rasterize(clip, topology, camera.image_size)
    found = interpolate(
      jnp.concatenate([vertex_normals(vertices, topology.faces), clip[:, 3:], columns], -1),
      clip,
      topology,
      fragments,
    )
    there = maps.inside * (fragments.face_id >= 0)
    face = (
      there * (found[..., 4] > 0.9) * (jnp.sum(_unit(found[..., :3]) * maps.normals, -1) > _ALIKE)
    )
    line = _line(found[..., 3], maps.depth, face)
    before = found[..., 3] - (maps.depth - line[1]) / line[0]
    believed = (there > 0.5) & (before < _OCCLUDER) & (line[2] > 0)
    ears = jnp.where(believed, (found[..., 5] > 0.9) + 2 * (found[..., 6] > 0.9), 0)
    return before, ears, line

  return jax.lax.map(one, (_moving(params), maps))


def _line(depth, seen, weight):
  """[3] slope and shift of `seen` over `depth`, by least squares, twice, the second time without
  what is far off;
  and 1 if that is a line: from pixels enough, of depth that depends on the head's."""

  def solve(weight):
    total = jnp.maximum(weight.sum(), 1.0)
    mean, goal = jnp.sum(weight * depth) / total, jnp.sum(weight * seen) / total
    slope = jnp.sum(weight * (depth - mean) * (seen - goal)) / jnp.maximum(
      jnp.sum(weight * (depth - mean) ** 2), 1e-12
    )
    slope = jnp.where(jnp.abs(slope) > 1e-6, slope, 1e-6)
    return slope, goal - slope * mean

  slope, shift = solve(weight)
  off = jnp.abs((seen - shift) / slope - depth)
  near = weight * (off < _TRUNCATED)
  slope, shift = solve(near)
  return jnp.stack([slope, shift, (near.sum() > _FEWEST) * (jnp.abs(slope) > _FLATTEST)])


def _moving(params):
  """What differs between frames, [T, ...] each."""
  return params.expression, params.pose, params.translation


def _posed(meshes, shape, moving, rest):
  return pose_vertices(
    rest, meshes.dense.weights, joint_transforms(meshes.head, HeadParams(shape, *moving))
  )


@jax.jit
def _start(meshes, params, coarse, along, hidden, lines, maps, camera):
  dense, mesh = meshes.dense, meshes.coarse
  plain = jax.lax.fori_loop(0, _PLAIN, lambda _, at: at + 0.5 * laplacian(mesh, at), coarse)
  soft = jnp.clip(2 * smooth(dense, hidden[:, None], 4), 0, 1)
  rest = lift(dense, coarse)
  aside = lift(dense, vertex_normals(plain, mesh.faces))
  for side in (
    rest[:, :1] > 0,
    rest[:, :1] < 0,
  ):  # a whole ear goes one way, so that it keeps its place behind the hair
    along = jnp.where(
      side,
      _unit((1 - soft) * along + soft * _unit(jnp.sum(side * hidden[:, None] * aside, 0))),
      along,
    )
  places = jnp.arange(_INNER, _OUTER, _STEP)

  def one(arguments):
    moving, maps, line = arguments
    at, ahead = (
      _posed(meshes, params.shape, moving, points) for points in (rest, rest + _STEP * along)
    )
    outward = (ahead - at) / _STEP
    facing = -jnp.sum(outward * at, -1) / jnp.maximum(jnp.linalg.norm(at, axis=-1), 1e-6)
    looked = jnp.maximum(facing + _ASIDE, 0) ** 2

    def vote(place):
      pixels, depth = project(at + place * outward, camera)
      column, row = (jnp.floor(pixels[:, k]).astype(jnp.int32) for k in (0, 1))
      height, width = camera.image_size
      there = (column >= 0) & (column < width) & (row >= 0) & (row < height)
      column, row = jnp.clip(column, 0, width - 1), jnp.clip(row, 0, height - 1)
      seen = (maps.depth[row, column] - line[1]) / line[0]
      believed = maps.inside[row, column] * line[2]
      votes = jnp.clip(seen - depth, -_TRUNCATED, _TRUNCATED)
      weight = believed * (seen - depth > -_OCCLUDER)
      if maps.matte is not None:
        free = (1 - maps.matte[row, column]) * maps.matte_weights[row, column]
        votes, weight = jnp.where(free > 0.5, _TRUNCATED, votes), jnp.maximum(weight, free > 0.5)
      return votes * weight * there * looked, weight * there * looked

    return jax.lax.map(vote, places)

  votes, weights = jax.lax.map(one, (_moving(params), maps, lines))
  total = weights.sum(0)  # [L, N]
  mean = votes.sum(0) / jnp.maximum(total, 1e-6)
  known = total > 0.01
  outside = known & (mean > 0)
  before = known & (mean <= 0)
  crossing = outside[1:] & before[:-1]  # from inside to outside
  index = jnp.argmax(crossing, 0)
  pick = lambda table, i: jnp.take_along_axis(table, i[None], 0)[0]
  low, high = pick(mean, index), pick(mean, index + 1)
  depth = places[index] + _STEP * -low / jnp.maximum(high - low, 1e-6)
  share = jnp.any(crossing, 0).astype(jnp.float32)
  field = jnp.stack([share * depth, share], -1)
  near = smooth(dense, field, 6)
  # where nothing is seen: as beside, or 8 mm
  far = smooth(dense, near, 100) + 1e-4 * jnp.array([0.008, 1.0])
  depth = (near + 0.05 * far)[:, :1] / (near + 0.05 * far)[:, 1:]
  hair = jnp.maximum(region(dense, 'scalp')[:, None], soft)
  return hair * depth * along + (1 - hair) * initial_static(dense, along), along


def _unit(vectors):
  return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
