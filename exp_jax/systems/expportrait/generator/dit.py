"""The ExpPortrait generator: a Wan transformer with normal-map and reference conditions.

  y      = [mask, reference code] (+ reference encoder), joined to the noisy latents along channels
  tokens = patch embedding of [z, y]  (+)  pose encoder of the driving normals
  out    = transformer(tokens, t)

How poses enter, `fusion`:
  sum            added after patch embedding, that is channel concatenation and one linear layer
  concat_linear  a linear layer over [tokens, pose], starting as tokens + pose
  sequence       sum, and the reference with its own normals becomes one more latent frame in front,
                 at rotary time 0: attention can look up what lies under like normals there

Letters: B batch, N video frames, H, W pixels, F, h, w latent frames, rows, columns, C latent
channels, f, r, c the token grid.

Source: ExpPortrait, section 3.3; UniAnimate-DiT for the encoders and y.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.networks.wan_dit import WanDiT, unpatchify
from exp_jax.systems.expportrait.generator.conditions import (
  PatchEncoder,
  PoseEncoder,
  ReferenceEncoder,
)
from exp_jax.systems.expportrait.generator.refine import Refiner

FUSIONS = ('sum', 'concat_linear', 'sequence')
ENCODERS = ('conv', 'patch')
# what the reference encoder sees; UniAnimate-DiT: its pose alone
REFERENCES = 'both', 'normals', 'image'


def reference_code(
  reference_latents: jax.Array, frames: int, *, mask_channels: int, spread: bool
) -> jax.Array:
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

  Fields: `backbone` has `in_channels` 2C + strides[0] and `out_channels` C; `encoder` is 'conv' or
  'patch' (`conditions.py`). `preview` is an extension of the paper for small networks that predict
  x0:
  the code of the textured preview (`controls.preview`: the portrait's own pixels on its posed head)
  joins the input (C channels more) and carries the output, which convolutions refine (`refine.py`).
  """

  backbone: WanDiT
  strides: tuple[int, int, int]
  fusion: str = 'sum'
  encoder: str = 'conv'
  encoder_width: int = 16
  zero_init: bool = False
  preview: bool = False
  refiner: tuple[int, int] = (64, 2)  # width, blocks
  reference_input: str = 'both'

  def setup(self):
    if self.fusion not in FUSIONS or self.encoder not in ENCODERS:
      raise ValueError(
        f'fusion {self.fusion!r} must be one of {FUSIONS}, '
        f'encoder {self.encoder!r} one of {ENCODERS}'
      )
    if self.reference_input not in REFERENCES:
      raise ValueError(f'reference_input {self.reference_input!r} must be one of {REFERENCES}')
    wan, hidden, zero = self.backbone, self.encoder_width, self.zero_init
    y_channels = self.strides[0] + wan.out_channels
    if self.encoder == 'conv':
      # At full resolution it holds more than all blocks with their inputs kept: run again for its
      # own backward pass.
      encoder = PoseEncoder if wan.remat in ('none', False) else nn.remat(PoseEncoder)
      self.pose = encoder(wan.width, hidden, zero, wan.dtype)
      self.reference = ReferenceEncoder(y_channels, hidden, zero)
    else:
      stride = self.strides[1]
      self.pose = PatchEncoder(wan.width, stride * wan.patch[1], hidden, zero, control=True)
      self.reference = PatchEncoder(y_channels, stride, hidden // 2, zero)
    if self.preview:
      self.refine = Refiner(wan.out_channels, self.strides[1], *self.refiner)
    if self.fusion == 'concat_linear':
      self.fuse = nn.Dense(wan.width, kernel_init=_two_identities)

  def __call__(
    self,
    latents,
    t,
    *,
    reference_latents,
    reference,
    reference_normals,
    normals,
    preview_latents=None,
    keep_pose=None,
    keep_reference=None,
    text=None,
    clip=None,
    reuse=None,
  ):
    """Predicts for noisy latents [B, F, h, w, C] at times t [B] in [0, 1000]; float32, same shape.

    Args:
      reference_latents: [B, 1 or F, h, w, C] code of the reference.
      reference, reference_normals: [B, H, W, 3] in [0, 1].
      normals: [B, N, H, W, 3 + E] in [0, 1], driving control maps, further channels after the
        normals.
      preview_latents: [B, F, h, w, C] code of the textured preview, with `preview`.
      keep_pose: [B], 0 drops pose and reference encoders; None keeps all.
      keep_reference: [B], 0 drops y and CLIP.
      text, clip, reuse: see `WanDiT.transform`; with `reuse` -> (prediction, what the blocks
        added).
    """
    wan, frames = self.backbone, latents.shape[1]
    keep_pose = 1.0 if keep_pose is None else _column(keep_pose, 5)
    keep_reference = 1.0 if keep_reference is None else _column(keep_reference, 5)
    spread = reference_latents.shape[1] == 1 and self.strides[0] == 1
    code = keep_reference * reference_code(
      reference_latents, frames, mask_channels=self.strides[0], spread=spread
    )
    shown = {
      'image': [reference],
      'normals': [reference_normals],
      'both': [reference, reference_normals],
    }
    hint = self.reference(jnp.concatenate(shown[self.reference_input], axis=-1))
    y = code + keep_pose * hint[:, None]
    x = jnp.concatenate([latents, y], axis=-1)
    if self.preview:
      own = (keep_reference * reference_latents)[:, :1]
      moved = (
        keep_pose * keep_reference * preview_latents + (1.0 - keep_pose * keep_reference) * own
      )
      x = jnp.concatenate([x, moved], axis=-1)
    tokens = self._fused(wan.embed(x), keep_pose * self.pose(normals))
    if self.fusion == 'sequence':
      own = keep_reference * reference_latents[:, :1]
      first = [own, y[:, :1], own] if self.preview else [own, y[:, :1]]
      first = wan.embed(jnp.concatenate(first, axis=-1))
      extra = jnp.zeros((*reference_normals.shape[:-1], normals.shape[-1] - 3))
      first = first + keep_pose * self.pose(
        jnp.concatenate([reference_normals, extra], axis=-1)[:, None]
      )
      tokens = jnp.concatenate([first.astype(tokens.dtype), tokens], axis=1)
    if clip is not None and keep_reference is not None:
      clip = clip * jnp.reshape(keep_reference, (-1, 1, 1))
    out = wan.transform(tokens, t, text, clip, reuse=reuse)
    out, added = (out, None) if reuse is None else out
    out = unpatchify(out[:, -(frames // wan.patch[0]) :], wan.patch)
    if self.preview:
      out = out + moved + self.refine([out, latents, moved, y], keep_pose * normals[..., :3], t)
    return out if reuse is None else (out, added)

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
