"""The networks that metrics look through, converted, against what independent torch networks
answered on equal weights.

tests/golden/make_metric_networks_fixture.py made the answers (lpips, pytorch-fid, timm, and
published definitions).
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.convert.metric_weights.dlib_files import read_dlib_face
from exp_jax.convert.metric_weights.metrics_tables import TABLES
from exp_jax.files.safetensors import nested
from exp_jax.networks.metric import (
  arcface,
  dlib_face,
  i3d,
  inception,
  perceptual,
  resnet,
  smirk_encoder,
)
from tests.golden.dlib_writer import dlib_bytes, shapes
from tests.golden.face_chips import faces
from tests.golden.named_weights import images, named_weights, shapes_of

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / 'golden' / 'metric_networks.npz')
FETCHED = np.load(pathlib.Path(__file__).parents[1] / 'golden' / 'fetched_metrics.npz')


@functools.cache
def converted(kind, *keys):
  """(sizes, params) of a network whose published tensors are named below `keys`."""
  # left out by conversion, and large
  shapes = {
    name: shape
    for key in keys
    for name, shape in shapes_of(GOLDEN, f'{key}.shapes').items()
    if not name.startswith('classifier')
  }
  sizes, book, _ = TABLES[kind](named_weights(shapes), kind)
  return sizes, nested(book.leaves.items())


def close(found, key, tolerance=1e-4):
  """Within `tolerance` of the golden array's largest entry: what float32 sums in another order
  leave (anchors C1)."""
  golden = GOLDEN[key]
  assert found.shape == golden.shape
  assert np.abs(golden).max() > 1e-3
  np.testing.assert_allclose(found, golden, atol=tolerance * np.abs(golden).max(), rtol=0)


@pytest.mark.parametrize('variant, trunk', [('alex', 'alexnet'), ('vgg', 'vgg16')])
def test_lpips_agrees_with_the_lpips_package(variant, trunk):
  sizes, params = converted('lpips', trunk, f'lpips_{variant}')
  a, b = images(1, 2, 64, 72, 3), images(2, 2, 64, 72, 3)
  distance = jax.jit(functools.partial(perceptual.lpips_distance, **sizes))
  found = distance(params, a, b)
  np.testing.assert_allclose(found, GOLDEN[f'lpips_{variant}'], atol=1e-5, rtol=1e-5)
  assert GOLDEN[f'lpips_{variant}'].min() > 0.01
  np.testing.assert_allclose(distance(params, a, a), 0, atol=1e-7)


def test_vgg19_taps_agree_with_torchvision():
  sizes, params = converted('vgg19', 'vgg19')
  taps = jax.jit(functools.partial(perceptual.features, **sizes))(params, images(1, 1, 64, 72, 3))
  for maps, number in zip(taps, (1, 6, 11, 20, 29), strict=True):
    close(np.asarray(maps[0]).transpose(2, 0, 1)[::16, ::3, ::3], f'vgg19.{number}')


def test_gradients_of_the_perceptual_losses_are_finite_even_where_features_are_zero():
  size = (1, 16, 16, 3)
  shapes = jax.eval_shape(
    perceptual.Lpips('tiny').init, jax.random.key(0), jnp.zeros(size), jnp.zeros(size)
  )['params']
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: jnp.asarray(rng.uniform(0, 0.5, leaf.shape), jnp.float32), shapes
  )
  a, b = jnp.asarray(images(0, *size)), jnp.asarray(images(1, *size))

  @jax.jit
  def gradients(params, x):
    lpips = jax.grad(lambda x: perceptual.lpips_distance(params, x, b, variant='tiny').sum())(x)
    return lpips, jax.grad(
      lambda x: perceptual.perceptual_loss(
        params['trunk'], x, b, variant='tiny', weights=(1, 2)
      ).sum()
    )(x)

  for found in (
    *gradients(params, a),
    *gradients(jax.tree.map(jnp.zeros_like, params), a),
  ):  # the latter: all features zero
    assert np.isfinite(found).all()
  assert all(np.abs(found).max() > 0 for found in gradients(params, a))
  with pytest.raises(ValueError, match='2 taps'):
    jax.eval_shape(
      lambda x: perceptual.perceptual_loss(params['trunk'], x, x, variant='tiny', weights=(1,)), a
    )


def test_inception_agrees_with_pytorch_fid():
  _, params = converted('inception', 'inception')
  found = jax.jit(inception.Inception().apply)(
    {'params': params}, 2 * images(3, 2, 139, 155, 3) - 1
  )
  close(np.asarray(found), 'inception')


def test_resizing_is_torchs_without_antialias():
  small = jax.image.resize(images(4, 1, 512, 384, 3), (1, 299, 299, 3), 'bilinear', antialias=False)
  np.testing.assert_allclose(small[0, ::13, ::13, 1], GOLDEN['resize.299'], atol=2e-6)


@pytest.mark.long
def test_i3d_agrees_with_the_published_network_under_both_name_schemes():
  keys = shapes_of(GOLDEN, 'i3d.shapes')
  sizes, book, _ = TABLES['i3d'](named_weights(keys), 'i3d', eps=1e-3)
  params, clip = nested(book.leaves.items()), 2 * images(5, 1, 10, 36, 44, 3) - 1
  found = jax.jit(i3d.I3d(400).apply)(
    {'params': params}, jnp.asarray(clip.reshape(1, 10, 36, 44, 3))
  )
  close(np.asarray(found), 'i3d')
  other = {_as_hasson(name): value for name, value in named_weights(keys).items()}
  sizes, again, _ = TABLES['i3d'](other, 'i3d')
  assert sizes['eps'] == 1e-3
  for name, value in again.leaves.items():
    np.testing.assert_array_equal(value, book.leaves[name])


def _as_hasson(name):
  first, *rest = name.split('.')
  if first == 'logits':
    return '.'.join(['conv3d_0c_1x1', *rest])
  parts = {
    'b0': 'branch_0',
    'b1a': 'branch_1.0',
    'b1b': 'branch_1.1',
    'b2a': 'branch_2.0',
    'b2b': 'branch_2.1',
    'b3b': 'branch_3.1',
    'bn': 'batch3d',
  }
  return '.'.join([first.lower(), *(parts.get(part, part) for part in rest)])


def test_clips_are_prepared_as_fvd_does_it():
  found = i3d.prepare_clip(jnp.asarray(images(7, 2, 250, 333, 3)))
  assert found.shape == (2, 224, 224, 3)
  np.testing.assert_allclose(
    found[0].transpose(2, 0, 1)[:, ::17, ::17], GOLDEN['i3d.prepared'], atol=5e-6
  )
  with pytest.raises(ValueError, match='at least 10 frames, got 9'):
    i3d.i3d_logits({}, jnp.zeros((1, 9, 64, 64, 3)))


def test_arcface_agrees_with_insightfaces_definition():
  sizes, params = converted('arcface', 'arcface')
  assert sizes == {'variant': 'tiny'}
  faces = images(8, 2, 112, 112, 3)
  both = jax.jit(
    lambda p, x: (
      arcface.ArcFace(arcface.VARIANTS['tiny']).apply({'params': p}, 2 * x - 1),
      arcface.embed(p, x, variant='tiny'),
      arcface.identity_loss(p, x, x[::-1], variant='tiny'),
    )
  )
  found, unit, loss = (np.asarray(each) for each in both(params, faces))
  close(found, 'arcface')
  np.testing.assert_allclose(unit, found / np.linalg.norm(found, axis=-1, keepdims=True), atol=1e-5)
  np.testing.assert_allclose(loss, 1 - unit[0] @ unit[1], atol=1e-5)
  with pytest.raises(ValueError, match='112'):
    arcface.embed(params, faces[:, :100], variant='tiny')


def test_dlibs_network_agrees_with_dlib():
  """On random weights, in a file that dlib loaded, too; descriptors of published weights are 1.3
  long, so that 1e-4 is theirs."""
  file = dlib_bytes(named_weights(shapes('resnet_v1')), 'resnet_v1')
  sizes, book, report = TABLES['dlib'](read_dlib_face(file, 'file'), 'file')
  assert sizes == {'variant': 'resnet_v1'} and book.count() == 5_607_488 and not report['left_out']
  chips = faces() / np.float32(255)
  found = np.asarray(jax.jit(dlib_face.describe)(nested(book.leaves.items()), chips))
  golden = FETCHED['dlib.random']
  np.testing.assert_allclose(
    found, golden, atol=1e-4 / 1.3 * np.linalg.norm(golden, axis=-1).min(), rtol=0
  )
  assert np.linalg.norm(golden[0] - golden[1]) > 0.01 * np.linalg.norm(golden[0])
  with pytest.raises(ValueError, match='150'):
    dlib_face.describe({}, chips[:, :100])


def test_smirk_encoders_agree_with_smirk_on_timm():
  _, params = converted('smirk', 'smirk')
  found = jax.jit(smirk_encoder.smirk_parameters)(params, images(9, 2, 64, 80, 3))
  for ours, theirs in (
    ('pose', 'pose_params'),
    ('camera', 'cam'),
    ('shape', 'shape_params'),
    ('expression', 'expression_params'),
    ('eyelids', 'eyelid_params'),
    ('jaw', 'jaw_params'),
  ):
    close(np.asarray(found[ours]), f'smirk.{theirs}')


@pytest.mark.parametrize('key', ['l2cs', pytest.param('l2cs50', marks=pytest.mark.slow)])
def test_gaze_agrees_with_l2cs(key):
  sizes, params = converted('l2cs', key)
  faces = images(10, 2, 64, 80, 3)
  close(
    np.asarray(jax.jit(functools.partial(resnet.l2cs_gaze, **sizes))(params, faces)), f'{key}.gaze'
  )


def test_gaze_of_sure_bins_is_their_angle():
  logits = np.full((2, 90), -1e4, np.float32)
  logits[0, 45], logits[1, [50, 51]] = 0, 0
  np.testing.assert_allclose(
    np.rad2deg(resnet.gaze_angles(logits, logits[::-1])), [[0, 22], [22, 0]], atol=1e-4
  )


@pytest.mark.parametrize('key', ['deep3d', pytest.param('deep3d50', marks=pytest.mark.slow)])
def test_coefficients_agree_with_deep3d(key):
  sizes, params = converted('deep3d', key)
  found = jax.jit(functools.partial(resnet.deep3d_coefficients, **sizes))(
    params, images(11, 2, 64, 80, 3)
  )
  close(np.concatenate([found[name] for name, _ in resnet.DEEP3D_PARTS], -1), key)
  assert found['expression'].shape == (2, 64) and found['angles'].shape == (2, 3)


@pytest.mark.slow
def test_inception_at_its_real_size():
  _, params = converted('inception', 'inception')
  close(
    np.asarray(inception.inception_features(params, images(4, 1, 120, 96, 3))), 'inception.resized'
  )


@pytest.mark.slow
def test_i3d_at_its_real_size():
  _, book, _ = TABLES['i3d'](named_weights(shapes_of(GOLDEN, 'i3d.shapes')), 'i3d', eps=1e-3)
  clip = images(6, 1, 16, 224, 224, 3).reshape(1, 16, 224, 224, 3)
  close(np.asarray(jax.jit(i3d.i3d_logits)(nested(book.leaves.items()), clip)), 'i3d.full')


@pytest.mark.slow
@pytest.mark.parametrize('key, variant', [('arcface50', 'iresnet50'), ('arcface100', 'iresnet100')])
def test_arcface_at_its_real_sizes(key, variant):
  sizes, params = converted('arcface', key)
  assert sizes['variant'] == variant
  found = jax.jit(arcface.ArcFace(arcface.VARIANTS[variant]).apply)(
    {'params': params}, 2 * images(8, 2, 112, 112, 3) - 1
  )
  close(np.asarray(found), key)


@pytest.mark.parametrize(
  'name, module, sizes',
  [
    ('alex', lambda: perceptual.Lpips('alex'), [(1, 64, 64, 3)] * 2),
    ('resnet50', lambda: resnet.Deep3d((3, 4, 6, 3)), [(1, 224, 224, 3)]),
    ('i3d', lambda: i3d.I3d(), [(1, 16, 224, 224, 3)]),
    ('iresnet100', lambda: arcface.ArcFace((3, 13, 30, 3)), [(1, 112, 112, 3)]),
  ],
)
def test_parameter_counts_are_the_published_ones(name, module, sizes):
  """Counted by hand from the published tables, norms folded."""
  shapes = jax.eval_shape(
    module().init, jax.random.key(0), *(jax.ShapeDtypeStruct(s, np.float32) for s in sizes)
  )['params']
  count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
  torch_shapes = {
    'alex': ('alexnet', 'lpips_alex'),
    'resnet50': ('deep3d50',),
    'i3d': ('i3d',),
    'iresnet100': ('arcface100',),
  }[name]
  theirs = {
    n: s
    for key in torch_shapes
    for n, s in shapes_of(GOLDEN, f'{key}.shapes').items()
    if not n.startswith('classifier') and 'running' not in n and 'tracked' not in n
  }
  norms = [n for n in theirs if len(theirs[n]) == 1 and n.endswith('weight') and 'prelu' not in n]
  # scales that stay
  alone = sum(theirs[n][0] for n in norms if name == 'iresnet100' and '.bn1.' in n)
  folded = sum(theirs[n][0] for n in norms) - alone
  biases = (
    sum(theirs[n][0] for n in theirs if n in ('bn2.bias', 'features.bias'))
    if name == 'iresnet100'
    else 0
  )
  assert count == sum(int(np.prod(s)) for s in theirs.values()) - folded - biases
