"""The set of clips as one: scores.json, table.md in the paper's layout, sheet.png.

A metric that could not be computed has no value but a sentence of what it needs; a paper's numbers
are labelled as such.
"""

import dataclasses
import json
import math
import pathlib

import numpy as np

from exp_jax.errors import one_line, without_folders
from exp_jax.files.atomic import write_text
from exp_jax.media.images import contact_sheet, read_image, write_image
from exp_jax.metrics.evaluation.catalog import METRICS
from exp_jax.metrics.evaluation.clips import (
  ROOTS,
  Settings,
  as_json,
  fitted,
  read_features,
  scores_of,
)
from exp_jax.metrics.evaluation.protocols import PROTOCOLS
from exp_jax.metrics.frechet import Moments, frechet_score, merged, moments
from exp_jax.metrics.score import Score, pooled

_SHEET = 8  # clips on the sheet
_BLOCK = 2048  # rows of features at once


def _gathered(folder: pathlib.Path, records: list[dict], kind: str) -> Moments | None:
  """Moments of all clips' features of a kind; None if there are none."""
  total = None
  for record in records:
    if kind in record['features']:
      rows = read_features(folder, record['name'], kind, record['features'][kind])
      for start in range(0, max(1, len(rows)), _BLOCK):
        part = moments(rows[start : start + _BLOCK])
        total = part if total is None else merged(total, part)
  return total


def set_scores(
  folder: pathlib.Path, records: list[dict], *, real: Moments | None = None, fvd_variant: str = ''
) -> dict[str, Score]:
  """{metric: Score} over all clips; every frame counts the same."""
  collected = {}
  for record in records:
    for name, score in scores_of(record).items():
      collected.setdefault(name, []).append((score, record['frames']))
  scores = {}
  for name, found in collected.items():
    scores[name] = pooled(
      [score for score, _ in found], root=name in ROOTS, asked=[frames for _, frames in found]
    )
  inception, truth = (
    _gathered(folder, records, 'fid.result'),
    real or _gathered(folder, records, 'fid.target'),
  )
  if inception is not None and truth is not None:
    against = 'the real faces given' if real else 'the truth'
    variant = (
      f'Inception pool3 of TensorFlow 2015, bilinear to 299 without antialias, against {against}'
    )
    scores['fid'] = frechet_score(inception, truth, variant)
  videos = [_gathered(folder, records, f'fvd.{side}') for side in ('result', 'target')]
  if None not in videos:
    scores['fvd'] = frechet_score(
      *videos, 'I3D logits, windows of 16 frames side by side, 224 px, ' + fvd_variant
    )
  return scores


def shown(name: str, value: float | None) -> str:
  """A value with its metric's digits, a dash for none."""
  return (
    '—'
    if value is None or math.isnan(value)
    else f'{value:.{METRICS[name].digits}f}'
    if math.isfinite(value)
    else 'inf'
  )


def markdown(
  protocol: str,
  scores: dict[str, Score],
  missing: dict[str, str],
  clips: int,
  frames: int,
  strides: list[int],
) -> str:
  """Tables in the paper's layout, then every metric with variant, N and coverage, then what was not
  computed."""
  chosen = PROTOCOLS[protocol]
  lines = [
    f'# {protocol}',
    '',
    chosen.note,
    '',
    'Drivers were sampled with a stride of ' + ', '.join(map(str, strides)) + '.',
    '',
  ]
  value = lambda name: scores[name].value if name in scores else None
  row = lambda cells: '| ' + ' | '.join(cells) + ' |'
  ours = f'**measured here: {clips} clip{"s" * (clips != 1)}, {frames} frames**'
  for title, methods in (chosen.paper or {'': {}}).items():
    if chosen.paper or len(chosen.columns) < 12:
      lines += [
        row(
          [f'{title}: method' if title else 'method', *(METRICS[n].heading for n in chosen.columns)]
        ),
        row(['---'] * (len(chosen.columns) + 1)),
        row([ours, *(shown(n, value(n)) for n in chosen.columns)]),
      ]
      lines += [
        row(
          [f'{method} (number of the paper)', *('—' if v is None else f'{v:.6g}' for v in numbers)]
        )
        for method, numbers in methods.items()
      ]
      lines += ['']
  if chosen.paper:
    lines += [
      'Numbers of the paper are of its own test set and trackers; they order its methods and are '
      'no bar for these clips.',
      '',
    ]
  lines += [row(['metric', 'value', 'what exactly', 'N', 'coverage']), row(['---'] * 5)]
  lines += [
    row([METRICS[n].heading, shown(n, s.value), s.variant, str(s.count), f'{s.coverage:.3f}'])
    for n, s in scores.items()
  ]
  if missing:
    lines += ['', 'Not computed:', ''] + [
      f'- {METRICS[n].label}: {reason}' for n, reason in missing.items()
    ]
  return '\n'.join(lines) + '\n'


def write_report(
  output: pathlib.Path,
  protocol: str,
  *,
  scores: dict[str, Score],
  missing: dict[str, str],
  records: list[dict],
  failed: dict[str, str],
  weights: dict[str, str],
  settings: Settings,
  absent: list[str],
) -> str:
  """Writes scores.json, table.md and sheet.png below `output`; returns the table."""
  frames, missing = (
    sum(record['frames'] for record in records),
    {n: without_folders(reason) for n, reason in missing.items()},
  )
  ordered = {n: scores[n] for n in METRICS if n in scores}
  strides = sorted({record['framing']['stride'] for record in records})
  table = markdown(protocol, ordered, missing, len(records), frames, strides)
  for names, words in (
    (list(failed), 'could not be measured'),
    (absent, 'have no generated video'),
  ):
    if names:
      listed = ', '.join(map(one_line, names[:8])) + (', ...' if len(names) > 8 else '')
      table += f'\n{len(names)} clips {words} and are not in these numbers: {listed}.\n'
  content = {
    'protocol': protocol,
    'kind': PROTOCOLS[protocol].kind,
    'note': PROTOCOLS[protocol].note,
    'settings': dataclasses.asdict(settings),
    'metrics': {n: {'label': METRICS[n].label} | as_json(s) for n, s in ordered.items()}
    | {
      n: {'label': METRICS[n].label, 'value': None, 'not_computed': reason}
      for n, reason in missing.items()
    },
    'clips': {
      r['name']: {'frames': r['frames'], 'framing': r['framing'], 'scores': r['scores']}
      for r in records
    }
    | {name: {'error': reason} for name, reason in failed.items()},
    'without_result': absent,
    'weights': weights,
    'paper': {'columns': PROTOCOLS[protocol].columns, 'numbers': PROTOCOLS[protocol].paper},
  }
  for name, text in (('scores.json', json.dumps(content, indent=1) + '\n'), ('table.md', table)):
    write_text(output / name, text)
  tiles = [read_image(output / 'clips' / f'{record["name"]}.png') for record in records[:_SHEET]]
  if tiles:
    size = np.array([tile.shape[:2] for tile in tiles]).max(0)
    write_image(
      output / 'sheet.png',
      contact_sheet([fitted(t, *size) for t in tiles], columns=min(2, len(tiles))),
    )
  return table
