"""From drawn people to an export that sees: the whole way at tiny size."""

import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from exp_jax.actors.render import PARTS as DRAWN
from exp_jax.actors.stage import load_stage
from exp_jax.catalog import tasks
from exp_jax.errors import UserError
from exp_jax.estimator.portraits import draw_pictures, pack_picture
from exp_jax.files.array_records import write_packed
from exp_jax.networks.face_maps import PARTS, face_maps_net
from exp_jax.observe.maps.face_maps import FaceMapEstimator
from exp_jax.observe.maps.map_sources import open_map_estimators
from exp_jax.training.exports import write_export


@pytest.fixture(scope='module')
def pictures():
  return draw_pictures((5, 0), 2, size=64)


@pytest.fixture(scope='module')
def config(pictures, tmp_path_factory):
  folder = tmp_path_factory.mktemp('pictures')
  write_packed(folder / 'pictures_00000.array_record', (pack_picture(each) for each in pictures))
  config = runpy.run_path('configs/estimator.py')['get_config']('smoke')
  with config.unlocked():
    config.data.path = config.data.held_out = str(folder)
  return config


def test_parts_are_named_alike_where_they_are_drawn_and_where_they_are_seen():
  assert DRAWN == PARTS


@pytest.mark.long
def test_pictures_hold_a_head_that_faces_the_camera(pictures):
  stage = load_stage('makehuman')
  assert stage.assets.head.landmark_faces.shape[0] == 478
  for picture in pictures:
    there = picture['parts'] > 0
    assert 0.1 < there.mean() < 0.95
    normals = picture['normals'][there] / 127.5 - 1
    assert (
      np.abs(np.linalg.norm(normals, axis=-1) - 1).mean() < 0.02
      and (normals[:, 2] < 0.05).mean() > 0.97
    )
    depth = picture['depth'].astype(np.float32)
    assert depth[there].min() >= 0 and 0.05 < depth[there].max() < 3
    # where the surface bends away its depth changes: a slope of -n_x / n_z over a pixel
    slope, flat = np.diff(depth, axis=1) * 64, there[:, 1:] & there[:, :-1]
    middle = (picture['normals'][:, 1:] + np.int32(picture['normals'][:, :-1])) / 255.0 - 1
    flat &= (middle[..., 2] < -0.5) & (np.abs(slope) < 1)
    expected = -middle[..., 0] / np.minimum(middle[..., 2], -0.5)
    assert np.corrcoef(slope[flat], expected[flat])[0, 1] > 0.8
  again = draw_pictures((5, 0), 2, size=64)
  assert all(np.array_equal(a[name], b[name]) for a, b in zip(pictures, again) for name in a)


@pytest.mark.long
def test_the_task_learns_and_its_export_sees(config, tmp_path):
  task = tasks.TASKS[config.task].task(config)
  source, transform = tasks.TASKS[config.task].examples(config)
  examples = [transform(source[i], np.random.default_rng(i)) for i in range(2)]
  batch = {name: jnp.asarray(np.stack([each[name] for each in examples])) for name in examples[0]}
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
    k: (v.shape, v.dtype) for k, v in task.batch_spec.items()
  }
  params = task.init_fn(jax.random.key(0))
  adam = optax.adam(5e-3)

  @jax.jit
  def step(params, moments):
    loss, gradient = jax.value_and_grad(lambda p: task.loss_fn(p, batch, jax.random.key(1))[0])(
      params
    )
    update, moments = adam.update(gradient, moments)
    return optax.apply_updates(params, update), moments, loss

  moments, course = adam.init(params), []
  for _ in range(25):
    params, moments, loss = step(params, moments)
    course.append(float(loss))
  assert course[-1] < 0.85 * course[0], course
  shapes = jax.eval_shape(task.eval_fns[0][1], params, batch, jax.random.key(0))
  assert shapes['maps'].shape == (3 * 64, 2 * 64, 3)
  write_export(tmp_path / 'export', config, params)
  estimator = FaceMapEstimator(tmp_path / 'export', side=64)
  found = estimator(source[0]['image'], source[0]['landmarks'])
  assert set(found) == {'normals', 'depth', 'weights'}
  assert all(v.shape[:2] == (64, 64) and np.isfinite(v).all() for v in found.values())
  np.testing.assert_allclose(np.linalg.norm(found['normals'], axis=-1), 1, atol=1e-5)
  # one look at a square of the network's size: nothing is resampled
  seen = estimator.see(source[0]['image'])
  model = face_maps_net('tiny')
  stored = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
  raw = jax.jit(model.apply)({'params': stored}, source[0]['image'][None] / np.float32(255))
  np.testing.assert_allclose(seen['normals'], raw.normals[0] * np.float32([1, -1, -1]), atol=2e-5)
  assert (
    open_map_estimators(str(tmp_path / 'export'))[0].digest
    == FaceMapEstimator(tmp_path / 'export').digest
  )


@pytest.mark.long
def test_a_start_is_named_or_said(config):
  with config.unlocked():
    spoilt = config.copy_and_resolve_references()
    spoilt.model.weights = ''
  with pytest.raises(UserError, match='scratch'):
    tasks.TASKS[config.task].task(spoilt)


def test_networks_are_named_one_by_one_or_said_to_be_none():
  assert open_map_estimators('none') == ()
  for names in ('', ' , ', 'none,embedded', 'embedded,none'):
    with pytest.raises(UserError, match='none'):
      open_map_estimators(names)
  (shipped,) = open_map_estimators('embedded')
  assert (
    shipped.digest
    == FaceMapEstimator('exp_jax/embedded/face_maps').digest
    == open_map_estimators()[0].digest
  )


def test_another_export_and_a_folder_that_is_none_are_refused(tmp_path):
  for folder, words in (('exp_jax/embedded/vae', 'expportrait/vae'), (str(tmp_path), 'export')):
    with pytest.raises(UserError, match=words):
      open_map_estimators(folder)
