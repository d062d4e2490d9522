"""Looks at this machine before a run does: devices, memory, versions, assets, disk; and whether a run would fit.

  python -m exp_jax.doctor [-o out] [--config configs/dit_a800.py:pod]

Every line begins with ok, note or problem. Exit status 0, or 2 if there is a problem.
"""

import argparse
import importlib.metadata
import os
import pathlib
import re
import runpy
import shutil
import sys
import tempfile
import time

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly

_ROOT = pathlib.Path(__file__).parents[1]
_PROBE = 64 << 20  # bytes written to learn the speed of a disk


def versions() -> list[tuple[str, str]]:
  """Of Python and of every pin in requirements.txt: (verdict, words)."""
  python = sys.version_info
  found = [('ok' if python >= (3, 11) else 'problem', f'Python {python.major}.{python.minor}.{python.micro}')]
  pins = _ROOT / 'requirements.txt'
  for name, wanted in re.findall(r'^([\w.-]+)==([\w.]+)', pins.read_text(), re.MULTILINE) if pins.exists() else ():
    try:
      have = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found.append(('problem', f'{name} is not installed, {wanted} is asked for: make setup'))
      continue
    if have != wanted:
      found.append(('note', f'{name} {have}, tested with {wanted}'))
  return found if len(found) > 1 else [*found, ('ok', 'packages are the pinned ones')]


def devices() -> list[tuple[str, str]]:
  """Those that JAX sees, with their memory."""
  import jax

  from exp_jax.training.metrics_log import peak_of
  try:
    seen = jax.local_devices()
  except RuntimeError as error:
    return [('problem', f'JAX finds no device: {" ".join(str(error).split())[:200]}')]
  stats = seen[0].memory_stats() or {}
  memory = f', {stats["bytes_limit"] / 1e9:.0f} GB each' if 'bytes_limit' in stats else ''
  peak = peak_of(seen[0].device_kind)
  speed = f', {peak:g} TFLOP/s each by their maker' if peak else ''
  lines = [('ok', f'{len(seen)} x {seen[0].device_kind} ({seen[0].platform}){memory}{speed}; jax {jax.__version__}')]
  if seen[0].platform == 'cpu' and shutil.which('nvidia-smi'):
    lines.append(('problem', 'there is an NVIDIA driver, but JAX uses the CPU: pip install "jax[cuda12]", unset JAX_PLATFORMS'))
  return lines


def memory() -> tuple[str, str]:
  """Of the host."""
  total, free = (os.sysconf('SC_PAGE_SIZE') * os.sysconf(name) / 1e9 for name in ('SC_PHYS_PAGES', 'SC_AVPHYS_PAGES'))
  return 'ok' if free > 4 else 'note', f'{os.cpu_count()} CPU cores, {total:.0f} GB of memory, {free:.0f} GB unused'


def disk(folder: pathlib.Path) -> tuple[str, str]:
  """Room and speed where checkpoints would go."""
  existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
  free = shutil.disk_usage(existing).free
  block = os.urandom(1 << 20)
  try:
    with tempfile.TemporaryFile(dir=existing) as file:
      began = time.perf_counter()
      for _ in range(_PROBE >> 20):
        file.write(block)
      file.flush()
      os.fsync(file.fileno())
      written = time.perf_counter() - began
  except OSError as error:
    return 'problem', f'{str(existing)!r} cannot be written: {error.strerror}'
  return ('ok' if free > 20e9 else 'note'), (f'{str(existing)!r}: {free / 1e9:.0f} GB free, {_PROBE / written / 1e6:.0f} MB/s '
                                             'written and flushed')


def assets() -> list[tuple[str, str]]:
  """Files and environments that `make setup` brings; without them, some commands do less."""
  wanted = {'assets/heads/makehuman.npz': 'the MakeHuman head', '.venv-mediapipe/bin/python': 'the landmark estimator'}
  missing = [f'{words} ({name})' for name, words in wanted.items() if not (_ROOT / name).exists()]
  return [('note', f'missing: {words}; make setup fetches it') for words in missing] or [('ok', 'assets are in place')]


def fit(named: str) -> tuple[str, str]:
  """Whether a step of a config fits this host's devices, by shapes and by its compiler; and if not, what to change."""
  import jax

  from exp_jax.train import load_task
  from exp_jax.training import plan
  from exp_jax.training.settings import settings_of
  from exp_jax.training.sharding import make_mesh
  file, _, mode = named.partition(':')
  if not os.path.isfile(file):
    raise UserError(f'there is no config file {file!r}; see configs/')
  config = runpy.run_path(file)['get_config'](*[mode] if mode else [])
  settings, (_, task) = settings_of(config), load_task(config)
  try:
    mesh = make_mesh(settings.mesh)
  except UserError as error:
    return 'problem', f'{named}: {error}, or start it on as many; --dry_run --devices tells what each would need'
  stats = jax.local_devices()[0].memory_stats() or {}
  have = stats.get('bytes_limit') or os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / len(jax.local_devices())
  try:
    memory, _ = plan.memory_of(settings, task, mesh, limit=plan.ROOM * have)
  except ValueError as error:                              # a kernel of other devices: the sentence says which and what instead
    return 'problem', f'{named}: {error}'
  state = sum(memory.parts.values())
  if memory.total <= plan.ROOM * have:
    return 'ok', (f'{named}: a step takes {memory.total / 1e9:.3g} of {have / 1e9:.3g} GB on a device, the state {state / 1e9:.3g} '
                  f'of them, by this machine\'s compiler in {memory.seconds:.0f} s')
  better = plan.what_would_fit(config, load_task, memory, plan.ROOM * have)
  remedy = (f'it would fit with {better[0]} ({better[1].total / 1e9:.3g} GB)' if better else
            'no recomputation, parts of a batch or smaller moments are enough here')
  return 'problem', f'{named}: {plan.why_not(memory, plan.ROOM * have, mesh)}. {remedy}'


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('-o', '--output', type=pathlib.Path, default=pathlib.Path('out'), help='where runs would write')
  parser.add_argument('--config', default='', metavar='FILE.py[:mode]', help='a run to judge')
  args = parser.parse_args(argv)
  lines = [*versions(), *devices(), memory(), disk(args.output), *assets()]
  lines += [fit(args.config)] if args.config else []
  for verdict, words in lines:
    print(f'{verdict:8s} {words}')
  problems = sum(verdict == 'problem' for verdict, _ in lines)
  if problems:
    raise UserError(f'{problems} {"problem" if problems == 1 else "problems"}, see above')
  return 0


if __name__ == '__main__':
  sys.exit(main())
