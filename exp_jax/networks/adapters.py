"""Files of low-rank adapters: stacked factors with what a release said about them.

`convert.lora` makes them.

lora.<target>.{a,b}     factors; targets as 'blocks.self.q', layers stacked
diff.<leaf>.<layer>     full differences of a leaf; layer 'all' where nothing is stacked
encoder.<leaf>          pose and reference encoders that came along
metadata 'about'        JSON: ranks and alphas by target and layer, the spelling of the source
"""

import dataclasses
import json
import math

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.foreign_tensors import check_finite, parse_json
from exp_jax.files.safetensors import SafetensorsFile, nested, write_safetensors

FORMAT = 'exp_jax adapters 1'


@dataclasses.dataclass
class Adapters:
  """A file of adapters, understood.

  factors: {'blocks.self.q': {'a': [L, i, r], 'b': [L, r, o]}}, unstacked targets without L.
  ranks, alphas: {'blocks.self.q': one per layer}; rank 0 and alpha None: the file has none.
  diffs: {leaf path: {layer or None: difference in our layout}}. encoders: {'pose.conv0.kernel':
  array}.
  style: how the file spelled it: dialect, pair, infix, dotted.
  """

  factors: dict
  ranks: dict
  alphas: dict
  diffs: dict
  encoders: dict
  style: dict

  def tree(self, strength: float = 1.0) -> dict:
    """The adapters of `layers/lora.py`, float32, strength and alpha / r inside B: apply them with
    scale 1."""
    pairs = []
    for target, pair in self.factors.items():
      scale = [
        strength * (1.0 if a is None or not r else a / r)
        for a, r in zip(self.alphas[target], self.ranks[target])
      ]
      scale = (
        np.array(scale, np.float32).reshape(-1, 1, 1)
        if pair['b'].ndim == 3
        else np.float32(scale[0])
      )
      pairs += [
        (f'{target}.a', pair['a'].astype(np.float32)),
        (f'{target}.b', pair['b'].astype(np.float32) * scale),
      ]
    return nested(pairs)


def save_adapters(adapters: Adapters, path) -> None:
  """Our own file, written as it is named: a.b names, metadata with ranks, alphas and style."""
  arrays = {f'lora.{t}.{k}': v for t, pair in adapters.factors.items() for k, v in pair.items()}
  arrays |= {
    f'diff.{leaf}.{"all" if n is None else n}': v
    for leaf, parts in adapters.diffs.items()
    for n, v in parts.items()
  }
  arrays |= {f'encoder.{leaf}': v for leaf, v in adapters.encoders.items()}
  about = dict(ranks=adapters.ranks, alphas=adapters.alphas, style=adapters.style)
  write_safetensors(path, arrays, {'format': FORMAT, 'about': json.dumps(about)})


def load_adapters(path) -> Adapters:
  """What `save_adapters` wrote.

  Raises:
    UserError: no such file, damaged, not of this format, or numbers that are not finite.
  """
  with SafetensorsFile(path) as file:
    if file.metadata.get('format') != FORMAT:
      raise UserError(
        f'{path} is not an adapter file of ours: make one with `python -m exp_jax.convert.lora '
        'import`'
      )
    try:
      return _adapters(file, parse_json(file.metadata['about'], path))
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
      if isinstance(error, UserError):
        raise
      raise UserError(f'{path} is a damaged adapter file: import the original again') from None


def _adapters(file, about):
  found = Adapters({}, about['ranks'], about['alphas'], {}, {}, about['style'])
  for name in file.names:
    kind, rest = name.split('.', 1)
    stem, last = rest.rsplit('.', 1)
    value = check_finite(file.read(name), name, file.path)
    if kind == 'lora':
      found.factors.setdefault(stem, {})[last] = value
    elif kind == 'diff':
      found.diffs.setdefault(stem, {})[None if last == 'all' else int(last)] = value
    else:
      found.encoders[rest] = value
  for target, pair in found.factors.items():
    ranks, alphas, stacked = found.ranks[target], found.alphas[target], pair['a'].ndim == 3
    count = len(pair['a']) if stacked else 1
    if (
      set(pair) != {'a', 'b'}
      or pair['a'].shape[-1] != pair['b'].shape[-2]
      or not len(ranks) == len(alphas) == count
      or not all(type(r) is int and 0 <= r <= pair['a'].shape[-1] for r in ranks)
      or not all(a is None or math.isfinite(a) for a in alphas)
    ):
      raise ValueError(target)
  return found
