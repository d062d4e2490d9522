"""Converted weights: a folder that one network is loaded from, written by `convert.wan` or
`convert.sd`.

  DIR/config.json          {format, network: dit | vae | clip | sd_unet | ..., sizes, ...}: which network of ours, where it came from
  DIR/params.safetensors   leaves named by their path joined with dots, block parameters stacked on axis 0
  DIR/report.json          every tensor of the source and the leaf that it fills
  DIR/manifest.json        SHA-256 of all files, written last, verified before use

Leaves stay on the disk until they are used; each process reads only the slices that it places on
its devices.
"""

import dataclasses
import pathlib

import jax
import numpy as np

from exp_jax.errors import UserError
from exp_jax.files import manifest
from exp_jax.files.foreign_tensors import read_json, shown
from exp_jax.files.safetensors import SafetensorsFile, flattened, nested
from exp_jax.networks.sd_unet import SdUNet
from exp_jax.networks.sd_vae import SdVAE
from exp_jax.networks.wan_dit import WanDiT
from exp_jax.networks.wan_vae import WanVAE

FORMAT = 'exp_jax weights 1'
# 'sd_motion' are leaves of a SdUNet: `with_motion`
NETWORKS = {'dit': WanDiT, 'vae': WanVAE, 'sd_unet': SdUNet, 'sd_vae': SdVAE}


@dataclasses.dataclass(frozen=True)
class Weights:
  """`network` and `sizes` say what it is; `arrays` {path: array mapped from the disk,
  read-only}."""

  network: str
  sizes: dict
  arrays: dict[str, np.ndarray]
  config: dict

  def tree(self) -> dict:
    """The arrays as the nested parameters that Linen expects."""
    return nested(self.arrays.items())


def load_weights(path, network: str, *, verify: bool = True) -> Weights:
  """Opens a folder of converted weights of the given network, every digest verified first.

  Raises:
    UserError: if there is none, it is damaged, or holds another network.
  """
  path = pathlib.Path(path)
  if not (path / 'config.json').is_file():
    maker = 'sd' if network.startswith('sd_') else 'wan'
    raise UserError(
      f'there are no converted weights at {path}: make them with `python -m '
      f'exp_jax.convert.{maker}`'
    )
  problem = manifest.problem(path) if verify else None
  if problem:
    raise UserError(f'the weights {path} cannot be used: {problem}')
  config = read_json(path / 'config.json')
  if config.get('format') != FORMAT or config.get('network') != network:
    raise UserError(
      f'{path} holds {shown(repr(config.get("network")))} ({shown(config.get("format"))}), '
      f'expected {network!r} ({FORMAT})'
    )
  if not isinstance(config.get('sizes'), dict):
    raise UserError(f'{path / "config.json"} is damaged: it tells no sizes')
  sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in config['sizes'].items()}
  with SafetensorsFile(path / 'params.safetensors') as file:
    arrays = {name: file.mapped(name) for name in file.names}
  return Weights(network, sizes, arrays, config)


def with_motion(unet: Weights, motion: Weights) -> Weights:
  """A UNet of Stable Diffusion with motion modules: `unet` of network 'sd_unet', `motion` of
  'sd_motion'.

  Raises:
    UserError: the two have other widths or another number of blocks.
  """
  for name in ('widths', 'blocks'):
    if unet.sizes[name] != motion.sizes[name]:
      raise UserError(
        f'the motion modules are for {name} {motion.sizes[name]}, the UNet has {unet.sizes[name]}: '
        'take others'
      )
  sizes = unet.sizes | motion.sizes | {'motion': 'frame'}
  return Weights(
    'sd_unet',
    sizes,
    unet.arrays | motion.arrays,
    unet.config | {'motion_positions': motion.config.get('positions', 0)},
  )


def place(weights: dict[str, np.ndarray], like: dict) -> dict:
  """Arrays on the disk as a nested dict on devices.

  Args:
    weights: {path joined by dots: array}.
    like: nested dict of `jax.ShapeDtypeStruct`, with shardings where they should be placed so.

  Returns:
    Arrays of the types of `like`; each process reads only its own slices. A patch kernel that
    expects more input channels than there are is filled up with zeros, which leaves the function as
    it was.

  Raises:
    UserError: a leaf without a weight, a weight without a leaf, or shapes that differ; all named.
  """

  def one(array, leaf):
    if getattr(leaf, 'sharding', None) is None:
      return jax.numpy.asarray(array, leaf.dtype)
    return jax.make_array_from_callback(
      leaf.shape, leaf.sharding, lambda index: np.asarray(array[index], leaf.dtype)
    )

  leaves = flattened(like)
  return nested((name, one(array, leaves[name])) for name, array in fitted(weights, like).items())


def fitted(weights: dict[str, np.ndarray], like: dict) -> dict[str, np.ndarray]:
  """{path: array of the leaf's shape}, still on the disk; see `place`."""
  flat = flattened(like)
  missing, extra = sorted(set(flat) - set(weights)), sorted(set(weights) - set(flat))
  if missing or extra:
    raise UserError(
      f'the weights do not fit the network: missing {missing[:3]} ({len(missing)}), '
      f'left over {extra[:3]} ({len(extra)})'
    )
  found = {}
  for name, leaf in flat.items():
    array, shape = weights[name], tuple(leaf.shape)
    if name == 'patch.kernel' and array.shape[0] < shape[0] and array.shape[1:] == shape[1:]:
      array = np.concatenate(
        [array, np.zeros((shape[0] - array.shape[0], *shape[1:]), array.dtype)]
      )
    if array.shape != shape:
      raise UserError(
        f'{name} has shape {array.shape} in the weights, {shape} in the network: another variant?'
      )
    found[name] = array
  return found
