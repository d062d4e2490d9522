"""Which tensor of a Wan checkpoint is which leaf of ours: the transformer and the autoencoder, two
naming schemes each.

A `Piece` says: this leaf (or this layer of a stacked leaf) is that tensor, after this change of
layout. The tables are written out from the sizes of a model, so that what is missing and what is
left over are plain set differences.

| layout | torch -> ours |
|---|---|
| copy | as it is |
| linear | (out, in) -> (in, out) |
| row | (1, n, D) -> (n, D) |
| patch | (D, C, pt, ph, pw) -> (C pt ph pw, D) |
| conv3 | (O, I, t, h, w) -> (t, h, w, I, O) |
| conv2 | (O, I, h, w) -> (1, h, w, I, O) |
| point | (O, I, 1, 1) -> (I, O) |
| gamma3, gamma4 | (C, 1, 1), (C, 1, 1, 1) -> (C,) |

diffusers renumbers the norms of a block: its norm2 is the original norm3, the only one with
weights.
"""

import dataclasses
import re

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.foreign_tensors import shown
from exp_jax.networks.wan_dit import WanDiT
from exp_jax.networks.wan_vae import WanVAE

SCHEMES = ('diffusers', 'original')
# put before all names by those that hold the network
WRAPPERS = (
  'module.',
  '_orig_mod.',
  '_fsdp_wrapped_module.',
  '_forward_module.',
  'state_dict.',
  'base_model.model.',
  'pipe.dit.',
  'diffusion_model.',
  'transformer.',
  'transformer_2.',
  'model.',
  'dit.',
  'net.',
  'network.',
  'generator.',
  'generator_ema.',
  'ema.',
  'vae.',
  'first_stage_model.',
)
# one of them in every whole network
_ANCHORS = 'patch_embedding.weight', 'encoder.conv_in.weight', 'encoder.conv1.weight'
# before those of a block
INNER = re.compile(r'(?<=\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\.')
# old diffusers files carry them, nothing reads them
IGNORED = r'(.*norm_added_q\.weight|.*\.?freqs(_cos|_sin)?)$'


@dataclasses.dataclass(frozen=True)
class Piece:
  """`ours` is a path joined by dots, `layer` its index on axis 0 or None; `names` by scheme, see
  SCHEMES."""

  ours: str
  layer: int | None
  names: tuple[str, str]
  layout: str


def to_ours(value: np.ndarray, layout: str) -> np.ndarray:
  """A tensor of a checkpoint in our layout; a view where that is enough."""
  match layout:
    case 'linear':
      return value.T
    case 'row':
      return value[0]
    case 'patch':
      return value.reshape(len(value), -1).T
    case 'conv3':
      return value.transpose(2, 3, 4, 1, 0)
    case 'conv2':
      return value.transpose(2, 3, 1, 0)[None]
    case 'point':
      return value[:, :, 0, 0].T
    case 'gamma3' | 'gamma4':
      return value.reshape(-1)
  return value


def from_ours(
  value: np.ndarray, layout: str, patch: tuple[int, int, int] = (1, 2, 2)
) -> np.ndarray:
  """The inverse of `to_ours`."""
  match layout:
    case 'linear':
      return value.T
    case 'row':
      return value[None]
    case 'patch':
      return value.T.reshape(value.shape[1], -1, *patch)
    case 'conv3':
      return value.transpose(4, 3, 0, 1, 2)
    case 'conv2':
      return value[0].transpose(3, 2, 0, 1)
    case 'point':
      return value.T[:, :, None, None]
    case 'gamma3' | 'gamma4':
      return value.reshape(-1, *(1,) * (int(layout[-1]) - 1))
  return value


def dit_pieces(model: WanDiT) -> list[Piece]:
  """Every tensor of a transformer: 15 (with image branch 23, with image positions 24) outside, 27
  (32) a block."""
  pieces = []

  def add(ours, diffusers, original, layout, layer=None):
    pieces.append(Piece(ours, layer, (diffusers, original), layout))

  def linear(ours, diffusers, original, layer=None, layout='linear'):
    add(f'{ours}.kernel', f'{diffusers}.weight', f'{original}.weight', layout, layer)
    add(f'{ours}.bias', f'{diffusers}.bias', f'{original}.bias', 'copy', layer)

  def norm(ours, diffusers, original, layer=None):
    add(f'{ours}.scale', f'{diffusers}.weight', f'{original}.weight', 'copy', layer)
    add(f'{ours}.bias', f'{diffusers}.bias', f'{original}.bias', 'copy', layer)

  embedder = 'condition_embedder'
  linear('patch', 'patch_embedding', 'patch_embedding', layout='patch')
  linear('time.fc1', f'{embedder}.time_embedder.linear_1', 'time_embedding.0')
  linear('time.fc2', f'{embedder}.time_embedder.linear_2', 'time_embedding.2')
  linear('time.proj', f'{embedder}.time_proj', 'time_projection.1')
  linear('text.fc1', f'{embedder}.text_embedder.linear_1', 'text_embedding.0')
  linear('text.fc2', f'{embedder}.text_embedder.linear_2', 'text_embedding.2')
  if model.image_dim:
    image = f'{embedder}.image_embedder'
    norm('image.norm1', f'{image}.norm1', 'img_emb.proj.0')
    linear('image.fc1', f'{image}.ff.net.0.proj', 'img_emb.proj.1')
    linear('image.fc2', f'{image}.ff.net.2', 'img_emb.proj.3')
    norm('image.norm2', f'{image}.norm2', 'img_emb.proj.4')
    if model.image_positions:
      add('image.pos', f'{image}.pos_embed', 'img_emb.emb_pos', 'copy')
  add('head.table', 'scale_shift_table', 'head.modulation', 'row')
  linear('head', 'proj_out', 'head.head')
  for n in range(model.depth):
    block = f'blocks.{n}'
    add('blocks.table', f'{block}.scale_shift_table', f'{block}.modulation', 'row', n)
    for ours, diffusers, original in (
      ('self', 'attn1', 'self_attn'),
      ('cross', 'attn2', 'cross_attn'),
    ):
      for x in 'qkv':
        linear(f'blocks.{ours}.{x}', f'{block}.{diffusers}.to_{x}', f'{block}.{original}.{x}', n)
      linear(f'blocks.{ours}.o', f'{block}.{diffusers}.to_out.0', f'{block}.{original}.o', n)
      for x in 'qk':
        add(
          f'blocks.{ours}.{x}_norm',
          f'{block}.{diffusers}.norm_{x}.weight',
          f'{block}.{original}.norm_{x}.weight',
          'copy',
          n,
        )
    if model.image_dim:
      for x in 'kv':
        linear(
          f'blocks.cross.{x}i', f'{block}.attn2.add_{x}_proj', f'{block}.cross_attn.{x}_img', n
        )
      add(
        'blocks.cross.ki_norm',
        f'{block}.attn2.norm_added_k.weight',
        f'{block}.cross_attn.norm_k_img.weight',
        'copy',
        n,
      )
    norm('blocks.cross_norm', f'{block}.norm2', f'{block}.norm3', n)
    linear('blocks.ffn.fc1', f'{block}.ffn.net.0.proj', f'{block}.ffn.0', n)
    linear('blocks.ffn.fc2', f'{block}.ffn.net.2', f'{block}.ffn.2', n)
  return pieces


def vae_pieces(model: WanVAE) -> list[Piece]:
  """Every tensor of the autoencoder: 194 of the published one."""
  pieces = []

  def conv(ours, diffusers, original, layout='conv3'):
    pieces.append(
      Piece(f'{ours}.kernel', None, (f'{diffusers}.weight', f'{original}.weight'), layout)
    )
    pieces.append(Piece(f'{ours}.bias', None, (f'{diffusers}.bias', f'{original}.bias'), 'copy'))

  def norm(ours, diffusers, original, layout='gamma4'):
    pieces.append(Piece(f'{ours}.scale', None, (f'{diffusers}.gamma', f'{original}.gamma'), layout))

  def residual(ours, diffusers, original, shortcut):
    norm(f'{ours}.norm1', f'{diffusers}.norm1', f'{original}.residual.0')
    conv(f'{ours}.conv1.conv', f'{diffusers}.conv1', f'{original}.residual.2')
    norm(f'{ours}.norm2', f'{diffusers}.norm2', f'{original}.residual.3')
    conv(f'{ours}.conv2.conv', f'{diffusers}.conv2', f'{original}.residual.6')
    if shortcut:
      conv(f'{ours}.shortcut.conv', f'{diffusers}.conv_shortcut', f'{original}.shortcut')

  def ends(half):
    for ours, diffusers, original in (
      ('conv_in', 'conv_in', 'conv1'),
      ('conv_out', 'conv_out', 'head.2'),
    ):
      conv(f'{half}.{ours}.conv', f'{half}.{diffusers}', f'{half}.{original}')
    norm(f'{half}.norm_out', f'{half}.norm_out', f'{half}.head.0')
    for i in (0, 1):
      residual(
        f'{half}.middle.block{i}', f'{half}.mid_block.resnets.{i}', f'{half}.middle.{2 * i}', False
      )
    ours, original = f'{half}.middle.attention', f'{half}.middle.1'
    diffusers = f'{half}.mid_block.attentions.0'
    norm(f'{ours}.norm', f'{diffusers}.norm', f'{original}.norm', 'gamma3')
    conv(f'{ours}.qkv', f'{diffusers}.to_qkv', f'{original}.to_qkv', 'point')
    conv(f'{ours}.proj', f'{diffusers}.proj', f'{original}.proj', 'point')

  levels, last = model.multipliers, len(model.multipliers) - 1
  ends('encoder')
  width, index = 1, 0
  for level, wider in enumerate(levels):
    for _ in range(model.blocks):
      residual(
        f'encoder.down{index}',
        f'encoder.down_blocks.{index}',
        f'encoder.downsamples.{index}',
        wider != width,
      )
      width, index = wider, index + 1
    if level < last:
      ours = f'encoder.down{index}'
      names = (f'encoder.down_blocks.{index}', f'encoder.downsamples.{index}')
      conv(f'{ours}.space', *(f'{n}.resample.1' for n in names), 'conv2')
      if level:
        conv(f'{ours}.time_conv', *(f'{n}.time_conv' for n in names))
      index += 1
  conv('quant.conv', 'quant_conv', 'conv1')
  conv('post_quant.conv', 'post_quant_conv', 'conv2')
  ends('decoder')
  width, index = levels[-1], 0
  for level, wider in enumerate(reversed(levels)):
    for i in range(model.blocks + 1):
      residual(
        f'decoder.up{level}_block{i}',
        f'decoder.up_blocks.{level}.resnets.{i}',
        f'decoder.upsamples.{index}',
        wider != width,
      )
      width, index = wider, index + 1
    if level < last:
      ours = f'decoder.up{level}_resample'
      names = (f'decoder.up_blocks.{level}.upsamplers.0', f'decoder.upsamples.{index}')
      conv(f'{ours}.space', *(f'{n}.resample.1' for n in names), 'conv2')
      if level < last - 1:
        conv(f'{ours}.time_conv.conv', *(f'{n}.time_conv' for n in names))
      width, index = wider / 2, index + 1
  return pieces


def unwrapped(names, where) -> tuple[str, dict[str, str]]:
  """Takes off what wrappers (DDP, FSDP, torch.compile, a pipeline) put before all names, or before
  those of a block.

  A wrapper of any name is known by the tensor that every such network has: it stands before that,
  and before all others.

  Returns:
    prefix: what was before every name, or ''.
    raw: {name without wrappers: name as it is}.

  Raises:
    UserError: two tensors are left with the same name, or several networks lie in the file.
  """
  prefix, names = '', list(names)
  before = sorted(
    {
      n.removesuffix(anchor)
      for n in names
      for anchor in _ANCHORS
      if n == anchor or n.endswith(f'.{anchor}')
    }
  )
  if len(before) > 1:
    raise UserError(
      f'{where} holds several networks, whose tensors begin with '
      f'{shown(", ".join(map(repr, before)))}: save the one '
      'that is meant alone, without that prefix'
    )
  if before and all(n.startswith(before[0]) for n in names):
    prefix = before[0]
  while wrapper := next(
    (w for w in WRAPPERS if names and all(n.startswith(prefix + w) for n in names)), ''
  ):
    prefix += wrapper
  raw = {}
  for name in names:
    clean = INNER.sub('', name[len(prefix) :])
    if clean in raw:
      raise UserError(
        f'{where}: {name} and {raw[clean]} are the same tensor of the network: which one is meant?'
      )
    raw[clean] = name
  return prefix, raw


def scheme_of(names, where) -> tuple[str, str]:
  """('dit' or 'vae', scheme) of a checkpoint by its tensors' names, prefix already cut.

  Raises:
    UserError: if it is neither, or a relative of Wan 2.1 that is another network.
  """
  names = set(names)
  quantized = [
    n
    for n in names
    if re.search(r'(scale_weight|weight_scale|scale_input|scaled_fp8|input_scale)$', n)
  ]
  if quantized:
    raise UserError(
      f'{where} is an fp8 file ({quantized[0]}): convert from the bf16, fp16 or fp32 weights'
    )
  if any(n.startswith('vace_') for n in names):
    raise UserError(
      f'{where} is a VACE model, which is another network: take a T2V, I2V or FLF2V one'
    )
  if 'patch_embedding.weight' in names:
    return 'dit', 'diffusers' if any(
      n.startswith('condition_embedder.') for n in names
    ) else 'original'
  if 'encoder.conv_in.weight' in names:
    return 'vae', 'diffusers'
  if 'encoder.conv1.weight' in names:
    return 'vae', 'original'
  raise UserError(
    f'{where} holds neither a Wan transformer nor a Wan autoencoder; it starts with '
    f'{shown(sorted(names)[:2])}'
  )


def dit_sizes(shapes: dict[str, tuple[int, ...]], scheme: str, heads: int | None, where) -> dict:
  """Fields of `WanDiT` from the shapes of a checkpoint; heads of 128 channels unless `heads` is
  given.

  Raises:
    UserError: if a tensor that tells a size is missing or of another rank.
  """
  diffusers = scheme == 'diffusers'
  pick = lambda a, b: shapes[a if diffusers else b]
  try:
    width, in_channels, *patch = shapes['patch_embedding.weight']
    image = (
      'condition_embedder.image_embedder.norm1.weight' if diffusers else 'img_emb.proj.0.weight'
    )
    position = 'condition_embedder.image_embedder.pos_embed' if diffusers else 'img_emb.emb_pos'
    out = pick('proj_out.weight', 'head.head.weight')[0]
    sizes = dict(
      width=width,
      in_channels=in_channels,
      patch=tuple(patch),
      out_channels=out // int(np.prod(patch)),
      ffn=pick('blocks.0.ffn.net.0.proj.weight', 'blocks.0.ffn.0.weight')[0],
      heads=heads or width // 128,
      depth=1 + max(int(m[1]) for m in (re.match(r'blocks\.(\d+)\.', n) for n in shapes) if m),
      text_dim=pick('condition_embedder.text_embedder.linear_1.weight', 'text_embedding.0.weight')[
        1
      ],
      freq_dim=pick('condition_embedder.time_embedder.linear_1.weight', 'time_embedding.0.weight')[
        1
      ],
      image_dim=shapes[image][0] if image in shapes else 0,
      image_positions=shapes[position][1] if position in shapes else 0,
    )
  except (KeyError, ValueError, IndexError) as error:
    raise UserError(
      f'{where} is not a whole Wan transformer: {error} is missing or misshapen'
    ) from None
  if sizes['heads'] < 1 or width % sizes['heads']:
    raise UserError(
      f'{where}: width {width} has no {sizes["heads"]} heads; say how many with --heads'
    )
  return sizes


def told(config: dict, sizes: dict, where) -> dict:
  """What only a config.json can tell: {'eps': ...}, or nothing where it is silent.

  Args:
    config: of diffusers or of the original release.
    sizes: by `dit_sizes`, compared with it.

  Raises:
    UserError: another network than ours, or sizes that contradict the tensors.
  """
  if config.get('_class_name', 'WanModel') not in ('WanModel', 'WanTransformer3DModel'):
    return {}  # the folder's config.json is of something else
  for name, ours in (
    ('num_layers', 'depth'),
    ('ffn_dim', 'ffn'),
    ('dim', 'width'),
    ('in_channels', 'in_channels'),
    ('in_dim', 'in_channels'),
    ('out_channels', 'out_channels'),
    ('out_dim', 'out_channels'),
    ('freq_dim', 'freq_dim'),
    ('text_dim', 'text_dim'),
  ):
    if config.get(name, sizes[ours]) != sizes[ours]:
      raise UserError(
        f'{where} has {ours} {sizes[ours]}, the config.json in its folder says {name} '
        f'{shown(config[name], 40)}: '
        'a part is missing, or the file is of another model'
      )
  for name, known in (
    ('cross_attn_norm', (True,)),
    ('qk_norm', (True, 'rms_norm_across_heads')),
    ('window_size', ([-1, -1],)),
  ):
    if name in config and config[name] not in known:
      raise UserError(
        f'the config.json of {where} sets {name} to {shown(repr(config[name]), 40)}; only '
        f'{known[-1]!r} is computed'
      )
  if 'eps' not in config:
    return {}
  eps = config['eps']
  if type(eps) not in (int, float) or not 0 < eps < 1:
    raise UserError(
      f'the config.json of {where} sets eps to {shown(repr(eps), 40)}, a number between 0 and 1 '
      'was expected'
    )
  return {'eps': float(eps)}


def vae_sizes(shapes: dict[str, tuple[int, ...]], scheme: str, where) -> dict:
  """Fields of `WanVAE` from the shapes of a checkpoint."""
  diffusers = scheme == 'diffusers'
  stem = 'encoder.down_blocks' if diffusers else 'encoder.downsamples'
  try:
    width, pixels = shapes['encoder.conv_in.weight' if diffusers else 'encoder.conv1.weight'][:2]
    count = 1 + max(
      int(m[1]) for m in (re.match(rf'{re.escape(stem)}\.(\d+)\.', n) for n in shapes) if m
    )
    levels, blocks = [[]], 0
    for i in range(count):
      conv = f'{stem}.{i}.conv1.weight' if diffusers else f'{stem}.{i}.residual.2.weight'
      if conv in shapes:
        levels[-1].append(shapes[conv][0] // width)
      else:
        levels.append([])
    blocks = len(levels[0])
    channels = shapes['post_quant_conv.weight' if diffusers else 'conv2.weight'][0]
    multipliers = tuple(level[0] for level in levels)
  except (KeyError, ValueError, IndexError) as error:
    raise UserError(
      f'{where} is not a whole Wan 2.1 autoencoder: {error} is missing or misshapen'
    ) from None
  if pixels != 3 or channels != 16:
    raise UserError(
      f'{where} is an autoencoder of {channels} channels (Wan 2.2?); only the one of Wan 2.1, 16, '
      'is converted'
    )
  return dict(width=width, multipliers=multipliers, blocks=blocks, channels=channels)
