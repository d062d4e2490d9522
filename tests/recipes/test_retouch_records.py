"""What the network that repairs previews learns from: the truth moves as the preview does, by one
camera."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.actors import load_stage, sample_actor, sample_motion
from exp_jax.actors.actor import truth
from exp_jax.controls import maps
from exp_jax.controls.map_records import claim_folder
from exp_jax.controls.mouth import INNER_LIPS
from exp_jax.controls.reenact import Motion as HeadMotion
from exp_jax.fitting.tracked_driver import frames_of
from exp_jax.geometry import project
from exp_jax.heads.model import HeadParams
from exp_jax.heads.skinning import head_landmarks
from exp_jax.media.squares import Crop
from exp_jax.recipes.retouch_records import Camera, film, focus, in_step, main, moved_alike

SIZE = 96


@pytest.fixture(scope='module')
def stage():
  return load_stage('procedural')


@pytest.fixture(scope='module')
def moving(stage):
  """A person who moves: (actor, their subject of five frames)."""
  rng = np.random.default_rng(4)
  actor = sample_actor(rng, stage)
  return actor, truth(
    actor, sample_motion(rng, stage.assets.head, num_frames=5, fps=5), stage, size=SIZE
  )


@pytest.mark.long
def test_a_head_that_was_fitted_without_error_moves_as_it_is_told(stage, moving):
  _, subject = moving
  own, whole = frames_of(subject, slice(0, 1)), Crop(0.0, 0.0, SIZE, SIZE)
  motion = maps.own_motion(subject)
  found = moved_alike(own, own, motion, stage, crop=whole, height=SIZE)
  np.testing.assert_allclose(found.expression, motion.expression, atol=1e-6)
  np.testing.assert_allclose(found.translation[0], motion.translation[0], atol=1e-4)
  bare = dataclasses.replace(
    subject, dynamic_vertices=np.zeros(0, np.int32), dynamic_offsets=np.zeros((5, 0, 3), np.float32)
  )
  drawn = [
    maps.control_maps(stage.assets.head, stage.assets.dense, bare, m, None, size=SIZE)
    for m in (motion, found)
  ]
  head = drawn[0][..., :2].any(-1)
  assert np.abs(drawn[0].astype(float) - drawn[1])[head].mean() < 3, (
    'the same head at the same place, torso apart'
  )


@pytest.mark.long
def test_steps_are_the_same_on_the_screen_whatever_square_was_fitted(stage, moving):
  """The same motion, fitted in the whole picture and in a square of it at twice the scale, asks for
  the same film."""
  _, subject = moving
  own = frames_of(subject, slice(0, 1))
  shifted = HeadMotion(
    *(np.repeat(a[:1], 2, 0) for a in (subject.expression, subject.pose, subject.translation))
  )
  shifted.translation[1] += [0.01, 0.02, 0.0]
  crop = Crop(20.0, 10.0, SIZE / 2, SIZE)
  inside = dataclasses.replace(
    own, focal=own.focal * crop.scale, center=(own.center - [crop.left, crop.top]) * crop.scale
  )
  ones = moved_alike(own, own, shifted, stage, crop=Crop(0.0, 0.0, SIZE, SIZE), height=SIZE)
  two = moved_alike(own, inside, shifted, stage, crop=crop, height=SIZE)
  np.testing.assert_allclose(two.translation, ones.translation, atol=1e-5)
  np.testing.assert_allclose(
    ones.translation[1] - ones.translation[0], [0.01, 0.02, 0.0], atol=1e-4
  )


@pytest.mark.long
def test_what_a_fit_got_wrong_of_the_picture_is_not_in_the_truth(stage, moving):
  """A fit whose expression and turn are off by a constant asks for the film of one that is not."""
  _, subject = moving
  own = frames_of(subject, slice(0, 1))
  motion, whole = maps.own_motion(subject), Crop(0.0, 0.0, SIZE, SIZE)
  fitted = dataclasses.replace(own, expression=own.expression + np.float32(0.05))
  driven = HeadMotion(motion.expression + np.float32(0.05), motion.pose, motion.translation)
  found = moved_alike(own, fitted, driven, stage, crop=whole, height=SIZE)
  np.testing.assert_allclose(found.expression, motion.expression, atol=1e-5)


@pytest.mark.long
def test_a_film_by_absolute_translation_is_the_actors_own(stage, moving):
  actor, subject = moving
  clip = film(actor, maps.own_motion(subject), stage, SIZE)
  np.testing.assert_allclose(clip.truth.translation, subject.translation, atol=1e-6)


def test_one_camera_films_all_frames_of_a_person_alike():
  for seed in range(6):
    camera = Camera(np.random.default_rng(seed), 48)
    image, matte = np.full((48, 48, 3), 120, np.uint8), np.full((48, 48), 255, np.uint8)
    matte[:, :20] = 0
    a, b = (camera(image, matte, np.random.default_rng(k)).astype(float) for k in (1, 2))
    assert a.dtype == float and np.abs(a - b).mean() < 12, 'noise differs, colours do not'
    assert np.abs(a.mean((0, 1)) - b.mean((0, 1))).max() < 2


def test_mouth_and_eyes_are_marked_where_they_are():
  points = np.zeros((478, 2), np.float32)
  for corners, x in (((33, 133, 159, 145), 30), ((362, 263, 386, 374), 66)):
    points[list(corners)] = [[x - 6, 40], [x + 6, 40], [x, 38], [x, 42]]
  turn = np.linspace(0, 2 * np.pi, len(INNER_LIPS), endpoint=False)
  points[list(INNER_LIPS)] = [48, 70] + np.stack([10 * np.cos(turn), 3 * np.sin(turn)], -1)
  marks = focus(points, SIZE)
  assert set(np.unique(marks)) == {0, 128, 255}
  assert (
    marks[40, 30] == marks[40, 66] == 128
    and marks[70, 48] == marks[70, 39] == 255
    and marks[55, 48] == 0
  )
  assert (marks == 255).sum() > (marks == 128).sum() / 2 > 50


@pytest.mark.parametrize(
  'given, words',
  [(('--frames', '3'), '--frames must be an even number'), (('--num', '0'), '--num')],
)
def test_numbers_out_of_range_are_refused(tmp_path, capsys, given, words):
  with pytest.raises(SystemExit) as ended:
    main(['-o', str(tmp_path / 'out'), *given])
  assert ended.value.code == 2 and words in capsys.readouterr().err


def test_people_of_another_seed_are_not_taken_for_those_that_are_there(tmp_path, capsys):
  out = tmp_path / 'out'
  claim_folder(out, {'size': 256, 'frames': 16, 'seed': 31})
  with pytest.raises(SystemExit):
    main(['-o', str(out), '--seed', '32', '--num', '1'])
  assert 'made with another seed; choose another folder' in capsys.readouterr().err
  assert [path.name for path in out.iterdir()] == ['settings.json']


@pytest.mark.long
def test_in_step_the_face_goes_as_far_on_the_screen_as_the_preview_does(stage, moving):
  """A fit that is nearer, in a square of the picture: what moved_alike leaves of the way is taken
  out, and only that."""
  _, subject = moving
  head, own = stage.assets.head, frames_of(subject, slice(0, 1))
  motion, crop = maps.own_motion(subject), Crop(8.0, 4.0, 0.8 * SIZE, SIZE)
  near = dataclasses.replace(
    own,
    translation=own.translation * np.float32([1, 1, 0.8]),
    focal=own.focal * crop.scale * 0.8,
    center=(own.center - [crop.left, crop.top]) * crop.scale,
  )
  moved = HeadMotion(motion.expression, motion.pose, motion.translation * np.float32([1, 1, 0.8]))
  alike = moved_alike(own, near, moved, stage, crop=crop, height=SIZE)
  found = in_step(own, alike, near, moved, stage, crop=crop)

  def middle(person, each):
    seen = [
      project(
        head_landmarks(head, HeadParams(*map(jnp.asarray, (person.shape, e, p, t)))),
        maps.subject_camera(person),
      )[0]
      for e, p, t in zip(each.expression, each.pose, each.translation)
    ]
    return np.asarray(seen).mean(1)

  way = lambda person, each: middle(person, each) - middle(person, maps.own_motion(person))
  wanted = way(near, moved) / crop.scale
  np.testing.assert_allclose(way(own, found), wanted, atol=0.15)
  assert np.abs(way(own, alike) - wanted).max() > 0.3, 'there was something to take out'
  np.testing.assert_array_equal(found.pose, alike.pose)
