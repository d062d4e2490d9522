"""Loki's driver map: exact where it can be, the same values however the head is turned, by the
names of its channels."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.controls import deformation_maps
from exp_jax.controls.driver_map import (
  CHANNELS,
  channel_names,
  driver_map_of,
  driver_surface,
  encoded,
  of_head,
  positional_encoding,
  screen_points,
  surface_points,
)
from exp_jax.errors import UserError
from exp_jax.geometry import HEAD_TO_CAMERA, Camera, project
from exp_jax.heads.deformation import SIGMA, deformation
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadParams, neutral_params
from exp_jax.heads.mouth_cavity import mouth_cavity, neutral_cavity, posed_cavity

HEAD = load_head('procedural')
BARE = HEAD.replace(
  regions={k: v for k, v in HEAD.regions.items() if k not in ('teeth', 'tongue', 'inner_mouth')}
)
SIZE = 96
CAMERA = Camera(
  rotation=jnp.asarray(HEAD_TO_CAMERA),
  translation=jnp.zeros(3),
  focal=jnp.full(2, 2.4 * SIZE),
  center=jnp.full(2, SIZE / 2),
  image_size=(SIZE, SIZE),
)


def params(seed=0, *, expression=0.3, turn=(0.0, 0.0, 0.0)):
  rng = np.random.default_rng(seed)
  still = neutral_params(HEAD)
  pose = np.zeros(still.pose.shape, np.float32)
  pose[HEAD.joint('jaw')] = expression * np.array([0.5, 0, 0])
  pose[HEAD.joint('head')] = turn
  return HeadParams(
    jnp.asarray(rng.normal(0, 0.5, still.shape.shape), jnp.float32),
    jnp.asarray(expression * rng.uniform(0, 1, still.expression.shape), jnp.float32),
    jnp.asarray(pose),
    jnp.array([0.0, 0.0, -0.7]),
  )


@pytest.fixture(scope='module')
def surface():
  return driver_surface(HEAD)


def test_the_channels_are_in_the_order_of_their_names():
  rng = np.random.default_rng(3)
  points, moved = rng.uniform(-1, 1, (5, 7, 3)), rng.normal(0, 1, (5, 7, 3))
  found = np.asarray(encoded(points, moved, np.full((5, 7), 255)))
  assert found.shape == (5, 7, CHANNELS) == (5, 7, 45) and len(channel_names()) == 45
  for channel, name in enumerate(channel_names()):
    function, what = name.split(' ', 1)
    if function == 'deformation':
      wanted = moved[..., 'xyz'.index(what)]
    else:
      power, axis = what.split(' ')
      wanted = getattr(np, function)(
        2.0 ** int(power[2:]) * points[..., 'xyz'.index(axis)].astype(np.float32)
      )
    np.testing.assert_allclose(found[..., channel], wanted, atol=1e-5, err_msg=name)
  assert (
    channel_names()[:3] == ('sin 2^0 x', 'sin 2^1 x', 'sin 2^2 x')
    and channel_names()[7] == 'cos 2^0 x'
  )


def test_arms_take_channels_away():
  points, moved = np.ones((2, 3, 3)), np.ones((2, 3, 3))
  mask = np.array([[255, 0, 255], [0, 0, 255]], np.uint8)
  whole = np.asarray(encoded(points, moved, mask))
  np.testing.assert_array_equal(encoded(points, moved, mask, deformed=False), whole[..., :42])
  np.testing.assert_array_equal(encoded(points, moved, mask, positions=False), whole[..., 42:])
  assert not whole[mask == 0].any() and positional_encoding(points).shape == (2, 3, 42)


@pytest.mark.long
def test_template_coordinates_are_exact_at_vertices(surface):
  """At a pixel whose centre a vertex falls on, P is that vertex's, to the step of the rasterizer's
  grid."""
  person = params()
  points, _ = surface_points(HEAD, surface, person)
  own = np.asarray(of_head(HEAD))
  places, _, _, mask = (np.asarray(a) for a in driver_map_of(HEAD, surface, person, CAMERA, SIZE))
  assert mask.sum() > 500
  worst = []
  for vertex in np.flatnonzero(own)[::37]:
    pixel = np.asarray(project(points[vertex][None], CAMERA)[0])[0]
    row, column = np.floor(pixel[::-1]).astype(int)
    if not (0 <= row < SIZE and 0 <= column < SIZE):
      continue
    # move the principal point, so that the vertex is on a centre
    shift = np.array([column + 0.5, row + 0.5]) - pixel
    there = CAMERA.replace(center=CAMERA.center + jnp.asarray(shift, jnp.float32))
    drawn, _, _, seen = (np.asarray(a) for a in driver_map_of(HEAD, surface, person, there, SIZE))
    error = np.abs(drawn[row, column] - np.asarray(surface.places)[vertex]).max()
    if seen[row, column] and error < 0.05:  # else another part of the head hides the vertex
      worst.append(error)
    if len(worst) == 6:
      break
  assert len(worst) == 6 and max(worst) < 2e-4, worst


@pytest.mark.long
def test_the_mask_leaves_neck_and_cloth_out(surface):
  places, depth, moved, mask = (
    np.asarray(a) for a in driver_map_of(HEAD, surface, params(), CAMERA, SIZE)
  )
  faces = np.asarray(HEAD.faces)
  np.testing.assert_array_equal(
    np.asarray(surface.shown)[: len(faces)], of_head(HEAD)[faces].any(1)
  )
  everything = driver_map_of(
    HEAD, surface.replace(shown=jnp.ones_like(surface.shown)), params(), CAMERA, SIZE
  )[3]
  assert mask.sum() < np.asarray(everything).sum()
  assert not places[~mask].any() and not depth[~mask].any() and not moved[~mask].any()


def test_a_neutral_face_has_no_deformation_and_turns_are_none():
  still = params(expression=0.0)
  np.testing.assert_allclose(
    deformation(HEAD, still.shape, still.expression, still.pose), 0, atol=1e-6
  )
  person, turned = params(), params(turn=(0.2, 0.5, -0.1))
  of = lambda p: np.asarray(deformation(HEAD, p.shape, p.expression, p.pose))
  np.testing.assert_array_equal(of(turned), of(person))
  assert np.abs(of(person)).max() > SIGMA / 2


@pytest.mark.long
def test_values_at_a_surface_point_do_not_change_as_the_head_turns_and_moves(surface):
  """The same vertex on a pixel's centre from two sides shows the same P and D."""
  # the tip of the nose
  vertex = int(np.argmax(np.where(of_head(HEAD), np.asarray(HEAD.template)[:, 2], -1)))
  values = []
  for turn, move in (((0, 0, 0), (0, 0, -0.7)), ((0.1, 0.3, 0.05), (0.02, -0.01, -0.8))):
    person = params(turn=turn).replace(translation=jnp.array(move))
    pixel = np.asarray(project(surface_points(HEAD, surface, person)[0][vertex][None], CAMERA)[0])[
      0
    ]
    row, column = np.floor(pixel[::-1]).astype(int)
    there = CAMERA.replace(
      center=CAMERA.center + jnp.asarray(np.array([column + 0.5, row + 0.5]) - pixel, jnp.float32)
    )
    places, _, moved, mask = (
      np.asarray(a) for a in driver_map_of(HEAD, surface, person, there, SIZE)
    )
    assert mask[row, column]
    values.append(np.concatenate([places[row, column], moved[row, column]]))
  # the rasterizer's grid is 1/256 pixel
  np.testing.assert_allclose(values[0], values[1], atol=3e-4)


@pytest.mark.long
def test_maps_and_hef_share_one_deformation(surface):
  """What HEF compares is `heads.deformation` over sigma at the same pixels, to the last bit of the
  interpolation."""
  person = params()
  drawn = driver_map_of(HEAD, surface, person, CAMERA, SIZE)
  record = dataclasses.make_dataclass(
    'Seen', ['shape', 'expression', 'pose', 'translation', 'camera']
  )(
    np.asarray(person.shape),
    np.asarray(person.expression)[None],
    np.asarray(person.pose)[None],
    np.asarray(person.translation)[None],
    CAMERA,
  )
  target, swapped, mask = deformation_maps.expression_maps(HEAD, record, record, size=SIZE)
  both = mask[0] & np.asarray(drawn[3])
  assert both.sum() > 500
  np.testing.assert_array_equal(target, swapped)
  np.testing.assert_allclose(target[0][both], np.asarray(drawn[2])[both], atol=1e-5)
  assert deformation_maps.SIGMA is SIGMA


def test_a_mouth_without_inside_gets_one_that_is_seen_and_does_not_deform():
  assert mouth_cavity(HEAD) is None or not any(
    n in HEAD.regions for n in ('teeth', 'tongue', 'inner_mouth')
  )
  cavity = mouth_cavity(BARE)
  assert cavity.points.shape == (200, 3)
  person = params()
  rest = np.asarray(neutral_cavity(BARE, cavity, person.shape))
  neutral = np.asarray(BARE.template) + np.asarray(BARE.shape_basis) @ np.asarray(person.shape)
  lips = np.asarray(cavity.lips) @ neutral
  from exp_jax.heads.skinning import rest_joints

  still = person.replace(expression=0 * person.expression, pose=0 * person.pose)
  joint = np.asarray(rest_joints(BARE, still))[BARE.joint('jaw')]
  distance, forward = np.linalg.norm(lips - joint), (lips - joint) / np.linalg.norm(lips - joint)
  centre = joint + 0.75 * (lips - joint) - 0.005 * forward
  np.testing.assert_allclose(np.linalg.norm(rest - centre, axis=1), 0.25 * distance, rtol=1e-4)
  assert ((rest - centre) @ forward < 1e-5).all()  # the half that is away from the lips
  moved = np.asarray(posed_cavity(BARE, cavity, person))
  # expression and jaw leave it
  np.testing.assert_allclose(moved, rest + np.asarray(person.translation), atol=1e-6)
  surface = driver_surface(BARE)
  assert not np.asarray(surface_points(BARE, surface, person)[1])[-200:].any()
  faces = np.asarray(cavity.faces)
  normals = np.cross(rest[faces[:, 1]] - rest[faces[:, 0]], rest[faces[:, 2]] - rest[faces[:, 0]])
  inward = ((centre - rest[faces].mean(1)) * normals).sum(1)
  # its fronts are inside, towards the lips
  assert (inward[np.abs(normals).max(1) > 1e-9] > 0).all()


@pytest.mark.long
def test_faces_are_wound_so_that_no_front_is_culled(surface):
  culled = np.asarray(driver_map_of(HEAD, surface, params(), CAMERA, SIZE)[3])
  from exp_jax.geometry import clip_coordinates
  from exp_jax.rendering import rasterize

  clip = clip_coordinates(surface_points(HEAD, surface, params())[0], CAMERA)
  both = rasterize(clip, surface.topology, (SIZE, SIZE))
  shown = (np.asarray(both.face_id) >= 0) & np.asarray(surface.shown)[
    np.maximum(np.asarray(both.face_id), 0)
  ]
  assert (culled != shown).sum() < 0.01 * shown.sum()


def test_the_other_reading_gives_places_on_the_screen():
  depth = np.zeros((1, 3, 5), np.float32)
  found = np.asarray(screen_points(jnp.asarray(depth)))
  np.testing.assert_allclose(found[0, :, 0, 1], [-2 / 3, 0, 2 / 3], atol=1e-6)
  np.testing.assert_allclose(found[0, 0, :, 0], [-0.8, -0.4, 0, 0.4, 0.8], atol=1e-6)


def test_a_head_that_is_all_neck_is_refused():
  whole = HEAD.replace(regions=HEAD.regions | {'neck': jnp.ones(len(HEAD.template))})
  with pytest.raises(UserError, match='is all neck and cloth'):
    driver_surface(whole)
