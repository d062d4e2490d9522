"""Low-rank adapters of the Wan transformer in the dialects that people pass on, and back.

  python -m exp_jax.convert.lora import FILE -o adapters.safetensors --base DIR       DIR: weights by `convert.wan`
  python -m exp_jax.convert.lora export adapters.safetensors -o FILE --base DIR [--dialect comfyui]
  python -m exp_jax.convert.lora release EXPORT -o adapters.safetensors               those of a training's export
  python -m exp_jax.convert.lora merge adapters.safetensors -o DIR2 --base DIR [--strength 1.0]

| dialect | example of a name |
|---|---|
| peft | transformer.blocks.0.attn1.to_q.lora_A.weight |
| comfyui | diffusion_model.blocks.0.self_attn.q.lora_A.weight, or lora_down, lora_up and alpha; .diff, .diff_b |
| kohya | lora_unet_blocks_0_self_attn_q.lora_down.weight, or lora_unet_blocks_0.self_attn.q.lora_down.weight; alpha |
| unianimate | pipe.dit.blocks.0.self_attn.q.lora_A.default.weight, dwpose_embedding.N, randomref_embedding_pose.N |

y += strength alpha / r (x A) B; a file without alphas means alpha = r. Ours: layers stacked, A [L, i, r], B [L, r, o];
a layer that lacks a target or has a lower rank is filled up with zeros, and left out again on the way back. A `diff` is
a full difference to a weight, `diff_b` to a bias. A name that is not understood is an error.
"""

import argparse
import pathlib
import re

import numpy as np
from tqdm import tqdm

from exp_jax.convert import wan_names
from exp_jax.convert.wan_files import open_checkpoint
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.heads.files import whole_or_absent
from exp_jax.networks.adapters import Adapters, load_adapters, save_adapters
from exp_jax.networks.safetensors_file import flattened, write_safetensors
from exp_jax.networks.wan_dit import WanDiT
from exp_jax.networks.weights import load_weights

DIALECTS = {  # prefix, column of the names (0 diffusers, 1 original), pair of factors, infix
  'peft': ('transformer.', 0, ('lora_A', 'lora_B'), ''),
  'comfyui': ('diffusion_model.', 1, ('lora_A', 'lora_B'), ''),
  'kohya': ('lora_unet_', 1, ('lora_down', 'lora_up'), ''),
  'unianimate': ('pipe.dit.', 1, ('lora_A', 'lora_B'), '.default'),
}
_PREFIXES = ('base_model.model.', 'model.diffusion_model.', *(d[0] for d in DIALECTS.values()), '')
_FACTOR = re.compile(r'(.+)\.(lora_A|lora_B|lora_down|lora_up)(\.default)?\.weight')
_ENCODERS = {'dwpose_embedding': ('pose', 'conv3'), 'randomref_embedding_pose': ('reference', 'conv2d')}


def _targets(model: WanDiT):
  """(linear layers {underscored name: (path, layer, names)}, every tensor {underscored name: piece})."""
  linear, every = {}, {}
  for piece in wan_names.dit_pieces(model):
    for name in piece.names:
      every[name.replace('.', '_')] = piece
      if piece.ours.endswith('.kernel'):
        linear[name.removesuffix('.weight').replace('.', '_')] = piece
  return linear, every


def _resolve(name, table):
  for prefix in _PREFIXES:
    if name.startswith(prefix):
      found = table.get(name[len(prefix) :].replace('.', '_'))
      if found:
        return found, prefix
  return None, ''


def read(tensors: dict[str, np.ndarray], model: WanDiT, where='the file') -> Adapters:
  """Understands the tensors of an adapter file, whatever its dialect.

  Raises:
    UserError: an unknown name, half a pair, or a shape that does not fit the network; the first is named.
  """
  linear, every = _targets(model)
  pairs, alphas, diffs, encoders, prefixes, style = {}, {}, {}, {}, set(), {}
  for name, value in tensors.items():
    factor, encoder = _FACTOR.fullmatch(name), re.fullmatch(r'(?:pipe\.dit\.)?(\w+)\.(\d+)\.(weight|bias)', name)
    if encoder and encoder[1] in _ENCODERS:
      ours, layout = _ENCODERS[encoder[1]]
      leaf = f'{ours}.conv{int(encoder[2]) // 2}.{"kernel" if encoder[3] == "weight" else "bias"}'
      encoders[leaf] = _convolution(value, layout) if encoder[3] == 'weight' else value
      continue
    kind = 'alpha' if name.endswith('.alpha') else 'diff' if re.search(r'\.diff(_b)?$', name) else 'factor' if factor else None
    if kind == 'diff':
      leaf = name.removesuffix('.diff') + '.weight' if name.endswith('.diff') else name.removesuffix('.diff_b') + '.bias'
      piece, prefix = _resolve(leaf, every)
      if piece is None:
        piece, prefix = _resolve(name.removesuffix('.diff'), every)              # tables have no '.weight'
    else:
      module = factor[1] if factor else name.removesuffix('.alpha')
      piece, prefix = _resolve(module, linear) if kind else (None, '')
    if piece is None:
      raise UserError(f'{where}: {name} is not an adapter of this network (or of a kind that is not read)')
    prefixes.add(prefix)
    if kind == 'diff':
      diffs.setdefault(piece.ours, {})[piece.layer] = wan_names.to_ours(value, piece.layout)
    elif kind == 'alpha':
      alphas.setdefault(_path(piece), {})[piece.layer] = float(np.asarray(value).reshape(()))
    else:
      pair = pairs.setdefault(_path(piece), {}).setdefault(piece.layer, {})
      pair['a' if factor[2] in ('lora_A', 'lora_down') else 'b'] = value
      style |= dict(pair=('lora_A', 'lora_B') if factor[2] in ('lora_A', 'lora_B') else ('lora_down', 'lora_up'),
                    infix=factor[3] or '', dtype=str(value.dtype), names=int('attn1' not in name and 'attn2' not in name
                                                                             and 'ffn.net' not in name))  # fmt: skip
      if prefix == 'lora_unet_':
        style['dotted'] = '.' in module
  factors, ranks = {}, {}
  shapes = {p.ours: p for p in wan_names.dit_pieces(model)}
  for target, layers in pairs.items():
    if f'{target}.kernel' not in shapes:
      raise UserError(f'{where}: {target} is no linear layer of this network')
    factors[target], ranks[target] = _stacked(target, layers, model.depth, where)
  alone = sorted(set(alphas) - set(factors))
  if alone:
    raise UserError(f'{where}: there is an alpha but no adapter for {alone[0]}')
  alphas = {t: [alphas.get(t, {}).get(n if t.startswith('blocks.') else None) for n in range(len(r))] for t, r in ranks.items()}
  prefix = next(iter(prefixes), 'diffusion_model.') if len(prefixes) < 2 else 'diffusion_model.'
  by_prefix = {d[0]: name for name, d in DIALECTS.items()}
  style |= dict(dialect='unianimate' if encoders else by_prefix.get(prefix, 'peft' if style.get('names') == 0 else 'comfyui'),
                prefix=prefix)  # fmt: skip
  return Adapters(factors, ranks, alphas, diffs, encoders, style)


def _path(piece):
  return piece.ours.removesuffix('.kernel')


def _convolution(value, layout):
  return value.transpose(2, 3, 4, 1, 0) if layout == 'conv3' else value.transpose(2, 3, 1, 0)


def _stacked(target, layers, depth, where):
  """({'a', 'b'} padded to the highest rank and stacked, ranks by layer) from {layer: {'a': [r, i], 'b': [o, r]}}."""
  for layer, pair in layers.items():
    if set(pair) != {'a', 'b'} or pair['a'].shape[0] != pair['b'].shape[1]:
      raise UserError(f'{where}: {target} of layer {layer} has only one factor, or two of different ranks')
  some = next(iter(layers.values()))
  i, o, dtype = some['a'].shape[1], some['b'].shape[0], some['a'].dtype
  if None in layers:
    return {'a': np.ascontiguousarray(some['a'].T), 'b': np.ascontiguousarray(some['b'].T)}, [some['a'].shape[0]]
  ranks = [layers[n]['a'].shape[0] if n in layers else 0 for n in range(depth)]
  a, b = np.zeros((depth, i, max(ranks)), dtype), np.zeros((depth, max(ranks), o), dtype)
  for n, pair in layers.items():
    a[n, :, : ranks[n]], b[n, : ranks[n]] = pair['a'].T, pair['b'].T
  return {'a': a, 'b': b}, ranks


def check_shapes(adapters: Adapters, leaves: dict, where) -> None:
  """Every factor against the kernel that it adapts; `leaves` {path: array or ShapeDtypeStruct}.

  Raises:
    UserError: the first that does not fit.
  """
  for target, pair in adapters.factors.items():
    kernel = leaves[f'{target}.kernel'].shape
    found = (*pair['a'].shape[:-1], pair['b'].shape[-1])
    if kernel != found:
      raise UserError(f'{where}: the adapter of {target} is made for {found}, this network has {kernel}')


def write(adapters: Adapters, model: WanDiT, dialect: str | None = None) -> dict[str, np.ndarray]:
  """{name: tensor} in a dialect; None: as the file that was read spelled it.

  Raises:
    UserError: an unknown dialect, or one that cannot say what the adapters hold (pose encoders, differences).
  """
  own = adapters.style
  if dialect is not None and dialect not in DIALECTS:
    raise UserError(f'unknown dialect {dialect!r}, choose from {sorted(DIALECTS)}')
  same = dialect in (None, own.get('dialect'))
  prefix, column, pair, infix = DIALECTS[dialect or own['dialect']]
  if same:
    prefix, column = own.get('prefix', prefix), own.get('names', column)
    pair, infix = tuple(own.get('pair', pair)), own.get('infix', infix)
  if adapters.encoders and (dialect or own['dialect']) != 'unianimate':
    raise UserError("these adapters come with pose encoders, which only the dialect 'unianimate' can hold")
  if adapters.diffs and prefix not in ('diffusion_model.', 'pipe.dit.', ''):
    raise UserError(f'these adapters hold full differences, which the dialect {dialect!r} cannot hold: choose comfyui')
  out = {}
  for piece in wan_names.dit_pieces(model):
    layer, target = piece.layer, _path(piece)
    if layer in adapters.diffs.get(piece.ours, {}):
      name = piece.names[column]
      name = f'{name.removesuffix(".bias")}.diff_b' if name.endswith('.bias') else f'{name.removesuffix(".weight")}.diff'
      out[f'{prefix}{name}'] = wan_names.from_ours(adapters.diffs[piece.ours][layer], piece.layout, model.patch)
    if not piece.ours.endswith('.kernel') or target not in adapters.factors:
      continue
    rank = adapters.ranks[target][layer or 0]
    if not rank:
      continue
    module = piece.names[column].removesuffix('.weight')
    if prefix == 'lora_unet_':
      head, tail = re.fullmatch(r'((?:blocks\.\d+)?)\.?(.*)', module).groups()
      dotted = same and own.get('dotted')
      module = f'{head.replace(".", "_")}.{tail}' if dotted and head else module.replace('.', '_')
    a, b = (adapters.factors[target][k] if layer is None else adapters.factors[target][k][layer] for k in 'ab')
    out[f'{prefix}{module}.{pair[0]}{infix}.weight'] = np.ascontiguousarray(a[:, :rank].T)
    out[f'{prefix}{module}.{pair[1]}{infix}.weight'] = np.ascontiguousarray(b[:rank].T)
    alpha = adapters.alphas[target][layer or 0]
    if alpha is not None:
      out[f'{prefix}{module}.alpha'] = np.asarray(alpha, a.dtype)
  for leaf, value in adapters.encoders.items():
    encoder, conv, kind = leaf.split('.')
    stem = next(k for k, v in _ENCODERS.items() if v[0] == encoder)
    if kind == 'kernel':
      value = value.transpose(4, 3, 0, 1, 2) if value.ndim == 5 else value.transpose(3, 2, 0, 1)
    out[f'{stem}.{2 * int(conv[4:])}.{"weight" if kind == "kernel" else "bias"}'] = np.ascontiguousarray(value)
  return out


def merged(adapters: Adapters, arrays: dict[str, np.ndarray], strength: float):
  """Yields (leaf path, layer or None, merged array) of every leaf of a base, one layer at a time, in the base's types."""
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
      delta = np.zeros((), np.float32)
      if pair is not None:
        delta = delta + (pair['a'] @ pair['b'] if n is None else pair['a'][n] @ pair['b'][n])
      if n in adapters.diffs.get(leaf, {}):
        delta = delta + strength * adapters.diffs[leaf][n].astype(np.float32)
      yield leaf, n, one if not delta.ndim else (one.astype(np.float32) + delta).astype(one.dtype)


def release(path) -> Adapters:
  """The adapters (and, where they fit UniAnimate-DiT's names, the encoders) of an export of task 'expportrait/dit'.

  Raises:
    UserError: another task, or one without adapters.
  """
  from exp_jax.training.exports import load_export
  config, params = load_export(path)
  if config.task != 'expportrait/dit' or 'lora' not in params:
    raise UserError(f'{path} ({config.task}) holds no adapters: it was not trained with config.model.lora_rank')
  factors = {}
  for name, value in flattened(params['lora']['backbone']).items():
    target, factor = name.rsplit('.', 1)
    factors.setdefault(target, {})[factor] = value
  count = {t: len(pair['a']) if t.startswith('blocks.') else 1 for t, pair in factors.items()}
  rank, alpha = config.model.lora_rank, float(config.model.lora_alpha)
  encoders = flattened({k: params[k] for k in ('pose', 'reference')}) if config.condition.encoder == 'conv' else {}
  return Adapters(factors, {t: [rank] * n for t, n in count.items()}, {t: [alpha] * n for t, n in count.items()}, {}, encoders,
                  dict(dialect='unianimate' if encoders else 'comfyui'))  # fmt: skip


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(dest='command', required=True)
  for name, text in (('import', 'others -> ours'), ('export', 'ours -> others'), ('release', "a training's export -> ours"),
                     ('merge', 'into a base, for good')):  # fmt: skip
    sub = commands.add_parser(name, help=text)
    sub.add_argument('source')
    sub.add_argument('-o', '--output', required=True)
    sub.add_argument('--base', required=name != 'release', help='weights by convert.wan that the adapters belong to')
    if name == 'export':
      sub.add_argument('--dialect', choices=sorted(DIALECTS), help='default: that of the file which was imported')
    if name == 'merge':
      sub.add_argument('--strength', type=float, default=1.0)
  options = parser.parse_args(argv)
  output = pathlib.Path(options.output)
  if output.exists():
    raise UserError(f'{output} exists already: choose another name or move it away')
  if options.command == 'release':
    adapters = release(options.source)
    with whole_or_absent(output) as temporary:
      save_adapters(adapters, temporary)
    print(f'{output}: {len(adapters.factors)} targets, {len(adapters.encoders)} encoder arrays')
    return
  base = load_weights(options.base, 'dit', verify=options.command == 'merge')
  model = WanDiT(**base.sizes)
  if options.command == 'import':
    source = open_checkpoint(options.source)
    adapters = read({name: source.read(name) for name in source.names}, model, options.source)
    check_shapes(adapters, base.arrays, options.source)
    with whole_or_absent(output) as temporary:
      save_adapters(adapters, temporary)
    rank = max(map(max, adapters.ranks.values()), default=0)
    print(f'{output}: {len(adapters.factors)} targets, ranks up to {rank}, '
          f'{len(adapters.diffs)} differences, {len(adapters.encoders)} encoder arrays, '
          f'dialect {adapters.style["dialect"]}')  # fmt: skip
  elif options.command == 'export':
    tensors = write(load_adapters(options.source), model, options.dialect)
    with whole_or_absent(output) as temporary:
      write_safetensors(temporary, tensors, {'format': 'pt'})
    print(f'{output}: {len(tensors)} tensors')
  else:
    from exp_jax.convert.wan import write_like
    adapters = load_adapters(options.source)
    check_shapes(adapters, base.arrays, options.source)
    write_like(base, output, merged(adapters, base.arrays, options.strength),
               note=f'{pathlib.Path(options.source).name} x {options.strength}')  # fmt: skip
    print(f'{output}: merged')


if __name__ == '__main__':
  main()
