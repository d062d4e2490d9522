"""MagicPortrait's six published files as one export of ours, and back.

Accepted only if every tensor that is not left out by name is used once and every leaf is filled
once. The files say nothing of the
maps that they were trained on: the export has the config `configs/magicportrait.py:stage2`, whose
maps are the published ones, with the sizes that the files show.
"""

import contextlib
import functools
import pathlib

import jax
import numpy as np

from exp_jax.convert.foreign.book import Entry, check_names, check_table
from exp_jax.convert.magicportrait.magic_names import (
  APPEARANCE,
  DENOISER,
  ENCODERS,
  FILES,
  MOTION,
  POSITIONS,
  encoder_names,
  file_names,
  unused,
  unused_shapes,
)
from exp_jax.convert.sd.sd_conversion import read_plan
from exp_jax.convert.sd.sd_files import find_network, open_file
from exp_jax.convert.sd.sd_names import from_ours, position_buffers, to_ours
from exp_jax.errors import UserError
from exp_jax.files import manifest
from exp_jax.files.foreign_tensors import check_finite
from exp_jax.files.safetensors import flattened, nested, write_safetensors
from exp_jax.networks.codec import Codec
from exp_jax.networks.motion_module import frame_positions
from exp_jax.systems.magicportrait.model import PROMPT, Networks, initial_params, networks_of
from exp_jax.training.exports import load_export, write_export

_SUFFIXES = ('.pth', '.safetensors', '.bin', '.pt')


def latent_codec(channels: int, stride: int = 8) -> Codec:
  """An autoencoder of these sizes that codes nothing: where shapes alone are wanted."""
  nothing = lambda x: x
  return Codec((1, stride, stride), channels, nothing, nothing, lambda: nothing)


def leaves_of(networks: Networks, channels: int, size: int) -> dict[str, jax.ShapeDtypeStruct]:
  """{path joined by dots: shape} of all parameters; nothing is computed."""
  codec = latent_codec(channels, networks.encoder.stride)
  return flattened(
    jax.eval_shape(
      functools.partial(initial_params, networks, size=size, codec=codec), jax.random.key(0)
    )
  )


def find_files(folder) -> dict[str, pathlib.Path]:
  """{one of FILES: path} in a folder; the motion module's name may end with a number of steps.

  Raises:
    UserError: one is missing, or there are two of a kind.
  """
  folder, found = pathlib.Path(folder), {}
  if not folder.is_dir():
    raise UserError(
      f"{folder} is no folder: name the one with MagicPortrait's six files ({', '.join(FILES)})"
    )
  for name in FILES:
    here = sorted(
      p
      for p in folder.iterdir()
      if p.suffix in _SUFFIXES
      and (p.stem == name or name == MOTION and p.stem.startswith(f'{MOTION}-'))
    )
    if len(here) != 1:
      what = (
        f'has no {name}.pth' if not here else f'has {" and ".join(p.name for p in here)}: leave one'
      )
      raise UserError(f'{folder} {what}; six files make a MagicPortrait ({", ".join(FILES)})')
    found[name] = here[0]
  return found


def _read_unet(path: pathlib.Path, network: str, part: str, heads) -> tuple[dict, object]:
  """({leaf: array}, the model) of a UNet's or the motion modules' file."""
  found = find_network(path, network)
  with contextlib.closing(found.source) as source:
    plan = read_plan(found, heads, path)
    if found.scheme == 'ldm':
      raise UserError(
        f"{path} has the names of the first release of Stable Diffusion; MagicPortrait's files "
        'have those of diffusers'
      )
    if found.left_out:
      raise UserError(
        f'{path} holds {found.left_out[0]} ({len(found.left_out)} in all) beside the {network}: '
        'which is meant is not '
        'known'
      )
    return {
      f'{part}.{leaf}': to_ours(check_finite(source.read(name), name, path), layout)
      for name, (leaf, layout) in plan.pieces.items()
    }, plan.model


def _read_encoder(path: pathlib.Path, networks: Networks, name: str, leaves: dict) -> dict:
  table, attentions = (
    encoder_names(networks.encoder, f'guidance.{name}'),
    2 * (len(networks.encoder.widths) - 1),
  )
  with contextlib.closing(open_file(path)) as source:
    given = [tensor for tensor in source.names if not unused(tensor, attentions)]
    check_names(table, given, f'{path} is not a guidance encoder of MagicPortrait')
    values = {}
    for tensor, (leaf, layout) in table.items():
      value = check_finite(source.read(tensor), tensor, path)
      try:
        # some store these as linear layers
        value = to_ours(value, 'linear' if layout == 'point' and value.ndim == 2 else layout)
      except ValueError:
        value = np.zeros(0)
      if value.shape != leaves[leaf].shape:
        raise UserError(
          f'{path}: {tensor} has shape {source.shape(tensor)}, which does not fit {leaf} '
          f'{leaves[leaf].shape}'
        )
      values[leaf] = value
  return values


def convert(
  folder, output, config, *, prompt, vae: str, dtype: str = 'bfloat16', heads: int | None = None
) -> None:
  """Writes an export that `exp_jax.animate --engine magicportrait` loads.

  Args:
    folder: with the six files, as torch.save or safetensors.
    config: of configs/magicportrait.py:stage2.
    prompt: npz of `exp_jax.convert.sd prompts` with the sentence.
    vae: a folder of `exp_jax.convert.sd` with the autoencoder.
    dtype: of the export.
    heads: of UNets and motion modules; None: 8, the published number.

  Raises:
    UserError: a file or tensor that is missing, left over, of another shape, or not finite; the
      output exists.
  """
  files, given = find_files(folder), None if heads is None else (heads,)
  values, unet = _read_unet(files[DENOISER], 'sd_unet', 'denoiser', given)
  more, appearance = _read_unet(files[APPEARANCE], 'sd_unet', 'appearance', given)
  motion, modules = _read_unet(files[MOTION], 'sd_motion', 'denoiser', given)
  for name in ('widths', 'blocks'):
    for what, model in ((APPEARANCE, appearance), (MOTION, modules)):
      if getattr(model, name) != getattr(unet, name):
        raise UserError(
          f'{files[what]} has {name} {getattr(model, name)}, the denoiser {getattr(unet, name)}: '
          'these are two models'
        )
  if not unet.head or appearance.head:
    raise UserError(
      f'{folder}: {DENOISER} has an output convolution and {APPEARANCE} has none; are the two '
      'exchanged?'
    )
  config = config.copy_and_resolve_references().unlock()
  config.model.update(
    widths=unet.widths,
    heads=unet.heads,
    blocks=unet.blocks,
    text_dim=unet.text_dim,
    prompt=str(prompt),
  )
  config.vae.path = vae
  networks = networks_of(config.lock(), latent_codec(unet.in_channels))
  leaves = leaves_of(networks, unet.in_channels, config.data.size)
  values |= more | motion
  for name in networks.maps:
    values |= _read_encoder(files[ENCODERS[name]], networks, name, leaves)
  _check(networks, leaves, values)
  config = config.copy_and_resolve_references().unlock()
  config.model.prompt = ''
  write_export(output, config.lock(), nested(values.items()), dtype=dtype, files={PROMPT: prompt})


def _check(networks: Networks, leaves: dict, values: dict) -> None:
  table = [
    Entry((leaf,), (f'{file}:{name}',))
    for file, names in file_names(networks).items()
    for name, (leaf, _) in names.items()
  ]
  check_table(table, {name: leaf.shape for name, leaf in leaves.items()})
  wrong = [
    name for name, leaf in leaves.items() if name not in values or values[name].shape != leaf.shape
  ]
  if wrong or len(values) != len(leaves):
    raise UserError(
      f'the files do not fit each other: {wrong[:1] or "a leaf is left over"} ({len(wrong)} in all)'
    )


def export(path, output) -> list[pathlib.Path]:
  """Writes an export of the second stage as six safetensors files under the published names;
  returns the files.

  Raises:
    UserError: it is an export of something else or of another layout, or the output exists.
  """
  path = pathlib.Path(path)
  config, params = load_export(path)
  if config.task != 'magicportrait/stage2':
    raise UserError(
      f'{path} is an export of {config.task!r}; published files are of magicportrait/stage2'
    )
  if (
    set(config.condition.maps) != set(ENCODERS)
    or config.model.fusion != 'concat'
    or not config.condition.attend
  ):
    raise UserError(
      f'{path} is an ablation (condition.maps {tuple(config.condition.maps)}, model.fusion '
      f'{config.model.fusion!r}): '
      'published files have depth, normals and render, fusion concat, and attention in the encoders'
    )
  config = config.copy_and_resolve_references().unlock()
  if (path / PROMPT).is_file():
    config.model.prompt = str(path / PROMPT)
  flat = flattened(params)
  channels = flat['denoiser.conv_in.kernel'].shape[2]
  stride = 2 ** (
    len(
      [
        leaf
        for leaf in flat
        if leaf.startswith('guidance.depth.stem.block') and leaf.endswith('.bias')
      ]
    )
    // 2
  )
  networks = networks_of(config.lock(), latent_codec(channels, stride))
  if networks.encoder.fold != 1:
    raise UserError(
      f'{path} folds its maps, which the published encoders do not: it has no published names'
    )
  tables = file_names(networks)
  with manifest.new_folder(output) as folder:
    for file, table in tables.items():
      arrays = {
        name: np.ascontiguousarray(from_ours(flat[leaf], layout))
        for name, (leaf, layout) in table.items()
      }
      if file == MOTION:
        buffers = position_buffers(networks.denoiser, 'animatediff')
        arrays |= {name: frame_positions(POSITIONS, width)[None] for name, width in buffers.items()}
      elif file in ENCODERS.values():
        arrays |= {
          name: np.zeros(shape, np.float32)
          for name, shape in unused_shapes(networks.encoder).items()
        }
      write_safetensors(folder / f'{file}.safetensors', arrays)
  return [pathlib.Path(output) / f'{file}.safetensors' for file in tables]
