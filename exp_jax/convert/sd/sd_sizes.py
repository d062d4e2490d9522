"""Sizes of a network of Stable Diffusion from the shapes of a file and, for what shapes cannot
tell, its config.json.

Heads are such a thing: a config's `attention_head_dim` is their number, whatever its name says.
Without a config a UNet with 1x1 convolutions around its transformers is one of Stable Diffusion
1.x, 8 heads everywhere; one with linear layers has heads 64 wide.
"""

import re

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.foreign_tensors import shown
from exp_jax.networks.sd_unet import SdUNet
from exp_jax.networks.sd_vae import SdVAE

# Settings of diffusers that change the function, and the values that are computed here.
_COMPUTED = {
  'UNet2DConditionModel': dict(
    act_fn=('silu',),
    norm_num_groups=(32,),
    norm_eps=(1e-5,),
    flip_sin_to_cos=(True,),
    freq_shift=(0,),
    downsample_padding=(1,),
    mid_block_scale_factor=(1, 1.0),
    center_input_sample=(False,),
    only_cross_attention=(False,),
    dual_cross_attention=(False,),
    class_embed_type=(None,),
    num_class_embeds=(None,),
    encoder_hid_dim=(None,),
    cross_attention_norm=(None,),
    addition_embed_type=(None,),
    encoder_hid_dim_type=(None,),
    resnet_time_scale_shift=('default',),
    time_embedding_type=('positional',),
    transformer_layers_per_block=(1,),
    mid_block_type=('UNetMidBlock2DCrossAttn',),
    conv_in_kernel=(3,),
    conv_out_kernel=(3,),
    timestep_post_act=(None,),
    attention_type=('default',),
  ),
  'AutoencoderKL': dict(
    act_fn=('silu',),
    norm_num_groups=(32,),
    scaling_factor=(0.18215,),
    shift_factor=(None,),
    mid_block_add_attention=(True,),
    use_quant_conv=(True,),
    use_post_quant_conv=(True,),
  ),
  'MotionAdapter': dict(
    motion_norm_num_groups=(32,),
    conv_in_channels=(None,),
    motion_mid_block_layers_per_block=(1,),
    motion_transformer_layers_per_block=(1,),
    motion_transformer_layers_per_mid_block=(1,),
  ),
}
_CLASSES = {
  'sd_unet': 'UNet2DConditionModel',
  'sd_vae': 'AutoencoderKL',
  'sd_motion': 'MotionAdapter',
}
_HEAD_WIDTH, _HEADS = 64, 8  # of Stable Diffusion 2.x, and the number in 1.x and in motion modules


def _count(names, pattern):
  """1 + the largest number that the pattern's group takes, 0 if there is none."""
  return 1 + max((int(m[1]) for m in (re.match(pattern, name) for name in names) if m), default=-1)


def check_config(config: dict, network: str, where) -> dict:
  """The config.json of a network, or {} if it is of something else.

  Raises:
    UserError: a setting that is not computed.
  """
  if config.get('_class_name') != _CLASSES[network]:
    return {}
  for name, known in _COMPUTED[_CLASSES[network]].items():
    value = config.get(name, known[0])
    if not any(type(value) is type(one) and value == one for one in known):
      raise UserError(
        f'the config.json of {where} sets {name} to {shown(repr(value), 40)}; only {known[0]!r} is '
        'computed'
      )
  return config


def _heads(given, config, widths, linear, where):
  """Of all levels: as asked for, as the config says, or as published networks of this kind have
  them."""
  said = given or config.get('num_attention_heads') or config.get('attention_head_dim')
  if said is None:
    said = [w // _HEAD_WIDTH for w in widths] if linear else _HEADS
  heads = tuple(said) if isinstance(said, (list, tuple)) else (said,)
  heads = heads * len(widths) if len(heads) == 1 else heads
  if len(heads) != len(widths) or not all(
    type(n) is int and n > 0 and w % n == 0 for n, w in zip(heads, widths)
  ):
    raise UserError(
      f'{where}: levels of widths {widths} cannot have {shown(repr(heads), 40)} heads; say how '
      'many with --heads'
    )
  return heads


def unet_of(shapes: dict, scheme: str, heads, config: dict, where) -> tuple[SdUNet, str]:
  """(network, layout of the projections around transformers: 'point' or 'linear').

  `heads` None, or a tuple of one or of all levels.

  Raises:
    UserError: a tensor that tells a size is missing or misshapen, or heads that do not divide the
      widths.
  """
  try:
    if scheme == 'diffusers':
      levels, blocks = (
        _count(shapes, r'down_blocks\.(\d+)\.'),
        _count(shapes, r'down_blocks\.0\.resnets\.(\d+)\.'),
      )
      first = [f'down_blocks.{i}.resnets.0.conv1.weight' for i in range(levels)]
      transformer, conv_in, conv_out = (
        'down_blocks.0.attentions.0',
        'conv_in.weight',
        'conv_out.weight',
      )
    else:
      blocks = (
        min(
          int(m[1])
          for m in (re.match(r'input_blocks\.(\d+)\.0\.op\.weight', n) for n in shapes)
          if m
        )
        - 1
      )
      levels = 1 + sum(bool(re.match(r'input_blocks\.\d+\.0\.op\.weight', n)) for n in shapes)
      first = [f'input_blocks.{1 + (blocks + 1) * i}.0.in_layers.2.weight' for i in range(levels)]
      transformer, conv_in, conv_out = 'input_blocks.1.1', 'input_blocks.0.0.weight', 'out.2.weight'
    widths = tuple(shapes[name][0] for name in first)
    text = f'{transformer}.transformer_blocks.0.attn2.to_k.weight'
    projection = 'linear' if len(shapes[f'{transformer}.proj_in.weight']) == 2 else 'point'
    sizes = dict(
      widths=widths,
      blocks=blocks,
      in_channels=shapes[conv_in][1],
      head=conv_out in shapes,
      out_channels=shapes[conv_out][0] if conv_out in shapes else 4,
      text_dim=shapes[text][1] if text in shapes else 0,
    )
  except (KeyError, ValueError, IndexError) as error:
    raise UserError(
      f'{where} is not a whole UNet of Stable Diffusion: {error} is missing or misshapen'
    ) from None
  if config.get('use_linear_projection', projection == 'linear') != (projection == 'linear'):
    raise UserError(
      f'{where}: the config.json says use_linear_projection {config["use_linear_projection"]}, the '
      'tensors do not'
    )
  _widths_fit(widths, where)
  return SdUNet(
    heads=_heads(heads, config, widths, projection == 'linear', where), **sizes
  ), projection


def vae_of(shapes: dict, scheme: str, where) -> SdVAE:
  """The autoencoder; UserError if a tensor that tells a size is missing or misshapen."""
  stem, blocks = (
    ('encoder.down_blocks', 'resnets') if scheme == 'diffusers' else ('encoder.down', 'block')
  )
  try:
    levels = _count(shapes, rf'{re.escape(stem)}\.(\d+)\.')
    widths = [shapes[f'{stem}.{i}.{blocks}.0.conv1.weight'][0] for i in range(levels)]
    sizes = dict(
      width=widths[0],
      blocks=_count(shapes, rf'{re.escape(stem)}\.0\.{blocks}\.(\d+)\.'),
      channels=shapes['post_quant_conv.weight'][0],
    )
  except (KeyError, IndexError) as error:
    raise UserError(
      f'{where} is not a whole autoencoder of Stable Diffusion: {error} is missing or misshapen'
    ) from None
  _widths_fit(widths, where)
  if any(w % widths[0] for w in widths):
    raise UserError(
      f'{where}: the levels of the autoencoder are {widths} wide, multiples of the first were '
      'expected'
    )
  return SdVAE(multipliers=tuple(w // widths[0] for w in widths), **sizes)


def motion_of(shapes: dict, scheme: str, heads, config: dict, where) -> SdUNet:
  """A UNet of which the motion modules are those of the file; nothing else in it is meant.

  Raises:
    UserError: a tensor that tells a size is missing or misshapen, or heads that do not divide the
      widths.
  """
  inside = '' if scheme == 'diffusers' else '.temporal_transformer'
  levels, blocks = (
    _count(shapes, r'down_blocks\.(\d+)\.'),
    _count(shapes, r'down_blocks\.0\.motion_modules\.(\d+)\.'),
  )
  try:
    widths = tuple(
      shapes[f'down_blocks.{i}.motion_modules.0{inside}.norm.weight'][0] for i in range(levels)
    )
  except (KeyError, IndexError) as error:
    raise UserError(
      f'{where} is no whole set of motion modules: {error} is missing or misshapen'
    ) from None
  _widths_fit(widths, where)
  said = heads[0] if heads else config.get('motion_num_attention_heads', _HEADS)
  if type(said) is not int or said < 1 or any(w % said for w in widths) or heads and len(heads) > 1:
    raise UserError(
      f'{where}: motion modules of widths {widths} cannot have {shown(repr(heads or said), 40)} '
      'heads; say '
      'one number with --heads'
    )
  return SdUNet(
    widths=widths,
    heads=(1,) * levels,
    text_dim=0,
    blocks=blocks,
    motion='frame',
    motion_heads=said,
    motion_middle=any(name.startswith('mid_block.') for name in shapes),
  )


def _widths_fit(widths, where):
  if not widths or any(w % 32 or not w for w in widths) or np.prod(widths, dtype=float) > 2**80:
    raise UserError(f'{where}: levels of widths {shown(widths, 80)}; multiples of 32 were expected')
