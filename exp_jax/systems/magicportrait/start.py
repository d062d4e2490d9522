"""What the two stages start from: Stable Diffusion, or the tiny prior, in both UNets; then an
export of the first stage.

The motion modules of the second stage start from AnimateDiff's, converted, or from noise behind a
last layer that is zero, so that the second stage begins as the first one ended.
"""

import jax

from exp_jax.errors import UserError
from exp_jax.files.safetensors import flattened, nested
from exp_jax.networks.sd_start import (
  SCRATCH,
  checked_start,
  named_start,
  read_prior,
  without_head,
  without_text,
)
from exp_jax.networks.weights import load_weights
from exp_jax.systems.magicportrait.model import Networks
from exp_jax.training.exports import load_export

STAGES = ('magicportrait/stage1', 'magicportrait/stage2')


def start_fn(config, networks: Networks, init_fn):
  """What `Task.start` wants: None from scratch, else a function that reads the weights.

  Raises:
    UserError: the config does not say what it starts from.
  """
  name = named_start(config)
  if name is None and config.model.motion_weights not in ('', SCRATCH):
    raise UserError(
      'config.model.motion_weights names weights, config.model.weights says scratch: name an '
      'export of the first stage'
    )
  return (
    None
    if name is None
    else lambda: _started(config, networks, jax.eval_shape(init_fn, jax.random.key(0)), name)
  )


def _started(config, networks: Networks, like: dict, name: str) -> dict:
  if config.task == STAGES[0]:
    arrays = read_prior(name)
    arrays = arrays if networks.text is not None else without_text(arrays)
    found = {'denoiser': checked_start(arrays, like['denoiser'], 'denoiser', name)}
    if networks.appearance is not None:
      found['appearance'] = checked_start(
        without_head(arrays), like['appearance'], 'AppearanceNet', name
      )
    return found
  before, params = load_export(name)
  if before.task != STAGES[0]:
    raise UserError(
      f'{name} is an export of {before.task!r}; the second stage starts from one of {STAGES[0]!r}'
    )
  for key in ('fusion', 'variant'):
    if before.model[key] != config.model[key]:
      raise UserError(
        f'{name} was trained with model.{key} {before.model[key]!r}, config.model.{key} says '
        f'{config.model[key]!r}'
      )
  for key in ('betas', 'zero_snr', 'prediction'):
    if before.diffusion[key] != config.diffusion[key]:
      raise UserError(
        f'{name} was trained with diffusion.{key} {before.diffusion[key]!r}, '
        f'config.diffusion.{key} says '
        f'{config.diffusion[key]!r}'
      )
  for key, old, new in (
    ('data.maps', dict(before.data.maps), dict(config.data.maps)),
    ('condition.maps', tuple(before.condition.maps), tuple(config.condition.maps)),
  ):
    if old != new:
      raise UserError(f'{name} was trained with {key} {old}, config.{key} says {new}')
  still = {path: leaf for path, leaf in flattened(like).items() if '.motion.' not in path}
  found = flattened(
    checked_start(flattened(params), nested(still.items()), 'networks of the first stage', name)
  )
  if config.model.motion_weights != SCRATCH:
    motion = {
      f'denoiser.{leaf}': array
      for leaf, array in load_weights(config.model.motion_weights, 'sd_motion').arrays.items()
    }
    wanted = {path: leaf for path, leaf in flattened(like).items() if '.motion.' in path}
    found |= flattened(
      checked_start(motion, nested(wanted.items()), 'motion modules', config.model.motion_weights)
    )
  return nested(found.items())
