"""Which tensor of a Stable Diffusion file is which leaf of ours: UNet, autoencoder, motion modules,
two naming schemes each.

A `Piece` says: this leaf is, in every scheme, a tensor of that name after that change of layout.
The tables are written out from the sizes of a model, so that what is missing and what is left over
are plain set differences.

| layout | torch -> ours |
|---|---|
| copy | as it is |
| linear | (out, in) -> (in, out) |
| point | (O, I, 1, 1) -> (I, O) |
| conv | (O, I, h, w) -> (h, w, I, O) |

`ldm` are the names of the first release, in files that hold all networks behind prefixes;
`animatediff` those of the first release of motion modules. Position buffers of motion modules stand
in a list of their own, for they are no leaves.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from exp_jax.networks.sd_unet import SdUNet
from exp_jax.networks.sd_vae import SdVAE

SCHEMES = {
  'sd_unet': ('diffusers', 'ldm'),
  'sd_vae': ('diffusers', 'ldm'),
  'sd_motion': ('diffusers', 'animatediff'),
}
# of a file that holds all networks
PREFIXES = {'sd_unet': 'model.diffusion_model.', 'sd_vae': 'first_stage_model.'}


@dataclasses.dataclass(frozen=True)
class Piece:
  """One leaf.

  Attributes:
    ours: path joined by dots.
    names: of the tensor, by scheme, in the order of SCHEMES.
    layouts: of the tensor, by scheme.
  """

  ours: str
  names: tuple[str, ...]
  layouts: tuple[str, ...]


def to_ours(value: np.ndarray, layout: str) -> np.ndarray:
  """A tensor of a file in our layout; a view.

  Raises:
    ValueError: a tensor of another rank than the layout has.
  """
  rank = {'linear': 2, 'point': 4, 'conv': 4}.get(layout, value.ndim)
  if value.ndim != rank or layout == 'point' and value.shape[2:] != (1, 1):
    raise ValueError(f'a tensor of shape {value.shape} is no {layout}')
  match layout:
    case 'linear':
      return value.T
    case 'point':
      return value[:, :, 0, 0].T
    case 'conv':
      return value.transpose(2, 3, 1, 0)
  return value


def from_ours(value: np.ndarray, layout: str) -> np.ndarray:
  """The inverse of `to_ours`."""
  match layout:
    case 'linear':
      return value.T
    case 'point':
      return value.T[:, :, None, None]
    case 'conv':
      return value.transpose(3, 2, 0, 1)
  return value


class _Table(list):
  """Pieces, added by the stems of their names."""

  def layer(self, ours: str, names: Sequence[str], *layouts: str, bias: bool = True) -> None:
    """A linear layer or convolution; one layout for all schemes, or one for each."""
    layouts = layouts * len(names) if len(layouts) == 1 else layouts
    self.append(Piece(f'{ours}.kernel', tuple(f'{n}.weight' for n in names), layouts))
    if bias:
      self.append(Piece(f'{ours}.bias', tuple(f'{n}.bias' for n in names), ('copy',) * len(names)))

  def norm(self, ours: str, names: Sequence[str]) -> None:
    for leaf, kind in (('scale', 'weight'), ('bias', 'bias')):
      self.append(
        Piece(f'{ours}.{leaf}', tuple(f'{n}.{kind}' for n in names), ('copy',) * len(names))
      )

  def attention(self, ours: str, names: Sequence[str]) -> None:
    """Of a transformer or motion module: q, k, v without bias."""
    for name in 'qkv':
      self.layer(f'{ours}.{name}', [f'{n}.to_{name}' for n in names], 'linear', bias=False)
    self.layer(f'{ours}.o', [f'{n}.to_out.0' for n in names], 'linear')

  def feed_forward(self, ours: str, names: Sequence[str]) -> None:
    self.layer(f'{ours}.fc1', [f'{n}.net.0.proj' for n in names], 'linear')
    self.layer(f'{ours}.fc2', [f'{n}.net.2' for n in names], 'linear')


def _unet_resnet(table, ours, diffusers, ldm, shortcut):
  table.norm(f'{ours}.norm1', (f'{diffusers}.norm1', f'{ldm}.in_layers.0'))
  table.layer(f'{ours}.conv1', (f'{diffusers}.conv1', f'{ldm}.in_layers.2'), 'conv')
  table.layer(f'{ours}.time', (f'{diffusers}.time_emb_proj', f'{ldm}.emb_layers.1'), 'linear')
  table.norm(f'{ours}.norm2', (f'{diffusers}.norm2', f'{ldm}.out_layers.0'))
  table.layer(f'{ours}.conv2', (f'{diffusers}.conv2', f'{ldm}.out_layers.3'), 'conv')
  if shortcut:
    table.layer(
      f'{ours}.shortcut', (f'{diffusers}.conv_shortcut', f'{ldm}.skip_connection'), 'point'
    )


def _transformer(table, ours, stems, projection, text):
  inside = lambda name: [f'{stem}.{name}' for stem in stems]
  table.norm(f'{ours}.norm', inside('norm'))
  table.layer(f'{ours}.proj_in', inside('proj_in'), projection)
  block = 'transformer_blocks.0'
  for theirs, own in (('1', 'self'), ('2', 'cross')) if text else (('1', 'self'),):
    table.norm(f'{ours}.block.norm{theirs}', inside(f'{block}.norm{theirs}'))
    table.attention(f'{ours}.block.{own}', inside(f'{block}.attn{theirs}'))
  table.norm(f'{ours}.block.norm3', inside(f'{block}.norm3'))
  table.feed_forward(f'{ours}.block.ff', inside(f'{block}.ff'))
  table.layer(f'{ours}.proj_out', inside('proj_out'), projection)


def unet_pieces(model: SdUNet, projection: str) -> list[Piece]:
  """Every tensor of a UNet without motion modules: 686 of the published ones.

  Args:
    projection: layout of the linear layers around a transformer: 'point' in Stable Diffusion 1.5,
      'linear' in 2.1.
  """
  table, last, per_level = _Table(), len(model.widths) - 1, model.blocks + 1
  text = bool(model.text_dim)
  table.layer('time.fc1', ('time_embedding.linear_1', 'time_embed.0'), 'linear')
  table.layer('time.fc2', ('time_embedding.linear_2', 'time_embed.2'), 'linear')
  table.layer('conv_in', ('conv_in', 'input_blocks.0.0'), 'conv')
  before, skips = model.widths[0], [model.widths[0]]
  for i, width in enumerate(model.widths):
    for j in range(model.blocks):
      ldm = f'input_blocks.{1 + per_level * i + j}'
      _unet_resnet(
        table, f'down{i}_{j}.res', f'down_blocks.{i}.resnets.{j}', f'{ldm}.0', before != width
      )
      if i < last:
        _transformer(
          table,
          f'down{i}_{j}.att',
          (f'down_blocks.{i}.attentions.{j}', f'{ldm}.1'),
          projection,
          text,
        )
      before = width
      skips.append(width)
    if i < last:
      table.layer(
        f'down{i}_half',
        (f'down_blocks.{i}.downsamplers.0.conv', f'input_blocks.{per_level * (i + 1)}.0.op'),
        'conv',
      )
      skips.append(width)
  for j in (0, 1):
    _unet_resnet(table, f'middle_{j}.res', f'mid_block.resnets.{j}', f'middle_block.{2 * j}', False)
  _transformer(
    table, 'middle_0.att', ('mid_block.attentions.0', 'middle_block.1'), projection, text
  )
  for i, width in enumerate(reversed(model.widths)):
    for j in range(per_level):
      ldm = f'output_blocks.{per_level * i + j}'
      _unet_resnet(
        table,
        f'up{i}_{j}.res',
        f'up_blocks.{i}.resnets.{j}',
        f'{ldm}.0',
        before + skips.pop() != width,
      )
      if i > 0:
        _transformer(
          table, f'up{i}_{j}.att', (f'up_blocks.{i}.attentions.{j}', f'{ldm}.1'), projection, text
        )
      before = width
    if i < last:  # the third part of a block, or the second without a transformer
      table.layer(
        f'up{i}_double', (f'up_blocks.{i}.upsamplers.0.conv', f'{ldm}.{2 if i else 1}.conv'), 'conv'
      )
  if model.head:
    table.norm('norm_out', ('conv_norm_out', 'out.0'))
    table.layer('conv_out', ('conv_out', 'out.2'), 'conv')
  return table


def _vae_resnet(table, ours, diffusers, ldm, shortcut):
  for n in '12':
    table.norm(f'{ours}.norm{n}', (f'{diffusers}.norm{n}', f'{ldm}.norm{n}'))
    table.layer(f'{ours}.conv{n}', (f'{diffusers}.conv{n}', f'{ldm}.conv{n}'), 'conv')
  if shortcut:
    table.layer(f'{ours}.shortcut', (f'{diffusers}.conv_shortcut', f'{ldm}.nin_shortcut'), 'point')


def vae_pieces(model: SdVAE) -> list[Piece]:
  """Every tensor of an autoencoder: 248 of the published one."""
  table, last = _Table(), len(model.multipliers) - 1

  def ends(half):
    for name in ('conv_in', 'conv_out'):
      table.layer(f'{half}.{name}', (f'{half}.{name}',) * 2, 'conv')
    table.norm(f'{half}.norm_out', (f'{half}.conv_norm_out', f'{half}.norm_out'))
    for j in (0, 1):
      _vae_resnet(
        table,
        f'{half}.middle_{j}',
        f'{half}.mid_block.resnets.{j}',
        f'{half}.mid.block_{j + 1}',
        False,
      )
    diffusers, ldm = f'{half}.mid_block.attentions.0', f'{half}.mid.attn_1'
    table.norm(f'{half}.middle_att.norm', (f'{diffusers}.group_norm', f'{ldm}.norm'))
    for own, one, other in (*((n, f'to_{n}', n) for n in 'qkv'), ('o', 'to_out.0', 'proj_out')):
      table.layer(
        f'{half}.middle_att.{own}', (f'{diffusers}.{one}', f'{ldm}.{other}'), 'linear', 'point'
      )

  ends('encoder')
  before = 1
  for i, width in enumerate(model.multipliers):
    diffusers, ldm = f'encoder.down_blocks.{i}', f'encoder.down.{i}'
    for j in range(model.blocks):
      _vae_resnet(
        table,
        f'encoder.down{i}_{j}',
        f'{diffusers}.resnets.{j}',
        f'{ldm}.block.{j}',
        before != width,
      )
      before = width
    if i < last:
      table.layer(
        f'encoder.down{i}_half',
        (f'{diffusers}.downsamplers.0.conv', f'{ldm}.downsample.conv'),
        'conv',
      )
  for name in ('quant', 'post_quant'):
    table.layer(name, (f'{name}_conv',) * 2, 'point')
  ends('decoder')
  for i, width in enumerate(reversed(model.multipliers)):
    diffusers, ldm = f'decoder.up_blocks.{i}', f'decoder.up.{last - i}'
    for j in range(model.blocks + 1):
      _vae_resnet(
        table, f'decoder.up{i}_{j}', f'{diffusers}.resnets.{j}', f'{ldm}.block.{j}', before != width
      )
      before = width
    if i < last:
      table.layer(
        f'decoder.up{i}_double', (f'{diffusers}.upsamplers.0.conv', f'{ldm}.upsample.conv'), 'conv'
      )
  return table


def motion_stems(model: SdUNet) -> dict[str, str]:
  """{our path of a motion module: its name in files}."""
  levels, per_level = range(len(model.widths)), model.blocks + 1
  stems = {
    f'down{i}_{j}.motion': f'down_blocks.{i}.motion_modules.{j}'
    for i in levels
    for j in range(model.blocks)
  }
  if model.motion_middle:
    stems['middle_0.motion'] = 'mid_block.motion_modules.0'
  return stems | {
    f'up{i}_{j}.motion': f'up_blocks.{i}.motion_modules.{j}'
    for i in levels
    for j in range(per_level)
  }


def motion_pieces(model: SdUNet) -> list[Piece]:
  """Every tensor of a UNet's motion modules: 546 of 21 modules."""
  table = _Table()
  for ours, stem in motion_stems(model).items():
    both = lambda one, other=None, stem=stem: (
      f'{stem}.{one}',
      f'{stem}.temporal_transformer.{other or one}',
    )
    block = lambda one, other, both=both: both(
      f'transformer_blocks.0.{one}', f'transformer_blocks.0.{other}'
    )
    table.norm(f'{ours}.norm', both('norm'))
    for name in ('proj_in', 'proj_out'):
      table.layer(f'{ours}.{name}', both(name), 'linear')
    for j in (1, 2):
      table.norm(f'{ours}.norm{j}', block(f'norm{j}', f'norms.{j - 1}'))
      table.attention(f'{ours}.attention{j}', block(f'attn{j}', f'attention_blocks.{j - 1}'))
    table.norm(f'{ours}.norm3', block('norm3', 'ff_norm'))
    table.feed_forward(f'{ours}.ff', block('ff', 'ff'))
  return table


def position_buffers(model: SdUNet, scheme: str) -> dict[str, int]:
  """{name of a buffer of frame positions: its width} of a UNet's motion modules."""
  widths = {
    f'{kind}{i}': w
    for kind, ws in (('down', model.widths), ('up', model.widths[::-1]))
    for i, w in enumerate(ws)
  }
  widths['middle'] = model.widths[-1]
  buffers = {}
  for ours, stem in motion_stems(model).items():
    inside = (
      ['pos_embed.pe']
      if scheme == 'diffusers'
      else [f'attention_blocks.{k}.pos_encoder.pe' for k in (0, 1)]
    )
    outside = stem if scheme == 'diffusers' else f'{stem}.temporal_transformer'
    buffers |= {
      f'{outside}.transformer_blocks.0.{name}': widths[ours.split('_')[0]] for name in inside
    }
  return buffers
