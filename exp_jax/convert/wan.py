"""Wan 2.1 weights, in and out.

  python -m exp_jax.convert.wan import SOURCE -o DIR [--dtype bfloat16|keep|float32]    transformer or autoencoder
  python -m exp_jax.convert.wan export DIR -o DIR2 [--names original] [--shard-gb 5]     back to safetensors
  python -m exp_jax.convert.wan check SOURCE                                             names and shapes only
  python -m exp_jax.convert.wan release EXPORT -o DIR       the backbone of a training's export, to be exported further

SOURCE: a safetensors file, a folder of them (index or not), or a file of torch.save; names as in
diffusers or as in the original release, told apart by themselves, also behind the prefixes of
wrappers (module., _orig_mod.); T2V, I2V with its image branch, first-last-frame, any width. Heads
and eps come from a config.json in the same folder. One tensor is in memory at a time, and NaN or
infinite numbers are refused. A conversion is accepted only if every tensor is used once and every
leaf of the network is filled once; DIR/report.json lists them. `bfloat16` casts the kernels of
linear layers; norms, tables and the time path keep the source's type; autoencoders keep theirs
altogether. fp8, int8 and GGUF files are refused.
"""

import argparse
import contextlib
import functools
import json
import math
import pathlib
import re
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from tqdm import tqdm

from exp_jax.convert.foreign.book import Entry, check_names, check_table
from exp_jax.convert.wan_weights import wan_names
from exp_jax.convert.wan_weights.wan_files import Checkpoint, open_checkpoint
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files import manifest
from exp_jax.files.digests import file_digest
from exp_jax.files.foreign_tensors import check_finite, read_json, shown
from exp_jax.files.safetensors import SafetensorsWriter, flattened
from exp_jax.networks.wan_vae import WanVAE
from exp_jax.networks.weights import FORMAT, NETWORKS, Weights, load_weights

_CAST = (
  r'(patch|text|image|blocks)\..*kernel$'  # the head and the time path are computed in float32
)
_FIELDS = {
  'dit': (
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
    'patch',
    'eps',
  ),
  'vae': ('width', 'multipliers', 'blocks', 'channels'),
}
_DTYPES = {'bfloat16': np.dtype(ml_dtypes.bfloat16), 'float32': np.dtype(np.float32)}


@functools.lru_cache(maxsize=8)
def abstract_params(model) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of every leaf of a network by path joined with dots; nothing is computed."""
  if isinstance(model, WanVAE):
    args = (jnp.zeros((1, 5, 16, 16, 3)),)
  else:
    f, r, c = model.patch
    args = (
      jnp.zeros((1, f, 2 * r, 2 * c, model.in_channels)),
      jnp.zeros(1),
      jnp.zeros((1, 1, model.text_dim)),
      jnp.zeros((1, model.image_positions or 1, model.image_dim)) if model.image_dim else None,
    )
  return flattened(jax.eval_shape(lambda: model.init(jax.random.key(0), *args))['params'])


def plan(network: str, model, scheme: str) -> dict[str, wan_names.Piece]:
  """{name in the checkpoint: piece}; checked to fill every leaf of the network exactly once.

  Raises:
    ValueError: if table and network disagree (a bug of ours).
  """
  pieces = wan_names.dit_pieces(model) if network == 'dit' else wan_names.vae_pieces(model)
  by_name = [(piece.names[wan_names.SCHEMES.index(scheme)], piece) for piece in pieces]
  check_table(
    (Entry((piece.ours,), (name,), part=piece.layer) for name, piece in by_name),
    {name: leaf.shape for name, leaf in abstract_params(model).items()},
  )
  return dict(by_name)


def read_plan(
  source: Checkpoint, where, heads: int | None = None
) -> tuple[str, str, object, dict, list[str]]:
  """(network, scheme, model, plan, ignored names) of an open checkpoint, checked name by name and
  shape by shape.

  Raises:
    UserError: an unknown network; a tensor missing, left over, or of another shape (the first few
      are named).
  """
  prefix, raw = wan_names.unwrapped(source.names, where)
  source.rename(raw, prefix)
  network, scheme = wan_names.scheme_of(source.names, where)
  shapes = source.shapes
  if network == 'dit':
    heads = heads or source.config.get('num_attention_heads') or source.config.get('num_heads')
    if heads is not None and type(heads) is not int:
      raise UserError(f'the config.json of {where} tells {shown(repr(heads), 40)} heads')
    sizes = wan_names.dit_sizes(shapes, scheme, heads, where)
    sizes |= wan_names.told(source.config, sizes, where)
  else:
    sizes = wan_names.vae_sizes(shapes, scheme, where)
  model = NETWORKS[network](**sizes)
  by_name, leaves = plan(network, model, scheme), abstract_params(model)
  ignored = check_names(
    by_name,
    shapes,
    f'{where} is not a whole Wan {network} ({scheme} names)',
    ignored=wan_names.IGNORED,
  )
  for name, piece in by_name.items():
    if source.dtype(name).kind != 'f' and source.dtype(name) != ml_dtypes.bfloat16:
      raise UserError(
        f'{where}: {name} holds {source.dtype(name)}, numbers with a fraction were expected'
      )
    leaf = leaves[piece.ours].shape[piece.layer is not None :]
    probe = np.broadcast_to(np.zeros((), np.uint8), shapes[name])  # no memory, whatever the shape
    try:
      fits = wan_names.to_ours(probe, piece.layout).shape == leaf
    except (ValueError, IndexError):
      fits = False
    if not fits:
      raise UserError(
        f'{where}: {name} has shape {shapes[name]}, which does not fit {piece.ours} {leaf}'
      )
  return network, scheme, model, by_name, ignored


def target_dtype(path: str, source: np.dtype, how: str) -> np.dtype:
  """The type that a leaf is stored with; `how` is 'keep', 'bfloat16' or 'float32'."""
  if how == 'keep' or (how == 'bfloat16' and not re.match(_CAST, path)):
    return source
  return _DTYPES[how]


def convert(
  path, output, *, dtype: str = 'bfloat16', heads: int | None = None, part: str | None = None
) -> dict:
  """Converts a checkpoint to a folder of our weights, which appears complete or not at all; returns
  its config.

  Raises:
    UserError: see `read_plan` and `open_checkpoint`; numbers that are not finite; or the output
      exists.
  """
  source = open_checkpoint(path, part=part)
  network, scheme, model, by_name, ignored = read_plan(source, path, heads)
  how = 'keep' if network == 'vae' and dtype == 'bfloat16' else dtype
  leaves, types = abstract_params(model), {}
  for name, piece in by_name.items():
    kind = target_dtype(piece.ours, source.dtype(name), how)
    types[piece.ours] = np.promote_types(types.get(piece.ours, kind), kind)
  config = dict(
    format=FORMAT,
    network=network,
    sizes=_fields(network, model),
    scheme=scheme,
    prefix=source.prefix,
    dtype=how,
    tensors=len(by_name),
    source={p.name: file_digest(p) for p in source.files},
  )
  report = dict(
    used={
      name: [p.ours, p.layer, source.where(name), str(source.dtype(name))]
      for name, p in by_name.items()
    },
    ignored=ignored,
  )
  entries = {name: (leaf.shape, types[name]) for name, leaf in leaves.items()}
  with contextlib.closing(source), manifest.new_folder(output) as folder:
    with SafetensorsWriter(folder / 'params.safetensors', entries, {'format': FORMAT}) as writer:
      for name, piece in tqdm(by_name.items(), unit='tensor', desc=f'{network}, {scheme} names'):
        value = wan_names.to_ours(check_finite(source.read(name), name, path), piece.layout)
        with np.errstate(over='ignore'):
          cast = value.astype(types[piece.ours])
        writer.write(piece.ours, check_finite(cast, f'{name} as {cast.dtype}', path), piece.layer)
    (folder / 'config.json').write_text(json.dumps(config, indent=1) + '\n')
    (folder / 'report.json').write_text(json.dumps(report, indent=0) + '\n')
  return config


def write_like(base: Weights, output, pieces: Iterable[tuple], *, note: str) -> None:
  """A folder with the leaves and types of `base`, filled by (leaf path, layer or None, array);
  `note` goes in its config."""
  entries = {name: (value.shape, value.dtype) for name, value in base.arrays.items()}
  with manifest.new_folder(output) as folder:
    with SafetensorsWriter(folder / 'params.safetensors', entries, {'format': FORMAT}) as writer:
      for name, layer, value in pieces:
        writer.write(name, value, layer)
    (folder / 'config.json').write_text(json.dumps(base.config | {'merged': note}, indent=1) + '\n')


def _fields(network, model):
  return {name: getattr(model, name) for name in _FIELDS[network]}


def export(
  path, output, *, names: str = 'diffusers', shard_bytes: int = 5 * 10**9
) -> list[pathlib.Path]:
  """Writes our weights as safetensors under the names of others: shards of at most `shard_bytes`,
  an index for several.

  The types are those of the folder; a conversion with `keep` gives back the source's bytes.

  Raises:
    UserError: the folder is missing or damaged, or the output exists.
  """
  _must_be_ours(path)
  network = read_json(pathlib.Path(path) / 'config.json').get('network')
  if network not in _FIELDS:
    raise UserError(
      f'{path} holds the network {shown(repr(network), 40)}, which is none of Wan: '
      f'{" or ".join(_FIELDS)}'
    )
  weights = load_weights(path, network)
  model = NETWORKS[network](**weights.sizes)
  patch = getattr(model, 'patch', (1, 2, 2))
  shards, size = [{}], 0
  for name, piece in plan(network, model, names).items():
    leaf = weights.arrays[piece.ours]
    leaf = leaf if piece.layer is None else leaf[piece.layer]
    shape = wan_names.from_ours(
      np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), piece.layout, patch
    ).shape
    count = math.prod(shape) * leaf.dtype.itemsize
    if size + count > shard_bytes and shards[-1]:
      shards.append({})
      size = 0
    shards[-1][name], size = (piece, shape, leaf.dtype), size + count
  stem, several = 'diffusion_pytorch_model', len(shards) > 1
  table, total, files = {}, 0, []
  with manifest.new_folder(output) as folder:
    for i, shard in enumerate(shards):
      file = (
        f'{stem}-{i + 1:05}-of-{len(shards):05}.safetensors' if several else f'{stem}.safetensors'
      )
      entries = {name: (shape, dtype) for name, (_, shape, dtype) in shard.items()}
      with SafetensorsWriter(folder / file, entries, {'format': 'pt'}) as writer:
        for name, (piece, _, dtype) in tqdm(shard.items(), unit='tensor', desc=file):
          leaf = weights.arrays[piece.ours]
          value = np.asarray(leaf if piece.layer is None else leaf[piece.layer])
          writer.write(name, wan_names.from_ours(value, piece.layout, patch))
          total += value.size * dtype.itemsize
      table |= dict.fromkeys(shard, file)
      files.append(pathlib.Path(output) / file)
    if several:
      index = {'metadata': {'total_size': total}, 'weight_map': dict(sorted(table.items()))}
      (folder / f'{stem}.safetensors.index.json').write_text(json.dumps(index, indent=2) + '\n')
    (folder / 'config.json').write_text(
      json.dumps(_foreign_config(network, model, names), indent=2) + '\n'
    )
  return files


def release(path, output) -> None:
  """The backbone of an export of task 'expportrait/dit' as a folder of weights; adapters and
  encoders are left out.

  Raises:
    UserError: another task, or a backbone that is no Wan transformer with text.
  """
  from exp_jax.networks.codec import open_codec
  from exp_jax.systems.expportrait.generator.dit_task import portrait_dit
  from exp_jax.training.exports import load_export

  config, params = load_export(path)
  if config.task != 'expportrait/dit' or not config.vae.name == 'wan':
    raise UserError(
      f'{path} is an export of {config.task!r} on the autoencoder {config.vae.get("name")!r}, '
      'which is no Wan model'
    )
  model = portrait_dit(config, open_codec('wan', '')).backbone
  flat = flattened(params['backbone'])
  plan('dit', model, 'diffusers')
  base = Weights(
    'dit',
    _fields('dit', model),
    {n: v.astype(_DTYPES['bfloat16'] if re.match(_CAST, n) else v.dtype) for n, v in flat.items()},
    dict(
      format=FORMAT, network='dit', sizes=_fields('dit', model), source=str(pathlib.Path(path).name)
    ),
  )
  write_like(
    base, output, ((name, None, value) for name, value in base.arrays.items()), note='trained'
  )


def _must_be_ours(path):
  if not (pathlib.Path(path) / 'config.json').is_file():
    raise UserError(
      f'there are no converted weights at {path}: make them with `python -m exp_jax.convert.wan '
      'import`'
    )


def _foreign_config(network, model, names):
  """The config.json that loaders of the other side expect."""
  if network == 'vae':
    return dict(
      _class_name='AutoencoderKLWan',
      base_dim=model.width,
      dim_mult=list(model.multipliers),
      num_res_blocks=model.blocks,
      z_dim=model.channels,
    )
  image = model.image_dim or None
  if names == 'original':
    kind = 'flf2v' if model.image_positions else 'i2v' if image else 't2v'
    return dict(
      _class_name='WanModel',
      model_type=kind,
      dim=model.width,
      ffn_dim=model.ffn,
      num_heads=model.heads,
      num_layers=model.depth,
      in_dim=model.in_channels,
      out_dim=model.out_channels,
      freq_dim=model.freq_dim,
      text_dim=model.text_dim,
      text_len=512,
      eps=model.eps,
    )
  return dict(
    _class_name='WanTransformer3DModel',
    num_attention_heads=model.heads,
    attention_head_dim=model.width // model.heads,
    ffn_dim=model.ffn,
    num_layers=model.depth,
    in_channels=model.in_channels,
    out_channels=model.out_channels,
    freq_dim=model.freq_dim,
    text_dim=model.text_dim,
    patch_size=list(model.patch),
    image_dim=image,
    eps=model.eps,
    added_kv_proj_dim=model.width if image else None,
    cross_attn_norm=True,
    qk_norm='rms_norm_across_heads',
    pos_embed_seq_len=model.image_positions or None,
  )


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(dest='command', required=True)
  one = commands.add_parser('import', help='others -> ours')
  one.add_argument('source')
  one.add_argument('-o', '--output', required=True, help='the folder to write')
  one.add_argument('--dtype', choices=('bfloat16', 'keep', 'float32'), default='bfloat16')
  two = commands.add_parser('export', help='ours -> safetensors')
  two.add_argument('source')
  two.add_argument('-o', '--output', required=True, help='the folder to write')
  two.add_argument('--names', choices=wan_names.SCHEMES, default='diffusers')
  two.add_argument('--shard-gb', type=float, default=5.0)
  three = commands.add_parser('check', help='names and shapes only')
  three.add_argument('source')
  four = commands.add_parser('release', help="a training's export -> ours")
  four.add_argument('source')
  four.add_argument('-o', '--output', required=True, help='the folder to write')
  for sub in (one, three):
    sub.add_argument(
      '--heads', type=int, help='where no config.json tells and heads are not 128 wide'
    )
    sub.add_argument('--part', help='which dictionary of a torch.save file that holds several')
  options = parser.parse_args(argv)
  if options.command == 'import':
    config = convert(
      options.source, options.output, dtype=options.dtype, heads=options.heads, part=options.part
    )
    print(
      f'{options.output}: {config["network"]}, {config["tensors"]} tensors used once, every leaf '
      'filled once'
    )
  elif options.command == 'export':
    if options.shard_gb <= 0:
      raise UserError('--shard-gb must be more than 0')
    files = export(
      options.source, options.output, names=options.names, shard_bytes=int(options.shard_gb * 1e9)
    )
    print(f'{options.output}: {len(files)} file(s), {options.names} names')
  elif options.command == 'release':
    release(options.source, options.output)
    print(f'{options.output}: the backbone of {options.source}')
  else:
    source = open_checkpoint(options.source, part=options.part)
    network, scheme, model, by_name, ignored = read_plan(source, options.source, options.heads)
    print(
      f'{options.source}: Wan {network}, {scheme} names, {len(by_name)} tensors, '
      f'{_fields(network, model)}' + (f', ignored {shown(ignored)}' if ignored else '')
    )


if __name__ == '__main__':
  main()
