"""Sliders on a personalized head: turns of head, eyes and jaw in degrees, and facial actions added
to its own expression.

Signs are those of the person: yaw and gaze_x turn to the person's left, pitch and gaze_y up, roll
  tilts the crown to the person's
right. The torso stays where it is; neck and head share the turn as in reenactment
(`controls.head_motion`).
"""

import numpy as np
from scipy.spatial.transform import Rotation

from exp_jax.controls.head_motion import HeadMotion, head_motion, place_of_bent, posed
from exp_jax.controls.reenact import Motion
from exp_jax.errors import UserError
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject

# degrees
TURNS = {
  'yaw': (-40.0, 40.0),
  'pitch': (-30.0, 30.0),
  'roll': (-30.0, 30.0),
  'gaze_x': (-30.0, 30.0),
  'gaze_y': (-25.0, 25.0),
  'jaw': (0.0, 25.0),
}
ACTIONS = {  # of both sides at once, where the head model has them
  'smile': ('mouthSmileLeft', 'mouthSmileRight'),
  'frown': ('mouthFrownLeft', 'mouthFrownRight'),
  'blink': ('eyeBlinkLeft', 'eyeBlinkRight'),
  'wide_eyes': ('eyeWideLeft', 'eyeWideRight'),
  'brows_up': ('browInnerUp', 'browOuterUpLeft', 'browOuterUpRight'),
  'brows_down': ('browDownLeft', 'browDownRight'),
  'pucker': ('mouthPucker',),
  'funnel': ('mouthFunnel',),
  'cheeks': ('cheekPuff',),
  'sneer': ('noseSneerLeft', 'noseSneerRight'),
}
_ACTION, _COMPONENT = (-1.0, 1.0), (-3.0, 3.0)  # full facial actions; standard deviations


def sliders_of(head: HeadModel) -> dict[str, tuple[float, float]]:
  """{name: (lowest, highest)} of a head model: turns in degrees, actions of both sides, then its
  expressions one by one."""
  has = lambda turn: all(
    map(
      head.has_joint,
      ('left_eye', 'right_eye') if turn.startswith('gaze') else ('jaw',) if turn == 'jaw' else (),
    )
  )
  together = {
    name: _ACTION for name, parts in ACTIONS.items() if set(parts) <= set(head.expression_names)
  }
  single = _COMPONENT if head.signed_expressions else _ACTION
  return (
    {name: bounds for name, bounds in TURNS.items() if has(name)}
    | together
    | dict.fromkeys(head.expression_names, single)
  )


def checked_values(head: HeadModel, values: dict[str, float]) -> dict[str, float]:
  """The values as floats.

  Raises:
    UserError: a slider that the head does not have, a value out of its range, or one that is no
      number.
  """
  known, found = sliders_of(head), {}
  for name, value in values.items():
    if name not in known:
      raise UserError(f'the head {head.name!r} has no slider {name!r}; it has {", ".join(known)}')
    low, high = known[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
      raise UserError(f'the slider {name} must be in {low:g}..{high:g}, got {value!r}')
    found[name] = float(value)
  return found


def edited(head: HeadModel, subject: Subject, values: dict[str, float]) -> Motion:
  """The motion [1] of a subject's first frame with the sliders added.

  Args:
    head: of the subject.
    subject: whose first frame is edited.
    values: {slider: value}; what is not named is 0.

  Raises:
    UserError: as `checked_values`.
  """
  values = checked_values(head, values)
  expression = np.array(subject.expression[:1], np.float64)
  for name, value in values.items():
    if name not in TURNS:
      for part in ACTIONS.get(name, (name,)):
        expression[:, head.expression_names.index(part)] += value
  turns = {name: np.deg2rad(values.get(name, 0.0)) for name in TURNS}
  pose = np.array(subject.pose[:1], np.float64)
  if turns['jaw']:
    pose[:, head.joint('jaw'), 0] += turns['jaw']
  if turns['gaze_x'] or turns['gaze_y']:
    for name in ('left_eye', 'right_eye'):
      pose[:, head.joint(name), :2] += [-turns['gaze_y'], turns['gaze_x']]
  translation = np.array(subject.translation[:1], np.float64)
  if turns['yaw'] or turns['pitch'] or turns['roll']:
    own = head_motion(head, _first(subject))
    turn = Rotation.from_euler('YXZ', [turns['yaw'], -turns['pitch'], turns['roll']]).as_matrix()
    person = dict(head=head, shape=subject.shape, expression=expression, own=pose[0].copy())
    place = place_of_bent(
      pose=pose, translation=translation, rotation=own.rotation @ turn, **person
    )
    pose, translation = posed(pose=pose, wanted=HeadMotion(own.rotation @ turn, place), **person)
  return Motion(*(np.asarray(each, np.float32) for each in (expression, pose, translation)))


def _first(subject: Subject) -> Subject:
  import dataclasses

  return dataclasses.replace(
    subject,
    expression=subject.expression[:1],
    pose=subject.pose[:1],
    translation=subject.translation[:1],
    source_crop=None,
  )
