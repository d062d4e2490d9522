"""All networks of LivePortrait as one thing: sizes, fresh parameters, weights from files, and the
two calls of inference.

Weights come from `python -m exp_jax.convert.liveportrait` (published ones) or from an export of
`configs/liveportrait.py`.
Parameters are one nested dict: appearance, motion, warping, generator, stitching, eyes, lip.
Letters: B batch, K keypoints.
"""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.safetensors import flattened, nested
from exp_jax.networks.weights import fitted, load_weights
from exp_jax.systems.liveportrait.networks import (
  appearance,
  generator,
  motion,
  retargeting,
  warping,
)
from exp_jax.systems.liveportrait.networks.convolutions import compiler_options
from exp_jax.systems.liveportrait.networks.motion import KEYPOINTS, Motion, read_motion
from exp_jax.systems.liveportrait.networks.retargeting import (
  Perceptron,
  retargeting_move,
  stitching_move,
)
from exp_jax.systems.liveportrait.pipeline_options import INPUT
from exp_jax.training.exports import load_export

PARTS = ('appearance', 'motion', 'warping', 'generator', 'stitching', 'eyes', 'lip')


@dataclasses.dataclass(frozen=True)
class Networks:
  """The modules of one variant; hashable, so that it can be a static argument."""

  variant: str
  appearance: appearance.AppearanceExtractor
  motion: motion.MotionExtractor
  warping: warping.WarpingNetwork
  generator: generator.Generator
  stitching: Perceptron
  eyes: Perceptron
  lip: Perceptron

  @property
  def input_size(self) -> int:
    """Pixels of the square crop that is read."""
    return INPUT[self.variant]

  @property
  def output_size(self) -> int:
    """Pixels of the square picture that is painted."""
    return 2 * self.input_size


def networks(variant: str, *, norm: str = 'folded', dtype: str = 'float32') -> Networks:
  """The modules of a variant; `norm` as in `convolutions`, `dtype` of the computation.

  Raises:
    ValueError: for an unknown variant.
  """
  if variant not in INPUT:
    raise ValueError(f'unknown variant {variant!r}, choose from {sorted(INPUT)}')
  return Networks(
    variant,
    appearance.AppearanceExtractor(**appearance.VARIANTS[variant], norm=norm, dtype=dtype),
    motion.MotionExtractor(**motion.VARIANTS[variant], dtype=dtype),
    warping.WarpingNetwork(**warping.VARIANTS[variant], norm=norm, dtype=dtype),
    generator.Generator(**generator.VARIANTS[variant], dtype=dtype),
    *(Perceptron(retargeting.VARIANTS[name]) for name in ('stitching', 'eyes', 'lip')),
  )


def init_params(nets: Networks, rng: jax.Array, parts: tuple[str, ...] = PARTS) -> dict:
  """Fresh float32 parameters of the parts asked for; under `jax.eval_shape` nothing is computed."""
  size = nets.input_size
  image, points = jnp.zeros((1, size, size, 3)), jnp.zeros((1, KEYPOINTS, 3))
  volume = jnp.zeros((1, nets.warping.depth, size // 4, size // 4, nets.warping.channels))
  inputs = {
    'appearance': (image,),
    'motion': (image,),
    'warping': (volume, points, points),
    'generator': (jnp.zeros((1, size // 4, size // 4, nets.generator.features)),),
  }
  inputs |= {
    name: (jnp.zeros((1, getattr(nets, name).sizes[0])),) for name in ('stitching', 'eyes', 'lip')
  }
  return {
    name: getattr(nets, name).init(jax.random.fold_in(rng, PARTS.index(name)), *inputs[name])[
      'params'
    ]
    for name in parts
  }


def extract_motion(nets: Networks, params: dict, images: jax.Array) -> Motion:
  """[B, S, S, 3] in [0, 1] -> Motion of B."""
  return read_motion(nets.motion.apply({'params': params['motion']}, images))


def paint(
  nets: Networks, params: dict, volume: jax.Array, source: jax.Array, driving: jax.Array
) -> jax.Array:
  """The picture with the source's appearance and the driving keypoints.

  Args:
    volume: [B, D, h, w, C] of `nets.appearance`, or [1, ...] for all B.
    source: [B or 1, K, 3] keypoints of the source.
    driving: [B, K, 3].

  Returns:
    [B, 2 S, 2 S, 3] in [0, 1], float32.
  """
  B = len(driving)
  volume, source = (jnp.broadcast_to(x, (B, *x.shape[1:])) for x in (volume, source))
  features = nets.warping.apply({'params': params['warping']}, volume, driving, source)
  return nets.generator.apply({'params': params['generator']}, features)


_CALLS = {
  'appearance': lambda nets, params, images: nets.appearance.apply(
    {'params': params['appearance']}, images
  ),
  'motion': extract_motion,
  'paint': paint,
  'stitching': lambda nets, params, *x: stitching_move(nets.stitching, params, *x),
  'eyes': lambda nets, params, *x: retargeting_move(nets.eyes, params, *x),
  'lip': lambda nets, params, *x: retargeting_move(nets.lip, params, *x),
}


@functools.cache
def compiled(name: str):
  """The call of this name, compiled once for all models of a size: parameters are arguments."""
  options = compiler_options() if name in ('appearance', 'paint') else None
  return jax.jit(_CALLS[name], static_argnums=0, compiler_options=options)


@dataclasses.dataclass(frozen=True)
class Model:
  """Networks with their parameters, and compiled calls. Numpy in and out, any number of frames."""

  nets: Networks
  params: dict
  animals: bool = False  # weights tuned on animals: absolute motion, no stitching unless asked for

  def appearance(self, images: np.ndarray) -> jax.Array:
    """[B, S, S, 3] float32 in [0, 1] -> volume on the device."""
    return compiled('appearance')(self.nets, self.params, images)

  def motion(self, images: np.ndarray) -> Motion:
    """[B, S, S, 3] float32 in [0, 1] -> Motion of numpy arrays."""
    return jax.tree.map(np.asarray, compiled('motion')(self.nets, self.params, images))

  def paint(self, volume, source, driving) -> jax.Array:
    """See `paint`; the result stays on the device."""
    return compiled('paint')(self.nets, self.params, volume, source, driving)

  def move(self, name: str, source: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The move of 'stitching' (given: driving keypoints), 'eyes' or 'lip' (given: conditions) for T
    frames, [T, K, 3]."""
    T = len(given)
    pad = -T % 16 if T > 1 else 0  # few compiled sizes whatever the clip's length
    source = np.broadcast_to(source, (T, *source.shape[1:]))
    fill = lambda x: np.concatenate([x, np.repeat(x[-1:], pad, 0)]) if pad else x
    return np.asarray(compiled(name)(self.nets, self.params[name], fill(source), fill(given)))[:T]


def load(path, *, dtype: str = 'float32') -> Model:
  """The model of a folder: converted weights, or an export of a training; every digest verified.

  Raises:
    UserError: nothing there, damaged, or the weights of something else.
  """
  path = pathlib.Path(path)
  if not (path / 'config.json').is_file():
    raise UserError(
      f'there are no LivePortrait weights at {path}: convert the published ones with `python -m '
      'exp_jax.convert.liveportrait weights FOLDER -o OUT`, or give an export of '
      'configs/liveportrait.py'
    )
  if 'network' in json.loads((path / 'config.json').read_text()):
    weights = load_weights(path, 'liveportrait')
    sizes, arrays = weights.sizes, weights.arrays
    norm, animals = sizes.get('norm', 'folded'), bool(weights.config.get('animals'))
  else:
    config, tree = load_export(path)
    if not str(config.get('task', '')).startswith('liveportrait/'):
      raise UserError(
        f'{path} is an export of {config.get("task")!r}, not of liveportrait/stage1 or '
        'liveportrait/stage2'
      )
    arrays = {k: v for k, v in flattened(tree).items() if k.split('.')[0] in PARTS}
    sizes, norm, animals = config.model, config.model.get('norm', 'group'), False
  nets = networks(sizes['variant'], norm=norm, dtype=dtype)
  like = jax.eval_shape(lambda: init_params(nets, jax.random.key(0)))
  if not any(name.startswith('stitching.') for name in arrays):  # stage one alone: S and R answer 0
    arrays = dict(arrays) | {
      k: np.zeros(v.shape, np.float32)
      for k, v in flattened(like).items()
      if k.split('.')[0] in ('stitching', 'eyes', 'lip')
    }
  found = fitted(arrays, like)
  return Model(nets, nested((k, jnp.asarray(v, jnp.float32)) for k, v in found.items()), animals)


def random_model(variant: str = 'tiny', seed: int = 0) -> Model:
  """Random weights: for smoke tests; the pictures mean nothing."""
  nets, rng = networks(variant), np.random.default_rng(seed)

  def draw(path, leaf):
    if len(leaf.shape) > 1:
      return jnp.asarray(
        rng.standard_normal(leaf.shape, np.float32) * np.sqrt(2 / np.prod(leaf.shape[:-1])),
        jnp.float32,
      )
    return jnp.full(leaf.shape, float(path[-1].key == 'scale'), jnp.float32)

  shapes = jax.eval_shape(lambda: init_params(nets, jax.random.key(0)))
  return Model(nets, jax.tree_util.tree_map_with_path(draw, shapes))
