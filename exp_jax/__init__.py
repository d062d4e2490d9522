"""ExpPortrait and its siblings in functional JAX: `load` a system and animate, `fit` a personalized
head."""

import importlib.metadata
import os

__version__ = '0.1.0'
__all__ = ['__version__', 'fit', 'load']

_FUSIONS = '--xla_cpu_experimental_ynn_fusion_type'


def _compile_soundly():
  """Keeps XLA on CPUs from handing reductions to YNNPACK; a choice in XLA_FLAGS stands.

  From jaxlib 0.10.2 on a compiled sum may return wrong numbers or memory that nobody wrote: a
  gradient of this package was wrong by 1e12, or NaN, from one call to the next
  (github.com/jax-ml/jax/issues/39103, 39257, 40412). Flags are read when JAX first computes, so
  this module is to be imported before that; `exp-jax doctor` tries whether it helped.
  """
  try:
    version = importlib.metadata.version('jaxlib')
  except importlib.metadata.PackageNotFoundError:
    return
  numbers = tuple(int(part) if part.isdigit() else 0 for part in version.split('.')[:3])
  flags = os.environ.get('XLA_FLAGS', '')
  if (0, 10, 2) <= numbers < (
    0,
    12,
  ) and _FUSIONS not in flags:  # a flag that a compiler does not know ends the process
    os.environ['XLA_FLAGS'] = f'{flags} {_FUSIONS}='.strip()


_compile_soundly()


def __getattr__(name: str):
  if name in ('load', 'fit'):  # found when asked for, so that commands start without the systems
    from exp_jax import api

    return getattr(api, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
