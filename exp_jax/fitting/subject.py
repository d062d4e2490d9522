"""From frames to subjects: crop, landmark stage, maps, landmark stage again, offsets.

The same for photographs and clips.
"""

import pathlib

import jax
import numpy as np

from exp_jax.errors import UserError
from exp_jax.fitting.clip_maps import clip_targets, with_maps
from exp_jax.fitting.coarse.clips import bucket, seen_trust
from exp_jax.fitting.coarse.coarse_fit import CoarseFit
from exp_jax.fitting.coarse.fit import fit_coarse_many, unexplained
from exp_jax.fitting.compiled_programs import make_room
from exp_jax.fitting.offsets.descent import OffsetFit
from exp_jax.fitting.offsets.fit import fit_many
from exp_jax.fitting.offsets.options import OffsetOptions
from exp_jax.fitting.seen_clip import SeenClip, look_at
from exp_jax.fitting.subject_record import FittedClip, fitted_clip
from exp_jax.heads.densify import Dense
from exp_jax.heads.model import HeadModel
from exp_jax.observe.landmarks import FaceEstimator
from exp_jax.observe.maps.onnx_networks import MapEstimator
from exp_jax.observe.observation import Observation


def fit_clips(
  clips: list[SeenClip],
  *,
  head: HeadModel,
  dense: Dense,
  offsets: bool | None = None,
  options: OffsetOptions = OffsetOptions(),
  cache: pathlib.Path | None = None,
  map_estimators: tuple[MapEstimator, ...] = (),
) -> list[FittedClip | UserError]:
  """Fits personalized heads; clips that are padded to the same length share one program.

  Args:
    clips: of `look_at`, all of one size.
    head: with MediaPipe's landmarks.
    dense: of the head.
    offsets: fit vertex offsets (single picture: static only). None: yes for a single picture and
      for a clip with normals; no for a clip without, whose outline and colours do not determine the
      shape of the face.
    options: of the offset stage.
    cache: folder of maps by content hash.
    map_estimators: networks for normals, depth and matte, run on crops of the head.

  Returns:
    A result for each clip; for one whose landmarks no head explains the error, which harms no
    other.
  """
  make_room()
  clips = list(clips)
  fits = _landmark_stage(clips, range(len(clips)), head)
  explained = lambda: [i for i, fit in fits.items() if not isinstance(fit, UserError)]
  if map_estimators:
    for i in explained():
      clips[i] = with_maps(clips[i], fits[i], map_estimators, head=head, dense=dense, cache=cache)
    fits |= _landmark_stage(
      clips, [i for i in explained() if clips[i].observation.normals is not None], head
    )
  wanted = lambda clip: (
    (len(clip.pictures) == 1 or clip.observation.normals is not None)
    if offsets is None
    else offsets
  )
  detailed = _offset_stage(
    clips,
    fits,
    [i for i in explained() if wanted(clips[i])],
    head=head,
    dense=dense,
    options=options,
  )
  return [
    fit
    if isinstance(fit, UserError)
    else fitted_clip(clips[i], fit, detailed.get(i), head=head, dense=dense)
    for i, fit in sorted(fits.items())
  ]


def _landmark_stage(
  clips: list[SeenClip], chosen, head: HeadModel
) -> dict[int, CoarseFit | UserError]:
  """Coarse fits of the chosen clips, by number; for one whose landmarks no head explains the
  error."""
  kind = lambda i: (
    bucket(len(clips[i].pictures)),
    clips[i].observation.normals is None,
    clips[i].observation.depth is None,
  )
  fits = {}
  for same in _grouped(chosen, kind):
    solved = fit_coarse_many(
      head, [clips[i].observation for i in same], focals=[clips[i].focal for i in same]
    )
    for i, coarse in zip(same, solved):
      complaint = unexplained(coarse)
      fits[i] = UserError(f'{clips[i].name}: {complaint}') if complaint else coarse
  return fits


def _offset_stage(
  clips: list[SeenClip],
  fits: dict,
  chosen: list[int],
  *,
  head: HeadModel,
  dense: Dense,
  options: OffsetOptions,
) -> dict[int, OffsetFit]:
  """Offsets of the chosen clips, by number."""
  targets = {i: clip_targets(clips[i]) for i in chosen}
  kind = lambda i: (bucket(len(clips[i].pictures)), jax.tree.structure(targets[i]))
  found = {}
  for same in _grouped(chosen, kind):
    seen = [clips[i].observation for i in same]
    found |= zip(
      same,
      fit_many(
        head,
        dense,
        [fits[i] for i in same],
        [each.points for each in seen],
        [seen_trust(each) for each in seen],
        [targets[i] for i in same],
        options=options,
      ),
    )
  return found


def _grouped(items, key) -> list[list]:
  groups: dict = {}
  for item in items:
    groups.setdefault(key(item), []).append(item)
  return list(groups.values())


def fit_frames(
  frames: np.ndarray,
  *,
  name: str,
  rate: float,
  head: HeadModel,
  dense: Dense,
  size: int = 512,
  offsets: bool | None = None,
  options: OffsetOptions = OffsetOptions(),
  cache: pathlib.Path | None = None,
  estimator: FaceEstimator | None = None,
  face: int | None = None,
  near: tuple[float, float] | None = None,
  observation: Observation | None = None,
  map_estimators: tuple[MapEstimator, ...] = (),
  progress=lambda x: x,
) -> FittedClip:
  """Fits a personalized head to one photograph (T = 1) or clip: `look_at`, then `fit_clips`;
  arguments as of those.

  Raises:
    UserError: no face, a face that is too small, or landmarks that no head explains.
  """
  clip = look_at(
    frames,
    name=name,
    rate=rate,
    size=size,
    cache=cache,
    estimator=estimator,
    face=face,
    near=near,
    observation=observation,
    progress=progress,
  )
  result = fit_clips(
    [clip],
    head=head,
    dense=dense,
    offsets=offsets,
    options=options,
    cache=cache,
    map_estimators=map_estimators,
  )[0]
  if isinstance(result, UserError):
    raise result
  return result
