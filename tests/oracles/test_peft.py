"""Adapters as PEFT and diffusers write them, live, with ranks and scales that the stored answers do
not have."""

import numpy as np
import pytest

from exp_jax.convert import lora, wan
from exp_jax.networks.weights import load_weights
from tests.oracles.oracle import oracle
from tests.oracles.test_diffusers import stirred

TARGETS = ['to_k', 'to_out.0', 'ffn.net.0.proj', 'proj_out', 'time_proj', 'text_embedder.linear_2']
SIZES = dict(
  num_attention_heads=3,
  attention_head_dim=10,
  ffn_dim=36,
  num_layers=3,
  text_dim=14,
  freq_dim=12,
  in_channels=4,
  out_channels=4,
)
VARIANTS = {
  'scaled up': dict(r=3, lora_alpha=11),
  'scaled down': dict(r=7, lora_alpha=2),
  'by the root': dict(r=5, lora_alpha=4, use_rslora=True),
  'patterns': dict(
    r=4, lora_alpha=9, rank_pattern={r'attn2\.to_k': 6}, alpha_pattern={'ffn.net.0.proj': 5}
  ),
  'bias': dict(r=2, lora_alpha=5, lora_bias=True),
}


@pytest.mark.parametrize('writer', ('peft', 'diffusers'))
@pytest.mark.parametrize('variant', VARIANTS)
def test_merged_weights_are_those_that_peft_merges(variant, writer, tmp_path):
  """Every weight of the network, by the command: `convert.wan import`, `convert.lora import` and
  `merge`, `convert.wan export`."""
  torch, diffusers, peft = oracle('torch'), oracle('diffusers'), oracle('peft')
  base = stirred(diffusers.WanTransformer3DModel(**SIZES), torch, 2)
  base.save_pretrained(tmp_path / 'base')
  config = peft.LoraConfig(target_modules=TARGETS, **VARIANTS[variant])
  folder = tmp_path / 'adapter'
  if writer == 'diffusers':
    base.add_adapter(config, 'some')
    stir(base, torch)
    diffusers.WanPipeline.save_lora_weights(
      folder,
      transformer_lora_layers=peft.get_peft_model_state_dict(base, adapter_name='some'),
      transformer_lora_adapter_metadata=base.peft_config['some'].to_dict(),
    )
    base.fuse_lora()
    base.unload_lora()
    merged = base
  else:
    model = peft.get_peft_model(base, config)
    stir(model, torch)
    model.save_pretrained(folder)
    merged = model.merge_and_unload()
  wan.convert(tmp_path / 'base', tmp_path / 'ours', dtype='keep')
  given = folder if writer == 'peft' else next(folder.glob('*.safetensors'))
  for command, source, output in (
    ('import', given, 'read.safetensors'),
    ('merge', tmp_path / 'read.safetensors', 'merged'),
  ):
    assert not lora.main(
      [command, str(source), '--base', str(tmp_path / 'ours'), '-o', str(tmp_path / output)]
    )
  assert load_weights(tmp_path / 'merged', 'dit')
  wan.export(tmp_path / 'merged', tmp_path / 'back')
  found = diffusers.WanTransformer3DModel.from_pretrained(tmp_path / 'back').state_dict()
  before = diffusers.WanTransformer3DModel.from_pretrained(tmp_path / 'base').state_dict()
  changed = 0
  for name, value in merged.state_dict().items():
    np.testing.assert_allclose(found[name].numpy(), value.numpy(), atol=5e-6, err_msg=name)
    changed += not torch.equal(before[name], value)
  assert changed >= 3 * 5, 'adapters were there'


def stir(model, torch):
  torch.manual_seed(4)
  with torch.no_grad():
    for name, p in model.named_parameters():
      if 'lora_' in name:
        p.copy_(0.3 * torch.randn(p.shape))
