"""Low-rank adapters of the Wan transformer in the dialects that people pass on, and back.

  python -m exp_jax.convert.lora import FILE -o adapters.safetensors --base DIR       DIR: weights by `convert.wan`
  python -m exp_jax.convert.lora export adapters.safetensors -o FILE --base DIR [--dialect comfyui]
  python -m exp_jax.convert.lora release EXPORT -o adapters.safetensors               those of a training's export
  python -m exp_jax.convert.lora merge adapters.safetensors -o DIR2 --base DIR [--strength 1.0]

| dialect | example of a name |
|---|---|
| peft | transformer.blocks.0.attn1.to_q.lora_A.weight |
| peft_folder | base_model.model.blocks.0.attn1.to_q.lora_A.weight, with adapter_config.json |
| comfyui | diffusion_model.blocks.0.self_attn.q.lora_A.weight, or lora_down, lora_up and alpha; .diff, .diff_b |
| kohya | lora_unet_blocks_0_self_attn_q.lora_down.weight, or lora_unet_blocks_0.self_attn.q.lora_down.weight; alpha |
| unianimate | pipe.dit.blocks.0.self_attn.q.lora_A.default.weight, dwpose_embedding.N, randomref_embedding_pose.N |

y += strength alpha / r (x A) B. Where alpha comes from: see `lora_scale`; where nothing tells,
alpha = r. Names, wrappers'
prefixes and adapters' names: see `lora_names`. Ours: layers stacked, A [L, i, r], B [L, r, o]; a
layer that lacks a target or has a lower rank is filled up with zeros, and left out again on the way
back. Differences to a weight, a bias or a modulation table stay as they are; a trained bias of a
factor, and weights that are replaced as a whole, become differences. A name that is not understood
is an error.
How the scale goes out again: see `lora_writing`.
"""

import argparse
import math
import pathlib

import numpy as np
from tqdm import tqdm

from exp_jax.convert.loras.lora_names import DIALECTS
from exp_jax.convert.loras.lora_reading import check_shapes, read, read_file
from exp_jax.convert.loras.lora_writing import export, write
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files.atomic import replacing
from exp_jax.files.foreign_tensors import all_finite, check_finite
from exp_jax.files.safetensors import flattened
from exp_jax.networks.adapters import Adapters, load_adapters, save_adapters
from exp_jax.networks.wan_dit import WanDiT
from exp_jax.networks.weights import load_weights

__all__ = ['DIALECTS', 'check_shapes', 'export', 'merged', 'read', 'read_file', 'release', 'write']


def merged(adapters: Adapters, arrays: dict[str, np.ndarray], strength: float):
  """Yields (leaf path, layer or None, merged array) of every leaf of a base, one layer at a time,
  in the base's types.

  Raises:
    UserError: numbers that are not finite in the base, or that overflow its type; the leaf is
      named.
  """
  factors = adapters.tree(strength)
  for leaf, value in tqdm(arrays.items(), unit='leaf'):
    target = leaf.removesuffix('.kernel')
    pair = None
    if leaf.endswith('.kernel') and target in adapters.factors:
      pair = factors
      for part in target.split('.'):
        pair = pair[part]
    for n in range(len(value)) if leaf.startswith('blocks.') else (None,):
      one = np.asarray(value if n is None else value[n])
      place = leaf if n is None else f'{leaf} of layer {n}'
      check_finite(one, place, 'the base')
      delta = np.zeros((), np.float32)
      with np.errstate(over='ignore', invalid='ignore'):  # told below, with the name
        if pair is not None:
          delta = delta + (pair['a'] @ pair['b'] if n is None else pair['a'][n] @ pair['b'][n])
        if n in adapters.diffs.get(leaf, {}):
          delta = delta + strength * adapters.diffs[leaf][n].astype(np.float32)
        result = one if not delta.ndim else (one.astype(np.float32) + delta).astype(one.dtype)
      if result is not one and not all_finite(result):
        raise UserError(
          f'merged with strength {strength:g}, {place} is not finite in {one.dtype}: choose a '
          'smaller --strength'
        )
      yield leaf, n, result


def release(path) -> Adapters:
  """The adapters (and, where they fit UniAnimate-DiT's names, the encoders) of an export of task
  'expportrait/dit'.

  Raises:
    UserError: another task, or one without adapters.
  """
  from exp_jax.training.exports import load_export

  config, params = load_export(path)
  if config.task != 'expportrait/dit' or 'lora' not in params:
    raise UserError(
      f'{path} ({config.task}) holds no adapters: it was not trained with config.model.lora_rank'
    )
  factors = {}
  for name, value in flattened(params['lora']['backbone']).items():
    target, factor = name.rsplit('.', 1)
    factors.setdefault(target, {})[factor] = value
  count = {t: len(pair['a']) if t.startswith('blocks.') else 1 for t, pair in factors.items()}
  rank, alpha = config.model.lora_rank, float(config.model.lora_alpha)
  encoders = (
    flattened({k: params[k] for k in ('pose', 'reference')})
    if config.condition.encoder == 'conv'
    else {}
  )
  return Adapters(
    factors,
    {t: [rank] * n for t, n in count.items()},
    {t: [alpha] * n for t, n in count.items()},
    {},
    encoders,
    dict(dialect='unianimate' if encoders else 'comfyui'),
  )


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(dest='command', required=True)
  for name, text in (
    ('import', 'others -> ours'),
    ('export', 'ours -> others'),
    ('release', "a training's export -> ours"),
    ('merge', 'into a base, for good'),
  ):
    sub = commands.add_parser(name, help=text)
    sub.add_argument('source')
    sub.add_argument('-o', '--output', required=True)
    sub.add_argument(
      '--base',
      required=name != 'release',
      help='weights by convert.wan that the adapters belong to',
    )
    if name == 'import':
      sub.add_argument(
        '--alpha',
        help="a number, or 'rank' (scale 1), where the file's own settings are missing or wrong",
      )
      sub.add_argument('--part', help='which dictionary of a torch.save file that holds several')
    if name == 'export':
      sub.add_argument(
        '--dialect', choices=sorted(DIALECTS), help='default: that of the file which was imported'
      )
    if name == 'merge':
      sub.add_argument('--strength', type=float, default=1.0)
  options = parser.parse_args(argv)
  output = pathlib.Path(options.output)
  if output.exists():
    raise UserError(f'{output} exists already: choose another name or move it away')
  if options.command == 'release':
    adapters = release(options.source)
    with replacing(output) as partial:
      save_adapters(adapters, partial)
    print(f'{output}: {len(adapters.factors)} targets, {len(adapters.encoders)} encoder arrays')
    return
  base = load_weights(options.base, 'dit', verify=options.command == 'merge')
  model = WanDiT(**base.sizes)
  if options.command == 'import':
    adapters, told = read_file(
      options.source, model, alpha=options.alpha, part=options.part, base=base.arrays
    )
    check_shapes(adapters, base.arrays, options.source)
    with replacing(output) as partial:
      save_adapters(adapters, partial)
    rank = max(map(max, adapters.ranks.values()), default=0)
    print(
      f'{output}: {len(adapters.factors)} targets, ranks up to {rank}, '
      f'{len(adapters.diffs)} differences, {len(adapters.encoders)} encoder arrays, '
      f'dialect {adapters.style["dialect"]}, scale: {told}'
    )
  elif options.command == 'export':
    print(
      f'{output}: {export(load_adapters(options.source), model, output, options.dialect)} tensors'
    )
  else:
    from exp_jax.convert.wan import write_like

    if not math.isfinite(options.strength):
      raise UserError(f'--strength is {options.strength}, a finite number was expected')
    adapters = load_adapters(options.source)
    check_shapes(adapters, base.arrays, options.source)
    write_like(
      base,
      output,
      merged(adapters, base.arrays, options.strength),
      note=f'{pathlib.Path(options.source).name} x {options.strength}',
    )
    print(f'{output}: merged')


if __name__ == '__main__':
  main()
