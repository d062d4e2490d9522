"""MagicPortrait from files to files with a head whose fit is known; alignment; what does not fit is
one sentence."""

import contextlib
import dataclasses
import json
import types

import numpy as np
import pytest

import exp_jax
from exp_jax.commands.animate import check_engine, parser
from exp_jax.commands.animate import main as animate
from exp_jax.controls.framing import boxes_of, cameras_of
from exp_jax.controls.maps import own_motion
from exp_jax.errors import UserError
from exp_jax.fitting import fitted_inputs
from exp_jax.heads.head_files import load_head, save_head
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import load_subject
from exp_jax.heads.trained_head import write_head
from exp_jax.media.images import read_image
from exp_jax.media.video import read_video
from exp_jax.observe.maps.map_sources import open_map_estimators
from exp_jax.progress import Cancelled
from exp_jax.systems.magicportrait import animate as door
from exp_jax.systems.magicportrait.animate import load
from exp_jax.systems.magicportrait.maps import (
  Conventions,
  appearance_of,
  guidance_maps,
  guidance_surface,
)
from exp_jax.systems.magicportrait.options import Options
from exp_jax.systems.magicportrait.records import MARGIN
from exp_jax.systems.magicportrait.reenacted import maps_of
from exp_jax.training.exports import write_export
from tests.small_portrait import make_small_portrait
from tests.systems.magicportrait.small_magic import small, write_small_export

pytestmark = pytest.mark.usefixtures('lightly_compiled')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """me.png with its fit, the motion of three frames, exports of random weights of both stages."""
  folder = tmp_path_factory.mktemp('magicportrait')
  head = load_head('procedural')
  save_head(folder / 'head.npz', head)
  make_small_portrait(folder, head)
  write_small_export(folder / 'export')
  write_small_export(folder / 'first', mode='smoke')
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
      'magicportrait',
      '--export',
      'export',
      '--head',
      'head.npz',
      '--subjects',
      'fits',
      '--steps',
      '1',
      '--guidance',
      '1',
      '--smoothing',
      '0',
      '--windows',
      'loop',
      '--save_motion',
      'kept.npz',
    ]
  )
  assert read_video(folder / 'out.mp4').frames.shape == (3, 16, 16, 3)
  record = json.loads((folder / 'out.json').read_text())
  assert record['engine'] == 'magicportrait' and record['sampling'] == {
    'steps': 1,
    'guidance': 1.0,
    'overlap': 1,
    'windows': 'loop',
  }
  assert (
    record['maps'] == ['depth', 'normals', 'render']
    and record['conventions']['camera'] == 'weak'
    and record['frames'] == 3
  )
  assert record['alignment'] == 'structured' and record['square']['size'] == [16, 16]
  assert (
    str(folder) not in (folder / 'out.json').read_text()
    and load_subject(folder / 'kept.npz').num_frames == 3
  )


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
def test_the_same_seed_gives_the_same_frames_and_another_others(model, folder):
  picture, driver = str(folder / 'me.png'), str(folder / 'motion.npz')
  options, told = Options(steps=1, guidance=1.0, smoothing=0), []
  one, two = (model.animate(picture, driver, options=options).frames() for _ in range(2))
  np.testing.assert_array_equal(one, two)
  assert one.shape == (3, 16, 16, 3)
  again = model.animate(
    picture,
    driver,
    options=dataclasses.replace(options, seed=3),
    progress=lambda *report: told.append(report),
  )
  assert (
    (again.frames() != one).any()
    and ('sample', 1, 1) in told
    and ('guidance', 3, 3) in told
    and told[-1] == ('draw', 3, 3)
  )
  estimate = model.estimate(driver, options=options)
  assert estimate.frames == 3 and estimate.seconds > 0 and estimate.first_frame <= estimate.seconds
  with pytest.raises(Cancelled):
    model.animate(picture, driver, options=options, cancel=lambda: True)
  with pytest.raises(UserError, match='options must be magicportrait.options.Options'):
    model.animate(picture, driver, options=object())


@pytest.mark.long
def test_maps_of_the_own_motion_are_those_of_training(model, folder):
  subject, image, conventions = (
    load_subject(folder / 'motion.npz'),
    read_image(folder / 'me.png'),
    Conventions(),
  )
  surface, appearance = (
    guidance_surface(model.head),
    appearance_of(model.head, subject, conventions),
  )
  scene = model.as_moved(image, subject, own_motion(subject))
  names, how = ('depth', 'normals', 'render'), dict(conventions=conventions, appearance=appearance)
  found = maps_of(scene, model.head, surface, names, size=16, **how)(0, 3)
  boxes = boxes_of(model.head, subject, own_motion(subject), 'square', margin=MARGIN)
  stored = guidance_maps(
    model.head,
    surface,
    subject,
    own_motion(subject),
    size=16,
    conventions=conventions,
    appearance=appearance,
    cameras=cameras_of(subject, boxes, 16),
  )
  for name, value in found.items():
    np.testing.assert_array_equal(value, getattr(stored, name), err_msg=name)
  assert scene.photo.shape == (16, 16, 3) and (stored.mask > 0).any()


@pytest.mark.long
def test_alignment_keeps_shape_and_place_and_without_it_the_driver_is_seen(model, folder):
  """A driver with another shape, elsewhere in its picture, who turns the head: the aligned head is
  the portrait's, turned."""
  portrait, image = load_subject(folder / 'fits' / 'me.npz'), read_image(folder / 'me.png')
  shape = np.zeros_like(portrait.shape)
  shape[0] = 2.5
  pose = np.zeros_like(load_subject(folder / 'motion.npz').pose)
  pose[1, model.head.joint('head'), 1] = 0.5
  driver = dataclasses.replace(load_subject(folder / 'motion.npz'), shape=shape, pose=pose)
  draw = lambda scene: guidance_maps(
    model.head,
    guidance_surface(model.head),
    scene.shown,
    scene.motion,
    size=32,
    cameras=cameras_of(scene.shown, scene.boxes, 32),
    conventions=Conventions(),
    appearance=appearance_of(model.head, portrait, Conventions()),
  )
  aligned = draw(model.scene(image, portrait, driver, Options(smoothing=0)))
  own = draw(model.as_moved(image, portrait, own_motion(portrait)))
  np.testing.assert_array_equal(aligned.mask[0], own.mask[0])  # at rest: the portrait itself
  np.testing.assert_array_equal(aligned.mask[2], own.mask[0])
  assert (aligned.normals[1] != own.normals[0]).any()
  loose = draw(model.scene(image, portrait, driver, Options(smoothing=0, alignment='none')))
  theirs = draw(model.as_moved(image, driver, own_motion(driver)))
  np.testing.assert_array_equal(loose.mask, theirs.mask)
  overlap = lambda a, b: ((a > 0) & (b > 0)).sum() / ((a > 0) | (b > 0)).sum()
  assert overlap(aligned.mask[0], own.mask[0]) == 1 and overlap(loose.mask[1], own.mask[0]) < 0.95
  with pytest.raises(
    UserError,
    match="--translation lays the driver's motion onto the portrait's head, which --alignment none",
  ):
    Options(alignment='none', translation='relative')


@pytest.mark.long
def test_what_is_wrong_is_said_in_a_sentence(folder, tmp_path):
  with pytest.raises(UserError, match='--engine magicportrait needs --export DIR'):
    exp_jax.load('magicportrait')
  with pytest.raises(UserError, match='there is no export at'):
    load(tmp_path / 'none', head=folder / 'head.npz')
  with pytest.raises(UserError, match='the folder of subjects .* does not exist'):
    load(folder / 'export', head=folder / 'head.npz', subjects=tmp_path / 'none')
  with pytest.raises(UserError, match='without motion modules: its frames would flicker'):
    load(folder / 'first', head=folder / 'head.npz')
  with load(folder / 'first', head=folder / 'head.npz', frame_by_frame=True) as model:
    with pytest.raises(UserError, match="'none.npz' does not exist"):
      model.motion('none.npz', options=Options())
  with pytest.raises(UserError, match='no such file'):
    load(folder / 'export', head=folder / 'head.npz', texture=tmp_path / 'none.npz')


@pytest.mark.long
def test_another_head_than_the_export_was_trained_on_is_refused(folder, tmp_path):
  head = load_head('procedural')
  write_head(tmp_path, head.replace(name='other', template=head.template * 1.1))
  config, _, params, _ = small()
  write_export(tmp_path / 'export', config, params, files={'head.json': tmp_path / 'head.json'})
  with pytest.raises(
    UserError,
    match=f"was trained on the head 'other' .*not on 'procedural' .{head_digest(head)}.*--head",
  ):
    load(tmp_path / 'export', head=folder / 'head.npz')


def test_options_of_other_engines_are_refused():
  args = parser().parse_args(
    [
      '-s',
      'a.png',
      '-d',
      'b.mp4',
      '-o',
      'c.mp4',
      '--engine',
      'magicportrait',
      '--reference_guidance',
      '2',
    ]
  )
  with pytest.raises(UserError, match='--reference_guidance belongs to --engine'):
    check_engine(args)
