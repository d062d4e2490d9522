"""Whisper's encoder into ours, for motion from speech.

  python -m exp_jax.convert.whisper tiny.pt -o weights/whisper              the original release
  python -m exp_jax.convert.whisper model.safetensors -o weights/whisper    as transformers has it

The decoder's tensors are left out; of the encoder every tensor must be used once, and every leaf is
filled once.
"""

import argparse
import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.convert.foreign.book import Entry, check_names, check_table, filled
from exp_jax.convert.liveportrait_weights.liveportrait_files import open_nested
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files import manifest
from exp_jax.files.digests import file_digest
from exp_jax.files.foreign_tensors import check_finite
from exp_jax.files.safetensors import flattened, write_safetensors
from exp_jax.networks.weights import FORMAT
from exp_jax.systems.liveportrait.networks.whisper import WhisperEncoder

_OWN = {'weight': 'kernel', 'bias': 'bias'}
# (original names, names of transformers) -> ours; # is the layer's number
TABLE = (
  ('conv1', 'conv1', 'conv1'),
  ('conv2', 'conv2', 'conv2'),
  ('ln_post', 'layer_norm', 'norm'),
  ('blocks.#.attn.query', 'layers.#.self_attn.q_proj', 'layer#.q'),
  ('blocks.#.attn.key', 'layers.#.self_attn.k_proj', 'layer#.k'),
  ('blocks.#.attn.value', 'layers.#.self_attn.v_proj', 'layer#.v'),
  ('blocks.#.attn.out', 'layers.#.self_attn.out_proj', 'layer#.out'),
  ('blocks.#.attn_ln', 'layers.#.self_attn_layer_norm', 'layer#.norm1'),
  ('blocks.#.mlp_ln', 'layers.#.final_layer_norm', 'layer#.norm2'),
  ('blocks.#.mlp.0', 'layers.#.fc1', 'layer#.fc1'),
  ('blocks.#.mlp.2', 'layers.#.fc2', 'layer#.fc2'),
)
POSITIONS = ('positional_embedding', 'embed_positions.weight')


def _to_ours(value: np.ndarray, *, is_kernel: bool) -> list[np.ndarray]:
  return [value.transpose(2, 1, 0) if value.ndim == 3 else value.T if is_kernel else value]


def convert(path: pathlib.Path, output: pathlib.Path) -> dict:
  """Writes a folder of our weights, complete or not at all; returns its sizes.

  Raises:
    UserError: not Whisper, a tensor that is missing, unknown or of another shape, or the output
      exists.
  """
  file = open_nested(path)
  inside = {
    m[1]: name
    for name in file.shapes
    if (m := re.match(r'(?:model_state_dict\.|model\.)?encoder\.(.*)', name))
  }
  scheme = next((i for i, name in enumerate(POSITIONS) if name in inside), None)
  if scheme is None:
    raise UserError(
      f"{path} holds no Whisper encoder: give the original release's .pt, or model.safetensors of "
      'transformers'
    )
  shape = lambda name: file.shapes[inside[name]]
  layers = len({m[1] for name in inside if (m := re.match(r'(?:blocks|layers)\.(\d+)\.', name))})
  if 'conv1.weight' not in inside:
    raise UserError(f'{path} has no conv1.weight')
  width, bands, _ = shape('conv1.weight')
  sizes = dict(
    width=width,
    heads=max(1, width // 64),
    layers=layers,
    bands=bands,
    positions=shape(POSITIONS[scheme])[0],
  )
  network = WhisperEncoder(**sizes)
  like = flattened(
    jax.eval_shape(
      lambda: network.init(jax.random.key(0), jnp.zeros((1, 2 * sizes['positions'], bands)))[
        'params'
      ]
    )
  )
  wanted = {POSITIONS[scheme]: 'positions'}
  for row in TABLE:
    for n in range(layers) if '#' in row[2] else (0,):
      theirs, ours = row[scheme].replace('#', str(n)), row[2].replace('#', str(n))
      for end in ('weight', 'bias'):
        leaf = 'scale' if 'norm' in ours and end == 'weight' else _OWN[end]
        if f'{ours}.{leaf}' in like:
          wanted[f'{theirs}.{end}'] = f'{ours}.{leaf}'
  check_names(wanted, inside, f'{path} is not a whole Whisper encoder')
  table = [
    Entry((ours,), (theirs,), functools.partial(_to_ours, is_kernel=ours.endswith('kernel')))
    for theirs, ours in wanted.items()
  ]
  leaves = {name: leaf.shape for name, leaf in like.items()}
  check_table(table, leaves)
  arrays, _ = filled(
    table, leaves, lambda name: check_finite(file.read(inside[name]), name, path), str(path)
  )
  config = dict(
    format=FORMAT, network='whisper', sizes=sizes, source={path.name: file_digest(path)}
  )
  with manifest.new_folder(output) as folder:
    write_safetensors(folder / 'params.safetensors', arrays, {'format': FORMAT})
    (folder / 'config.json').write_text(json.dumps(config, indent=1) + '\n')
    (folder / 'report.json').write_text(json.dumps({'used': wanted}, indent=0) + '\n')
  return sizes


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(
    prog='python -m exp_jax.convert.whisper',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('file', type=pathlib.Path)
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True)
  args = parser.parse_args(argv)
  sizes = convert(args.file, args.output)
  print(
    f'{args.output}: {sizes["layers"]} layers of width {sizes["width"]}, {sizes["bands"]} bands'
  )
  return 0


if __name__ == '__main__':
  raise SystemExit(main())
