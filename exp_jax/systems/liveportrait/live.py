"""LivePortrait one frame at a time: after a camera, or by sliders on its keypoints.

    session = model.live('me.jpg');    show(session.feed(frame))        # uint8 [H, W, 3]
    editor = model.editor('me.jpg');   picture = editor.draw({'smile': 0.8, 'yaw': 10})

The source is read once. A frame of the camera costs its motion and one painting; the square that is
cut out of it is that of the first frame, whose motion is the reference. Letters: N points, S pixels
of the networks' input.
"""

import dataclasses
import fractions
import time
from collections.abc import Callable

import numpy as np

from exp_jax.errors import UserError
from exp_jax.observe.landmarks import FaceEstimator
from exp_jax.performance.pace import Pace
from exp_jax.systems.liveportrait.crop import cut, network_input, squeezed
from exp_jax.systems.liveportrait.models import Model
from exp_jax.systems.liveportrait.motion.driving import stack
from exp_jax.systems.liveportrait.motion.editing import edit, expression_offset
from exp_jax.systems.liveportrait.motion.templates import Template, save_template
from exp_jax.systems.liveportrait.networks.landmarks import square_of
from exp_jax.systems.liveportrait.painting import Face, Painter, cast
from exp_jax.systems.liveportrait.pipeline_options import RANGES, PipelineOptions

_RATE = fractions.Fraction(25)
_REST = {'move_z': 1.0}


class FirstFrameEstimator:
  """MediaPipe, started for one picture and ended after it."""

  def __call__(self, image: np.ndarray):
    with FaceEstimator() as estimator:
      return estimator(image)


class Source:
  """A face of a picture, ready to be painted under any motion.

  Args:
    model: the networks.
    face: as read from the picture.
    picture: uint8 [H, W, 3].
    options: of the pipeline.
    painter: paints.
  """

  def __init__(
    self, model: Model, face: Face, picture: np.ndarray, options: PipelineOptions, painter: Painter
  ):
    self.model, self.face, self.picture, self.options, self.painter = (
      model,
      face,
      picture,
      options,
      painter,
    )

  def painted(self, driver: Template, options: PipelineOptions) -> np.ndarray:
    """The picture under the last frame of a driver, uint8 [H, W, 3]."""
    ready = cast(self.model, [self.face], [driver], options)
    return next(self.painter.still(self.picture, ready.found, [ready.keypoints[0][-1:]]))


class Editor:
  """Sliders of one picture, those of `--edit`.

  Attributes:
    sliders: {name: (lowest, highest)}. All rest at 0, but move_z, which is a factor, at 1;
      eyes_open and lip_open, which set an openness, change nothing until they are given.
  """

  def __init__(self, source: Source):
    self._source = source
    known = source.face.eyes is not None
    self.sliders = {
      name: bounds for name, bounds in RANGES.items() if known or not name.endswith('_open')
    }

  def _checked(self, values: dict[str, float]) -> dict[str, float]:
    for name, value in values.items():
      if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f'the slider {name} must be a number, got {value!r}')
    try:
      expression_offset(values)
    except ValueError as error:
      raise UserError(str(error)) from None
    return {
      name: float(value)
      for name, value in values.items()
      if value != _REST.get(name, 0.0) or name.endswith('_open')
    }

  def draw(self, values: dict[str, float]) -> np.ndarray:
    """The edited picture, uint8 [H, W, 3].

    Raises:
      UserError: a slider that is not there, or a value out of its range.
    """
    options = dataclasses.replace(
      self._source.options, edits=tuple(sorted(self._checked(values).items()))
    )
    # twice: a clip that does not move, while a picture as driver would count from NEUTRAL
    own = self._source.face.motion
    return self._source.painted(Template(stack([own, own]), _RATE), options)

  def save_motion(self, path, values: dict[str, float]) -> None:
    """Writes a template of two frames, the picture as it is and as it is edited, which drives the
    picture to the edit.

    Raises:
      UserError: as `draw`; or eyes_open or lip_open is set, which belong to a picture and to no
        motion.
    """
    values = self._checked(values)
    if still := [name for name in values if name.endswith('_open')]:
      raise UserError(
        f'{" and ".join(still)} cannot be part of a motion template: leave it out, or save '
        'the picture alone'
      )
    own = self._source.face.motion
    save_template(path, Template(stack([own, edit(own, values)]), _RATE))


class LiveSession:
  """A picture that is driven frame by frame. It belongs to one thread at a time.

  Args:
    source: who is driven.
    estimator: image -> (faces [F, N, 3], ...), asked for the first frame alone; None where the
      whole frame is used.
    clock: seconds.

  Attributes:
    fed: frames that were given.
    seen: frames of these that were followed: all.
    seconds: {'read', 'draw': mean seconds of a frame}, without the first two, whose programs are
      compiled.
  """

  def __init__(
    self, source: Source, estimator: Callable | None, *, clock: Callable = time.perf_counter
  ):
    self._source, self._estimator, self._clock = source, estimator, clock
    self._matrix: np.ndarray | None = None
    self._cropped = False
    self._first = None
    self._pace, self.fed, self.seen = Pace(), 0, 0

  @property
  def rate(self) -> float:
    """Frames a second, see `Pace`."""
    return self._pace.rate

  @property
  def seconds(self) -> dict[str, float]:
    """Mean seconds of each step of a frame."""
    return self._pace.seconds

  def feed(self, frame: np.ndarray, *, at: float | None = None) -> np.ndarray:
    """The picture as the driver of this frame.

    Args:
      frame: uint8 [H, W, 3]; all of one size.
      at: its time in seconds; it changes nothing here.

    Raises:
      UserError: a face must be found in the first frame, and none is there.
    """
    began, model = self._clock(), self._source.model
    self.fed, self.seen = self.fed + 1, self.seen + 1
    size = model.nets.input_size
    if self._matrix is None:
      self._place(frame)
    image = (
      network_input(cut(frame, self._matrix, 2 * size))
      if self._cropped
      else np.clip(cut(frame, self._matrix, size) / 255, 0, 1)
    )
    motion = model.motion(np.asarray(image)[None])
    self._first = motion if self._first is None else self._first
    read = self._clock()
    shown = self._source.painted(
      Template(stack([self._first, motion]), _RATE), self._source.options
    )
    now = self._clock()
    self._pace.ended(self.fed, now, {'read': read - began, 'draw': now - read})
    return shown

  def _place(self, frame: np.ndarray) -> None:
    """Where the driver's square lies, from the first frame."""
    model, options = self._source.model, self._source.options
    H, W = frame.shape[:2]
    self._cropped = options.crop_driving == 'yes' or options.crop_driving == 'auto' and H != W
    if not self._cropped:
      self._matrix = squeezed((H, W), model.nets.input_size)
      return
    faces = self._estimator(frame)[0]
    if not len(faces):
      raise UserError(
        'no face found in the first frame of the camera: look into it, in the light, and '
        'start again'
      )
    points = np.asarray(faces[0][:, :2], np.float64) - 0.5
    square = square_of(
      points, 'driving', scale=options.driving_scale, vx=options.driving_vx, vy=options.driving_vy
    )
    self._matrix = square.matrix(2 * model.nets.input_size, rotate=False)
