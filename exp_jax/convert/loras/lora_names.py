"""Which tensor of an adapter file acts on which leaf of the Wan transformer, in every dialect.

| end of a name | kind | acts on |
|---|---|---|
| lora_A.weight, lora_down.weight, lora_A.NAME.weight | a | the kernel of a linear layer; NAME is the adapter's |
| lora_B.weight, lora_up.weight | b | the same |
| lora_B.bias, lora_up.bias | bias | the layer's bias, scaled as the factors are |
| alpha | alpha | the scale of the pair |
| diff | diff | a weight, norm scale or table: a full difference |
| diff_b | diff | a bias |
| diff_m | diff | the modulation table of a block or of the head |
| weight, bias, base_layer.weight, modules_to_save.NAME.weight | whole | the leaf itself, replaced |
"""

import dataclasses
import re

import numpy as np

from exp_jax.convert.wan_weights import wan_names
from exp_jax.networks.wan_dit import WanDiT

DIALECTS = {  # prefix, column of the names (0 diffusers, 1 original), pair of factors, infix
  'peft': ('transformer.', 0, ('lora_A', 'lora_B'), ''),
  'peft_folder': ('base_model.model.', 0, ('lora_A', 'lora_B'), ''),
  'comfyui': ('diffusion_model.', 1, ('lora_A', 'lora_B'), ''),
  'kohya': ('lora_unet_', 1, ('lora_down', 'lora_up'), ''),
  'unianimate': ('pipe.dit.', 1, ('lora_A', 'lora_B'), '.default'),
}
_PREFIXES = ('lora_unet_', 'lora_transformer_', 'lycoris_', *wan_names.WRAPPERS)
_FACTOR = re.compile(
  r'(.+)\.(lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up)(\.[^.]+)?\.(weight|bias)'
)
_WHOLE = re.compile(
  r'(.+?)(\.base_layer|\.original_module|\.modules_to_save\.[^.]+)?\.(weight|bias)'
)
_ENCODER = re.compile(
  r'(?:pipe\.dit\.)?(dwpose_embedding|randomref_embedding_pose)\.(\d+)\.(weight|bias)'
)
ENCODERS = {
  'dwpose_embedding': ('pose', 'conv3'),
  'randomref_embedding_pose': ('reference', 'conv2d'),
}


@dataclasses.dataclass(frozen=True)
class Part:
  """What one tensor of an adapter file is.

  Attributes:
    kind: 'a', 'b', 'bias', 'alpha', 'diff', 'whole' or 'encoder'.
    piece: the leaf of the network that it acts on, with its layer; of an 'encoder' the path of our
      leaf, as text.
    module: the name in the file up to its kind.
    prefix: what stood before the network's own name.
    pair: how the factors are spelled, ('lora_A', 'lora_B') or ('lora_down', 'lora_up').
    infix: the adapter's name with its point, or ''.
  """

  kind: str
  piece: wan_names.Piece | str
  module: str
  prefix: str = ''
  pair: tuple[str, str] = ()
  infix: str = ''


def tables(model: WanDiT) -> tuple[dict, dict]:
  """{underscored name: piece} of the kernels of linear layers, and of every tensor."""
  linear, every = {}, {}
  for piece in wan_names.dit_pieces(model):
    for name in piece.names:
      every[name.replace('.', '_')] = piece
      if piece.ours.endswith('.kernel'):
        linear[name.removesuffix('.weight').replace('.', '_')] = piece
  return linear, every


def _resolve(name, table):
  """(piece, prefix) of a name, after as few prefixes as needed; (None, '') if there is none."""
  rest, prefix = re.sub(wan_names.INNER, '', name), ''
  while (found := table.get(rest.replace('.', '_'))) is None:
    wrapper = next((w for w in _PREFIXES if rest.startswith(w)), None)
    if wrapper is None:
      return None, ''
    prefix, rest = prefix + wrapper, rest[len(wrapper) :]
  return found, prefix


def understood(name: str, linear: dict, every: dict) -> Part | None:
  """What a tensor is by its name, or None."""
  if encoder := _ENCODER.fullmatch(name):
    leaf = f'{ENCODERS[encoder[1]][0]}.conv{int(encoder[2]) // 2}.{"kernel" if encoder[3] == "weight" else "bias"}'
    return Part('encoder', leaf, encoder[1])
  if factor := _FACTOR.fullmatch(name):
    module, spelling, infix, end = factor.groups()
    piece, prefix = _resolve(module, linear)
    low = spelling in ('lora_A', 'lora_down', 'lora.down')
    if piece is None or (low and end == 'bias'):
      return None
    pair = (
      ('lora_A', 'lora_B')
      if spelling[-1] in 'AB'
      else ('lora_down', 'lora_up')
      if '_' in spelling
      else ('lora.down', 'lora.up')
    )
    return Part(
      'a' if low else 'bias' if end == 'bias' else 'b', piece, module, prefix, pair, infix or ''
    )
  stem, _, end = name.rpartition('.')
  if end == 'alpha':
    piece, prefix = _resolve(stem, linear)
    return piece and Part('alpha', piece, stem, prefix)
  if end in ('diff', 'diff_b', 'diff_m'):
    leaves = {
      'diff': (f'{stem}.weight', stem),
      'diff_b': (f'{stem}.bias',),
      'diff_m': (f'{stem}.modulation',),
    }[end]
    for leaf in leaves:
      piece, prefix = _resolve(leaf, every)
      if piece is not None:
        return Part('diff', piece, stem, prefix)
    return None
  if whole := _WHOLE.fullmatch(name):
    piece, prefix = _resolve(f'{whole[1]}.{whole[3]}', every)
    return piece and Part('whole', piece, whole[1], prefix)
  return None


def path_of(piece: wan_names.Piece) -> str:
  """The path of a linear layer: 'blocks.self.q'."""
  return piece.ours.removesuffix('.kernel')


def encoder_to_ours(value: np.ndarray, leaf: str) -> np.ndarray:
  """A tensor of a pose or reference encoder in our layout, channels last; biases stay."""
  if not leaf.endswith('kernel'):
    return value
  return value.transpose(2, 3, 4, 1, 0) if leaf.startswith('pose') else value.transpose(2, 3, 1, 0)


def encoder_from_ours(value: np.ndarray, leaf: str) -> tuple[str, np.ndarray]:
  """(name in the file, tensor) of a leaf of an encoder."""
  encoder, conv, kind = leaf.split('.')
  stem = next(k for k, v in ENCODERS.items() if v[0] == encoder)
  if kind == 'kernel':
    value = value.transpose(4, 3, 0, 1, 2) if value.ndim == 5 else value.transpose(3, 2, 0, 1)
  return (
    f'{stem}.{2 * int(conv[4:])}.{"weight" if kind == "kernel" else "bias"}',
    np.ascontiguousarray(value),
  )
