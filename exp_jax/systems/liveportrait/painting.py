"""Faces read from a source, keypoints for each of them, and pictures painted into place.

Nothing but landmarks and motions is kept of a clip, so that memory does not depend on its length.
Letters: T frames, K keypoints, F faces, S pixels of the networks' input.
"""

import dataclasses
import fractions
import itertools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from exp_jax.errors import UserError
from exp_jax.layers.batching import at_once
from exp_jax.media.paste import open_published_patch, paste
from exp_jax.media.warps import bilinear_map
from exp_jax.observe.people import nearest_seen, seen
from exp_jax.performance.inputs import Footage, Frames
from exp_jax.progress import SILENT
from exp_jax.systems.liveportrait import faces
from exp_jax.systems.liveportrait.crop import blend_mask, cut, network_input, squeezed
from exp_jax.systems.liveportrait.models import Model, networks
from exp_jax.systems.liveportrait.motion.driving import resample, stack, take
from exp_jax.systems.liveportrait.motion.templates import Template
from exp_jax.systems.liveportrait.networks.keypoints import posed
from exp_jax.systems.liveportrait.networks.landmarks import has_openness, openness, square_of
from exp_jax.systems.liveportrait.networks.motion import Motion
from exp_jax.systems.liveportrait.pipeline import driven_keypoints
from exp_jax.systems.liveportrait.pipeline_options import PipelineOptions

_BATCH = 4  # pictures painted by one call where the device is no CPU


@dataclasses.dataclass(frozen=True)
class Face:
  """One face of the source. motion: of [1] frame or [T]; matrix [1 or T, 3, 3]: picture -> crop of
  2 S pixels.

  seen [1 or T]: whether it is there. eyes [1 or T, 2], lip [1 or T]: openness, None where unknown.
  volume: of a picture.
  """

  motion: Motion
  matrix: np.ndarray
  seen: np.ndarray
  eyes: np.ndarray | None
  lip: np.ndarray | None
  volume: jax.Array | None


def read_face(
  model: Model,
  frames: Frames,
  points: np.ndarray | None,
  size: tuple[int, int],
  count: int,
  options: PipelineOptions,
  *,
  moving: bool,
) -> Face:
  """The source's face.

  Args:
    points: [count, N, 2], NaN where not seen; None: the whole picture is the crop.
    moving: whether the source is a clip.
  """
  S = model.nets.input_size
  there = np.ones(count, bool) if points is None else seen(points)
  matrix = np.zeros((count, 3, 3))
  for t in np.flatnonzero(there):
    matrix[t] = (
      squeezed(size, 2 * S)
      if points is None
      else square_of(
        points[t], scale=options.source_scale, vx=options.source_vx, vy=options.source_vy
      ).matrix(2 * S, rotate=options.rotate)
    )
  nearest = nearest_seen(there)
  first = None

  def inputs():
    nonlocal first
    for t, (frame, _) in zip(range(count), frames()):
      if there[t]:
        image = network_input(cut(frame, matrix[t], 2 * S))
        first = image if first is None else first
        yield image

  motion = take(stack(list(faces.motions(model, inputs()))), nearest)
  eyes = lip = None
  if points is not None and has_openness(points):
    eyes, lip = (values[nearest] for values in openness(points[there]))
  return Face(motion, matrix, there, eyes, lip, None if moving else model.appearance(first[None]))


class Painter:
  """Paints faces into pictures.

  A computation in bfloat16 that gives numbers which are not finite is done again in float32.
  """

  def __init__(
    self,
    model: Model,
    options: PipelineOptions,
    *,
    crop_only: bool = False,
    warn: Callable[[str], None] = SILENT.warn,
  ):
    self.model, self.options, self.crop_only, self._patches, self._warn = (
      model,
      options,
      crop_only,
      {},
      warn,
    )

  def faces_of(self, volume, source: np.ndarray, driving: np.ndarray) -> np.ndarray:
    """[B, 2 S, 2 S, 3] in [0, 1].

    Raises:
      UserError: values that are not finite, in float32 too.
    """
    out = np.asarray(self.model.paint(volume, source, driving))
    nets = self.model.nets
    if not np.isfinite(out).all() and nets.generator.dtype != 'float32':
      self._warn(
        f'{nets.generator.dtype} gave values that are not finite; float32 is used from here on'
      )
      exact = networks(nets.variant, norm=nets.appearance.norm)
      self.model = Model(exact, self.model.params, self.model.animals)
      out = np.asarray(self.model.paint(volume.astype('float32'), source, driving))
    if not np.isfinite(out).all():
      raise UserError(
        'the networks gave values that are not finite: convert the weights again, they may be '
        'damaged'
      )
    return out

  def into(self, canvas: np.ndarray, key, matrix: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """The canvas with a painted face; `key` names a place that is used again (None: once)."""
    patch = self._patches.get(key)
    if patch is None:
      patch = open_published_patch(
        matrix, blend_mask(len(picture), feather=self.options.feather), canvas.shape[:2]
      )
    if key is not None:
      self._patches[key] = patch
    return paste(patch, canvas, np.asarray(picture, np.float32))

  def still(
    self, image: np.ndarray, found: list[Face], keypoints: list[np.ndarray]
  ) -> Iterator[np.ndarray]:
    """Frames uint8 of a picture with its faces [F] driven by keypoints [F] of [T, K, 3]; the first
    face lies lowest."""
    T, batch = len(keypoints[0]), at_once(elsewhere=_BATCH)
    sources = [posed(face.motion) for face in found]
    for start in range(0, T, batch):
      stop = min(start + batch, T)
      painted = [
        self.faces_of(
          face.volume,
          source,
          np.concatenate([x[start:stop], np.repeat(x[-1:], batch - stop + start, 0)]),
        )
        for face, source, x in zip(found, sources, keypoints)
      ]
      for i in range(stop - start):
        if self.crop_only:
          yield np.floor(255 * painted[0][i]).astype(np.uint8)
          continue
        canvas = image
        for number, (face, pictures) in enumerate(zip(found, painted)):
          canvas = self.into(canvas, number, face.matrix[0], pictures[i])
        yield canvas

  def moving(
    self, frames: Iterator[np.ndarray], found: list[Face], keypoints: list[np.ndarray]
  ) -> Iterator[np.ndarray]:
    """The same of a clip, frame by frame; where a face is not seen the frame stays as it is."""
    S = self.model.nets.input_size
    sources = [posed(face.motion) for face in found]
    for t, canvas in zip(range(len(keypoints[0])), frames):
      untouched = canvas
      for face, source, x in zip(found, sources, keypoints):
        if face.seen[t]:
          crop = network_input(cut(untouched, face.matrix[t], 2 * S))
          picture = self.faces_of(
            self.model.appearance(crop[None]), source[t : t + 1], x[t : t + 1]
          )[0]
          canvas = self.into(canvas, None, face.matrix[t], picture)
      if self.crop_only:
        canvas = np.clip(
          bilinear_map(found[0].matrix[t], canvas.shape[:2], (2 * S, 2 * S))(canvas), 0, 255
        ).astype(np.uint8)
      yield canvas


@dataclasses.dataclass(frozen=True)
class Cast:
  """What is needed to paint: faces of the source, a template for each at the times of the result,
  and these times."""

  found: list[Face]
  keypoints: list[np.ndarray]
  times: np.ndarray
  rate: fractions.Fraction


def painted_from(
  painter: Painter, ready: Cast, picture: np.ndarray, clip: Footage | None, first: int
) -> Iterator[np.ndarray]:
  """Frames of a result from number `first` on, of a picture uint8 [H, W, 3] or of a clip.

  On an accelerator `first` must be a multiple of four, so that calls are those of the whole.
  """
  later = [x[first:] for x in ready.keypoints]
  if clip is None:
    return painter.still(picture, ready.found, later) if len(later[0]) else iter(())
  found = [
    dataclasses.replace(
      face,
      motion=take(face.motion, slice(first, None)),
      matrix=face.matrix[first:],
      seen=face.seen[first:],
    )
    for face in ready.found
  ]
  frames = itertools.islice((frame for frame, _ in clip.frames()), first, None)
  return painter.moving(frames, found, later)


def cast(
  model: Model,
  found: list[Face],
  drivers: list[Template],
  options: PipelineOptions,
  *,
  source_times: np.ndarray | None = None,
  source_rate=None,
  neutral: Motion | None = None,
) -> Cast:
  """Keypoints for every face.

  A picture takes its times from the first driver, a clip keeps its own.

  Of two clips the shorter one ends the result; drivers are read off at the result's times, or frame
  by frame with `by_index`.
  """
  moving, main = source_times is not None, drivers[0]
  times, rate = (source_times, source_rate) if moving else (main.seconds, main.rate)
  if moving and len(main) > 1:
    if options.by_index:
      times = times[: len(main)]
    else:
      times = times[times < main.seconds[-1] + 1 / float(main.rate)]
  keypoints = []
  for face, driver in zip(found, drivers):
    if len(driver) > 1:
      given = driver
      if options.by_index:
        index = np.minimum(np.arange(len(times)), len(driver) - 1)
        pick = lambda x, index=index: None if x is None else x[index]
        driver = dataclasses.replace(driver, motion=take(driver.motion, index))
      else:
        pick = lambda x, given=given: None if x is None else _at(x, given.seconds, times)
        driver = dataclasses.replace(driver, motion=resample(driver.motion, driver.seconds, times))
      driver = dataclasses.replace(
        driver,
        eyes=pick(given.eyes),
        lip=pick(given.lip),
        times=times,
        rate=rate,
        found=None if given.found is None else pick(given.found.astype(float)) > 0.5,
      )
    motion, eyes, lip = face.motion, face.eyes, face.lip
    if moving:
      motion = take(motion, slice(0, len(times)))
      eyes, lip = (None, None) if eyes is None else (eyes[: len(times)], lip[: len(times)])
    keypoints.append(
      driven_keypoints(
        model,
        motion,
        driver,
        options,
        eyes=eyes,
        lip=lip,
        source_is_video=moving,
        reference=neutral,
      )
    )
  return Cast(
    [
      dataclasses.replace(face, motion=take(face.motion, slice(0, len(times)))) if moving else face
      for face in found
    ],
    keypoints,
    times,
    fractions.Fraction(rate),
  )


def _at(values: np.ndarray, times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Columns of [T, ...] read off at other times, linear."""
  flat = values.reshape(len(values), -1)
  out = np.stack([np.interp(wanted, times, column) for column in flat.T], 1)
  return out.reshape(len(wanted), *values.shape[1:]).astype(np.float32)
