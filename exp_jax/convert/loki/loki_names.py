"""Which tensor of a checkpoint of Loki's published code is which leaf of ours.

  model.diffusion_model.*                generator, by the names of Stable Diffusion's first release, without cross-attention
  model.diffusion_model.cond_encoder.*   map encoder: its tensors in the order of the network, for its inner names are not published
  ref_extractor.unet.*                   reference network, by the names of Stable Diffusion's first release, whole

Checkpoints of earlier versions carry tensors of cross-attention and of an audio encoder, which its
own loader drops too. The autoencoder and what a trainer keeps beside the networks are left out: the
former is converted by `exp_jax.convert.sd`.
"""

import re

from exp_jax.convert.sd.sd_names import unet_pieces
from exp_jax.networks.sd_unet import SdUNet
from exp_jax.systems.loki.map_encoder import MapEncoder

GENERATOR, ENCODER, REFERENCE = (
  'model.diffusion_model.',
  'model.diffusion_model.cond_encoder.',
  'ref_extractor.unet.',
)
LEFT_OUT = re.compile(
  r'(first_stage_model|cond_stage_model|model_ema|audio_encoder|loss)\.|'
  r'(?!model\.|ref_extractor\.)[^.]+$|ref_extractor\.null_context$|'
  r'model\.diffusion_model\..*\.transformer_blocks\.\d+\.(attn2|norm2)\.'
)


def unet_names(model: SdUNet, part: str, prefix: str) -> dict[str, tuple[str, str]]:
  """{name in the file: (leaf of ours, layout)} of the generator or the reference network."""
  return {
    prefix + piece.names[1]: (f'{part}.{piece.ours}', piece.layouts[1])
    for piece in unet_pieces(model, 'linear')
  }


def encoder_leaves(encoder: MapEncoder) -> list[tuple[str, str]]:
  """(leaf, layout) of the map encoder, in the order of its layers."""
  found: list[tuple[str, str]] = []

  def layer(name, layout='conv'):
    found.extend([(f'encoder.{name}.kernel', layout), (f'encoder.{name}.bias', 'copy')])

  def norm(name):
    found.extend([(f'encoder.{name}.scale', 'copy'), (f'encoder.{name}.bias', 'copy')])

  def resnet(name, shortcut):
    for n in '12':
      norm(f'{name}.norm{n}')
      layer(f'{name}.conv{n}')
    if shortcut:
      layer(f'{name}.shortcut', 'point')

  layer('conv_in')
  before = encoder.stem
  for i, width in enumerate(encoder.widths):
    resnet(f'down{i}', before != width)
    layer(f'down{i}_half')
    before = width
  resnet('refine', before != encoder.out)
  norm('norm_out')
  layer('conv_out')
  return found
