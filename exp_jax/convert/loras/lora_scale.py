"""How strongly a low-rank adapter acts, wherever its maker wrote that down.

  y += s (x A) B,   s = alpha / r, or alpha / sqrt(r) with rank-stabilized LoRA ("rslora")

| place | what is there |
|---|---|
| tensors MODULE.alpha | alpha by module (kohya, ComfyUI) |
| adapter_config.json in the same folder | PEFT's settings: r, lora_alpha, use_rslora, rank_pattern, alpha_pattern |
| header of the safetensors file | the same: 'lora_adapter_metadata' of diffusers, 'lora_config', or flat 'lora_alpha' and 'rank' |
| nowhere | s = 1 |

Everything here is turned into the alpha that gives the same scale as alpha / r.

Source: peft 0.21 (tuners/lora/config.py, utils/other.py: get_pattern_key); diffusers 0.42
(loaders/lora_base.py).
"""

import dataclasses
import math
import pathlib
import re

from exp_jax.errors import UserError
from exp_jax.files.foreign_tensors import parse_json, read_json, shown

_CONFIG = 'adapter_config.json'
_WEIGHTS = ('.safetensors', '.bin', '.pth', '.pt', '.ckpt')
_OTHER_KINDS = {  # settings that change what the factors mean -> what they are
  'use_dora': 'DoRA',
  'use_qalora': 'QALoRA',
  'fan_in_fan_out': 'transposed weights',
  'layer_replication': 'replicated layers',
  'alora_invocation_tokens': 'activated LoRA',
  'use_bdlora': 'block-diagonal LoRA',
}
# these change the base before training: a plain base does not fit
_CHANGED_BASE = 'pissa', 'olora', 'corda', 'loftq'


@dataclasses.dataclass(frozen=True)
class Scale:
  """Settings of an adapter file.

  Attributes:
    where: the place that they come from.
    alpha: of every module that no pattern names.
    rank: the same for ranks; None: the file does not tell.
    rslora: whether alpha is divided by the root of the rank.
    rank_pattern, alpha_pattern: {regular expression of the end of a module's name: value}, the
      first that fits counts.
  """

  where: str
  alpha: float
  rank: int | None = None
  rslora: bool = False
  rank_pattern: dict = dataclasses.field(default_factory=dict)
  alpha_pattern: dict = dataclasses.field(default_factory=dict)

  def alpha_of(self, module: str, prefix: str, rank: int) -> float:
    """The alpha of a module, such that alpha / rank is its scale.

    Args:
      module: its name in the file.
      prefix: what wrappers put before the network's own name; patterns may be written with it or
        without.
      rank: that of its factors.

    Raises:
      UserError: the settings tell another rank.
    """
    names = (module.removeprefix('base_model.model.'), module.removeprefix(prefix))
    told = _first(self.rank_pattern, names, self.rank)
    if told is not None and told != rank:
      raise UserError(
        f'{self.where} gives {shown(module)} rank {told}, its factors have rank {rank}: they do '
        'not belong together'
      )
    alpha = float(_first(self.alpha_pattern, names, self.alpha))
    return alpha * math.sqrt(rank) if self.rslora else alpha


def _first(pattern, names, default):
  return next(
    (v for key, v in pattern.items() if any(re.match(rf'(.*\.)?({key})$', name) for name in names)),
    default,
  )


def settings_of(table: dict, where) -> Scale:
  """PEFT's settings, checked.

  Raises:
    UserError: not LoRA, a variant that is not read, or values of the wrong kind; the entry is
      named.
  """
  kind = table.get('peft_type', 'LORA')
  if str(kind).upper().removeprefix('PEFTTYPE.') != 'LORA':
    raise UserError(
      f'{where} describes an adapter of the kind {shown(repr(kind), 40)}; only LoRA is read'
    )
  for key, meaning in _OTHER_KINDS.items():
    if table.get(key):
      raise UserError(f'{where} sets {key} ({meaning}); only plain LoRA is read')
  start = table.get('init_lora_weights')
  if isinstance(start, str) and start.lower().startswith(_CHANGED_BASE):
    raise UserError(
      f'{where}: init_lora_weights is {shown(repr(start), 40)}, which changes the base too; '
      'convert it to plain '
      'LoRA first, with path_initial_model_for_weight_conversion of PEFT'
    )
  number = lambda value: type(value) in (int, float) and math.isfinite(value)
  rank, alpha, rslora = (
    table.get('r', 8),
    table.get('lora_alpha', 8),
    table.get('use_rslora') or False,
  )
  if (
    not (rank is None or type(rank) is int and rank > 0)
    or not number(alpha)
    or type(rslora) is not bool
  ):
    raise UserError(
      f'{where}: r, lora_alpha and use_rslora are {shown([rank, alpha, rslora], 80)}; '
      'a positive whole number, a number and true or false were expected'
    )
  patterns = []
  for key in ('rank_pattern', 'alpha_pattern'):
    pattern = table.get(key) or {}
    if not isinstance(pattern, dict) or not all(
      _usable(k) and number(v) and v >= 0 for k, v in pattern.items()
    ):
      raise UserError(
        f'{where}: {key} is no table of names and numbers, or a name in it is too involved'
      )
    patterns.append(pattern)
  return Scale(str(where), float(alpha), rank, rslora, *patterns)


def _usable(pattern) -> bool:
  """Whether a regular expression of a file is valid and cannot run for ever: few repetitions, none
  of a group."""
  if not isinstance(pattern, str) or len(pattern) > 200 or re.search(r'\)[*+?{]', pattern):
    return False
  try:
    re.compile(pattern)
  except (re.error, RecursionError, OverflowError):
    return False
  return len(re.findall(r'[*+{]', pattern)) <= 3


def in_header(metadata: dict[str, str], where, component: str = 'transformer') -> Scale | None:
  """The settings in a safetensors header, if there are any; `component`: whose, where there are
  several.

  Raises:
    UserError: damaged, or see `settings_of`.
  """
  if text := metadata.get('lora_adapter_metadata'):
    table = parse_json(text, f'lora_adapter_metadata in the header of {where}')
    if isinstance(table, dict):
      own = {
        key.removeprefix(f'{component}.'): value
        for key, value in table.items()
        if key.startswith(f'{component}.')
      }
      return settings_of(own or table, f'lora_adapter_metadata in the header of {where}')
    raise UserError(f'lora_adapter_metadata in the header of {where} is damaged')
  if text := metadata.get('lora_config'):
    table = parse_json(text, f'lora_config in the header of {where}')
    if isinstance(table, dict) and 'lora_alpha' in table:
      return settings_of({'r': None} | table, f'lora_config in the header of {where}')
    raise UserError(f'lora_config in the header of {where} tells no lora_alpha')
  alpha = _number(metadata, ('lora_alpha', 'network_alpha', 'alpha'), where)
  if alpha is None:
    return None
  rank = _number(metadata, ('lora_rank', 'network_dim', 'network_rank', 'rank', 'r'), where)
  if rank is not None and (rank != int(rank) or rank < 1):
    raise UserError(f'the header of {where} tells a rank of {rank}')
  rslora = str(metadata.get('use_rslora', 'false')).lower() in ('true', '1')
  return Scale(f'the header of {where}', alpha, None if rank is None else int(rank), rslora)


def _number(metadata, keys, where):
  for key in keys:
    if key in metadata:
      try:
        value = float(metadata[key])
      except ValueError:
        value = math.nan
      if not math.isfinite(value):
        raise UserError(
          f'{key} in the header of {where} is {shown(repr(metadata[key]), 40)}, a number was '
          'expected'
        )
      return value
  return None


def refuse_unclear(metadata: dict[str, str], where) -> None:
  """Files of kohya's programs hold alphas as tensors.

  One without them may have them multiplied in, or have lost them.

  Raises:
    UserError: if the header tells an alpha that is not the rank.
  """
  alpha, rank = (
    _number(metadata, (f'ss_network_{key}',), where)
    if metadata.get(f'ss_network_{key}') not in (None, 'None')
    else None
    for key in ('alpha', 'dim')
  )
  if alpha is not None and alpha != rank:
    raise UserError(
      f'the header of {where} tells ss_network_alpha {alpha:g} at rank {rank}, but there are no '
      'alpha tensors: '
      f'say --alpha {alpha:g} if it was lost, or --alpha rank if it is multiplied in'
    )


def beside(path) -> Scale | None:
  """PEFT's adapter_config.json in an adapter's folder, or in the folder of its file.

  Raises:
    UserError: it is damaged, see `settings_of`, or it lies among several adapters.
  """
  path = pathlib.Path(path)
  config = (path if path.is_dir() else path.parent) / _CONFIG
  if not config.is_file():
    return None
  if not path.is_dir() and path.stem != 'adapter_model':
    others = [p.name for p in path.parent.iterdir() if p.suffix in _WEIGHTS and p != path]
    if others:
      raise UserError(
        f'{config} lies among several files of weights ({shown(sorted(others)[0], 80)}, ...): put '
        'it with the one '
        'that it belongs to into a folder, or say --alpha'
      )
  return settings_of(read_json(config), config)
