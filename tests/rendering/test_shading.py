import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from meshes_for_tests import bumpy_head, front_camera
from scipy.spatial.transform import Rotation

from exp_jax.geometry import clip_coordinates
from exp_jax.geometry.meshes import vertex_normals as geometry_normals
from exp_jax.rendering import (
  Topology,
  encode_normals,
  frontal_light,
  interpolate,
  interpolate_corners,
  rasterize,
  sample_texture,
  shade_harmonics,
  surface_maps,
)
from exp_jax.rendering.normals import vertex_normals
from exp_jax.rendering.shading import camera_normals, unit
from exp_jax.rendering.views import VIEWS, views

SIZE = (40, 48)


def test_a_frontal_face_is_bluish_purple_and_the_background_black():
  towards_camera = jnp.array([0.0, 0.0, -1.0])
  np.testing.assert_allclose(encode_normals(towards_camera, jnp.ones(1)), [0.5, 0.5, 1.0])
  np.testing.assert_allclose(
    encode_normals(jnp.array([0.0, -1.0, 0.0]), jnp.ones(1)), [0.5, 1, 0.5]
  )
  np.testing.assert_array_equal(encode_normals(jnp.zeros(3), jnp.zeros(1)), np.zeros(3))
  normal = unit(jax.random.normal(jax.random.key(0), (5, 3)))
  decoded = (2 * encode_normals(normal, jnp.ones(1)) - 1) * np.array([1, -1, -1])
  np.testing.assert_allclose(decoded, normal, atol=1e-6)


def test_normals_of_a_turned_camera_are_those_of_the_turned_mesh():
  vertices, faces = bumpy_head(7, 9, height=0.1)
  turn = Rotation.from_rotvec([0.4, -0.9, 0.3]).as_matrix()
  camera = front_camera(SIZE, distance=0.7).replace(rotation=jnp.asarray(turn, jnp.float32))
  expected = geometry_normals(jnp.asarray(vertices @ turn.T, jnp.float32), jnp.asarray(faces))
  np.testing.assert_allclose(
    camera_normals(jnp.asarray(vertices), jnp.asarray(faces), camera), expected, atol=1e-5
  )


@pytest.mark.long
def test_surface_maps_of_a_sphere_are_those_of_the_formula():
  vertices, faces = bumpy_head(60, 80, height=0.1)
  sphere = 0.1 * vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
  camera = front_camera(SIZE, distance=0.7)
  of = jax.jit(lambda v, topology: surface_maps(v, camera, topology, background_depth=9.0))
  maps = of(sphere, Topology.from_faces(faces))
  y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
  rays = np.stack([(x - 24) / camera.focal[0], (y - 20) / camera.focal[1], np.ones(SIZE)], -1)
  b, c = rays[..., 2] * 0.7, 0.7**2 - 0.1**2
  a = (rays**2).sum(-1)
  square = b**2 - a * c
  inside = scipy.ndimage.binary_erosion(square > 0, iterations=2)
  depth = (b - np.sqrt(np.maximum(square, 0))) / a
  normal = (rays * depth[..., None] - [0, 0, 0.7]) / 0.1
  # chords of the mesh
  np.testing.assert_allclose(maps['depth'][inside][:, 0], depth[inside], atol=3e-4)
  np.testing.assert_allclose(maps['normal'][inside], normal[inside], atol=0.02)
  outside = ~scipy.ndimage.binary_dilation(square > 0, iterations=2)
  assert (maps['mask'][outside] == 0).all() and (maps['depth'][outside] == 9).all()
  assert (maps['mask'][inside] == 1).all()


def test_harmonics_reproduce_a_linear_light():
  normals = unit(jax.random.normal(jax.random.key(1), (7, 3)))
  towards = np.array([-0.4, -0.5, -0.77])
  found = shade_harmonics(normals, frontal_light(ambient=0.2, diffuse=0.5))[:, 0]
  np.testing.assert_allclose(found, 0.2 + 0.5 * normals @ towards, atol=1e-5)
  with pytest.raises(ValueError, match='nine|9'):
    shade_harmonics(normals, jnp.ones((4, 3)))


def test_textures_equal_scipy():
  texture = np.random.default_rng(0).uniform(size=(5, 9, 3)).astype(np.float32)
  uv = np.random.default_rng(1).uniform(-0.1, 1.1, (40, 2)).astype(np.float32)
  at = [uv[:, 1] * 5 - 0.5, uv[:, 0] * 9 - 0.5]
  expected = np.stack(
    [scipy.ndimage.map_coordinates(texture[..., k], at, order=1, mode='nearest') for k in range(3)],
    -1,
  )
  np.testing.assert_allclose(
    sample_texture(jnp.asarray(texture), jnp.asarray(uv)), expected, atol=1e-5
  )


@pytest.mark.long
def test_corner_attributes_equal_vertex_attributes_without_seams():
  vertices, faces = bumpy_head(9, 11)
  topology = Topology.from_faces(faces)
  values = jax.random.normal(jax.random.key(0), (len(vertices), 2))

  @jax.jit
  def both(values):
    clip = clip_coordinates(vertices, front_camera(SIZE))
    fragments = rasterize(clip, topology, SIZE)
    by_corner = interpolate_corners(values[faces], clip, topology, fragments)
    return by_corner, interpolate(values, clip, topology, fragments)

  np.testing.assert_allclose(*both(values), atol=1e-6)


@pytest.mark.long
def test_views_are_pictures():
  vertices, faces = bumpy_head(9, 11)
  pictures = views(jnp.asarray(vertices), Topology.from_faces(faces), 0.3, SIZE)
  assert set(pictures) == set(VIEWS)
  for picture in pictures.values():
    assert picture.shape == (*SIZE, 3)
    assert (picture >= 0).all() and (picture <= 1).all() and picture.std() > 0.05


@pytest.mark.long
def test_normals_equal_those_of_geometry():
  """Values and gradients, single, in a batch with shared faces and with faces of its own."""
  vertices, faces = bumpy_head(20, 25)
  vertices[7] = np.nan
  frames = jnp.asarray(vertices) * jnp.array([1.0, 0.6, 1.7])[:, None, None]
  pull = jnp.asarray(np.random.default_rng(0).normal(size=vertices.shape), jnp.float32)

  def both(function):
    def of(vertices, faces):
      normals, transpose = jax.vjp(lambda v: function(v, faces), vertices)
      return normals, transpose(pull)[0]

    return of

  expected = [both(geometry_normals)(frame, faces) for frame in frames]
  one = jax.jit(both(vertex_normals))(frames[0], faces)
  shared = jax.jit(jax.vmap(both(vertex_normals), (0, None)))(frames, jnp.asarray(faces))
  turned = jnp.stack([jnp.roll(faces, k, 1) for k in range(3)])
  own = jax.jit(jax.vmap(both(vertex_normals)))(frames, turned)
  for k, (normals, gradient) in enumerate(expected):
    for found in [shared, own, *([[x[None] for x in one]] if k == 0 else [])]:
      np.testing.assert_allclose(found[0][k], normals, atol=2e-6)
      np.testing.assert_allclose(found[1][k], gradient, atol=2e-6 * float(jnp.abs(gradient).max()))
