"""LivePortrait one frame at a time: the same as a clip at once, and sliders as `--edit` has them.
Tiny random weights."""

import numpy as np
import pytest

import exp_jax
from exp_jax.errors import UserError


@pytest.fixture(scope='module')
def model():
  with exp_jax.load('liveportrait', random_weights='tiny') as loaded:
    yield loaded


@pytest.fixture(scope='module')
def pictures():
  rows, columns = np.mgrid[:72, :64]
  portrait = np.stack([columns * 3, rows * 3, 90 + 0 * rows], -1).astype(np.uint8)
  clip = np.random.default_rng(0).integers(0, 255, (3, 48, 48, 3), np.uint8)
  return portrait, clip


OPTIONS = dict(no_crop=True, crop_driving='no')


@pytest.mark.long
def test_frames_one_by_one_are_those_of_the_clip(model, pictures):
  portrait, clip = pictures
  options = model.Options(**OPTIONS)
  whole = model.animate(portrait, clip, options=options).frames()
  session = model.live(portrait, options=options)
  one_by_one = np.stack([session.feed(frame) for frame in clip])
  assert np.abs(one_by_one.astype(int) - whole).max() <= 1  # batches of other sizes
  assert np.abs(whole[2].astype(int) - whole[0]).max() > 1 and (session.fed, session.seen) == (3, 3)
  assert set(session.seconds) == {'read', 'draw'}


@pytest.mark.long
def test_sliders_are_those_of_the_command(model, pictures, tmp_path):
  portrait, _ = pictures
  editor = model.editor(portrait, options=model.Options(**OPTIONS))
  rest = editor.draw({})
  np.testing.assert_array_equal(editor.draw({'smile': 0.0, 'move_z': 1.0}), rest)
  values = {'yaw': 20.0, 'smile': 1.0}
  edited = editor.draw(values)
  assert np.abs(edited.astype(int) - rest).max() > 1
  still = model.animate(
    portrait, np.stack([portrait] * 2), options=model.Options(**OPTIONS, edit=values)
  ).frames()
  assert np.abs(still[-1].astype(int) - edited).max() <= 2, 'as --edit on a clip that does not move'
  editor.save_motion(tmp_path / 'edited.npz', values)
  driven = model.animate(
    portrait, tmp_path / 'edited.npz', options=model.Options(**OPTIONS)
  ).frames()
  assert len(driven) == 2 and np.abs(driven[0].astype(int) - rest).max() <= 2
  assert np.abs(driven[1].astype(int) - edited).max() <= 2
  assert 'eyes_open' not in editor.sliders, (
    'nothing is known of the eyes of a picture that was not cropped'
  )


@pytest.mark.parametrize(
  'values, words',
  [
    ({'nose': 1.0}, "unknown slider 'nose'"),
    ({'yaw': 90.0}, 'yaw must be in'),
    ({'yaw': 'x'}, 'must be a number'),
  ],
)
def test_sliders_that_are_refused(model, pictures, values, words):
  with pytest.raises(UserError, match=words):
    model.editor(pictures[0], options=model.Options(**OPTIONS)).draw(values)


def test_openness_is_no_part_of_a_motion(model, pictures, tmp_path):
  editor = model.editor(pictures[0], options=model.Options(**OPTIONS))
  with pytest.raises(UserError, match='cannot be part of a motion template'):
    editor.save_motion(tmp_path / 'e.npz', {'lip_open': 0.3})
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'more, view, words',
  [
    ({}, 'normals', 'no head whose normals'),
    ({'eye_retargeting': True}, 'preview', 'cannot be had live'),
  ],
)
def test_what_a_camera_cannot_serve_is_refused(model, pictures, more, view, words):
  with pytest.raises(UserError, match=words):
    model.live(pictures[0], options=model.Options(**OPTIONS, **more), view=view)
