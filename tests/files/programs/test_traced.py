"""A trace that one process has kept serves the next, bit for bit, and nothing that is damaged or of
another call ever does."""

import json
import os
import pathlib
import subprocess
import sys

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.files.programs import traced

ROOT = pathlib.Path(__file__).parents[3]
PROGRAM = """
import json, sys
import flax.struct, jax, jax.numpy as jnp, numpy as np
from exp_jax.files.programs.compiled import keep_compiled
from exp_jax.files.programs.traced import kept_traced

@flax.struct.dataclass
class Found:
  values: jax.Array
  sizes: tuple = flax.struct.field(pytree_node=False)

runs = []
@kept_traced(static_argnames=('times', 'sizes'), result=Found)
def iterate(tree, key, *, times, sizes):
  runs.append(1)
  x = jax.lax.fori_loop(0, times, lambda _, x: jnp.sin(tree['a'] @ x), tree['b'])
  return Found(x + jax.random.normal(key, x.shape), sizes)

folder = keep_compiled()
tree = {'a': np.linspace(0, 1, 9, dtype=np.float32).reshape(3, 3), 'b': np.ones(3, np.float32)}
found = iterate(tree, jax.random.key(3), times=int(sys.argv[1]), sizes=(4, (5, 6)))
again = iterate(tree, jax.random.key(3), times=int(sys.argv[1]), sizes=(4, (5, 6)))
assert (np.asarray(found.values) == np.asarray(again.values)).all()
print(json.dumps([[float(v).hex() for v in found.values], repr(found.sizes), len(runs)]))
"""


def run(folder, times=5):
  """[values, static field, how often Python ran the function] of one process."""
  kept = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(('JAX_COMPILATION', 'JAX_PERSISTENT', 'EXP_JAX'))
  }
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM, str(times)],
    capture_output=True,
    text=True,
    timeout=300,
    env=kept | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'EXP_JAX_COMPILED': str(folder)},
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.mark.long
def test_the_next_process_does_not_trace_and_gets_the_same_bits(tmp_path):
  values, sizes, runs = plain = run('none')
  assert runs == 1 and sizes == '(4, (5, 6))'
  assert run(tmp_path) == plain  # traces, and keeps it
  (entry,) = tmp_path.glob('*/*-traced')
  assert run(tmp_path) == [values, sizes, 0]
  other = run(tmp_path, times=6)
  assert other[0] != values and other[2] == 1
  assert len(list(tmp_path.glob('*/*-traced'))) == 2
  data = bytearray(entry.read_bytes())
  data[len(data) // 2] ^= 1
  entry.write_bytes(data)
  assert run(tmp_path) == plain
  assert run(tmp_path) == [values, sizes, 0]
  entry.with_name(entry.name + '.sha256').unlink()
  assert run(tmp_path) == plain


@flax.struct.dataclass
class Result:
  value: jax.Array


@pytest.fixture
def doubled(tmp_path, monkeypatch):
  """A function whose traces are kept in an empty folder, and the list of what it was traced with."""
  monkeypatch.setenv(traced.FOLDER, str(tmp_path))
  seen = []

  def double(x, *, by):
    seen.append(x.aval.str_short())
    return Result(x * by)

  kept = traced.Traced(double, ('by',))
  return kept, seen


try:
  jax.export.register_pytree_node_serialization(
    Result,
    serialized_name='tests.Result',
    serialize_auxdata=lambda aux: b'',
    deserialize_auxdata=lambda data: (),
  )
except ValueError:  # the module is imported a second time
  pass


def test_each_shape_type_and_setting_has_a_trace_of_its_own(doubled, tmp_path):
  kept, seen = doubled
  calls = [(np.ones(3, np.float32), 2), (np.ones(4, np.float32), 2), (np.ones(3, np.int32), 2)]
  for x, by in (*calls, (np.ones(3, np.float32), 3)):
    np.testing.assert_array_equal(kept(x, by=by).value, x * by)
  with jax.default_matmul_precision('float32'):
    kept(np.ones(3, np.float32), by=2)
  assert len(list(tmp_path.glob('*-traced'))) == 5


@pytest.mark.parametrize('x', [jnp.asarray(2.0), 2.0])
def test_what_a_trace_would_not_tell_apart_is_not_kept(doubled, tmp_path, x):
  """A weak type decides what a sum with a smaller type is; files know none."""
  kept, _ = doubled
  assert float(kept(x, by=2).value) == 4
  assert not list(tmp_path.iterdir())


def test_within_another_trace_and_without_a_folder_it_is_jit(doubled, tmp_path, monkeypatch):
  kept, _ = doubled
  x = np.ones(3, np.float32)
  slope = jax.grad(lambda x: kept(x, by=3).value.sum())(x)
  np.testing.assert_array_equal(slope, 3 * x)
  monkeypatch.delenv(traced.FOLDER)
  kept(x, by=2)
  assert not list(tmp_path.iterdir())


def test_a_static_argument_that_has_no_name_is_not_kept(doubled, tmp_path):
  kept, _ = doubled
  unnamed = type('Unnamed', (), {'__jax_array__': lambda self: jnp.float32(5)})()
  np.testing.assert_array_equal(kept(np.ones(2, np.float32), by=unnamed).value, [5, 5])
  assert not list(tmp_path.iterdir())


def test_a_full_disk_costs_nothing_but_time(doubled, tmp_path, monkeypatch):
  kept, _ = doubled
  monkeypatch.setenv(traced.FOLDER, str(tmp_path / 'not there'))
  np.testing.assert_array_equal(kept(np.ones(2, np.float32), by=2).value, [2, 2])
