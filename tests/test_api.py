"""exp_jax as a program calls it: load, animate, estimate, fit; progress, cancellation, and what is
remembered."""

import json
import threading
import time

import numpy as np
import pytest

import exp_jax
from exp_jax.errors import UserError
from exp_jax.heads.head_files import load_head
from exp_jax.media.images import read_image, write_image
from exp_jax.media.video import read_video
from exp_jax.observe import shared_estimator
from exp_jax.progress import Cancelled
from exp_jax.systems.expportrait import opening
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
  with exp_jax.load('expportrait', subjects=folder / 'fits', transfer='none') as loaded:
    yield loaded


@pytest.mark.long
@needs_head
@pytest.mark.usefixtures('lightly_compiled')
def test_frames_come_one_by_one_and_as_a_file(small, model, tmp_path):
  folder, picture, *_ = small
  told, options = [], model.Options(size=64, smoothing=0.0)
  animation = model.animate(
    folder / 'me.png',
    folder / 'motion.npz',
    options=options,
    progress=lambda *report: told.append(report),
  )
  frames = animation.frames()
  assert frames.shape == (3, 64, 64, 3) and frames.dtype == np.uint8 and len(animation) == 3
  np.testing.assert_allclose(animation.times, [0, 0.1, 0.25], atol=1e-6)
  assert (
    animation.record['frames'] == 3
    and animation.record['engine'] == 'proxy'
    and animation.record['size'] == 64
  )
  assert set(animation.record['seconds']) == {'track', 'portrait', 'draw'}
  draws = [report for report in told if report[0] == 'draw']
  assert draws == [('draw', n, 3) for n in range(4)] and ('portrait', 0, None) in told
  with pytest.raises(UserError, match='taken already'):
    next(iter(animation))
  again = model.animate(folder / 'me.png', folder / 'motion.npz', options=options)
  assert again.save(tmp_path / 'a.mp4') == 3
  assert np.abs(read_video(tmp_path / 'a.mp4').frames.astype(int) - frames).mean() < 4, (
    'the same but for the codec'
  )
  made = json.loads((tmp_path / 'a.json').read_text())
  assert {k: v for k, v in made.items() if k in animation.record and k != 'seconds'} == json.loads(
    json.dumps({k: v for k, v in animation.record.items() if k != 'seconds'})
  )
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'a.json',
    'a.mp4',
    'a_sheet.png',
    'a_side_by_side.mp4',
  ]


@needs_head
@pytest.mark.usefixtures('lightly_compiled')
def test_the_same_picture_is_fitted_once_wherever_it_lies(small, model, tmp_path, monkeypatch):
  """By content: an upload under another name is the same portrait; other pixels or another size are
  not."""
  folder, picture, *_ = small
  opened = []
  own = opening.open_portrait
  monkeypatch.setattr(
    opening, 'open_portrait', lambda *args, **more: opened.append(1) or own(*args, **more)
  )
  options = model.Options(size=64)
  first = model.portrait(folder / 'me.png', options=options)
  (tmp_path / 'me.png').write_bytes((folder / 'me.png').read_bytes())
  assert model.portrait(tmp_path / 'me.png', options=options) is first and len(opened) == 1
  write_image(tmp_path / 'x' / 'me.png', 255 - picture) if (
    tmp_path / 'x'
  ).mkdir() is None else None
  assert (
    model.portrait(tmp_path / 'x' / 'me.png', options=options) is not first and len(opened) == 2
  )
  np.testing.assert_array_equal(first.image, read_image(folder / 'me.png'))


@pytest.mark.long
@needs_head
@pytest.mark.usefixtures('lightly_compiled')
def test_a_cancellation_ends_within_a_second_and_leaves_nothing(
  small, model, tmp_path, monkeypatch
):
  """During a fit that hangs, and during drawing while a file is written."""
  folder, *_ = small
  release, started = threading.Event(), threading.Event()
  own = opening.open_portrait
  monkeypatch.setattr(
    opening,
    'open_portrait',
    lambda *args, **more: started.set() or release.wait(60) or own(*args, **more),
  )
  options = model.Options(size=64, seed=7)
  with pytest.raises(Cancelled):
    model.animate(folder / 'me.png', folder / 'motion.npz', options=options, cancel=started.is_set)
  release.set()
  monkeypatch.setattr(opening, 'open_portrait', own)
  stop = threading.Event()
  animation = model.animate(
    folder / 'me.png',
    folder / 'motion.npz',
    options=options,
    cancel=stop.is_set,
    progress=lambda stage, done, total: stop.set() if (stage, done) == ('draw', 1) else None,
  )
  began = time.monotonic()
  with pytest.raises(Cancelled):
    animation.save(tmp_path / 'a.mp4')
  assert not list(tmp_path.iterdir()) and time.monotonic() - began < 300


@needs_head
def test_options_of_a_video_model_are_refused_where_none_is(small, model):
  folder, *_ = small
  with pytest.raises(UserError, match='--steps belongs to --engine dit'):
    model.animate(folder / 'me.png', folder / 'motion.npz', options=model.Options(steps=3))
  with pytest.raises(UserError, match='must be expportrait'):
    model.animate(folder / 'me.png', folder / 'motion.npz', options={'size': 64})
  with pytest.raises(UserError, match='belongs to a video model'):
    exp_jax.load('expportrait', vae='somewhere')
  with pytest.raises(UserError, match="no system 'magic'"):
    exp_jax.load('magic')
  with pytest.raises(UserError, match='--engine loki needs --export DIR'):
    exp_jax.load('loki')


@needs_head
def test_an_estimate_grows_with_frames_and_knows_what_was_compiled(small, model):
  folder, *_ = small
  short, long = model.estimate(10), model.estimate(100)
  assert (
    short.frames == 10
    and long.seconds > short.seconds > short.first_frame > 0
    and long.video_bytes > short.video_bytes
  )
  assert model.estimate(folder / 'motion.npz').frames == 3
  assert model.estimate(folder / 'motion.npz', options=model.Options(limit=2)).frames == 2
  assert (
    model.estimate(100, options=model.Options(size=256)).seconds < long.seconds
    and not long.measured
  )


@pytest.mark.long
def test_the_same_calls_for_liveportrait(tmp_path):
  """Random weights: a picture and a clip as arrays, without landmarks."""
  rng = np.random.default_rng(0)
  picture, clip = (
    rng.integers(0, 255, (64, 64, 3)).astype(np.uint8),
    rng.integers(0, 255, (3, 64, 64, 3)).astype(np.uint8),
  )
  told = []
  with exp_jax.load('liveportrait', random_weights='tiny') as model:
    options = model.Options(no_crop=True, crop_driving='no')
    animation = model.animate(
      picture, clip, options=options, rate=12, progress=lambda *report: told.append(report[0])
    )
    assert animation.rate == 12 and animation.save(tmp_path / 'a.mp4', beside=False) == 3
    assert {'read the motion', 'paint'} <= set(told)
    assert model.estimate(clip).frames == 3
    animation.write_motion(tmp_path / 'm.npz')
    again = model.animate(picture, tmp_path / 'm.npz', options=options).frames()
    np.testing.assert_allclose(again.shape, (3, 64, 64, 3))
    with pytest.raises(Cancelled):
      model.animate(picture, clip, options=options, cancel=lambda: True)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['a.json', 'a.mp4', 'm.npz']
