"""LivePortrait's published tensors and our leaves: one rule for every layer, both ways.

A rule takes some tensors of a state dict and fills a leaf, or a part of one along its last axis,
where layers that share an input are one kernel here. Batch norms that follow a convolution and
spectral norms are folded in double precision; a batch
norm that cannot be folded becomes scale and bias. Axes: convolutions (O, I, *taps) -> [*taps, I,
O], linear (O, I) -> [I, O], depthwise (C, 1, 7, 7) -> [7, 7, 1, C]. Counters of batches are
dropped.

Going out, a folded batch norm is written as one that does nothing, and a folded spectral norm as a
plain weight, which the way in accepts; what was folded once comes back bit for bit from then on.
"""

import dataclasses
import math
import re

import numpy as np

from exp_jax.convert.foreign.book import Entry, check_names, check_table, filled
from exp_jax.errors import UserError
from exp_jax.systems.liveportrait.models import Networks
from exp_jax.systems.liveportrait.networks.motion import HEADS

_EPS = 1e-5  # of batch norms
_NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
_COUNTER = r'.*num_batches_tracked$'


@dataclasses.dataclass(frozen=True)
class Rule:
  """theirs: prefix of the tensors. ours: path of the leaves. norm: prefix of a batch norm to fold.
  part: of the last axis."""

  kind: str  # conv, dense, depthwise, layer_norm, batch_norm, response
  theirs: str
  ours: str
  norm: str = ''
  spectral: bool = False
  bias: bool = True
  part: tuple[int, int] | None = None

  def leaves(self) -> list[str]:
    """Paths of the leaves that this rule fills."""
    ends = {
      'layer_norm': ('scale', 'bias'),
      'batch_norm': ('scale', 'bias'),
      'response': ('gamma', 'beta'),
      'depthwise': ('', '_bias'),
    }.get(self.kind, ('kernel', 'bias'))
    ends = ends if self.bias else ends[:1]
    return [self.ours + end if self.kind == 'depthwise' else f'{self.ours}.{end}' for end in ends]

  def tensors(
    self, shapes: dict[str, tuple[int, ...]], *, folded: bool = False
  ) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that belong here; `folded`: spectral norms as plain
    weights."""
    first, *rest = self.leaves()
    shape = shapes[first]
    if self.part:
      shape = (*shape[:-1], self.part[1] - self.part[0])
    if self.kind == 'response':
      return {f'{self.theirs}.{end}': (1, 1, 1, *shape) for end in ('gamma', 'beta')}
    if self.kind == 'layer_norm':
      return {f'{self.theirs}.{end}': shape for end in ('weight', 'bias')}
    if self.kind == 'batch_norm':
      return {f'{self.theirs}.{end}': () if end.startswith('num') else shape for end in _NORM}
    *taps, inputs, outputs = shape
    theirs = (outputs, inputs, *taps)
    found = {f'{self.theirs}.weight': theirs}
    if self.spectral and not folded:
      found = {
        f'{self.theirs}.weight_orig': theirs,
        f'{self.theirs}.weight_u': (outputs,),
        f'{self.theirs}.weight_v': (math.prod(theirs[1:]),),
      }
    if rest:
      found[f'{self.theirs}.bias'] = (outputs,)
    if self.norm:
      found |= {f'{self.norm}.{end}': () if end.startswith('num') else (outputs,) for end in _NORM}
    return found

  def to_ours(self, read) -> list[np.ndarray]:
    """Arrays of `leaves`, float32; `read(name)` gives a tensor."""
    get = lambda end, prefix=self.theirs: np.asarray(read(f'{prefix}.{end}'), np.float64)
    if self.kind == 'response':
      out = [get('gamma').ravel(), get('beta').ravel()]
    elif self.kind == 'layer_norm':
      out = [get('weight'), get('bias')]
    elif self.kind == 'batch_norm':
      scale = get('weight') / np.sqrt(get('running_var') + _EPS)
      out = [scale, get('bias') - get('running_mean') * scale]
    else:
      out = [self._weight(read, get)] + ([get('bias')] if self.bias else [])
      if self.norm:
        scale = get('weight', self.norm) / np.sqrt(get('running_var', self.norm) + _EPS)
        out = [
          out[0] * scale.reshape(-1, *[1] * (out[0].ndim - 1)),
          (out[1] - get('running_mean', self.norm)) * scale + get('bias', self.norm),
        ]
      out[0] = np.moveaxis(out[0], (0, 1), (-1, -2))
    return [np.ascontiguousarray(value, np.float32) for value in out]

  def _weight(self, read, get):
    if not self.spectral:
      return get('weight')
    try:
      weight = get('weight_orig')
    except KeyError:
      return get('weight')
    return weight / (get('weight_u') @ weight.reshape(len(weight), -1) @ get('weight_v'))

  def to_theirs(self, values: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a state dict from the arrays of `leaves`."""
    if self.kind == 'response':
      return {
        f'{self.theirs}.{end}': v.reshape(1, 1, 1, -1) for end, v in zip(('gamma', 'beta'), values)
      }
    if self.kind == 'layer_norm':
      return {f'{self.theirs}.{end}': v for end, v in zip(('weight', 'bias'), values)}
    if self.kind == 'batch_norm':
      return _idle_norm(self.theirs, *values)
    out = {f'{self.theirs}.weight': np.ascontiguousarray(np.moveaxis(values[0], (-1, -2), (0, 1)))}
    if self.bias:
      out[f'{self.theirs}.bias'] = values[1]
    if self.norm:
      out |= _idle_norm(self.norm, np.ones_like(values[1]), np.zeros_like(values[1]))
    return out


def _idle_norm(prefix, scale, bias):
  """A batch norm of the given scale and bias whose statistics do nothing: sqrt(variance + eps)
  is 1."""
  values = (scale, bias, np.zeros_like(bias), np.full_like(bias, 1 - _EPS), np.zeros((), np.int64))
  return {f'{prefix}.{end}': value for end, value in zip(_NORM, values)}


def _appearance(net):
  rules = [
    Rule('conv', 'first.conv', 'first.conv', norm='first.norm'),
    Rule('conv', 'second', 'second'),
  ]
  rules += [
    Rule('conv', f'down_blocks.{i}.conv', f'down{i}.conv', norm=f'down_blocks.{i}.norm')
    for i in range(net.downs)
  ]
  for i in range(net.blocks):
    block = f'resblocks_3d.3dr{i}'
    rules += [
      Rule('batch_norm', f'{block}.norm1', f'block{i}.norm1'),
      Rule('conv', f'{block}.conv2', f'block{i}.conv2'),
      Rule('conv', f'{block}.conv1', f'block{i}.conv1.conv', norm=f'{block}.norm2'),
    ]
  return rules


def _motion(net):
  rules = []
  for i, depth in enumerate(net.depths):
    conv, norm = (1, 0) if i else (0, 1)
    rules += [
      Rule('conv', f'detector.downsample_layers.{i}.{conv}', f'down{i}'),
      Rule('layer_norm', f'detector.downsample_layers.{i}.{norm}', f'norm{i}'),
    ]
    for j in range(depth):
      theirs, ours = f'detector.stages.{i}.{j}', f'stage{i}_{j}'
      rules += [
        Rule('depthwise', f'{theirs}.dwconv', f'{ours}.depthwise'),
        Rule('layer_norm', f'{theirs}.norm', f'{ours}.norm'),
        Rule('dense', f'{theirs}.pwconv1', f'{ours}.fc1'),
        Rule('response', f'{theirs}.grn', f'{ours}.response'),
        Rule('dense', f'{theirs}.pwconv2', f'{ours}.fc2'),
      ]
  return [
    *rules,
    Rule('layer_norm', 'detector.norm', 'norm'),
    *(Rule('dense', f'detector.fc_{n}', n) for n in HEADS),
  ]


def _warping(net):
  dense = 'dense_motion_network'
  conv = lambda theirs, ours, norm: Rule(
    'conv',
    f'{dense}.hourglass.{theirs}',
    f'dense.hourglass.{ours}.conv',
    norm=f'{dense}.hourglass.{norm}',
  )
  rules = [
    conv(f'encoder.down_blocks.{i}.conv', f'down{i}', f'encoder.down_blocks.{i}.norm')
    for i in range(net.levels)
  ]
  rules += [
    conv(f'decoder.up_blocks.{i}.conv', f'up{i}', f'decoder.up_blocks.{i}.norm')
    for i in range(net.levels)
  ]
  return [
    *rules,
    conv('decoder.conv', 'last', 'decoder.norm'),
    Rule('conv', f'{dense}.mask', 'dense.mask'),
    Rule('conv', f'{dense}.compress', 'dense.compress.conv', norm=f'{dense}.norm'),
    Rule('conv', f'{dense}.occlusion', 'dense.occlusion'),
    Rule('conv', 'third.conv', 'third.conv', norm='third.norm'),
    Rule('conv', 'fourth', 'fourth'),
  ]


def _spade_block(theirs, ours, shared, first, widths, hidden):
  """Rules of a block whose SPADE layers have `widths` channels and lie at parts first, first + 1,
  ... of `shared`."""
  rules = [Rule('conv', f'{theirs}.conv_{i}', f'{ours}.conv{i}', spectral=True) for i in (0, 1)]
  if len(widths) == 3:
    rules.append(Rule('conv', f'{theirs}.conv_s', f'{ours}.conv_s', spectral=True, bias=False))
  for i, (end, width) in enumerate(zip('01s', widths)):
    layer = f'{theirs}.norm_{end}'
    own = f'{ours}.spade_s' if end == 's' else f'{ours}.spade{end}'
    rules += [
      Rule(
        'conv',
        f'{layer}.mlp_shared.0',
        shared,
        part=((first + i) * hidden, (first + i + 1) * hidden),
      ),
      Rule('conv', f'{layer}.mlp_gamma', f'{own}.affine', part=(0, width)),
      Rule('conv', f'{layer}.mlp_beta', f'{own}.affine', part=(width, 2 * width)),
    ]
  return rules


def _generator(net):
  rules = [Rule('conv', 'fc', 'fc'), Rule('conv', 'conv_img.0', 'image')]
  for i in range(net.blocks):
    rules += _spade_block(
      f'G_middle_{i}', f'middle{i}', 'shared', 2 * i, (net.width,) * 2, net.hidden
    )
  width = net.width
  for i, out in enumerate(net.ups):
    widths = (width, min(width, out)) + ((width,) if out != width else ())
    rules += _spade_block(f'up_{i}', f'up{i}', f'up{i}_shared', 0, widths, net.hidden)
    width = out
  return rules


def _perceptron(net):
  return [Rule('dense', f'mlp.{2 * i}', f'layer{i}') for i in range(len(net.sizes) - 1)]


TABLES = {
  'appearance': _appearance,
  'motion': _motion,
  'warping': _warping,
  'generator': _generator,
  'stitching': _perceptron,
  'eyes': _perceptron,
  'lip': _perceptron,
}


def rules_of(nets: Networks, part: str) -> list[Rule]:
  """All rules of one of the networks."""
  return TABLES[part](getattr(nets, part))


def expected(
  rules: list[Rule], shapes: dict[str, tuple[int, ...]], *, folded: bool = False
) -> dict[str, tuple[int, ...]]:
  """Names and shapes of a whole state dict, checked to fill every leaf exactly once.

  Raises:
    ValueError: if rules and network disagree (a bug of ours).
  """
  tensors = [rule.tensors(shapes, folded=folded) for rule in rules]
  check_table(
    (
      Entry(tuple(rule.leaves()), tuple(names), part=rule.part)
      for rule, names in zip(rules, tensors)
    ),
    shapes,
  )
  return {name: shape for names in tensors for name, shape in names.items()}


def learned(tensors: dict[str, tuple[int, ...]]) -> int:
  """Parameters as their authors count them: neither statistics nor the vectors of spectral
  norms."""
  skipped = ('running_mean', 'running_var', 'num_batches_tracked', 'weight_u', 'weight_v')
  return sum(math.prod(shape) for name, shape in tensors.items() if not name.endswith(skipped))


def read_part(
  rules: list[Rule],
  shapes: dict[str, tuple[int, ...]],
  given: dict[str, tuple[int, ...]],
  read,
  where: str,
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
  """({leaf: float32 array}, {leaf: tensors that filled it}) of a state dict whose shapes are
  `given`.

  Raises:
    UserError: a tensor that is missing, unknown or of another shape; the first few are named.
  """
  wanted = expected(rules, shapes)
  plain = expected(rules, shapes, folded=True)
  for rule in rules:  # either form of a spectral norm, layer by layer
    if (
      rule.spectral
      and f'{rule.theirs}.weight' in given
      and f'{rule.theirs}.weight_orig' not in given
    ):
      for end in ('weight_orig', 'weight_u', 'weight_v'):
        del wanted[f'{rule.theirs}.{end}']
      wanted[f'{rule.theirs}.weight'] = plain[f'{rule.theirs}.weight']
  check_names(wanted, given, f'{where} is not the network expected', optional=_COUNTER)
  for name, shape in given.items():
    if tuple(shape) != wanted[name]:
      raise UserError(f'{where}: {name} has shape {tuple(shape)}, expected {wanted[name]}')
  entries = []
  for rule in rules:
    theirs = tuple(
      name
      for name in rule.tensors(shapes) | rule.tensors(shapes, folded=True)
      if name in given and not re.match(_COUNTER, name)
    )
    transform = lambda *tensors, rule=rule, theirs=theirs: rule.to_ours(
      dict(zip(theirs, tensors)).__getitem__
    )
    entries.append(Entry(tuple(rule.leaves()), theirs, transform, rule.part))
  return filled(entries, shapes, read, where)


def write_part(rules: list[Rule], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A state dict in the published names from our leaves; the inverse of `read_part` as far as norms
  are folded."""
  out = {}
  for rule in rules:
    values = [arrays[leaf] for leaf in rule.leaves()]
    values = [v[..., rule.part[0] : rule.part[1]] if rule.part else v for v in values]
    out |= {name: np.array(value, order='C') for name, value in rule.to_theirs(values).items()}
  return out
