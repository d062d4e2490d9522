"""The inside of the mouth: light through the lips against rays, teeth where a band has them."""

import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.controls.mouth import (
  INNER_LIPS,
  aperture_light,
  inner_lips,
  labial_faces,
  loop_of,
  mouth_light,
  paint_teeth,
  shown_edge,
  tooth_light,
  tooth_places,
  tooth_share,
  tooth_shift,
)
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import densify, lift
from exp_jax.heads.head_files import load_head

SQUARE = np.array([[-1, 1, 0], [1, 1, 0], [1, -1, 0], [-1, -1, 0]], np.float32)  # clockwise from +z


def test_light_through_an_opening_against_rays():
  """The share of cosine-weighted rays that leave by the opening, which lies in front of all of
  these points."""
  rng = np.random.default_rng(0)
  points = np.array([[0, 0, -1], [0.3, 0.2, -0.6], [-0.5, 0.4, -2]], np.float32)
  normals = np.array([[0, 0, 1], [0.1, -0.2, 1], [0.3, 0.1, 1]], np.float32)
  normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
  found = aperture_light(points, normals, SQUARE)
  radius, angle = np.sqrt(rng.random(200_000)), 2 * np.pi * rng.random(200_000)
  local = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.sqrt(1 - radius**2)], -1)
  for point, normal, share in zip(points, normals, found):
    right = np.cross(normal, [0, 1, 0])
    right /= np.linalg.norm(right)
    rays = local @ np.stack([right, np.cross(normal, right), normal])
    reach = -point[2] / np.where(rays[:, 2] > 1e-6, rays[:, 2], np.inf)
    hit = point + rays * reach[:, None]
    assert float(share) == pytest.approx(
      ((rays[:, 2] > 1e-6) & (np.abs(hit[:, :2]) < 1).all(-1)).mean(), abs=4e-3
    )


def test_outside_is_lit_behind_a_wall_is_not_and_turning_everything_changes_nothing():
  points = np.array([[0, 0, 0.2], [0, 0, -0.5], [6, 0, -0.1]], np.float32)
  normals = np.tile(np.float32([0, 0, 1]), (3, 1))
  light = np.asarray(aperture_light(points, normals, SQUARE))
  assert light[0] == 1 and 0.5 < light[1] < 1 and light[2] < 0.05
  assert np.asarray(mouth_light(points, normals, 1e-3 * SQUARE))[1] < 0.2, 'a shut mouth is dark'
  turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
  turn *= np.sign(np.linalg.det(turn))
  np.testing.assert_allclose(
    aperture_light(points @ turn.T, normals @ turn.T, SQUARE @ turn.T), light, atol=1e-5
  )


def band(height, *, upper, back=0.03):
  """A band of teeth: an arch of radius 3 cm, 16 mm high, from the biting edge at `height` away from
  the other one."""
  turns, rows = np.meshgrid(np.linspace(-1.4, 1.4, 57), np.linspace(0, 0.016, 9), indexing='ij')
  sign = 1 if upper else -1
  points = np.stack([back * np.sin(turns), height + sign * rows, back * np.cos(turns)], -1).reshape(
    -1, 3
  )
  index = np.arange(57 * 9).reshape(57, 9)
  a, b, c, d = (
    each.ravel() for each in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:])
  )
  return points, np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])


def test_places_on_two_bands():
  (above, faces), (below, _) = band(0.001, upper=True), band(-0.001, upper=False)
  points = np.concatenate([above, below])
  places = tooth_places(
    points, np.concatenate([faces, faces + len(above)]), np.ones(len(points), bool)
  )
  assert (places[: len(above), 2] == 1).all() and (places[len(above) :, 2] == -1).all()
  turn = np.arctan2(above[:, 0], above[:, 2])
  front = np.abs(turn) < 1.2
  # millimetres of arc
  np.testing.assert_allclose(places[: len(above), 0][front], 30 * turn[front], atol=1.5)
  np.testing.assert_allclose(places[: len(above), 1], 1e3 * (above[:, 1] - 0.001), atol=0.3)
  np.testing.assert_allclose(places[len(above) :, 1], 1e3 * (-0.001 - below[:, 1]), atol=0.3)
  assert not tooth_places(above, faces, np.ones(len(above), bool)).any(), (
    'one band alone is not known to be teeth'
  )


def test_teeth_are_crowns_with_dark_gaps_below_a_gum():
  enamel, gums = jnp.array([0.9, 0.88, 0.8]), jnp.array([0.5, 0.2, 0.2])
  paint = lambda along, height, which=1.0: np.asarray(
    paint_teeth(jnp.array([along, height, which], jnp.float32), enamel, gums)
  )
  middle = paint(4.25, 4.0)  # of the first upper incisor, 8.5 mm wide
  assert middle[1] > 0.8 and np.allclose(paint(4.25, 14.0), gums, atol=1e-3)
  assert paint(8.5, 4.0)[1] < 0.75 * middle[1] and paint(0.0, 4.0)[1] < 0.75 * middle[1], 'gaps'
  np.testing.assert_allclose(paint(-4.25, 4.0), middle, atol=1e-6)
  assert paint(8.0, 0.2)[1] < paint(8.0, 4.0)[1], 'corners give way at the biting edge'
  assert paint(5.2, 4.0, -1.0)[1] < 0.8 * paint(2.6, 4.0, -1.0)[1], 'lower incisors are narrower'


def test_lips_of_a_head_lie_on_its_dense_mesh_and_open_outwards():
  head = load_head('makehuman')
  lips = inner_lips(head)
  flat, dense = (
    loop_of(jnp.asarray(vertices), lips)
    for vertices in (head.template, lift(densify(head, 1), head.template))
  )
  np.testing.assert_allclose(flat, dense, atol=1e-6)
  inside = flat.mean(0) - jnp.array([0, 0, 0.02])
  assert (
    float(aperture_light(inside[None], jnp.array([[0.0, 0, 1]]), flat + jnp.array([0, 1e-3, 0]))[0])
    >= 0
  )
  wide = (
    flat.mean(0)
    + (flat - flat.mean(0)) * jnp.array([1.0, 1, 0])
    + jnp.where(jnp.arange(len(flat))[:, None] < 10, 0.01, -0.01) * jnp.array([0, 1.0, 0])
  )
  assert float(aperture_light(inside[None], jnp.array([[0.0, 0, 1]]), wide)[0]) > 0.1, (
    'the loop opens towards the face'
  )
  assert inner_lips(load_head('procedural')) is None, 'it has no such landmarks'


def row_of_teeth():
  """Two bands that turn over at the biting edge, as heads have them: outer and inner side share
  their edge. (points, faces)."""
  points, faces, start = [], [], 0
  for upper in (True, False):
    outer, own = band(0.001 if upper else -0.001, upper=upper)
    inner, _ = band(0.001 if upper else -0.001, upper=upper, back=0.024)
    places = np.arange(len(outer)).reshape(57, 9)
    second = np.where(np.arange(9) == 0, places, places + len(outer))  # the edge is shared
    own = own if upper else own[:, ::-1]  # outwards for both
    inner_faces = second.ravel()[own[:, ::-1]]
    points += [outer, inner]
    faces += [own + start, inner_faces + start]
    start += 2 * len(outer)
  return np.concatenate(points), np.concatenate(faces)


def test_a_tooth_row_does_not_fade_from_gum_to_edge():
  """In the even light of a wide opening before the teeth.

  By plain vertex normals the edge, which turns over, is much darker.
  """
  points, faces = row_of_teeth()
  teeth = np.isin(np.arange(len(points)), faces)
  places = tooth_places(points, faces, teeth)
  labial = labial_faces(points, faces, places)
  front = np.flatnonzero((places[:, 2] > 0) & (np.abs(places[:, 0]) < 12) & (places[:, 1] < 9))
  front = front[np.isin(front, labial)]
  assert len(front) >= 40 and np.hypot(points[labial, 0], points[labial, 2]).min() > 0.0295, (
    'outer sides alone'
  )
  loop = jnp.asarray(SQUARE * np.array([0.04, 0.03, 1]) + np.array([0, 0, 0.033]), jnp.float32)
  where = jnp.asarray(points, jnp.float32)
  light = lambda lit, of: np.asarray(lit(where, vertex_normals(where, jnp.asarray(of)), loop))[
    front
  ]
  new, old = light(tooth_light, labial), light(mouth_light, faces)
  edge, crown = places[front, 1] < 0.5, places[front, 1] > 3
  assert new[edge].mean() > 0.93 * new[crown].mean() and new.min() > 0.6
  assert old[edge].mean() < 0.93 * old[crown].mean(), 'what was wrong'


def test_teeth_show_under_resting_lips_as_people_show_them():
  head = load_head('makehuman')
  dense = densify(head, 1)
  teeth = np.asarray(dense.regions['teeth']) > 0.5
  for lifted in (0.0, 0.003):  # a person whose upper lip is higher
    person = np.array(lift(dense, head.template))
    places = tooth_places(person, np.asarray(dense.faces), teeth)
    person[np.asarray(dense.regions['lips']) > 0.5, 1] += lifted
    lips = inner_lips(head)
    moved = person + tooth_shift(person, places, lips)
    lip = np.asarray(loop_of(jnp.asarray(person), lips))[INNER_LIPS.index(13), 1]
    front = (places[:, 2] > 0) & (np.abs(person[:, 0]) < 0.008)
    assert lip - moved[front, 1].min() == pytest.approx(2.6e-3, abs=3e-4)
    np.testing.assert_array_equal(moved[~teeth], person[~teeth])


def test_teeth_are_told_from_lips_in_any_light():
  enamel, lips, dark = (
    np.array([0.85, 0.82, 0.75]),
    np.array([0.75, 0.42, 0.40]),
    np.array([0.08, 0.05, 0.05]),
  )
  skin = np.array([0.72, 0.55, 0.47])
  for light in (np.ones(3), np.array([1.0, 0.8, 0.6]), np.array([0.6, 0.7, 0.9])):
    share = tooth_share(np.stack([enamel, 0.6 * enamel, lips, dark]) * light, skin * light)
    assert share[0] > 0.9 and share[1] > 0.5 and share[2] < 0.1 and share[3] < 0.1


def test_the_edge_of_teeth_in_a_picture():
  share = np.zeros((40, 30))
  share[10:18, 5:25] = 1  # the upper row, and below a dark gap the lower one
  share[24:30, 5:25] = 1
  assert shown_edge(share, (8, 20)) == 18
  assert shown_edge(share, (26, 29)) is None
