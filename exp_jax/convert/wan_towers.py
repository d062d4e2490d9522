"""The two towers beside Wan: CLIP's visual one, converted, and prompts, encoded once for all.

  python -m exp_jax.convert.wan_towers clip SOURCE -o DIR                          image_encoder/ of a Wan I2V release
  python -m exp_jax.convert.wan_towers prompts FOLDER -o prompts.npz --prompt "..." [--negative "..."]

`clip` reads the names of transformers (image_encoder/model.safetensors) and those of the original
release's .pth; its last layer, final norm, projection and text tower are left out, report.json
lists them. `prompts` runs the UMT5 encoder of a release (text_encoder/ and tokenizer/ below FOLDER)
through transformers and torch, which must be installed, and keeps
[512, 4096] arrays: zero after the true length, as Wan wants them. One pair serves every portrait.
"""

import argparse
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.convert.wan_weights.wan_files import open_checkpoint
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files import manifest
from exp_jax.files.digests import file_digest
from exp_jax.files.foreign_tensors import check_finite
from exp_jax.files.npz import write_npz
from exp_jax.files.safetensors import flattened, write_safetensors
from exp_jax.networks.clip_vision import ClipVision
from exp_jax.networks.weights import FORMAT

_NAMES = (  # transformers, then the original release -> ours
  (r'vision_model\.embeddings\.class_embedding|visual\.cls_embedding', 'class'),
  (
    r'vision_model\.embeddings\.patch_embedding\.weight|visual\.patch_embedding\.weight',
    'patch.kernel',
  ),
  (r'vision_model\.embeddings\.position_embedding\.weight|visual\.pos_embedding', 'positions'),
  (r'(?:vision_model\.pre_layrnorm|visual\.pre_norm)\.(weight|bias)', r'norm.\1'),
  (
    r'(?:vision_model\.encoder\.layers|visual\.transformer)\.(\d+)\.layer_norm(\d)\.(weight|bias)',
    r'blocks.\1.norm\2.\3',
  ),
  (r'visual\.transformer\.(\d+)\.norm(\d)\.(weight|bias)', r'blocks.\1.norm\2.\3'),
  (
    r'vision_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)',
    r'blocks.\1.\2.\3',
  ),
  (r'vision_model\.encoder\.layers\.(\d+)\.self_attn\.out_proj\.(weight|bias)', r'blocks.\1.o.\2'),
  (r'vision_model\.encoder\.layers\.(\d+)\.mlp\.fc(\d)\.(weight|bias)', r'blocks.\1.fc\2.\3'),
  (r'visual\.transformer\.(\d+)\.attn\.to_qkv\.(weight|bias)', r'blocks.\1.qkv.\2'),
  (r'visual\.transformer\.(\d+)\.attn\.proj\.(weight|bias)', r'blocks.\1.o.\2'),
  (r'visual\.transformer\.(\d+)\.mlp\.0\.(weight|bias)', r'blocks.\1.fc1.\2'),
  (r'visual\.transformer\.(\d+)\.mlp\.2\.(weight|bias)', r'blocks.\1.fc2.\2'),
)
_UNUSED = (
  r'(vision_model\.post_layernorm\..*|visual\.post_norm\..*|visual\.head.*|visual_projection\..*|textual\..*|log_scale|'
  r'.*position_ids)$'
)


def _ours(name):
  for pattern, replacement in _NAMES:
    found = re.fullmatch(pattern, name)
    if found:
      return found.expand(replacement)
  return None


def read_clip(
  source, where, heads: int | None = None
) -> tuple[ClipVision, dict[str, np.ndarray], list[str]]:
  """(network, {leaf path: array}, unused names) of an open checkpoint.

  Raises:
    UserError: no visual tower of CLIP, a tensor missing or misshapen.
  """
  names = {n: _ours(n) for n in source.names}
  used = {n: o for n, o in names.items() if o}
  if 'patch.kernel' not in used.values() or 'positions' not in used.values():
    raise UserError(
      f'{where} is no visual tower of CLIP (image_encoder/ of a Wan image-to-video release)'
    )
  unknown = [n for n, o in names.items() if not o and not re.match(_UNUSED, n)]
  if unknown:
    raise UserError(f'{where}: unknown tensors {unknown[:3]} ({len(unknown)})')
  layers = 1 + max(int(m[1]) for m in (re.match(r'blocks\.(\d+)\.', o) for o in used.values()) if m)
  flat, stacked, unused = {}, {}, [n for n, o in names.items() if not o]
  for name, ours in used.items():
    block = re.match(r'blocks\.(\d+)\.(.*)', ours)
    if block and int(block[1]) == layers - 1:
      unused.append(name)
      continue
    value = source.read(name).astype(np.float32)
    stem, kind = (block[2] if block else ours).rsplit('.', 1) if '.' in ours else ('', ours)
    if kind in ('weight', 'kernel'):
      kind = 'scale' if stem.startswith('norm') else 'kernel'
      value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    parts = [('', value)]
    if stem == 'qkv':
      parts = list(zip('qkv', np.split(value, 3, axis=-1)))
    for part, piece in parts:
      leaf = f'{part or stem}.{kind}' if stem else kind
      if block:
        stacked.setdefault(f'blocks.{leaf}', {})[int(block[1])] = piece
      else:
        flat[leaf] = (
          piece.reshape(-1)
          if leaf == 'class'
          else piece.reshape(-1, piece.shape[-1])
          if leaf == 'positions'
          else piece
        )
  short = [leaf for leaf, parts in stacked.items() if len(parts) < layers - 1]
  if short:
    raise UserError(f'{where} is incomplete: {short[0]} is missing in some layers')
  flat |= {leaf: np.stack([parts[n] for n in range(layers - 1)]) for leaf, parts in stacked.items()}
  patch, _, _, width = flat['patch.kernel'].shape
  # ViT-H has heads of 80
  heads = heads or source.config.get('num_attention_heads') or max(1, width // 80)
  model = ClipVision(
    width,
    heads,
    flat['blocks.fc1.kernel'].shape[-1],
    layers,
    patch,
    image=patch * round((len(flat['positions']) - 1) ** 0.5),
  )
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, model.image, model.image, 3)))
  )['params']
  expected = {n: s.shape for n, s in flattened(shapes).items()}
  if {n: v.shape for n, v in flat.items()} != expected:
    wrong = [
      n for n in set(expected) | set(flat) if n not in flat or expected.get(n) != flat[n].shape
    ]
    raise UserError(f'{where}: {wrong[0]} is missing or misshapen')
  return model, flat, unused


def convert_clip(path, output, heads: int | None = None) -> dict:
  """Writes the visual tower as a folder of our weights (network 'clip', bfloat16 kernels); returns
  its config."""
  source = open_checkpoint(path)
  model, flat, unused = read_clip(source, path, heads)
  sizes = {k: getattr(model, k) for k in ('width', 'heads', 'ffn', 'layers', 'patch', 'image')}
  for leaf, value in flat.items():
    check_finite(value, leaf, path)
  config = dict(
    format=FORMAT,
    network='clip',
    sizes=sizes,
    source={p.name: file_digest(p) for p in source.files},
  )
  with manifest.new_folder(output) as folder:
    write_safetensors(folder / 'params.safetensors', flat, {'format': FORMAT})
    (folder / 'config.json').write_text(json.dumps(config, indent=1) + '\n')
    (folder / 'report.json').write_text(json.dumps(dict(unused=unused), indent=0) + '\n')
  return config


def encode_prompts(
  tokenizer, encoder, prompts: dict[str, str], length: int = 512
) -> dict[str, np.ndarray]:
  """{name: float16-safe float32 [length, width]} of prompts, zero after each true length.

  `tokenizer` and `encoder` are called as those of transformers are.
  """
  import torch

  found = {}
  for name, text in prompts.items():
    tokens = tokenizer(
      [' '.join(text.split())],
      padding='max_length',
      max_length=length,
      truncation=True,
      add_special_tokens=True,
      return_attention_mask=True,
      return_tensors='pt',
    )
    with torch.no_grad():
      state = (
        encoder(tokens['input_ids'], tokens['attention_mask']).last_hidden_state[0].float().numpy()
      )
    true = int(tokens['attention_mask'].sum())
    found[name] = np.concatenate(
      [state[:true], np.zeros((length - true, state.shape[1]), np.float32)]
    )
  return found


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(dest='command', required=True)
  clip = commands.add_parser('clip')
  clip.add_argument('source')
  clip.add_argument('-o', '--output', required=True)
  clip.add_argument('--heads', type=int)
  prompts = commands.add_parser('prompts')
  prompts.add_argument('source')
  prompts.add_argument('-o', '--output', required=True)
  prompts.add_argument('--prompt', default='A person is talking, portrait video, natural light.')
  prompts.add_argument('--negative', default='')
  options = parser.parse_args(argv)
  if options.command == 'clip':
    config = convert_clip(options.source, options.output, options.heads)
    print(f'{options.output}: clip, {config["sizes"]}')
    return
  folder = pathlib.Path(options.source)
  for part in ('text_encoder', 'tokenizer'):
    if not (folder / part).is_dir():
      raise UserError(
        f'{folder} has no {part}/: name the folder of a Wan release in the layout of diffusers'
      )
  try:
    import torch
    from transformers import AutoTokenizer, UMT5EncoderModel
  except ImportError:
    raise UserError(
      'prompts are encoded by torch and transformers: pip install -r requirements-oracles.txt'
    ) from None
  encoder = UMT5EncoderModel.from_pretrained(
    folder / 'text_encoder', dtype=torch.bfloat16, use_safetensors=True
  ).eval()
  found = encode_prompts(
    AutoTokenizer.from_pretrained(folder / 'tokenizer'),
    encoder,
    {'positive': options.prompt, 'negative': options.negative, 'empty': ''},
  )
  write_npz(options.output, {name: value.astype(np.float32) for name, value in found.items()})
  print(f'{options.output}: ' + ', '.join(f'{n} {v.shape}' for n, v in found.items()))


if __name__ == '__main__':
  main()
