"""Checkpoints as people have them, behind one small interface: names, shapes, types, and one tensor
at a time.

  a .safetensors file | a folder of them, with or without an index | an index.json | a file of
  torch.save (.pth, .bin, .ckpt)

What a file is decides its content, not its name. A folder may hold several shards; with an index
every tensor must lie where the index says. Files of torch go through `torch_files`, which runs
nothing; tensors are read when they are asked for.
"""

import pathlib
import re

import numpy as np

from exp_jax.convert.foreign.torch_files import Tensor, TorchFile
from exp_jax.errors import UserError
from exp_jax.files.foreign_tensors import check_name, read_json, refuse_stand_ins, shown
from exp_jax.files.safetensors import SafetensorsFile

_MOST_DEPTH = 4  # dictionaries inside dictionaries
_OF_TRAINERS = re.compile(
  r'(optim|optimizer|opt_|lr_|scheduler|scaler|rng|callbacks|loops|amp|grad|hyper_parameters)', re.I
)
_SUFFIXES = ('.pth', '.pt', '.bin', '.ckpt')
_INDEX = '.safetensors.index.json'


class Checkpoint:
  """Tensors of one or more safetensors files as one.

  Attributes:
    files: their paths.
    config: of a config.json in the same folder, or empty.
    prefix: what `rename` cut from every name.
  """

  def __init__(self, paths: list[pathlib.Path], config: dict):
    self.files, self.config, self.prefix = paths, config, ''
    self._open, self._from = [SafetensorsFile(p) for p in paths], {}
    for file in self._open:
      for name in file.names:
        if name in self._from:
          raise UserError(
            f'{name} is both in {self._from[name].path} and in {file.path}: which one is meant?'
          )
        self._from[name] = file
    self._raw = {name: name for name in self._from}

  @property
  def names(self) -> list[str]:
    return list(self._raw)

  @property
  def shapes(self) -> dict[str, tuple[int, ...]]:
    """{name: shape} of all tensors."""
    return {name: self.shape(name) for name in self._raw}

  def rename(self, raw: dict[str, str], prefix: str) -> None:
    """Goes by other names from now on: `raw` {new name: name until now}; `prefix` says what was cut
    off."""
    self._raw, self.prefix = {new: self._raw[old] for new, old in raw.items()}, prefix

  def shape(self, name: str) -> tuple[int, ...]:
    """The shape of a tensor."""
    return self._from[self._raw[name]].shape(self._raw[name])

  def dtype(self, name: str) -> np.dtype:
    """The numpy (or ml_dtypes) type of a tensor."""
    return self._from[self._raw[name]].dtype(self._raw[name])

  def where(self, name: str) -> str:
    """The name of the file that holds a tensor."""
    return self._from[self._raw[name]].path.name

  def read(self, name: str) -> np.ndarray:
    """One tensor, read now."""
    return self._from[self._raw[name]].read(self._raw[name])

  def metadata(self) -> dict[str, str]:
    """Texts in the header of the file, or of all files."""
    return {key: text for file in self._open for key, text in file.metadata.items()}

  def close(self) -> None:
    for file in self._open:
      file.close()


class TorchCheckpoint(Checkpoint):
  """A file of torch.save as a checkpoint; `tensors` {name: record of the file}."""

  def __init__(self, file: TorchFile, tensors: dict[str, Tensor], config: dict):
    self.files, self.config, self.prefix = [file.path], config, ''
    self._file, self._from = file, tensors
    self._raw = {name: name for name in tensors}

  def shape(self, name):
    return self._from[self._raw[name]].shape

  def dtype(self, name):
    return self._from[self._raw[name]].kind

  def where(self, name):
    del name
    return self.files[0].name

  def read(self, name):
    return self._file.read(self._from[self._raw[name]], name)

  def metadata(self):
    return {}

  def close(self):
    self._file.close()


def _groups(tree: dict, path) -> dict[str, dict[str, Tensor]]:
  """{where in the file: {name: tensor}} of every dictionary that holds tensors itself; what
  trainers add is left out."""
  found, todo = {}, [('', tree, 0)]
  while todo:
    place, table, depth = todo.pop()
    own = {
      check_name(name, path): value for name, value in table.items() if isinstance(value, Tensor)
    }
    if (
      any(value.shape for value in own.values()) or own and not place
    ):  # beside others, counters are no weights
      found[place] = own
    for key, value in table.items():
      if isinstance(value, dict) and depth < _MOST_DEPTH and not _OF_TRAINERS.match(str(key)):
        todo.append((f'{place}.{key}'.removeprefix('.'), value, depth + 1))
  if len(found) > 1 and not any(value.shape for value in found.get('', {}).values()):
    found.pop('', None)
  return dict(sorted(found.items()))


def open_torch(path, *, part: str | None = None, joined: bool = False) -> TorchCheckpoint:
  """The state dictionary in a file of torch.save, also one inside other dictionaries
  ({'state_dict': ..., 'epoch': 3}).

  Args:
    path: the file.
    part: which dictionary is meant, where there are several ('ema').
    joined: take all of them, their places joined to the names by dots.

  Raises:
    UserError: see `torch_files.TorchFile`; no tensors; or several dictionaries of them.
  """
  file = TorchFile(path)
  groups = _groups(file.tree, path) if isinstance(file.tree, dict) else {}
  if not groups:
    raise UserError(f'{path} holds no dictionary of tensors')
  if joined:
    tensors = {
      f'{place}.{name}' if place else name: value
      for place, own in groups.items()
      for name, value in own.items()
    }
  elif part is not None:
    if part not in groups:
      raise UserError(f'{path} has no part {part!r}, choose from: {_listed(groups)}')
    tensors = groups[part]
  elif len(groups) > 1:
    raise UserError(
      f'{path} holds several dictionaries of tensors: say with --part which is meant: '
      f'{_listed(groups)}'
    )
  else:
    (tensors,) = groups.values()
  config = pathlib.Path(path).parent / 'config.json'
  return TorchCheckpoint(file, tensors, read_json(config) if config.is_file() else {})


def _listed(groups):
  return shown(', '.join(repr(place) for place in groups))


def open_checkpoint(path, *, part: str | None = None) -> Checkpoint:
  """See the head of the file; `part` chooses among the dictionaries of a file of torch.save, see
  `open_torch`.

  Raises:
    UserError: nothing there, an incomplete set of shards, a format that is not read, or a part that
      is not there.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = _in_folder(path)
  if isinstance(path, list):
    found = _of_files(path, path[0].parent)
  elif path.name.endswith(_INDEX):
    found = _by_index(path)
  elif is_torch(path):
    return open_torch(path, part=part)
  else:
    found = _of_files([path], path.parent)
  if part is not None:
    raise UserError(
      f'--part {part} is for files of torch.save with dictionaries inside, which {path} is not'
    )
  return found


def _in_folder(folder):
  """The index, the safetensors files, or the one file of torch.save in a folder."""
  indexes, files = sorted(folder.glob(f'*{_INDEX}')), sorted(folder.glob('*.safetensors'))
  if len(indexes) > 1:
    raise UserError(f'{folder} has {len(indexes)} index files: name the one that is meant')
  if indexes:
    return indexes[0]
  if files:
    return files
  others = sorted(p for p in folder.iterdir() if p.suffix in _SUFFIXES)
  if len(others) != 1:
    raise UserError(
      f'{folder} has no .safetensors file'
      + (f', and {len(others)} of torch.save: name one of them' if others else '')
    )
  return others[0]


def is_torch(path) -> bool:
  """Whether a file's first bytes are those of torch.save, or of neither format and its name ends
  like one."""
  refuse_stand_ins(path)
  with open(path, 'rb') as file:
    first = file.read(9)
  return (
    first[:4] == b'PK\x03\x04'
    or first[:1] == b'\x80'
    and first[8:] != b'{'
    or (path.suffix in _SUFFIXES and first[8:] != b'{')
  )


def _of_files(files, folder):
  return Checkpoint(
    files, read_json(folder / 'config.json') if (folder / 'config.json').is_file() else {}
  )


def _is_plain(name) -> bool:
  """Whether a name from an index is that of a file in the same folder."""
  return (
    isinstance(name, str)
    and name.isprintable()
    and name == pathlib.PurePosixPath(name).name
    and '\\' not in name
  )


def _by_index(path):
  table = read_json(path).get('weight_map')
  if not isinstance(table, dict) or not table or not all(_is_plain(v) for v in table.values()):
    raise UserError(f'{path} has no weight_map of files in its own folder')
  files = sorted(set(table.values()))
  missing = [name for name in files if not (path.parent / name).is_file()]
  if missing:
    raise UserError(f'{path} names shards that are not there: {", ".join(missing)}')
  found = _of_files([path.parent / name for name in files], path.parent)
  wrong = [name for name in table if name not in found._from or found.where(name) != table[name]]
  if wrong:
    raise UserError(
      f'{path}: {shown(wrong[0])} and {len(wrong) - 1} more are not in the shards that it names'
    )
  return found
