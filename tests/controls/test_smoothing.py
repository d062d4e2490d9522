"""The filter against motions that are known: jitter goes, blinks and shakes stay, nothing is
late."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from exp_jax.controls.driving_options import DEFAULT_SECONDS
from exp_jax.controls.head_motion import head_motion
from exp_jax.controls.reenact import reenact
from exp_jax.controls.smoothing import JITTER, smoothed, without_jitter
from exp_jax.heads.head_files import load_head
from exp_jax.heads.personalized import Subject

HEAD = load_head('procedural')
SPINE, NECK, SKULL, JAW = 0, 1, 2, 3
BLINK = HEAD.expression_names.index('eyeBlinkLeft')


def moving(frames, *, rate=25.0, turn=None, jitter=0.0, seed=0):
  """Someone whose head turns by rotation vectors [T, 3], shared by neck and head, tracked with some
  jitter of everything."""
  rng = np.random.default_rng(seed)
  noise = lambda name, *shape: jitter * JITTER[name] * rng.normal(size=(frames, *shape))
  pose = np.zeros((frames, 6, 3))
  pose[:, SPINE] = noise('torso', 3)
  turned = Rotation.from_rotvec(noise('rotation', 3)) * Rotation.from_rotvec(
    np.zeros((frames, 3)) if turn is None else turn
  )
  pose[:, NECK] = (
    Rotation.from_rotvec(-pose[:, SPINE]) * Rotation.from_rotvec(turned.as_rotvec() / 2)
  ).as_rotvec()
  pose[:, SKULL] = turned.as_rotvec() / 2
  pose[:, JAW] = noise('jaw', 3)
  expression = 0.3 + noise('expression', 10)
  place = np.array([0.02, -0.03, -0.7]) + 0.7 * np.concatenate(
    [noise('direction', 2), noise('log_distance', 1)], 1
  )
  flat = dict(
    static_offsets=np.zeros((3, 3)),
    dynamic_vertices=np.zeros(0, int),
    dynamic_offsets=np.zeros((frames, 0, 3)),
  )
  person = Subject(
    'mover',
    'none',
    'none',
    0,
    (512, 512),
    rate,
    np.zeros(10),
    expression,
    pose,
    place,
    np.full(2, 1280.0),
    np.full(2, 256.0),
    np.arange(frames) / rate,
    **flat,
  )
  shift = head_motion(HEAD, person).place - place  # a turning torso moves the head: undo that
  return dataclasses.replace(
    person, translation=place - shift + np.asarray(HEAD.joint_template[SKULL])
  )


def rms(values):
  return np.sqrt(np.mean(np.asarray(values) ** 2))


def second(values):
  return rms(np.diff(values, 2, axis=0))


@pytest.mark.parametrize('rate', [24, 25, 30, 50, 60])
@pytest.mark.parametrize('jitter', [0.0, 0.4, 1.0])
def test_a_blink_of_150_ms_stays_and_jitter_goes(rate, jitter):
  """Closed and open again within 150 ms, wherever the frames fall; with no, usual and the most
  jitter, twenty clips of each."""
  kept, before, after = [], [], []
  for seed in range(20):
    rng = np.random.default_rng(seed)
    times = (np.arange(4 * rate) + rng.uniform()) / rate
    blink = np.where(np.abs(times - 2) < 0.075, np.cos(np.pi * (times - 2) / 0.15) ** 2, 0)
    noise = jitter * JITTER['expression'] * rng.normal(size=len(times))
    found = without_jitter((blink + noise)[:, None], DEFAULT_SECONDS * rate, JITTER['expression'])[
      :, 0
    ]
    kept.append(found[np.argmax(blink)] / blink.max())
    rest = np.abs(times - 2) > 0.5
    before.append(second(noise[rest]))
    after.append(second(found[rest]))
  assert np.mean(kept) >= 0.98 and np.percentile(kept, 10) >= 0.95, kept
  assert rms(after) <= 0.15 * rms(before)


@pytest.mark.parametrize('hertz, degrees', [(1.0, 10), (2.5, 12), (5.0, 6)])
def test_a_shaken_or_laughing_head_keeps_its_swing(hertz, degrees):
  times = np.arange(75) / 25
  swing = np.deg2rad(degrees) * np.sin(2 * np.pi * hertz * times)
  turn = swing[:, None] * [0.3, 0.9, 0.1]
  quiet = smoothed(moving(75, turn=turn, jitter=0.4), HEAD)
  found = (
    Rotation.from_matrix(head_motion(HEAD, quiet).rotation).as_rotvec() @ [0.3, 0.9, 0.1] / 0.91
  )
  inside = slice(10, -10)
  assert np.sum(found[inside] * swing[inside]) / np.sum(swing[inside] ** 2) > 0.95
  assert rms(found[inside] - swing[inside]) < 2 * 0.4 * JITTER['rotation']


def test_a_still_head_is_still():
  """The head ten times quieter at least, the rest five times; and the mean does not move."""
  tracked = moving(100, jitter=0.4)
  quiet = smoothed(tracked, HEAD)
  before, after = head_motion(HEAD, tracked), head_motion(HEAD, quiet)
  assert second(after.rotation) < 0.1 * second(before.rotation)
  assert second(after.place) < 0.1 * second(before.place)
  np.testing.assert_allclose(after.place.mean(0), before.place.mean(0), atol=2e-4)
  for name in ('expression', 'translation'):
    assert second(getattr(quiet, name)) < 0.2 * second(getattr(tracked, name)), name
  assert second(quiet.pose[:, JAW]) < 0.2 * second(tracked.pose[:, JAW])
  assert second(quiet.pose[:, SPINE]) < 0.2 * second(tracked.pose[:, SPINE])


def test_what_is_smoothed_is_the_motion_of_the_head():
  """However a pose divides it: splits that differ from frame to frame give the same quiet head, and
  drive it."""
  rng = np.random.default_rng(4)
  one = moving(40, turn=0.1 * np.sin(np.arange(40) / 4)[:, None] * [0, 1, 0.3], jitter=0.4)
  pose, wanted = np.array(one.pose), head_motion(HEAD, one)
  pose[:, [SPINE, NECK]] += rng.normal(0, 0.1, (40, 2, 3))
  of = lambda joint: Rotation.from_rotvec(pose[:, joint])
  pose[:, SKULL] = (
    (of(SPINE) * of(NECK)).inv() * Rotation.from_matrix(wanted.rotation)
  ).as_rotvec()
  other = dataclasses.replace(one, pose=pose)
  other = dataclasses.replace(
    other, translation=other.translation + wanted.place - head_motion(HEAD, other).place
  )
  first, second_ = (head_motion(HEAD, smoothed(each, HEAD)) for each in (one, other))
  np.testing.assert_allclose(second_.rotation, first.rotation, atol=1e-6)
  np.testing.assert_allclose(second_.place, first.place, atol=1e-6)
  still = moving(1)
  driven = [reenact(still, smoothed(each, HEAD), HEAD) for each in (one, other)]
  np.testing.assert_allclose(driven[1].pose, driven[0].pose, atol=2e-6)
  np.testing.assert_allclose(driven[1].translation, driven[0].translation, atol=1e-6)


def test_nothing_is_late():
  """Played backwards, the clip gives the same motion backwards."""
  rng = np.random.default_rng(1)
  values = np.cumsum(rng.normal(0, 0.02, (60, 3)), 0) + 0.02 * rng.normal(size=(60, 3))
  forward, backward = (without_jitter(v, 2.0, 0.02) for v in (values, values[::-1]))
  np.testing.assert_allclose(backward[::-1], forward, atol=1e-9)
  assert np.abs(forward - values).max() > 1e-3


def test_a_steady_turn_stays_and_tremor_goes():
  """Also where axis-angle numbers jump: a turn through half a circle and beyond."""
  turn = np.linspace(2.6, 4.1, 41)[:, None] * [0.0, 1, 0]
  exact = Rotation.from_rotvec(turn)
  off = lambda subject: (
    exact.inv() * Rotation.from_matrix(head_motion(HEAD, subject).rotation)
  ).magnitude()
  steady = moving(41)
  steady.pose[:, SPINE] = exact.as_rotvec()
  assert np.abs(np.diff(steady.pose[:, SPINE, 1])).max() > 6, 'the numbers jump'
  assert off(smoothed(steady, HEAD)).max() < 1e-5
  tremor = dataclasses.replace(steady, pose=np.array(steady.pose))
  shaken = exact * Rotation.from_rotvec(0.003 * np.random.default_rng(0).normal(size=(41, 3)))
  tremor.pose[:, SPINE] = shaken.as_rotvec()
  assert rms(off(smoothed(tremor, HEAD))) < 0.6 * rms(off(tremor))


def test_a_clip_without_jitter_is_not_rounded():
  """Known motion, as of actors or of films in studios, passes as it is."""
  times = np.arange(60) / 25
  exact = moving(
    60, turn=(0.2 * np.sin(5 * times) + 0.1 * np.sin(13 * times))[:, None] * [0.2, 1, 0.1]
  )
  before, after = head_motion(HEAD, exact), head_motion(HEAD, smoothed(exact, HEAD))
  np.testing.assert_allclose(after.rotation, before.rotation, atol=1e-3)
  np.testing.assert_allclose(after.place, before.place, atol=1e-4)


def test_a_crop_that_follows_the_head_becomes_one_camera():
  film = moving(30, turn=0.2 * np.sin(np.arange(30) / 5)[:, None] * [0, 1, 0], jitter=0.4)
  crops = np.repeat(np.eye(3)[None], 30, 0)
  crops[:, 0, 2] = 20 * np.random.default_rng(2).normal(size=30)
  away = -head_motion(HEAD, film).place[:, 2]
  shifted = np.array(film.translation)
  shifted[:, 0] += (crops[:, 0, 2] - crops[0, 0, 2]) * away / 1280
  cut = dataclasses.replace(film, translation=shifted, source_crop=crops)
  quiet = smoothed(cut, HEAD)
  assert np.ptp(quiet.source_crop, axis=0).max() == 0
  np.testing.assert_allclose(
    head_motion(HEAD, quiet).place, head_motion(HEAD, smoothed(film, HEAD)).place, atol=1e-6
  )


def test_nothing_asked_nothing_changed():
  subject = moving(9, jitter=1.0)
  assert smoothed(subject, HEAD, 0.0) is subject
  short = moving(4, jitter=1.0)
  assert smoothed(short, HEAD, 1.0) is short
  with pytest.raises(ValueError, match='-1'):
    smoothed(subject, HEAD, -1)
