"""Control maps and the textured preview, on a synthetic actor whose pixels, matte and parameters
are known."""

import dataclasses

import numpy as np
import pytest

from exp_jax.actors import make_stage, render_actor, sample_actor, sample_motion
from exp_jax.controls.maps import control_maps, full_offsets, own_motion, subject_camera
from exp_jax.controls.preview.cut_out import inpaint_background
from exp_jax.controls.reenact import Motion
from exp_jax.controls.same_picture import driven_motion
from exp_jax.geometry import project
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import lift
from exp_jax.heads.head_files import load_head
from exp_jax.heads.personalized import frame_params, subject_vertices
from exp_jax.heads.skinning import head_landmarks
from exp_jax.systems.expportrait.portrait import (
  Portrait,
  mouth_opening,
  preview_frames,
  to_subject,
)

SIZE = 96


@pytest.fixture(scope='module')
def stage():
  return make_stage(load_head('procedural'), 1)


@pytest.fixture(scope='module')
def actor(stage):
  motion = sample_motion(np.random.default_rng(3), stage.assets.head, num_frames=4, fps=10)
  return render_actor(sample_actor(np.random.default_rng(2), stage), motion, stage, size=SIZE)


def frame_of(subject, i):
  per_frame = ('expression', 'pose', 'translation', 'times', 'dynamic_offsets')
  return dataclasses.replace(subject, **{k: getattr(subject, k)[i : i + 1] for k in per_frame})


@pytest.fixture(scope='module')
def portrait(actor):
  return Portrait(
    frame_of(actor.truth, 0), actor.frames[0], actor.matte[0], np.zeros(actor.matte[0].shape, bool)
  )


@pytest.fixture(scope='module')
def preview(stage, actor, portrait):
  """The portrait moved by its own parameters and by those of two later frames."""
  motion = own_motion(actor.truth)
  motion = Motion(
    *(np.asarray(getattr(motion, k))[[0, 1, 3]] for k in ('expression', 'pose', 'translation'))
  )
  offsets = full_offsets(actor.truth)[[0, 1, 3]]
  return np.stack(
    list(preview_frames(portrait, motion, offsets, stage.assets.head, stage.assets.dense))
  )


def test_the_mouth_is_open_only_where_the_inner_lips_are_apart():
  points = np.zeros((478, 2), np.float32)
  assert not mouth_opening(points, (20, 30)).any()
  ring = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
  angle = np.linspace(np.pi, 3 * np.pi, 20, endpoint=False)
  points[list(ring)] = np.stack([15 + 8 * np.cos(angle), 10 + 4 * np.sin(angle)], -1)
  opening = mouth_opening(points, (20, 30))
  assert opening[10, 15] and not opening[2, 15] and not opening[10, 28]


@pytest.mark.long
def test_control_maps_face_the_viewer_in_blue_on_black(stage, actor):
  head, dense, subject = stage.assets.head, stage.assets.dense, actor.truth
  maps = control_maps(head, dense, subject, own_motion(subject), full_offsets(subject), size=SIZE)
  assert maps.shape == (4, SIZE, SIZE, 3) and maps.dtype == np.uint8
  plain = dataclasses.replace(subject, static_offsets=np.zeros_like(subject.static_offsets))
  bald = control_maps(head, dense, plain, own_motion(plain), None, size=SIZE)
  for i in range(4):
    outside, inside = actor.matte[i] == 0, actor.matte[i] == 255
    assert not maps[i][outside].any(), 'background is exactly 0'
    assert maps[i][inside].any(-1).all()
    normal = maps[i][inside] / 127.5 - 1
    unit = np.abs(np.linalg.norm(normal, axis=-1) - 1) < 0.02  # 8 bits
    assert unit.mean() > 0.99, 'all but where one part of the head is antialiased before another'
    assert normal[:, 2].min() > -0.3, 'what is seen faces the viewer'
    # Over the bare skull, above the shoulders, x grows to the right of the picture and y upward.
    shown = bald[i].any(-1)
    row, column = np.nonzero(shown)
    normal = bald[i][shown] / 127.5 - 1
    skull = row < actor.landmarks[i][head.landmark_names.index('nose')][1]
    assert np.corrcoef(column[skull], normal[skull, 0])[0, 1] > 0.5
    assert np.corrcoef(row[skull], normal[skull, 1])[0, 1] < -0.3
  # [4, K] pixels: brows, cheeks, lips, chin
  column, row = actor.landmarks.astype(int).transpose(2, 0, 1)
  red, green, blue = np.median(maps[np.arange(4)[:, None], row, column], axis=(0, 1))
  assert blue > 170 and blue > red + 20 and blue > green + 20


def test_maps_fade_toward_the_cut_through_the_chest(stage, actor):
  """Seen from twice as far, the cut is in the picture: black on it, and three centimetres above it
  as bright as the surface is."""
  head, dense = stage.assets.head, stage.assets.dense
  step = np.float32([0, 0.03, -0.75])
  subject = dataclasses.replace(
    actor.truth,
    translation=actor.truth.translation + step,
    static_offsets=0 * actor.truth.static_offsets,
    dynamic_offsets=0 * actor.truth.dynamic_offsets,
  )
  maps = control_maps(head, dense, subject, own_motion(subject), None, size=SIZE)
  camera = subject_camera(subject, SIZE)
  height = np.asarray(lift(dense, head.template))[:, 1] - np.asarray(head.template)[:, 1].min()
  for i in range(len(maps)):
    vertices = subject_vertices(head, dense, subject, i)
    normals = np.asarray(vertex_normals(vertices, dense.faces))[:, 2]
    column, row = np.floor(np.asarray(project(vertices, camera)[0])).astype(int).T
    seen = (normals > 0.6) & (column >= 0) & (column < SIZE) & (row >= 0) & (row < SIZE)
    # of what it is without a fade
    blue = maps[i][row % SIZE, column % SIZE, 2] / (127.5 * (1 + normals))
    cut, above = blue[seen & (height < 1e-3)], blue[seen & (height > 0.03) & (height < 0.08)]
    assert len(cut) > 9 and cut.max() < 0.3, 'half a pixel from the edge at most'
    assert len(above) > 9 and above.min() > 0.85
    assert blue[seen & (height < 0.03)].max() < 1.05, 'nothing is brighter than the surface is'


def test_the_camera_scales_with_the_map(stage, actor):
  points = head_landmarks(stage.assets.head, frame_params(actor.truth, 2))
  assert subject_camera(actor.truth).image_size == (SIZE, SIZE) and subject_camera(
    actor.truth, 24
  ).image_size == (24, 24)
  np.testing.assert_allclose(
    project(points, subject_camera(actor.truth))[0], actor.landmarks[2], atol=1e-3
  )
  np.testing.assert_allclose(
    project(points, subject_camera(actor.truth, 24))[0], actor.landmarks[2] / 4, atol=1e-3
  )


@pytest.mark.long
def test_offsets_are_spread_to_their_vertices(actor):
  full = full_offsets(actor.truth)
  assert full.shape == (4, *actor.truth.static_offsets.shape)
  np.testing.assert_array_equal(full[:, actor.truth.dynamic_vertices], actor.truth.dynamic_offsets)
  assert np.abs(full).sum() == pytest.approx(np.abs(actor.truth.dynamic_offsets).sum(), rel=1e-5)


@pytest.mark.long
def test_the_preview_reproduces_the_portrait_it_was_made_of(actor, preview):
  assert preview.shape == (3, SIZE, SIZE, 3) and preview.dtype == np.uint8
  inside = actor.matte[0] == 255
  error = np.abs(preview[0].astype(float) - actor.frames[0])[inside].mean()
  assert error < 6, error  # of 255; edges of unseen parts are filled


@pytest.mark.long
def test_what_lies_far_from_the_person_never_moves(actor, preview):
  person = np.zeros((SIZE, SIZE), bool)
  for i in (0, 1, 3):
    person |= actor.matte[i] > 0
  row, column = np.nonzero(person)
  far = np.ones((SIZE, SIZE), bool)
  reach = SIZE // 8  # cut-out, its margin, and the inpainted seam
  for dy in range(-reach, reach + 1):
    for dx in range(-reach, reach + 1):
      far[np.clip(row + dy, 0, SIZE - 1), np.clip(column + dx, 0, SIZE - 1)] = False
  assert far.sum() > 100
  for frame in preview:
    np.testing.assert_array_equal(frame[far], preview[0][far])
    assert np.abs(frame[far].astype(int) - actor.frames[0][far]).max() <= 1
  assert np.abs(preview[2].astype(int) - preview[0]).mean() > 1, 'but the person does'


def test_inpainting_keeps_what_is_far_from_the_person():
  rng = np.random.default_rng(0)
  photo, matte = rng.uniform(size=(40, 56, 3)).astype(np.float32), np.zeros((40, 56), np.float32)
  matte[10:30, 20:36] = 1
  filled = inpaint_background(photo, matte)
  assert (
    filled.shape == photo.shape
    and np.isfinite(filled).all()
    and 0 <= filled.min()
    and filled.max() <= 1
  )
  np.testing.assert_array_equal(filled[:, :14], photo[:, :14])
  assert np.abs(filled[10:30, 20:36] - photo[10:30, 20:36]).mean() > 0.1, 'the person is gone'


@pytest.mark.parametrize('value', [1.0, 0.0])
def test_a_matte_of_all_or_nothing_is_inpainted(value):
  photo = np.random.default_rng(0).uniform(size=(24, 30, 3)).astype(np.float32)
  filled = inpaint_background(photo, np.full((24, 30), value, np.float32))
  assert np.isfinite(filled).all()
  np.testing.assert_allclose(
    filled, photo if value == 0 else np.broadcast_to(photo.mean((0, 1)), photo.shape), atol=1e-5
  )


@pytest.mark.slow  # its cut-out has another size: a compilation of its own
def test_a_portrait_that_is_all_person_can_be_driven(stage, portrait):
  all_person = dataclasses.replace(portrait, matte=np.full_like(portrait.matte, 255))
  motion = own_motion(portrait.subject)
  (frame,) = preview_frames(all_person, motion, None, stage.assets.head, stage.assets.dense)
  assert np.abs(frame.astype(float) - portrait.photo).mean() < 6


@pytest.mark.long
def test_a_driven_portrait_is_a_subject_of_the_drivers_length(stage, actor, portrait):
  head = stage.assets.head
  motion, dynamic = driven_motion(portrait.subject, actor.truth, head), None
  assert dynamic is None
  driven = to_subject(portrait.subject, motion, None, actor.truth)
  assert driven.num_frames == 4 and driven.dynamic_offsets.shape == (4, 0, 3)
  np.testing.assert_array_equal(driven.shape, portrait.subject.shape)
  np.testing.assert_allclose(driven.expression, actor.truth.expression, atol=1e-6)
  moved = np.zeros((4, *portrait.subject.static_offsets.shape), np.float32)
  moved[2, [5, 9]] = 0.001
  driven = to_subject(portrait.subject, motion, moved, actor.truth)
  np.testing.assert_array_equal(driven.dynamic_vertices, [5, 9])
  np.testing.assert_array_equal(full_offsets(driven), moved)
