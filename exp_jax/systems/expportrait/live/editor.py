"""A portrait that is edited by sliders, one picture at a time: the fitted head is moved, and the
textured preview draws it.

editor = model.editor('me.jpg')
picture = editor.draw({'smile': 0.6, 'yaw': 15})        # uint8 [H, W, 3]; names and ranges:
editor.sliders editor.save_motion('edited.npz', {'smile': 0.6})        # drives:
model.animate('me.jpg', 'edited.npz')
"""

import numpy as np

from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import save_subject
from exp_jax.systems.expportrait.live.frame_by_frame import FrameByFrame
from exp_jax.systems.expportrait.live.sliders import edited, sliders_of
from exp_jax.systems.expportrait.portrait import Portrait, to_subject


class Editor:
  """Sliders of one portrait.

  Args:
    portrait: its fit.
    draw: draws a motion of one frame.
    head: the head model.

  Attributes:
    sliders: {name: (lowest, highest)}; 0 changes nothing.
  """

  def __init__(self, portrait: Portrait, draw: FrameByFrame, head: HeadModel):
    self._portrait, self._draw, self._head = portrait, draw, head
    self.sliders = sliders_of(head)

  def draw(self, values: dict[str, float]) -> np.ndarray:
    """The edited portrait, uint8 [H, W, 3].

    Raises:
      UserError: a slider that is not there, or a value out of its range.
    """
    return self._draw(edited(self._head, self._portrait.subject, values))

  def save_motion(self, path, values: dict[str, float]) -> None:
    """Writes the edited head as a subject file of one frame, which drives as a motion file does;
    UserError as `draw`."""
    subject = self._portrait.subject
    motion = edited(self._head, subject, values)
    save_subject(path, to_subject(subject, motion, self._draw.dynamic(motion), subject))
