"""Parametric heads: files, skinning, dense detail, subject files."""

from exp_jax.heads.densify import Dense, dense_vertices, laplacian, lift, rest_vertices
from exp_jax.heads.head_files import load_head, save_head
from exp_jax.heads.landmark_sets import landmark_subset
from exp_jax.heads.model import HeadModel, HeadParams, head_digest, make_head, neutral_params
from exp_jax.heads.personalized import Subject, load_subject, save_subject
from exp_jax.heads.skinning import (
  canonical_vertices,
  contour_landmarks,
  head_joints,
  head_landmarks,
  head_vertices,
  joint_transforms,
  pose_vertices,
)

__all__ = [
  'Dense',
  'HeadModel',
  'HeadParams',
  'Subject',
  'canonical_vertices',
  'contour_landmarks',
  'dense_vertices',
  'head_digest',
  'head_joints',
  'head_landmarks',
  'head_vertices',
  'joint_transforms',
  'landmark_subset',
  'laplacian',
  'lift',
  'load_head',
  'load_subject',
  'make_head',
  'neutral_params',
  'pose_vertices',
  'rest_vertices',
  'save_head',
  'save_subject',
]
