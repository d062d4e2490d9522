"""One frame at a time: the same as a whole clip at once; sliders; a camera that sees a head whose
motion is known."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import exp_jax
from exp_jax.controls.head_motion import head_motion
from exp_jax.controls.maps import control_maps, own_motion, subject_camera
from exp_jax.controls.reenact import Motion
from exp_jax.errors import UserError
from exp_jax.fitting.coarse.fit import fit_coarse_many
from exp_jax.geometry import project
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import Subject, frame_params, load_subject
from exp_jax.heads.skinning import head_landmarks
from exp_jax.observe import shared_estimator
from exp_jax.observe.observation import make_observation
from exp_jax.systems.expportrait import animate as expportrait
from exp_jax.systems.expportrait.live.frame_by_frame import FrameByFrame
from exp_jax.systems.expportrait.live.frame_solver import FrameSolver
from exp_jax.systems.expportrait.live.sliders import (
  ACTIONS,
  TURNS,
  checked_values,
  edited,
  sliders_of,
)
from exp_jax.systems.expportrait.live.steady_points import SteadyPoints
from exp_jax.systems.expportrait.portrait import preview_frames
from exp_jax.systems.expportrait.transfer.network import Transfer
from exp_jax.systems.expportrait.transfer.one_person import PersonTransfer
from tests.small_portrait import Truth, make_small_portrait


def _head_ready() -> bool:
  try:
    return bool(load_head('makehuman'))
  except UserError:
    return False


needs_head = pytest.mark.skipif(not _head_ready(), reason='`make setup` makes the MakeHuman head')


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  folder = tmp_path_factory.mktemp('small')
  return folder, *make_small_portrait(folder)


@pytest.fixture
def model(small, monkeypatch):
  folder, _, points, matte = small
  monkeypatch.setattr(shared_estimator, 'FaceEstimator', lambda: Truth(points, matte))
  with exp_jax.load(
    'expportrait', subjects=folder / 'fits', transfer='none', networks='none'
  ) as loaded:
    yield loaded


def one_of(motion, frame):
  return Motion(
    *(np.asarray(getattr(motion, f.name))[frame : frame + 1] for f in dataclasses.fields(Motion))
  )


@pytest.mark.long
@needs_head
@pytest.mark.usefixtures('lightly_compiled')
def test_frames_one_by_one_are_those_of_the_clip(small, model):
  folder = small[0]
  opened = model.portrait(folder / 'me.png', options=model.Options(size=64))
  motion = own_motion(load_subject(folder / 'motion.npz'))
  dense = densify(model.head, 1)
  whole = list(preview_frames(opened.portrait, motion, None, model.head, dense))
  normals = control_maps(model.head, dense, opened.portrait.subject, motion, None, size=64)
  draw, bare = (model.draws(opened, view=view) for view in ('preview', 'normals'))
  for frame in (1, 0, 2):  # in any order
    np.testing.assert_array_equal(draw(one_of(motion, frame)), whole[frame])
    np.testing.assert_array_equal(bare(one_of(motion, frame)), normals[frame])
  assert np.abs(whole[1].astype(int) - whole[0]).mean() > 1
  with pytest.raises(ValueError, match='preview, normals'):
    FrameByFrame(opened.portrait, head=model.head, dense=dense, transfer=None, view='x')


@pytest.mark.long
@needs_head
@pytest.mark.usefixtures('lightly_compiled')
def test_a_camera_moves_the_head_as_the_driver_moves(small, model, monkeypatch):
  """The driver is the portrait's own head: in the second frame it stands six pixels to the right,
  in the third it is back."""
  folder, picture, _, matte = small
  driver = load_subject(folder / 'motion.npz')
  seen = [
    np.asarray(
      project(head_landmarks(model.head, frame_params(driver, frame)), subject_camera(driver))[0]
    )
    for frame in range(3)
  ]
  now = [0]

  def estimator(image):
    if now[0] is None:
      return np.zeros((0, 478, 3), np.float32), np.zeros(0), matte
    return Truth(seen[now[0]], matte)(image)

  session = model.live(folder / 'me.png', options=model.Options(size=64), view='normals')
  monkeypatch.setattr(session, '_estimator', estimator)
  shown = []
  for number, frame in enumerate((0, 1, None, 2)):
    now[0] = frame
    shown.append(session.feed(picture, at=10.0 * number))  # so far apart that nothing is steadied
  place = lambda image: float((image.any(-1) * np.arange(64)).sum() / image.any(-1).sum())
  truth = [
    place(image)
    for image in control_maps(
      model.head, densify(model.head, 1), driver, own_motion(driver), None, size=64
    )
  ]
  found = [place(shown[number]) for number in (0, 1, 3)]
  assert truth[1] - truth[0] > 3
  np.testing.assert_allclose(np.array(found) - found[0], np.array(truth) - truth[0], atol=0.5)
  np.testing.assert_array_equal(shown[2], shown[1])
  assert (session.fed, session.seen) == (4, 3) and set(session.seconds) == {
    'landmarks',
    'fit',
    'draw',
  }


@pytest.mark.long
@needs_head
@pytest.mark.usefixtures('lightly_compiled')
def test_a_frame_solved_alone_is_the_fit_of_a_clip_of_one_frame(small, model):
  driver = load_subject(small[0] / 'motion.npz')
  camera = subject_camera(driver)
  points = np.asarray(project(head_landmarks(model.head, frame_params(driver, 1)), camera)[0])
  seen = make_observation(points[None], name='x', image_size=(64, 64), estimator='truth')
  focal = float(driver.focal[0])
  (fit,) = fit_coarse_many(model.head, [seen], shapes=[driver.shape], focals=[focal])
  alone = FrameSolver(model.head, fit)(seen)
  for name in ('expression', 'pose', 'translation'):
    np.testing.assert_array_equal(getattr(alone, name), getattr(fit, name))
  np.testing.assert_allclose(alone.translation[0], driver.translation[1], atol=0.01)


@needs_head
def test_a_camera_that_shows_nobody(small, model):
  folder, picture, _, matte = small
  session = model.live(folder / 'me.png', options=model.Options(size=64), view='normals')
  session._estimator = lambda image: (np.zeros((0, 478, 3), np.float32), np.zeros(0), matte)
  with pytest.raises(UserError, match='no face found in the first frame of the camera'):
    session.feed(picture)


@pytest.mark.long
@needs_head
@pytest.mark.usefixtures('lightly_compiled')
def test_an_edited_portrait_is_drawn_and_its_motion_drives_to_it(small, model, tmp_path):
  folder = small[0]
  options = model.Options(size=64, smoothing=0.0)
  editor = model.editor(folder / 'me.png', options=options)
  rest, turned = editor.draw({}), editor.draw({'yaw': 25.0, 'smile': 1.0})
  np.testing.assert_array_equal(editor.draw({'yaw': 0.0}), rest)
  assert np.abs(turned.astype(int) - rest).mean() > 1
  editor.save_motion(tmp_path / 'edited.npz', {'yaw': 25.0, 'smile': 1.0})
  driven = model.animate(folder / 'me.png', tmp_path / 'edited.npz', options=options).frames()
  assert len(driven) == 1 and np.abs(driven[0].astype(int) - turned).mean() < 0.5


def person(head, dense, seed=0):
  """A subject with offsets and an expression."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return Subject(
    'p',
    head.name,
    head_digest(head),
    dense.levels,
    (64, 64),
    12.0,
    0.5 * draw(head.shape_basis.shape[-1]),
    rng.uniform(0, 0.5, (3, head.expression_basis.shape[-1])).astype(np.float32),
    0.1 * draw(3, len(head.parents), 3),
    0.01 * draw(3, 3) - np.float32([0, 0, 0.7]),
    np.full(2, 150, np.float32),
    np.full(2, 32, np.float32),
    np.arange(3, dtype=np.float32) / 12,
    2e-4 * draw(len(dense.coarse_ids), 3),
    np.zeros(0, np.int32),
    np.zeros((3, 0, 3), np.float32),
  )


@pytest.mark.long
@needs_head
@pytest.mark.usefixtures('lightly_compiled')
def test_the_transfer_of_one_person_is_the_transfer():
  """Of the module that ships, which is asked in the mirror too; frame by frame against sixteen at
  once."""
  head = load_head('makehuman')
  dense = densify(head, 1)
  transfer = Transfer(expportrait.embedded('transfer'), head, dense)
  subject, jaw = person(head, dense), np.float32([[0, 0, 0], [0.2, 0, 0], [0.1, 0.02, -0.03]])
  whole, one = transfer(subject, subject.expression, jaw), PersonTransfer(transfer, subject)
  assert transfer.order is not None and np.abs(whole).max() > 1e-4
  for frame in range(3):
    # metres
    np.testing.assert_allclose(one(subject.expression[frame], jaw[frame]), whole[frame], atol=2e-7)


@pytest.fixture(scope='module')
def procedural():
  head = load_head('procedural')
  return head, person(head, densify(head, 0))


def test_sliders_at_rest_change_nothing(procedural):
  head, subject = procedural
  motion = edited(head, subject, {name: 0.0 for name in TURNS if name in sliders_of(head)})
  for name in ('expression', 'pose', 'translation'):
    np.testing.assert_allclose(getattr(motion, name), getattr(subject, name)[:1], atol=1e-6)


@pytest.mark.parametrize('slider, axis, sign', [('yaw', 1, 1), ('pitch', 0, -1), ('roll', 2, 1)])
def test_turns_are_degrees_about_the_heads_own_axes_and_leave_the_torso(
  procedural, slider, axis, sign
):
  head, subject = procedural
  own = head_motion(head, subject)
  motion = edited(head, subject, {slider: 20.0})
  moved = head_motion(
    head,
    dataclasses.replace(
      subject, expression=motion.expression, pose=motion.pose, translation=motion.translation
    ),
  )
  turn = Rotation.from_matrix(own.rotation[0].T @ moved.rotation[0]).as_rotvec(degrees=True)
  np.testing.assert_allclose(turn, 20.0 * sign * np.eye(3)[axis], atol=1e-3)
  torso = head.parents.index(-1)
  np.testing.assert_array_equal(motion.pose[0, torso], subject.pose[0, torso])
  np.testing.assert_allclose(motion.translation[0], subject.translation[0], atol=1e-6)


def test_gaze_jaw_and_actions(procedural):
  head, subject = procedural
  motion = edited(head, subject, {'gaze_x': 10.0, 'gaze_y': 5.0})
  for name in ('left_eye', 'right_eye'):
    turn = motion.pose[0, head.joint(name)] - subject.pose[0, head.joint(name)]
    np.testing.assert_allclose(np.rad2deg(turn), [-5, 10, 0], atol=1e-3)
  motion = edited(head, subject, {'jaw': 12.0, head.expression_names[3]: 0.5})
  assert np.rad2deg(
    motion.pose[0, head.joint('jaw'), 0] - subject.pose[0, head.joint('jaw'), 0]
  ) == pytest.approx(12, abs=1e-3)
  np.testing.assert_allclose(
    motion.expression[0] - subject.expression[0],
    0.5 * (np.arange(motion.expression.shape[1]) == 3),
    atol=1e-6,
  )


@needs_head
def test_an_action_of_both_sides_is_both():
  head = load_head('makehuman')
  subject = person(head, densify(head, 0))
  moved = edited(head, subject, {'brows_up': 0.25}).expression[0] - subject.expression[0]
  names = {name for name, value in zip(head.expression_names, moved) if value}
  assert names == set(ACTIONS['brows_up']) and set(ACTIONS) <= set(sliders_of(head))


@pytest.mark.parametrize(
  'values', [{'nose': 1.0}, {'yaw': 41.0}, {'yaw': float('nan')}, {'yaw': '3'}, {'yaw': True}]
)
def test_values_that_are_refused(procedural, values):
  with pytest.raises(UserError, match='slider'):
    checked_values(procedural[0], values)


def test_still_points_are_held_and_quick_ones_followed():
  rng, steady = np.random.default_rng(0), SteadyPoints()
  noise = 0.5 * rng.normal(size=(60, 40, 2))
  still = np.stack([steady(100 + each, 0.04 * number, 60.0) for number, each in enumerate(noise)])
  assert still[20:].std(0).mean() < 0.5 * noise[20:].std(0).mean()
  # half an eye distance in a frame
  steady, course = SteadyPoints(), lambda number: np.full((5, 2), 30.0 * number)
  for number in range(40):
    late = course(number) - steady(course(number), 0.04 * number, 60.0)
  assert np.abs(late).max() < 0.3 * 30  # less than a third of a frame behind
  jumped = steady(course(0), 0.04 * 39 + 1.0, 60.0)
  np.testing.assert_array_equal(jumped, course(0))  # all is forgotten after a second
