"""Algorithm 1 against itself written out, with perceptrons that answer something."""

import dataclasses
import fractions

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.systems.liveportrait.models import load, random_model
from exp_jax.systems.liveportrait.motion.driving import compose, take
from exp_jax.systems.liveportrait.motion.smoothing import kalman_smooth
from exp_jax.systems.liveportrait.motion.templates import Template, load_template, save_template
from exp_jax.systems.liveportrait.networks.keypoints import posed, rotation_from_degrees
from exp_jax.systems.liveportrait.networks.motion import Motion
from exp_jax.systems.liveportrait.pipeline import driven_keypoints, reference_number
from exp_jax.systems.liveportrait.pipeline_options import DrivingOptions, PipelineOptions


def drawn(count, seed):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=(count, *shape)).astype(np.float32)
  return Motion(
    0.3 * draw(21, 3),
    np.asarray(rotation_from_degrees(15 * draw(3))),
    0.01 * draw(21, 3),
    1.3 + 0.05 * draw(),
    0.1 * draw(3),
  )


@pytest.fixture(scope='module')
def model():
  """Perceptrons with answers: fresh ones answer 0."""
  return random_model('tiny', 1)


T = 5
EYES, LIP = np.array([[0.3, 0.26]], np.float32), np.array([0.12], np.float32)


def driver(seed=3, ratios=True):
  rng = np.random.default_rng(seed)
  return Template(
    drawn(T, seed),
    fractions.Fraction(25),
    rng.uniform(0.1, 0.3, (T, 2)).astype(np.float32) if ratios else None,
    rng.uniform(0.05, 0.4, T).astype(np.float32) if ratios else None,
  )


def mlp(model, name, *parts):
  """A perceptron in plain numpy, one row."""
  x = np.concatenate([np.ravel(p) for p in parts])
  layers = model.params[name]
  for i in range(len(layers)):
    x = x @ np.asarray(layers[f'layer{i}']['kernel']) + np.asarray(layers[f'layer{i}']['bias'])
    x = np.maximum(x, 0) if i < len(layers) - 1 else x
  return x


def stitched(model, place, x):
  out = mlp(model, 'stitching', place, x)
  y = x + out[:63].reshape(21, 3)
  y[:, :2] += out[63:]
  return y


@pytest.mark.long
def test_stitching_then_multiplier(model):
  source, d = drawn(1, 2), driver()
  place, x = posed(source)[0], posed(compose(source, d.motion, DrivingOptions()))
  found = driven_keypoints(
    model, source, d, PipelineOptions(DrivingOptions(multiplier=1.7)), eyes=EYES, lip=LIP
  )
  for i in range(T):
    want = place + 1.7 * (stitched(model, place, x[i]) - place)
    np.testing.assert_allclose(found[i], want, atol=2e-5)
  plain = driven_keypoints(model, source, d, PipelineOptions(stitching=False))
  np.testing.assert_allclose(plain, x, atol=1e-6)


@pytest.mark.parametrize(
  'eyes, lip, base, relative',
  [
    (True, False, 'source', True),
    (False, True, 'source', True),
    (True, True, 'driven', True),
    (True, True, 'source', False),
  ],
)
@pytest.mark.parametrize('target', ['paper', 'raw_left'])
def test_retargeting(model, eyes, lip, base, relative, target):
  source, d = drawn(1, 2), driver()
  options = PipelineOptions(
    DrivingOptions(relative=relative, option='pose-friendly'),
    eye_retargeting=eyes,
    lip_retargeting=lip,
    target=target,
    retarget_base=base,
  )
  found = driven_keypoints(model, source, d, options, eyes=EYES, lip=LIP)
  place, x = posed(source)[0], posed(compose(source, d.motion, options.driving))
  for i in range(T):
    want = (place if relative and base == 'source' else x[i]).copy()
    eye_target, lip_target = d.eyes[i, 0], d.lip[i]
    if target == 'paper':
      eye_target = min(EYES.mean() * d.eyes[i].mean() / d.eyes[0].mean(), 0.8)
      lip_target = min(LIP[0] * d.lip[i] / d.lip[0], 0.8)
    if eyes:
      want += mlp(model, 'eyes', place, EYES[0], eye_target).reshape(21, 3)
    if lip:
      want += mlp(model, 'lip', place, LIP[0], lip_target).reshape(21, 3)
    np.testing.assert_allclose(found[i], stitched(model, place, want), atol=3e-5)


def test_deltas_of_lips_and_steady_eyes_come_after_stitching(model):
  source, d = drawn(1, 2), driver()
  place, x = posed(source)[0], posed(compose(source, d.motion, DrivingOptions()))
  found = driven_keypoints(
    model, source, d, PipelineOptions(normalize_lip=True), eyes=EYES, lip=LIP
  )
  move = mlp(model, 'lip', place, LIP[0], 0.0).reshape(21, 3)
  np.testing.assert_allclose(found[2], stitched(model, place, x[2]) + move, atol=2e-5)
  shut = driven_keypoints(
    model,
    source,
    d,
    PipelineOptions(normalize_lip=True),
    eyes=EYES,
    lip=np.array([0.029], np.float32),
  )
  np.testing.assert_allclose(shut[2], stitched(model, place, x[2]), atol=2e-5)
  clip, eyes = drawn(T, 6), np.full((T, 2), 0.1, np.float32)
  found = driven_keypoints(
    model,
    clip,
    d,
    PipelineOptions(steady_eyes=True),
    eyes=eyes,
    lip=np.zeros(T, np.float32),
    source_is_video=True,
  )
  x, place = posed(compose(clip, d.motion, DrivingOptions(), source_is_video=True)), posed(clip)
  # nearly shut at first: taken as open
  move = mlp(model, 'eyes', place[3], eyes[3], 0.39).reshape(21, 3)
  np.testing.assert_allclose(found[3], stitched(model, place[3], x[3]) + move, atol=2e-5)


def test_absolute_motion_is_by_default_that_of_the_published_programs(model):
  """People: the driver's keypoints as they are. Animals: with the source's proportions."""
  source, d = drawn(1, 2), driver()
  animals = dataclasses.replace(model, animals=True)
  run = lambda m, **options: driven_keypoints(
    m, source, d, PipelineOptions(DrivingOptions(**options), stitching=False)
  )
  by_default = run(model, relative=False)
  np.testing.assert_allclose(
    by_default, posed(compose(source, d.motion, DrivingOptions(relative=False))), atol=1e-6
  )
  np.testing.assert_array_equal(by_default, run(model, relative=False, option='pose-friendly'))
  assert np.abs(by_default - run(model, relative=False, option='expression-friendly')).max() > 1e-3
  np.testing.assert_array_equal(run(animals), run(animals, option='expression-friendly'))
  assert np.abs(run(animals) - run(animals, option='pose-friendly')).max() > 1e-3


def test_lips_of_a_clip_move_smoothly(model):
  clip, d = drawn(T, 6), driver()
  eyes, lip = np.tile(EYES, (T, 1)), np.full(T, 0.2, np.float32)
  options = PipelineOptions(lip_retargeting=True, stitching=False)
  found = driven_keypoints(model, clip, d, options, eyes=eyes, lip=lip, source_is_video=True)
  place = posed(clip)
  target = np.minimum(lip * d.lip / d.lip[0], 0.8)
  moves = np.stack(
    [mlp(model, 'lip', place[i], lip[i], target[i]).reshape(21, 3) for i in range(T)]
  )
  np.testing.assert_allclose(found, place + kalman_smooth(moves, 3e-6), atol=3e-5)


def test_sliders_reach_the_keypoints(model):
  source, d = drawn(1, 2), driver()
  options = PipelineOptions(stitching=False, edits=(('smile', 1.0), ('yaw', 10.0)))
  found = driven_keypoints(model, source, d, options)
  composed = compose(source, d.motion, DrivingOptions())
  turn = np.asarray(rotation_from_degrees(np.array([0, 10.0, 0])))
  assert np.abs(found - posed(composed)).max() > 0.01
  open_ = driven_keypoints(
    model,
    source,
    d,
    PipelineOptions(stitching=False, edits=(('eyes_open', 0.6),)),
    eyes=EYES,
    lip=LIP,
  )
  move = mlp(model, 'eyes', posed(source)[0], EYES[0], 0.6).reshape(21, 3)
  np.testing.assert_allclose(open_[1], posed(composed)[1] + move, atol=2e-5)
  same = driven_keypoints(
    model,
    source,
    d,
    PipelineOptions(stitching=False, edits=(('eyes_open', 0.28),)),
    eyes=EYES,
    lip=LIP,
  )
  np.testing.assert_allclose(same, posed(composed), atol=1e-6)  # as open as it is: nothing moves
  assert turn.shape == (3, 3)
  with pytest.raises(UserError, match='openness of the source'):
    driven_keypoints(model, source, d, PipelineOptions(edits=(('lip_open', 0.5),)))
  silent = driven_keypoints(model, source, d, PipelineOptions(stitching=False, silent=True))
  assert np.ptp(silent - posed(composed), axis=0).max() > 1e-4


def test_templates_without_ratios_only_fail_when_ratios_are_needed(model):
  source, d = drawn(1, 2), driver(ratios=False)
  assert driven_keypoints(model, source, d, PipelineOptions(), eyes=EYES, lip=LIP).shape == (
    T,
    21,
    3,
  )
  with pytest.raises(UserError, match='not known of the driver'):
    driven_keypoints(model, source, d, PipelineOptions(eye_retargeting=True), eyes=EYES, lip=LIP)
  with pytest.raises(UserError, match='not known of the source'):
    driven_keypoints(model, source, driver(), PipelineOptions(eye_retargeting=True))


def test_reference_frames(model):
  source, d = drawn(1, 2), driver()
  best = d.motion.replace(
    rotation=np.concatenate([d.motion.rotation[:3], source.rotation, d.motion.rotation[4:]])
  )
  d = dataclasses.replace(
    d, motion=best, eyes=np.full((T, 2), 0.28, np.float32), lip=np.full(T, 0.1, np.float32)
  )
  assert reference_number('best', d, source, EYES, LIP) == 3
  assert (
    reference_number('best', dataclasses.replace(d, found=np.arange(T) != 3), source, EYES, LIP)
    != 3
  )
  found = driven_keypoints(model, source, d, PipelineOptions(stitching=False, reference='best'))
  np.testing.assert_allclose(found[3], posed(source)[0], atol=1e-6)
  neutral = driven_keypoints(
    model, source, d, PipelineOptions(stitching=False), reference=take(d.motion, slice(2, 3))
  )
  np.testing.assert_allclose(neutral[2], posed(source)[0], atol=1e-6)
  for choice in ('9', 'some'):
    with pytest.raises(UserError, match='below 5'):
      reference_number(choice, d, source, EYES, LIP)


def test_animals_are_not_stitched_unless_asked(model):
  animals = dataclasses.replace(model, animals=True)
  source, d = drawn(1, 2), driver()
  options = PipelineOptions(DrivingOptions(option='pose-friendly'))
  want = posed(compose(source, d.motion, DrivingOptions(), animals=True))
  np.testing.assert_allclose(driven_keypoints(animals, source, d, options), want, atol=1e-6)
  asked = driven_keypoints(animals, source, d, dataclasses.replace(options, stitching=True))
  np.testing.assert_allclose(asked[1], stitched(model, posed(source)[0], want[1]), atol=2e-5)
  friendly = driven_keypoints(animals, source, d, PipelineOptions())
  np.testing.assert_allclose(friendly[0], posed(source)[0], atol=1e-5)


def test_templates_come_back(tmp_path):
  d = dataclasses.replace(
    driver(),
    times=np.arange(T) / 24.0,
    found=np.arange(T) > 0,
    rate=fractions.Fraction(30000, 1001),
  )
  save_template(tmp_path / 'a' / 't.npz', d)
  found = load_template(tmp_path / 'a' / 't.npz')
  for name in vars(d.motion):
    np.testing.assert_array_equal(getattr(found.motion, name), getattr(d.motion, name))
  assert found.rate == d.rate
  np.testing.assert_array_equal(found.times, d.times)
  np.testing.assert_array_equal(found.found, d.found)


def test_a_folder_without_weights_is_named(tmp_path):
  with pytest.raises(UserError, match='no LivePortrait weights'):
    load(tmp_path)
  assert random_model().nets.input_size == 64
