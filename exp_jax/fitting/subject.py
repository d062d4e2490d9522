"""From frames to subject files: observe, crop, coarse fit, offsets. The same for photographs and clips, one or many."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.fitting.coarse import bucket, fit_coarse_many, seen_trust, unexplained
from exp_jax.fitting.coarse_solver import CoarseFit
from exp_jax.fitting.energies import make_targets
from exp_jax.fitting.landmark_head import inter_ocular, landmark_head
from exp_jax.fitting.offsets import LOSS_TERMS, OffsetFit, OffsetOptions, fit_many
from exp_jax.geometry import project
from exp_jax.heads.densify import Dense, dense_vertices
from exp_jax.heads.model import HeadModel, HeadParams, head_digest
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import head_landmarks
from exp_jax.media.squares import Crop
from exp_jax.observe.face_crop import crop_observation, head_crop
from exp_jax.observe.landmarks import FaceEstimator, observe
from exp_jax.observe.map_sources import observe_maps
from exp_jax.observe.maps import MapEstimator
from exp_jax.observe.observation import Observation
from exp_jax.rendering import Topology, surface_maps

_MAP_SIZE = 256
_MIN_FACE = 40  # pixels; below, landmarks say nothing of the expression
_EYES = 0.09  # metres between the outer corners of the eyes
_NEAREST, _FARTHEST = 0.12, 30.0  # metres at which faces are filmed


@dataclasses.dataclass(frozen=True)
class SeenClip:
  """A photograph or clip before it is fitted: pictures [T, size, size, 3] uint8, observation in their pixels."""
  name: str
  rate: float              # frames per second
  crop: Crop               # where the pictures were cut
  pictures: np.ndarray
  observation: Observation
  eyes: float              # median distance of the outer corners of the eyes, pixels of the source
  focal: float | None = None   # of a camera that is known, crop pixels
  shown: np.ndarray | None = None   # [size, size] 1 where pictures show the source, 0 beyond its border; None: everywhere


@dataclasses.dataclass(frozen=True)
class FittedClip:
  """subject: what is saved; observation: in crop pixels; crop: where it was cut; coarse: the landmark fit."""
  subject: Subject
  observation: Observation
  crop: Crop
  coarse: CoarseFit


def look_at(frames: np.ndarray, *, name: str, rate: float, size: int = 512, cache: pathlib.Path | None = None,
            estimator: FaceEstimator | None = None, face: int | None = None, near: tuple[float, float] | None = None,
            observation: Observation | None = None, focal: float | None = None, progress=lambda x: x) -> SeenClip:
  """Finds the face of a photograph (T = 1) or a clip and cuts it out.

  Args:
    frames: [T, H, W, 3] uint8 RGB.
    name: subject id, also used in messages.
    rate: frames per second.
    size: pixels of the square crop that everything refers to.
    cache: folder of observations by content hash.
    face: which face, 0 the largest; None follows the largest and warns of rivals. near: or the one nearest to (x, y) pixels.
    observation: what was seen elsewhere (`observe.sources.read_observation`); None observes the frames.
    focal: focal length of the camera, pixels of the source; None: found.

  Raises:
    UserError: no face, a face that is too small, or a focal length that puts it where no camera is.
  """
  if observation is None:
    observation = observe(frames, name=name, cache=cache, estimator=estimator, face=face, near=near, progress=progress)
  eyes = float(np.median(inter_ocular(observation.points[observation.found])))
  if complaint := face_too_small(name, eyes):
    raise UserError(complaint)
  if focal is not None and (complaint := odd_camera(name, eyes, focal)):
    raise UserError(complaint)
  crop = head_crop(observation, size=size)
  pictures = np.stack([crop.cut(frame) for frame in frames])
  return SeenClip(name, rate, crop, pictures, crop_observation(observation, crop), eyes,
                  None if focal is None else focal * crop.scale, crop.inside(frames.shape[1:3]))


def fit_clips(clips: list[SeenClip], *, head: HeadModel, dense: Dense, offsets: bool | None = None,
              options: OffsetOptions = OffsetOptions(), cache: pathlib.Path | None = None,
              map_estimators: tuple[MapEstimator, ...] = ()) -> list[FittedClip | UserError]:
  """Fits personalized heads; clips that are padded to the same length share one program.

  Args:
    clips: of `look_at`, all of one size.
    offsets: fit vertex offsets (single picture: static only). None: yes for a single picture and for a clip with
      normals; no for a clip without, whose outline and colours do not determine the shape of the face.
    cache: folder of maps by content hash.
    map_estimators: networks for normals, depth and matte, run on crops of the head.

  Returns:
    A result for each clip; for one whose landmarks no head explains the error, which harms no other.
  """
  make_room()
  results: list[FittedClip | UserError | None] = [None] * len(clips)
  with_offsets: dict[tuple, list] = {}
  length = lambda i: bucket(len(clips[i].pictures))
  clips, fits = list(clips), {}

  def landmark_stage(chosen):
    kind = lambda i: (length(i), clips[i].observation.normals is None, clips[i].observation.depth is None)
    for same in _grouped(chosen, kind):
      solved = fit_coarse_many(head, [clips[i].observation for i in same], focals=[clips[i].focal for i in same])
      for i, coarse in zip(same, solved):
        if complaint := unexplained(coarse):
          results[i] = UserError(f'{clips[i].name}: {complaint}')
        else:
          fits[i] = coarse

  landmark_stage(range(len(clips)))
  if map_estimators:
    for i in list(fits):
      rendered = _rendered_normals(head, dense, fits[i], len(clips[i].pictures))
      seen = observe_maps(clips[i].pictures, clips[i].observation, list(map_estimators), name=clips[i].name,
                          rendered=rendered, cache=cache)
      clips[i] = dataclasses.replace(clips[i], observation=seen)
    landmark_stage([i for i in fits if clips[i].observation.normals is not None])
  for i, coarse in fits.items():
    if results[i] is None:
      clip, seen = clips[i], clips[i].observation
      if (len(clip.pictures) == 1 or seen.normals is not None) if offsets is None else offsets:
        weights = next((w for w in (seen.normal_weights, seen.depth_weights) if w is not None), None)
        targets = make_targets(seen.points, _MAP_SIZE, matte=seen.matte, frames=clip.pictures, normals=seen.normals,
                               depth=seen.depth, weights=weights, shown=clip.shown)
        kind = length(i), jax.tree.structure(targets)
        with_offsets.setdefault(kind, []).append((i, clip, coarse, targets))
      else:
        results[i] = _fitted(clip, head, dense, coarse, None)
  for group in with_offsets.values():
    fits = fit_many(head, dense, [coarse for _, _, coarse, _ in group],
                    [clip.observation.points for _, clip, _, _ in group],
                    [seen_trust(clip.observation) for _, clip, _, _ in group],
                    [targets for *_, targets in group], options=options)
    for (i, clip, coarse, _), fit in zip(group, fits):
      results[i] = _fitted(clip, head, dense, coarse, fit)
  return results


def make_room(share: float = 0.5) -> None:
  """Drops compiled programs once the process has taken `share` of the memory maps that Linux allows it.

  On a CPU the programs of one length of clip take thousands of them, and LLVM ends a process that has none left.
  """
  try:
    allowed = int(pathlib.Path('/proc/sys/vm/max_map_count').read_text())
    with open('/proc/self/maps', 'rb') as maps:
      taken = sum(1 for _ in maps)
  except OSError:
    return  # no Linux
  if taken > share * allowed:
    jax.clear_caches()


def _grouped(items, key) -> list[list]:
  groups: dict = {}
  for item in items:
    groups.setdefault(key(item), []).append(item)
  return list(groups.values())


def fit_frames(frames: np.ndarray, *, name: str, rate: float, head: HeadModel, dense: Dense, size: int = 512,
               offsets: bool | None = None, options: OffsetOptions = OffsetOptions(),
               cache: pathlib.Path | None = None, estimator: FaceEstimator | None = None, face: int | None = None,
               near: tuple[float, float] | None = None, observation: Observation | None = None,
               map_estimators: tuple[MapEstimator, ...] = (), progress=lambda x: x) -> FittedClip:
  """Fits a personalized head to one photograph (T = 1) or clip: `look_at`, then `fit_clips`; arguments as of those.

  Raises:
    UserError: no face, a face that is too small, or landmarks that no head explains.
  """
  clip = look_at(frames, name=name, rate=rate, size=size, cache=cache, estimator=estimator, face=face, near=near,
                 observation=observation, progress=progress)
  result = fit_clips([clip], head=head, dense=dense, offsets=offsets, options=options, cache=cache,
                     map_estimators=map_estimators)[0]
  if isinstance(result, UserError):
    raise result
  return result


def _fitted(clip: SeenClip, head: HeadModel, dense: Dense, coarse: CoarseFit, fit: OffsetFit | None) -> FittedClip:
  seen, size = clip.observation, clip.observation.image_size[0]
  count, vertices = len(seen.points), dense.coarse_ids.shape[0]
  static, dynamic = np.zeros((vertices, 3), np.float32), np.zeros((count, 0, 3), np.float32)
  moving, colours = np.zeros(0, np.int32), {}
  report = {'frames': count, 'frames_with_face': int(seen.found.sum()), 'estimator': seen.estimator,
            'face_pixels': round(clip.eyes / 0.45), 'focal_in_heights': round(float(coarse.focal) / size, 3),
            'landmark_error_share_of_eye_distance': round(float(jnp.median(coarse.error)), 5),
            'jitter_pixels': round(jitter(coarse, head), 4),
            'warnings': list(seen.warnings), 'provenance': seen.provenance}
  if fit is not None:
    coarse = coarse.replace(shape=fit.shape, expression=fit.expression, pose=fit.pose, translation=fit.translation)
    static, colours = np.asarray(fit.static), {'albedo': np.asarray(fit.albedo), 'light': np.asarray(fit.light)}
    if count > 1:
      moving = np.flatnonzero(np.asarray(dense.regions['face']) > 0.01).astype(np.int32)
      dynamic = np.asarray(fit.dynamic[:, moving])
    losses = np.asarray(fit.losses)
    report['offset_losses'] = {term: [float(losses[0, i]), float(losses[-1, i])]
                               for i, term in enumerate(LOSS_TERMS)}
    report['largest_static_offset_mm'] = round(1e3 * float(np.linalg.norm(static, axis=-1).max()), 2)
    size_of = lambda field: round(1e3 * float(np.sqrt(np.mean(np.sum(np.square(field), -1)))) if field.size else 0.0, 4)
    face = static[np.asarray(dense.regions['face']) > 0.5]
    report['offset_rms_mm'] = {'static': size_of(static), 'static_on_face': size_of(face), 'dynamic': size_of(dynamic)}
  report['personalized'] = 'full' if dynamic.any() else 'static' if static.any() else 'none'
  subject = Subject(
    subject_id=clip.name, head_name=head.name, head_digest=head_digest(head), levels=dense.levels,
    image_size=(size, size), fps=float(clip.rate), shape=np.asarray(coarse.shape),
    expression=np.asarray(coarse.expression), pose=np.asarray(coarse.pose),
    translation=np.asarray(coarse.translation), focal=np.full(2, float(coarse.focal), np.float32),
    center=np.full(2, size / 2, np.float32), times=(np.arange(count) / clip.rate).astype(np.float32),
    static_offsets=static, dynamic_vertices=moving, **colours, dynamic_offsets=dynamic,
    source_crop=np.repeat(np.linalg.inv(clip.crop.matrix())[None], count, axis=0).astype(np.float32),
    report=json.dumps(report))
  return FittedClip(subject, seen, clip.crop, coarse)


def tracked(seen: Observation, coarse: CoarseFit, *, name: str, rate: float, crop: Crop, eyes: float, head: HeadModel, dense: Dense
            ) -> Subject:
  """A subject of motion alone, of an observation in crop pixels whose pictures nobody kept; arguments as of `SeenClip`."""
  clip = SeenClip(name, rate, crop, np.zeros((0, 1, 1, 3), np.uint8), seen, eyes)
  return _fitted(clip, head, dense, coarse, None).subject


def face_too_small(name: str, eyes: float) -> str:
  """What is wrong with a face whose eyes are `eyes` pixels apart; '' if nothing is."""
  if eyes >= _MIN_FACE * 0.45:
    return ''
  return (f'the face in {name} is only about {eyes / 0.45:.0f} pixels high, at least {_MIN_FACE} are '
          'needed; use a larger picture')


def odd_camera(name: str, eyes: float, focal: float) -> str:
  """What is wrong with a focal length in pixels, if the eyes' outer corners are `eyes` pixels apart; '' if nothing is."""
  away = focal * _EYES / eyes
  if _NEAREST <= away <= _FARTHEST:
    return ''
  return (f'a focal length of {focal:g} pixels would put the face in {name} {away:.2g} m from the camera; give it in pixels '
          'of the input, not in millimetres or of another size, or leave it 0 to have it found')


def _rendered_normals(head: HeadModel, dense: Dense, coarse: CoarseFit, count: int) -> np.ndarray:
  """[T, H, W, 3] normals of the coarse fit, towards the viewer, zero elsewhere."""
  topology, zero = Topology.from_faces(np.asarray(dense.faces)), jnp.zeros((dense.coarse_ids.shape[0], 3))
  draw = jax.jit(lambda params: surface_maps(dense_vertices(head, dense, params, zero, zero), coarse.camera(), topology))
  return np.stack([np.asarray(draw(coarse.params(t))['normal']) * [1, -1, -1] for t in range(count)])


def jitter(coarse: CoarseFit, head: HeadModel) -> float:
  """Root mean square second difference of the posed landmarks, pixels; 0 for fewer than three frames."""
  if len(coarse.error) < 3:
    return 0.0
  small = landmark_head(head)
  each = jax.vmap(lambda e, p, t: project(head_landmarks(small, HeadParams(coarse.shape, e, p, t)),
                                          coarse.camera())[0])
  points = np.asarray(each(coarse.expression, coarse.pose, coarse.translation))
  return float(np.sqrt(np.mean(np.sum((points[2:] - 2 * points[1:-1] + points[:-2]) ** 2, -1))))
