"""Loki from files to files with a head whose fit is known, and training by the command; what does
not fit is one sentence."""

import contextlib
import dataclasses
import json
import types

import numpy as np
import pytest

import exp_jax
from exp_jax.commands.animate import main as animate
from exp_jax.commands.animate import parser
from exp_jax.controls.driver_map import driver_maps, driver_surface
from exp_jax.controls.framing import boxes_of, cameras_of
from exp_jax.controls.head_motion import head_rotation
from exp_jax.controls.maps import own_motion
from exp_jax.errors import UserError
from exp_jax.fitting import fitted_inputs
from exp_jax.fitting.tracked_driver import frames_of
from exp_jax.heads.head_files import load_head, save_head
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import load_subject
from exp_jax.heads.trained_head import write_head
from exp_jax.media.images import read_image
from exp_jax.media.video import read_video
from exp_jax.observe.maps.map_sources import open_map_estimators
from exp_jax.systems.loki import animate as door
from exp_jax.systems.loki.animate import load
from exp_jax.systems.loki.options import Options
from exp_jax.systems.loki.reenacted import maps_of
from tests.small_portrait import make_small_portrait
from tests.systems.loki.small_loki import write_small_export

pytestmark = pytest.mark.usefixtures('lightly_compiled')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """me.png with its fit, the motion of three frames, an export of random weights that says it was
  trained on this head."""
  folder = tmp_path_factory.mktemp('loki')
  head = load_head('procedural')
  save_head(folder / 'head.npz', head)
  make_small_portrait(folder, head)
  export = write_small_export(folder / 'export')
  del export
  return folder


@pytest.fixture(scope='module')
def model(folder):
  with load(folder / 'export', head=folder / 'head.npz', subjects=folder / 'fits') as model:
    yield model


@pytest.mark.long
def test_files_to_files_by_the_command(folder, monkeypatch):
  monkeypatch.chdir(folder)
  animate(
    [
      '-s',
      'me.png',
      '-d',
      'motion.npz',
      '-o',
      'out.mp4',
      '--engine',
      'loki',
      '--export',
      'export',
      '--head',
      'head.npz',
      '--subjects',
      'fits',
      '--steps',
      '2',
      '--guidance',
      '1',
      '--smoothing',
      '0',
      '--save_motion',
      'kept.npz',
    ]
  )
  assert read_video(folder / 'out.mp4').frames.shape == (3, 16, 16, 3)
  record = json.loads((folder / 'out.json').read_text())
  assert record['engine'] == 'loki' and record['sampling'] == {
    'steps': 2,
    'guidance': 1.0,
    'reference_guidance': 1.0,
    'overlap': 1,
  }
  assert record['crop'] == 'square' and record['map'] == 'full' and record['frames'] == 3
  assert (
    record['square']['size'] == [16, 16] and str(folder) not in (folder / 'out.json').read_text()
  )
  assert load_subject(folder / 'kept.npz').num_frames == 3


@pytest.mark.long
def test_the_same_seed_gives_the_same_frames_and_another_driver_others(model, folder):
  picture, driver = str(folder / 'me.png'), str(folder / 'motion.npz')
  options = Options(steps=1, guidance=1.0, smoothing=0)
  one, two = (model.animate(picture, driver, options=options).frames() for _ in range(2))
  np.testing.assert_array_equal(one, two)
  assert one.shape == (3, 16, 16, 3)
  assert (
    model.animate(picture, driver, options=dataclasses.replace(options, seed=3)).frames() != one
  ).any()
  estimate = model.estimate(driver, options=options)
  assert estimate.frames == 3 and estimate.seconds > 0
  with pytest.raises(UserError, match='options must be loki.options.Options'):
    model.animate(picture, driver, options=object())


@pytest.mark.long
def test_maps_of_the_own_motion_are_those_of_training(model, folder):
  """What is shown at reenactment by one's own motion is what `loki.prepare` stores of the clip."""
  subject, image = load_subject(folder / 'motion.npz'), read_image(folder / 'me.png')
  scene = model.as_moved(image, subject, own_motion(subject))
  found = maps_of(scene, model.head, driver_surface(model.head), 'no_posenc', 16)(0, 3)
  boxes = boxes_of(model.head, subject, own_motion(subject), 'square')
  stored = driver_maps(
    model.head,
    driver_surface(model.head),
    subject,
    own_motion(subject),
    size=16,
    cameras=cameras_of(subject, boxes, 16),
  )
  np.testing.assert_allclose(found, stored.deformation, atol=1e-6)
  assert scene.photo.shape == (16, 16, 3) and (stored.mask > 0).any()


@pytest.mark.long
def test_a_driver_that_shows_the_portraits_picture_moves_nothing(model, folder):
  """Two fits of one picture, as a portrait's and its driver's, differ by a degree or two."""
  driver, image = load_subject(folder / 'motion.npz'), read_image(folder / 'me.png')
  portrait, head = frames_of(driver, slice(0, 1)), model.head.joint('head')
  turned = np.array(driver.pose)
  turned[:, head, 1] += np.deg2rad(1.5)
  driver = dataclasses.replace(driver, pose=turned)
  scene = model.scene(image, portrait, driver, Options(smoothing=0))
  rotation = lambda pose: head_rotation(model.head, pose)[0]
  assert np.abs(rotation(driver.pose) - rotation(portrait.pose)).max() > 0.02
  np.testing.assert_allclose(rotation(scene.motion.pose), rotation(portrait.pose), atol=2e-3)


@pytest.mark.long
def test_networks_see_the_driver_and_the_record_names_them(model, folder, monkeypatch):
  files = dict(head=folder / 'head.npz', subjects=folder / 'fits')
  assert model.loaded['maps'] == [each.digest for each in open_map_estimators('embedded')] != []
  with load(folder / 'export', networks='none', **files) as bare:
    assert bare.loaded['maps'] == []
  network, given = types.SimpleNamespace(digest='stand-in'), []
  monkeypatch.setattr(door, 'open_map_estimators', lambda names: {'mine.onnx': (network,)}[names])
  monkeypatch.setattr(fitted_inputs, 'FaceEstimator', contextlib.nullcontext)
  monkeypatch.setattr(
    fitted_inputs, 'track', lambda _, *, map_estimators, **__: given.append(map_estimators)
  )
  with load(folder / 'export', networks='mine.onnx', **files) as seeing:
    assert seeing.loaded['maps'] == ['stand-in']
    seeing.motion(np.zeros((2, 8, 8, 3), np.uint8), options=Options(), rate=25)
  assert given == [(network,)]


@pytest.mark.long
def test_boxes_hold_the_head_with_room(model, folder):
  subject = load_subject(folder / 'motion.npz')
  motion = own_motion(subject)
  whole, single = (
    boxes_of(model.head, subject, motion, 'clip'),
    boxes_of(model.head, subject, motion, 'frame'),
  )
  assert len({dataclasses.astuple(box) for box in whole}) == 1 and dataclasses.astuple(
    single[0]
  ) == dataclasses.astuple(single[2])
  assert abs(single[1].left - single[0].left - 6) <= 1  # the head stands six pixels to the right
  assert single[0].left < whole[0].left < single[1].left and whole[0].side >= single[0].side
  camera = cameras_of(subject, single[:1], 32)[0]
  own = np.asarray(camera.focal) / np.asarray(subject.focal)
  np.testing.assert_allclose(own, 32 / single[0].side, rtol=1e-6)
  with pytest.raises(UserError, match="--crop is 'wide', choose from clip, frame, square"):
    boxes_of(model.head, subject, motion, 'wide')


@pytest.mark.long
def test_what_is_wrong_is_said_in_a_sentence(folder, tmp_path):
  with pytest.raises(UserError, match='needs --export DIR, an export of configs/loki.py'):
    exp_jax.load('loki')
  with pytest.raises(UserError, match='there is no export at'):
    load(tmp_path, head=folder / 'head.npz') if not tmp_path.exists() else load(
      tmp_path / 'none', head=folder / 'head.npz'
    )
  with pytest.raises(UserError, match='the folder of subjects .* does not exist'):
    load(folder / 'export', head=folder / 'head.npz', subjects=tmp_path / 'none')
  with (
    load(folder / 'export', head=folder / 'head.npz') as model,
    pytest.raises(UserError, match="'none.npz' does not exist"),
  ):
    model.motion('none.npz', options=Options())


@pytest.mark.long
def test_another_head_than_the_export_was_trained_on_is_refused(folder, tmp_path):
  head = load_head('procedural')
  other = head.replace(name='other', template=head.template * 1.1)
  note = tmp_path / 'note'
  note.mkdir()
  write_head(note, other)
  from exp_jax.training.exports import write_export
  from tests.systems.loki.small_loki import small

  config, _, params, _ = small()
  write_export(tmp_path / 'export', config, params, files={'head.json': note / 'head.json'})
  with pytest.raises(
    UserError,
    match=f"was trained on the head 'other' .*not on 'procedural' .{head_digest(head)}.*--head",
  ):
    load(tmp_path / 'export', head=folder / 'head.npz')


@pytest.mark.long
def test_options_of_other_engines_are_refused(folder):
  from exp_jax.commands.animate import check_engine

  args = parser().parse_args(
    ['-s', 'a.png', '-d', 'b.mp4', '-o', 'c.mp4', '--engine', 'loki', '--paste_back']
  )
  with pytest.raises(UserError, match='--paste_back belongs to --engine'):
    check_engine(args)
