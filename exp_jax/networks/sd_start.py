"""What a training starts from: the weights of a Stable Diffusion UNet, converted, or those of a
prior that was trained here.

A network that has no text leaves the cross-attentions of a checkpoint (`cross`, `norm2`) out, and
nothing else. One without a head leaves out its last norm and convolution.
"""

import json
import pathlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.npz import read_npz
from exp_jax.files.resources import package_file
from exp_jax.files.safetensors import flattened, nested
from exp_jax.networks.weights import FORMAT, load_weights
from exp_jax.training.exports import load_export

SCRATCH, EMBEDDED = 'scratch', 'embedded'
PRIOR = 'sd/prior'
TOKENS = 77  # of a prompt, as Stable Diffusion pads it


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
    raise UserError(
      f'{folder} is an export of {config.task!r}; networks start from one of {PRIOR!r} or from a '
      'folder of '
      '`python -m exp_jax.convert.sd import`'
    )
  return flattened(params)


def without_text(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of a UNet but those of its cross-attentions and of the norms before them."""
  return {
    name: array
    for name, array in arrays.items()
    if '.block.cross.' not in name and '.block.norm2.' not in name
  }


def without_head(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of a UNet but those of its last norm and convolution."""
  return {
    name: array for name, array in arrays.items() if not name.startswith(('norm_out.', 'conv_out.'))
  }


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
    raise UserError(
      f'the weights {name!r} lack {missing[0]} ({len(missing)} in all) of the {what}: {remedy}'
    )
  if extra := sorted(set(arrays) - set(leaves)):
    raise UserError(
      f'the weights {name!r} hold {extra[0]} ({len(extra)} in all), which the {what} has not: '
      f'{remedy}'
    )
  for leaf, like in leaves.items():
    if arrays[leaf].shape != like.shape:
      raise UserError(
        f'{leaf} has shape {arrays[leaf].shape} in the weights {name!r}, {like.shape} in the '
        f'{what}: {remedy}'
      )
  return nested(arrays.items())


def named_start(config) -> str | None:
  """What a config's `model.weights` says to start from; None from scratch.

  Raises:
    UserError: it says nothing.
  """
  name = config.model.weights
  if not name:
    raise UserError(
      'config.model.weights is empty, so the networks would start from noise: name a folder of '
      '`python -m '
      f"exp_jax.convert.sd import` or an export of {PRIOR!r}, '{EMBEDDED}', or say "
      f"config.model.weights='{SCRATCH}'"
    )
  return None if name == SCRATCH else name


def _how_to_make(sentence: str) -> str:
  return (
    f'make it by `python -m exp_jax.convert.sd prompts FOLDER -o prompts.npz --prompt "{sentence}"`'
  )


def check_prompt(path: str, sentence: str) -> None:
  """Raises UserError where the file that a config names is not there: a run may be planned without
  it, not begun."""
  if path and not pathlib.Path(path).is_file():
    raise UserError(
      f'the prompt {path!r} of config.model.prompt is not there: {_how_to_make(sentence)}'
    )


def read_prompt(path: str, width: int, sentence: str, *, planned: bool = False) -> np.ndarray:
  """float32 [1, M, width]: what a network reads in place of a text, which is the same for all
  pictures.

  Args:
    path: of a file by `exp_jax.convert.sd prompts`.
    sentence: whose embedding is meant, for complaints.
    planned: shapes alone are wanted: zeros where the file is not there yet.

  Raises:
    UserError: no file is named, or it holds no such embedding.
  """
  if not path:
    raise UserError(
      'the networks read the embedding of '
      f'{f"the prompt {sentence!r}" if sentence else "the empty prompt"}: '
      f'{_how_to_make(sentence)} and set config.model.prompt'
    )
  if planned and not pathlib.Path(path).exists():
    return np.zeros((1, TOKENS, width), np.float32)
  text = read_npz(path).get('positive', np.zeros(0)).astype(np.float32)
  if text.ndim != 2 or text.shape[1] != width or not np.isfinite(text).all():
    raise UserError(
      f'{path} holds a prompt of shape {text.shape}, this network reads finite numbers of width '
      f'{width}'
    )
  return text[None]
