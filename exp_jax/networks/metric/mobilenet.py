"""MobileNetV3 in its minimal form: no squeeze and excitation, 3 x 3 kernels, ReLU, padding as
TensorFlow's.

  'ds'  depthwise 3 x 3, relu, pointwise          'ir'  pointwise (mid), relu, depthwise 3 x 3, relu, pointwise
  a block whose input has its output's shape adds it; last, a pointwise convolution and relu.

Batch norms are folded at conversion. Source: Howard et al., Searching for MobileNetV3, 2019; the
`minimalistic` models.
"""

import flax.linen as nn
import jax.numpy as jnp

# Stages of blocks (mid channels, 0: 'ds'; out channels; stride), and the last pointwise
# convolution's width.
VARIANTS = {
  'small': (
    (
      ((0, 16, 2),),
      ((72, 24, 2), (88, 24, 1)),
      ((96, 40, 2), (240, 40, 1), (240, 40, 1)),
      ((120, 48, 1), (144, 48, 1)),
      ((288, 96, 2), (576, 96, 1), (576, 96, 1)),
    ),
    576,
  ),
  'large': (
    (
      ((0, 16, 1),),
      ((64, 24, 2), (72, 24, 1)),
      ((72, 40, 2), (120, 40, 1), (120, 40, 1)),
      ((240, 80, 2), (200, 80, 1), (184, 80, 1), (184, 80, 1)),
      ((480, 112, 1), (672, 112, 1)),
      ((672, 160, 2), (960, 160, 1), (960, 160, 1)),
    ),
    960,
  ),
  'tiny': ((((0, 4, 2),), ((8, 6, 2), (12, 6, 1))), 10),
}
STEM = 16


class MobileNet(nn.Module):
  """[B, H, W, 3] -> features [B, width of the last convolution], the mean over pixels."""

  variant: str

  @nn.compact
  def __call__(self, x):
    stages, last = VARIANTS[self.variant]
    x = nn.relu(nn.Conv(STEM, (3, 3), (2, 2), 'SAME', name='stem')(x))
    for s, stage in enumerate(stages):
      for b, (mid, out, stride) in enumerate(stage):
        y, wide = x, mid or x.shape[-1]
        if mid:
          y = nn.relu(nn.Conv(mid, (1, 1), name=f'block{s}_{b}_expand')(y))
        y = nn.relu(
          nn.Conv(
            wide,
            (3, 3),
            (stride,) * 2,
            'SAME',
            feature_group_count=wide,
            name=f'block{s}_{b}_depth',
          )(y)
        )
        y = nn.Conv(out, (1, 1), name=f'block{s}_{b}_project')(y)
        x = x + y if stride == 1 and x.shape[-1] == out else y
    return jnp.mean(nn.relu(nn.Conv(last, (1, 1), name='last')(x)), (1, 2))
