"""Parametric heads: files, skinning, dense detail, subject files."""

from exp_jax.heads.model import (
  HeadModel,
  HeadParams,
  head_digest,
  load_head,
  make_head,
  neutral_params,
  save_head,
)
from exp_jax.heads.skinning import (
  canonical_vertices,
  head_joints,
  head_landmarks,
  head_vertices,
  joint_transforms,
  pose_vertices,
)

__all__ = [
  'HeadModel',
  'HeadParams',
  'canonical_vertices',
  'head_digest',
  'head_joints',
  'head_landmarks',
  'head_vertices',
  'joint_transforms',
  'load_head',
  'make_head',
  'neutral_params',
  'pose_vertices',
  'save_head',
]
