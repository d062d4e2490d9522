"""Checkpoints as people have them, behind one small interface: names, shapes, types, and one tensor at a time.

  a .safetensors file | a folder of them, with or without an index | an index.json | a .pth of torch's zip format

A folder may hold several shards; with an index every tensor must lie where the index says. A .pth is a zip of a small
pickle and raw storages: the pickle goes through the counted reader of `pickles.py`, which runs nothing, and storages are
read when they are asked for.
"""

import io
import json
import math
import pathlib
import zipfile

import ml_dtypes
import numpy as np

from exp_jax.convert import pickles
from exp_jax.errors import UserError
from exp_jax.networks.safetensors_file import SafetensorsFile

_INDEX = '.safetensors.index.json'


class Checkpoint:
  """Tensors of one or more safetensors files as one; `prefix` is cut from every name.

  Fields: `shapes` {name: shape}, `where` {name: file name}, `files` paths, `config` of a config.json beside them.
  """

  def __init__(self, paths: list[pathlib.Path], config: dict):
    self.files, self.config, self.prefix = paths, config, ''
    self._open, self._from = [SafetensorsFile(p) for p in paths], {}
    for file in self._open:
      for name in file.names:
        if name in self._from:
          raise UserError(f'{name} is both in {self._from[name].path} and in {file.path}: which one is meant?')
        self._from[name] = file

  @property
  def names(self) -> list[str]:
    return [name[len(self.prefix) :] for name in self._from]

  @property
  def shapes(self) -> dict[str, tuple[int, ...]]:
    return {name: self._from[self.prefix + name].shape(self.prefix + name) for name in self.names}

  def dtype(self, name: str) -> np.dtype:
    return self._from[self.prefix + name].dtype(self.prefix + name)

  def where(self, name: str) -> str:
    """The name of the file that holds a tensor."""
    return self._from[self.prefix + name].path.name

  def read(self, name: str) -> np.ndarray:
    """One tensor, read now."""
    return self._from[self.prefix + name].read(self.prefix + name)

  def close(self) -> None:
    for file in self._open:
      file.close()


class TorchZip(Checkpoint):
  """A .pth of torch 1.6 and later. Only contiguous tensors of plain types; nested dictionaries are not entered."""

  def __init__(self, path: pathlib.Path):
    self.files, self.config, self.prefix = [path], {}, ''
    try:
      self._zip = zipfile.ZipFile(path)
      inside = [i for i in self._zip.infolist() if i.filename.endswith('/data.pkl')]
      if len(inside) != 1 or inside[0].file_size > 2**24:
        raise UserError(f'{path} is not a torch checkpoint, or not one of a plain state dictionary')
      self._root = inside[0].filename[: -len('data.pkl')]
      loaded = _ZipPickle(io.BytesIO(self._zip.read(inside[0]))).load()
    except (zipfile.BadZipFile, pickles.pickle.UnpicklingError, EOFError, KeyError, IndexError, AttributeError) as error:
      raise UserError(f'{path} is not a torch checkpoint that can be read without running it: {error}') from None
    if not isinstance(loaded, dict) or not all(isinstance(v, _LazyTensor) for v in loaded.values()):
      raise UserError(f'{path} is not a plain dictionary of tensors')
    self._from = loaded

  @property
  def shapes(self):
    return {name: self._from[self.prefix + name].shape for name in self.names}

  def dtype(self, name):
    return self._from[self.prefix + name].kind

  def where(self, name):
    del name
    return self.files[0].name

  def read(self, name):
    tensor = self._from[self.prefix + name]
    count = math.prod(tensor.shape)
    try:
      with self._zip.open(f'{self._root}data/{tensor.key}') as stream:
        stream.read(tensor.offset * tensor.kind.itemsize)
        data = stream.read(count * tensor.kind.itemsize)
    except (KeyError, zipfile.BadZipFile) as error:
      raise UserError(f'{self.files[0]}: {name} cannot be read: {error}') from None
    if len(data) < count * tensor.kind.itemsize:
      raise UserError(f'{self.files[0]} is truncated: {name} has too few numbers')
    return np.frombuffer(data, tensor.kind).reshape(tensor.shape)

  def close(self):
    self._zip.close()


_KINDS = {'FloatStorage': np.dtype('<f4'), 'HalfStorage': np.dtype('<f2'), 'BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
          'DoubleStorage': np.dtype('<f8')}  # fmt: skip


class _Kept(pickles.Inert):
  """A storage outside the pickle: its kind and its file's name."""


class _LazyTensor(pickles.Inert):
  """torch's _rebuild_tensor_v2(storage, offset, shape, strides, ...), nothing rebuilt."""

  def __init__(self, *args):
    super().__init__(*args)
    storage, self.offset, shape, strides = args[:4]
    self.shape = tuple(shape)
    plain = tuple(math.prod(self.shape[k + 1 :]) for k in range(len(self.shape)))
    one = [n == 1 for n in self.shape]
    if not isinstance(storage, _Kept) or any(a != b and not o for a, b, o in zip(strides, plain, one)):
      raise pickles.Refused('a tensor that is not contiguous')
    self.kind, self.key = storage.args


class _ZipPickle(pickles.Reader):
  """The counted reader with torch's storages outside the pickle."""

  def find_class(self, module, name):
    if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
      return _LazyTensor
    if module == 'torch' and name in _KINDS:
      return type(name, (pickles.Named,), {})
    return super().find_class(module, name)

  def persistent_load(self, pid):
    if isinstance(pid, tuple) and len(pid) == 5 and isinstance(pid[1], type) and pid[1].__name__ in _KINDS:
      return _Kept(_KINDS[pid[1].__name__], str(pid[2]))
    return super().persistent_load(pid)


def open_checkpoint(path) -> Checkpoint:
  """See the head of the file.

  Raises:
    UserError: nothing there, an incomplete set of shards, or a format that is not read.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    indexes = sorted(path.glob(f'*{_INDEX}'))
    if len(indexes) > 1:
      raise UserError(f'{path} has {len(indexes)} index files: name the one that is meant')
    if indexes:
      return _by_index(indexes[0])
    files = sorted(path.glob('*.safetensors'))
    if not files:
      raise UserError(f'{path} has no .safetensors file')
    return _of_files(files, path)
  if path.name.endswith(_INDEX):
    return _by_index(path)
  if path.suffix == '.gguf':
    raise UserError(f'{path} is a quantized GGUF file: convert from the bf16, fp16 or fp32 safetensors of the model')
  if not path.exists():
    raise UserError(f'{path} does not exist')
  if path.suffix in ('.pth', '.pt', '.bin', '.ckpt'):
    return TorchZip(path)
  return _of_files([path], path.parent)


def _of_files(files, folder):
  return Checkpoint(files, _json(folder / 'config.json') if (folder / 'config.json').is_file() else {})


def _json(path):
  try:
    value = json.loads(path.read_text())
  except (ValueError, OSError):
    raise UserError(f'{path} is missing or damaged') from None
  return value if isinstance(value, dict) else {}


def _by_index(path):
  table = _json(path).get('weight_map')
  if not isinstance(table, dict) or not table or not all(isinstance(v, str) and '/' not in v for v in table.values()):
    raise UserError(f'{path} has no weight_map')
  files = sorted(set(table.values()))
  missing = [name for name in files if not (path.parent / name).is_file()]
  if missing:
    raise UserError(f'{path} names shards that are not there: {", ".join(missing)}')
  found = _of_files([path.parent / name for name in files], path.parent)
  wrong = [name for name in table if name not in found._from or found.where(name) != table[name]]
  if wrong:
    raise UserError(f'{path}: {wrong[0]} and {len(wrong) - 1} more are not in the shards that it names')
  return found
