"""Reads suspicious files in a process of their own that may not grow, and reports what it said and
how it grew."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
# Reads each file with at most 512 MB more address space than the imports took; prints growth and
# refusals.
CHILD = """
import json, resource, sys
from exp_jax.convert.foreign.pickles import read_pickle
from exp_jax.errors import UserError
from exp_jax.files.npz import read_npz
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, -1))
start, said = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
for path in sys.argv[1:]:
  try:
    (read_npz if path.endswith('.npz') else read_pickle)(path)
    said[path] = 'accepted'
  except UserError as error:
    said[path] = str(error)
growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
print(json.dumps([growth / 1024, said]))
"""


def read_in_a_small_process(paths) -> tuple[float, dict[str, str]]:
  """Growth of memory in MB, and what was said of each file."""
  out = subprocess.run(
    [sys.executable, '-c', CHILD, *map(str, paths)],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env={'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'PATH': '/usr/bin'},
  )
  assert out.returncode == 0, out.stderr[-2000:]
  return tuple(json.loads(out.stdout))
