"""Checkpoints of Loki's published code: every tensor used once, the same bytes back, refusals.

Random weights at small sizes.
"""

import runpy

import jax
import numpy as np
import pytest

from exp_jax.convert.loki.loki_conversion import convert, export, leaves_of, names_of
from exp_jax.convert.loki.loki_names import ENCODER, GENERATOR, REFERENCE, encoder_leaves
from exp_jax.convert.sd.sd_names import from_ours
from exp_jax.errors import UserError
from exp_jax.files.resources import top_level_file
from exp_jax.files.safetensors import SafetensorsFile, flattened, write_safetensors
from exp_jax.networks.codec import Codec
from exp_jax.systems.loki.model import networks_of
from exp_jax.training.exports import load_export

WIDTHS = (320, 64, 128)  # the map encoder's 320 channels are added to the first
CODEC = Codec((1, 8, 8), 4, lambda x: x, lambda z: z, lambda: lambda z: z)


@pytest.fixture(scope='module')
def prompt(tmp_path_factory):
  path = tmp_path_factory.mktemp('prompt') / 'empty.npz'
  np.savez(path, positive=np.zeros((3, 1024), np.float32))
  return path


def config_of(prompt, **model):
  config = (
    runpy.run_path(str(top_level_file('configs') / 'loki.py'))['get_config']()
    .copy_and_resolve_references()
    .unlock()
  )
  config.model.update(attention='xla', dtype='float32', prompt=str(prompt), **model)
  config.data.size = 64
  return config.lock()


@pytest.fixture(scope='module')
def checkpoint(prompt):
  """{name: array} as that code's training leaves it, and {leaf: array} of ours."""
  networks = networks_of(config_of(prompt, widths=WIDTHS, heads=(5, 1, 2), blocks=1), CODEC)
  leaves, rng = leaves_of(networks, 4, 64), np.random.default_rng(0)
  encoder = [f'{ENCODER}layers.{k:02}' for k in range(len(encoder_leaves(networks.encoder)))]
  values = {leaf: rng.normal(0, 1, like.shape).astype(np.float32) for leaf, like in leaves.items()}
  table = names_of(networks, encoder, leaves)
  order = [
    *(n for n in table if n.startswith(GENERATOR) and not n.startswith(ENCODER)),
    *encoder,
    *(n for n in table if n.startswith(REFERENCE)),
  ]
  return {
    name: np.ascontiguousarray(from_ours(values[table[name][0]], table[name][1])) for name in order
  }, values


EXTRA = {
  'first_stage_model.encoder.conv_in.weight': np.ones((2, 2), np.float32),
  'betas': np.ones(3, np.float32),
  GENERATOR + 'input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight': np.ones(
    (2, 2), np.float32
  ),
  'audio_encoder.proj.weight': np.ones((2, 2), np.float32),
}


@pytest.mark.long
def test_every_tensor_is_used_once_and_comes_back_the_same(checkpoint, prompt, tmp_path):
  arrays, values = checkpoint
  of = lambda k: arrays[f'{ENCODER}layers.{k:02}'].shape
  # as torch has convolutions
  assert of(0) == (64, 45, 3, 3) and of(4) == (128, 64, 3, 3) and of(10) == (128, 64, 1, 1)
  write_safetensors(tmp_path / 'loki.safetensors', arrays | EXTRA)
  config = config_of(prompt)
  convert(
    tmp_path / 'loki.safetensors', tmp_path / 'ours', config, prompt=prompt, vae='', dtype='float32'
  )
  found, params = load_export(tmp_path / 'ours')
  assert (
    found.task == 'loki'
    and tuple(found.model.widths) == WIDTHS
    and tuple(found.model.heads) == (5, 1, 2)
  )
  for leaf, value in flattened(params).items():
    np.testing.assert_array_equal(value, values[leaf], err_msg=leaf)
  assert (tmp_path / 'ours' / 'prompt.npz').is_file() and str(tmp_path) not in (
    tmp_path / 'ours' / 'config.json'
  ).read_text()
  export(tmp_path / 'ours', tmp_path / 'back.safetensors')
  with SafetensorsFile(tmp_path / 'back.safetensors') as file:
    assert set(file.names) == set(arrays)
    for name in file.names:
      np.testing.assert_array_equal(file.read(name), arrays[name], err_msg=name)
  with pytest.raises(UserError, match='exists already'):
    export(tmp_path / 'ours', tmp_path / 'back.safetensors')


@pytest.mark.long
@pytest.mark.parametrize(
  'change, words',
  [
    (
      lambda a: a.pop(next(n for n in a if n.startswith(REFERENCE) and 'time_embed' in n)),
      'is not a whole checkpoint of Loki',
    ),
    (
      lambda a: a.update({'model.diffusion_model.more.weight': np.ones(3, np.float32)}),
      'is not a whole checkpoint of Loki',
    ),
    (lambda a: a.pop(f'{ENCODER}layers.00'), 'the map encoder of the file has'),
    (
      lambda a: a.update({f'{ENCODER}layers.01': np.full(64, np.nan, np.float32)}),
      'NaN|not finite|infinite',
    ),
    (
      lambda a: a.update({f'{ENCODER}layers.00': np.ones((64, 45, 5, 5), np.float32)}),
      'which does not fit encoder.conv_in.kernel',
    ),
  ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(checkpoint, prompt, tmp_path, change, words):
  arrays = dict(checkpoint[0])
  change(arrays)
  write_safetensors(tmp_path / 'loki.safetensors', arrays)
  with pytest.raises(UserError, match=words):
    convert(
      tmp_path / 'loki.safetensors',
      tmp_path / 'ours',
      config_of(prompt),
      prompt=prompt,
      vae='',
      dtype='float32',
    )
  assert not (tmp_path / 'ours').exists()


@pytest.mark.long
def test_the_published_size_is_named_whole(prompt):
  """Both UNets and the encoder of the full configuration, by shapes alone."""
  networks = networks_of(config_of(prompt), CODEC)
  leaves = leaves_of(networks, 4, 512)
  table = names_of(networks, [f'{ENCODER}{k}' for k in range(50)], leaves)
  assert len(table) == 574 + 686 + 50 == len(leaves)
  assert sum(x.size for x in jax.tree.leaves(leaves)) == 815_533_444 + 7_345_344 + 865_910_724
