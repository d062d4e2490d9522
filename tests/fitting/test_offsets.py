"""The offset stage on a target whose geometry is known: higher hair, a bump on the brow, seen in
three frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from exp_jax.fitting.coarse.coarse_fit import CoarseFit, make_camera
from exp_jax.fitting.offsets.fit import fit_offsets
from exp_jax.fitting.offsets.losses import LOSS_TERMS
from exp_jax.fitting.offsets.options import OffsetOptions
from exp_jax.fitting.offsets.static_field import static_mask
from exp_jax.fitting.offsets.targets import make_targets, take_frame
from exp_jax.geometry import clip_coordinates, project
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import dense_vertices, densify, lift, rest_vertices
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadParams
from exp_jax.heads.skinning import head_landmarks
from exp_jax.rendering import Topology, interpolate, rasterize, surface_maps

FRAMES, MAP = 3, 64
OPTIONS = OffsetOptions(steps=90)


@pytest.fixture(scope='module')
def head():
  """The procedural head with 478 points on its face, the chin where MediaPipe has it."""
  head = load_head('procedural')
  on_face = np.asarray(head.regions['face'])[np.asarray(head.faces)].min(1) > 0.5
  faces = np.random.default_rng(0).choice(np.flatnonzero(on_face), 478)
  faces[152] = head.landmark_faces[head.landmark_names.index('chin')]
  return head.replace(
    landmark_faces=jnp.asarray(faces),
    landmark_barycentric=jnp.full((478, 3), 1 / 3),
    landmark_names=tuple(map(str, range(478))),
  )


@pytest.fixture(scope='module')
def dense(head):
  return densify(head, 0)


@pytest.fixture(scope='module')
def seen(head, dense):
  """(coarse fit, points, mattes, normals, normal of each vertex, bump) of the true geometry, turned
  left to right."""
  pose = np.zeros((FRAMES, 6, 3), np.float32)
  pose[:, 2, 1] = np.linspace(-0.4, 0.4, FRAMES)
  fit = CoarseFit(
    jnp.zeros(10),
    jnp.zeros((FRAMES, 10)),
    jnp.asarray(pose),
    jnp.tile(jnp.array([0, 0.05, -0.8]), (FRAMES, 1)),
    jnp.float32(560),
    jnp.zeros(FRAMES),
    (256, 256),
  )
  zero = jnp.zeros((len(dense.coarse_ids), 3))
  rest = rest_vertices(
    head, dense, HeadParams(fit.shape, fit.expression[0], 0 * fit.pose[0], jnp.zeros(3)), zero, zero
  )
  normals = vertex_normals(rest, dense.faces)
  bump = 0.006 * jnp.exp(
    -0.5 * (jnp.linalg.norm(rest - jnp.array([0, 0.06, 0.09]), axis=1) / 0.02) ** 2
  )
  truth = (0.02 * dense.regions['scalp'] + bump)[:, None] * normals
  topology, points, maps = Topology.from_faces(np.asarray(dense.faces)), [], []
  for i in range(FRAMES):
    params = fit.params(i)
    points.append(project(head_landmarks(head, params), fit.camera())[0])
    vertices = dense_vertices(head, dense, params, truth, zero)
    maps.append(surface_maps(vertices, make_camera(fit.focal * MAP / 256, (MAP, MAP)), topology))
  matte = np.stack([m['mask'][..., 0] for m in maps])
  towards_viewer = np.stack([m['normal'] for m in maps]) * [1, -1, -1]
  return (
    fit,
    np.stack(points),
    matte,
    towards_viewer.astype(np.float32),
    np.asarray(normals),
    np.asarray(bump),
  )


def run(head, dense, seen, *, normals):
  fit, points, matte, target, _, _ = seen
  maps = dict(normals=target, weights=(matte > 0.99).astype(np.float32)) if normals else {}
  targets = make_targets(points * MAP / 256, MAP, matte=np.uint8(np.rint(255 * matte)), **maps)
  return fit_offsets(head, dense, fit, points, np.ones(FRAMES, bool), targets, options=OPTIONS)


@pytest.mark.slow  # a minute of compilation for seconds of work
def test_outline_and_normals_are_fitted(head, dense, seen):
  by_outline, by_normals = (run(head, dense, seen, normals=n) for n in (False, True))
  silhouette, normal = LOSS_TERMS.index('silhouette'), LOSS_TERMS.index('normals')
  for fitted in (by_outline, by_normals):
    losses = np.asarray(fitted.losses)
    assert losses[-1, silhouette] < 0.5 * losses[0, silhouette]
    assert np.isfinite(losses).all()
  losses = np.asarray(by_normals.losses)
  assert losses[-1, normal] < 0.5 * losses[0, normal]

  region = {name: np.asarray(mask) for name, mask in dense.regions.items()}
  normals, bump = seen[4:]
  for fitted in (by_outline, by_normals):
    static, dynamic = np.asarray(fitted.static), np.asarray(fitted.dynamic)
    assert (
      not static[region['eyeballs'] > 0.5].any() and not dynamic[:, region['eyeballs'] > 0.5].any()
    )
    assert not dynamic[:, region['face'] == 0].any(), 'only the face moves'
    assert np.linalg.norm(dynamic.mean(0), axis=-1).max() < 1e-4, (
      'the mean belongs to the static part'
    )
    scalp = region['scalp'] > 0.5
    assert np.einsum('nc,nc->n', static, normals)[scalp].mean() > 0.010, (
      'hair grows from 8 mm towards 20 mm'
    )
  # Only normals tell of the bump on the brow.
  face, top = region['face'] > 0.5, bump > 0.002
  found = np.einsum('nc,nc->n', np.asarray(by_normals.static), normals)
  assert np.corrcoef(found[face], bump[face])[0, 1] > 0.5
  assert 0.5 < found[top].mean() / bump[top].mean() < 2
  assert (
    np.abs(np.einsum('nc,nc->n', np.asarray(by_outline.static), normals)[top]).mean()
    < 0.5 * bump[top].mean()
  )


def normal_maps(head, dense, fit, static, dynamic, size):
  """[T, size, size, 3] unit normals of posed heads with these offsets (x right, y up, z to the
  viewer), and where they are seen."""
  topology, camera = (
    Topology.from_faces(np.asarray(dense.faces)),
    make_camera(fit.focal * size / 256, (size, size)),
  )

  @jax.jit
  def all_frames(params, dynamic):
    def one(arguments):
      vertices = dense_vertices(head, dense, arguments[0], static, arguments[1])
      clip = clip_coordinates(vertices, camera)
      fragments = rasterize(clip, topology, (size, size))
      return interpolate(
        vertex_normals(vertices, dense.faces), clip, topology, fragments
      ), fragments.face_id >= 0

    return jax.lax.map(one, (params, dynamic))

  frames = [fit.params(i) for i in range(len(dynamic))]
  return map(np.array, all_frames(jax.tree.map(lambda *parts: jnp.stack(parts), *frames), dynamic))


def test_known_relief_is_recovered_and_what_moves_is_kept_apart(head, dense):
  """A bump that stays and one that comes and goes, seen in normals of 32 pixels alone: far nearer
  to the truth than no offsets."""
  size, pose = 32, np.zeros((FRAMES, 6, 3), np.float32)
  pose[:, 2, 1] = np.linspace(-0.3, 0.3, FRAMES)
  fit = CoarseFit(
    jnp.zeros(10),
    jnp.zeros((FRAMES, 10)),
    jnp.asarray(pose),
    jnp.tile(jnp.array([0, 0.05, -0.8]), (FRAMES, 1)),
    jnp.float32(560),
    jnp.zeros(FRAMES),
    (256, 256),
  )
  rest = np.asarray(lift(dense, head.template))
  along = np.asarray(vertex_normals(jnp.asarray(rest), dense.faces))
  face = np.asarray(dense.regions['face']) > 0.5
  bump = lambda *place: (
    0.008
    * np.exp(-0.5 * (np.linalg.norm(rest - place, axis=1) / 0.025) ** 2)
    * np.asarray(dense.regions['face'])
  )
  stays, moves = bump(0, 0.06, 0.09), bump(0.04, -0.01, 0.08)
  truth = np.float32([1, 0, -1])[:, None] * moves  # its mean is zero
  offsets = lambda values: jnp.asarray(values[..., None] * along, jnp.float32)
  maps, shown = normal_maps(head, dense, fit, offsets(stays), offsets(truth), size)
  points = np.stack(
    [project(head_landmarks(head, fit.params(i)), fit.camera())[0] for i in range(FRAMES)]
  )
  targets = make_targets(
    points * size / 256,
    size,
    normals=maps,
    weights=scipy.ndimage.minimum_filter(shown, (1, 3, 3)) * 1.0,
  )
  fitted = fit_offsets(
    head,
    dense,
    fit,
    points,
    np.ones(FRAMES, bool),
    targets,
    options=OffsetOptions(steps=300, polish=40, batch=2),
  )
  found = np.einsum('nc,nc->n', fitted.static, along)
  moved = np.einsum('tnc,nc->tn', fitted.dynamic, along)
  rms = lambda values: np.sqrt(np.mean(values[..., face] ** 2))
  assert rms(found - stays) < 0.6 * rms(stays), 'of the error without offsets; 0.46 was measured'
  assert rms(moved - truth) < 0.45 * rms(truth), '0.30 was measured'
  assert np.corrcoef(moved[:, face].ravel(), truth[:, face].ravel())[0, 1] > 0.9
  assert np.abs(moved.mean(0)).max() < 1e-6, 'what stays is not in the dynamic field'
  assert not np.asarray(fitted.dynamic)[:, np.asarray(dense.regions['face']) == 0].any(), (
    'only the face moves'
  )


@pytest.mark.parametrize('shape_seen', [False, True])
def test_the_mask_spares_eyes_and_teeth_and_little_is_moved_without_normals(dense, shape_seen):
  mask = np.asarray(static_mask(dense, shape_seen=shape_seen, picture_face=0.1))[:, 0]
  eyes, scalp, face = (
    np.asarray(dense.regions[name]) > 0.99 for name in ('eyeballs', 'scalp', 'face')
  )
  assert mask.shape == (len(dense.coarse_ids),) and 0 <= mask.min() and mask.max() <= 1
  assert not mask[eyes].any()
  assert (mask[face].mean() < 0.3) == (not shape_seen) and mask[scalp].mean() > 0.7


def test_the_matte_is_not_believed_below_the_chin():
  points, matte = np.zeros((FRAMES, 478, 2)), np.full((FRAMES, 256, 256), 255, np.uint8)
  points[:, 152, 1] = [100, 180, 130]
  targets = take_frame(make_targets(points, MAP, matte=matte), slice(None))
  chin = points[:, 152, 1] * MAP / 256
  weights = np.asarray(targets.matte_weights)
  for frame in range(FRAMES):
    assert not weights[frame, int(np.ceil(chin[frame])) :].any() and weights[frame, 0].min() == 1
  assert make_targets(points, MAP).matte is None
  shown = np.ones((256, 256), np.float32)
  shown[:, :64] = 0  # a picture that ends in the face
  cut = take_frame(
    make_targets(
      points, MAP, matte=matte, frames=np.zeros((FRAMES, 256, 256, 3), np.uint8), shown=shown
    ),
    slice(None),
  )
  edge = 64 * MAP // 256
  assert (
    not np.asarray(cut.matte_weights)[..., :edge].any()
    and not np.asarray(cut.inside)[..., :edge].any()
  )
  np.testing.assert_array_equal(np.asarray(cut.matte_weights)[..., edge:], weights[..., edge:])
  assert targets.matte.shape == (FRAMES, MAP, MAP) and float(targets.matte.min()) == 1
