"""SMIRK's encoders: a face [B, 224, 224, 3] in [0, 1] -> parameters of FLAME and a camera.

Three MobileNets, each with one linear layer: pose (3 rotation, axis-angle; 3 camera), shape (300),
expression (50, then 2
eyelids in [0, 1], then 3 of the jaw: opening at least 0, the others within 0.2).

Source: Retsinas et al., SMIRK, CVPR 2024.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.networks.metric.mobilenet import MobileNet

SIZE = 224
VARIANTS = {
  'smirk': dict(pose='small', shape='large', expression='large'),
  'tiny': dict(pose='tiny', shape='tiny', expression='tiny'),
}


class SmirkEncoder(nn.Module):
  """Faces [B, 224, 224, 3] in [0, 1] -> {'pose' [B, 3], 'camera' [B, 3], 'shape' [B, 300],
  'expression' [B, 50], 'eyelids' [B, 2], 'jaw' [B, 3]}."""

  pose: str = 'small'
  shape: str = 'large'
  expression: str = 'large'

  @nn.compact
  def __call__(self, faces):
    head = lambda name, trunk, size: nn.Dense(size, name=f'{name}_head')(
      MobileNet(trunk, name=name)(faces)
    )
    pose, shape, face = (
      head('pose', self.pose, 6),
      head('shape', self.shape, 300),
      head('expression', self.expression, 55),
    )
    jaw = jnp.concatenate([nn.relu(face[:, 52:53]), jnp.clip(face[:, 53:], -0.2, 0.2)], -1)
    return {
      'pose': pose[:, :3],
      'camera': pose[:, 3:],
      'shape': shape,
      'expression': face[:, :50],
      'eyelids': jnp.clip(face[:, 50:52], 0, 1),
      'jaw': jaw,
    }


def smirk_parameters(
  params: dict, faces: jax.Array, *, variant: str = 'smirk'
) -> dict[str, jax.Array]:
  """See `SmirkEncoder`; faces cut out as `metrics.faces.box_crop` does it, 1.4 times the landmarks'
  box."""
  return SmirkEncoder(**VARIANTS[variant]).apply({'params': params}, faces)
