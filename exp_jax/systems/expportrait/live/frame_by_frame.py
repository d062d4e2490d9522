"""Frames of one portrait, drawn one at a time for motions that are not known beforehand.

The drawers of an animation read the parameters of a frame when they come to it. Here they are given
sequences without an end, which answer every frame with the motion of the moment: what is made once
  for a portrait is made once for all its frames.
"""

import sys

import numpy as np

from exp_jax.controls.maps import each_control_map
from exp_jax.controls.reenact import Motion
from exp_jax.heads.densify import Dense
from exp_jax.heads.model import HeadModel
from exp_jax.systems.expportrait.portrait import Portrait, preview_frames
from exp_jax.systems.expportrait.transfer.network import Transfer
from exp_jax.systems.expportrait.transfer.one_person import PersonTransfer

VIEWS = ('preview', 'normals')


class _Now:
  """A sequence without an end whose every item is `value`."""

  def __init__(self):
    self.value = None

  def __len__(self):
    return sys.maxsize

  def __getitem__(self, _):
    return self.value


class FrameByFrame:
  """Draws a portrait under one motion after the other.

  Args:
    portrait: its fit.
    head: the head model.
    dense: the mesh that the portrait was fitted with.
    transfer: gives the wrinkles of an expression, or None: none move.
    view: 'preview', the textured head in the photograph; 'normals', the head's normals alone.

  Raises:
    ValueError: another view.
  """

  def __init__(
    self,
    portrait: Portrait,
    *,
    head: HeadModel,
    dense: Dense,
    transfer: Transfer | None,
    view: str = 'preview',
  ):
    if view not in VIEWS:
      raise ValueError(f'view must be one of {", ".join(VIEWS)}, got {view!r}')
    self._head = head
    self._transfer = None if transfer is None else PersonTransfer(transfer, portrait.subject)
    self._now = Motion(_Now(), _Now(), _Now())
    self._dynamic = None if transfer is None else _Now()
    if view == 'preview':
      self._frames = preview_frames(portrait, self._now, self._dynamic, head, dense)
    else:
      size = portrait.subject.image_size[0]
      self._frames = each_control_map(
        head, dense, portrait.subject, self._now, self._dynamic, size=size
      )

  def dynamic(self, motion: Motion) -> np.ndarray | None:
    """[1, N, 3] metres: the wrinkles of a motion of one frame; None where none move."""
    if self._transfer is None:
      return None
    jaw = self._head.joint_turns(motion.pose, 'jaw')
    return self._transfer(motion.expression[0], jaw[0])[None]

  def __call__(self, motion: Motion) -> np.ndarray:
    """uint8 [H, W, 3]: the portrait under a motion of one frame."""
    for name in ('expression', 'pose', 'translation'):
      getattr(self._now, name).value = getattr(motion, name)[0]
    if self._dynamic is not None:
      self._dynamic.value = self.dynamic(motion)[0]
    frame = np.asarray(next(self._frames))
    return (
      frame if frame.dtype == np.uint8 else np.rint(255 * np.clip(frame, 0, 1)).astype(np.uint8)
    )
