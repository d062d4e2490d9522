"""What the textured preview knows of a portrait.

Letters: H, W image, N dense vertices, J joints, G grid points.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.controls.preview.texture import HeadTexture
from exp_jax.geometry import Camera
from exp_jax.rendering import Topology


@flax.struct.dataclass
class Proxy:
  """Everything about one portrait that does not change from frame to frame."""

  photo: jax.Array  # [H, W, 4] in 0..1, the last how much of a tooth
  # [H, W, 4] the person's own colour, without what shines through at outlines, and the matte
  cut_out: jax.Array
  background: jax.Array  # [H, W, 3]
  texture: HeadTexture
  topology: Topology  # of the dense head
  camera: Camera
  weights: jax.Array  # [N, J] skinning of the dense head
  teeth: jax.Array  # [M] int32 vertices of teeth
  teeth_shift: jax.Array  # [M, 3] metres at rest, `mouth.tooth_shift`
  reference_vertices: jax.Array  # [N, 3] posed in the portrait
  reference_transforms: jax.Array  # [J, 4, 4]
  grid_topology: Topology
  grid_points: jax.Array  # [G, 3] metres, in the portrait's pose
  grid_pixels: jax.Array  # [G, 2]
  grid_weights: jax.Array  # [G, J]
  # [G, 1] 1 where no drawn skin lies under the grid point: hair, clothes, hands
  grid_loose: jax.Array
  grid_faces: jax.Array  # [G, 3] dense vertices of the skin under each grid point
  grid_barycentric: jax.Array  # [G, 3]
  grid_seen: np.ndarray  # [rows, columns] 1 where skin lies under the grid point
  grid_fade: np.ndarray  # [rows, columns] 1 on skin, falling to 0 away from it
  # [G, 1] 0 at the picture's border, where a moving body would show what was cut off
  grid_free: jax.Array


@jax.jit
def with_teeth(vertices, transforms, weights, teeth, shift):
  """Posed vertices [N, 3] whose rows of teeth are moved by a shift at rest [M, 3]."""
  turned = jnp.einsum('mj,jab,mb->ma', weights[teeth], transforms[:, :3, :3], shift)
  return vertices.at[teeth].add(turned)
