"""The book of a conversion: every tensor of the file is used once, every leaf of ours is filled
once, all else is an error.

A conversion is a table of entries, (ours, theirs, transform): which leaves of ours are which
tensors of theirs, after which change of layout. `check_table` compares the table with our network,
`check_names` with the file, before a number is read; `filled` then reads, transforms and compares
shapes. A table for a new network is a function from its sizes to a list, such as

  [Entry(('fc.kernel',), ('fc.weight',), lambda weight: [weight.T]), Entry(('fc.bias',),
    ('fc.bias',))]

`Book` does the same for conversions whose steps depend on what the file holds, so that no table can
be written beforehand.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np

from exp_jax.errors import UserError

_SHOWN = 3  # names in a sentence, with the count of all
NOTHING = r'(?!)'  # a pattern that no name matches


@dataclasses.dataclass(frozen=True)
class Entry:
  """One line of a table.

  Attributes:
    ours: paths of leaves, joined with dots.
    theirs: names of tensors of the file; a tensor belongs to one entry.
    transform: (one array for each of `theirs`) -> a list of one array for each of `ours`.
    part: what of the leaves is filled: all (None), one layer of axis 0 (an integer), or (begin,
      end) of the last axis.
  """

  ours: tuple[str, ...]
  theirs: tuple[str, ...]
  transform: Callable[..., list[np.ndarray]] = lambda *tensors: list(tensors)
  part: int | tuple[int, int] | None = None

  @property
  def place(self) -> tuple:
    """Index of `part` in a leaf."""
    return (
      (..., slice(*self.part))
      if isinstance(self.part, tuple)
      else (... if self.part is None else self.part,)
    )


def check_table(table: Iterable[Entry], leaves: Mapping[str, tuple[int, ...]]) -> None:
  """Compares a table with the shapes of our network, {path: shape}.

  Raises:
    ValueError: a tensor stands in two entries, a leaf is unknown, or is not filled exactly once (a
      bug of ours).
  """
  table = list(table)
  twice = [
    n
    for n, count in collections.Counter(n for entry in table for n in entry.theirs).items()
    if count > 1
  ]
  if twice:
    raise ValueError(f'two entries take {twice[0]}')
  parts: dict[str, list] = {leaf: [] for leaf in leaves}
  for entry in table:
    for leaf in entry.ours:
      if leaf not in leaves:
        raise ValueError(f'the network has no leaf {leaf}')
      parts[leaf].append(entry.part)
  for leaf, shape in leaves.items():
    found = parts[leaf]
    if all(isinstance(part, int) for part in found):
      right = sorted(found) == list(range(shape[0] if shape else 0)) and found
    elif all(isinstance(part, tuple) for part in found):
      ends = [n for part in sorted(found) for n in part]
      right = ends[0] == 0 and ends[-1] == shape[-1] and ends[1:-1:2] == ends[2:-1:2]
    else:
      right = found == [None]
    if not right:
      raise ValueError(f'{leaf} {shape} is filled by {found}')


def check_names(
  wanted: Collection[str],
  given: Collection[str],
  what: str,
  *,
  ignored: str = NOTHING,
  optional: str = NOTHING,
) -> list[str]:
  """Compares the tensors of a table with those of a file.

  Args:
    what: names the file and the network, in the sentence '... is not ...'.
    ignored: pattern of names that the file may have beyond the table.
    optional: pattern of names that it may lack.

  Returns:
    The names that are ignored, in the file's order.

  Raises:
    UserError: names are missing or unknown; how many, and the first of them.
  """
  left = [name for name in given if name not in wanted and re.match(ignored, name)]
  missing = sorted(name for name in set(wanted) - set(given) if not re.match(optional, name))
  unknown = sorted(set(given) - set(wanted) - set(left))
  if missing or unknown:
    raise UserError(
      f'{what}: missing {missing[:_SHOWN]} ({len(missing)}), unknown {unknown[:_SHOWN]} '
      f'({len(unknown)})'
    )
  return left


def filled(
  table: Iterable[Entry],
  leaves: Mapping[str, tuple[int, ...]],
  read: Callable[[str], np.ndarray],
  where: str,
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
  """Reads and transforms all tensors of a table that was checked.

  Args:
    leaves: {path: shape} of our network.
    read: name -> tensor.

  Returns:
    {path: float32 array}, and the report {path: names of the tensors that filled it}.

  Raises:
    UserError: a tensor has another shape than the leaf asks for.
  """
  arrays = {leaf: np.zeros(shape, np.float32) for leaf, shape in leaves.items()}
  report: dict[str, list[str]] = {leaf: [] for leaf in leaves}
  for entry in table:
    tensors = [read(name) for name in entry.theirs]
    for leaf, value in zip(entry.ours, entry.transform(*tensors), strict=True):
      shape = arrays[leaf][entry.place].shape
      if value.shape != shape:
        raise UserError(
          f'{where}: {" and ".join(entry.theirs)} {[np.shape(t) for t in tensors]} do not fit '
          f'{leaf} {shape}'
        )
      arrays[leaf][entry.place] = value
      report[leaf] += entry.theirs
  return arrays, report


class Book:
  """Tensors of a file that are taken and leaves that are put, one after the other.

  Attributes:
    where: names the file.
    leaves: {path: float32 array} that were put.
    report: {path: names of the tensors that it was made of}.
  """

  def __init__(self, tensors: Mapping[str, np.ndarray], where: str):
    self.where, self.leaves, self.report = where, {}, {}
    self._left, self._taken = dict(tensors), []

  @property
  def names(self) -> list[str]:
    """Tensors that were not used yet."""
    return list(self._left)

  def shape(self, name: str) -> tuple[int, ...]:
    """Of a tensor that was not used yet; UserError if there is none of that name."""
    if name not in self._left:
      raise UserError(f'{self.where} has no tensor {name!r}: are these weights of another network?')
    return self._left[name].shape

  def take(self, name: str) -> np.ndarray:
    """A tensor in float64, which is then used up.

    Raises:
      UserError: there is none of that name, or it holds other than finite numbers with a fraction.
    """
    self.shape(name)
    self._taken.append(name)
    value = np.asarray(self._left.pop(name))
    if value.dtype.kind != 'f' and value.dtype.name != 'bfloat16':
      raise UserError(
        f'{self.where}: {name} holds {value.dtype}, numbers with a fraction were expected'
      )
    value = value.astype(np.float64)
    if not np.isfinite(value).all():
      raise UserError(f'{self.where}: {name} holds NaN or infinite numbers')
    return value

  def drop(self, name: str) -> None:
    """Uses up a tensor that nothing is made of, if it is there."""
    self._left.pop(name, None)

  def put(self, leaf: str, value: np.ndarray) -> None:
    """Fills a leaf from what was taken since the last one; ValueError if it is filled already."""
    self.put_all({leaf: value})

  def put_all(self, values: Mapping[str, np.ndarray]) -> None:
    """The same of several leaves that were made of the same tensors."""
    for leaf, value in values.items():
      if leaf in self.leaves:
        raise ValueError(f'{leaf} is filled twice')
      self.leaves[leaf], self.report[leaf] = np.asarray(value, np.float32), self._taken
    self._taken = []

  def close(
    self, leaves: Mapping[str, tuple[int, ...]], *, ignored: str = NOTHING
  ) -> dict[str, list[str]]:
    """Compares with the leaves of the network, {path: shape}.

    Args:
      ignored: pattern of tensors that nothing needs to be made of.

    Returns:
      {leaves: the report, left_out: names that are ignored}.

    Raises:
      UserError: tensors left over, leaves missing, or shapes that differ; all of them are listed.
    """
    left = [name for name in self._left if not re.match(ignored, name)]
    missing = [name for name in leaves if name not in self.leaves]
    wrong = [
      f'{name} {self.leaves[name].shape} instead of {shape}'
      for name, shape in leaves.items()
      if name in self.leaves and self.leaves[name].shape != shape
    ]
    unknown = [name for name in self.leaves if name not in leaves]
    problems = [
      f'{what}: {", ".join(names)}'
      for what, names in (
        ('left over', left),
        ('missing', missing),
        ('misshapen', wrong),
        ('unknown', unknown),
      )
      if names
    ]
    if problems:
      raise UserError(f'{self.where} does not fit the network; {"; ".join(problems)}')
    return {'leaves': self.report, 'left_out': sorted(self._left)}
