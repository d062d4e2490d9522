"""Which tensor of MagicPortrait's published files is which leaf of ours.

| file | holds | names |
|---|---|---|
| denoising_unet | denoiser without motion modules | diffusers' of Stable Diffusion 1.5 |
| reference_unet | AppearanceNet | the same, without output norm and convolution |
| motion_module | motion modules of the denoiser | AnimateDiff's, with 32 positions |
| guidance_encoder_depth, _normal, _render | one guidance encoder each | below |

Of a guidance encoder's 149 tensors its forward pass calls 35. Those of the attentions at its other
widths, and of one more beside them, are left out by name; on the way out they are zeros, which the
published code loads and never reads.
"""

import re

from exp_jax.convert.sd.sd_names import motion_pieces, unet_pieces
from exp_jax.systems.magicportrait.guidance_encoder import GuidanceEncoder
from exp_jax.systems.magicportrait.model import Networks

ENCODERS = {
  'depth': 'guidance_encoder_depth',
  'normals': 'guidance_encoder_normal',
  'render': 'guidance_encoder_render',
}
DENOISER, APPEARANCE, MOTION = 'denoising_unet', 'reference_unet', 'motion_module'
FILES = (DENOISER, APPEARANCE, *ENCODERS.values(), MOTION)
POSITIONS = 32  # of the motion modules' buffers


def unused(name: str, attentions: int) -> bool:
  """Whether a tensor of a guidance encoder is never called.

  Args:
    attentions: how many there are; the last one is called.
  """
  found = re.match(r'attentions\.(\d+)\.', name)
  return (
    name.startswith('guidance_attention.') or found is not None and int(found[1]) < attentions - 1
  )


def _attention_names(ours: str, theirs: str) -> dict[str, tuple[str, str]]:
  """{name: (leaf, layout)} of an attention without text."""
  inside, found = f'{theirs}.transformer_blocks.0', {}

  def layer(own, other, layout, bias=True):
    found[f'{other}.weight'] = (f'{ours}.{own}.kernel', layout)
    if bias:
      found[f'{other}.bias'] = (f'{ours}.{own}.bias', 'copy')

  def norm(own, other):
    found.update(
      {
        f'{other}.weight': (f'{ours}.{own}.scale', 'copy'),
        f'{other}.bias': (f'{ours}.{own}.bias', 'copy'),
      }
    )

  norm('norm', f'{theirs}.norm')
  layer('proj_in', f'{theirs}.proj_in', 'point')
  norm('block.norm1', f'{inside}.norm1')
  for name in 'qkv':
    layer(f'block.self.{name}', f'{inside}.attn1.to_{name}', 'linear', bias=False)
  layer('block.self.o', f'{inside}.attn1.to_out.0', 'linear')
  norm('block.norm3', f'{inside}.norm3')
  layer('block.ff.fc1', f'{inside}.ff.net.0.proj', 'linear')
  layer('block.ff.fc2', f'{inside}.ff.net.2', 'linear')
  layer('proj_out', f'{theirs}.proj_out', 'point')
  return found


def encoder_names(encoder: GuidanceEncoder, part: str) -> dict[str, tuple[str, str]]:
  """{name in a file: (leaf of ours, layout)} of an encoder's tensors that are called."""
  found = {}

  def conv(own, other):
    found.update(
      {
        f'{other}.weight': (f'{part}.{own}.kernel', 'conv'),
        f'{other}.bias': (f'{part}.{own}.bias', 'copy'),
      }
    )

  blocks = 2 * (len(encoder.widths) - 1)
  conv('stem.conv_in', 'conv_in')
  for i in range(blocks):
    conv(f'stem.block{i}', f'blocks.{i}')
  found |= _attention_names(f'{part}.att', f'attentions.{blocks - 1}')
  conv('conv_out', 'conv_out')
  return found


def unused_shapes(encoder: GuidanceEncoder) -> dict[str, tuple[int, ...]]:
  """{name: shape as torch has it} of an encoder's tensors that are never called."""
  outputs = [
    w for width, following in zip(encoder.widths, encoder.widths[1:]) for w in (width, following)
  ]
  found = {}
  for i, width in enumerate(outputs):
    stem = 'guidance_attention' if i == len(outputs) - 1 else f'attentions.{i}'
    inside = f'{stem}.transformer_blocks.0'
    for name in ('norm', 'proj_in', 'proj_out'):
      found[f'{stem}.{name}.weight'] = (width,) if name == 'norm' else (width, width, 1, 1)
      found[f'{stem}.{name}.bias'] = (width,)
    for name in ('norm1', 'norm3'):
      found |= {f'{inside}.{name}.weight': (width,), f'{inside}.{name}.bias': (width,)}
    for name in ('to_q', 'to_k', 'to_v', 'to_out.0'):
      found[f'{inside}.attn1.{name}.weight'] = (width, width)
    found |= {
      f'{inside}.attn1.to_out.0.bias': (width,),
      f'{inside}.ff.net.0.proj.weight': (8 * width, width),
      f'{inside}.ff.net.0.proj.bias': (8 * width,),
      f'{inside}.ff.net.2.weight': (width, 4 * width),
      f'{inside}.ff.net.2.bias': (width,),
    }
  return found


def file_names(networks: Networks) -> dict[str, dict[str, tuple[str, str]]]:
  """{file: {name: (leaf, layout)}} of all six files, without what is never called and without
  buffers of positions."""

  def diffusers(model, part):
    return {
      piece.names[0]: (f'{part}.{piece.ours}', piece.layouts[0])
      for piece in unet_pieces(model, 'point')
    }

  found = {
    DENOISER: diffusers(networks.denoiser, 'denoiser'),
    APPEARANCE: diffusers(networks.appearance, 'appearance'),
    MOTION: {
      piece.names[1]: (f'denoiser.{piece.ours}', piece.layouts[1])
      for piece in motion_pieces(networks.denoiser)
    },
  }
  return found | {
    file: encoder_names(networks.encoder, f'guidance.{name}') for name, file in ENCODERS.items()
  }
