"""From a source and a driver's motion to the keypoints that are painted: Algorithm 1 of the paper,
and what users ask for.

  neither eyes nor lips are retargeted   x' = stitch(x_s, x_d)  (+ lips closed at the start, + eyes of a clip steadied)
  else                                   x' = stitch(x_s, base + move_eyes + move_lip),  base = x_s, or x_d if asked for
  always                                 x' = x_s + multiplier (x' - x_s)

Letters: T frames, K keypoints. Source: LivePortrait (arXiv 2407.03168), Algorithm 1, sections 3.3
and 3.4.
"""

import numpy as np

from exp_jax.errors import UserError
from exp_jax.systems.liveportrait.models import Model
from exp_jax.systems.liveportrait.motion.driving import compose, expression_friendly, take
from exp_jax.systems.liveportrait.motion.editing import OPENNESS, edit, lips_silent
from exp_jax.systems.liveportrait.motion.smoothing import kalman_smooth
from exp_jax.systems.liveportrait.motion.templates import Template
from exp_jax.systems.liveportrait.networks.keypoints import posed
from exp_jax.systems.liveportrait.networks.motion import Motion
from exp_jax.systems.liveportrait.pipeline_options import PipelineOptions

LIPS_CLOSED, EYES_SHUT, EYES_OPEN = 0.03, 0.18, 0.39  # ratios, of the published pipeline
MOST_OPEN = 0.8  # targets in training
_LIP_VARIANCE = 3e-6  # of the lips' moves over a clip


def reference_number(
  choice: str, driver: Template, source: Motion, eyes: np.ndarray | None, lip: np.ndarray | None
) -> int:
  """The driver's frame that corresponds to the source.

  'best' has the least  angle between the heads (radians) + |difference of the lips' openness| + |of
  the eyes'|, the ratios where both are known, among frames with a face.

  Raises:
    UserError: for a number that is not there.
  """
  if choice == 'first':
    return 0
  if choice != 'best':
    if not choice.isdecimal() or int(choice) >= len(driver):
      raise UserError(
        f"the reference frame must be 'first', 'best' or a number below {len(driver)}, got "
        f'{choice!r}'
      )
    return int(choice)
  between = driver.motion.rotation @ source.rotation[:1].transpose(0, 2, 1)
  cost = np.arccos(np.clip((np.trace(between, axis1=1, axis2=2) - 1) / 2, -1, 1))
  if lip is not None and driver.lip is not None:
    cost = cost + np.abs(driver.lip - lip[0]) + np.abs(driver.eyes.mean(1) - eyes[0].mean())
  return int(np.argmin(np.where(True if driver.found is None else driver.found, cost, np.inf)))


def _targets(options: PipelineOptions, driver: Template, first: int, eyes, lip, T: int):
  """(eye condition [T, 3], lip condition [T, 2]) for the retargeting networks."""
  if driver.eyes is None or eyes is None:
    whose = 'the driver' if driver.eyes is None else 'the source'
    raise UserError(
      f'retargeting needs the openness of eyes and lips, which is not known of {whose}: use a clip '
      'with a face, or '
      'a template with ratios'
    )
  fit = lambda x: np.broadcast_to(x, (T, *x.shape[1:])).astype(np.float32)
  eyes, lip, d_eyes, d_lip = fit(eyes), fit(lip), fit(driver.eyes), fit(driver.lip)
  if options.target == 'raw_left':
    eye_target, lip_target = d_eyes[:, 0], d_lip
  else:
    # a mouth that is shut at first has no ratio to speak of
    change = lambda now, then: now / np.maximum(then, 1e-3)
    eye_target = np.clip(
      eyes.mean(1) * change(d_eyes.mean(1), driver.eyes[first].mean()), 0, MOST_OPEN
    )
    lip_target = np.clip(lip * change(d_lip, driver.lip[first]), 0, MOST_OPEN)
  return np.concatenate([eyes, eye_target[:, None]], 1), np.stack([lip, lip_target], 1)


def driven_keypoints(
  model: Model,
  source: Motion,
  driver: Template,
  options: PipelineOptions,
  *,
  eyes: np.ndarray | None = None,
  lip: np.ndarray | None = None,
  source_is_video: bool = False,
  reference: Motion | None = None,
) -> np.ndarray:
  """The keypoints to be painted.

  Args:
    source: of [1] frame (a picture) or [T].
    driver: of T frames, or 1 (a picture).
    eyes: [1 or T, 2] openness of the source, lip: [1 or T]; None where unknown.
    reference: of [1]: a neutral picture of the driver, in place of one of its frames.

  Returns:
    [T, K, 3] float32.

  Raises:
    UserError: retargeting is asked for where openness is unknown.
  """
  drive, T = options.driving, max(len(source.scale), len(driver))
  driving_is_video = len(driver) > 1
  first = reference_number(options.reference, driver, source, eyes, lip) if driving_is_video else 0
  reference = take(driver.motion, slice(first, first + 1)) if reference is None else reference
  how = dict(
    reference=reference,
    source_is_video=source_is_video,
    driving_is_video=driving_is_video,
    animals=model.animals,
  )
  composed = compose(source, driver.motion, drive, **how)
  place, x = posed(source), posed(composed)
  option = drive.option or ('expression-friendly' if model.animals else 'pose-friendly')
  if (
    option == 'expression-friendly'
    and (model.animals or not drive.relative)
    and driving_is_video
    and not source_is_video
  ):
    start = posed(compose(source, reference, drive, **how | {'driving_is_video': True}))
    x = expression_friendly(place, np.concatenate([start, x]))[1:]
  values = dict(options.edits)
  changed = lips_silent(composed) if options.silent else composed
  changed = edit(changed, values) if values else changed
  if changed is not composed:
    x = x + (posed(changed) - posed(composed))
  for name, ratio, network in zip(OPENNESS, (eyes, lip), ('eyes', 'lip')):
    if name in values:
      x = x + _opened(model, network, place, ratio, (name, values[name]), T)
  stitching = not model.animals if options.stitching is None else options.stitching
  stitch = lambda y: (
    y + model.move('stitching', place, np.asarray(y, np.float32)) if stitching else y
  )
  if options.eye_retargeting or options.lip_retargeting:
    eye_condition, lip_condition = _targets(options, driver, first, eyes, lip, T)
    x = (
      np.array(np.broadcast_to(place, x.shape))
      if drive.relative and options.retarget_base == 'source'
      else x
    )
    x = x + (model.move('eyes', place, eye_condition) if options.eye_retargeting else 0.0)
    move = model.move('lip', place, lip_condition) if options.lip_retargeting else 0.0
    if options.lip_retargeting and source_is_video:
      move = kalman_smooth(move, _LIP_VARIANCE)
    x = stitch(x + move)
  else:
    x = stitch(x)
    if options.normalize_lip and drive.relative and lip is not None:
      moves = model.move('lip', place, np.stack([lip, np.zeros_like(lip)], 1))
      x = x + moves * (lip >= LIPS_CLOSED)[:, None, None]
    if options.steady_eyes and source_is_video and eyes is not None:
      target = float(eyes[0].mean())
      target = EYES_OPEN if target < EYES_SHUT else target
      x = x + model.move('eyes', place, _from_to(eyes, target, T))
  return (place + (x - place) * drive.multiplier).astype(np.float32)


def _from_to(ratio: np.ndarray, target: float, count: int) -> np.ndarray:
  """[T, R + 1] openness as it is, [1 or T, R] or [1 or T], and as it is to be."""
  now = np.broadcast_to(ratio, (count, *ratio.shape[1:])).astype(np.float32).reshape(count, -1)
  return np.concatenate([now, np.full((count, 1), target, np.float32)], 1)


def _opened(model: Model, network: str, place, ratio, wanted: tuple[str, float], count: int):
  """[T, K, 3] what opens eyes or lips to the wanted value; zero where they are so already."""
  name, value = wanted
  if ratio is None:
    raise UserError(
      f'{name} needs the openness of the source, which is not known without landmarks of a face'
    )
  change = _from_to(ratio, value, count)
  differs = np.round(change[:, :-1].mean(1), 2) != round(value, 2)
  return model.move(network, place, change) * differs[:, None, None]
