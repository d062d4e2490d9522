"""A portrait that follows a camera: frames in, frames out, one by one.

    session = model.live('me.jpg', view='normals')
    for frame in camera:                       # uint8 [H, W, 3]
      show(session.feed(frame))
    print(session.rate, session.seconds)

The first frame with a face tells who drives: its shape and focal length are found by landmarks and
  maps, as of a clip's key
frames. Every other frame costs landmarks, its own unknowns with these known, and a drawing. Nothing
of the future is known, so `Options.smoothing` does not act; landmarks are steadied as they come
(`steady_points`), and a lid counts as open by the widest opening seen so far. Letters: T frames.
"""

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from exp_jax.controls.driving_options import ReenactOptions
from exp_jax.controls.same_picture import driven_motion
from exp_jax.controls.turn_limit import Reach
from exp_jax.errors import UserError
from exp_jax.fitting.coarse.coarse_fit import CoarseFit
from exp_jax.fitting.coarse.fit import shape_of_pictures, unexplained
from exp_jax.fitting.landmark_head import inter_ocular
from exp_jax.fitting.seen_clip import face_too_small
from exp_jax.fitting.subject_record import tracked
from exp_jax.heads.densify import Dense
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject
from exp_jax.media.squares import Crop
from exp_jax.observe.face_crop import crop_observation, head_crop
from exp_jax.observe.landmarks import ESTIMATOR
from exp_jax.observe.maps.map_sources import observe_maps
from exp_jax.observe.observation import make_observation
from exp_jax.performance.pace import Pace
from exp_jax.systems.expportrait.live.frame_by_frame import FrameByFrame
from exp_jax.systems.expportrait.live.frame_solver import FrameSolver
from exp_jax.systems.expportrait.live.steady_points import SteadyPoints


class LiveSession:
  """A portrait that is driven frame by frame. It belongs to one thread at a time.

  Args:
    draw: draws a motion of one frame.
    reference: the portrait's subject.
    head: the head model.
    dense: its mesh.
    estimator: image -> (faces [F, 478, 3], scores [F], matte).
    map_estimators: networks that see the first frame.
    reenactment: how motion is laid onto the portrait's head.
    reach: how far that may turn; None: as far as it is driven.
    clock: seconds.

  Attributes:
    fed: frames that were given.
    seen: frames of these with a face.
    seconds: {'landmarks', 'fit', 'draw': mean seconds of a frame}, without the first two, whose
      programs are compiled.
  """

  def __init__(
    self,
    draw: FrameByFrame,
    reference: Subject,
    *,
    head: HeadModel,
    dense: Dense,
    estimator: Callable,
    map_estimators: tuple = (),
    reenactment: ReenactOptions = ReenactOptions(),
    reach: Reach | None = None,
    clock: Callable = time.perf_counter,
  ):
    self._draw, self._reference, self._head, self._dense = draw, reference, head, dense
    self._estimator, self._maps, self._reenactment, self._clock = (
      estimator,
      map_estimators,
      reenactment,
      clock,
    )
    self._reach = reach
    self._steady = SteadyPoints()
    self._common: CoarseFit | None = None
    self._solve: FrameSolver | None = None
    self._crop: Crop | None = None
    self._first: Subject | None = None
    self._shown: np.ndarray | None = None
    self._last: np.ndarray | None = None  # [478, 2] landmarks of the face that is followed
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
    """The portrait as the driver of this frame.

    Args:
      frame: uint8 [H, W, 3]; all of one size.
      at: its time in seconds; None: now.

    Returns:
      uint8 [S, S, 3]. Where no face is found, the frame before it again.

    Raises:
      UserError: the first frame shows no face, or one that is too small or that no head explains.
    """
    began = self._clock()
    faces = np.asarray(self._estimator(frame)[0])[..., :2]
    self.fed += 1
    if not len(faces):
      if self._shown is None:
        raise UserError(
          'no face found in the first frame of the camera: look into it, in the light, and '
          'start again'
        )
      self._pace.ended(self.seen, self._clock())
      return self._shown
    points = self._chosen(faces)
    self.seen += 1
    looked = self._clock()
    points = self._steady(points, began if at is None else at, float(inter_ocular(points[None])[0]))
    first = self._common is None
    driving = self._meet(frame, points) if first else self._followed(points, frame.shape[:2])
    motion = driven_motion(
      self._reference, driving, self._head, self._reenactment, reach=self._reach
    )
    motion = dataclasses.replace(
      motion, **{name: getattr(motion, name)[-1:] for name in ('expression', 'pose', 'translation')}
    )
    fitted = self._clock()
    self._shown = self._draw(motion)
    now = self._clock()
    steps = {'landmarks': looked - began, 'fit': fitted - looked, 'draw': now - fitted}
    self._pace.ended(self.seen, now, steps)
    return self._shown

  def _chosen(self, faces: np.ndarray) -> np.ndarray:
    """The largest face of the first frame, then the one nearest to it."""
    number = 0
    if self._last is not None:
      number = int(np.argmin(np.linalg.norm(faces.mean(1) - self._last.mean(0), axis=-1)))
    self._last = faces[number]
    return np.asarray(faces[number], np.float64)

  def _observed(self, points: np.ndarray, shape: tuple[int, int]):
    return make_observation(points[None], name='the camera', image_size=shape, estimator=ESTIMATOR)

  def _meet(self, frame: np.ndarray, points: np.ndarray) -> Subject:
    """Who drives, from the first frame: [2] frames, both the first."""
    observation = self._observed(points, frame.shape[:2])
    if complaint := face_too_small('the camera', float(inter_ocular(points[None])[0])):
      raise UserError(complaint)
    self._crop = head_crop(observation, size=self._reference.image_size[0])
    cut = crop_observation(observation, self._crop)
    if self._maps:
      cut = observe_maps(self._crop.cut(frame)[None], cut, list(self._maps), name='the camera')
    self._common = shape_of_pictures(self._head, cut)
    self._solve = FrameSolver(self._head, self._common)
    eyes = float(inter_ocular(cut.points)[0])
    self._first = tracked(
      cut,
      self._common,
      name='camera',
      rate=25.0,
      crop=self._crop,
      eyes=eyes,
      head=self._head,
      dense=self._dense,
    )
    return self._pair(self._common)

  def _followed(self, points: np.ndarray, shape: tuple[int, int]) -> Subject:
    """[2] frames: the first, and this one."""
    cut = crop_observation(self._observed(points, shape), self._crop)
    fit = self._solve(cut)
    return self._pair(self._common if unexplained(fit) else fit)

  def _pair(self, now: CoarseFit) -> Subject:
    first = self._first
    both = {
      name: np.concatenate([getattr(first, name), np.asarray(getattr(now, name))])
      for name in ('expression', 'pose', 'translation')
    }
    twice = {
      name: np.repeat(getattr(first, name), 2, 0) for name in ('source_crop', 'dynamic_offsets')
    }
    return dataclasses.replace(first, times=np.float32([0, 0.04]), **both, **twice)
