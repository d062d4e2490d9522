"""Cameras, rotations and meshes: pure functions in metres and radians."""

from exp_jax.geometry.cameras import (
  Camera,
  clip_coordinates,
  perspective_camera,
  project,
  to_camera,
  unproject,
)
from exp_jax.geometry.meshes import (
  Laplacian,
  Subdivision,
  apply_laplacian,
  apply_subdivision,
  compose_subdivisions,
  face_areas,
  face_normals,
  subdivide,
  uniform_laplacian,
  unique_edges,
  vertex_normals,
)
from exp_jax.geometry.rotations import (
  axis_angle_from_rotation,
  compose,
  look_at,
  quaternion_from_rotation,
  rotation_from_6d,
  rotation_from_axis_angle,
  rotation_from_yaw_pitch_roll,
  yaw_pitch_roll_from_rotation,
)

__all__ = [
  'Camera', 'Laplacian', 'Subdivision', 'apply_laplacian', 'apply_subdivision',
  'axis_angle_from_rotation', 'clip_coordinates', 'compose', 'compose_subdivisions', 'face_areas',
  'face_normals', 'look_at', 'perspective_camera', 'project', 'quaternion_from_rotation',
  'rotation_from_6d', 'rotation_from_axis_angle', 'rotation_from_yaw_pitch_roll', 'subdivide',
  'to_camera', 'uniform_laplacian', 'unique_edges', 'unproject', 'vertex_normals',
  'yaw_pitch_roll_from_rotation',
]
