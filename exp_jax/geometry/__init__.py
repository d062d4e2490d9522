"""Cameras, rotations and meshes: pure functions in metres and radians."""

from exp_jax.geometry.cameras import (
  Camera,
  clip_coordinates,
  perspective_camera,
  project,
  to_camera,
  unproject,
)

__all__ = [
  'Camera', 'clip_coordinates', 'perspective_camera', 'project', 'to_camera', 'unproject',
]
