"""What is read of sources and drivers: faces, motions, and whose sound is kept.

Letters: T frames, N landmarks.
"""

import itertools
import os
import pathlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.media.images import resize
from exp_jax.media.video import has_sound
from exp_jax.observe.people import WatchedFaces, watch_faces
from exp_jax.performance.inputs import Footage
from exp_jax.progress import SILENT, Watch
from exp_jax.systems.liveportrait import faces
from exp_jax.systems.liveportrait.models import Model
from exp_jax.systems.liveportrait.motion.driving import take
from exp_jax.systems.liveportrait.motion.templates import Template
from exp_jax.systems.liveportrait.options import Options
from exp_jax.systems.liveportrait.painting import read_face
from exp_jax.systems.liveportrait.pipeline_options import PipelineOptions


def looks(options: PipelineOptions) -> bool:
  """Whether a driver's landmarks are worth finding: for the crop, or for openness."""
  return options.crop_driving != 'no' or options.eye_retargeting or options.lip_retargeting


def is_motion(driving) -> bool:
  """Whether a driver is a motion file, by its name."""
  return isinstance(driving, (str, os.PathLike)) and pathlib.Path(driving).suffix.lower() == '.npz'


def read_source(
  model: Model,
  source: Footage,
  options: PipelineOptions,
  estimator,
  choice: str = 'largest',
  given: np.ndarray | None = None,
  *,
  limit: int | None = None,
  network=None,
  watch: Watch = SILENT,
):
  """([Face], WatchedFaces) of a source; `given` landmarks [N, 2] or [T, N, 2] stand for one
  face."""
  frames, moving, name = source.frames, not source.still, source.name
  wanted = given is None and options.crop_source
  watched = _watched(source, estimator if wanted else None, limit if moving else 1, watch)
  count = len(watched.times)
  if not options.crop_source:
    chosen = [None]
  elif given is not None:
    given = np.asarray(given, np.float64)
    given = given.reshape(-1, *given.shape[-2:])
    if len(given) < count:
      raise UserError(f'{len(given)} sets of landmarks for {count} frames of {name}')
    chosen = [given[:count]]
  else:
    chosen = faces.tracks(watched, choice, name)
    if network is not None:
      chosen = [faces.denser(points, frames, network) for points in chosen]
  return [
    watch.run(
      lambda points=points: read_face(
        model, frames, points, watched.size, count, options, moving=moving
      )
    )
    for points in chosen
  ], watched


def read_clip(
  model: Model,
  clip: Footage,
  options: PipelineOptions,
  estimator,
  choice: str = 'largest',
  given: np.ndarray | None = None,
  *,
  no_face: str = 'hold',
  limit: int | None = None,
  network=None,
  watch: Watch = SILENT,
):
  """(Template, numbers of the frames in it) of a driver's frames."""
  frames, name = clip.frames, clip.name
  wanted = given is None and looks(options)
  watched = _watched(clip, estimator if wanted else None, limit, watch)
  points = None
  if given is not None:
    points = np.asarray(given, np.float64).reshape(-1, *np.shape(given)[-2:])[: len(watched.times)]
  elif estimator is not None and wanted:
    points = faces.tracks(watched, choice, name)[0]
    points = faces.denser(points, frames, network) if network is not None else points
  return faces.read_driver(
    model,
    frames,
    watched,
    points,
    rate=clip.rate,
    crop=options.crop_driving,
    scale=options.driving_scale,
    vx=options.driving_vx,
    vy=options.driving_vy,
    no_face=no_face,
    name=name,
    watch=watch,
  )


def _watched(clip: Footage, estimator, limit: int | None, watch: Watch) -> WatchedFaces:
  """All faces of the first `limit` frames."""
  return watch_faces(
    itertools.islice(clip.frames(), limit),
    estimator,
    stage=f'find faces in {clip.name}',
    total=limit,
    watch=watch,
  )


def shrunk(frame: np.ndarray, largest: int) -> np.ndarray:
  """A frame [H, W, 3] with sides of at most `largest` pixels, made even by cutting."""
  H, W = frame.shape[:2]
  if max(H, W) > largest:
    share = largest / max(H, W)
    frame = resize(frame, (int(H * share), int(W * share)))
  return frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]


def first_frames(found: Template, limit: int | None) -> Template:
  """The first `limit` frames of a template."""
  if limit is None or limit >= len(found):
    return found
  first = lambda x: None if x is None else x[:limit]
  return Template(
    take(found.motion, slice(0, limit)),
    found.rate,
    first(found.eyes),
    first(found.lip),
    first(found.times),
    first(found.found),
  )


def sound_of(
  options: Options,
  driving: pathlib.Path | None,
  kept: np.ndarray,
  source: pathlib.Path | None,
  watch: Watch,
) -> pathlib.Path | None:
  """Whose sound: the asked one's if it has any, else the other's; none where the driver's frames
  were left out."""
  if options.audio == 'none':
    return None
  whole = driving is not None and (options.no_face == 'hold' or len(kept) == kept[-1] + 1)
  if driving is not None and not whole:
    watch.warn('frames of the driver were left out, so its sound is left out too')
  ways = {'driving': driving if whole else None, 'source': source}
  order = [options.audio, *(name for name in ways if name != options.audio)]
  return next(
    (ways[name] for name in order if ways[name] is not None and has_sound(ways[name])), None
  )
