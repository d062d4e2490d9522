"""What was found of a clip as a subject file, with a report of how it was found.

Letters: T frames, N dense vertices.
"""

import dataclasses
import json

import numpy as np

from exp_jax.fitting.coarse.coarse_fit import CoarseFit
from exp_jax.fitting.landmark_head import landmark_head
from exp_jax.fitting.offsets.descent import OffsetFit
from exp_jax.fitting.offsets.losses import LOSS_TERMS
from exp_jax.fitting.seen_clip import SeenClip
from exp_jax.geometry.second_differences import jitter_of
from exp_jax.heads.densify import Dense
from exp_jax.heads.model import HeadModel, head_digest
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import landmark_pixels
from exp_jax.observe.face_crop import Crop
from exp_jax.observe.observation import Observation


@dataclasses.dataclass(frozen=True)
class FittedClip:
  """subject: what is saved; observation: in crop pixels; crop: where it was cut; coarse: the
  landmark fit."""

  subject: Subject
  observation: Observation
  crop: Crop
  coarse: CoarseFit


def fitted_clip(
  clip: SeenClip, coarse: CoarseFit, offsets: OffsetFit | None, *, head: HeadModel, dense: Dense
) -> FittedClip:
  """What was found of a clip as a subject.

  Args:
    clip: as it was fitted.
    coarse: its coarse fit.
    offsets: its offsets, or None.
    head: of the fit.
    dense: of the head.
  """
  seen, size = clip.observation, clip.observation.image_size[0]
  count, vertices = len(seen.points), dense.coarse_ids.shape[0]
  static, dynamic = np.zeros((vertices, 3), np.float32), np.zeros((count, 0, 3), np.float32)
  moving, colours = np.zeros(0, np.int32), {}
  report = _coarse_report(clip, coarse, head)
  if offsets is not None:
    coarse = coarse.replace(
      shape=offsets.shape,
      expression=offsets.expression,
      pose=offsets.pose,
      translation=offsets.translation,
    )
    static, colours = (
      np.asarray(offsets.static),
      {'albedo': np.asarray(offsets.albedo), 'light': np.asarray(offsets.light)},
    )
    if count > 1:
      moving = np.flatnonzero(np.asarray(dense.regions['face']) > 0.01).astype(np.int32)
      dynamic = np.asarray(offsets.dynamic[:, moving])
    report |= _offset_report(
      np.asarray(offsets.losses), static, dynamic, np.asarray(dense.regions['face']) > 0.5
    )
  report['personalized'] = 'full' if dynamic.any() else 'static' if static.any() else 'none'
  subject = Subject(
    subject_id=clip.name,
    head_name=head.name,
    head_digest=head_digest(head),
    levels=dense.levels,
    image_size=(size, size),
    fps=float(clip.rate),
    shape=np.asarray(coarse.shape),
    expression=np.asarray(coarse.expression),
    pose=np.asarray(coarse.pose),
    translation=np.asarray(coarse.translation),
    focal=np.full(2, float(coarse.focal), np.float32),
    center=np.full(2, size / 2, np.float32),
    times=(np.arange(count) / clip.rate).astype(np.float32),
    static_offsets=static,
    dynamic_vertices=moving,
    **colours,
    dynamic_offsets=dynamic,
    source_crop=np.repeat(np.linalg.inv(clip.crop.matrix())[None], count, axis=0).astype(
      np.float32
    ),
    report=json.dumps(report),
  )
  return FittedClip(subject, seen, clip.crop, coarse)


def _coarse_report(clip: SeenClip, coarse: CoarseFit, head: HeadModel) -> dict:
  seen = clip.observation
  return {
    'frames': len(seen.points),
    'frames_with_face': int(seen.found.sum()),
    'estimator': seen.estimator,
    'face_pixels': round(clip.eyes / 0.45),
    'focal_in_heights': round(float(coarse.focal) / seen.image_size[0], 3),
    'landmark_error_share_of_eye_distance': round(float(np.median(coarse.error)), 5),
    'jitter_pixels': round(jitter(coarse, head), 4),
    'warnings': list(seen.warnings),
    'provenance': seen.provenance,
  }


def _offset_report(
  losses: np.ndarray, static: np.ndarray, dynamic: np.ndarray, face: np.ndarray
) -> dict:
  """Losses [steps, 6] at first and last, and sizes of static [N, 3], on the face [N] as well, and
  dynamic offsets."""
  size_of = lambda field: round(
    1e3 * float(np.sqrt(np.mean(np.sum(np.square(field), -1)))) if field.size else 0.0, 4
  )
  return {
    'offset_losses': {
      term: [float(losses[0, i]), float(losses[-1, i])] for i, term in enumerate(LOSS_TERMS)
    },
    'largest_static_offset_mm': round(1e3 * float(np.linalg.norm(static, axis=-1).max()), 2),
    'offset_rms_mm': {
      'static': size_of(static),
      'static_on_face': size_of(static[face]),
      'dynamic': size_of(dynamic),
    },
  }


def tracked(
  seen: Observation,
  coarse: CoarseFit,
  *,
  name: str,
  rate: float,
  crop: Crop,
  eyes: float,
  head: HeadModel,
  dense: Dense,
) -> Subject:
  """A subject of motion alone, of an observation in crop pixels whose pictures nobody kept;
  arguments as of `SeenClip`."""
  clip = SeenClip(name, rate, crop, np.zeros((0, 1, 1, 3), np.uint8), seen, eyes)
  return fitted_clip(clip, coarse, None, head=head, dense=dense).subject


def jitter(coarse: CoarseFit, head: HeadModel) -> float:
  """Root mean square second difference of the posed landmarks, pixels; 0 for fewer than three
  frames."""
  if len(coarse.error) < 3:
    return 0.0
  small = landmark_head(head)
  numbers = coarse.shape, coarse.expression, coarse.pose, coarse.translation
  return jitter_of(landmark_pixels(small, coarse.camera(), *numbers))
