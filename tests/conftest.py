"""For all tests."""

import collections
import gc
import os
import pathlib

import pytest

from exp_jax.files.programs.compiled import keep_compiled

_LEAST = 0.2  # seconds of compiling from which a program is worth a file


def _share_compiled() -> None:
  """What one test has compiled, another one does not compile again: not in the next module, where
  JAX has forgotten it, not in the worker beside, not in the next run.

  Processes that a test starts are a user's, and compile for themselves. EXP_JAX_COMPILED=none turns
  it off.
  """
  folder = pathlib.Path(__file__).parent.parent / '.compiled' / 'tests'
  os.environ.setdefault('EXP_JAX_COMPILED', str(folder))
  kept = keep_compiled()
  import jax  # reads its environment here

  if kept:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', _LEAST)
    for name in (
      'JAX_COMPILATION_CACHE_DIR',
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS',
      'EXP_JAX_TRACED',
    ):
      del os.environ[name]
  os.environ['EXP_JAX_COMPILED'] = 'none'


_share_compiled()

import jax  # noqa: E402


@pytest.fixture(autouse=True, scope='module')
def compiled_programs_end_with_their_module():
  """A whole run in one process died in the compiler with a thousand programs alive, probably out of
  memory maps."""
  yield
  jax.clear_caches()
  gc.collect()


@pytest.fixture(scope='module')
def lightly_compiled():
  """For modules whose programs are large and run once: they are compiled without most
  optimisations, in half the time.

  A test of memory, of speed or of what a compiler makes of the code is no user of it.
  """
  before = jax.config.values['jax_disable_most_optimizations']
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', before)


def pytest_terminal_summary(terminalreporter):
  """What was skipped and why, each reason once, so that a green run says what it did not try."""
  reasons = collections.Counter()
  for report in terminalreporter.stats.get('skipped', []):
    words = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reasons[words.removeprefix('Skipped: ')] += 1
  if reasons:
    terminalreporter.section(f'{sum(reasons.values())} skipped', sep='-')
    for words, count in reasons.most_common():
      terminalreporter.write_line(f'{count:4}  {words}')
