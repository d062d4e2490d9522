"""Adapters written as others read them, so that every reader applies the same change.

PEFT and diffusers take alpha from a settings file or a header, never from a tensor. So the dialects
peft and peft_folder have alpha / r multiplied into B, and a header or an adapter_config.json that
says alpha = r. The others have alpha tensors. B stays in its type where the product is exact, and
becomes float32 where it is not.

Source: diffusers 0.42 (loaders/lora_base.py, utils/peft_utils.py), peft 0.21
(tuners/lora/config.py).
"""

import collections
import json
import re

import numpy as np

from exp_jax.convert.loras import lora_names
from exp_jax.convert.loras.lora_names import DIALECTS, path_of
from exp_jax.convert.wan_weights import wan_names
from exp_jax.errors import UserError
from exp_jax.files import manifest
from exp_jax.files.atomic import replacing
from exp_jax.files.safetensors import write_safetensors
from exp_jax.networks.adapters import Adapters
from exp_jax.networks.wan_dit import WanDiT

_NO_ALPHA = ('peft', 'peft_folder')  # their readers know no alpha tensors


def write(adapters: Adapters, model: WanDiT, dialect: str | None = None) -> dict[str, np.ndarray]:
  """{name: tensor} in a dialect; None: as the file that was read spelled it.

  Raises:
    UserError: an unknown dialect, or one that cannot say what the adapters hold (pose encoders,
      differences).
  """
  own = adapters.style
  if dialect is not None and dialect not in DIALECTS:
    raise UserError(f'unknown dialect {dialect!r}, choose from {sorted(DIALECTS)}')
  name, same = dialect or own['dialect'], dialect in (None, own.get('dialect'))
  prefix, column, pair, infix = DIALECTS[name]
  if same and name not in _NO_ALPHA:
    prefix, column = own.get('prefix', prefix), own.get('names', column)
    pair, infix = tuple(own.get('pair', pair)), own.get('infix', infix)
  elif same and name == 'peft' and own.get('prefix') in ('', 'transformer_2.'):
    prefix = own['prefix']  # other spellings than PEFT's own are put right
  if adapters.encoders and name != 'unianimate':
    raise UserError(
      "these adapters come with pose encoders, which only the dialect 'unianimate' can hold"
    )
  biases = (
    _biases_of_factors(adapters) if name in ('peft', 'peft_folder') and adapters.diffs else None
  )
  if adapters.diffs and biases is None and (name in ('peft', 'peft_folder', 'kohya')):
    raise UserError(
      f'these adapters hold full differences, which the dialect {name!r} cannot hold: choose '
      'comfyui'
    )
  out, folded = {}, name in _NO_ALPHA
  for piece in wan_names.dit_pieces(model):
    layer, target = piece.layer, path_of(piece)
    if biases is None and layer in adapters.diffs.get(piece.ours, {}):
      value = wan_names.from_ours(adapters.diffs[piece.ours][layer], piece.layout, model.patch)
      out[f'{prefix}{_name_of_difference(piece.names[column])}'] = np.ascontiguousarray(value)
    if not piece.ours.endswith('.kernel') or target not in adapters.factors:
      continue
    rank = adapters.ranks[target][layer or 0]
    if not rank:
      continue
    module = _module(
      piece.names[column].removesuffix('.weight'), prefix, same and own.get('dotted')
    )
    a, b = (
      adapters.factors[target][k] if layer is None else adapters.factors[target][k][layer]
      for k in 'ab'
    )
    alpha = adapters.alphas[target][layer or 0]
    b = b[:rank].T
    if folded and alpha is not None:
      b = _scaled(b, alpha / rank)
    out[f'{module}.{pair[0]}{infix}.weight'] = np.ascontiguousarray(a[:, :rank].T)
    out[f'{module}.{pair[1]}{infix}.weight'] = np.ascontiguousarray(b)
    if alpha is not None and not folded:
      out[f'{module}.alpha'] = _exact(np.float64(alpha), a.dtype)
    if biases is not None:
      own_bias = adapters.diffs.get(f'{target}.bias', {}).get(layer)
      out[f'{module}.{pair[1]}{infix}.bias'] = (
        np.zeros(b.shape[0], np.float32) if own_bias is None else own_bias
      )
  return out | dict(
    lora_names.encoder_from_ours(value, leaf) for leaf, value in adapters.encoders.items()
  )


def _module(name, prefix, dotted):
  """The name of a module as the dialect with this prefix writes it."""
  if prefix != 'lora_unet_':
    return f'{prefix}{name}'
  head, tail = re.fullmatch(r'((?:blocks\.\d+)?)\.?(.*)', name).groups()
  return (
    f'{prefix}{head.replace(".", "_")}.{tail}'
    if dotted and head
    else f'{prefix}{name.replace(".", "_")}'
  )


def _name_of_difference(name):
  """'blocks.0.ffn.0.bias' -> 'blocks.0.ffn.0.diff_b'."""
  return (
    f'{name.removesuffix(".bias")}.diff_b'
    if name.endswith('.bias')
    else f'{name.removesuffix(".weight")}.diff'
  )


def _biases_of_factors(adapters):
  """The differences, if all of them are biases of layers that have factors; None otherwise."""
  for leaf, parts in adapters.diffs.items():
    target = leaf.removesuffix('.bias')
    if (
      not leaf.endswith('.bias')
      or target not in adapters.factors
      or not all(adapters.ranks[target][n or 0] for n in parts)
    ):
      return None
  return adapters.diffs


def _scaled(value, scale):
  """value * scale in the type of `value` if that is exact, otherwise in float32."""
  wide = value.astype(np.float64) * scale
  return _exact(wide, value.dtype)


def _exact(wide, dtype):
  """An array as `dtype` if nothing is lost by it, otherwise as float32 (float64 where that is asked
  for)."""
  with np.errstate(over='ignore'):
    narrow = wide.astype(dtype)
  return (
    narrow
    if narrow.dtype.itemsize >= 4 or np.array_equal(narrow.astype(np.float64), wide)
    else wide.astype(np.float32)
  )


def peft_settings(tensors: dict[str, np.ndarray], prefix: str) -> dict:
  """PEFT's settings of tensors as `write` makes them: every alpha is the rank, so that every scale
  is 1."""
  ranks = {
    name.removeprefix(prefix).split('.lora_A')[0]: len(value)
    for name, value in tensors.items()
    if '.lora_A' in name
  }
  usual = collections.Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
  odd = {re.escape(module): rank for module, rank in ranks.items() if rank != usual}
  return dict(
    peft_type='LORA',
    r=usual,
    lora_alpha=usual,
    use_rslora=False,
    use_dora=False,
    rank_pattern=odd,
    alpha_pattern=dict(odd),
    target_modules=sorted(ranks),
    lora_bias=any('.lora_B' in n and n.endswith('.bias') for n in tensors),
    bias='none',
    fan_in_fan_out=False,
    inference_mode=True,
    lora_dropout=0.0,
    task_type=None,
    base_model_name_or_path=None,
    init_lora_weights=True,
  )


def export(adapters: Adapters, model: WanDiT, output, dialect: str | None = None) -> int:
  """Writes a file (dialect peft_folder: a folder) that others read; returns the number of tensors.

  Raises as `write`.
  """
  tensors = write(adapters, model, dialect)
  name = dialect or adapters.style['dialect']
  if name == 'peft_folder':
    with manifest.new_folder(output) as folder:
      write_safetensors(folder / 'adapter_model.safetensors', tensors, {'format': 'pt'})
      (folder / 'adapter_config.json').write_text(
        json.dumps(peft_settings(tensors, 'base_model.model.'), indent=2) + '\n'
      )
    return len(tensors)
  metadata = {'format': 'pt'}
  if name == 'peft' and all(n.startswith('transformer.') for n in tensors):
    about = {
      f'transformer.{key}': value for key, value in peft_settings(tensors, 'transformer.').items()
    }
    metadata['lora_adapter_metadata'] = json.dumps(about, sort_keys=True)
  with replacing(output) as partial:
    write_safetensors(partial, tensors, metadata)
  return len(tensors)
