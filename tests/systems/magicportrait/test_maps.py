"""Guidance maps: against numpy on the same head, cameras, texture and light by their formulas,
refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.controls.maps import own_motion, subject_camera
from exp_jax.controls.reenact import Motion
from exp_jax.errors import UserError
from exp_jax.geometry import project, weak_perspective_camera
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadParams, head_digest
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import head_joints, head_vertices
from exp_jax.rendering import shade_harmonics
from exp_jax.systems.magicportrait.maps import (
  NEAR,
  Conventions,
  appearance_of,
  encoded_picture,
  guidance_maps,
  guidance_surface,
  shown_maps,
  weak_camera,
)
from exp_jax.systems.magicportrait.texture import HeadTexture, light_of_tracker, load_texture

pytestmark = pytest.mark.usefixtures('lightly_compiled')
SIZE, DISTANCE = 48, 0.75
HEAD = load_head('procedural')
SURFACE = guidance_surface(HEAD)
DENSE = densify(HEAD, 1)


def subject_of(**changes):
  """Three frames of a procedural head: at rest, turned, and nearer and to a side."""
  zero = lambda *shape: np.zeros(shape, np.float32)
  pose = zero(3, len(HEAD.parents), 3)
  pose[1, HEAD.joint('head')] = 0.1, 0.6, 0.0
  rest = dict(
    subject_id='one',
    head_name=HEAD.name,
    head_digest=head_digest(HEAD),
    levels=1,
    image_size=(SIZE, SIZE),
    fps=10.0,
    shape=zero(HEAD.shape_basis.shape[-1]),
    expression=zero(3, HEAD.expression_basis.shape[-1]),
    pose=pose,
    translation=np.float32(
      [[0, 0.02, -DISTANCE], [0, 0.02, -DISTANCE], [0.03, 0.02, -0.9 * DISTANCE]]
    ),
    focal=np.float32([110, 110]),
    center=np.float32([SIZE / 2, SIZE / 2]),
    times=np.float32([0, 0.1, 0.2]),
    static_offsets=zero(len(DENSE.coarse_ids), 3),
    dynamic_vertices=np.zeros(0, np.int32),
    dynamic_offsets=zero(3, 0, 3),
  )
  return Subject(**(rest | changes))


def maps_of(subject, texture=None, **conventions):
  chosen = Conventions(**conventions)
  return guidance_maps(
    HEAD,
    SURFACE,
    subject,
    own_motion(subject),
    size=SIZE,
    conventions=chosen,
    appearance=appearance_of(HEAD, subject, chosen, texture),
  )


def posed(subject, t):
  params = HeadParams(
    *(
      jnp.asarray(a)
      for a in (subject.shape, subject.expression[t], subject.pose[t], subject.translation[t])
    )
  )
  return np.asarray(head_vertices(HEAD, params), np.float64), np.asarray(
    head_joints(HEAD, params), np.float64
  )


def slow_frame(subject, t, attributes):
  """Nearest of all triangles by loops over pixels, weak perspective: ([S, S, C] interpolated, [S,
  S] bool)."""
  vertices, joints = posed(subject, t)
  scale = np.asarray(subject.focal, np.float64)[0] / -joints[HEAD.joint('head'), 2]
  xy = vertices[:, :2] * [1, -1] * scale + np.asarray(subject.center)
  faces = np.asarray(SURFACE.faces)
  drawn, nearest = np.zeros((SIZE, SIZE, attributes.shape[1])), np.full((SIZE, SIZE), -np.inf)
  for face in faces:
    a, b, c = xy[face]
    area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    if abs(area) < 1e-9:
      continue
    low, high = (
      np.floor(xy[face].min(0) - 0.5).astype(int),
      np.ceil(xy[face].max(0) + 0.5).astype(int),
    )
    for row in range(max(low[1], 0), min(high[1], SIZE)):
      for column in range(max(low[0], 0), min(high[0], SIZE)):
        sides = np.array([(b, c), (c, a), (a, b)]) - (column + 0.5, row + 0.5)  # [3, 2, 2]
        weights = (sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0]) / area
        if (weights >= 0).all() and (depth := weights @ vertices[face, 2]) > nearest[row, column]:
          nearest[row, column], drawn[row, column] = depth, weights @ attributes[face]
  return drawn, np.isfinite(nearest)


@pytest.mark.long
def test_maps_are_what_loops_over_triangles_and_pixels_give():
  light = np.vstack([[2.5, 2.0, 1.5], np.random.default_rng(0).normal(0, 0.3, (8, 3))])
  subject = subject_of(light=light.astype(np.float32))
  found = maps_of(subject, albedo='grey')
  for t in (1, 2):
    vertices, _ = posed(subject, t)
    z = vertices[:, 2]
    used = np.unique(SURFACE.faces)
    near = (z - z[used].min()) / (z[used].max() - z[used].min())
    normals = np.asarray(vertex_normals(jnp.asarray(vertices), SURFACE.faces))
    drawn, mask = slow_frame(subject, t, np.concatenate([near[:, None], normals], 1))
    assert (mask != (found.mask[t] > 0)).mean() < 0.003  # pixels on an edge, snapped to 1/256
    both = mask & (found.mask[t] > 0)
    np.testing.assert_allclose(found.depth[t][both] / 255, drawn[both, 0], atol=0.02)
    # beside an edge another triangle may be seen
    close = lambda a, b: np.quantile(np.abs(a / 255 - b), 0.98)
    assert close(found.depth[t][both], drawn[both, 0]) < 0.004
    assert close(found.normals[t][both], np.clip(drawn[both, 1:], 0, 1)) < 0.01
    lit = np.asarray(
      shade_harmonics(jnp.asarray(drawn[..., 1:] * [1, -1, -1]), jnp.asarray(subject.light))
    )
    shaded = np.asarray(encoded_picture(jnp.clip(0.75 * lit, 0, 1)))
    assert close(found.render[t][both], shaded[both]) < 0.01
    assert (
      not found.depth[t][~mask & (found.mask[t] == 0)].any()
      and not found.render[t][~mask & (found.mask[t] == 0)].any()
    )


@pytest.mark.long
def test_conventions_differ_as_they_say():
  subject = subject_of()
  published, other = maps_of(subject), maps_of(subject, depth='fixed', normals='signed')
  inside = published.mask > 0
  # what is farthest faces away
  assert published.depth[0].max() >= 250 and 90 < published.depth[0][inside[0]].min() < 160
  clamped = np.maximum(2 * (other.normals / 255.0) - 1, 0) * inside[..., None]
  np.testing.assert_allclose(clamped, published.normals / 255, atol=0.012)
  vertices, joints = posed(subject, 0)
  nearest = 0.5 + (vertices[np.unique(SURFACE.faces), 2].max() - joints[HEAD.joint('head'), 2]) / (
    2 * NEAR
  )
  assert abs(other.depth[0].max() / 255 - nearest) < 0.02
  shown = shown_maps(('depth', 'normals'), vars(published))
  assert (
    shown['depth'].shape == (3, SIZE, SIZE, 3) and float(np.ptp(shown['depth'], axis=-1).max()) == 0
  )
  assert 0 <= float(shown['normals'].min()) and float(shown['normals'].max()) <= 1
  assert 0 < (published.landmarks[0] > 0).mean() < 0.5


def test_the_weak_camera_agrees_at_the_joint_and_with_the_trackers():
  subject = subject_of()
  camera = subject_camera(subject, SIZE)
  weak = weak_camera(camera, DISTANCE)
  at = jnp.array([[0.05, -0.03, -DISTANCE]])
  np.testing.assert_allclose(project(at, weak)[0], project(at, camera)[0], atol=1e-4)
  points, scale = (
    jnp.array(np.random.default_rng(1).normal(0, 0.1, (5, 3)), jnp.float32),
    2 * 110 / DISTANCE / SIZE,
  )
  theirs = weak_perspective_camera(jnp.array([scale, 0.0, 0.0]), (SIZE, SIZE))
  np.testing.assert_allclose(project(points, weak)[0], project(points, theirs)[0], atol=1e-4)


@pytest.mark.long
def test_a_head_that_comes_nearer_is_larger_and_none_is_perspective():
  subject = subject_of()
  area = (maps_of(subject).mask > 0).sum((1, 2))
  assert 1.15 < area[2] / area[0] < 1.3  # (1 / 0.9)^2
  assert (maps_of(subject).mask != maps_of(subject, camera='perspective').mask).any()


@pytest.mark.long
def test_the_albedo_is_the_subjects_at_its_coarse_vertices():
  np.testing.assert_array_equal(
    np.asarray(DENSE.coarse_ids)[: len(HEAD.template), 0], np.arange(len(HEAD.template))
  )
  # so that a dense mesh begins with the coarse one
  assert np.asarray(DENSE.barycentric)[: len(HEAD.template), 0].min() == 1
  colours = np.tile(np.float32([0.5, 0.2, 0.1]), (len(DENSE.coarse_ids), 1))
  light = np.zeros((9, 3), np.float32)
  light[0] = 1 / 0.282095
  found = maps_of(subject_of(albedo=colours, light=light))
  seen = found.render[found.mask > 0]
  np.testing.assert_allclose(
    seen / 255, np.broadcast_to(encoded_picture(jnp.array([0.5, 0.2, 0.1])), seen.shape), atol=0.003
  )
  assert (
    np.ptp(maps_of(subject_of(albedo=colours), albedo='grey').render.astype(int), axis=-1).max()
    == 0
  )


def texture_file(path, rng, faces):
  places = rng.uniform(0, 1, (len(HEAD.template), 2))
  np.savez(
    path,
    mean=rng.uniform(0, 255, 512 * 512 * 3),
    tex_dir=rng.normal(0, 5, (512, 512, 3, 4)).astype(np.float32),
    vt=places,
    ft=faces.astype(np.int64),
  )
  return path


def test_the_texture_space_is_read_as_the_published_code_reads_it(tmp_path):
  rng = np.random.default_rng(0)
  path = texture_file(tmp_path / 'FLAME_texture.npz', rng, np.asarray(HEAD.faces))
  stored, codes = np.load(path), np.array([1.0, -2.0])
  found = load_texture(path, codes)
  row, column = 7, 100
  blue, green, red = (
    stored['mean'].reshape(512, 512, 3)[2 * row, 2 * column]
    + stored['tex_dir'][2 * row, 2 * column, :, :2] @ codes
  )
  np.testing.assert_allclose(
    found.image[row, column], np.array([red, green, blue]) / 255, atol=1e-6
  )
  u, v = stored['vt'][stored['ft'][3, 1]]
  np.testing.assert_allclose(found.corners[3, 1], [u, 1 - v], atol=1e-6)
  with pytest.raises(UserError, match='at most 4 finite numbers'):
    load_texture(path, np.zeros(9))
  with pytest.raises(UserError, match='it belongs to another head'):
    appearance_of(HEAD, subject_of(), Conventions(), HeadTexture(found.image, found.corners[:5]))
  np.savez(
    tmp_path / 'odd.npz',
    mean=np.zeros(3),
    tex_dir=np.zeros((2, 2)),
    vt=np.zeros((2, 2)),
    ft=np.zeros((2, 3), int),
  )
  with pytest.raises(UserError, match='are not those of the texture space'):
    load_texture(tmp_path / 'odd.npz')
  np.savez(tmp_path / 'other.npz', mean=np.zeros(3))
  with pytest.raises(UserError, match="has no 'tex_dir'"):
    load_texture(tmp_path / 'other.npz')


@pytest.mark.long
def test_a_texture_colours_the_render_by_its_places():
  image = np.zeros((4, 4, 3), np.float32)
  image[:2], image[2:] = [0.8, 0.2, 0.1], [0.1, 0.2, 0.8]
  corners = np.full((len(HEAD.faces), 3, 2), 0.5, np.float32)
  corners[..., 1] = np.where(
    np.asarray(HEAD.template)[np.asarray(HEAD.faces), 1] > np.median(HEAD.template[:, 1]),
    0.125,
    0.875,
  )
  light = np.zeros((9, 3), np.float32)
  light[0] = 1 / 0.282095
  subject = subject_of(light=light)
  found = maps_of(subject, HeadTexture(image, corners))
  rows = np.flatnonzero((found.mask[0] > 0).any(1))
  top, bottom = (
    found.render[0][row][found.mask[0][row] > 0].mean(0) / 255 for row in (rows[3], rows[-4])
  )
  np.testing.assert_allclose(top, [0.8, 0.2, 0.1], atol=0.03)  # a texture is stored as pictures are
  np.testing.assert_allclose(bottom, [0.1, 0.2, 0.8], atol=0.03)


def test_the_trackers_light_is_the_same_irradiance():
  rng = np.random.default_rng(2)
  light, n = rng.normal(0, 1, (9, 3)), rng.normal(0, 1, (20, 3))
  n /= np.linalg.norm(n, axis=1, keepdims=True)
  x, y, z = n.T
  basis = np.stack(
    [
      0.282095 * np.ones_like(x),
      1.023327 * x,
      1.023327 * y,
      1.023327 * z,
      0.858086 * x * y,
      0.858086 * x * z,
      0.858086 * y * z,
      0.429043 * (x**2 - y**2),
      0.247708 * (3 * z**2 - 1),
    ],
    -1,
  )
  ours = shade_harmonics(
    jnp.asarray(n * [1, -1, -1], jnp.float32), jnp.asarray(light_of_tracker(light))
  )
  np.testing.assert_allclose(ours, basis @ light, atol=1e-5)
  with pytest.raises(ValueError, match=r'light must be \[9, 3\]'):
    light_of_tracker(np.zeros((3, 9)))


def test_what_cannot_be_drawn_is_refused():
  with pytest.raises(UserError, match="the maps' normals is 'both', choose from clamped, signed"):
    Conventions(normals='both')
  regions = dict(HEAD.regions) | {'clothing': jnp.ones(len(HEAD.template))}
  with pytest.raises(UserError, match='is all cloth by its regions'):
    guidance_surface(HEAD.replace(regions=regions))
  with pytest.raises(UserError, match='cannot be seen by its camera'):
    from exp_jax.controls.framing import boxes_of

    subject = subject_of()
    far = Motion(subject.expression, subject.pose, subject.translation - np.float32([0, 0, 500]))
    boxes_of(HEAD, subject, far, 'clip')
