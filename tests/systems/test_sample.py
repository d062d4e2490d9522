import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

from exp_jax.data.synthetic import synthetic_clip
from exp_jax.errors import UserError
from exp_jax.systems.expportrait import dit_task, vae_task
from exp_jax.systems.expportrait.codec import open_codec
from exp_jax.systems.expportrait.encode import encoded
from exp_jax.systems.expportrait.sample import generate, load_generator
from exp_jax.training.exports import write_export

CONFIGS = Path(__file__).parent.parent.parent / 'configs'


def random_params(task):
  shapes = jax.eval_shape(task.init_fn, jax.random.key(0))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda s: np.asarray(0.1 * rng.normal(size=s.shape), np.float32), shapes)


def config_of(name):
  return runpy.run_path(str(CONFIGS / f'{name}.py'))['get_config']('smoke')


def test_an_export_samples_any_length(tmp_path):
  config = config_of('dit_a800')
  write_export(tmp_path / 'e', config, random_params(dit_task.task(config)))
  model = load_generator(tmp_path / 'e')
  clip = synthetic_clip(0, num_frames=7, height=32, width=32)
  unit = lambda name: clip[name].astype(np.float32) / 255
  given = (unit('reference'), unit('reference_normals'))
  video = generate(model, *given, unit('normals'), jax.random.key(0), steps=2)
  assert video.shape == (7, 32, 32, 3) and video.min() >= 0 and video.max() <= 1
  assert video.std() > 0.01
  again = generate(model, *given, unit('normals'), jax.random.key(0), steps=2)
  np.testing.assert_array_equal(video, again)
  with pytest.raises(UserError, match='trained at'):
    generate(model, given[0][:16], given[1], unit('normals'), jax.random.key(0))


def test_codes_of_the_small_autoencoder_are_stored_and_mirrored(tmp_path):
  config = config_of('vae')
  params = random_params(vae_task.task(config))
  write_export(tmp_path / 'v', config, params)
  codec = open_codec('patch', str(tmp_path / 'v'))
  source = [synthetic_clip(i, num_frames=3, height=32, width=32) for i in range(2)]
  records = list(encoded(source, codec, mirrored=True))
  assert [r['clip_id'][-8:] for r in records[1::2]] == ['mirrored'] * 2
  _, rows, columns = codec.strides
  assert records[0]['latents'].shape == (3, 32 // rows, 32 // columns, codec.channels)
  direct = codec.encode(source[1]['video'][2] / np.float32(127.5) - 1)
  np.testing.assert_allclose(records[2]['latents'][2], direct, atol=2e-3)        # float16
  with pytest.raises(UserError, match='not of expportrait/dit'):
    load_generator(tmp_path / 'v')
