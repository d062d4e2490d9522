"""CLIP's visual tower against transformers (stored); prompts through a stand-in encoder."""

import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.convert import wan_towers
from exp_jax.errors import UserError
from exp_jax.files.safetensors import write_safetensors
from exp_jax.networks.clip_vision import clip_vision, prepare
from exp_jax.networks.weights import load_weights

GOLDEN = np.load(
  pathlib.Path(__file__).parent.parent / 'golden' / 'wan_clip.npz', allow_pickle=False
)
PARAMS = {n[len('params/') :]: GOLDEN[n] for n in GOLDEN.files if n.startswith('params/')}


def as_original(params):
  """The same tower under the names of the original release: q, k, v in one matrix."""
  out = {
    'visual.cls_embedding': params['vision_model.embeddings.class_embedding'][None, None],
    'visual.patch_embedding.weight': params['vision_model.embeddings.patch_embedding.weight'],
    'visual.pos_embedding': params['vision_model.embeddings.position_embedding.weight'][None],
    'log_scale': np.ones(()),
  }
  for kind in ('weight', 'bias'):
    out[f'visual.pre_norm.{kind}'] = params[f'vision_model.pre_layrnorm.{kind}']
    for n in range(3):
      theirs, ours = f'vision_model.encoder.layers.{n}', f'visual.transformer.{n}'
      out[f'{ours}.attn.to_qkv.{kind}'] = np.concatenate(
        [params[f'{theirs}.self_attn.{x}_proj.{kind}'] for x in 'qkv']
      )
      for a, b in (
        ('norm1', 'layer_norm1'),
        ('norm2', 'layer_norm2'),
        ('attn.proj', 'self_attn.out_proj'),
        ('mlp.0', 'mlp.fc1'),
        ('mlp.2', 'mlp.fc2'),
      ):
        out[f'{ours}.{a}.{kind}'] = params[f'{theirs}.{b}.{kind}']
  return out


@pytest.mark.parametrize('names', ['transformers', 'original'])
def test_the_last_layer_but_one_equals_transformers(tmp_path, names):
  """transformers 5.23.0; after a deliberate change run make_wan_clip_fixture.py."""
  write_safetensors(
    tmp_path / 'clip.safetensors', PARAMS if names == 'transformers' else as_original(PARAMS)
  )
  wan_towers.main(
    ['clip', str(tmp_path / 'clip.safetensors'), '-o', str(tmp_path / 'w'), '--heads', '2']
  )
  weights = load_weights(tmp_path / 'w', 'clip')
  model = clip_vision('tiny', **weights.sizes)
  assert model == clip_vision('tiny')
  params = jax.tree.map(jnp.asarray, weights.tree())
  out = jax.jit(model.apply)({'params': params}, GOLDEN['images'])
  np.testing.assert_allclose(out, GOLDEN['hidden'], atol=1e-5)
  assert np.abs(GOLDEN['hidden']).max() > 1


def test_the_published_size():
  model = clip_vision('vit_h_14')
  images = jnp.zeros((2, 224, 224, 3))
  params = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
  assert jax.eval_shape(model.apply, params, images).shape == (2, 257, 1280)


def test_images_are_squared_as_torch_does_and_normalized():
  mean, std = (
    np.array([0.48145466, 0.4578275, 0.40821073]),
    np.array([0.26862954, 0.26130258, 0.27577711]),
  )
  np.testing.assert_allclose(
    prepare(GOLDEN['photo'], 20) * std + mean, GOLDEN['resized'], atol=1e-5
  )


@pytest.mark.parametrize(
  'change, sentence',
  [
    ({'vision_model.embeddings.position_embedding.weight': None}, 'no visual tower'),
    ({'unet.weight': np.ones(2)}, 'unknown tensors'),
    ({'vision_model.encoder.layers.1.mlp.fc1.bias': None}, 'incomplete'),
    ({'vision_model.pre_layrnorm.bias': np.ones(3)}, 'norm.bias is missing or misshapen'),
  ],
)
def test_refusals(tmp_path, change, sentence):
  write_safetensors(
    tmp_path / 'c.safetensors', {k: v for k, v in (PARAMS | change).items() if v is not None}
  )
  with pytest.raises(UserError, match=sentence):
    wan_towers.convert_clip(tmp_path / 'c.safetensors', tmp_path / 'w', 2)
  assert not (tmp_path / 'w').exists()


def test_prompts_are_zero_after_their_length(tmp_path):
  torch = pytest.importorskip('torch')

  def tokenizer(texts, max_length, **_):
    ids = torch.arange(1, len(texts[0].split()) + 1)
    pad = lambda x: torch.nn.functional.pad(x, (0, max_length - len(ids)))[None]
    return {'input_ids': pad(ids), 'attention_mask': pad(torch.ones_like(ids))}

  encoder = lambda ids, mask: types.SimpleNamespace(
    last_hidden_state=(ids[..., None] + torch.ones(6)).to(torch.bfloat16)
  )
  found = wan_towers.encode_prompts(tokenizer, encoder, {'a': 'one  two\nthree', 'b': ''}, length=7)
  assert found['a'].shape == (7, 6) and found['a'][:3, 0].tolist() == [2, 3, 4]
  assert not found['a'][3:].any() and not found['b'].any()


def test_what_is_missing_for_prompts_is_said(tmp_path, capsys):
  with pytest.raises(SystemExit):
    wan_towers.main(['prompts', str(tmp_path), '-o', str(tmp_path / 'p.npz')])
  assert 'has no text_encoder/' in capsys.readouterr().err
