"""Cameras, rotations and meshes: pure functions in metres and radians."""

from exp_jax.geometry.cameras import (
  HEAD_TO_CAMERA,
  Camera,
  clip_coordinates,
  depth_in_clip,
  orthographic_camera,
  perspective_camera,
  project,
  to_camera,
  weak_perspective_camera,
)
from exp_jax.geometry.meshes import (
  Subdivision,
  subdivide,
  unique_edges,
  vertex_normals,
)
from exp_jax.geometry.rotations import (
  axis_angle_from_rotation,
  compose,
  look_at,
  quaternion_from_rotation,
  rotation_from_axis_angle,
)
from exp_jax.geometry.similarity import nearest_rotation, rigid_motion, similarity

__all__ = [
  'HEAD_TO_CAMERA',
  'Camera',
  'Subdivision',
  'axis_angle_from_rotation',
  'clip_coordinates',
  'compose',
  'depth_in_clip',
  'look_at',
  'nearest_rotation',
  'orthographic_camera',
  'perspective_camera',
  'project',
  'quaternion_from_rotation',
  'rigid_motion',
  'rotation_from_axis_angle',
  'similarity',
  'subdivide',
  'to_camera',
  'unique_edges',
  'vertex_normals',
  'weak_perspective_camera',
]
