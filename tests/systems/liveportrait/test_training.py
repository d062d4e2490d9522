"""Losses against slow references; both stages run, move what they should, and how near stage one
comes to a clip."""

import functools
import json
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.systems.liveportrait.models import extract_motion, networks
from exp_jax.systems.liveportrait.networks.keypoints import posed, rotation_from_degrees
from exp_jax.systems.liveportrait.networks.landmarks import openness
from exp_jax.systems.liveportrait.networks.warping import Occlusion
from exp_jax.systems.liveportrait.training import critics, losses, records, stage_one, stage_two
from exp_jax.training.exports import write_export
from exp_jax.training.optimizers import learning_rate, make_optimizer
from exp_jax.training.state import merge, split

CONFIG = pathlib.Path(__file__).parents[3] / 'configs' / 'liveportrait.py'


def config_of(mode, **changes):
  config = runpy.run_path(str(CONFIG))['get_config'](mode).unlock()
  for name, value in changes.items():
    node, *rest = name.split('__')
    target = config
    for part in [node, *rest][:-1]:
      target = target[part]
    target[[node, *rest][-1]] = value
  return config.lock()


def batch_of(config, seed=0):
  source, transform = stage_one.examples(config)
  rows = [transform(source[i], np.random.default_rng([seed, i])) for i in range(config.batch_size)]
  return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


def test_wing_is_continuous_and_as_written():
  x = jnp.array([-0.3, -0.05, 0.0, 0.02, 0.1, 0.5])
  w, e = 0.1, 0.01
  want = [
    w * np.log(1 + abs(v) / e) if abs(v) < w else abs(v) - (w - w * np.log(1 + w / e))
    for v in np.asarray(x)
  ]
  np.testing.assert_allclose(losses.wing(x, omega=w, epsilon=e), want, rtol=1e-5)
  near = losses.wing(jnp.array([w - 1e-6, w + 1e-6]), omega=w, epsilon=e)
  assert abs(near[0] - near[1]) < 1e-4


def test_guidance_and_prior_against_loops():
  rng = np.random.default_rng(0)
  x_s, x_d = (
    rng.normal(size=(2, 21, 3)).astype(np.float32),
    rng.normal(size=(2, 21, 3)).astype(np.float32),
  )
  l_s, l_d = (
    rng.normal(size=(2, 478, 2)).astype(np.float32),
    rng.normal(size=(2, 478, 2)).astype(np.float32),
  )
  keypoints = tuple(range(11, 21))
  total = 0.0
  for b in range(2):
    for k, g in zip(keypoints, losses.GUIDES):
      for c in range(2):
        total += float(losses.wing(x_s[b, k, c] - l_s[b, g, c], omega=0.1, epsilon=0.01))
        total += float(losses.wing(x_d[b, k, c] - l_d[b, g, c], omega=0.1, epsilon=0.01))
  found = losses.guidance_loss(l_s, x_s, x_d, l_d, keypoints=keypoints, omega=0.1, epsilon=0.01)
  assert float(found) == pytest.approx(total / (2 * 10 * 2), rel=1e-5)
  near, points = 0.0, 0.2 * x_s
  for b in range(2):
    for i in range(21):
      for j in range(21):
        if i != j and not (i in (1, 2) and j in (1, 2)):
          near += max(0, 0.1 - float(np.square(points[b, i] - points[b, j]).sum())) / 2
  depth = np.abs(points[..., 2].mean(1) - 0.33).mean()
  assert float(losses.prior_loss(points, distance=0.1, depth=0.33, free=(1, 2))) == pytest.approx(
    near + depth, rel=1e-4
  )


@pytest.mark.long
def test_warped_pictures_and_points_go_together():
  """A bright spot at x' of the warped picture lies at A x' + b of the picture: equivariant points
  cost nothing."""
  matrix, shift = losses.random_affine(jax.random.key(0), 2, strength=0.1)
  inside = jnp.array([[0.3, -0.2], [-0.1, 0.4]])
  axis = (2 * np.arange(64) + 1) / 64 - 1
  spot = lambda p: np.exp(
    -(
      (axis[None, None] - p[:, 0, None, None]) ** 2
      + (axis[None, :, None] - p[:, 1, None, None]) ** 2
    )
    / 0.01
  )
  image = jnp.asarray(spot(np.asarray(inside)), jnp.float32)[..., None]
  moved = np.asarray(losses.warped(image, matrix, shift))[..., 0]
  center = (
    np.stack([(moved * axis).sum((1, 2)), (moved * axis[:, None]).sum((1, 2))], 1)
    / moved.sum((1, 2))[:, None]
  )
  back = np.einsum('bij,bj->bi', matrix, center) + shift
  np.testing.assert_allclose(back, inside, atol=2e-3)
  points = jnp.pad(inside[:, None], ((0, 0), (0, 0), (0, 1)))
  own = jnp.einsum('bij,bkj->bki', jnp.linalg.inv(matrix), points[..., :2] - shift[:, None])
  assert (
    float(losses.equivariance_loss(points, jnp.pad(own, ((0, 0), (0, 0), (0, 1))), matrix, shift))
    < 1e-6
  )
  assert float(losses.equivariance_loss(points, points, matrix, shift)) > 1e-3


def test_crops_show_the_region():
  image = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 32, 32, 3)), jnp.float32)
  whole = losses.crops(image, jnp.zeros((2, 2)), jnp.ones(2), 32)
  np.testing.assert_allclose(whole, image, atol=1e-5)
  quarter = losses.crops(image, jnp.full((2, 2), 0.5), jnp.full(2, 0.5), 16)
  np.testing.assert_allclose(quarter, image[:, 16:, 16:], atol=1e-5)
  right = losses.crops(image, jnp.array([[0.5, -0.5]] * 2), jnp.full(2, 0.5), 16)
  np.testing.assert_allclose(right, image[:, :16, 16:], atol=1e-5)


def test_masks_and_openness():
  record = records.toy_face(np.random.default_rng(0), 2, 64)
  landmarks = jnp.asarray(record['landmarks'])
  eyes, lip = openness(record['landmarks'])
  np.testing.assert_allclose(losses.openness_of(landmarks), np.c_[eyes, lip], rtol=1e-4, atol=1e-5)
  below, keep = losses.shoulders(landmarks, 64), losses.outside(landmarks, 'eyes', 64)
  assert below[0, 0, 0, 0] == 0 and below[0, -1, 0, 0] == 1
  pixel = lambda p: tuple(((np.asarray(p)[::-1] + 1) * 32).astype(int))
  for point in (33, 263, 159):
    assert keep[(0, *pixel(landmarks[0, point]), 0)] == 0
  assert (
    keep[(0, *pixel(landmarks[0, 61]), 0)] == 1
    and losses.outside(landmarks, 'lip', 64)[(0, *pixel(landmarks[0, 61]), 0)] == 0
  )


@pytest.mark.long
def test_faces_are_aligned_on_the_template():
  """Eyes and mouth of a turned toy face come to lie where ArcFace's template has them."""
  record = records.toy_face(np.random.default_rng(5), 2, 128)
  landmarks = record['landmarks']
  marks = np.zeros((2, 128, 128, 2), np.float32)
  for t in range(2):
    for c, points in enumerate(([33, 133, 159, 145, 362, 263, 386, 374], [61, 291])):
      x, y = ((landmarks[t, points].mean(0) + 1) * 64 - 0.5).round().astype(int)
      marks[t, y, x, c] = 1
  found = np.asarray(losses.aligned_faces(jnp.asarray(marks), jnp.asarray(landmarks)))
  for c, row in enumerate((51.65, 92.3)):
    y, x = np.unravel_index(found[0, ..., c].argmax(), (112, 112))
    assert abs(y + 0.5 - row) < 2.5 and abs(x + 0.5 - 56) < 2.5


@pytest.mark.long
def test_networks_of_ones_own_look_and_stay_as_they_are(tmp_path):
  from exp_jax.files import manifest
  from exp_jax.files.safetensors import flattened, write_safetensors
  from exp_jax.networks.metric.perceptual import Trunk
  from exp_jax.networks.weights import FORMAT

  params = Trunk('tiny').init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))['params']
  write_safetensors(
    tmp_path / 'params.safetensors', {k: np.asarray(v) for k, v in flattened(params).items()}
  )
  (tmp_path / 'config.json').write_text(
    json.dumps({'format': FORMAT, 'network': 'vgg19', 'sizes': {'variant': 'tiny'}})
  )
  manifest.write_manifest(tmp_path)
  config = config_of('smoke', model__features=str(tmp_path))
  task = stage_one.task(config)
  shapes = jax.eval_shape(task.init_fn, jax.random.key(0))
  loss, _ = jax.eval_shape(task.loss_fn, shapes, task.batch_spec, jax.random.key(0))
  assert loss.shape == () and set(split(shapes, task.trainable)[1]) == {'looks'}
  np.testing.assert_array_equal(
    task.start()['looks']['features']['conv0']['kernel'], params['conv0']['kernel']
  )
  look, image = stage_one.features_of(str(tmp_path)), jnp.ones((1, 64, 64, 3)) / 3
  assert len(look.run(params, image)) == 2


def test_default_looks_tell_pictures_apart():
  a, b = (
    jnp.asarray(np.random.default_rng(i).uniform(size=(2, 32, 32, 3)), jnp.float32) for i in (0, 1)
  )
  assert (
    float(losses.feature_loss(losses.pyramid_features, a, a))
    == 0
    < float(losses.feature_loss(losses.pyramid_features, a, b))
  )
  assert float(losses.identity_loss(losses.coarse_identity, a, a)) == pytest.approx(0, abs=1e-5)
  assert float(losses.identity_loss(losses.coarse_identity, a, b)) > 0.1
  assert float(losses.hinge_real_fake(jnp.full(3, 2.0), jnp.full(3, -2.0))) == 0


def test_spectral_norm_is_the_largest_singular_value():
  kernel = np.random.default_rng(0).normal(size=(2, 2, 3, 5)).astype(np.float32)
  kernel[0, 0, 0] *= 8
  top = np.linalg.svd(kernel.reshape(-1, 5), compute_uv=False)[0]
  np.testing.assert_allclose(
    critics.spectral(jnp.asarray(kernel)), kernel / top, rtol=0.02, atol=1e-4
  )


def test_an_update_does_not_shut_the_gate_of_a_network_from_scratch():
  """Every weight of the gate moved by 5e-3 against its inputs, as Adam does: it stays open, which
  one that is not even does not."""
  x = jnp.abs(jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 16, 16, 26)), jnp.float32))

  def after(equal):
    gate = Occlusion('float32', equal)
    params = gate.init(jax.random.key(0), x)['params']
    assert float(jax.nn.sigmoid(gate.apply({'params': params}, x)).min()) > 0.85
    return jax.nn.sigmoid(gate.apply({'params': params | {'kernel': params['kernel'] - 5e-3}}, x))

  assert after(True).min() > 0.8 and after(False)[:, 3:-3, 3:-3].max() < 1e-3


def test_toy_faces_are_what_their_landmarks_say():
  record = records.toy_face(np.random.default_rng(3), 3, 128)
  eyes, lip = openness(record['landmarks'])
  assert record['video'].shape == (3, 128, 128, 3) and record['video'].dtype == np.uint8
  assert np.ptp(eyes) > 0.05 and np.ptp(lip) > 0.05 and np.abs(record['angles']).max() <= 30
  again = records.ToyFaces(4, 3, 64)
  np.testing.assert_array_equal(again[2]['video'], again[2]['video'])
  mixed = records.Mixed(records.ToyFaces(6, 3, 64), records.ToyFaces(2, 1, 64), 0.25)
  lengths = [len(mixed[i]['video']) for i in range(len(mixed))]
  assert len(mixed) == 8 and lengths.count(1) == 2
  with pytest.raises(UserError, match='want 128x128'):
    records.pair(again[0], np.random.default_rng(0), 128)


def test_angles_of_actors_and_of_meshes():
  from exp_jax.heads.head_files import load_head

  head = load_head('procedural')
  pose = np.zeros((2, len(head.parents), 3), np.float32)
  joint = head.joint('head')
  pose[1, joint] = (0.0, 0.4, 0.0)  # the head turns to its own left: the picture's right
  angles = records.actor_angles(pose, head)
  np.testing.assert_allclose(angles[0], 0, atol=1e-4)
  assert abs(abs(angles[1, 1]) - np.rad2deg(0.4)) < 0.1 and np.abs(angles[1, [0, 2]]).max() < 1e-3
  points = np.random.default_rng(0).normal(size=(1, 478, 3))
  for index, place in {
    33: (-1, 0, 0),
    263: (1, 0, 0),
    152: (0, 1, 0),
    168: (0, -0.2, 0),
    10: (0, -1, 0),
  }.items():
    points[0, index] = place
  np.testing.assert_allclose(records.angles_from_mesh(points), 0, atol=1e-4)
  R = np.asarray(rotation_from_degrees(jnp.array([8.0, -20.0, 5.0])))
  np.testing.assert_allclose(records.angles_from_mesh(points @ R)[0], [8, -20, 5], atol=1e-3)
  turned = points @ np.asarray(rotation_from_degrees(jnp.asarray(angles[1])))
  # seen from the camera (x right, z away): a head that turns to its own left shows its nose on the
  # picture's right
  nose = np.array([0, 0, -1.0]) @ np.asarray(rotation_from_degrees(jnp.asarray(angles[1])))
  assert nose[0] > 0.3 and turned.shape == points.shape


@pytest.mark.long
@pytest.mark.parametrize('mode', ['smoke', 'smoke2'])
def test_tasks_are_consistent_by_shape(mode):
  config = config_of(mode)
  module = stage_two if mode == 'smoke2' else stage_one
  task = module.task(config)
  params = jax.eval_shape(task.init_fn, jax.random.key(0))
  loss, metrics = jax.eval_shape(task.loss_fn, params, task.batch_spec, jax.random.key(0))
  assert (
    loss.shape == () and loss.dtype == 'float32' and all(m.shape == () for m in metrics.values())
  )
  batch = batch_of(config)
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
    k: (s.shape, s.dtype) for k, s in task.batch_spec.items()
  }
  if mode == 'smoke2':
    trained, frozen = split(params, task.trainable)
    assert set(trained) == {'stitching', 'eyes', 'lip'} and {
      'motion',
      'generator',
      'openness',
    } <= set(frozen)


STAND_INS = dict(model__features='pyramid', model__identity='coarse')


def test_the_full_mode_mixes_photographs_in(tmp_path, capsys):
  """A quarter of the examples of `:stage1` are photographs of one frame, from the records that are
  named; never none in silence."""
  sizes = dict(model__variant='tiny', data__path=str(tmp_path / 'clips'), **STAND_INS)
  for name, frames in (('clips', 6), ('photos', 1)):
    (tmp_path / name).mkdir()
    write_records(
      tmp_path / name / 'train.array_record',
      [records.toy_face(np.random.default_rng(i), frames, 128) for i in range(6)],
    )
  for words, changes in (
    ('--config.data.images=DIR', {}),
    ('below 1, got 1', dict(data__image_share=1.0)),
    ('never looked at', dict(data__image_share=0.0, data__images=str(tmp_path / 'photos'))),
    ('no face clips', dict(data__images=str(tmp_path / 'nowhere'))),
    ('--config.data.images=DIR', dict(data__name='actors')),
  ):
    with pytest.raises(UserError, match=words):
      config = config_of('stage1', **sizes, **changes)
      records.photographs_of(config.data, 128)
      stage_one.examples(config)
  capsys.readouterr()
  source, _ = stage_one.examples(
    config_of('stage1', **sizes, data__images=str(tmp_path / 'photos'))
  )
  assert [len(source[i]['video']) for i in range(len(source))].count(1) == len(source) // 4 == 2
  assert 'clips alone' not in capsys.readouterr().err
  source, _ = stage_one.examples(config_of('stage1', **sizes, data__images='none'))
  assert (
    len(source) == 6
    and 'clips alone, where the paper mixes photographs in' in capsys.readouterr().err
  )


def write_records(path, clips):
  from array_record.python.array_record_module import ArrayRecordWriter

  writer = ArrayRecordWriter(str(path), 'group_size:1')
  for clip in clips:
    writer.write(records.to_bytes(clip))
  writer.close()


@pytest.mark.parametrize('mode', ['stage1', 'animals'])
def test_what_looks_at_pictures_is_named_or_the_run_does_not_start(mode):
  with pytest.raises(
    UserError, match='config.model.features names nothing.*metrics vgg19.*=pyramid'
  ):
    stage_one.task(config_of(mode))
  if mode == 'stage1':
    with pytest.raises(
      UserError, match='config.model.identity names nothing.*metrics arcface.*=coarse'
    ):
      stage_one.task(config_of(mode, model__features='pyramid'))
  else:
    # its identity costs nothing, so nothing need look at it
    stage_one.task(config_of(mode, model__features='pyramid'))
  said = stage_one.concessions(config_of(mode, **STAND_INS))
  assert any("'pyramid', a stand-in without weights for the VGG-19" in words for words in said)
  assert any('ArcFace' in words for words in said) == (mode == 'stage1')
  named = config_of(
    'stage1', model__features='out/vgg19', model__identity='out/arcface', data__images='out'
  )
  assert not stage_one.concessions(named)


def test_stage_two_does_not_start_from_nothing():
  with pytest.raises(UserError, match='config.model.weights'):
    stage_two.task(config_of('stage2')).start()
  assert stage_two.task(config_of('smoke2')).start is None


@pytest.mark.long
def test_real_sizes_trace():
  for mode, module, named in (('stage1', stage_one, STAND_INS), ('stage2', stage_two, {})):
    config = config_of(mode, batch_size=2, **named)
    task = module.task(config)
    params = jax.eval_shape(task.init_fn, jax.random.key(0))
    loss, _ = jax.eval_shape(task.loss_fn, params, task.batch_spec, jax.random.key(0))
    assert task.batch_spec['source'].shape == (2, 512, 512, 3) and loss.shape == ()


def trained(task, batch, steps, *, rate=1e-3, warmup=0):
  """Losses of some steps of the engine's optimizer on one batch, first and last parameters.

  Without `warmup` at a constant rate and with the same draws in every step; else warmed up, then to
  a twentieth by a cosine.
  """
  params = jax.jit(task.init_fn)(jax.random.key(0))
  first = params
  moving, frozen = split(params, task.trainable)
  if warmup:
    rate = functools.partial(
      learning_rate, peak=rate, warmup_steps=warmup, total_steps=steps, final_fraction=0.05
    )
  tx = make_optimizer(learning_rate=rate, weight_decay=0.0, clip_norm=100.0, betas=(0.5, 0.999))
  state = tx.init(moving)

  @jax.jit
  def update(moving, state, rng):
    (loss, metrics), gradient = jax.value_and_grad(
      lambda p: task.loss_fn(merge(p, frozen), batch, rng), has_aux=True
    )(moving)
    updates, state = tx.update(gradient, state, moving)
    finite = jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(gradient)]).all()
    return jax.tree.map(jnp.add, moving, updates), state, loss, metrics | {'finite': finite}

  history = []
  for step in range(steps):
    moving, state, loss, metrics = update(moving, state, jax.random.key(step if warmup else 7))
    history.append({k: float(v) for k, v in metrics.items()} | {'loss': float(loss)})
  return history, first, merge(moving, frozen)


@pytest.mark.slow
def test_stage_one_falls_and_every_part_moves():
  config = config_of('smoke', loss__gan=0.1)
  task = stage_one.task(config)
  history, first, last = trained(task, batch_of(config), 40)
  print({k: (round(v, 4), round(history[-1][k], 4)) for k, v in history[0].items()})
  assert all(h['finite'] for h in history) and history[-1]['loss'] < 0.8 * history[0]['loss']
  for part in first:
    moved = max(
      np.abs(a - b).max() for a, b in zip(jax.tree.leaves(first[part]), jax.tree.leaves(last[part]))
    )
    assert moved > 1e-4, part
  for name in ('guide', 'perceptual', 'openness'):
    assert history[-1][name] < history[0][name], name


@pytest.mark.slow
def test_discriminators_and_painter_pull_on_their_own_side_only():
  config = config_of('smoke')
  batch = batch_of(config)
  gradient_of = lambda only: _gradient(
    config_of(
      'smoke',
      **{
        f'loss__{k}': 0.0
        for k in (
          'equivariance',
          'prior',
          'head_pose',
          'deformation',
          'perceptual',
          'gan',
          'feature_matching',
          'critic',
          'identity',
          'guide',
          'openness',
        )
        if k != only
      },
    ),
    batch,
  )
  size = lambda tree: sum(float(jnp.abs(g).sum()) for g in jax.tree.leaves(tree))
  critic, gan = gradient_of('critic'), gradient_of('gan')
  assert size(critic['discriminators']) > 0 and size(critic['generator']) == 0 == size(
    critic['motion']
  )
  assert (
    size(gan['discriminators']) == 0 and size(gan['generator']) > 0 and size(gan['openness']) == 0
  )


def _gradient(config, batch):
  task = stage_one.task(config)
  params = jax.jit(task.init_fn)(jax.random.key(0))
  return jax.jit(jax.grad(lambda p: task.loss_fn(p, batch, jax.random.key(1))[0]))(params)


@pytest.mark.slow
def test_stage_two_moves_only_the_perceptrons(tmp_path):
  """From an export of stage one; every loss falls but the size of the moves, which starts at 0."""
  one, config = config_of('smoke'), config_of('smoke2')
  params = jax.jit(stage_one.task(one).init_fn)(jax.random.key(0))
  params['generator']['image']['kernel'] *= 20  # which starts grey, whatever the keypoints do
  write_export(tmp_path / 'e', one, params, dtype='float32')
  # openness cannot be steered through a painter that has learnt nothing: `asked` below shows that;
  # here it hardly counts
  config = config_of(
    'smoke2',
    model__weights=str(tmp_path / 'e'),
    loss__condition__eyes=1e-3,
    loss__condition__lip=1e-3,
  )
  task = stage_two.task(config)
  started = task.start()
  np.testing.assert_array_equal(started['motion']['kp']['kernel'], params['motion']['kp']['kernel'])
  np.testing.assert_array_equal(
    started['openness']['out']['kernel'], params['openness']['out']['kernel']
  )
  history, first, last = trained(task, batch_of(config), 120)
  print({k: (round(v, 4), round(history[-1][k], 4)) for k, v in history[0].items()})
  assert all(h['finite'] for h in history) and history[-1]['loss'] < 0.95 * history[0]['loss']
  assert history[-1]['stitching_constant'] < 0.5 * history[0]['stitching_constant']
  for part in first:
    moved = max(
      np.abs(a - b).max() for a, b in zip(jax.tree.leaves(first[part]), jax.tree.leaves(last[part]))
    )
    assert (moved > 1e-4) == (part in stage_two.TRAINED), part
  with pytest.raises(UserError, match='sees openness|how open'):
    stage_two.task(
      config_of(
        'smoke2', model__weights=str(tmp_path / 'e'), model__openness=str(tmp_path / 'nowhere')
      )
    ).start()


class Gauge:
  """Stands for the network that sees openness: reads it off three stripes of a picture."""

  def init(self, rng, pictures):
    return {'params': {'out': jnp.zeros(1)}}

  def apply(self, variables, pictures):
    return pictures[:, :, :48].reshape(len(pictures), 64, 3, 16, 3).mean((1, 3, 4))


def gauge_painter(nets, params, volume, source, driving):
  """Stands for W and G: stripes as bright as three keypoints are low; a fourth, outside of eyes and
  lips, as two others are."""
  openness = 0.3 + driving[:, 11:14, 1] - jax.lax.stop_gradient(source[:, 11:14, 1])
  rest = 0.5 + (driving[:, :2] - jax.lax.stop_gradient(source[:, :2])).sum((1, 2))
  columns = jnp.repeat(jnp.concatenate([openness, rest[:, None]], 1), 32, 1)
  return jnp.broadcast_to(columns[:, None, :, None], (len(driving), 128, 128, 3))


@pytest.mark.slow
def test_stage_two_learns_to_open_eyes_and_lips_as_far_as_is_asked(monkeypatch):
  """With a painter whose openness is known, of 0.3 at rest: what is seen follows what is asked from
  0 to 0.8, for eyes and for lips, where an answer without looking at the question would stay 0.2
  away, and what should not change does not.
  """
  monkeypatch.setattr(stage_two, 'paint', gauge_painter)
  monkeypatch.setattr(stage_two, 'critics', lambda variant: (None, Gauge()))
  monkeypatch.setattr(
    stage_two.losses,
    'outside',
    lambda landmarks, part, size: (jnp.arange(size) >= 96).astype(float)[:, None],
  )
  config = config_of('smoke2', batch_size=16)
  history, _, _ = trained(stage_two.task(config), batch_of(config), 400, rate=3e-3, warmup=20)
  for part in ('eyes', 'lip'):
    late = [
      np.mean([h[f'{part}_{name}'] for h in history[-20:]]) for name in ('condition', 'constant')
    ]
    print(part, np.round(late, 4), round(history[0][f'{part}_condition'], 3))
    assert history[0][f'{part}_condition'] > 0.15 and late[0] < 0.03 and late[1] < 0.03, part


def batch_of_frames(record, pairs):
  """Frame numbers (source, driving) of a clip as a batch."""
  rows = []
  for frames in pairs:
    row = {}
    for name, t in zip(('source', 'driving'), frames):
      row |= {
        name: record['video'][t],
        f'{name}_landmarks': record['landmarks'][t],
        f'{name}_angles': record['angles'][t],
        f'{name}_posed': np.float32(1),
      }
    rows.append(row)
  return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


# a clip by heart: no critics, and keypoints held by landmarks and angles less than pictures are
BY_HEART = dict(
  data__image_share=0.0,
  loss__gan=0.0,
  loss__critic=0.0,
  loss__feature_matching=0.0,
  loss__head_pose=0.1,
  loss__prior=0.1,
  loss__equivariance=1.0,
)


@pytest.mark.slow
def test_stage_one_learns_a_clip_by_heart():
  """Two frames of one clip, back and forth, 600 steps of the tiny networks: 6 dB above repeating
  the source.

  The gate of W stays open and the features behind it alive: with one that closed in the first steps
  this ended at 17.9 dB.
  """
  config = config_of('smoke', **BY_HEART)
  batch = batch_of_frames(records.toy_face(np.random.default_rng([0, 0]), 2, 128), ((0, 1), (1, 0)))
  history, _, last = trained(stage_one.task(config), batch, 600, rate=5e-3, warmup=50)
  source = float(stage_one.psnr(batch['source'] / 255.0, batch['driving'] / 255.0))
  print(
    f'PSNR {history[0]["psnr"]:.1f} -> {history[-1]["psnr"]:.1f} dB, the source itself {source:.1f}'
  )
  assert history[-1]['psnr'] > source + 6
  nets = networks('tiny', norm='group')

  @jax.jit
  def gate(params, pictures):
    small = stage_one.halve(stage_one.floats(pictures))
    points = posed(extract_motion(nets, params, small))
    volume = nets.appearance.apply({'params': params['appearance']}, small)
    return nets.warping.apply(
      {'params': params['warping']}, volume, points[::-1], points, details=True
    )[1]['occlusion']

  assert gate(last, batch['source']).mean() > 0.3


@pytest.mark.parametrize(
  'changes, words',
  [
    (dict(model__features='vgg'), 'no converted weights'),
    (dict(loss__guided_keypoints=(1, 2)), 'must name 10'),
    (dict(data__name='nothing'), 'choose'),
  ],
)
def test_mistakes_are_named(changes, words):
  with pytest.raises(UserError, match=words):
    config = config_of('smoke', **changes)
    stage_one.task(config)
    stage_one.examples(config)


@pytest.mark.slow
def test_both_stages_run_on_synthetic_actors(tmp_path):
  """Pictures, landmarks and poses of two actors; eyes lie where the landmarks say; losses fall in
  both stages."""
  pytest.importorskip('exp_jax.actors.__main__')
  from exp_jax.actors.__main__ import main
  from exp_jax.heads.head_files import load_head

  try:
    load_head('makehuman')
  except UserError:
    pytest.skip('`make setup` fetches the MakeHuman head')
  main(['-o', str(tmp_path / 'actors'), '--num', '2', '--frames', '4', '--size', '128'])
  changes = dict(
    data__name='actors', data__path=str(tmp_path / 'actors'), data__image_share=0.0, data__holdout=0
  )
  one = config_of('smoke', loss__gan=0.1, **changes)
  record = stage_one.examples(one)[0][0]
  assert record['video'].shape == (4, 128, 128, 3) and np.abs(record['landmarks']).max() < 1.2
  eyes, lip = openness(record['landmarks'])
  assert (
    (0 <= eyes).all()
    and (eyes < 0.7).all()
    and (lip < 1.5).all()
    and np.abs(record['angles']).max() < 60
  )
  history, _, last = trained(stage_one.task(one), batch_of(one), 12)
  assert all(h['finite'] for h in history) and history[-1]['loss'] < history[0]['loss']
  write_export(tmp_path / 'e', one, last, dtype='float32')
  two = config_of('smoke2', model__weights=str(tmp_path / 'e'), **changes)
  history, _, _ = trained(stage_two.task(two), batch_of(two), 12)
  assert all(h['finite'] for h in history) and history[-1]['loss'] < history[0]['loss']
