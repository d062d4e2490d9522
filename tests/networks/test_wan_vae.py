import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.networks.wan_vae import denormalize, normalize, wan_vae

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / 'golden' / 'wan_vae_tiny.npz',
                 allow_pickle=False)
TINY = wan_vae('tiny', multipliers=(1, 1, 2, 1))


def golden_params():
  params = {}
  for name in GOLDEN.files:
    if name.startswith('params/'):
      *path, leaf = name[len('params/'):].split('.')
      node = params
      for part in path:
        node = node.setdefault(part, {})
      node[leaf] = GOLDEN[name]
  return params


def test_equals_diffusers():
  """Outputs of diffusers 0.42.1, which streams; after a change run make_wan_vae_fixture.py."""
  params = {'params': golden_params()}
  like = jax.eval_shape(lambda: TINY.init(jax.random.key(0), jnp.zeros((1, 5, 16, 16, 3))))
  assert jax.tree.map(np.shape, params) == jax.tree.map(lambda x: x.shape, like)
  encode = jax.jit(lambda x: TINY.apply(params, x, method='encode'))
  # fp32 sums in another order through 12 layers; the specification asks for 2e-5
  np.testing.assert_allclose(encode(GOLDEN['video']), GOLDEN['mean'], atol=2e-5)
  np.testing.assert_allclose(encode(GOLDEN['video'][:, :1]), GOLDEN['single'], atol=2e-5)
  decoded = jax.jit(lambda z: TINY.apply(params, z, method='decode'))(GOLDEN['mean'])
  np.testing.assert_allclose(decoded, GOLDEN['decoded'], atol=2e-5)
  assert 0.05 < np.abs(GOLDEN['decoded']).mean() < 0.9


def test_real_size_by_shape():
  model = wan_vae('wan')
  video = jnp.zeros((1, 9, 32, 48, 3))
  params = jax.eval_shape(lambda: model.init(jax.random.key(0), video))
  leaves = jax.tree.leaves(params)
  assert len(leaves) == 194 and sum(math.prod(x.shape) for x in leaves) == 126_892_531
  latents = jax.eval_shape(lambda p: model.apply(p, video, method='encode'), params)
  assert latents.shape == (1, 3, 4, 6, 16)
  decode = lambda p, z: model.apply(p, z, method='decode')
  assert jax.eval_shape(decode, params, latents).shape == video.shape


def test_normalization_is_undone():
  x = jax.random.normal(jax.random.key(0), (3, 5, 16))
  np.testing.assert_allclose(denormalize(normalize(x)), x, atol=1e-5)
