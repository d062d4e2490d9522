"""What the record beside a video says of an animation by ExpPortrait."""

import json

import numpy as np

from exp_jax.controls import maps
from exp_jax.controls.reenact import Motion
from exp_jax.fitting.tracked_driver import Driver
from exp_jax.heads.model import HeadModel
from exp_jax.performance.options import record as options_record
from exp_jax.performance.results import driving_record, square_record
from exp_jax.systems.expportrait.drawing import square_of
from exp_jax.systems.expportrait.generators import sampling_record
from exp_jax.systems.expportrait.kept_portraits import OpenedPortrait
from exp_jax.systems.expportrait.options import SAMPLING, Options
from exp_jax.systems.expportrait.portrait import tremble


def record_of(
  every: list[OpenedPortrait],
  motion: Motion,
  driver: Driver,
  options: Options,
  *,
  head: HeadModel,
  generator,
  from_file: bool,
) -> dict:
  """Engine, options, fits, tremble, and how result, source and driver go together.

  Args:
    every: portraits that are driven, the first of which stands for all.
    motion: of the first.
    driver: whose motion it is.
    options: of the animation.
    head: the head model.
    generator: the video model, or None.
    from_file: the driver is a motion file without its clip.
  """
  opened, portraits = every[0], [each.portrait for each in every]
  portrait = opened.portrait
  rounded = lambda pixels: None if pixels is None else round(pixels, 3)
  record = (
    {'engine': 'proxy' if generator is None else 'dit'}
    | {k: v for k, v in options_record(options).items() if k not in SAMPLING}
    | {
      'source_frame': opened.frame,
      'portrait_head': portrait.subject.detail,
      'tremble_pixels_at_512': {
        'driver': rounded(tremble(head, driver.subject, maps.own_motion(driver.subject))),
        'result': rounded(tremble(head, portrait.subject, motion)),
      },
      'portrait_fit': json.loads(portrait.subject.report),
      'driving_fit': json.loads(driver.subject.report),
    }
  )
  if options.several:
    record['other_portrait_fits'] = [json.loads(each.subject.report) for each in portraits[1:]]
  if generator:
    record |= {'generator': generator.config.task} | sampling_record(generator, options.sampling)
  return record | _relations(opened, driver, options, generator=generator, from_file=from_file)


def _relations(
  opened: OpenedPortrait, driver: Driver, options: Options, *, generator, from_file: bool
) -> dict:
  """What the record says of how the result goes together with its source and its driver."""
  portrait, image = opened.portrait, opened.image
  cut, crops = square_of(portrait, image), driver.subject.source_crop
  driving = driving_record(options.driving_stride, None if from_file else driver.kept)
  if crops is not None:
    driving['square'] = {
      'matrix': np.asarray(crops[0][:2], np.float64).tolist(),
      'size': list(driver.subject.image_size),
    }
  size = (generator and generator.size) or cut.size
  return {
    'square': square_record(image.shape[:2], None if options.whole_picture else cut.resized(size)),
    'driving': driving,
  }
