"""An export of task 'expportrait/retouch' at work: textured previews of any size, repaired one
after the other.

Letters: T frames, S pixels that the network sees, H, W of the picture.
"""

import collections.abc
import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from exp_jax.controls import maps
from exp_jax.controls.reenact import Motion
from exp_jax.errors import UserError
from exp_jax.heads.densify import Dense
from exp_jax.heads.model import HeadModel
from exp_jax.systems.expportrait.portrait import Portrait, known_frames, preview_frames, scaled
from exp_jax.systems.expportrait.retouch.network import (
  Repair,
  RetouchNet,
  repaired,
  retouch_net,
  seen_by_network,
)
from exp_jax.training.exports import load_export

TASK = 'expportrait/retouch'
_unit = lambda image: image.astype(jnp.float32) / 255


@dataclasses.dataclass(frozen=True)
class Retoucher:
  """A loaded network.

  Attributes:
    model: its modules.
    params: a nested dict of arrays.
    config: of the export.
  """

  model: RetouchNet
  params: dict
  config: ml_collections.ConfigDict

  @property
  def size(self) -> None:
    """None: results have the portrait's own size."""
    return None

  @property
  def side(self) -> int:
    """Pixels of the side of the previews that it sees."""
    return self.config.data.size

  def sampling(self, **given) -> None:
    """Nothing is sampled: UserError for any option of sampling that is `given`."""
    if chosen := [name for name, value in given.items() if value is not None]:
      raise UserError(
        f'--{chosen[0]} belongs to a model that samples; this generator ({TASK}) repairs the '
        'textured preview in one '
        'step and samples nothing: leave it out'
      )

  def repair(
    self, preview: np.ndarray, known: np.ndarray, photo: np.ndarray, photo_normals: np.ndarray
  ) -> Repair:
    """What is to be done to a preview; uint8 [S, S, 3], [S, S, `drawing.KNOWN`], [S, S, 3], [S, S,
    3]."""
    return _repair(self.params, preview, known, photo, photo_normals, model=self.model)


def load_retoucher(path) -> Retoucher:
  """Loads and verifies an export.

  Raises:
    UserError: it is missing, damaged or of another task.
  """
  config, params = load_export(path)
  if config.task != TASK:
    raise UserError(f'{path} is an export of {config.task!r}, not of {TASK}')
  own = dict(config.model)
  return Retoucher(
    retouch_net(own.pop('variant'), **own), jax.tree.map(jnp.asarray, params), config
  )


@functools.partial(jax.jit, static_argnames='model')
def _repair(params, preview, known, photo, photo_normals, *, model):
  seen = seen_by_network(*map(_unit, (preview, known, photo, photo_normals)))
  return jax.tree.map(lambda x: x[0], model.apply({'params': params}, seen[None]))


@jax.jit
def _carried_out(preview, repair):
  return jnp.rint(255 * jnp.clip(repaired(_unit(preview), repair), 0, 1)).astype(jnp.uint8)


def carried_out(preview: np.ndarray, repair: Repair) -> np.ndarray:
  """The preview uint8 [H, W, 3], of any size, repaired; uint8."""
  return np.asarray(_carried_out(preview, repair))


def retouched_frames(
  retoucher: Retoucher, portrait: Portrait, motion: Motion, dynamic, head: HeadModel, dense: Dense
) -> collections.abc.Iterator[np.ndarray]:
  """Yields uint8 [H, W, 3] frames at the portrait's own size.

  Each is drawn twice: small, for the network to see, and at the portrait's size, where the repair
  is carried out.

  Args:
    dynamic: [T, N, 3] dynamic offsets or what gives them frame by frame, or None.
  """
  small = scaled(portrait, retoucher.side)
  subject = small.subject
  _, rest = next(
    known_frames(small, maps.own_motion(subject), maps.full_offsets(subject), head, dense)
  )
  seen = known_frames(small, motion, dynamic, head, dense)
  if tuple(portrait.subject.image_size) == tuple(subject.image_size):
    for preview, known in seen:
      yield carried_out(preview, retoucher.repair(preview, known, small.photo, rest[..., :3]))
    return
  for (preview, known), large in zip(seen, preview_frames(portrait, motion, dynamic, head, dense)):
    yield carried_out(large, retoucher.repair(preview, known, small.photo, rest[..., :3]))
