"""Loki's map encoder: against loops in numpy, its size, nothing at creation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.systems.loki.map_encoder import MapEncoder, VectorEncoder, map_encoder

SMALL = MapEncoder(stem=32, widths=(64, 32), out=32)
MAPS = np.random.default_rng(1).normal(0, 1, (2, 8, 12, 5)).astype(np.float32)


def random(tree, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: (rng.normal(0, 0.3, x.shape) / max(1, np.prod(x.shape[:-1])) ** 0.5 * 3).astype(
      np.float32
    ),
    tree,
  )


def slow_conv(x, layer, stride=1):
  """[H, W, C] by the definition, a pixel of zeros around."""
  kernel, bias = np.asarray(layer['kernel'], np.float64), np.asarray(layer['bias'], np.float64)
  padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  rows, columns = range(0, x.shape[0], stride), range(0, x.shape[1], stride)
  return np.array(
    [
      [np.einsum('ijc,ijco->o', padded[r : r + 3, c : c + 3], kernel) + bias for c in columns]
      for r in rows
    ]
  )


def slow_norm(x, layer):
  groups = np.split(x, 32, axis=-1)
  x = np.concatenate([(g - g.mean()) / np.sqrt(g.var() + 1e-5) for g in groups], -1)
  return x * np.asarray(layer['scale'], np.float64) + np.asarray(layer['bias'], np.float64)


def slow_silu(x):
  return x / (1 + np.exp(-x))


def slow_resnet(x, layer):
  y = slow_conv(slow_silu(slow_norm(x, layer['norm1'])), layer['conv1'])
  y = slow_conv(slow_silu(slow_norm(y, layer['norm2'])), layer['conv2'])
  if 'shortcut' in layer:
    x = x @ np.asarray(layer['shortcut']['kernel'], np.float64) + np.asarray(
      layer['shortcut']['bias'], np.float64
    )
  return x + y


def slow_encoder(x, p, stages):
  x = slow_conv(x.astype(np.float64), p['conv_in'])
  for i in range(stages):
    x = slow_conv(slow_resnet(x, p[f'down{i}']), p[f'down{i}_half'], 2)
  x = slow_resnet(x, p['refine'])
  return slow_conv(slow_silu(slow_norm(x, p['norm_out'])), p['conv_out'])


def test_it_is_what_its_definition_says():
  params = random(jax.eval_shape(SMALL.init, jax.random.key(0), MAPS)['params'])
  found = np.asarray(SMALL.apply({'params': params}, MAPS))
  assert found.shape == (2, 2, 3, 32) and SMALL.stride == 4
  for one, map in zip(found, MAPS):
    wanted = slow_encoder(map, params, 2)
    np.testing.assert_allclose(one, wanted, atol=2e-5 * max(1, np.abs(wanted).max()))


def test_the_published_size():
  full = map_encoder('full')
  shapes = jax.eval_shape(full.init, jax.random.key(0), jnp.zeros((1, 1, 512, 512, 45)))
  assert (
    sum(x.size for x in jax.tree.leaves(shapes)) == 7_345_344 and len(jax.tree.leaves(shapes)) == 50
  )
  out = jax.eval_shape(full.apply, shapes, jnp.zeros((1, 16, 512, 512, 45)))
  assert out.shape == (1, 16, 64, 64, 320) and full.stride == 8


@pytest.mark.long
def test_at_creation_it_gives_nothing_and_its_last_layer_learns():
  variables = jax.jit(SMALL.init)(jax.random.key(0), MAPS)
  assert not np.asarray(SMALL.apply(variables, MAPS)).any()
  gradient = jax.grad(lambda v: SMALL.apply(v, MAPS).sum())(variables)['params']
  assert (
    np.abs(gradient['conv_out']['kernel']).max() > 0
    and not np.asarray(gradient['conv_in']['kernel']).any()
  )


def test_clips_are_frames_and_recomputing_changes_nothing():
  params = random(jax.eval_shape(SMALL.init, jax.random.key(0), MAPS)['params'], 2)
  whole = SMALL.apply({'params': params}, MAPS[None])
  np.testing.assert_allclose(whole[0], SMALL.apply({'params': params}, MAPS), atol=1e-6)
  np.testing.assert_allclose(
    SMALL.clone(remat=True).apply({'params': params}, MAPS[None]), whole, atol=1e-6
  )
  np.testing.assert_allclose(
    SMALL.clone(gain=3.0).apply({'params': params}, MAPS[None]), 3 * np.asarray(whole), rtol=1e-6
  )
  folded = SMALL.clone(fold=2)
  assert (
    jax.eval_shape(folded.init_with_output, jax.random.key(0), MAPS)[0].shape == (2, 1, 2, 32)
    or folded.stride == 8
  )


def test_a_vector_is_the_same_everywhere():
  net, vectors = (
    VectorEncoder(8, (2, 3)),
    np.random.default_rng(0).normal(0, 1, (2, 5, 7)).astype(np.float32),
  )
  params = random(jax.eval_shape(net.init, jax.random.key(0), vectors)['params'])
  found = np.asarray(net.apply({'params': params}, vectors))
  assert (
    found.shape == (2, 5, 2, 3, 8)
    and np.ptp(found, axis=(2, 3)).max() == 0
    and np.ptp(found, axis=1).max() > 0
  )
  assert not np.asarray(net.apply(net.init(jax.random.key(0), vectors), vectors)).any()


def test_an_unknown_variant_is_refused():
  with pytest.raises(ValueError, match="unknown variant 'huge'"):
    map_encoder('huge')
