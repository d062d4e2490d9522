"""Makes tests/golden/wan_tiny.npz: tiny random Wan transformers and VAE run by diffusers 0.42.1
(torch 2.13.0).

  python -m venv /tmp/oracle && /tmp/oracle/bin/pip install torch==2.13.0 diffusers==0.42.1
  /tmp/oracle/bin/python tests/golden/make_wan_fixture.py

Weights are random (seeded), stored under our parameter names; no released weights are involved.
"""

import pathlib
import re

import numpy as np
import torch
from diffusers import WanTransformer3DModel

OUT = pathlib.Path(__file__).parent / 'wan_tiny.npz'
SIZE_NAMES = (
  'width',
  'heads',
  'ffn',
  'depth',
  'in_channels',
  'out_channels',
  'text_dim',
  'freq_dim',
  'image_dim',
  'image_positions',
)
SIZES = {
  't2v': (48, 2, 40, 2, 4, 4, 12, 16, 0, 0),
  'i2v': (48, 2, 40, 2, 9, 4, 12, 16, 20, 0),
  'flf2v': (48, 2, 40, 1, 9, 4, 12, 16, 20, 14),
}
TABLE = (  # diffusers name -> ours; kernels are transposed, blocks stacked
  (r'condition_embedder\.time_embedder\.linear_(\d)', r'time.fc\1'),
  (r'condition_embedder\.time_proj', 'time.proj'),
  (r'condition_embedder\.text_embedder\.linear_(\d)', r'text.fc\1'),
  (r'condition_embedder\.image_embedder\.norm(\d)', r'image.norm\1'),
  (r'condition_embedder\.image_embedder\.pos_embed', 'image.pos'),
  (r'condition_embedder\.image_embedder\.ff\.net\.0\.proj', 'image.fc1'),
  (r'condition_embedder\.image_embedder\.ff\.net\.2', 'image.fc2'),
  (r'patch_embedding', 'patch'),
  (r'proj_out', 'head'),
  (r'^scale_shift_table', 'head.table'),
  (r'scale_shift_table', 'table'),
  (r'attn1', 'self'),
  (r'attn2', 'cross'),
  (r'to_out\.0', 'o'),
  (r'to_([qkv])', r'\1'),
  (r'add_([kv])_proj', r'\1i'),
  (r'norm_added_k', 'ki_norm'),
  (r'norm_([qk])', r'\1_norm'),
  (r'(blocks\.\d+\.)norm2', r'\1cross_norm'),
  (r'ffn\.net\.0\.proj', 'ffn.fc1'),
  (r'ffn\.net\.2', 'ffn.fc2'),
)


def ours(state):
  stacked, plain = {}, {}
  for name, value in state.items():
    value = value.numpy()
    for pattern, replacement in TABLE:
      name = re.sub(pattern, replacement, name)
    if name == 'patch.weight':
      value = value.reshape(len(value), -1)
    if 'table' in name:
      value = value[0]
    if name.endswith('_norm.weight') and 'cross_norm' not in name:
      name = name.removesuffix('.weight')
    elif name.endswith('weight'):
      leaf = 'kernel' if value.ndim == 2 else 'scale'
      name, value = name.removesuffix('weight') + leaf, value.T
    block = re.match(r'blocks\.(\d+)\.(.*)', name)
    if block:
      stacked.setdefault('blocks.' + block[2], {})[int(block[1])] = value
    else:
      plain[name] = value
  return plain | {k: np.stack([v[i] for i in range(len(v))]) for k, v in stacked.items()}


def encoders():
  """UniAnimate-DiT's two pose encoders as plain torch layers, under its names."""
  torch.manual_seed(3)
  three, two = [], []
  strides = ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2))
  for i, stride in enumerate(strides):
    three += [torch.nn.Conv3d(3 if i == 0 else 16, 16, 3, stride, 1), torch.nn.SiLU()]
  three.append(torch.nn.Conv3d(16, 24, (1, 2, 2), (1, 2, 2)))
  for i, stride in enumerate((1, 1, 1, 2, 2, 2)):
    two += [torch.nn.Conv2d(3 if i == 0 else 16, 20 if i == 5 else 16, 3, stride, 1)] + (
      [torch.nn.SiLU()] if i < 5 else []
    )
  three, two = torch.nn.Sequential(*three), torch.nn.Sequential(*two)
  clip, image = torch.rand(1, 3, 5, 32, 48), torch.rand(2, 3, 32, 48)
  with torch.no_grad():
    tokens = three(torch.concat([clip[:, :, :1]] * 3 + [clip], dim=2))
    added = two(image)
  state = {f'dwpose_embedding.{k}': v for k, v in three.state_dict().items()}
  state |= {f'randomref_embedding_pose.{k}': v for k, v in two.state_dict().items()}
  return {f'encoders/params/{k}': v.numpy() for k, v in state.items()} | {
    'encoders/clip': clip.movedim(1, -1).numpy(),
    'encoders/image': image.movedim(1, -1).numpy(),
    'encoders/tokens': tokens.movedim(1, -1).numpy(),
    'encoders/added': added.movedim(1, -1).numpy(),
  }


def main():
  arrays = {'sizes/names': np.array(SIZE_NAMES)}
  for kind, sizes in SIZES.items():
    torch.manual_seed(len(kind) + sizes[-2])
    s = dict(zip(SIZE_NAMES, sizes))
    model = WanTransformer3DModel(
      num_attention_heads=s['heads'],
      attention_head_dim=s['width'] // s['heads'],
      in_channels=s['in_channels'],
      out_channels=s['out_channels'],
      text_dim=s['text_dim'],
      freq_dim=s['freq_dim'],
      ffn_dim=s['ffn'],
      num_layers=s['depth'],
      image_dim=s['image_dim'] or None,
      pos_embed_seq_len=s['image_positions'] or None,
      added_kv_proj_dim=s['width'] if s['image_dim'] else None,
    )
    with torch.no_grad():
      for name, p in model.named_parameters():
        norm = 'norm' in name and name.endswith('weight')
        p.copy_(torch.randn_like(p) * (0.15 if p.ndim > 1 else 0.1) + (1.0 if norm else 0.0))
    x = torch.randn(2, s['in_channels'], 3, 4, 6)
    # diffusers finds the image tokens as those beyond 512 text tokens
    t, text = torch.tensor([37, 811]), torch.randn(2, 512 if s['image_dim'] else 5, s['text_dim'])
    images = 4 if s['image_positions'] else 2  # two images a sample: first and last frame
    clip = torch.randn(images, 7, s['image_dim']) if s['image_dim'] else None
    with torch.no_grad():
      out = model.eval()(x, t, text, clip, return_dict=False)[0]
      te, m, text_out, clip_out = model.condition_embedder(t, text, clip)
      rotary = model.rope(x)
      tokens = model.patch_embedding(x).flatten(2).transpose(1, 2)
      joined = text_out if clip is None else torch.concat([clip_out, text_out], dim=1)
      block = model.blocks[0](tokens, joined, m.unflatten(1, (6, -1)), rotary)
    arrays |= {f'{kind}/params/{k}': v for k, v in ours(model.state_dict()).items()}
    arrays |= {
      f'{kind}/x': x.movedim(1, -1).numpy(),
      f'{kind}/t': t.float().numpy(),
      f'{kind}/text': text.numpy(),
      f'{kind}/out': out.movedim(1, -1).numpy(),
      f'{kind}/sizes': np.array(sizes),
    }
    arrays |= {
      f'{kind}/te': te.numpy(),
      f'{kind}/m': m.numpy(),
      f'{kind}/text_out': text_out[:, :5].numpy(),
      f'{kind}/cos': rotary[0].numpy().reshape(-1, s['width'] // s['heads']),
      f'{kind}/sin': rotary[1].numpy().reshape(-1, s['width'] // s['heads']),
      f'{kind}/tokens': tokens.numpy(),
      f'{kind}/block': block.numpy(),
    }
    if clip is not None:
      arrays[f'{kind}/clip'] = clip.reshape(2, -1, s['image_dim']).numpy()
      arrays[f'{kind}/clip_out'] = clip_out.numpy()
  arrays |= encoders()
  np.savez_compressed(OUT, **arrays)
  print(OUT, OUT.stat().st_size, {k: np.abs(v).max() for k, v in arrays.items() if '/out' in k})


if __name__ == '__main__':
  main()
