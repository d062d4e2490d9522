"""The Wan 2.1 video autoencoder: causal 3-D convolutions, strides (4, 8, 8), 16 channels.

The first frame is coded alone; every later latent frame stands for four video frames. Each causal
convolution sees zeros before the clip, and the two temporal resamplers treat frame 0 apart:

  down: [x_0] ++ conv3_stride2(x_0 ... x_T)             x_0 passes untouched, and is left context
  up:   [x_0] ++ interleave(causal_conv3(x_1 ... x_T))  the convolution never sees x_0

The same modules run in two forms, equal in tests: over the whole sequence, or over chunks, where
each of them keeps its last input frames in the collection 'cache' (`encode_in_chunks`,
`decode_in_chunks`: frame 0, then one `lax.scan`; memory does not depend on the length).

Letters: B batch, T frames (1 + 4k in video, 1 + k in latents), H, W pixels, C channels.
Source: Wan 2.1 technical report, section 3; equations checked against diffusers in tests/golden.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.layers.norms import vector_norm

VARIANTS = {
  'tiny': dict(width=8, multipliers=(1, 2, 2, 2), blocks=1),
  'wan': dict(width=96),
}
_MEAN = np.array([
  -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
  0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921], np.float32)  # fmt: skip
_STD = np.array([
  2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
  3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160], np.float32)  # fmt: skip


def normalize(mean: jax.Array) -> jax.Array:
  """Raw codes [..., 16] to about zero mean and unit variance per channel."""
  return (mean - _MEAN) / _STD


def denormalize(latents: jax.Array) -> jax.Array:
  """The inverse of `normalize`."""
  return latents * _STD + _MEAN


def _past(module, x, frames):
  """(the `frames` input frames before x, whether x begins the clip); x's last ones are kept for the
  next chunk.

  Over whole sequences (the collection 'cache' is not mutable) x always begins the clip and zeros
  are before it.
  """
  zeros = jnp.zeros((x.shape[0], frames, *x.shape[2:]), x.dtype)
  if module.is_initializing() or not module.is_mutable_collection('cache'):
    return zeros, True
  begins = not module.has_variable('cache', 'frames')
  kept = module.variable('cache', 'frames', lambda: zeros)
  past = kept.value
  kept.value = jnp.concatenate([past, x], axis=1)[:, -frames:]
  return past, begins


class CausalConv(nn.Module):
  """[B, T, H, W, C] -> [B, T, H, W, out]; kernel sizes odd, nothing of the future is seen."""

  out: int
  size: tuple[int, int, int] = (3, 3, 3)

  @nn.compact
  def __call__(self, x):
    t, h, w = self.size
    if t > 1:
      x = jnp.concatenate([_past(self, x, t - 1)[0], x], axis=1)
    padding = ((0, 0), (h // 2, h // 2), (w // 2, w // 2))
    return nn.Conv(self.out, self.size, padding=padding, name='conv')(x)


class VectorNorm(nn.Module):
  """`vector_norm` with its scale."""

  @nn.compact
  def __call__(self, x):
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    return vector_norm(x, scale).astype(x.dtype)


class ResidualBlock(nn.Module):
  """x + conv(silu(norm(conv(silu(norm(x)))))), the shortcut 1x1x1 where channels change."""

  out: int

  @nn.compact
  def __call__(self, x):
    y = CausalConv(self.out, name='conv1')(jax.nn.silu(VectorNorm(name='norm1')(x)))
    y = CausalConv(self.out, name='conv2')(jax.nn.silu(VectorNorm(name='norm2')(y)))
    if x.shape[-1] != self.out:
      x = CausalConv(self.out, (1, 1, 1), name='shortcut')(x)
    return x + y


class SpatialAttention(nn.Module):
  """One head over the H W places of each frame: [B, T, H, W, C] -> same."""

  @nn.compact
  def __call__(self, x):
    B, T, H, W, C = x.shape
    qkv = nn.Dense(3 * C, name='qkv')(VectorNorm(name='norm')(x)).reshape(B, T, H * W, 3, C)
    q, k, v = jnp.moveaxis(qkv, -2, 0)
    scores = jnp.einsum('btnc,btmc->btnm', q, k, preferred_element_type=jnp.float32) * C**-0.5
    y = jnp.einsum('btnm,btmc->btnc', jax.nn.softmax(scores, -1).astype(v.dtype), v)
    return x + nn.Dense(C, name='proj')(y).reshape(x.shape)


class Down(nn.Module):
  """Halves H and W, and with `time` T = 1 + 2k to 1 + k."""

  time: bool

  @nn.compact
  def __call__(self, x):
    C = x.shape[-1]
    x = nn.Conv(C, (1, 3, 3), (1, 2, 2), padding=((0, 0), (0, 1), (0, 1)), name='space')(x)
    if not self.time:
      return x
    conv = nn.Conv(C, (3, 1, 1), (2, 1, 1), padding='VALID', name='time_conv')
    past, begins = _past(self, x, 1)
    if not begins:
      return conv(jnp.concatenate([past, x], axis=1))
    if x.shape[1] == 1:
      if self.is_initializing():
        conv(jnp.repeat(x, 3, axis=1))  # only to make the parameters
      return x
    return jnp.concatenate([x[:, :1], conv(x)], axis=1)


class Up(nn.Module):
  """Doubles H and W, halves C, and with `time` T = 1 + k to 1 + 2k."""

  time: bool

  @nn.compact
  def __call__(self, x):
    C = x.shape[-1]
    if self.time:
      conv = CausalConv(2 * C, (3, 1, 1), name='time_conv')
      _, begins = _past(self, x, 1)
      first, rest = (x[:, :1], x[:, 1:]) if begins else (x[:, :0], x)
      if rest.shape[1]:
        B, T, H, W, _ = rest.shape
        both = conv(rest).reshape(B, T, H, W, 2, C)  # first half is the earlier frame
        rest = jnp.moveaxis(both, -2, 2).reshape(B, 2 * T, H, W, C)
      else:
        conv(jnp.zeros_like(x))  # parameters, and a cache of zeros
      x = jnp.concatenate([first, rest], axis=1)
    x = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
    return nn.Conv(C // 2, (1, 3, 3), padding=((0, 0), (1, 1), (1, 1)), name='space')(x)


class Middle(nn.Module):
  """Residual block, attention, residual block."""

  @nn.compact
  def __call__(self, x):
    x = ResidualBlock(x.shape[-1], name='block0')(x)
    return ResidualBlock(x.shape[-1], name='block1')(SpatialAttention(name='attention')(x))


class Encoder(nn.Module):
  """[B, T, H, W, 3] -> [B, 1 + (T - 1) / 4, H / 8, W / 8, out]."""

  width: int
  multipliers: tuple[int, ...]
  blocks: int
  out: int

  @nn.compact
  def __call__(self, x):
    x, index = CausalConv(self.width, name='conv_in')(x), 0
    for level, multiplier in enumerate(self.multipliers):
      for _ in range(self.blocks):
        x, index = ResidualBlock(self.width * multiplier, name=f'down{index}')(x), index + 1
      if level < len(self.multipliers) - 1:
        x, index = Down(level > 0, name=f'down{index}')(x), index + 1
    x = jax.nn.silu(VectorNorm(name='norm_out')(Middle(name='middle')(x)))
    return CausalConv(self.out, name='conv_out')(x)


class Decoder(nn.Module):
  """[B, T, h, w, C] -> [B, 1 + 4 (T - 1), 8 h, 8 w, 3]."""

  width: int
  multipliers: tuple[int, ...]
  blocks: int

  @nn.compact
  def __call__(self, x):
    widths = [self.width * m for m in reversed(self.multipliers)]
    x = Middle(name='middle')(CausalConv(widths[0], name='conv_in')(x))
    for level, width in enumerate(widths):
      for i in range(self.blocks + 1):
        x = ResidualBlock(width, name=f'up{level}_block{i}')(x)
      if level < len(widths) - 1:
        x = Up(level < len(widths) - 2, name=f'up{level}_resample')(x)
    return CausalConv(3, name='conv_out')(jax.nn.silu(VectorNorm(name='norm_out')(x)))


class WanVAE(nn.Module):
  """`encode` to the mean, raw (see `normalize`), and `decode`. Pixels in [-1, 1]."""

  width: int = 96
  multipliers: tuple[int, ...] = (1, 2, 4, 4)
  blocks: int = 2
  channels: int = 16

  def setup(self):
    self.encoder = Encoder(self.width, self.multipliers, self.blocks, 2 * self.channels)
    self.quant = CausalConv(2 * self.channels, (1, 1, 1))
    self.post_quant = CausalConv(self.channels, (1, 1, 1))
    self.decoder = Decoder(self.width, self.multipliers, self.blocks)

  def encode(self, video: jax.Array) -> jax.Array:
    """[B, 1 + 4k, H, W, 3] -> [B, 1 + k, H/8, W/8, 16], the mean of the posterior."""
    return self.quant(self.encoder(video))[..., : self.channels]

  def decode(self, codes: jax.Array) -> jax.Array:
    """[B, 1 + k, h, w, 16] raw codes -> [B, 1 + 4k, 8h, 8w, 3], clipped to [-1, 1]."""
    return jnp.clip(self.decoder(self.post_quant(codes)), -1.0, 1.0)

  def __call__(self, video):
    return self.decode(self.encode(video))


def _in_chunks(model, params, x, method, first, chunk):
  """`method` on x[:, :first], then on chunks of `chunk` frames by one scan, then on what is
  left."""

  def run(cache, part):
    out, kept = model.apply(
      {'params': params, 'cache': cache}, part, method=method, mutable=['cache']
    )
    return kept['cache'], out

  cache, out = run({}, x[:, :first])
  parts, count = [out], (x.shape[1] - first) // chunk
  if count:
    whole = x[:, first : first + count * chunk].reshape(len(x), count, chunk, *x.shape[2:])
    cache, out = jax.lax.scan(run, cache, jnp.moveaxis(whole, 1, 0))
    parts.append(jnp.moveaxis(out, 0, 1).reshape(len(x), -1, *out.shape[3:]))
  if first + count * chunk < x.shape[1]:
    parts.append(run(cache, x[:, first + count * chunk :])[1])
  return jnp.concatenate(parts, axis=1)


def encode_in_chunks(model: WanVAE, params, video: jax.Array, *, chunk: int = 1) -> jax.Array:
  """`model.encode`, `chunk` latent frames (four video frames each) at a time."""
  return _in_chunks(model, params, video, 'encode', 1, 4 * chunk)


def decode_in_chunks(model: WanVAE, params, codes: jax.Array, *, chunk: int = 1) -> jax.Array:
  """`model.decode`, `chunk` latent frames at a time."""
  return _in_chunks(model, params, codes, 'decode', 1, chunk)


def in_tiles(apply, x: jax.Array, *, tile: int, stride: int, scale: float) -> jax.Array:
  """A map of frames [B, T, H, W, C] -> [B, T', scale H, scale W, C'], tile by tile, faded over the
  overlaps.

  Not equal to the whole frame (the attention in the middle sees a tile), but close; memory is a
  tile's and the result's.

  Args:
    apply: the map, for tiles of `tile` by `tile` (smaller frames are one tile); called tile after
      tile, row by row.
    tile, stride: in places of x; tile - stride is the overlap. scale * tile and scale * stride must
      be whole.

  Raises:
    ValueError: if the stride does not lie in 1..tile, or sizes do not scale to whole numbers.
  """
  if not 0 < stride <= tile or any((scale * n) % 1 for n in (tile, stride, *x.shape[2:4])):
    raise ValueError(
      f'tiles of {tile} at a stride of {stride} do not cover {x.shape} at scale {scale}'
    )

  def places(size):  # starts, and for each the weights of its places in the result
    wide = min(tile, size)
    starts = [*range(0, max(size - wide, 0), stride), size - wide]
    out, n = int(scale * wide), int(scale * size)
    fade = np.minimum(np.arange(out) + 1.0, np.arange(out, 0, -1.0)).clip(
      max=max(1.0, scale * (tile - stride))
    )
    total = np.zeros(n)
    for start in starts:
      total[int(scale * start) :][:out] += fade
    return wide, [(start, fade / total[int(scale * start) :][:out]) for start in starts]

  (high, rows), (wide, columns) = places(x.shape[2]), places(x.shape[3])
  result = None
  for top, down in rows:
    for left, across in columns:
      part = apply(x[:, :, top : top + high, left : left + wide])
      part = part * (down[:, None] * across)[:, :, None].astype(part.dtype)
      if result is None:
        result = jnp.zeros(
          (*part.shape[:2], *(int(scale * n) for n in x.shape[2:4]), part.shape[-1]), part.dtype
        )
      result = _add_at(result, part, (0, 0, int(scale * top), int(scale * left), 0))
  return result


@functools.partial(jax.jit, donate_argnums=0)
def _add_at(x, part, where):
  before = jax.lax.dynamic_slice(x, where, part.shape)
  return jax.lax.dynamic_update_slice(x, before + part, where)


def wan_vae(variant: str, **overrides) -> WanVAE:
  """A `WanVAE` of the table, any field overridden."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}, choose from {sorted(VARIANTS)}')
  return WanVAE(**(VARIANTS[variant] | overrides))
