"""Differentiable rendering of triangle meshes: visibility, interpolation, silhouettes, shading."""

from exp_jax.rendering.antialias import antialias
from exp_jax.rendering.interpolate import barycentrics, interpolate
from exp_jax.rendering.rasterize import Fragments, rasterize
from exp_jax.rendering.shading import (
  camera_normals,
  encode_normals,
  frontal_light,
  interpolate_corners,
  mask_map,
  sample_texture,
  shade_harmonics,
  surface_maps,
  wireframe,
)
from exp_jax.rendering.topology import Topology

__all__ = [
  'Fragments',
  'Topology',
  'antialias',
  'barycentrics',
  'camera_normals',
  'encode_normals',
  'frontal_light',
  'interpolate',
  'interpolate_corners',
  'mask_map',
  'rasterize',
  'sample_texture',
  'shade_harmonics',
  'surface_maps',
  'wireframe',
]
