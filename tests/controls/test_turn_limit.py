"""How far a portrait's head turns: freely where the portrait shows it, never beyond its reach, and the
eyes go on to where the driver looks."""

import dataclasses
import types

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from exp_jax.controls import turn_limit
from exp_jax.controls.head_motion import head_motion, head_rotation
from exp_jax.controls.reenact import reenact
from exp_jax.controls.turn_limit import Reach, eyes_towards, limited, reach_of
from exp_jax.heads.head_files import load_head
from tests.controls.test_reenact import subject

HEAD = load_head('procedural')
AHEAD = np.array([0.0, 0.0, 1.0])
PLACE = np.array([0.0, 0.0, -2.0])
REACH = Reach(AHEAD, np.array([[1.0, 0, 0], [0, 1.0, 0]]), np.radians(np.full(24, 40.0)))


def view(rotation):
  return np.einsum('tji,j->ti', rotation, AHEAD)


def degrees_between(a, b):
  return np.degrees(np.arccos(np.clip(np.sum(a * b, -1), -1, 1)))


def turns(seed=0, count=200, most=80):
  rng = np.random.default_rng(seed)
  axes = rng.normal(size=(count, 3))
  axes[:, 2] = 0  # no roll
  axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
  return Rotation.from_rotvec(np.radians(rng.uniform(0, most, (count, 1))) * axes).as_matrix()


def test_small_turns_stay_and_large_ones_stop_at_the_limit():
  wanted = turns()
  held = limited(wanted, REACH, PLACE)
  before, after = (degrees_between(view(each), AHEAD) for each in (wanted, held))
  free = before < 0.5 * 40
  np.testing.assert_allclose(held[free], wanted[free], atol=1e-12)
  assert after.max() < 40 and (after <= before + 1e-6).all()
  order = np.argsort(before)
  assert (np.diff(after[order]) > -1e-6).all(), 'a larger turn of the driver is a larger turn'
  across = lambda of: view(of)[~free, :2] / np.linalg.norm(view(of)[~free, :2], axis=1)[:, None]
  np.testing.assert_allclose(across(held), across(wanted), atol=1e-9)


def test_roll_is_not_held_back():
  roll = Rotation.from_rotvec([0, 0, 1.2]).as_matrix()
  wanted = turns(1)
  np.testing.assert_allclose(
    limited(roll @ wanted, REACH, PLACE), roll @ limited(wanted, REACH, PLACE), atol=1e-12
  )


def test_no_reach_leaves_the_view_of_the_portrait():
  none = dataclasses.replace(REACH, angles=np.zeros(24))
  np.testing.assert_allclose(
    view(limited(turns(2), none, PLACE)), np.tile(AHEAD, (200, 1)), atol=1e-7
  )


def test_eyes_look_where_the_driver_looks_as_far_as_they_turn():
  wanted = turns(3)
  got = limited(wanted, REACH, PLACE)
  eyes = np.random.default_rng(4).normal(0, 0.1, (200, 3))
  found = eyes_towards(eyes, wanted, got)
  gaze = lambda head, eye: np.einsum('tij,tj->ti', head, Rotation.from_rotvec(eye).apply(AHEAD))
  missed = degrees_between(gaze(got, found), gaze(wanted, eyes))
  length = np.degrees(np.linalg.norm(found, axis=-1))
  within = length < 29.9
  assert 50 < within.sum() < 200 and missed[within].max() < 1e-3
  assert length.max() < max(30, np.degrees(np.linalg.norm(eyes, axis=-1)).max()) + 1e-6


@pytest.fixture
def ball(monkeypatch):
  """A ball of 10 cm whose front is a face, 1 m before the camera: (mesh, pose -> Reach)."""
  ball = trimesh.creation.icosphere(subdivisions=4, radius=0.1)
  face = ball.vertices[:, 2] > 0.02
  dense = types.SimpleNamespace(faces=ball.faces, regions={'face': face.astype(np.float32)})

  def reach(yaw, most=None):
    rotation = Rotation.from_rotvec([0, np.radians(yaw), 0]).as_matrix()
    motion = types.SimpleNamespace(rotation=rotation[None], place=np.array([[0, 0, -1.0]]))
    monkeypatch.setattr(turn_limit, 'head_motion', lambda head, subject: motion)
    vertices = ball.vertices @ rotation.T + motion.place
    return reach_of(None, dense, None, vertices, most=most)

  return reach


def test_a_turned_face_reaches_less_far_to_the_side_that_is_hidden(ball):
  """Analytic for a ball: how far one may go falls with how far the portrait is turned already, and
  the other way round nothing new comes to view."""
  frontal = np.degrees(ball(0).angles)
  assert np.ptp(frontal) < 10, 'a ball from the front is the same all around'
  sideways = []
  for yaw in (0, 20, 40):
    reach = ball(yaw)
    assert abs(reach.across[0, 1]) < 1e-9, 'the first direction is level'
    towards = np.degrees(reach.angles[12]), np.degrees(reach.angles[0])
    sideways.append(towards)
  hidden, shown = zip(*[(min(each), max(each)) for each in sideways])
  assert hidden[0] > hidden[1] > hidden[2] >= 12 and shown[0] < shown[1] <= shown[2]


def test_a_number_of_degrees_rules_in_every_direction(ball):
  np.testing.assert_array_equal(ball(30, most=0.3).angles, 0.3)


def test_a_driven_head_stays_within_reach_and_without_one_turns_as_the_driver():
  reference, driver = subject(1, frames=1), subject(2, frames=6, turn=0.8)
  own = head_motion(HEAD, reference)
  camera = -own.place[0] / np.linalg.norm(own.place[0])
  ahead = own.rotation[0].T @ camera
  across = np.linalg.svd(ahead[None])[2][1:]
  reach = Reach(ahead, across, np.radians(np.full(24, 10.0)))
  free, held = (
    head_rotation(HEAD, reenact(reference, driver, HEAD, reach=each).pose) for each in (None, reach)
  )
  far = lambda rotation: degrees_between(np.einsum('tji,j->ti', rotation, camera), ahead)
  assert far(free).max() > 20
  assert far(held).max() < 10 + 1e-5  # the motion is rounded to float32
