"""What the coarse stage finds of a clip, and the camera that it is seen by.

Letters: T frames, S shape, E expression, J joints.
"""

import flax
import jax
import jax.numpy as jnp

from exp_jax.geometry import HEAD_TO_CAMERA, Camera
from exp_jax.heads.model import HeadParams

FOCAL_PRIOR = 2.5  # image heights: about 23 degrees


@flax.struct.dataclass
class CoarseFit:
  """Result of `fit_coarse`; all in the crop's pixels and the head's frame (y-up, metres)."""

  shape: jax.Array  # [S]
  expression: jax.Array  # [T, E]
  pose: jax.Array  # [T, J, 3]
  translation: jax.Array  # [T, 3]
  focal: jax.Array  # [] pixels
  error: jax.Array  # [T] root mean square landmark distance, share of the inter-ocular distance
  image_size: tuple[int, int] = flax.struct.field(pytree_node=False)

  def camera(self) -> Camera:
    """The clip's one camera: at the origin of the head's frame, looking down its -z."""
    return make_camera(self.focal, self.image_size)

  def params(self, frame) -> HeadParams:
    """HeadParams of one frame (an int) or, with slice(None), of all with a leading [T] on all but
    shape."""
    return HeadParams(self.shape, self.expression[frame], self.pose[frame], self.translation[frame])


def make_camera(focal: jax.Array, image_size: tuple[int, int]) -> Camera:
  """A camera at the origin with equal focal lengths and its axis through the image centre."""
  height, width = image_size
  return Camera(
    rotation=jnp.asarray(HEAD_TO_CAMERA),
    translation=jnp.zeros(3),
    focal=jnp.stack([focal, focal]),
    center=jnp.array([width / 2, height / 2]),
    image_size=image_size,
  )
