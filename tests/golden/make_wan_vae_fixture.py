"""Makes tests/golden/wan_vae_tiny.npz: a small random Wan autoencoder run by diffusers 0.42.1.

/tmp/oracle/bin/python tests/golden/make_wan_vae_fixture.py    (environment: make_wan_fixture.py)
"""

import pathlib
import re

import numpy as np
import torch
from diffusers import AutoencoderKLWan

OUT = pathlib.Path(__file__).parent / 'wan_vae_tiny.npz'
TABLE = (  # diffusers name -> ours
  (r'(en|de)coder\.mid_block\.resnets\.(\d)', r'\1coder.middle.block\2'),
  (r'mid_block\.attentions\.0\.to_qkv', 'middle.attention.qkv'),
  (r'mid_block\.attentions\.0', 'middle.attention'),
  (r'down_blocks\.(\d+)', r'down\1'),
  (r'up_blocks\.(\d)\.resnets\.(\d)', r'up\1_block\2'),
  (r'up_blocks\.(\d)\.upsamplers\.0', r'up\1_resample'),
  (r'resample\.1', 'space'),
  (r'conv_shortcut', 'shortcut'),
  (r'post_quant_conv', 'post_quant'),
  (r'quant_conv', 'quant'),
)
PLAIN = ('space', 'down.*time_conv', 'qkv', 'proj')  # all other convolutions are causal ones


def ours(state):
  out = {}
  for name, value in state.items():
    value = value.numpy()
    for pattern, replacement in TABLE:
      name = re.sub(pattern, replacement, name)
    if name.endswith('gamma'):
      out[name.removesuffix('gamma') + 'scale'] = value.reshape(-1)
      continue
    name, kind = name.rsplit('.', 1)
    if not any(re.search(rf'{plain}$', name) for plain in PLAIN):
      name += '.conv'
    if kind == 'bias':
      out[f'{name}.bias'] = value
    elif 'attention' in name:
      out[f'{name}.kernel'] = value[:, :, 0, 0].T
    else:
      value = value if value.ndim == 5 else value[:, :, None]
      out[f'{name}.kernel'] = value.transpose(2, 3, 4, 1, 0)
  return out


def main():
  torch.manual_seed(0)
  model = AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 1, 2, 1], num_res_blocks=1).eval()
  with torch.no_grad():
    for name, p in model.named_parameters():
      gamma = float('gamma' in name)
      p.copy_(torch.randn_like(p) * (0.1 + 0.1 * gamma) + gamma)
  video = torch.rand(1, 3, 9, 16, 24) * 2 - 1
  with torch.no_grad():
    mean = model.encode(video).latent_dist.mean
    decoded = model.decode(mean).sample
    single = model.encode(video[:, :, :1]).latent_dist.mean
  last = lambda x: x.movedim(1, -1).numpy()
  arrays = {f'params/{k}': v for k, v in ours(model.state_dict()).items()}
  arrays |= dict(video=last(video), mean=last(mean), decoded=last(decoded), single=last(single))
  np.savez_compressed(OUT, **arrays)
  print(OUT, OUT.stat().st_size, np.abs(arrays['mean']).max(), np.abs(arrays['decoded']).mean())


if __name__ == '__main__':
  main()
