"""Convolutions of LivePortrait, in forms that give the same numbers with less work.

  after nearest upsampling   output pixels of one phase see two source cells an axis at most (one where all taps fall into
                             the same cell): one small convolution of the source for every phase,
                               taps added up
  with few outputs           the taps along x become output channels, and are added up shifted
  of volumes, on a CPU       the taps along depth become output channels of a convolution of slices; of large volumes, the
                             spectrum of the depth is convolved (`spectrum`)

Normalization: with `norm='folded'` batch norm is part of the kernels (published weights); with
`norm='group'` a group norm stands in its place, which keeps no statistics and trains from scratch.
Parameters: `kernel` [..., I, O], `bias` [O].
"""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.systems.liveportrait.motion.spectrum import convolution_by_spectrum

NORMS = ('folded', 'group')
# products alone go to YNNPACK
EIGEN = {'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_DOT'}


def scaled(gain: float):
  """Initial weights with variance gain / fan-in: 2 keeps the size of what passes ReLUs (He et al.,
  2015)."""
  return nn.initializers.variance_scaling(gain, 'fan_in', 'truncated_normal')


def even_kernel(kernel: jax.Array) -> jax.Array:
  """[..., I, O] over the root of its fan-in, for training from scratch.

  Adam moves every weight by as much, so the sum of N inputs of one sign moves by N steps: with 7 x
  7 x 2272 of them by tens in one update, and what follows (a sigmoid, a softmax) is shut for good.
  Divided so, it moves by the root of N (Karras et al., 2018).
  """
  return kernel / np.sqrt(np.prod(kernel.shape[:-1]))


@functools.cache
def compiler_options() -> dict[str, str] | None:
  """For `jax.jit` of what convolves volumes: on CPUs, convolutions by Eigen.

  XLA of jax 0.10 gives them to YNNPACK, which leaves all cores but one idle where channels are few
  (32 -> 32, 25 pictures of
  64 x 64, two cores: 20 ms, Eigen 11). None elsewhere, and where XLA does not know the option.
  """
  if jax.default_backend() != 'cpu':
    return None
  try:
    jax.jit(lambda x: x, compiler_options=EIGEN).lower(0.0).compile()
  except jax.errors.JaxRuntimeError:
    return None
  return EIGEN


def direct(x, kernel, padding):
  """The convolution as XLA has it: x [B, ..., I] by kernel [..., I, O], one pair of paddings an
  axis."""
  letters = 'DHW'[3 - (kernel.ndim - 2) :]
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (1,) * (kernel.ndim - 2),
    padding,
    dimension_numbers=(f'N{letters}C', f'{letters}IO', f'N{letters}C'),
  )


def by_depth(x, kernel, padding):
  """A convolution of a volume as one of its slices: taps along D become outputs, and are added up
  shifted."""
  B, D, H, W, I = x.shape
  n, *taps, _, O = kernel.shape
  wide = jnp.moveaxis(kernel, 0, -2).reshape(*taps, I, n * O)
  y = direct(x.reshape(B * D, H, W, I), wide, padding[1:])
  y = y.reshape(B, D, *y.shape[1:])
  y = jnp.pad(y, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))
  return sum(y[:, i : y.shape[1] - n + 1 + i, ..., i * O : (i + 1) * O] for i in range(n))


def on_cpu(x, kernel, padding):
  """A convolution of a volume, in the form that is fastest there."""
  (_, D, H, W, _), (n, *taps, _, O) = x.shape, kernel.shape
  # else transforming the kernel costs more than it saves
  large = D >= 8 and H * W >= 256 and x.dtype == jnp.float32
  if not large or n == 1 or n % 2 == 0 or padding[0] != (n // 2, n // 2):
    return by_depth(x, kernel, padding)
  if O < 32 and min(taps) > 3 and padding == tuple((t // 2, t // 2) for t in (n, *taps)):
    return convolution_by_spectrum(x, kernel, convolution_by_shifts)
  return convolution_by_spectrum(x, kernel, lambda x, k: direct(x, k, padding[1:]))


def convolution(x: jax.Array, kernel: jax.Array, padding=None) -> jax.Array:
  """[B, ..., I], [*taps, I, O] -> [B, ..., O], stride 1; padding by zeros to the same size unless
  given.

  On a CPU, whose convolutions of volumes are slow, those run slice by slice or through the spectrum
  of their depth.
  """
  padding = tuple(tuple(p) for p in padding or [(n // 2, n // 2) for n in kernel.shape[:-2]])
  if kernel.ndim < 5:
    return direct(x, kernel, padding)
  return jax.lax.platform_dependent(
    jnp.asarray(x),
    jnp.asarray(kernel),
    cpu=lambda x, k: on_cpu(x, k, padding),
    default=lambda x, k: direct(x, k, padding),
  )


def repeat(x: jax.Array, factor: int) -> jax.Array:
  """[..., H, W, C] -> [..., factor H, factor W, C], nearest."""
  return jnp.repeat(jnp.repeat(x, factor, -3), factor, -2)


def _phases(
  factor: int,
) -> list[tuple[tuple[tuple[int, ...], ...], tuple[int, int], tuple[int, ...]]]:
  """Of 3 taps along an axis after `factor`-fold repetition: (taps that fall together, in order),
  padding, phases alike."""
  if factor == 2:
    return [(((0,), (1, 2)), (1, 0), (0,)), (((0, 1), (2,)), (0, 1), (1,))]
  inner = tuple(range(1, factor - 1))
  return [
    (((0,), (1, 2)), (1, 0), (0,)),
    (((0, 1, 2),), (0, 0), inner),
    (((0, 1), (2,)), (0, 1), (factor - 1,)),
  ]


def convolution_of_repeated(x: jax.Array, kernel: jax.Array, factor: int) -> jax.Array:
  """`convolution(repeat(x, factor), kernel)` without ever convolving the large picture.

  Args:
    x: [B, H, W, I] or [B, D, H, W, I]; D is not repeated.
    kernel: [3, 3, I, O] or [3, 3, 3, I, O].
    factor: 2 or more.
  """
  lead = x.ndim - 4  # 1 if there is a depth axis
  rows = [[None] * factor for _ in range(factor)]
  for (ys, pad_y, at_y), (xs, pad_x, at_x) in itertools.product(_phases(factor), repeat=2):
    small = jnp.stack([sum(kernel[..., i, :, :, :] for i in group) for group in ys], lead)
    small = jnp.stack([sum(small[..., i, :, :] for i in group) for group in xs], lead + 1)
    part = convolution(x, small, [(1, 1)] * lead + [pad_y, pad_x])
    for i, j in itertools.product(at_y, at_x):
      rows[i][j] = part
  # [..., H, f, W, f, O] after moving axes
  out = jnp.stack([jnp.stack(row, -2) for row in rows], -4)
  *front, H, f, W, g, C = out.shape
  return out.reshape(*front, H * f, W * g, C)


def convolution_by_shifts(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """`convolution(x, kernel)` for few outputs: the taps along the last axis are outputs of their
  own, added up shifted."""
  *taps, n, I, O = kernel.shape
  wide = jnp.moveaxis(kernel, -3, -2).reshape(*taps, 1, I, n * O)
  y = convolution(x, wide)
  W = x.shape[-2]
  y = jnp.pad(y, [(0, 0)] * (y.ndim - 2) + [(n // 2, n // 2), (0, 0)])
  return sum(y[..., j : j + W, j * O : (j + 1) * O] for j in range(n))


class Conv(nn.Module):
  """A convolution of stride 1 that keeps the size: [B, ..., I] -> [B, ..., O]."""

  features: int
  taps: tuple[int, ...]
  dtype: str = 'float32'
  use_bias: bool = True
  factor: int = 1  # the input is repeated so often along H and W first
  few: bool = False  # few outputs: by shifts
  gain: float = 2.0  # of the initial weights, see `scaled`
  equal: bool = False  # see `even_kernel`

  @nn.compact
  def __call__(self, x):
    start = nn.initializers.normal(np.sqrt(self.gain)) if self.equal else scaled(self.gain)
    kernel = self.param('kernel', start, (*self.taps, x.shape[-1], self.features))
    kernel = (even_kernel(kernel) if self.equal else kernel).astype(self.dtype)
    x = x.astype(self.dtype)
    if self.few:  # slice by slice there are more outputs already
      y = jax.lax.platform_dependent(x, kernel, cpu=convolution, default=convolution_by_shifts)
    else:
      y = (
        convolution_of_repeated(x, kernel, self.factor)
        if self.factor > 1
        else convolution(x, kernel)
      )
    if self.use_bias:
      y = y + self.param('bias', nn.initializers.zeros, (self.features,)).astype(self.dtype)
    return y


class Norm(nn.Module):
  """A batch norm that could not be folded (`norm='folded'`: x scale + bias), or a group norm of 4
  channels or more a group."""

  norm: str

  @nn.compact
  def __call__(self, x):
    if self.norm not in NORMS:
      raise ValueError(f'norm must be one of {NORMS}, got {self.norm!r}')
    C = x.shape[-1]
    scale = self.param('scale', nn.initializers.ones, (C,))
    bias = self.param('bias', nn.initializers.zeros, (C,))
    if self.norm == 'group':
      groups = next(g for g in (8, 4, 2, 1) if C % g == 0 and (C // g >= 4 or g == 1))
      y = x.astype(jnp.float32).reshape(len(x), -1, groups, C // groups)
      y = y - y.mean((1, 3), keepdims=True)
      y = y * jax.lax.rsqrt(jnp.square(y).mean((1, 3), keepdims=True) + 1e-5)
      return (y.reshape(x.shape) * scale + bias).astype(x.dtype)
    return x * scale.astype(x.dtype) + bias.astype(x.dtype)


class ConvNorm(nn.Module):
  """Conv, then the norm if it is not folded into it. No activation."""

  features: int
  taps: tuple[int, ...]
  norm: str = 'folded'
  dtype: str = 'float32'
  factor: int = 1

  @nn.compact
  def __call__(self, x):
    x = Conv(self.features, self.taps, self.dtype, factor=self.factor, name='conv')(x)
    return x if self.norm == 'folded' else Norm(self.norm, name='norm')(x)


def halve(x: jax.Array) -> jax.Array:
  """[..., H, W, C] -> [..., H/2, W/2, C], means of 2 x 2."""
  *lead, H, W, C = x.shape
  return x.reshape(*lead, H // 2, 2, W // 2, 2, C).mean((-4, -2))
