"""Traced programs that outlive their process, so that a large function is traced once and not at
every start.

`files.programs.compiled` keeps what XLA compiled, but JAX has to trace a function before it can ask for the
program, and for nested loops under vmap that takes longer than running it. A function decorated
with `kept_traced` is exported (`jax.export`, StableHLO) into the same folder, which is its owner's
alone, each file with its digest beside it. The name of a file is a digest of everything that a trace
depends on: this package's files, versions, platform, the settings of JAX that change a trace, and the
shapes, structure and static arguments of the call. What is damaged is traced again.
"""

import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable

import jax
import numpy as np

from exp_jax import __version__
from exp_jax.files.atomic import replacing, write_text
from exp_jax.files.digests import file_digest, key_of
from exp_jax.files.programs.compiled import TRACED, digest_beside
from exp_jax.files.resources import package_file

FOLDER = 'EXP_JAX_TRACED'  # environment variable, set by `compiled.keep_compiled`
_SETTINGS = (
  'jax_default_matmul_precision',
  'jax_default_prng_impl',
  'jax_enable_x64',
  'jax_numpy_dtype_promotion',
  'jax_threefry_partitionable',
)
_ADDRESS = re.compile(r' at 0x[0-9a-f]+')


@functools.cache
def package_digest() -> str:
  """A digest of this package: of its code, and of what lies beside it by size and time."""
  found, root = hashlib.sha256(__version__.encode()), package_file()
  for path in sorted(p for p in root.rglob('*') if p.is_file() and p.suffix != '.pyc'):
    found.update(str(path.relative_to(root)).encode())
    if path.suffix == '.py':
      found.update(path.read_bytes())
    else:
      found.update(f'{path.stat().st_size} {path.stat().st_mtime_ns}'.encode())
  return found.hexdigest()


def _with_tuples(value):
  return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _write_static(fields) -> bytes:
  text = json.dumps(fields)
  if _with_tuples(json.loads(text)) != fields:
    raise ValueError(f'{fields!r} cannot be kept with a traced program')
  return text.encode()


def _read_static(data: bytes):
  return _with_tuples(json.loads(data))


class Traced:
  """A jitted function whose trace is kept; called as the function is.

  Attributes:
    jitted: the same by `jax.jit` alone.
  """

  def __init__(self, function: Callable, static_argnames: tuple[str, ...]):
    functools.update_wrapper(self, function)
    self.jitted = jax.jit(function, static_argnames=static_argnames)
    self._static, self._known = static_argnames, {}

  def __call__(self, *args, **static):
    folder = os.environ.get(FOLDER)
    key = self._key(args, static) if folder else None
    if key is None:
      return self.jitted(*args, **static)
    if key not in self._known:
      path = pathlib.Path(folder) / f'{self.__name__}-{key}{TRACED}'
      exported = _read(path) or self._export(path, args, static)
      self._known[key] = None if exported is None else jax.jit(exported.call)
    if self._known[key] is None:
      return self.jitted(*args, **static)
    return self._known[key](*jax.tree.leaves(args))

  def _key(self, args, static: dict) -> str | None:
    """A name for the trace of this call; None where it cannot be kept."""
    leaves, structure = jax.tree.flatten(args)
    if set(static) != set(self._static) or jax.config.jax_disable_jit:
      return None
    kinds = []
    for leaf in leaves:
      if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, (np.ndarray, jax.Array)):
        return None
      weak = getattr(leaf, 'weak_type', False)  # keys of random numbers have none
      if weak or isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1:
        return None
      kinds.append((str(leaf.dtype), leaf.shape))
    words = repr((structure, sorted(static.items())))
    if _ADDRESS.search(words):
      return None
    settings = [str(getattr(jax.config, name)) for name in _SETTINGS]
    versions = jax.__version__, jax.lib.__version__, jax.default_backend()
    return key_of(
      self.__module__, self.__qualname__, words, kinds, settings, versions, package_digest()
    )

  def _export(self, path: pathlib.Path, args, static: dict):
    """The trace, kept under `path`; None if it cannot be exported."""
    leaves, structure = jax.tree.flatten(args)
    flat = lambda *leaves: self.jitted(*jax.tree.unflatten(structure, leaves), **static)
    try:
      exported = jax.export.export(jax.jit(flat))(*leaves)
      data = exported.serialize()
    except (ValueError, NotImplementedError):  # a custom call without a promise of stability
      return None
    try:
      with replacing(path) as part:
        part.write_bytes(data)
      write_text(digest_beside(path), file_digest(path))
    except OSError:  # a full disk costs the next start some time
      pass
    return jax.export.deserialize(data)


def _read(path: pathlib.Path):
  """The trace of a file; None if it is not there, or is not what was written."""
  try:
    if digest_beside(path).read_text() == file_digest(path):
      return jax.export.deserialize(bytearray(path.read_bytes()))
  except (OSError, ValueError):
    pass
  return None


def kept_traced(*, static_argnames: tuple[str, ...], result: type) -> Callable[[Callable], Traced]:
  """Decorates a pure function as `jax.jit` does, and keeps its traces for the next process.

  Worth it for functions whose tracing takes a second or more. Without a folder (`FOLDER`), inside
  another trace, with arrays on several devices, or where a custom call cannot be exported, it is
  `jax.jit` and nothing else.

  Args:
    static_argnames: keyword arguments that are not arrays; a call gives all of them, and their
      `repr` tells their values.
    result: the flax dataclass that the function returns.
  """
  jax.export.register_pytree_node_serialization(
    result,
    serialized_name=f'{result.__module__}.{result.__name__}',
    serialize_auxdata=_write_static,
    deserialize_auxdata=_read_static,
  )
  return lambda function: Traced(function, static_argnames)
