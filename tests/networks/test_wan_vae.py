import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.networks.wan_vae import (
  decode_in_chunks,
  denormalize,
  encode_in_chunks,
  in_tiles,
  normalize,
  wan_vae,
)

GOLDEN = np.load(
  pathlib.Path(__file__).parent.parent / 'golden' / 'wan_vae_tiny.npz', allow_pickle=False
)
TINY = wan_vae('tiny', multipliers=(1, 1, 2, 1))


def golden_params():
  params = {}
  for name in GOLDEN.files:
    if name.startswith('params/'):
      *path, leaf = name[len('params/') :].split('.')
      node = params
      for part in path:
        node = node.setdefault(part, {})
      node[leaf] = GOLDEN[name]
  return params


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.parametrize('chunk', [1, 3])
def test_chunks_equal_the_whole_sequence_and_diffusers(chunk):
  """Chunks of 3 leave a rest; diffusers streams frame by frame."""
  params = golden_params()
  video = jnp.concatenate([GOLDEN['video'], GOLDEN['video'][:, 1:]], axis=1)  # 17 frames, 5 latents
  whole = jax.jit(lambda x: TINY.apply({'params': params}, x, method='encode'))(video)
  codes = jax.jit(lambda x: encode_in_chunks(TINY, params, x, chunk=chunk))(video)
  np.testing.assert_allclose(codes, whole, atol=2e-5)
  np.testing.assert_allclose(codes[:, :3], GOLDEN['mean'], atol=2e-5)
  given = jnp.concatenate([GOLDEN['mean'], whole[:, 3:]], axis=1)
  decoded = jax.jit(lambda z: TINY.apply({'params': params}, z, method='decode'))(given)
  parts = jax.jit(lambda z: decode_in_chunks(TINY, params, z, chunk=chunk))(given)
  assert parts.shape == video.shape
  np.testing.assert_allclose(parts, decoded, atol=2e-5)
  np.testing.assert_allclose(parts[:, :9], GOLDEN['decoded'], atol=2e-5)


@pytest.mark.long
def test_the_memory_of_chunks_does_not_grow_with_the_clip():
  params = golden_params()

  def temporaries(fn, latents):
    return (
      jax.jit(fn)
      .lower(jnp.zeros((1, latents, 4, 4, 16)))
      .compile()
      .memory_analysis()
      .temp_size_in_bytes
    )

  chunks = lambda z: decode_in_chunks(TINY, params, z)
  whole = lambda z: TINY.apply({'params': params}, z, method='decode')
  grown = temporaries(chunks, 21) - temporaries(chunks, 6)
  pixels = 15 * 4 * 32 * 32 * 3 * 4  # the result itself
  assert grown < 1.2 * pixels < 0.2 * (temporaries(whole, 21) - temporaries(whole, 6)), (
    grown / pixels
  )


def test_tiles_are_faded_and_cover_every_place():
  identity = in_tiles(lambda x: jnp.repeat(jnp.repeat(x, 2, 2), 2, 3), X, tile=5, stride=3, scale=2)
  np.testing.assert_allclose(identity, jnp.repeat(jnp.repeat(X, 2, 2), 2, 3), atol=1e-6)
  assert in_tiles(lambda x: x, X, tile=40, stride=30, scale=1).shape == X.shape
  with pytest.raises(ValueError, match='stride of 9'):
    in_tiles(lambda x: x, X, tile=6, stride=9, scale=1)


X = jax.random.normal(jax.random.key(0), (2, 3, 11, 7, 2))
