"""Metrics as JSON lines, on the console with progress and speed, and, if asked for, as TensorBoard
events and in W&B.

Pictures and clips of evaluations become files in WORKDIR/samples, written by functions that the
caller brings.
"""

import json
import pathlib
import sys
import time
from collections.abc import Callable

import numpy as np

from exp_jax.errors import UserError
from exp_jax.training.goodput import goodput, read_records

PEAKS = {  # dense bfloat16 TFLOP/s of one device, by part of its name; makers' data sheets
  'H200': 989.0, 'H100': 989.0, 'H800': 989.0, 'A100': 312.0, 'A800': 312.0, 'B200': 2250.0, 'GB200': 2500.0, 'L40S': 362.0,
  'TPU v4': 275.0, 'TPU v5 lite': 197.0, 'TPU v5e': 197.0, 'TPU v5p': 459.0, 'TPU v5': 459.0, 'TPU v6 lite': 918.0,
  'TPU v6e': 918.0, 'TPU7x': 2307.0}  # fmt: skip


def peak_of(device_kind: str) -> float:
  """TFLOP/s by the table above; 0 if the device is not in it."""
  return next((peak for name, peak in PEAKS.items() if name.lower() in device_kind.lower()), 0.0)


def duration(seconds: float) -> str:
  """'4:05' or '2:00:00'."""
  minutes, seconds = divmod(int(seconds + 0.5), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'


def _event_writer(folder: pathlib.Path):
  try:
    from tensorboardX import SummaryWriter
  except ImportError as error:
    raise UserError(
      'config.tensorboard=True needs the package tensorboardX: install it, or set it to False'
    ) from error
  return SummaryWriter(str(folder))


def _wandb(project: str, folder: pathlib.Path):
  try:
    import wandb
  except ImportError as error:
    raise UserError(
      'config.wandb needs the package wandb: install it, or set it to an empty string'
    ) from error
  return wandb.init(project=project, dir=str(folder), id=folder.resolve().name, resume='allow')


class MetricsLog:
  """Appends to WORKDIR/metrics.jsonl; a line cut short by a kill is closed first, so that the file
  stays readable.

  Args:
    workdir: of the run.
    total_steps: for progress and the time left.
    flops: model FLOPs of one step over all devices, 0 if not known; see `flops.py`.
    devices, peak: their number, and TFLOP/s of one (0: MFU is not shown).
    draw: kind -> function (path without suffix, array); 'picture' takes [H, W, 3], 'clip' [T, H, W,
      3], in [0, 1].
    quiet: writes nothing at all, as all processes but one do.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    total_steps: int,
    *,
    flops: float = 0.0,
    devices: int = 1,
    peak: float = 0.0,
    draw: dict[str, Callable] | None = None,
    tensorboard: bool = False,
    wandb: str = '',
    quiet: bool = False,
  ):
    self.workdir, self.total_steps, self.quiet, self._draw = workdir, total_steps, quiet, draw or {}
    self._teraflops, self._peak = flops / devices / 1e12, peak
    self.path = workdir / 'metrics.jsonl'
    self._events = self._wandb = None
    if not quiet:
      workdir.mkdir(parents=True, exist_ok=True)
      self._events = _event_writer(workdir / 'tensorboard') if tensorboard else None
      self._wandb = _wandb(wandb, workdir) if wandb else None
      cut = self.path.exists() and self.path.read_bytes()[-1:] not in (b'', b'\n')
      self._file = open(self.path, 'a', buffering=1)
      if cut:
        self._file.write('\n')

  def _record(self, kind: str, step: int, metrics: dict) -> None:
    self._file.write(
      json.dumps({'kind': kind, 'step': step, 'time': round(time.time(), 3), **metrics}) + '\n'
    )

  def start(self, step: int) -> None:
    """This process begins, or goes on, after `step` steps."""
    if not self.quiet:
      self._record('start', step, {})

  def goodput(self) -> dict:
    """Of the run up to now, all restarts included; see `goodput.py`."""
    return goodput(read_records(self.path), time.time())

  def write(self, step: int, metrics: dict, *, kind: str = 'train') -> None:
    """One record. Of a step, `step_seconds` gives the speed and the time left."""
    if self.quiet:
      return
    scalars = {k: float(v) for k, v in metrics.items() if np.ndim(v) == 0}
    if kind == 'train' and self._teraflops:
      scalars['tflops_per_device'] = self._teraflops / max(scalars['step_seconds'], 1e-9)
      if self._peak:
        scalars['mfu'] = scalars['tflops_per_device'] / self._peak
    self._record(kind, step, scalars)
    for name, value in metrics.items():
      if np.ndim(value) in (3, 4):
        self._drawn(
          step, f'{kind}_{name}'.replace(' ', '_'), np.clip(np.asarray(value, np.float32), 0.0, 1.0)
        )
    for name, value in scalars.items():
      if self._events:
        self._events.add_scalar(f'{kind}/{name}', value, step)
    if self._events:
      self._events.flush()
    if self._wandb:
      self._wandb.log({f'{kind}/{name}': value for name, value in scalars.items()}, step=step)
    self._say(step, scalars, '' if kind == 'train' else f' {kind}')

  def _drawn(self, step: int, name: str, value: np.ndarray) -> None:
    kind = 'picture' if value.ndim == 3 else 'clip'
    if kind in self._draw:
      folder = self.workdir / 'samples'
      folder.mkdir(exist_ok=True)
      self._draw[kind](folder / f'{step:08d}_{name}', value)
    if self._events:
      self._events.add_image(
        name,
        value if value.ndim == 3 else np.concatenate(list(value), axis=1),
        step,
        dataformats='HWC',
      )

  def _say(self, step: int, scalars: dict, name: str) -> None:
    first = [k for k in ('loss', 'grad_norm') if k in scalars]
    shown = ' '.join(
      f'{k} {scalars[k]:.4g}'
      for k in (*first, *(k for k in scalars if k not in first))
      if k != 'skipped' or scalars[k]
    )
    left = (
      f' eta {duration(scalars["step_seconds"] * (self.total_steps - step))}'
      if 'step_seconds' in scalars
      else ''
    )
    percent = 100 * step // max(self.total_steps, 1)
    print(
      f'step {step}/{self.total_steps} ({percent}%){name} {shown}{left}',
      file=sys.stderr,
      flush=True,
    )

  def close(self) -> None:
    """Flushes what is still held."""
    if not self.quiet:
      self._file.close()
    if self._events:
      self._events.close()
    if self._wandb:
      self._wandb.finish()
