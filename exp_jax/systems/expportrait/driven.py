"""A driver's motion laid onto a portrait's head, as far as the portrait shows that head."""

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from exp_jax.controls import maps
from exp_jax.controls.head_motion import head_rotation
from exp_jax.controls.reenact import Motion
from exp_jax.controls.same_picture import driven_motion
from exp_jax.controls.smoothing import smoothed
from exp_jax.controls.turn_limit import Reach, reach_of
from exp_jax.heads.densify import Dense
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject
from exp_jax.systems.expportrait.options import Options

_WARNED = 5.0  # degrees that turns are held back by, from which on there is a warning


def reach_of_portrait(
  subject: Subject, head: HeadModel, dense: Dense, options: Options, *, draws_hidden: bool
) -> Reach | None:
  """How far a portrait's head may turn; None: as far as it is driven.

  Args:
    subject: the fitted portrait.
    head: its head model.
    dense: its mesh.
    options: `most_turn` rules.
    draws_hidden: what draws makes up what the portrait does not show, as a video model does.
  """
  if options.most_turn == 180 or options.most_turn is None and draws_hidden:
    return None
  most = None if options.most_turn is None else np.deg2rad(options.most_turn)
  vertices, _ = next(
    maps.posed_heads(head, dense, subject, maps.own_motion(subject), maps.full_offsets(subject))
  )
  return reach_of(head, dense, subject, np.asarray(vertices), most=most)


def driven(
  subject: Subject,
  driving: Subject,
  head: HeadModel,
  options: Options,
  *,
  reach: Reach | None,
  warn: Callable[[str], None],
) -> Motion:
  """The portrait's motion under a driver.

  Args:
    subject: the fitted portrait.
    driving: who drives.
    head: of both.
    options: how motion is laid onto the portrait.
    reach: of `reach_of_portrait`.
    warn: called with a sentence where turns are held back and the user did not ask for it.
  """
  smooth = smoothed(driving, head, options.smoothing)
  motion = driven_motion(subject, smooth, head, options.reenactment, reach=reach)
  if reach is not None and options.most_turn is None:
    whole = driven_motion(subject, smooth, head, options.reenactment)
    turns = [Rotation.from_matrix(head_rotation(head, each.pose)) for each in (motion, whole)]
    back = np.degrees((turns[0].inv() * turns[1]).magnitude().max())
    if back > _WARNED:
      warn(
        f'turns are held back by up to {back:.0f} degrees, because the portrait does not show the '
        'face from there; --most_turn 180 makes them whole'
      )
  return motion
