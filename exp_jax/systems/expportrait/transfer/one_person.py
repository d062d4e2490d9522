"""The expression transfer of one person, one frame at a time: what no frame changes is computed
once.

`Transfer` measures a person anew for every part of a clip and takes frames sixteen at a time, which
a clip does not notice and a camera does. Letters: N dense vertices, P moving skin, E expressions.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from exp_jax.heads.personalized import Subject
from exp_jax.systems.expportrait.transfer.network import Transfer
from exp_jax.systems.expportrait.transfer.transfer_features import Neutral

_ACROSS = np.array([-1, 1, 1], np.float32)


@dataclasses.dataclass(frozen=True)
class _Side:
  """What is known of a person as they are, or in the mirror."""

  codes: jnp.ndarray  # [1, P, D]
  normals: jnp.ndarray  # [1, P, 3]
  relief: jnp.ndarray  # [1, P, S]


class PersonTransfer:
  """(expression [E], jaw [3]) -> dynamic offsets [N, 3], metres, as `Transfer` gives them.

  Args:
    transfer: the trained module.
    subject: whose shape and static offsets are used.
  """

  def __init__(self, transfer: Transfer, subject: Subject):
    self._transfer = transfer
    seen, (person, skin) = transfer.measured(subject.shape, subject.static_offsets)
    turned = lambda one: dataclasses.replace(
      one, neutral=one.neutral * _ACROSS, normals=one.normals * _ACROSS
    )
    surface, mirror = transfer.surface, transfer.order is not None
    self._mask = jnp.asarray(surface.mask)[None]
    self._sides = [self._side(seen, surface.place, person, skin.place, skin.area)]
    if mirror:
      self._sides.append(
        self._side(
          turned(seen), surface.place * _ACROSS, turned(person), skin.place * _ACROSS, skin.area
        )
      )

  def _side(self, seen: Neutral, place, person: Neutral, pooled_place, area) -> _Side:
    z = self._transfer.apply(
      'identity', person.neutral[None], person.relief[None], pooled_place, area
    )
    parts = [jnp.asarray(a)[None] for a in (seen.neutral, seen.normals, seen.relief, place)]
    return _Side(self._transfer.apply('vertices', *parts, self._mask, z), parts[1], parts[2])

  def __call__(self, expression: np.ndarray, jaw: np.ndarray) -> np.ndarray:
    surface, order = self._transfer.surface, self._transfer.order
    found = self._offsets(self._sides[0], expression, jaw)
    if order is not None:
      other = self._offsets(
        self._sides[1], np.asarray(expression)[order], np.asarray(jaw) * -_ACROSS
      )
      found = 0.5 * (found + other * _ACROSS)
    full = np.zeros((surface.count, 3), np.float32)
    full[surface.ids] = found
    return full

  def _offsets(self, side: _Side, expression, jaw) -> np.ndarray:
    driven = self._transfer.apply(
      'drive', jnp.asarray(expression)[None, None], jnp.asarray(jaw)[None, None]
    )
    return np.asarray(
      self._transfer.apply(
        'offsets', driven[:, :-1], driven[:, -1:], side.codes, side.normals, side.relief, self._mask
      )
    )[0, 0]
