"""Looks at this machine before a run does: versions, devices, memory, disk, fetched files; and
whether a run would fit.

  exp-jax doctor [-o out] [--config configs/dit_a800.py:pod]      # or: python -m exp_jax.doctor

Every line begins with ok, note or problem. Exit status 0, or 2 if there is a problem.
"""

import argparse
import importlib.metadata
import os
import pathlib
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib

from packaging.requirements import Requirement

from exp_jax import __version__
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly, platform_complaint
from exp_jax.files import resources

_PROBE = 64 << 20  # bytes written to learn the speed of a disk
_LANDMARKS = 478  # that fitting needs


def requirements() -> list[Requirement]:
  """What the package asks for: by pyproject.toml in a checkout, by its own metadata in an installed
  copy; [] if it has none."""
  root = resources.checkout()
  if root and (root / 'pyproject.toml').exists():
    lines = tomllib.loads((root / 'pyproject.toml').read_text())['project']['dependencies']
  else:
    try:
      lines = importlib.metadata.requires('exp_jax') or []
    except importlib.metadata.PackageNotFoundError:
      lines = []
  found = map(Requirement, lines)
  return [one for one in found if one.marker is None or one.marker.evaluate({'extra': ''})]


def tested_versions() -> dict[str, str]:
  """{package: version} that the tests were run with, by requirements.txt of a checkout; {} in an
  installed copy."""
  root = resources.checkout()
  pins = root / 'requirements.txt' if root else None
  lines = pins.read_text().splitlines() if pins and pins.exists() else ()
  return dict(
    line.split()[0].split('==') for line in lines if '==' in line and not line.startswith('#')
  )


def versions(wanted: list[Requirement], tested: dict[str, str]) -> list[tuple[str, str]]:
  """Python and the installed packages, compared with what is asked for and with what was tested:
  (verdict, words)."""
  where = 'a checkout' if resources.checkout() else 'an installed copy'
  python = sys.version_info
  found = [
    (
      'ok' if python >= (3, 11) else 'problem',
      f'Python {python.major}.{python.minor}.{python.micro}',
    ),
    ('ok', f'exp_jax {__version__}, {where}: {resources.package_folder()}'),
  ]
  if not wanted:
    return [
      *found,
      (
        'problem',
        'exp_jax has no metadata beside it, so that no version can be compared: install it with '
        'pip',
      ),
    ]
  differences = []
  for one in wanted:
    try:
      have = importlib.metadata.version(one.name)
    except importlib.metadata.PackageNotFoundError:
      differences.append(
        (
          'problem',
          f'{one.name} is not installed, {one.specifier} is asked for: install exp_jax again',
        )
      )
      continue
    if not one.specifier.contains(have, prereleases=True):
      differences.append(
        (
          'problem',
          f'{one.name} {have}, {one.specifier} is asked for: pip install '
          f'"{one.name}{one.specifier}"',
        )
      )
    elif tested.get(one.name, have) != have:
      differences.append(('note', f'{one.name} {have}, tested with {tested[one.name]}'))
  return found + (differences or [('ok', f'{len(wanted)} packages are what is asked for')])


def devices() -> list[tuple[str, str]]:
  """Those that JAX sees, with their memory."""
  import jax

  from exp_jax.training.metrics_log import peak_of

  try:
    seen = jax.local_devices()
  except (RuntimeError, AssertionError) as error:
    return [
      (
        'problem',
        platform_complaint() or f'JAX finds no device: {" ".join(str(error).split())[:200]}',
      )
    ]
  stats = seen[0].memory_stats() or {}
  memory = f', {stats["bytes_limit"] / 1e9:.0f} GB each' if 'bytes_limit' in stats else ''
  peak = peak_of(seen[0].device_kind)
  speed = f', {peak:g} TFLOP/s each by their maker' if peak else ''
  lines = [
    (
      'ok',
      f'{len(seen)} x {seen[0].device_kind} ({seen[0].platform}){memory}{speed}; jax '
      f'{jax.__version__}',
    )
  ]
  if seen[0].platform == 'cpu' and shutil.which('nvidia-smi'):
    lines.append(
      (
        'problem',
        'there is an NVIDIA driver, but JAX uses the CPU: pip install "jax[cuda12]", unset '
        'JAX_PLATFORMS',
      )
    )
  return lines


def compiler() -> tuple[str, str]:
  """Whether compiled sums are right: those of jaxlib 0.10.2 and 0.11 on CPUs are not, unless a flag
  was read in time."""
  import jax
  import jax.numpy as jnp

  points = jnp.stack([jnp.arange(32769.0), *jnp.zeros((2, 32769))], -1)
  found = jax.jit(jax.vmap(lambda point: jnp.sum((jnp.eye(3) @ point) ** 2)))(points)[-1]
  if found == 32768.0**2:
    return 'ok', 'compiled sums are right'
  return 'problem', (
    'compiled sums are wrong (github.com/jax-ml/jax/issues/39103): set '
    'XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type= before Python starts'
  )


def memory() -> tuple[str, str]:
  """Of the host."""
  try:
    total, free = (
      os.sysconf('SC_PAGE_SIZE') * os.sysconf(name) / 1e9
      for name in ('SC_PHYS_PAGES', 'SC_AVPHYS_PAGES')
    )
  except (AttributeError, ValueError):  # Windows has no sysconf, macOS does not say what is unused
    return 'note', f'{os.cpu_count()} CPU cores; this system does not say how much memory is unused'
  return (
    'ok' if free > 4 else 'note',
    f'{os.cpu_count()} CPU cores, {total:.0f} GB of memory, {free:.0f} GB unused',
  )


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
  return ('ok' if free > 20e9 else 'note'), (
    f'{str(existing)!r}: {free / 1e9:.0f} GB free, {_PROBE / written / 1e6:.0f} MB/s '
    'written and flushed'
  )


def home() -> tuple[str, str]:
  """The folder of fetched files, and whether set-up could write there."""
  folder = resources.home()
  existing = next(p for p in (folder, *folder.parents) if p.exists())
  if not os.access(existing, os.W_OK):
    return (
      'note',
      f'home {str(folder)!r}: {str(existing)!r} cannot be written; set EXP_JAX_HOME to fetch '
      'elsewhere',
    )
  return 'ok', f'home {str(folder)!r}'


def head() -> tuple[str, str]:
  """The MakeHuman head that fitting and animation use, read as they read it."""
  from exp_jax.heads.head_files import load_head

  try:
    found = load_head('makehuman')
  except UserError as error:
    return 'problem', str(error)
  count = len(found.landmark_faces)
  if count != _LANDMARKS:
    return (
      'problem',
      f'the MakeHuman head has {count} landmarks, {_LANDMARKS} are needed: install exp_jax again',
    )
  return (
    'ok',
    f'MakeHuman head: {found.template.shape[0]} vertices, {count} landmarks, '
    f'{resources.assets() / "heads"}',
  )


def estimator() -> tuple[str, str]:
  """The Python of the landmark estimator: its packages, and whether it imports MediaPipe."""
  from exp_jax.observe import sidecar
  from exp_jax.observe.landmarks import interpreter

  if sys.platform == 'win32':
    return 'problem', (
      'neither the landmark estimator nor training runs on Windows, where array-record has no '
      'wheel: use the '
      'Windows Subsystem for Linux'
    )
  try:
    python = interpreter()
  except UserError as error:
    return 'problem', str(error)
  if not sidecar.is_foreign() and not sidecar.is_ready():
    missing = sidecar.lacking(sidecar.folder())
    words = f'lacks {", ".join(missing)}' if missing else 'was not made to its end'
    return (
      'problem',
      f'the landmark estimator in {sidecar.folder()} {words}: run {resources.setup_command()}',
    )
  environment = {k: v for k, v in os.environ.items() if not k.startswith(('PYTHON', 'VIRTUAL_ENV'))}
  try:
    done = subprocess.run(
      [python, '-c', 'import mediapipe; print(mediapipe.__version__)'],
      capture_output=True,
      text=True,
      timeout=120,
      env=environment,
    )
  except (OSError, subprocess.TimeoutExpired) as error:
    return 'problem', f'{python} does not start ({error})'
  if done.returncode:
    return (
      'problem',
      f'{python} cannot import mediapipe: '
      f'{(done.stderr.strip().splitlines() or ["no reason given"])[-1]}',
    )
  return 'ok', f'landmark estimator: mediapipe {done.stdout.strip()}, {python}'


def embedded() -> list[tuple[str, str]]:
  """The models that the package carries, every byte against its digest."""
  from exp_jax.files import manifest

  problems = []
  for name in ('dit', 'vae', 'retouch', 'transfer', 'face_maps', 'sd_tiny'):
    try:
      words = manifest.problem(resources.package_file('embedded', name))
    except UserError as error:
      words = str(error)
    problems += [('problem', f'embedded model {name}: {words}')] if words else []
  return problems or [('ok', 'embedded models are sound')]


def metric_networks() -> tuple[str, str]:
  """The networks behind LPIPS and CSIM (dlib): those that set-up made, whole and of this version's
  archives."""
  from exp_jax.convert.metric_weights import fetched

  folder, command = resources.metric_weights(), resources.setup_command('--metrics')
  lacking = [name for name in fetched.FETCHED if not fetched.is_ready(name)]
  if damaged := [name for name in lacking if (folder / name).exists()]:
    return (
      'problem',
      f'metric networks: {", ".join(damaged)} in {folder} are damaged or of another version: run '
      f'{command}',
    )
  if lacking:
    labels = ', '.join(fetched.FETCHED[name].label for name in lacking)
    return (
      'note',
      f'metric networks: {", ".join(lacking)} are not fetched, so that evaluate leaves out '
      f'{labels}: run {command}',
    )
  return 'ok', f'metric networks: {", ".join(fetched.FETCHED)}, {folder}'


def fit(named: str) -> tuple[str, str]:
  """Whether a step of a config fits this host's devices, by shapes and by its compiler; and if not,
  what to change."""
  import jax

  from exp_jax.catalog.tasks import load_task
  from exp_jax.training import plan
  from exp_jax.training.settings import settings_of
  from exp_jax.training.sharding import make_mesh

  file, _, mode = named.partition(':')
  config = runpy.run_path(str(resources.config_file(file)))['get_config'](*[mode] if mode else [])
  settings, (_, task) = settings_of(config), load_task(config)
  try:
    mesh = make_mesh(settings.mesh)
  except UserError as error:
    return (
      'problem',
      f'{named}: {error}, or start it on as many; --dry_run --devices tells what each would need',
    )
  stats = jax.local_devices()[0].memory_stats() or {}
  have = stats.get('bytes_limit') or os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / len(
    jax.local_devices()
  )
  try:
    memory, _ = plan.memory_of(settings, task, mesh, limit=plan.ROOM * have)
  except ValueError as error:  # a kernel of other devices: the sentence says which and what instead
    return 'problem', f'{named}: {error}'
  state = sum(memory.parts.values())
  if memory.total <= plan.ROOM * have:
    return 'ok', (
      f'{named}: a step takes {memory.total / 1e9:.3g} of {have / 1e9:.3g} GB on a device, the '
      f'state {state / 1e9:.3g} '
      f"of them, by this machine's compiler in {memory.seconds:.0f} s"
    )
  better = plan.what_would_fit(config, load_task, memory, plan.ROOM * have)
  remedy = (
    f'it would fit with {better[0]} ({better[1].total / 1e9:.3g} GB)'
    if better
    else 'no recomputation, parts of a batch or smaller moments are enough here'
  )
  return 'problem', f'{named}: {plan.why_not(memory, plan.ROOM * have, mesh)}. {remedy}'


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
    '-o', '--output', type=pathlib.Path, default=pathlib.Path('out'), help='where runs would write'
  )
  parser.add_argument('--config', default='', metavar='FILE.py[:mode]', help='a run to judge')
  args = parser.parse_args(argv)
  if args.config:
    resources.config_file(args.config.partition(':')[0])  # complaints first
  found = devices()
  usable = all(verdict != 'problem' for verdict, _ in found)
  lines = [
    *versions(requirements(), tested_versions()),
    *found,
    memory(),
    disk(args.output),
    home(),
    estimator(),
  ]
  lines += [metric_networks(), *embedded()]
  lines += (
    [compiler(), head()]
    if usable
    else [('note', 'compiler and head are not looked at without a device')]
  )
  lines += [fit(args.config)] if args.config and usable else []
  for verdict, words in lines:
    print(f'{verdict:8s} {words}')
  problems = sum(verdict == 'problem' for verdict, _ in lines)
  if problems:
    raise UserError(f'{problems} {"problem" if problems == 1 else "problems"}, see above')
  return 0


if __name__ == '__main__':
  sys.exit(main())
