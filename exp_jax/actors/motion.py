"""Natural motion: smooth head turns, changing expressions, blinks, gaze that jumps, a speaking jaw.

A Motion belongs to no person: rotations are absolute, the translation is relative to where the
person
sits, so any actor can be moved by the motion of another. Letters: T frames, E expressions, J
joints.
"""

import dataclasses
import zlib

import numpy as np

from exp_jax.heads.model import HeadModel
from exp_jax.heads.regions import smooth_step

# a facial gesture is a set of facial actions at full strength; '?' stands for both sides
GESTURES = {
  'smile': {'mouthSmile?': 0.8, 'cheekSquint?': 0.5, 'eyeSquint?': 0.25, 'jaw': 0.03},
  'laugh': {
    'mouthSmile?': 0.9,
    'cheekSquint?': 0.8,
    'eyeSquint?': 0.5,
    'mouthUpperUp?': 0.4,
    'jaw': 0.20,
  },
  'surprise': {'browInnerUp': 0.9, 'browOuterUp?': 0.9, 'eyeWide?': 0.8, 'jaw': 0.24},
  'anger': {
    'browDown?': 0.9,
    'noseSneer?': 0.5,
    'eyeSquint?': 0.35,
    'mouthPress?': 0.4,
    'mouthFrown?': 0.3,
  },
  'disgust': {'noseSneer?': 0.9, 'browDown?': 0.5, 'mouthUpperUp?': 0.6, 'mouthFrown?': 0.4},
  'sad': {'browInnerUp': 0.8, 'mouthFrown?': 0.8, 'mouthShrugLower': 0.5, 'eyeSquint?': 0.2},
  'pucker': {'mouthPucker': 0.9, 'mouthFunnel': 0.3},
  'doubt': {
    'browOuterUpLeft': 0.9,
    'browInnerUp': 0.3,
    'browDownRight': 0.6,
    'mouthLeft': 0.4,
    'mouthDimpleRight': 0.5,
  },
  'puff': {'cheekPuff': 0.8, 'mouthPress?': 0.3},
  'lips': {'mouthRollLower': 0.4, 'mouthRollUpper': 0.3, 'mouthPress?': 0.2},
  'tongue': {'tongueOut': 0.9, 'jaw': 0.22, 'mouthLowerDown?': 0.3},
  'shout': {
    'jaw': 0.34,
    'mouthStretch?': 0.5,
    'browDown?': 0.4,
    'mouthLowerDown?': 0.6,
    'mouthUpperUp?': 0.5,
  },
  'squint': {'eyeSquint?': 0.9, 'cheekSquint?': 0.7, 'browDown?': 0.3},
  'calm': {},
}
_VISEMES = (
  {'mouthFunnel': 0.5, 'mouthPucker': 0.4},
  {'mouthStretch?': 0.35, 'mouthLowerDown?': 0.25},
  {'mouthPress?': 0.4, 'mouthRollLower': 0.2},
  {'mouthUpperUp?': 0.25, 'mouthLowerDown?': 0.4},
  {'mouthShrugUpper': 0.3, 'mouthLowerDown?': 0.3},
)

# of a head whose expressions have no names: how many an action mixes, and how far each goes
_COMPONENTS, _COMPONENT = 12, 0.6


@dataclasses.dataclass(frozen=True)
class Motion:
  """How a head moves over T frames, whoever it belongs to."""

  expression: np.ndarray  # [T, E] float32
  pose: np.ndarray  # [T, J, 3] axis-angle, radians
  translation: np.ndarray  # [T, 3] metres, relative to the seat, head frame
  times: np.ndarray  # [T] seconds
  fps: float


def action_row(head: HeadModel, name: str) -> np.ndarray:
  """[E] what stands for a facial action at full strength; zeros where the head lacks it.

  Components have no names: there each action is a mix of the first of them, drawn by its name,
  always the same one. It is some movement of a face that comes and goes as the action does, not the
  action itself.
  """
  row = np.zeros(len(head.expression_names))
  if name in head.expression_names:
    row[head.expression_names.index(name)] = 1.0
  elif head.signed_expressions and name != 'jaw':
    few = min(_COMPONENTS, len(row))
    row[:few] = _COMPONENT * np.random.default_rng(zlib.crc32(name.encode())).normal(size=few)
  return row


def gesture(head: HeadModel, actions: dict[str, float]) -> tuple[np.ndarray, float]:
  """Facial actions by name as a row [E] (`action_row`) and the jaw angle; actions the head lacks
  are left out."""
  row = np.zeros(len(head.expression_names))
  for name, value in actions.items():
    for side in ('Left', 'Right') if '?' in name else ('',):
      row += value * action_row(head, name.replace('?', side))
  return row, actions.get('jaw', 0.0)


def still_motion(head: HeadModel, *, num_frames: int = 1, fps: float = 25.0) -> Motion:
  """The neutral face, motionless, for `num_frames` frames."""
  joints, units = len(head.parents), len(head.expression_names)
  return Motion(
    np.zeros((num_frames, units), np.float32),
    np.zeros((num_frames, joints, 3), np.float32),
    np.zeros((num_frames, 3), np.float32),
    np.arange(num_frames, dtype=np.float32) / fps,
    fps,
  )


def _drift(rng: np.random.Generator, times: np.ndarray, *, period: float) -> np.ndarray:
  """[T] smooth wandering of unit variance with features of about `period` seconds."""
  waves = period / rng.uniform(0.6, 2.2, 5)
  phase = rng.uniform(0, 2 * np.pi, 5)
  return np.sqrt(2 / 5) * np.sin(2 * np.pi * times[:, None] / waves / 1.6 + phase).sum(1)


def _turns(rng: np.random.Generator, times: np.ndarray) -> tuple[float, np.ndarray]:
  """How lively someone is, and pitch, yaw and roll [T, 3] of the head."""
  lively = rng.uniform(0.4, 1.2)
  turn = (
    np.stack(
      [
        0.09 * _drift(rng, times, period=1.8) + rng.normal(0, 0.07),
        0.20 * _drift(rng, times, period=2.2) + rng.normal(0, 0.16),
        0.06 * _drift(rng, times, period=2.6) + rng.normal(0, 0.04),
      ],
      1,
    )
    * lively
  )
  return lively, np.clip(turn, [-0.30, -0.62, -0.22], [0.30, 0.62, 0.22])


def _gestures(
  rng: np.random.Generator, head: HeadModel, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray, bool]:
  """Expressions [T, E], the jaw's angle [T] and whether the person talks: a gesture is held for a
  while, and another one taken within a third of a second."""
  expression = np.zeros((len(times), len(head.expression_names)))
  jaw, start = np.zeros(len(times)), -rng.uniform(0, 0.6)
  row, opening = gesture(head, GESTURES[rng.choice(list(GESTURES))])
  strength = rng.uniform(0.5, 1.0)
  current, current_jaw = strength * row, strength * opening
  talks = rng.random() < 0.5
  while start < times[-1] + 1e-6:
    row, opening = gesture(head, GESTURES[rng.choice(list(GESTURES))])
    if rng.random() < 0.3:
      extra, more = gesture(head, GESTURES[rng.choice(list(GESTURES))])
      row, opening = (
        row + 0.5 * extra if head.signed_expressions else np.maximum(row, 0.5 * extra),
        max(opening, 0.5 * more),
      )
    strength = rng.uniform(0.35, 1.0) * (0.55 if talks else 1.0)
    row = row * np.exp(rng.normal(0, 0.12, len(row)))  # no two sides are alike
    begin, length = start + rng.uniform(0.3, 0.9), rng.uniform(0.2, 0.45)
    blend = smooth_step(times, begin, begin + length)
    late = times >= begin
    expression = np.where(
      late[:, None],
      current + blend[:, None] * (strength * row - current),
      np.where(start < 0, current, expression),
    )
    jaw = np.where(
      late,
      current_jaw + blend * (strength * opening - current_jaw),
      np.where(start < 0, current_jaw, jaw),
    )
    current, current_jaw, start = strength * row, strength * opening, begin + length
  return expression, jaw, talks


def _speech(
  rng: np.random.Generator,
  head: HeadModel,
  times: np.ndarray,
  expression: np.ndarray,
  jaw: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Expressions and jaw of someone who speaks meanwhile."""
  rate = rng.uniform(3.0, 5.0)
  syllable = 0.5 - 0.5 * np.cos(
    2 * np.pi * rate * times + rng.uniform(0, 6) + 0.8 * _drift(rng, times, period=0.6)
  )
  voiced = smooth_step(_drift(rng, times, period=1.2), -0.8, 0.0)
  jaw = jaw + rng.uniform(0.06, 0.15) * syllable * voiced
  for viseme in _VISEMES:
    wave = np.clip(_drift(rng, times, period=0.35), 0, 1.5) * voiced
    expression = expression + 0.6 * wave[:, None] * gesture(head, viseme)[0]
  return expression, jaw


def _gaze(rng: np.random.Generator, times: np.ndarray, turn: np.ndarray) -> np.ndarray:
  """[T, 2] pitch and yaw of the eyes: fixations with quick jumps; they keep some of the head's turn
  back."""
  gaze, moment = np.zeros((len(times), 2)), 0.0
  while moment < times[-1] + 1.0:
    gaze[times >= moment] = rng.normal(0, [0.10, 0.20])
    moment += rng.uniform(0.4, 1.4)
  return np.clip(gaze - 0.5 * turn[:, :2] * [0.6, 0.8], [-0.25, -0.45], [0.25, 0.45])


def _blinks(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
  """[T] 0..1 how far the lids are shut."""
  blink, moment = np.zeros(len(times)), rng.uniform(-1.5, 2.5)
  while moment < times[-1] + 0.2:
    phase = (times - moment) / 0.10
    blink = np.maximum(blink, np.where(phase < 0, np.exp(-(phase**2)), np.exp(-0.4 * phase**2)))
    moment += rng.gamma(4.0, 0.9)
  return blink


def _lids(
  expression: np.ndarray, names: tuple[str, ...], gaze: np.ndarray, blink: np.ndarray
) -> None:
  """Writes what lids do with the gaze [T, 2] and the blinks [T] into the actions [T, E] that the
  head has."""
  name = {n: k for k, n in enumerate(names)}
  for side, sign in (('Left', 1), ('Right', -1)):
    out = sign * gaze[:, 1]  # yaw toward +x is outward for the left eye
    for action, value in (
      ('Down', gaze[:, 0] / 0.4),
      ('Up', -gaze[:, 0] / 0.4),
      ('Out', out / 0.5),
      ('In', -out / 0.5),
    ):
      if (key := f'eyeLook{action}{side}') in name:
        expression[:, name[key]] = np.clip(value, 0, 1)
  for side in ('Left', 'Right'):
    if (key := f'eyeBlink{side}') in name:
      squint = expression[:, name[f'eyeSquint{side}']] if f'eyeSquint{side}' in name else 0
      expression[:, name[key]] = np.clip(
        np.maximum(blink, expression[:, name[key]]) - 0.25 * squint * blink, 0, 1
      )


def sample_motion(
  rng: np.random.Generator, head: HeadModel, *, num_frames: int, fps: float = 25.0
) -> Motion:
  """A clip of someone who looks about, speaks or makes faces.

  Raises:
    UserError: the head lacks the joint of neck, head, an eye, or the jaw.
  """
  neck, skull, *eyes = (head.joint(name) for name in ('neck', 'head', 'left_eye', 'right_eye'))
  mouth = head.joint('jaw', purpose='because actors open their mouths with it')
  motion = still_motion(head, num_frames=num_frames, fps=fps)
  times, pose = motion.times.astype(np.float64), motion.pose.astype(np.float64)
  lively, turn = _turns(rng, times)
  pose[:, neck], pose[:, skull] = 0.4 * turn, 0.6 * turn
  pose[:, 0] = 0.025 * np.stack([_drift(rng, times, period=3.0) for _ in range(3)], 1)
  expression, jaw, talks = _gestures(rng, head, times)
  if talks:
    expression, jaw = _speech(rng, head, times, expression, jaw)
  if 'mouthClose' in head.expression_names and not talks and rng.random() < 0.1:
    expression[:, head.expression_names.index('mouthClose')] += 0.2
  gaze = _gaze(rng, times, turn)
  for eye in eyes:
    pose[:, eye, :2] = gaze
  _lids(expression, head.expression_names, gaze, _blinks(rng, times))
  pose[:, mouth, 0] = np.clip(jaw, 0, 0.38)
  pose[:, mouth, 1] = 0.012 * _drift(rng, times, period=1.0) * (jaw > 0.02)
  translation = np.stack(
    [
      size * _drift(rng, times, period=period)
      for size, period in ((0.006, 2.5), (0.004, 2.5), (0.010, 3.0))
    ],
    1,
  )
  as32 = lambda values: np.asarray(values, np.float32)
  least, most = (-2.5, 2.5) if head.signed_expressions else (0, 1.2)
  return Motion(
    as32(np.clip(expression, least, most)),
    as32(pose),
    as32(translation * lively),
    motion.times,
    fps,
  )
