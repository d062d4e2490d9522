"""The autoencoder of Stable Diffusion, KL-f8: images to latents of an eighth of their rows and
columns, frame by frame.

  encoder:  conv -> 4 levels of 2 resnets, the first three halved -> resnet, attention, resnet ->
  conv -> mean and log variance decoder:  the same backwards, 3 resnets a level, the first three
  doubled by repetition of pixels

A halving convolution pads one row below and one column to the right, and nothing above and to the
left: the UNet's pads all sides. All group norms have eps 1e-6. The attention has one head.

Latents are 0.18215 times the mean, or times a sample, so that they have about unit variance. Images
are in [-1, 1].

Letters: H, W pixels, h = H/8, w = W/8 latent rows and columns, C = 4 latent channels.
Source: Rombach et al., 2022, section 3.1 and appendix G; equations checked against diffusers in
tests/golden.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.layers.attention import attention
from exp_jax.layers.lora import Dense
from exp_jax.layers.norms import GroupNorm
from exp_jax.networks.sd_transformer import GROUPS
from exp_jax.networks.sd_unet import Resnet, conv3, upsampled

VARIANTS = {  # `tiny` is ours
  'tiny': dict(width=32, multipliers=(1, 2, 2, 3), blocks=1),
  'kl_f8': dict(width=128, multipliers=(1, 2, 4, 4), blocks=2),
}
SCALE = 0.18215
_EPS = 1e-6


class PixelAttention(nn.Module):
  """One head over the places of each image, with biases everywhere: [N, h, w, C] -> same."""

  dtype: str
  implementation: str

  @nn.compact
  def __call__(self, x):
    N, h, w, C = x.shape
    y = GroupNorm(GROUPS, _EPS, name='norm')(x).astype(self.dtype).reshape(N, h * w, C)
    q, k, v = (Dense(C, dtype=jnp.dtype(self.dtype), name=name)(y)[:, :, None] for name in 'qkv')
    y = attention(q, k, v, implementation=self.implementation)[:, :, 0]
    return x + Dense(C, dtype=jnp.dtype(self.dtype), name='o')(y).reshape(x.shape)


def _middle(x, dtype, implementation):
  """Resnet, attention, resnet; inside a compact method."""
  x = Resnet(x.shape[-1], _EPS, dtype, name='middle_0')(x)
  x = PixelAttention(dtype, implementation, name='middle_att')(x)
  return Resnet(x.shape[-1], _EPS, dtype, name='middle_1')(x)


def _end(x, out, dtype):
  """Norm and the last convolution; inside a compact method."""
  return conv3(out, dtype, 'conv_out')(
    jax.nn.silu(GroupNorm(GROUPS, _EPS, name='norm_out')(x)).astype(dtype)
  )


class Encoder(nn.Module):
  """[N, H, W, 3] -> [N, h, w, 2C]: means, then log variances."""

  widths: tuple[int, ...]
  blocks: int
  channels: int
  dtype: str
  implementation: str

  @nn.compact
  def __call__(self, x):
    x = conv3(self.widths[0], self.dtype, 'conv_in')(x.astype(self.dtype))
    for i, width in enumerate(self.widths):
      for j in range(self.blocks):
        x = Resnet(width, _EPS, self.dtype, name=f'down{i}_{j}')(x)
      if i < len(self.widths) - 1:
        x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        x = nn.Conv(
          width, (3, 3), 2, padding='VALID', dtype=jnp.dtype(self.dtype), name=f'down{i}_half'
        )(x)
    return _end(_middle(x, self.dtype, self.implementation), 2 * self.channels, self.dtype)


class Decoder(nn.Module):
  """[N, h, w, C] -> [N, H, W, 3]."""

  widths: tuple[int, ...]
  blocks: int
  dtype: str
  implementation: str

  @nn.compact
  def __call__(self, x):
    x = conv3(self.widths[-1], self.dtype, 'conv_in')(x.astype(self.dtype))
    x = _middle(x, self.dtype, self.implementation)
    for i, width in enumerate(reversed(self.widths)):
      for j in range(self.blocks + 1):
        x = Resnet(width, _EPS, self.dtype, name=f'up{i}_{j}')(x)
      if i < len(self.widths) - 1:
        x = conv3(width, self.dtype, f'up{i}_double')(upsampled(x))
    return _end(x, 3, self.dtype)


class SdVAE(nn.Module):
  """`encode`, `sample` and `decode`, all of images with any number of leading axes."""

  width: int = 128
  multipliers: tuple[int, ...] = (1, 2, 4, 4)
  blocks: int = 2
  channels: int = 4
  dtype: str = 'float32'
  attention: str = 'xla'

  def setup(self):
    widths = tuple(self.width * m for m in self.multipliers)
    self.encoder = Encoder(widths, self.blocks, self.channels, self.dtype, self.attention)
    self.decoder = Decoder(widths, self.blocks, self.dtype, self.attention)
    self.quant = Dense(2 * self.channels)
    self.post_quant = Dense(self.channels)

  @property
  def stride(self) -> int:
    """Pixels per latent along rows and along columns."""
    return 2 ** (len(self.multipliers) - 1)

  def moments(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[..., H, W, 3] in [-1, 1] -> means and log variances, float32 [..., h, w, C] each, not
    scaled.

    Raises:
      ValueError: if H or W cannot be divided by the stride.
    """
    if any(n % self.stride for n in images.shape[-3:-1]):
      raise ValueError(
        f'images of {images.shape[-3:-1]} rows and columns: multiples of {self.stride} are coded'
      )
    x = self.quant(self.encoder(images.reshape(-1, *images.shape[-3:])).astype(jnp.float32))
    mean, log_variance = jnp.split(x.reshape(*images.shape[:-3], *x.shape[1:]), 2, axis=-1)
    return mean, jnp.clip(log_variance, -30.0, 20.0)

  def encode(self, images: jax.Array) -> jax.Array:
    """Latents by the mean: [..., H, W, 3] in [-1, 1] -> [..., h, w, C]. Raises as `moments`."""
    return SCALE * self.moments(images)[0]

  def sample(self, images: jax.Array, rng: jax.Array) -> jax.Array:
    """Latents drawn around the mean, as training sees them. Raises as `moments`."""
    mean, log_variance = self.moments(images)
    return SCALE * (mean + jnp.exp(0.5 * log_variance) * jax.random.normal(rng, mean.shape))

  def decode(self, latents: jax.Array) -> jax.Array:
    """[..., h, w, C] -> float32 images [..., H, W, 3], not clipped.

    All at once: see `decode_frames` for clips.
    """
    x = self.post_quant(latents.reshape(-1, *latents.shape[-3:]).astype(jnp.float32) / SCALE)
    x = self.decoder(x).astype(jnp.float32)
    return x.reshape(*latents.shape[:-3], *x.shape[1:])

  def __call__(self, images):
    return self.decode(self.encode(images))


def decode_frames(decode: Callable[[jax.Array], jax.Array], latents: jax.Array) -> jax.Array:
  """Decodes a clip with the memory of one frame on the device; at 512 pixels a map of the last
  level alone has 128 MiB.

  Args:
    decode: compiled, [1, h, w, C] -> [1, H, W, 3]. It is called from Python, for convolutions
      inside loops are slow on CPUs.
    latents: [T, h, w, C].

  Returns:
    [T, H, W, 3].
  """
  return jnp.concatenate([decode(latents[i : i + 1]) for i in range(len(latents))])


def sd_vae(variant: str, **overrides) -> SdVAE:
  """A `SdVAE` of the table, any field overridden.

  Raises:
    ValueError: if the variant is unknown.
  """
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}, choose from {sorted(VARIANTS)}')
  return SdVAE(**(VARIANTS[variant] | overrides))
