"""Adapter files of others, understood: names by `lora_names`, scales by `lora_scale`, factors
stacked by layer."""

import collections
import math
import re

import numpy as np

from exp_jax.convert.loras import lora_names, lora_scale
from exp_jax.convert.loras.lora_names import DIALECTS, path_of
from exp_jax.convert.wan_weights import wan_names
from exp_jax.convert.wan_weights.wan_files import open_checkpoint
from exp_jax.errors import UserError
from exp_jax.files.foreign_tensors import check_finite, shown
from exp_jax.networks.adapters import Adapters
from exp_jax.networks.wan_dit import WanDiT

_MOST_ALPHA = 1e6  # published ones reach some hundreds


def read(
  tensors: dict[str, np.ndarray],
  model: WanDiT,
  where='the file',
  *,
  scale: lora_scale.Scale | None = None,
  base: dict[str, np.ndarray] | None = None,
) -> Adapters:
  """Understands the tensors of an adapter file, whatever its dialect.

  Args:
    tensors: {name: array} of the file.
    model: the network that it belongs to.
    where: the file's name, for errors.
    scale: what a header or settings file tells; alpha tensors go before it.
    base: leaves of the network's weights, for files that replace a weight or bias as a whole.

  Raises:
    UserError: nothing in it, an unknown name, half a pair, the same part twice, a shape that does
      not fit the network, whole numbers instead of weights, numbers that are not finite, a scale
      beyond float32; the first is named.
  """
  if not tensors:
    raise UserError(
      f'{where} holds no tensors: its training or its export had failed; take another one'
    )
  linear, every = lora_names.tables(model)
  parts, encoders, seen = collections.defaultdict(dict), {}, {}
  for name, value in tensors.items():
    part = lora_names.understood(name, linear, every)
    if part is None:
      raise UserError(
        f'{where}: {shown(name)} is not an adapter of this network (or of a kind that is not read)'
      )
    check_finite(value, name, where)
    if part.kind != 'alpha' and value.dtype.kind in 'iub':
      raise UserError(
        f'{where}: {shown(name)} holds {value.dtype} numbers, as of a quantized file; take the '
        'bf16, fp16 or fp32 one'
      )
    if part.kind == 'encoder':
      encoders[part.piece] = lora_names.encoder_to_ours(value, part.piece)
      continue
    key = part.piece.ours, part.piece.layer, part.kind
    if key in seen:
      raise UserError(
        f'{where}: {shown(seen[key])} and {shown(name)} are the same part of the network: which '
        'one is meant?'
      )
    seen[key] = name
    parts[part.kind][name] = part
  factors, ranks, alphas = _pairs(parts, tensors, model, where, scale)
  for target, found in alphas.items():
    for alpha in found:
      if alpha is not None and abs(alpha) > _MOST_ALPHA:
        raise UserError(
          f'{where}: the alpha of {target} is {alpha:g}; at most {_MOST_ALPHA:g} is possible'
        )
  diffs = _differences(parts, tensors, (ranks, alphas), where, base)
  return Adapters(factors, ranks, alphas, diffs, encoders, _style(parts, encoders, where))


def _pairs(parts, tensors, model, where, scale):
  """(factors, ranks, alphas) by target, layers stacked."""
  layers, names = {}, {}
  for kind in 'ab':
    for name, part in parts[kind].items():
      layers.setdefault(path_of(part.piece), {}).setdefault(part.piece.layer, {})[kind] = tensors[
        name
      ]
      names[path_of(part.piece), part.piece.layer] = part
  factors, ranks, alphas = {}, {}, {}
  for target, pair in layers.items():
    factors[target], ranks[target] = _stacked(target, pair, model.depth, where)
    alphas[target] = [None] * len(ranks[target])
    for layer in pair:
      part, rank = names[target, layer], ranks[target][layer or 0]
      if scale is not None:
        alphas[target][layer or 0] = scale.alpha_of(part.module, part.prefix, rank)
  for name, part in parts['alpha'].items():
    target, layer = path_of(part.piece), part.piece.layer
    if target not in ranks or not ranks[target][layer or 0]:
      raise UserError(
        f'{where}: there is an alpha but no adapter for {target}'
        + ('' if layer is None else f' of layer {layer}')
      )
    if np.size(tensors[name]) != 1:
      raise UserError(
        f'{where}: {shown(name)} has shape {np.shape(tensors[name])}, one number was expected'
      )
    alphas[target][layer or 0] = float(np.asarray(tensors[name]).reshape(()))
  return factors, ranks, alphas


def _stacked(target, layers, depth, where):
  """({'a', 'b'} padded to the highest rank and stacked, ranks by layer) from {layer: {'a': [r, i],
  'b': [o, r]}}."""
  for layer, pair in layers.items():
    place = f'{where}: {target}' + ('' if layer is None else f' of layer {layer}')
    if set(pair) != {'a', 'b'}:
      raise UserError(f'{place} has only one factor')
    if any(value.ndim != 2 for value in pair.values()):
      raise UserError(
        f'{place} has factors of shapes {pair["a"].shape} and {pair["b"].shape}; those of a linear '
        'layer have '
        'two axes, adapters of convolutions are not read'
      )
    if pair['a'].shape[0] != pair['b'].shape[1] or not pair['a'].shape[0]:
      raise UserError(
        f'{place} has factors of ranks {pair["a"].shape[0]} and {pair["b"].shape[1]}; two of '
        'different ranks, or of '
        'none, cannot be multiplied'
      )
  i, o = (next(iter(layers.values()))[k].shape[n] for k, n in (('a', 1), ('b', 0)))
  odd = next((n for n, p in layers.items() if (p['a'].shape[1], p['b'].shape[0]) != (i, o)), None)
  if odd is not None:
    raise UserError(f'{where}: {target} of layer {odd} has other sizes than the layers before it')
  kinds = {value.dtype for pair in layers.values() for value in pair.values()}
  dtype = (
    kinds.pop()
    if len(kinds) == 1
    else np.dtype(np.float64 if np.dtype(np.float64) in kinds else np.float32)
  )
  if None in layers:
    (pair,) = layers.values()
    return {k: np.ascontiguousarray(v.T, dtype) for k, v in pair.items()}, [pair['a'].shape[0]]
  ranks = [layers[n]['a'].shape[0] if n in layers else 0 for n in range(depth)]
  a, b = np.zeros((depth, i, max(ranks)), dtype), np.zeros((depth, max(ranks), o), dtype)
  for n, pair in layers.items():
    a[n, :, : ranks[n]], b[n, : ranks[n]] = pair['a'].T, pair['b'].T
  return {'a': a, 'b': b}, ranks


def _differences(parts, tensors, scales, where, base):
  """{leaf: {layer: difference}}: those of the file, scaled biases of factors, and what replaces a
  whole leaf."""
  ranks, alphas = scales
  diffs = {}

  def add(leaf, layer, value):
    before = diffs.setdefault(leaf, {}).get(layer)
    if before is not None and before.shape != value.shape:
      raise UserError(f'{where}: {leaf} has two differences of unequal shapes')
    diffs[leaf][layer] = value if before is None else before.astype(np.float32) + value

  for name, part in (parts['diff'] | parts['whole']).items():
    try:
      value = wan_names.to_ours(tensors[name], part.piece.layout)
    except (ValueError, IndexError):
      raise UserError(
        f'{where}: {shown(name)} has shape {tensors[name].shape}, which does not fit '
        f'{part.piece.ours}'
      ) from None
    if part.kind == 'whole':
      if base is None or part.piece.ours not in base:
        raise UserError(
          f'{where}: {shown(name)} replaces a whole tensor, for which the base weights are needed'
        )
      own = np.asarray(
        base[part.piece.ours]
        if part.piece.layer is None
        else base[part.piece.ours][part.piece.layer]
      )
      if own.shape != value.shape:
        raise UserError(
          f'{where}: {shown(name)} has shape {tensors[name].shape}, which does not fit '
          f'{part.piece.ours} {own.shape}'
        )
      value = value.astype(np.float32) - own.astype(np.float32)
    add(part.piece.ours, part.piece.layer, value)
  for name, part in parts['bias'].items():
    target, layer = path_of(part.piece), part.piece.layer
    rank = ranks.get(target, {layer or 0: 0})[layer or 0]
    if not rank:
      raise UserError(f'{where}: {shown(name)} is the bias of a factor that is not there')
    alpha = alphas[target][layer or 0]
    add(
      f'{target}.bias',
      layer,
      np.float32(1.0 if alpha is None else alpha / rank) * tensors[name].astype(np.float32),
    )
  return diffs


def _style(parts, encoders, where):
  """How the file spells its names, for the way back."""
  every = [part for kind in parts.values() for part in kind.values()]
  factors = [*parts['a'].values(), *parts['b'].values()]
  prefixes, infixes = {p.prefix for p in every}, {p.infix for p in factors}
  experts = sorted(p for p in prefixes if re.search(r'transformer(_2)?\.', p))
  if len(infixes) > 1 or len(experts) > 1:
    several = ', '.join(experts if len(experts) > 1 else sorted(infixes))
    raise UserError(
      f'{where} holds several adapters ({shown(several)}): save each in a file of its own'
    )
  prefix = next(iter(prefixes), 'diffusion_model.') if len(prefixes) < 2 else 'diffusion_model.'
  first = next(iter(factors), None)
  style = {}
  if first is not None:
    names = int(
      not any(
        word in p.module for p in factors for word in ('attn1', 'attn2', 'ffn.net', 'ffn_net')
      )
    )
    style = dict(pair=first.pair, infix=first.infix, names=names)
    if prefix == 'lora_unet_':
      style['dotted'] = any('.' in p.module for p in factors)
  by_prefix = {d[0]: name for name, d in DIALECTS.items()}
  dialect = (
    'unianimate'
    if encoders
    else by_prefix.get(prefix, 'peft' if style.get('names') == 0 else 'comfyui')
  )
  return style | dict(dialect=dialect, prefix=prefix)


def check_shapes(adapters: Adapters, leaves: dict, where) -> None:
  """Every factor against the kernel that it adapts, every difference against its leaf; `leaves`
  {path: array or ShapeDtypeStruct}.

  Raises:
    UserError: the first that does not fit.
  """
  for target, pair in adapters.factors.items():
    kernel = leaves[f'{target}.kernel'].shape
    found = (*pair['a'].shape[:-1], pair['b'].shape[-1])
    if kernel != found:
      raise UserError(
        f'{where}: the adapter of {target} is made for {found}, this network has {kernel}'
      )
  for leaf, parts in adapters.diffs.items():
    for layer, value in parts.items():
      expected = leaves[leaf].shape[layer is not None :]
      if value.shape != expected:
        raise UserError(
          f'{where}: the difference of {leaf} is made for {value.shape}, this network has '
          f'{expected}'
        )


def read_file(
  path, model: WanDiT, *, alpha: str | None = None, part: str | None = None, base=None
) -> tuple[Adapters, str]:
  """(adapters, where their scale comes from) of a file or folder, with the settings in its header
  or its folder.

  Args:
    path: a file, or PEFT's folder.
    model, base: see `read`.
    alpha: a number or 'rank', instead of all settings outside the tensors; None: as the file says.
    part: see `open_checkpoint`.

  Raises:
    UserError: see `read` and `lora_scale`; or alpha is neither.
  """
  source = open_checkpoint(path, part=part)
  tensors, metadata = {name: source.read(name) for name in source.names}, source.metadata()
  source.close()
  has_alphas = any(name.endswith('.alpha') for name in tensors)
  if alpha is not None:
    if has_alphas:
      raise UserError(
        f'{path} holds alpha tensors, which --alpha cannot overrule: use --strength of the merge'
      )
    scale = None if alpha == 'rank' else lora_scale.Scale('--alpha', _alpha(alpha))
    return read(tensors, model, path, scale=scale, base=base), f'--alpha {alpha}'
  component = (
    'transformer_2' if all('transformer_2.' in name for name in tensors) else 'transformer'
  )
  found = [
    s for s in (lora_scale.beside(path), lora_scale.in_header(metadata, path, component)) if s
  ]
  if not found and not has_alphas:
    lora_scale.refuse_unclear(metadata, path)
  readings = [read(tensors, model, path, scale=scale, base=base) for scale in found or [None]]
  if any(r.alphas != readings[0].alphas for r in readings[1:]):
    raise UserError(f'{found[0].where} and {found[1].where} tell different scales: say --alpha')
  places = ['alpha tensors'] * has_alphas + [s.where for s in found]
  return readings[0], ', '.join(places) or '1, nothing tells another'


def _alpha(text):
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not math.isfinite(value):
    raise UserError(f"--alpha is {text!r}, a number or 'rank' was expected")
  return value
