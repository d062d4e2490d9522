"""Dictionaries of arrays that torch.save wrote, read whole, without torch and without running
anything.

`torch_files` knows the formats; here every tensor becomes a numpy array at once, beside the arrays,
numbers and texts that a tracker keeps in the same dictionary.
"""

import os
import pathlib

from exp_jax.convert.foreign.pickle_reader import refusing
from exp_jax.convert.foreign.pickles import plain
from exp_jax.convert.foreign.torch_files import TorchFile
from exp_jax.errors import UserError
from exp_jax.files.foreign_tensors import shown

_LIMIT = 2**30  # bytes of one file; a tracked frame has some hundred kilobytes
_MOST_DEPTH = 32


def read_torch(path: str | os.PathLike) -> dict[str, object]:
  """The dictionary in a file of torch.save, or in a plain pickle of arrays; tensors become numpy
  arrays.

  Raises:
    UserError: no such file, damaged, not a dictionary, or it wants to run something.
  """
  path = pathlib.Path(path)
  if path.is_file() and path.stat().st_size > _LIMIT:
    raise UserError(f'{path} is larger than a gigabyte; files of one frame or clip are expected')
  file = TorchFile(path)
  if not isinstance(file.tree, dict):
    raise UserError(
      f'{path} holds a {type(file.tree).__name__}, a dictionary of arrays was expected'
    )
  with refusing(path, 'a file of arrays'):
    return _tidy(file.tree, str(path), [_LIMIT])


def _tidy(value, where, left, depth=0):
  """Nested dictionaries with string keys and numpy arrays."""
  if depth > _MOST_DEPTH:
    raise UserError(f'{where} is nested too deeply')
  if isinstance(value, dict):
    return {str(k): _tidy(v, f'{where}: {shown(k, 80)}', left, depth + 1) for k, v in value.items()}
  return plain(value, where, left)
