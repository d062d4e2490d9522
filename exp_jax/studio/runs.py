"""Training runs under one folder, as a page shows them: curves, samples and goodput, from what
`exp_jax.training` writes.

Nothing outside of that folder is read: a name leads to a run only where the folder lists it, and
links that lead out are no runs.
"""

import dataclasses
import datetime
import html
import math
import pathlib
import time

from exp_jax.errors import UserError
from exp_jax.studio.refusals import TooLarge, Unknown, told
from exp_jax.training.goodput import goodput, read_records

_DEPTH = 3  # folders below the root in which a run may lie
_MOST_RUNS = 200
_LARGEST = 64 << 20  # bytes of a metrics file
_POINTS = 400  # of a curve
_MOST_SAMPLES = 24
PICTURES, CLIPS = ('.png',), ('.mp4',)
_LATE = 600.0  # seconds without a record after which a run counts as ended
_NO_CURVES = ('time', 'step')


@dataclasses.dataclass(frozen=True)
class Run:
  """One run.

  Attributes:
    name: its folder below the root.
    step: of the newest record.
    going: whether something was recorded in the last ten minutes.
    goodput: see `exp_jax.training.goodput`.
    curves: {'train loss': [(step, value)], ...} in order of appearance; what restarts did again is
      left out.
    samples: names of pictures and clips, the newest first.
  """

  name: str
  step: int
  going: bool
  goodput: dict
  curves: dict[str, list[tuple[int, float]]]
  samples: tuple[str, ...]


class Runs:
  """The runs below a folder.

  Args:
    root: the folder.

  Raises:
    UserError: there is no such folder.
  """

  def __init__(self, root: pathlib.Path):
    if not root.is_dir():
      raise UserError(f'the folder of training runs {str(root)!r} does not exist')
    self._root = root.resolve()

  def names(self) -> list[str]:
    """Folders with a metrics.jsonl, the one that was written last first; at most 200."""
    found, waiting = [], [(self._root, 0)]
    while waiting:
      folder, depth = waiting.pop()
      metrics = folder / 'metrics.jsonl'
      if metrics.is_file() and not metrics.is_symlink():
        found.append((metrics.stat().st_mtime, str(folder.relative_to(self._root))))
      elif depth < _DEPTH:
        waiting += [
          (each, depth + 1) for each in _listed(folder) if each.is_dir() and not each.is_symlink()
        ]
    return [name for _, name in sorted(found, reverse=True)[:_MOST_RUNS]]

  def run(self, name: str) -> Run:
    """What is known of a run.

    Raises:
      Unknown: there is none of that name. TooLarge: its metrics are more than 64 MiB.
    """
    folder = self._folder(name)
    path = folder / 'metrics.jsonl'
    if path.stat().st_size > _LARGEST:
      raise TooLarge(
        f'the metrics of {told(name)} are larger than {_LARGEST >> 20} MiB: look at them '
        'by other means'
      )
    records = [record for record in read_records(path) if _is_record(record)]
    written = path.stat().st_mtime
    going = time.time() - written < _LATE
    steps = [record['step'] for record in records]
    return Run(
      name,
      steps[-1] if steps else 0,
      going,
      goodput(records, time.time() if going else written),
      curves_of(records),
      self._samples(folder),
    )

  def sample(self, name: str, sample: str) -> pathlib.Path:
    """The file of a sample; Unknown where the run has no such sample."""
    folder = self._folder(name)
    if sample not in self._samples(folder):
      raise Unknown(f'the run has no sample {told(sample)[:80]!r}')
    return folder / 'samples' / sample

  def _folder(self, name: str) -> pathlib.Path:
    if name not in self.names():
      raise Unknown(f'there is no training run {told(name)[:80]!r} in the folder of this server')
    return self._root / name

  def _samples(self, folder: pathlib.Path) -> tuple[str, ...]:
    samples = folder / 'samples'
    if samples.is_symlink() or not samples.is_dir():
      return ()
    files = [
      each
      for each in _listed(samples)
      if each.suffix in (*PICTURES, *CLIPS) and each.is_file() and not each.is_symlink()
    ]
    return tuple(
      each.name for each in sorted(files, key=lambda each: each.name, reverse=True)[:_MOST_SAMPLES]
    )


def _listed(folder: pathlib.Path) -> list[pathlib.Path]:
  try:
    return sorted(folder.iterdir())
  except OSError:
    return []


def _is_record(record: dict) -> bool:
  """Whether a line is one that `goodput` and `curves_of` can read: other programs may have written
  into the file."""
  number = lambda name: isinstance(record.get(name), (int, float)) and math.isfinite(record[name])
  if not (isinstance(record.get('kind'), str) and number('step') and number('time')):
    return False
  return record['kind'] != 'train' or number('step_seconds') and number('data_seconds')


def curves_of(records: list[dict]) -> dict[str, list[tuple[int, float]]]:
  """{'kind metric': [(step, value)]} of all finite numbers; a restart takes back what came after
  its step."""
  curves: dict[str, list[tuple[int, float]]] = {}
  for record in records:
    if record['kind'] == 'start':
      for points in curves.values():
        while points and points[-1][0] > record['step']:
          points.pop()
      continue
    for name, value in record.items():
      if (
        name not in _NO_CURVES
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
      ):
        curves.setdefault(f'{record["kind"]} {name}', []).append((record['step'], float(value)))
  return {name: points for name, points in curves.items() if points}


def thinned(points: list[tuple[int, float]], most: int = _POINTS) -> list[tuple[float, float]]:
  """At most so many points: means over neighbours, so that no stretch is left out."""
  size = -(-len(points) // most)
  parts = [points[start : start + size] for start in range(0, len(points), size)]
  return [
    (sum(step for step, _ in part) / len(part), sum(value for _, value in part) / len(part))
    for part in parts
  ]


def chart(name: str, points: list[tuple[int, float]]) -> str:
  """A curve as SVG, 320 by 170, with its lowest, highest and last value; of logarithms where values
  are positive and range far."""
  drawn = thinned(points)
  values = [value for _, value in drawn]
  low, high, last = min(values), max(values), points[-1][1]
  log = low > 0 and high > 30 * low
  scale = math.log if log else float
  bottom, top = scale(low), scale(high)
  first, end = drawn[0][0], drawn[-1][0]
  x = lambda step: 48 + 262 * ((step - first) / (end - first) if end > first else 0.5)
  y = lambda value: 140 - 110 * ((scale(value) - bottom) / (top - bottom) if top > bottom else 0.5)
  line = ' '.join(f'{x(step):.1f},{y(value):.1f}' for step, value in drawn)
  mark = f'<circle cx="{x(drawn[-1][0]):.1f}" cy="{y(values[-1]):.1f}" r="3" fill="#2f7d6b"/>'
  text = lambda at, up, words, anchor='start': (
    f'<text x="{at}" y="{up}" font-size="11" text-anchor="{anchor}" '
    f'fill="currentColor">{html.escape(words)}</text>'
  )
  return (
    f'<svg viewBox="0 0 320 170" role="img" aria-label="{html.escape(name)}">'
    f'<path d="M48 24V140H310" fill="none" stroke="#8888"/>'
    f'<polyline points="{line}" fill="none" stroke="#2f7d6b" stroke-width="1.6"/>{mark}'
    + text(48, 14, name + (' (logarithmic)' if log else ''))
    + text(310, 14, f'{last:.4g}', 'end')
    + text(44, 30, f'{high:.3g}', 'end')
    + text(44, 140, f'{low:.3g}', 'end')
    + text(48, 158, f'step {points[0][0]}')
    + text(310, 158, f'{points[-1][0]}', 'end')
    + '</svg>'
  )


def described(run: Run) -> str:
  """A run in a table, as HTML."""
  share = run.goodput
  length = lambda seconds: str(datetime.timedelta(seconds=round(seconds)))
  rows = [
    ('state', 'going on' if run.going else 'no record in the last ten minutes'),
    ('step', str(run.step)),
    ('time since its start', length(share['total'])),
    ('goodput', f'{100 * share["goodput"]:.1f} %'),
    ('computing', length(share['productive'])),
    ('waiting for data', length(share['data'])),
    ('done again after restarts', f'{length(share["lost"])} in {share["restarts"]} restarts'),
  ]
  cells = ''.join(
    f'<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>' for name, value in rows
  )
  return f'<table class="xj-table">{cells}</table>'
