"""LivePortrait's files: dictionaries of dictionaries of tensors, and motion templates. Nothing in them is run.

A .pth is read by the counted reader of `pickles`, as in `wan_files`; here it may hold dictionaries inside, whose names are
joined by dots, integers (counters of batches), and the notes that torch hangs on a state dict, which are dropped.

A template is a pickle {n_frames, output_fps, motion: [{scale (1, 1), R (1, 3, 3), exp (1, 21, 3), t (1, 3), kp, x_s}],
c_eyes_lst [(1, 2)], c_lip_lst [(1, 1)]}. Older ones say R_d, c_d_eyes_lst and c_d_lip_lst; those of animals have no ratios.
"""

import fractions
import io
import os
import pathlib
import zipfile

import numpy as np

from exp_jax.convert import pickles
from exp_jax.convert.wan_files import Checkpoint, TorchZip, _Kept, _LazyTensor, _ZipPickle, open_checkpoint
from exp_jax.errors import UserError
from exp_jax.systems.liveportrait.motion import KEYPOINTS, Motion
from exp_jax.systems.liveportrait.templates import Template

_INTEGERS = {'LongStorage': np.dtype('<i8'), 'IntStorage': np.dtype('<i4')}
_MOST_FRAMES = 1_000_000



class _StateDicts(_ZipPickle):
  """The reader of `wan_files` with integers and with state dicts that carry notes."""

  def __init__(self, stream):
    super().__init__(stream)
    plain = self.dispatch[pickles.pickle.BUILD[0]]

    def build(reader):
      if isinstance(reader.stack[-2], dict):
        reader.stack.pop()
        return
      plain(reader)

    self.dispatch[pickles.pickle.BUILD[0]] = build

  def find_class(self, module, name):
    if module == 'torch' and name in _INTEGERS:
      return type(name, (pickles.Named,), {})
    if (module, name) == ('torch._utils', '_rebuild_parameter'):
      return lambda tensor, grad=False, hooks=None: tensor
    return super().find_class(module, name)

  def persistent_load(self, pid):
    if isinstance(pid, tuple) and len(pid) == 5 and isinstance(pid[1], type) and pid[1].__name__ in _INTEGERS:
      return _Kept(_INTEGERS[pid[1].__name__], str(pid[2]))
    return super().persistent_load(pid)


class NestedTorchZip(TorchZip):
  """A .pth of a dictionary of tensors, or of such dictionaries; other entries of an outer dictionary are left out."""

  def __init__(self, path: pathlib.Path):
    self.files, self.config, self.prefix = [path], {}, ''
    try:
      self._zip = zipfile.ZipFile(path)
      inside = [i for i in self._zip.infolist() if i.filename.endswith('/data.pkl')]
      if len(inside) != 1 or inside[0].file_size > 2**24:
        raise UserError(f'{path} is not a torch checkpoint, or not one of state dictionaries')
      self._root = inside[0].filename[: -len('data.pkl')]
      loaded = _StateDicts(io.BytesIO(self._zip.read(inside[0]))).load()
    except (zipfile.BadZipFile, pickles.pickle.UnpicklingError, EOFError, KeyError, IndexError, AttributeError, ValueError,
            TypeError) as error:
      if isinstance(error, UserError):
        raise
      raise UserError(f'{path} is not a torch checkpoint that can be read without running it: {error}') from None
    if not isinstance(loaded, dict):
      raise UserError(f'{path} holds no dictionary of tensors')
    self._from = _flat(loaded)
    if not self._from:
      raise UserError(f'{path} holds no tensors')


def _flat(tree: dict, prefix: str = '', depth: int = 0) -> dict[str, _LazyTensor]:
  out = {}
  for key, value in tree.items():
    if isinstance(value, _LazyTensor):
      out[f'{prefix}{key}'] = value
    elif isinstance(value, dict) and depth < 3:
      out |= _flat(value, f'{prefix}{key}.', depth + 1)
  return out


def open_nested(path: pathlib.Path) -> Checkpoint:
  """A .pth or .safetensors as one flat dictionary of tensors; UserError if it is neither."""
  return NestedTorchZip(path) if path.suffix in ('.pth', '.pt') else open_checkpoint(path)


def read_template(path: str | os.PathLike) -> Template:
  """A motion template out of its pickle.

  Raises:
    UserError: no such file, not a template, values that are missing, of another shape or not finite.
  """
  try:
    content = pathlib.Path(path).read_bytes()
  except (FileNotFoundError, IsADirectoryError):
    raise UserError(f'no such file: {path}') from None
  try:
    loaded = pickles.Reader(io.BytesIO(content)).load()
  except Exception as error:                                     # a damaged pickle can raise anything
    raise UserError(f'{path} is refused as a motion template: {type(error).__name__}: {str(error)[:200]}') from None
  if not isinstance(loaded, dict) or not isinstance(loaded.get('motion'), list) or not loaded['motion']:
    raise UserError(f'{path} is no motion template: it holds no list of motions')
  frames = loaded['motion'][:_MOST_FRAMES]

  def column(keys, shape, rows, what):
    out = []
    for i, row in enumerate(rows):
      value = next((row[k] for k in keys if k in row), None) if isinstance(row, dict) else row
      value = value.real() if hasattr(value, 'real') and isinstance(value, pickles.Inert) else value
      array = np.asarray(value, np.float32) if isinstance(value, np.ndarray) else np.zeros(0, np.float32)
      if array.size != int(np.prod(shape)) or not np.isfinite(array).all():
        raise UserError(f'{path}: {what} of frame {i} is missing, of another shape or not finite')
      out.append(array.reshape(shape))
    return np.stack(out)

  some = lambda *keys: next((loaded[k] for k in keys if isinstance(loaded.get(k), list) and loaded[k]), None)
  eyes, lip = some('c_eyes_lst', 'c_d_eyes_lst'), some('c_lip_lst', 'c_d_lip_lst')
  points = (KEYPOINTS, 3)
  canonical = column(('kp',), points, frames, 'kp') if 'kp' in frames[0] else np.zeros((len(frames), *points), np.float32)
  try:
    motion = Motion(canonical, column(('R', 'R_d'), (3, 3), frames, 'R'), column(('exp',), points, frames, 'exp'),
                    column(('scale',), (), frames, 'scale'), column(('t',), (3,), frames, 't'))
    eyes = eyes and column((), (2,), eyes[:len(frames)], 'the eye ratio')
    lip = lip and column((), (), lip[:len(frames)], 'the lip ratio')
  except pickles.Refused as error:
    raise UserError(f'{path} is refused as a motion template: {error}') from None
  rate = loaded.get('output_fps', 25)
  rate = rate.real() if isinstance(rate, pickles.Inert) and hasattr(rate, 'real') else rate
  if not isinstance(rate, (int, float, np.number)) or not 0 < float(rate) <= 1000:
    raise UserError(f'{path}: output_fps is {rate!r}, expected frames a second')
  return Template(motion, fractions.Fraction(float(rate)).limit_denominator(100_000), eyes, lip)
