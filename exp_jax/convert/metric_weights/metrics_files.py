"""Reading weight files of networks that metrics need, and the book that is kept while they are converted.

  read_tensors   {name: array} of a .safetensors, or of whatever torch.save wrote (state dictionaries, old and new format)
  Conversion     every tensor of the source is used once, every leaf of ours filled once; the rest is named or an error

Nothing in a file is run: see `pickles`. Batch norms fold into what stands in front of them, in float64:
  s = weight / sqrt(variance + eps);   kernel' = s kernel;   bias' = s (bias - mean) + shift
"""

import math
import pathlib
import re

import jax
import numpy as np

from exp_jax.convert.subject_files.subjects_torch import read_torch
from exp_jax.convert.wan_weights.wan_files import is_torch
from exp_jax.errors import UserError
from exp_jax.files.safetensors import SafetensorsFile, flattened

_NORM = ('weight', 'bias', 'running_mean', 'running_var')


def read_tensors(path) -> dict[str, np.ndarray]:
  """All arrays of a file by their names, nested dictionaries joined with dots; 'state_dict.', 'module.' and
  '_orig_mod.' in front of all of them are cut.

  Raises:
    UserError: no such file, damaged, a program (TorchScript, ONNX) instead of weights, or it wants to run something.
  """
  path = pathlib.Path(path)
  if path.suffix in ('.safetensors', '.pth', '.pt', '.bin', '.ckpt') and not is_torch(path):
    with SafetensorsFile(path) as file:
      found = {name: file.read(name) for name in file.names}
  elif path.suffix == '.onnx':
    raise UserError(f'{path} is an ONNX program; give the .pth or .safetensors with the weights of the same network')
  else:
    found = {k: v for k, v in flattened(read_torch(path)).items() if isinstance(v, np.ndarray)}
  if not found:
    raise UserError(f'{path} holds no tensors')
  for wrapping in ('state_dict.', 'module.', '_orig_mod.'):
    if all(name.startswith(wrapping) for name in found):
      found = {name.removeprefix(wrapping): value for name, value in found.items()}
  return found


class Conversion:
  """Moves tensors of a source into leaves of ours; `report` says which went where."""

  def __init__(self, tensors: dict[str, np.ndarray], where: str):
    self.where, self.leaves, self.report = where, {}, {}
    self._left = dict(tensors)
    self._taken = []

  @property
  def names(self) -> list[str]:
    """Tensors that were not used yet."""
    return list(self._left)

  def shape(self, name: str) -> tuple[int, ...]:
    """Of a tensor that was not used yet; UserError if there is none of that name."""
    if name not in self._left:
      raise UserError(f'{self.where} has no tensor {name!r}: are these weights of another network?')
    return self._left[name].shape

  def take(self, name: str) -> np.ndarray:
    """A tensor in float64, which is then used up."""
    self.shape(name)
    self._taken.append(name)
    value = np.asarray(self._left.pop(name))
    if value.dtype.kind != 'f' and value.dtype.name != 'bfloat16':
      raise UserError(f'{self.where}: {name} holds {value.dtype}, numbers with a fraction were expected')
    value = value.astype(np.float64)
    if not np.isfinite(value).all():
      raise UserError(f'{self.where}: {name} holds NaN or infinite numbers')
    return value

  def put(self, leaf: str, value: np.ndarray) -> None:
    """Fills a leaf from what was taken since the last one."""
    if leaf in self.leaves:
      raise ValueError(f'{leaf} is filled twice')
    self.leaves[leaf] = np.asarray(value, np.float32)
    self.report[leaf], self._taken = self._taken, []

  def _norm(self, name: str, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) of a batch norm."""
    weight, bias, mean, variance = (self.take(f'{name}.{part}') for part in _NORM)
    self._left.pop(f'{name}.num_batches_tracked', None)
    scale = weight / np.sqrt(variance + eps)
    return scale, bias - scale * mean

  def affine(self, leaf: str, norm: str, eps: float = 1e-5) -> None:
    """A batch norm that stands alone -> leaf.scale, leaf.bias."""
    scale, shift = self._norm(norm, eps)
    taken = self._taken
    self.put(f'{leaf}.scale', scale)
    self._taken = taken
    self.put(f'{leaf}.bias', shift)

  def conv(self, leaf: str, name: str, *, norm: str | None = None, eps: float = 1e-5) -> None:
    """A convolution [O, I, ...] or linear layer [O, I], and the norm behind it -> leaf.kernel [..., I, O], leaf.bias [O]."""
    kernel = self.take(f'{name}.weight')
    bias = self.take(f'{name}.bias') if f'{name}.bias' in self._left else np.zeros(len(kernel))
    if norm:
      scale, shift = self._norm(norm, eps)
      kernel, bias = kernel * scale.reshape(-1, *(1,) * (kernel.ndim - 1)), scale * bias + shift
    taken = self._taken
    self.put(f'{leaf}.kernel', np.moveaxis(kernel, (0, 1), (-1, -2)))
    self._taken = taken
    self.put(f'{leaf}.bias', bias)

  def finish(self, network, *inputs: tuple[int, ...], unused: str = '$') -> dict[str, list[str]]:
    """Compares with what the network expects; returns the report with the tensors that match `unused` left out.

    Raises:
      UserError: tensors left over, leaves missing, or shapes that differ; all of them are listed.
    """
    specs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in inputs]
    expected = {name: leaf.shape for name, leaf in
                flattened(jax.eval_shape(network.init, jax.random.key(0), *specs)['params']).items()}
    left = [name for name in self._left if not re.match(unused, name)]
    missing = [name for name in expected if name not in self.leaves]
    wrong = [f'{name} {self.leaves[name].shape} instead of {shape}' for name, shape in expected.items()
             if name in self.leaves and self.leaves[name].shape != shape]
    extra = [name for name in self.leaves if name not in expected]
    problems = [f'{what}: {", ".join(names)}' for what, names in
                (('left over', left), ('missing', missing), ('misshapen', wrong), ('unknown', extra)) if names]
    if problems:
      raise UserError(f'{self.where} does not fit the network; {"; ".join(problems)}')
    return {'leaves': self.report, 'left_out': sorted(self._left)}

  def count(self) -> int:
    """Parameters so far."""
    return sum(math.prod(v.shape) for v in self.leaves.values())
