"""A checkpoint of Loki's published code as an export of ours, and back.

Accepted only if every tensor that is not left out by name is used once and every leaf is filled
once. What was trained on which
maps is not in the file: the export has the config `configs/loki.py`, with the sizes that the file
shows.
"""

import contextlib
import functools
import json
import pathlib

import jax
import numpy as np

from exp_jax.convert.foreign.book import Entry, check_names, check_table
from exp_jax.convert.loki.loki_names import (
  ENCODER,
  GENERATOR,
  LEFT_OUT,
  REFERENCE,
  encoder_leaves,
  unet_names,
)
from exp_jax.convert.sd.sd_files import open_file
from exp_jax.convert.sd.sd_names import from_ours, to_ours
from exp_jax.convert.sd.sd_sizes import unet_of
from exp_jax.errors import UserError
from exp_jax.files.foreign_tensors import check_finite
from exp_jax.files.safetensors import flattened, nested, write_safetensors
from exp_jax.networks.codec import Codec
from exp_jax.systems.loki.model import PROMPT, Networks, initial_params, networks_of
from exp_jax.training.exports import load_export, write_export

_ORDER = (
  'encoder_names.json'  # in a converted export: the file's own names of the encoder, in order
)


def _codec(channels: int) -> Codec:
  """Of the right strides; nothing is encoded."""
  nothing = lambda x: x
  return Codec((1, 8, 8), channels, nothing, nothing, lambda: nothing)


def leaves_of(networks: Networks, channels: int, size: int) -> dict[str, jax.ShapeDtypeStruct]:
  """{path: shape} of all parameters."""
  return flattened(
    jax.eval_shape(
      functools.partial(initial_params, networks, size=size, codec=_codec(channels)),
      jax.random.key(0),
    )
  )


def names_of(networks: Networks, encoder: list[str], leaves: dict) -> dict[str, tuple[str, str]]:
  """{name in the file: (leaf, layout)}, checked to fill every leaf once.

  Args:
    encoder: the file's names of the encoder, in the order of its layers.
    leaves: of `leaves_of`.

  Raises:
    UserError: the encoder has another number of tensors.
  """
  own = encoder_leaves(networks.encoder)
  if len(encoder) != len(own):
    raise UserError(
      f'the map encoder of the file has {len(encoder)} tensors, {len(own)} were expected: it is of '
      'another network'
    )
  table = unet_names(networks.generator, 'generator', GENERATOR) | unet_names(
    networks.reference, 'reference', REFERENCE
  )
  table |= dict(zip(encoder, own))
  check_table(
    [Entry((leaf,), (name,)) for name, (leaf, _) in table.items()],
    {name: leaf.shape for name, leaf in leaves.items()},
  )
  return table


def _sized(config, names: dict[str, tuple], where):
  """The config with the widths and heads that the file shows."""
  inside = {
    name.removeprefix(GENERATOR): shape
    for name, shape in names.items()
    if name.startswith(GENERATOR)
  }
  model, projection = unet_of(inside, 'ldm', None, {}, where)
  if projection != 'linear':
    raise UserError(
      f'{where} has 1x1 convolutions around its transformers; Loki starts from Stable Diffusion '
      '2.1, which has none'
    )
  config = config.copy_and_resolve_references().unlock()
  config.model.update(widths=model.widths, heads=model.heads, blocks=model.blocks)
  return config, model.in_channels


def convert(path, output, config, *, prompt, vae: str, dtype: str = 'bfloat16') -> None:
  """Writes an export that `exp_jax.animate --engine loki` loads.

  Args:
    path: a file of torch.save, or safetensors in the order of the network.
    config: of configs/loki.py.
    prompt: npz of `exp_jax.convert.sd prompts` with the empty sentence.
    vae: a folder of `exp_jax.convert.sd` with the autoencoder.
    dtype: of the export.

  Raises:
    UserError: a tensor that is missing, left over, of another shape, or not finite; the output
      exists.
  """
  with contextlib.closing(open_file(pathlib.Path(path))) as source:
    kept = [name for name in source.names if not _left_out(name)]
    shapes = {name: source.shape(name) for name in kept}
    config, channels = _sized(config, shapes, path)
    config.model.prompt, config.vae.path = str(prompt), vae
    networks = networks_of(config.lock(), _codec(channels))
    leaves = leaves_of(networks, channels, config.data.size)
    encoder = [name for name in kept if name.startswith(ENCODER)]
    table = names_of(networks, encoder, leaves)
    check_names(table, kept, f'{path} is not a whole checkpoint of Loki')
    for name, (leaf, layout) in table.items():
      try:
        fits = (
          to_ours(np.broadcast_to(np.zeros((), np.uint8), shapes[name]), layout).shape
          == leaves[leaf].shape
        )
      except ValueError:
        fits = False
      if not fits:
        raise UserError(
          f'{path}: {name} has shape {shapes[name]}, which does not fit {leaf} '
          f'{leaves[leaf].shape}; the map encoder '
          'is read in the order of its layers, which a file of torch.save keeps'
        )
    values = {
      leaf: to_ours(check_finite(source.read(name), name, path), layout)
      for name, (leaf, layout) in table.items()
    }
  config = config.copy_and_resolve_references().unlock()
  config.model.prompt = ''
  write_export(
    output,
    config.lock(),
    nested(values.items()),
    dtype=dtype,
    files={PROMPT: prompt},
    texts={_ORDER: json.dumps(encoder)},
  )


def _left_out(name: str) -> bool:
  return bool(LEFT_OUT.match(name))


def export(path, output) -> pathlib.Path:
  """Writes a converted export as one safetensors file under the published code's names; returns the
  file.

  Raises:
    UserError: it is no export that was converted, or the output exists.
  """
  path, output = pathlib.Path(path), pathlib.Path(output)
  config, params = load_export(path)
  if not (path / _ORDER).is_file():
    raise UserError(
      f"{path} was not converted from a checkpoint of Loki's code: its names for the map encoder "
      'are not known'
    )
  if output.exists():
    raise UserError(f'{output} exists already; choose another place')
  config = config.copy_and_resolve_references().unlock()
  config.model.prompt = str(path / PROMPT)
  flat = flattened(params)
  channels = flat['generator.conv_in.kernel'].shape[2]
  networks = networks_of(config.lock(), _codec(channels))
  table = names_of(
    networks,
    json.loads((path / _ORDER).read_text()),
    leaves_of(networks, channels, config.data.size),
  )
  write_safetensors(
    output,
    {
      name: np.ascontiguousarray(from_ours(flat[leaf], layout))
      for name, (leaf, layout) in table.items()
    },
  )
  return output
