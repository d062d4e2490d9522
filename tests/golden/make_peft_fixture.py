"""Writes peft_adapters.npz: adapters of a tiny Wan transformer as PEFT and diffusers save them, and
what they do to it.

  python tests/golden/make_peft_fixture.py            # with torch 2.13, diffusers 0.42.1, peft 0.21.2

For each variant: tensors of the file (v/tensor/NAME), adapter_config.json (v/config) or the
header's metadata (v/header), and the change of every weight and bias (v/change/NAME, names of
diffusers) that merging by PEFT makes.
"""

import json
import pathlib
import tempfile

import diffusers
import numpy as np
import peft
import torch
from safetensors import safe_open

SIZES = dict(
  num_attention_heads=2,
  attention_head_dim=8,
  ffn_dim=24,
  num_layers=2,
  text_dim=12,
  freq_dim=8,
  in_channels=16,
  out_channels=16,
  patch_size=(1, 2, 2),
  rope_max_seq_len=32,
)
TARGETS = ['to_q', 'to_v', 'ffn.net.0.proj', 'ffn.net.2', 'text_embedder.linear_1']
VARIANTS = {
  'plain': dict(r=4, lora_alpha=8),
  'weak': dict(r=6, lora_alpha=3),
  'rslora': dict(r=9, lora_alpha=6, use_rslora=True),
  'patterns': dict(
    r=4,
    lora_alpha=6,
    rank_pattern={r'attn1\.to_q': 2, r'^blocks\.1\.ffn\.net\.2': 5},
    alpha_pattern={'to_v': 1, r'blocks.0.attn2.to_q': 12},
  ),
  'patterns_rslora': dict(
    r=3, lora_alpha=2, use_rslora=True, rank_pattern={'to_v': 5}, alpha_pattern={'ffn.net.2': 7}
  ),
  'bias': dict(r=4, lora_alpha=10, lora_bias=True),
  'header': dict(r=4, lora_alpha=8, rank_pattern={'to_v': 2}, alpha_pattern={'to_v': 5}),
}


def stirred(seed):
  torch.manual_seed(seed)
  model = diffusers.WanTransformer3DModel(**SIZES)
  with torch.no_grad():
    for p in model.parameters():
      p.copy_(0.1 * torch.randn(p.shape))
  return model


def stir(model, seed):
  torch.manual_seed(seed)
  with torch.no_grad():
    for name, p in model.named_parameters():
      if 'lora_' in name:
        p.copy_(0.3 * torch.randn(p.shape))


def weights(model):
  return {n: p.detach().double().numpy().copy() for n, p in model.named_parameters()}


def main():
  out = {}
  for seed, (name, settings) in enumerate(VARIANTS.items()):
    base = stirred(seed)
    before = weights(base)
    config = peft.LoraConfig(target_modules=TARGETS, **settings)
    with tempfile.TemporaryDirectory() as folder:
      folder = pathlib.Path(folder)
      if name == 'header':
        base.add_adapter(config, 'own')
        stir(base, seed)
        diffusers.WanPipeline.save_lora_weights(
          folder,
          transformer_lora_layers=peft.get_peft_model_state_dict(base, adapter_name='own'),
          transformer_lora_adapter_metadata=base.peft_config['own'].to_dict(),
        )
        base.fuse_lora()
        base.unload_lora()
        merged, file = base, folder / 'pytorch_lora_weights.safetensors'
      else:
        model = peft.get_peft_model(base, config)
        stir(model, seed)
        model.save_pretrained(folder)
        out[f'{name}/config'] = np.array((folder / 'adapter_config.json').read_text())
        merged, file = model.merge_and_unload(), folder / 'adapter_model.safetensors'
      with safe_open(file, 'np') as tensors:
        out[f'{name}/header'] = np.array(json.dumps(tensors.metadata() or {}))
        out |= {f'{name}/tensor/{n}': tensors.get_tensor(n) for n in tensors.keys()}
    after = weights(merged)
    assert after.keys() == before.keys(), sorted(after.keys() ^ before.keys())[:5]
    out |= {
      f'{name}/change/{n}': (after[n] - before[n]).astype(np.float32)
      for n in after
      if (after[n] != before[n]).any()
    }
  path = pathlib.Path(__file__).parent / 'peft_adapters.npz'
  np.savez_compressed(path, **out)
  print(path, len(out), path.stat().st_size)


if __name__ == '__main__':
  main()
