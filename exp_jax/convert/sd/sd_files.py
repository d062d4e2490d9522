"""Files of Stable Diffusion as people have them: which networks lie in a file or folder, under
which names, behind which prefix.

  a folder of diffusers, whole (unet/, vae/, motion_adapter/) or one of those | an index | a
  safetensors file | a file of torch.save

A file of the first release holds all networks behind prefixes, and the text encoder, schedules and
averages beside them, which are left out by a list. Files of torch.save keep it all in `state_dict`;
what trainers put beside that dictionary is never looked at.
"""

import dataclasses
import pathlib
import re

from exp_jax.convert.sd.sd_names import PREFIXES, SCHEMES
from exp_jax.convert.wan_weights.wan_files import Checkpoint, is_torch, open_checkpoint, open_torch
from exp_jax.errors import UserError
from exp_jax.files.foreign_tensors import read_json, shown

# of a whole release in diffusers' layout
_FOLDERS = {'sd_unet': 'unet', 'sd_vae': 'vae', 'sd_motion': 'motion_adapter'}
_MAIN_FILE = 'diffusion_pytorch_model.safetensors'
_NESTED, _WRAPPER = 'state_dict.', 'module.'
_MARKS = {  # a tensor that each network has in each scheme, without prefix
  ('sd_unet', 'diffusers'): 'down_blocks.0.resnets.0.time_emb_proj.weight',
  ('sd_unet', 'ldm'): 'input_blocks.0.0.weight',
  ('sd_vae', 'diffusers'): 'encoder.down_blocks.0.resnets.0.conv1.weight',
  ('sd_vae', 'ldm'): 'encoder.down.0.block.0.conv1.weight',
  ('sd_motion', 'diffusers'): 'down_blocks.0.motion_modules.0.proj_in.weight',
  (
    'sd_motion',
    'animatediff',
  ): 'down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight',
}
# What files of the first release hold beside the networks: averages, the text encoder, schedules,
# losses of training.
_LEFT_OUT = re.compile(
  r'(model_ema\.|cond_stage_model\.|loss\.|(sqrt_(recip_|recipm1_|one_minus_)?|log_one_minus_)?alphas_cumprod(_prev)?$|betas$|'
  r'posterior_(variance|log_variance_clipped|mean_coef[12])$|lvlb_weights$|logvar$|scale_factor$)'
)
# of an autoencoder, in old folders
_OLD_ATTENTION = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}


@dataclasses.dataclass(frozen=True)
class Found:
  """One network in an open file.

  Attributes:
    source: the file, whose tensors go by the names of the scheme now.
    network: a key of SCHEMES.
    scheme: one of its entries.
    prefix: what stood before the names.
    left_out: names of the file that belong to other networks, or to none.
    folder: where the file lies; of a release in diffusers' layout, the folder of the whole.
  """

  source: Checkpoint
  network: str
  scheme: str
  prefix: str
  left_out: list[str]
  folder: pathlib.Path


def open_file(path, part=None):
  """A checkpoint whose names have neither the dictionary that they lay in nor a wrapper's
  prefix."""
  if (
    path.is_dir() and (path / _MAIN_FILE).is_file()
  ):  # beside it may lie the same in half precision, or without average
    path = path / _MAIN_FILE
  if path.is_dir() or not is_torch(path):
    return open_checkpoint(path, part=part)
  if part is not None:
    return open_torch(path, part=part)
  source = open_torch(path, joined=True)
  inside = [name for name in source.names if name.startswith(_NESTED)]
  if inside:
    source.rename({name.removeprefix(_NESTED): name for name in inside}, _NESTED)
  return source


def _folder_of(path, network):
  """The folder of one network in a whole release of diffusers, or the path itself."""
  if not path.is_dir():
    return path
  inside = {name: path / folder for name, folder in _FOLDERS.items() if (path / folder).is_dir()}
  if network in inside:
    return inside[network]
  if inside and network is None:
    if len(inside) > 1:
      raise UserError(f'{path} holds {" and ".join(inside)}: say with --network which is meant')
    return next(iter(inside.values()))
  return path


def _networks_in(names) -> list[tuple[str, str, str]]:
  """(network, scheme, prefix) of every network that a file holds."""
  found = []
  for (network, scheme), mark in _MARKS.items():
    prefixes = (PREFIXES[network], '') if scheme == 'ldm' else ('',)
    found += [(network, scheme, prefix) for prefix in prefixes if prefix + mark in names]
  return found


def find_network(path, network: str | None = None, *, part: str | None = None) -> Found:
  """Opens a file or folder and finds a network in it.

  Args:
    path: see the head of the file.
    network: which is meant, a key of SCHEMES; None where there is only one.
    part: of a file of torch.save with several dictionaries.

  Raises:
    UserError: nothing there, damaged, none of these networks, several and none was named, or not
      the one that was named.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise UserError(f'{path} does not exist')
  place = _folder_of(path, network)
  source = open_file(place, part)
  if source.names and all(name.startswith(_WRAPPER) for name in source.names):
    source.rename({name.removeprefix(_WRAPPER): name for name in source.names}, _WRAPPER)
  names = set(source.names)
  inside = _networks_in(names)
  if not inside:
    raise UserError(
      f'{path} holds no network of Stable Diffusion ({", ".join(SCHEMES)}); it starts with '
      f'{shown(sorted(names)[:2])}'
    )
  chosen = [entry for entry in inside if network in (None, entry[0])]
  if not chosen:
    raise UserError(f'{path} holds {" and ".join(entry[0] for entry in inside)}, no {network}')
  if len(chosen) > 1:
    raise UserError(
      f'{path} holds {" and ".join(entry[0] for entry in inside)}: say with --network which is '
      'meant'
    )
  ((network, scheme, prefix),) = chosen
  others = [entry for entry in inside if entry[0] != network]
  kept, left_out = {}, []
  for name in source.names:
    if _of_others(name, scheme, prefix, network, others):
      left_out.append(name)
    else:
      own = name.removeprefix(prefix)
      kept[_modern(own) if (network, scheme) == ('sd_vae', 'diffusers') else own] = name
  source.rename(kept, prefix)
  folder = path if path.is_dir() else path.parent
  return Found(source, network, scheme, prefix, left_out, folder)


def _of_others(name, scheme, prefix, network, others):
  """Whether a tensor is none of the network's: of another network in the file, or of the list of
  what is left out."""
  if scheme == 'ldm':
    elsewhere = any(name.startswith(other) for other in PREFIXES.values() if other != prefix)
    return elsewhere or bool(_LEFT_OUT.match(name))
  of_motion = '.motion_modules.' in name
  return bool(others) and of_motion != (network == 'sd_motion')


def _modern(name):
  """Names of an autoencoder's attention as diffusers has them now."""
  stem, _, rest = name.partition('.mid_block.attentions.0.')
  first, _, kind = rest.rpartition('.')
  return (
    f'{stem}.mid_block.attentions.0.{_OLD_ATTENTION[first]}.{kind}'
    if first in _OLD_ATTENTION
    else name
  )


def prediction_of(found: Found) -> str:
  """'eps', 'v' or 'unknown': what the network was trained to predict, as the scheduler of a release
  in diffusers' layout says."""
  for folder in (found.folder, found.folder.parent):
    file = folder / 'scheduler' / 'scheduler_config.json'
    if file.is_file():
      said = read_json(file).get('prediction_type', 'epsilon')
      names = {'epsilon': 'eps', 'v_prediction': 'v', 'sample': 'x0'}
      if said not in names:
        raise UserError(
          f'{file} says prediction_type {shown(repr(said), 40)}, expected one of {sorted(names)}'
        )
      return names[said]
  return 'unknown'
