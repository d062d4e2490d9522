"""The autoencoder of Stable Diffusion: outputs of diffusers 0.42.1 (make_sd_fixture.py), published
size, samples, clips."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.files import manifest
from exp_jax.files.safetensors import flattened, write_safetensors
from exp_jax.networks.codec import open_codec
from exp_jax.networks.sd_vae import SCALE, decode_frames, sd_vae
from exp_jax.networks.weights import FORMAT
from tests.golden.sd_inputs import inputs
from tests.networks.sd_tiny import GOLDEN, params

TINY = sd_vae('tiny')
IMAGES = np.tanh(inputs(6, 3, 48, 64, 3))
PARAMS = {'params': params('vae')}
apply = lambda method: jax.jit(lambda x, *more: TINY.apply(PARAMS, x, *more, method=method))


def close(found, name):
  # float32 sums in another order
  np.testing.assert_allclose(found, GOLDEN[name], rtol=0, atol=2e-5)


@pytest.mark.long
def test_moments_and_images_are_those_of_diffusers():
  mean, log_variance = apply('moments')(IMAGES)
  close(mean, 'vae_mean')
  close(log_variance, 'vae_log_variance')
  np.testing.assert_allclose(apply('encode')(IMAGES), SCALE * mean, atol=1e-6)
  decode = apply('decode')
  close(decode(SCALE * GOLDEN['vae_mean']), 'vae_decoded')
  close(decode_frames(decode, SCALE * GOLDEN['vae_mean']), 'vae_decoded')


def test_clips_of_any_leading_axes_are_coded_frame_by_frame():
  codes = apply('encode')(IMAGES.reshape(1, 3, 1, 48, 64, 3))
  assert codes.shape == (1, 3, 1, 6, 8, 4)
  np.testing.assert_allclose(codes.reshape(3, 6, 8, 4), SCALE * GOLDEN['vae_mean'], atol=1e-5)


def test_samples_have_the_moments():
  """200 draws of the same images around their means."""
  sample = apply('sample')
  draws = np.stack([sample(IMAGES[:1], jax.random.key(i)) for i in range(200)]) / SCALE
  mean, spread = GOLDEN['vae_mean'][:1], np.exp(0.5 * GOLDEN['vae_log_variance'][:1])
  z = (draws - mean) / spread
  assert np.abs(z.mean(0)).max() < 5 * 200**-0.5 and abs(z.std() - 1) < 0.02


def test_published_size_by_shape():
  model = sd_vae('kl_f8')
  images = jnp.zeros((1, 512, 512, 3))
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
  tree = variables['params']
  halves = [
    {k: tree[k] for k in names} for names in (('encoder', 'quant'), ('decoder', 'post_quant'))
  ]
  counts = [
    (sum(math.prod(x.shape) for x in jax.tree.leaves(half)), len(jax.tree.leaves(half)))
    for half in halves
  ]
  assert counts == [(34_163_664, 108), (49_490_199, 140)]
  latents = jax.eval_shape(lambda v: model.apply(v, images, method='encode'), variables)
  assert latents.shape == (1, 64, 64, 4)


def test_mistakes_are_named():
  with pytest.raises(ValueError, match='multiples of 8'):
    TINY.apply(PARAMS, IMAGES[:, :44], method='encode')
  with pytest.raises(ValueError, match='unknown variant'):
    sd_vae('kl_f4')


@pytest.mark.long
def test_the_codec_is_the_converted_autoencoder(tmp_path):
  with manifest.new_folder(tmp_path / 'vae') as folder:
    sizes = dict(width=32, multipliers=(1, 2, 2, 3), blocks=1, channels=4)
    (folder / 'config.json').write_text(
      json.dumps(dict(format=FORMAT, network='sd_vae', sizes=sizes))
    )
    write_safetensors(
      folder / 'params.safetensors',
      {name: np.asarray(x) for name, x in flattened(PARAMS['params']).items()},
    )
  codec = open_codec('sd', str(tmp_path / 'vae'))
  assert codec.strides == (1, 8, 8) and codec.channels == 4
  z = codec.encode(IMAGES[None])
  np.testing.assert_allclose(z[0], apply('encode')(IMAGES), atol=1e-5)
  np.testing.assert_allclose(codec.open_decoder()(z[0]), codec.decode(z)[0], atol=1e-4)
  with pytest.raises(UserError, match="the 'sd' autoencoder has no weights here"):
    open_codec('sd', '').encode(IMAGES[None])
