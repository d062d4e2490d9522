"""From frames to a subject file: observe, crop, coarse fit, offsets. One function for photographs and clips."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.fitting.coarse import CoarseFit, fit_coarse
from exp_jax.fitting.energies import make_targets
from exp_jax.fitting.landmark_head import inter_ocular, landmark_head
from exp_jax.fitting.offsets import LOSS_TERMS, OffsetOptions, fit_offsets
from exp_jax.geometry import project
from exp_jax.heads.densify import Dense, dense_vertices
from exp_jax.heads.model import HeadModel, HeadParams, head_digest
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import head_landmarks
from exp_jax.observe.face_crop import Crop, crop_observation, head_crop
from exp_jax.observe.landmarks import FaceEstimator, observe
from exp_jax.observe.map_sources import observe_maps
from exp_jax.observe.maps import MapEstimator
from exp_jax.observe.observation import Observation
from exp_jax.rendering import Topology, surface_maps

_MAP_SIZE = 256
_MIN_FACE = 40  # pixels; below, landmarks say nothing of the expression


@dataclasses.dataclass(frozen=True)
class FittedClip:
  """subject: what is saved; observation: in crop pixels; crop: where it was cut; coarse: the landmark fit."""
  subject: Subject
  observation: Observation
  crop: Crop
  coarse: CoarseFit


def fit_frames(frames: np.ndarray, *, name: str, rate: float, head: HeadModel, dense: Dense, size: int = 512,
               offsets: bool | None = None, options: OffsetOptions = OffsetOptions(),
               cache: pathlib.Path | None = None, estimator: FaceEstimator | None = None, face: int | None = None,
               observation: Observation | None = None, map_estimators: tuple[MapEstimator, ...] = (),
               progress=lambda x: x) -> FittedClip:
  """Fits a personalized head to a photograph (T = 1) or a clip.

  Args:
    frames: [T, H, W, 3] uint8 RGB.
    name: subject id, also used in messages.
    rate: frames per second.
    size: pixels of the square crop that everything refers to.
    offsets: fit vertex offsets (single picture: static only). None: yes for a single picture and for a clip with
      normals; no for a clip without, whose outline and colours do not determine the shape of the face.
    cache: folder of observations by content hash.
    face: which face, 0 the largest; None follows the largest and warns of rivals.
    observation: what was seen elsewhere (`observe.sources.read_observation`); None observes the frames.
    map_estimators: networks for normals, depth and matte, run on crops of the head.

  Raises:
    UserError: no face, a face that is too small, or landmarks that no head explains.
  """
  if observation is None:
    observation = observe(frames, name=name, cache=cache, estimator=estimator, face=face, progress=progress)
  eyes = float(np.median(inter_ocular(observation.points[observation.found])))
  if eyes < _MIN_FACE * 0.45:
    raise UserError(f'the face in {name} is only about {eyes / 0.45:.0f} pixels high, at least {_MIN_FACE} are '
                    'needed; use a larger picture')
  crop = head_crop(observation, size=size)
  seen = crop_observation(observation, crop)
  coarse = fit_coarse(head, seen)
  pictures = np.stack([crop.cut(frame) for frame in frames])
  if map_estimators:
    rendered = _rendered_normals(head, dense, coarse, len(frames))
    seen = observe_maps(pictures, seen, list(map_estimators), name=name, rendered=rendered, cache=cache)
  count, vertices = len(frames), dense.coarse_ids.shape[0]
  static, dynamic = np.zeros((vertices, 3), np.float32), np.zeros((count, 0, 3), np.float32)
  moving, colours = np.zeros(0, np.int32), {}
  report = {'frames': count, 'frames_with_face': int(observation.found.sum()), 'estimator': observation.estimator,
            'face_pixels': round(eyes / 0.45), 'focal_in_heights': round(float(coarse.focal) / size, 3),
            'landmark_error_share_of_eye_distance': round(float(jnp.median(coarse.error)), 5),
            'jitter_pixels': round(jitter(coarse, head), 4)}
  report |= {'warnings': list(seen.warnings), 'provenance': seen.provenance}
  if (count == 1 or seen.normals is not None) if offsets is None else offsets:
    weights = next((w for w in (seen.normal_weights, seen.depth_weights) if w is not None), None)
    targets = make_targets(seen.points, _MAP_SIZE, matte=seen.matte, frames=pictures, normals=seen.normals,
                           depth=seen.depth, weights=weights)
    fitted = fit_offsets(head, dense, coarse, seen.points, seen.found, targets, options=options)
    coarse = coarse.replace(shape=fitted.shape, expression=fitted.expression, pose=fitted.pose,
                            translation=fitted.translation)
    static, colours = np.asarray(fitted.static), {'albedo': np.asarray(fitted.albedo), 'light': np.asarray(fitted.light)}
    if count > 1:
      moving = np.flatnonzero(np.asarray(dense.regions['face']) > 0.01).astype(np.int32)
      dynamic = np.asarray(fitted.dynamic[:, moving])
    losses = np.asarray(fitted.losses)
    report['offset_losses'] = {term: [float(losses[0, i]), float(losses[-1, i])]
                               for i, term in enumerate(LOSS_TERMS)}
    report['largest_static_offset_mm'] = round(1e3 * float(np.linalg.norm(static, axis=-1).max()), 2)
  subject = Subject(
    subject_id=name, head_name=head.name, head_digest=head_digest(head), levels=dense.levels,
    image_size=(size, size), fps=float(rate), shape=np.asarray(coarse.shape),
    expression=np.asarray(coarse.expression), pose=np.asarray(coarse.pose),
    translation=np.asarray(coarse.translation), focal=np.full(2, float(coarse.focal), np.float32),
    center=np.full(2, size / 2, np.float32), times=(np.arange(count) / rate).astype(np.float32),
    static_offsets=static, dynamic_vertices=moving, **colours, dynamic_offsets=dynamic,
    source_crop=np.repeat(np.linalg.inv(crop.matrix())[None], count, axis=0).astype(np.float32),
    report=json.dumps(report))
  return FittedClip(subject, seen, crop, coarse)


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
