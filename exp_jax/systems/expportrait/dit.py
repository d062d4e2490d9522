"""The ExpPortrait generator: a Wan transformer with normal-map and reference conditions.

  y      = [mask, reference code] (+ reference encoder), joined to the noisy latents along channels
  tokens = patch embedding of [z, y]  (+)  pose encoder of the driving normals
  out    = transformer(tokens, t)

How poses enter, `fusion`:
  sum            added after patch embedding: channel concatenation followed by one linear layer (default)
  concat_linear  a linear layer over [tokens, pose], starting as tokens + pose
  sequence       sum, and the reference with its own normals becomes one more latent frame in front, at
                 rotary time 0: attention can look up what lies under the same normals in the reference

Letters: B batch, N video frames, H, W pixels, F, h, w latent frames, rows, columns, C latent channels,
f, r, c the token grid.

Source: ExpPortrait, section 3.3; UniAnimate-DiT for the encoders and y.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.networks.wan_dit import WanDiT, unpatchify
from exp_jax.systems.expportrait.conditions import PatchEncoder, PoseEncoder, ReferenceEncoder

FUSIONS = ('sum', 'concat_linear', 'sequence')
ENCODERS = ('conv', 'patch')


def reference_code(reference_latents: jax.Array, frames: int, *, mask_channels: int,
                   spread: bool) -> jax.Array:
  """The image-to-video condition y.

  Args:
    reference_latents: [B, 1 or F, h, w, C]; F frames when the autoencoder saw the image followed by
      blank frames, as Wan's does.
    frames: F.
    mask_channels: temporal stride of the autoencoder; the mask is one in frame 0, zero after.
    spread: put a single code into every frame instead of the first alone.

  Returns:
    [B, F, h, w, mask_channels + C].
  """
  B, given, h, w, C = reference_latents.shape
  if given == 1 and spread:
    code = jnp.broadcast_to(reference_latents, (B, frames, h, w, C))
  else:
    code = jnp.pad(reference_latents, ((0, 0), (0, frames - given), (0, 0), (0, 0), (0, 0)))
  mask = jnp.zeros((B, frames, h, w, mask_channels), code.dtype).at[:, 0].set(1.0)
  return jnp.concatenate([mask, code], axis=-1)


class PortraitDiT(nn.Module):
  """The denoiser with its conditions. See `__call__`.

  Fields: `backbone` has `in_channels` 2C + mask_channels and `out_channels` C; `encoder` 'conv' or 'patch'
  (`conditions.py`); `anchor` adds the reference code to the output, for networks that predict x0.
  """
  backbone: WanDiT
  strides: tuple[int, int, int]
  fusion: str = 'sum'
  encoder: str = 'conv'
  encoder_width: int = 16
  zero_init: bool = False
  anchor: bool = False

  def setup(self):
    if self.fusion not in FUSIONS or self.encoder not in ENCODERS:
      raise ValueError(f'fusion {self.fusion!r} must be one of {FUSIONS}, '
                       f'encoder {self.encoder!r} one of {ENCODERS}')
    wan, hidden, zero = self.backbone, self.encoder_width, self.zero_init
    y_channels = wan.in_channels - wan.out_channels
    if self.encoder == 'conv':
      self.pose = PoseEncoder(wan.width, hidden, zero)
      self.reference = ReferenceEncoder(y_channels, hidden, zero)
    else:
      stride = self.strides[1]
      self.pose = PatchEncoder(wan.width, stride * wan.patch[1], hidden, zero)
      self.reference = PatchEncoder(y_channels, stride, hidden // 2, zero)
    if self.fusion == 'concat_linear':
      self.fuse = nn.Dense(wan.width, kernel_init=_two_identities)

  def __call__(self, latents, t, *, reference_latents, reference, reference_normals, normals,
               keep_pose=None, keep_reference=None, text=None, clip=None):
    """Predicts for noisy latents [B, F, h, w, C] at times t [B] in [0, 1000]; float32, same shape.

    Args:
      reference_latents: [B, 1 or F, h, w, C] code of the reference.
      reference, reference_normals: [B, H, W, 3] in [0, 1].
      normals: [B, N, H, W, 3] in [0, 1], driving control maps.
      keep_pose: [B], 0 drops pose and reference encoders; None keeps all.
      keep_reference: [B], 0 drops y and CLIP.
      text, clip: see `WanDiT.transform`.
    """
    wan, frames = self.backbone, latents.shape[1]
    keep_pose = 1.0 if keep_pose is None else _column(keep_pose, 5)
    keep_reference = 1.0 if keep_reference is None else _column(keep_reference, 5)
    spread = reference_latents.shape[1] == 1 and self.strides[0] == 1
    code = keep_reference * reference_code(
      reference_latents, frames, mask_channels=self.strides[0], spread=spread)
    hint = self.reference(jnp.concatenate([reference, reference_normals], axis=-1))
    y = code + keep_pose * hint[:, None]
    tokens = self._fused(wan.embed(jnp.concatenate([latents, y], axis=-1)),
                         keep_pose * self.pose(normals))
    if self.fusion == 'sequence':
      own = keep_reference * reference_latents[:, :1]
      first = wan.embed(jnp.concatenate([own, y[:, :1]], axis=-1))
      first = first + keep_pose * self.pose(reference_normals[:, None])
      tokens = jnp.concatenate([first.astype(tokens.dtype), tokens], axis=1)
    if clip is not None and keep_reference is not None:
      clip = clip * jnp.reshape(keep_reference, (-1, 1, 1))
    out = wan.transform(tokens, t, text, clip)[:, -(frames // wan.patch[0]):]
    out = unpatchify(out, wan.patch)
    return out + keep_reference * reference_latents[:, :1] if self.anchor else out

  def _fused(self, tokens, pose):
    if self.fusion == 'concat_linear':
      return self.fuse(jnp.concatenate([tokens, pose.astype(tokens.dtype)], axis=-1))
    return tokens + pose.astype(tokens.dtype)


def _column(x, ndim):
  return x.reshape(x.shape + (1,) * (ndim - x.ndim))


def _two_identities(rng, shape, dtype=jnp.float32):
  """[2D, D]: a linear layer over two joined vectors that starts as their sum."""
  del rng
  return jnp.concatenate([jnp.eye(shape[1], dtype=dtype)] * 2)
