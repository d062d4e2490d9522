"""Makes tests/golden/wan_names.json: names and shapes of the published sizes, as diffusers 0.42.1
makes them.

  /tmp/oracle/bin/python tests/golden/make_wan_names_fixture.py       (environment: see make_wan_fixture.py)

Modules are made without memory. Of the blocks the first and the last are stored. The original names
are those that diffusers' own loader of original files turns into each of its names (one tensor a
block, so that the map is one to one).
"""

import json
import pathlib

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.loaders.single_file_utils import (
  convert_wan_transformer_to_diffusers,
  convert_wan_vae_to_diffusers,
)

OUT = pathlib.Path(__file__).parent / 'wan_names.json'
LARGE = dict(num_attention_heads=40, ffn_dim=13824, num_layers=40)
IMAGE = dict(in_channels=36, image_dim=1280, added_kv_proj_dim=5120)
SIZES = {
  'wan_1_3b': dict(num_attention_heads=12, ffn_dim=8960, num_layers=30),
  'wan_14b_t2v': LARGE,
  'wan_14b_i2v': LARGE | IMAGE,
  'wan_14b_flf2v': LARGE | IMAGE | dict(pos_embed_seq_len=514),
}


def candidates(depth):
  """Every name of the original release that may occur, from its module layout."""
  wb = lambda stem: [f'{stem}.weight', f'{stem}.bias']
  names = wb('patch_embedding') + wb('head.head') + ['head.modulation', 'img_emb.emb_pos']
  for stem in (
    'time_embedding.0',
    'time_embedding.2',
    'time_projection.1',
    'text_embedding.0',
    'text_embedding.2',
    'img_emb.proj.0',
    'img_emb.proj.1',
    'img_emb.proj.3',
    'img_emb.proj.4',
  ):
    names += wb(stem)
  for n in range(depth):
    b = f'blocks.{n}'
    names += (
      [f'{b}.modulation', f'{b}.cross_attn.norm_k_img.weight']
      + wb(f'{b}.norm3')
      + wb(f'{b}.ffn.0')
      + wb(f'{b}.ffn.2')
    )
    names += wb(f'{b}.cross_attn.k_img') + wb(f'{b}.cross_attn.v_img')
    for a in ('self_attn', 'cross_attn'):
      names += [f'{b}.{a}.norm_q.weight', f'{b}.{a}.norm_k.weight'] + [
        x for k in 'qkvo' for x in wb(f'{b}.{a}.{k}')
      ]
  return names


def vae_candidates():
  wb = lambda stem: [f'{stem}.weight', f'{stem}.bias']
  names = wb('conv1') + wb('conv2')
  for half, stem, count in (('encoder', 'downsamples', 11), ('decoder', 'upsamples', 15)):
    names += (
      wb(f'{half}.conv1')
      + wb(f'{half}.head.2')
      + [f'{half}.head.0.gamma', f'{half}.middle.1.norm.gamma']
    )
    names += wb(f'{half}.middle.1.to_qkv') + wb(f'{half}.middle.1.proj')
    for place in [f'{stem}.{i}' for i in range(count)] + ['middle.0', 'middle.2']:
      r = f'{half}.{place}.residual'
      names += [f'{r}.0.gamma', f'{r}.3.gamma'] + wb(f'{r}.2') + wb(f'{r}.6')
      names += (
        wb(f'{half}.{place}.shortcut')
        + wb(f'{half}.{place}.resample.1')
        + wb(f'{half}.{place}.time_conv')
      )
  return names


def pairs(names, convert):
  """{diffusers name: original name}: each candidate converted with its number inside."""
  marked = {name: torch.full((1,), float(i)) for i, name in enumerate(names)}
  return {new: names[int(value[0])] for new, value in convert(dict(marked)).items()}


def main():
  table = {}
  for size, options in SIZES.items():
    with torch.device('meta'):
      model = WanTransformer3DModel(attention_head_dim=128, **options)
    shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
    last = options['num_layers'] - 1
    original = pairs(candidates(last + 1), convert_wan_transformer_to_diffusers)
    original['condition_embedder.image_embedder.pos_embed'] = (
      'img_emb.emb_pos'  # the loader of 0.42.1 forgets it
    )
    kept = {
      k: [v, original[k]]
      for k, v in shapes.items()
      if not k.startswith('blocks.') or k.split('.')[1] in ('0', str(last))
    }
    table[size] = dict(count=len(shapes), tensors=kept)
  with torch.device('meta'):
    shapes = {k: list(v.shape) for k, v in AutoencoderKLWan().state_dict().items()}
  original = pairs(vae_candidates(), convert_wan_vae_to_diffusers)
  table['vae'] = dict(count=len(shapes), tensors={k: [v, original[k]] for k, v in shapes.items()})
  OUT.write_text(json.dumps(table, indent=0, separators=(',', ':')) + '\n')
  print(OUT, {k: v['count'] for k, v in table.items()}, OUT.stat().st_size)


if __name__ == '__main__':
  main()
