"""Weights of Stable Diffusion between the files of others and a folder of ours, both ways.

A conversion is accepted only if every tensor is used once and every leaf of the network is filled
once; one tensor is in memory at a time, and numbers that are not finite are refused. Buffers of
frame positions are compared with their formula and made again on the way out. The types are those
of the source unless another is asked for; the way out keeps those of the folder.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from tqdm import tqdm

from exp_jax.convert.foreign.book import Entry, check_names, check_table
from exp_jax.convert.sd import sd_names, sd_sizes
from exp_jax.convert.sd.sd_files import Found, find_network, prediction_of
from exp_jax.errors import UserError
from exp_jax.files import manifest
from exp_jax.files.digests import file_digest
from exp_jax.files.foreign_tensors import check_finite, read_json, shown
from exp_jax.files.safetensors import SafetensorsWriter, flattened
from exp_jax.networks.motion_module import frame_positions
from exp_jax.networks.sd_unet import SdUNet
from exp_jax.networks.sd_vae import SdVAE
from exp_jax.networks.weights import FORMAT, load_weights

_DTYPES = {
  'bfloat16': np.dtype(ml_dtypes.bfloat16),
  'float16': np.dtype(np.float16),
  'float32': np.dtype(np.float32),
}
_FIELDS = {  # of our networks, kept in the folder as their sizes
  'sd_unet': ('widths', 'heads', 'text_dim', 'in_channels', 'out_channels', 'blocks', 'head'),
  'sd_vae': ('width', 'multipliers', 'blocks', 'channels'),
  'sd_motion': ('widths', 'blocks', 'motion_heads', 'motion_middle'),
}


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a conversion will do.

  Attributes:
    model: our network; of motion modules, a UNet that has them.
    pieces: {name in the file, without prefix: (leaf of ours, layout)}.
    projection: layout around a UNet's transformers, '' elsewhere.
    positions: how many frames the position buffers hold, 0 if there are none.
    left_out: names that are not converted.
  """

  model: SdUNet | SdVAE
  pieces: dict[str, tuple[str, str]]
  projection: str
  positions: int
  left_out: list[str]


@functools.lru_cache(maxsize=8)
def abstract_leaves(network: str, model: SdUNet | SdVAE) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of every leaf by path joined with dots; of 'sd_motion' those of the motion modules
  alone. Nothing is computed."""
  if network == 'sd_vae':
    args = (jnp.zeros((1, model.stride, model.stride, 3)),)
  else:
    size = 2 ** (len(model.widths) - 1)
    args = (
      jnp.zeros((1, 1, size, size, model.in_channels)),
      jnp.zeros(1),
      jnp.zeros((1, 1, model.text_dim)) if model.text_dim else None,
    )
  leaves = flattened(jax.eval_shape(lambda: model.init(jax.random.key(0), *args))['params'])
  return {
    name: leaf for name, leaf in leaves.items() if network != 'sd_motion' or '.motion.' in name
  }


def plan_of(
  network: str, model: SdUNet | SdVAE, scheme: str, projection: str
) -> dict[str, tuple[str, str]]:
  """{name of the scheme: (leaf, layout)}, checked to fill every leaf once.

  Raises:
    ValueError: table and network disagree (a bug of ours).
  """
  if network == 'sd_vae':
    pieces = sd_names.vae_pieces(model)
  else:
    pieces = (
      sd_names.motion_pieces(model)
      if network == 'sd_motion'
      else sd_names.unet_pieces(model, projection)
    )
  at = sd_names.SCHEMES[network].index(scheme)
  check_table(
    [Entry((piece.ours,), (piece.names[at],)) for piece in pieces],
    {name: leaf.shape for name, leaf in abstract_leaves(network, model).items()},
  )
  return {piece.names[at]: (piece.ours, piece.layouts[at]) for piece in pieces}


def read_plan(found: Found, heads: tuple[int, ...] | None, where) -> Plan:
  """The plan for an open file, checked name by name and shape by shape.

  Raises:
    UserError: a setting that is not computed; a tensor that is missing, left over, of another shape
      or type; wrong positions.
  """
  source, network, scheme = found.source, found.network, found.scheme
  shapes, config, projection, positions = (
    source.shapes,
    sd_sizes.check_config(source.config, network, where),
    '',
    0,
  )
  if network == 'sd_vae':
    model = sd_sizes.vae_of(shapes, scheme, where)
  elif network == 'sd_unet':
    model, projection = sd_sizes.unet_of(shapes, scheme, heads, config, where)
  else:
    model = sd_sizes.motion_of(shapes, scheme, heads, config, where)
    positions = _check_positions(source, sd_names.position_buffers(model, scheme), where)
  pieces = plan_of(network, model, scheme, projection)
  buffers = sd_names.position_buffers(model, scheme) if network == 'sd_motion' else {}
  given = [name for name in source.names if name not in buffers]
  check_names(pieces, given, f'{where} is not a whole {network} ({scheme} names)')
  leaves = abstract_leaves(network, model)
  for name, (leaf, layout) in pieces.items():
    if source.dtype(name).kind != 'f' and source.dtype(name) != ml_dtypes.bfloat16:
      raise UserError(
        f'{where}: {name} holds {source.dtype(name)}, numbers with a fraction were expected'
      )
    try:
      fits = (
        sd_names.to_ours(np.broadcast_to(np.zeros((), np.uint8), shapes[name]), layout).shape
        == leaves[leaf].shape
      )
    except ValueError:
      fits = False
    if not fits:
      raise UserError(
        f'{where}: {name} has shape {shapes[name]}, which does not fit {leaf} {leaves[leaf].shape}'
      )
  return Plan(
    model,
    pieces,
    projection,
    positions,
    found.left_out + [name for name in source.names if name in buffers],
  )


def _check_positions(source, buffers, where) -> int:
  """The number of frames of the position buffers that are there, all of them alike and as the
  formula has them."""
  counts = set()
  for name, width in buffers.items():
    if name not in source.names:
      continue
    value = source.read(name).astype(np.float32)
    if value.ndim != 3 or value.shape[::2] != (1, width):
      raise UserError(
        f'{where}: {name} has shape {value.shape}, positions of [1, frames, {width}] were expected'
      )
    largest = np.abs(value[0] - frame_positions(value.shape[1], width)).max(initial=0.0)
    if not largest <= (
      1e-4 if source.dtype(name).itemsize > 2 else 1e-2
    ):  # half precision has three digits
      raise UserError(
        f'{where}: {name} holds other positions of frames than are computed (by up to '
        f'{largest:.2g}): the file is of '
        'another network'
      )
    counts.add(value.shape[1])
  if len(counts) > 1:
    raise UserError(
      f'{where} has positions for {sorted(counts)} frames in one set of motion modules: it is '
      'damaged'
    )
  return counts.pop() if counts else 0


def convert(
  path,
  output,
  *,
  network: str | None = None,
  dtype: str = 'keep',
  heads: tuple[int, ...] | None = None,
  prediction: str | None = None,
  part: str | None = None,
) -> dict:
  """Converts one network to a folder of our weights, which appears complete or not at all; returns
  its config.

  Args:
    path: file or folder, see `sd_files`.
    output: the folder to write.
    network: which of several, a key of `sd_names.SCHEMES`.
    dtype: 'keep', 'bfloat16', 'float16' or 'float32'.
    heads: of all levels, where neither a config.json nor the published sizes tell.
    prediction: what the UNet predicts, where no scheduler tells.
    part: of a file of torch.save with several dictionaries.

  Raises:
    UserError: see `find_network` and `read_plan`; numbers that are not finite; or the output
      exists.
  """
  found = find_network(path, network, part=part)
  with contextlib.closing(found.source) as source:
    plan = read_plan(found, heads, path)
    config = dict(
      format=FORMAT,
      network=found.network,
      sizes=sizes_of(found.network, plan.model),
      scheme=found.scheme,
      prefix=found.prefix,
      dtype=dtype,
      tensors=len(plan.pieces),
      source={p.name: file_digest(p) for p in source.files},
    )
    if found.network == 'sd_unet':
      config |= dict(projection=plan.projection, prediction=prediction or prediction_of(found))
    elif found.network == 'sd_motion':
      config |= dict(positions=plan.positions)
    leaves = abstract_leaves(found.network, plan.model)
    kinds = {
      leaf: source.dtype(name) if dtype == 'keep' else _DTYPES[dtype]
      for name, (leaf, _) in plan.pieces.items()
    }
    with manifest.new_folder(output) as folder:
      entries = {leaf: (leaves[leaf].shape, kind) for leaf, kind in kinds.items()}
      with SafetensorsWriter(folder / 'params.safetensors', entries, {'format': FORMAT}) as writer:
        for name, (leaf, layout) in tqdm(
          plan.pieces.items(), unit='tensor', desc=f'{found.network}, {found.scheme} names'
        ):
          with np.errstate(over='ignore'):
            value = check_finite(source.read(name), name, path).astype(kinds[leaf])
          writer.write(
            leaf, sd_names.to_ours(check_finite(value, f'{name} as {value.dtype}', path), layout)
          )
      report = dict(
        used={
          name: [leaf, source.where(name), str(source.dtype(name))]
          for name, (leaf, _) in plan.pieces.items()
        },
        left_out=plan.left_out,
      )
      (folder / 'config.json').write_text(json.dumps(config, indent=1) + '\n')
      (folder / 'report.json').write_text(json.dumps(report, indent=0) + '\n')
  return config


def export(path, output, *, names: str = 'diffusers') -> pathlib.Path:
  """Writes our weights as one safetensors file under the names of others, with a config.json;
  returns the file.

  Args:
    path: a folder of converted weights.
    output: the folder to write.
    names: a scheme of the network; 'ldm' has the prefixes of files that hold all networks.

  Raises:
    UserError: the folder is missing, damaged or of another network, the scheme is none of the
      network, or the output exists.
  """
  if not (pathlib.Path(path) / 'config.json').is_file():
    raise UserError(
      f'there are no converted weights at {path}: make them with `python -m exp_jax.convert.sd '
      'import`'
    )
  network = read_json(pathlib.Path(path) / 'config.json').get('network')
  if network not in sd_names.SCHEMES:
    raise UserError(
      f'{path} holds the network {shown(repr(network), 40)}, which is none of '
      f'{", ".join(sd_names.SCHEMES)}'
    )
  if names not in sd_names.SCHEMES[network]:
    raise UserError(
      f'{network} has no {names} names, choose from {", ".join(sd_names.SCHEMES[network])}'
    )
  weights = load_weights(path, network)
  model = model_of(network, weights.sizes)
  pieces = plan_of(network, model, names, weights.config.get('projection', ''))
  prefix = sd_names.PREFIXES[network] if names == 'ldm' else ''
  view = lambda leaf, layout: sd_names.from_ours(np.asarray(weights.arrays[leaf]), layout)
  entries = {
    prefix + name: (view(leaf, layout).shape, weights.arrays[leaf].dtype)
    for name, (leaf, layout) in pieces.items()
  }
  positions = weights.config.get('positions', 0)
  buffers = sd_names.position_buffers(model, names) if positions else {}
  kind = next(iter(weights.arrays.values())).dtype
  entries |= {name: ((1, positions, width), kind) for name, width in buffers.items()}
  file = 'diffusion_pytorch_model.safetensors' if names == 'diffusers' else 'model.safetensors'
  with manifest.new_folder(output) as folder:
    with SafetensorsWriter(folder / file, entries, {'format': 'pt'}) as writer:
      for name, (leaf, layout) in tqdm(pieces.items(), unit='tensor', desc=file):
        writer.write(prefix + name, view(leaf, layout))
      for name, width in buffers.items():
        writer.write(name, frame_positions(positions, width)[None])
    if names == 'diffusers':
      (folder / 'config.json').write_text(
        json.dumps(_foreign_config(network, model, weights.config), indent=2) + '\n'
      )
  return pathlib.Path(output) / file


def sizes_of(network: str, model: SdUNet | SdVAE) -> dict:
  """Those fields of a network that a folder of weights keeps; see `model_of`."""
  return {name: getattr(model, name) for name in _FIELDS[network]}


def model_of(network: str, sizes: dict) -> SdUNet | SdVAE:
  """The network of a folder of weights, with its `sizes`; of motion modules, a UNet that has
  them."""
  if network == 'sd_vae':
    return SdVAE(**sizes)
  return (
    SdUNet(**sizes)
    if network == 'sd_unet'
    else SdUNet(heads=(1,) * len(sizes['widths']), text_dim=0, motion='frame', **sizes)
  )


def _foreign_config(network, model, config):
  """The config.json that diffusers expects."""
  if network == 'sd_vae':
    levels = len(model.multipliers)
    return dict(
      _class_name='AutoencoderKL',
      act_fn='silu',
      block_out_channels=[model.width * m for m in model.multipliers],
      down_block_types=['DownEncoderBlock2D'] * levels,
      up_block_types=['UpDecoderBlock2D'] * levels,
      in_channels=3,
      out_channels=3,
      latent_channels=model.channels,
      layers_per_block=model.blocks,
      norm_num_groups=32,
      sample_size=512,
      scaling_factor=0.18215,
    )
  if network == 'sd_motion':
    return dict(
      _class_name='MotionAdapter',
      block_out_channels=list(model.widths),
      motion_layers_per_block=model.blocks,
      motion_max_seq_length=config.get('positions') or 32,
      motion_mid_block_layers_per_block=1,
      motion_norm_num_groups=32,
      motion_num_attention_heads=model.motion_heads,
      use_motion_mid_block=model.motion_middle,
    )
  last = len(model.widths) - 1
  heads = model.heads[0] if len(set(model.heads)) == 1 else list(model.heads)
  return dict(
    _class_name='UNet2DConditionModel',
    act_fn='silu',
    attention_head_dim=heads,
    block_out_channels=list(model.widths),
    center_input_sample=False,
    cross_attention_dim=model.text_dim or None,
    downsample_padding=1,
    flip_sin_to_cos=True,
    freq_shift=0,
    down_block_types=['CrossAttnDownBlock2D'] * last + ['DownBlock2D'],
    up_block_types=['UpBlock2D'] + ['CrossAttnUpBlock2D'] * last,
    in_channels=model.in_channels,
    out_channels=model.out_channels,
    layers_per_block=model.blocks,
    mid_block_scale_factor=1,
    norm_eps=1e-5,
    norm_num_groups=32,
    sample_size=64,
    use_linear_projection=config['projection'] == 'linear',
  )
