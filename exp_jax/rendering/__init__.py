"""Differentiable rendering of triangle meshes: visibility, interpolation, silhouettes, shading."""

from exp_jax.rendering.antialias import antialias
from exp_jax.rendering.interpolate import barycentrics, interpolate
from exp_jax.rendering.rasterize import Fragments, rasterize
from exp_jax.rendering.shading import (
  camera_normals,
  decode_normals,
  encode_normals,
  mask_map,
  normal_control_map,
  surface_maps,
)
from exp_jax.rendering.topology import Topology

__all__ = [
  'Fragments', 'Topology', 'antialias', 'barycentrics', 'camera_normals', 'decode_normals',
  'encode_normals', 'interpolate', 'mask_map', 'normal_control_map', 'rasterize', 'surface_maps',
]
