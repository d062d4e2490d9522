"""The one prompt of all clips: where it lies and what the network reads of it."""

import pathlib

import numpy as np

from exp_jax.data.sources import PROMPT
from exp_jax.errors import UserError
from exp_jax.files.npz import read_npz

CLIP_TOKENS = 257


def prompt_file(config, folder=None) -> tuple[pathlib.Path | None, str]:
  """(file, entry) of the one prompt of all clips; (None, '') for 'zeros', its padding alone.

  Args:
    folder: an export, which carries the file.

  Raises:
    UserError: the prompt is empty, and nobody stored its embedding.
  """
  path = config.flow.get('prompt', '')
  if path == 'zeros':
    return None, ''
  entry, data = 'positive' if path else 'empty', pathlib.Path(config.data.path)
  beside = (data if data.is_dir() else data.parent) / PROMPT
  if folder and (pathlib.Path(folder) / PROMPT).is_file():
    return pathlib.Path(folder) / PROMPT, entry
  if path or beside.is_file():
    return pathlib.Path(path) if path else beside, entry
  raise UserError(
    f'{str(beside)!r} should hold the embedding of the empty prompt and is not there: encode the '
    'records with --prompt '
    "FILE, name a file in config.flow.prompt, or say config.flow.prompt='zeros'"
  )


def text_of(config, width: int, name: str = 'positive', *, folder=None) -> np.ndarray | None:
  """[1, tokens, width] of the one prompt of all clips, see `prompt_file`; None for a network that
  reads no text.

  `name` 'negative' is what guidance compares with; None where the file has none.
  """
  if not width:
    return None
  path, entry = prompt_file(config, folder)
  if path is None:
    return np.zeros((1, config.flow.text_tokens, width), np.float32) if name == 'positive' else None
  found = read_npz(path, ('positive', 'empty', 'negative'))
  if name == 'negative' and name not in found:
    return None
  text = found.get(entry if name == 'positive' else name)
  if (
    text is None
    or text.ndim != 2
    or text.shape[1] != width
    or text.shape != found['positive'].shape
  ):
    raise UserError(
      f'{path} holds no {name} [tokens, {width}]: make it with `python -m '
      'exp_jax.convert.wan_towers prompts`'
    )
  return text[None].astype(np.float32)


def text_or_padding(config, width: int) -> np.ndarray | None:
  """`text_of`; zeros where its file is not there, for shapes and dry runs: `examples` lets no run
  begin without it."""
  try:
    if width:
      prompt_file(config)
  except UserError:
    return np.zeros((1, config.flow.text_tokens, width), np.float32)
  return text_of(config, width)
