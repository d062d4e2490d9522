"""What a training starts from: the weights of a Stable Diffusion UNet, converted, or those of a prior that was trained here.

A network that has no text leaves the cross-attentions of a checkpoint (`cross`, `norm2`) out, and nothing else. One without a head
leaves out its last norm and convolution.
"""

import json
import pathlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.resources import package_file
from exp_jax.files.safetensors import flattened, nested
from exp_jax.networks.weights import FORMAT, load_weights
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
    raise UserError(f'{folder} is an export of {config.task!r}; networks start from one of {PRIOR!r} or from a folder of '
                    '`python -m exp_jax.convert.sd import`')
  return flattened(params)


def without_text(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of a UNet but those of its cross-attentions and of the norms before them."""
  return {name: array for name, array in arrays.items() if '.block.cross.' not in name and '.block.norm2.' not in name}


def without_head(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of a UNet but those of its last norm and convolution."""
  return {name: array for name, array in arrays.items() if not name.startswith(('norm_out.', 'conv_out.'))}


def checked_start(arrays: dict[str, np.ndarray], like: dict, what: str, name: str) -> dict:
  """`arrays` nested, checked leaf by leaf.

  Args:
    arrays: {path: array} of the weights `name`.
    like: nested shapes of the network.
    what: the network in words.

  Raises:
    UserError: a leaf is missing, left over, or of another shape.
  """
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


def named_start(config) -> str | None:
  """What a config's `model.weights` says to start from; None from scratch.

  Raises:
    UserError: it says nothing.
  """
  name = config.model.weights
  if not name:
    raise UserError('config.model.weights is empty, so the networks would start from noise: name a folder of `python -m '
                    f"exp_jax.convert.sd import` or an export of {PRIOR!r}, '{EMBEDDED}', or say config.model.weights='{SCRATCH}'")
  return None if name == SCRATCH else name
