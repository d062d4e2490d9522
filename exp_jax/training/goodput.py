"""Goodput: the share of a run's time, over all its restarts, that went into steps that count.

Read from the run's own metrics.jsonl: records of kind 'start' (a process began: time, step it
resumed from) and 'train' (step, time, seconds per step since the record before, seconds of these
spent waiting for data).
"""

import contextlib
import json
import pathlib


def read_records(path: pathlib.Path) -> list[dict]:
  """All whole lines of a metrics file; a line cut short by a kill is passed over."""
  records = []
  if path.exists():
    for line in path.read_text(errors='replace').splitlines():
      with contextlib.suppress(ValueError, RecursionError):
        if isinstance(record := json.loads(line), dict):
          records.append(record)
  return records


def goodput(records: list[dict], now: float) -> dict:
  """Sums over a run up to `now`, seconds.

  Returns:
    total: since the first start; productive: computing steps that were not done again later,
      without waiting for data;
    data: waiting for data; lost: computing steps that a restart did again; restarts; goodput:
      productive / total.
  """
  starts = [r for r in records if r['kind'] == 'start']
  if not starts:
    return dict(total=0.0, productive=0.0, data=0.0, lost=0.0, restarts=0, goodput=0.0)
  productive = data = lost = 0.0
  kept: list[tuple[int, float, float]] = []  # (last step, seconds, of these waiting) of an interval
  at = 0
  for record in records:
    if record['kind'] == 'start':
      at = record['step']
      while kept and kept[-1][0] > at:  # logged, then lost with the process
        lost += kept.pop()[1]
    elif record['kind'] == 'train':
      count = record['step'] - at
      at = record['step']
      kept.append((at, count * record['step_seconds'], count * record['data_seconds']))
  for _, seconds, waiting in kept:
    productive, data = productive + seconds - waiting, data + waiting
  total = max(now - starts[0]['time'], 1e-9)
  return dict(
    total=total,
    productive=productive,
    data=data,
    lost=lost,
    restarts=len(starts) - 1,
    goodput=productive / total,
  )
