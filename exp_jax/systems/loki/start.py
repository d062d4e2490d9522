"""What a training starts from: the weights of Stable Diffusion, or the tiny prior, in the generator and in the reference network.

The generator has no text, so that the cross-attentions of a checkpoint (`cross`, `norm2`) are left out there and nowhere else.
"""

import json
import pathlib

import jax
import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.resources import package_file
from exp_jax.files.safetensors import flattened, nested
from exp_jax.networks.weights import FORMAT, load_weights
from exp_jax.systems.loki.model import Networks
from exp_jax.training.exports import load_export

SCRATCH, EMBEDDED = 'scratch', 'embedded'
PRIOR = 'sd/prior'


def prior_folder(name: str) -> pathlib.Path:
  """The folder that `model.weights` names; 'embedded' is the tiny prior of the package."""
  return package_file('embedded', 'sd_tiny') if name == EMBEDDED else pathlib.Path(name)


def read_prior(name: str) -> dict[str, np.ndarray]:
  """{path: array} of a UNet: an export of task 'sd/prior', or a folder of `exp_jax.convert.sd`.

  Raises:
    UserError: nothing there, damaged, or of another kind.
  """
  folder = prior_folder(name)
  try:
    converted = json.loads((folder / 'config.json').read_text()).get('format') == FORMAT
  except (OSError, ValueError, AttributeError):
    converted = False
  if converted:
    return load_weights(folder, 'sd_unet').arrays
  config, params = load_export(folder)
  if config.task != PRIOR:
    raise UserError(f'{folder} is an export of {config.task!r}, Loki starts from one of {PRIOR!r} or from a folder of '
                    '`python -m exp_jax.convert.sd import`')
  return flattened(params)


def without_text(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of a UNet but those of its cross-attentions and of the norms before them."""
  return {name: array for name, array in arrays.items() if '.block.cross.' not in name and '.block.norm2.' not in name}


def _fits(arrays: dict, like: dict, what: str, name: str) -> dict:
  """`arrays` nested, checked leaf by leaf."""
  leaves = flattened(like)
  remedy = 'set config.model.variant to theirs'
  if missing := sorted(set(leaves) - set(arrays)):
    raise UserError(f'the weights {name!r} lack {missing[0]} ({len(missing)} in all) of the {what}: {remedy}')
  if extra := sorted(set(arrays) - set(leaves)):
    raise UserError(f'the weights {name!r} hold {extra[0]} ({len(extra)} in all), which the {what} has not: {remedy}')
  for leaf, like in leaves.items():
    if arrays[leaf].shape != like.shape:
      raise UserError(f'{leaf} has shape {arrays[leaf].shape} in the weights {name!r}, {like.shape} in the {what}: {remedy}')
  return nested(arrays.items())


def start_fn(config, networks: Networks, init_fn):
  """What `Task.start` wants: None from scratch, else a function that reads the weights.

  Raises:
    UserError: the config does not say what it starts from.
  """
  name = config.model.weights
  if not name:
    raise UserError('config.model.weights is empty, so the networks would start from noise: name a folder of `python -m '
                    f"exp_jax.convert.sd import` or an export of {PRIOR!r}, '{EMBEDDED}', or say config.model.weights='{SCRATCH}'")
  if name == SCRATCH:
    return None

  def start():
    like, arrays = jax.eval_shape(init_fn, jax.random.key(0)), read_prior(name)
    found = {'generator': _fits(without_text(arrays), like['generator'], 'generator', name)}
    if networks.reference is not None and config.model.reference != 'random':
      found['reference'] = _fits(arrays, like['reference'], 'reference network', name)
    return found

  return start
