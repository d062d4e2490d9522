"""Metrics as JSON lines in a file and as one line of progress on the console."""

import dataclasses
import json
import pathlib
import sys
import time


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds + 0.5), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'


@dataclasses.dataclass
class MetricsLog:
  """Appends to `path`; a line cut short by a kill is closed first, so that the file stays readable."""
  path: pathlib.Path
  total_steps: int
  quiet: bool = False

  def __post_init__(self):
    if not self.quiet:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      cut = self.path.exists() and self.path.read_bytes()[-1:] not in (b'', b'\n')
      self._file = open(self.path, 'a', buffering=1)
      if cut:
        self._file.write('\n')

  def write(self, step: int, metrics: dict, *, kind: str = 'train') -> None:
    """One record. `step_seconds`, if there, gives the time left."""
    if self.quiet:
      return
    metrics = {k: float(v) for k, v in metrics.items()}
    record = {'kind': kind, 'step': step, 'time': round(time.time(), 3), **metrics}
    self._file.write(json.dumps(record) + '\n')
    shown = ' '.join(f'{k} {v:.4g}' for k, v in metrics.items())
    left = ''
    if 'step_seconds' in metrics:
      left = f' eta {_duration(metrics["step_seconds"] * (self.total_steps - step))}'
    name = '' if kind == 'train' else f' {kind}'
    percent = 100 * step // max(self.total_steps, 1)
    print(f'step {step}/{self.total_steps} ({percent}%){name} {shown}{left}', file=sys.stderr,
          flush=True)
