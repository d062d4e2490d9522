"""ExpPortrait and its siblings in functional JAX: `load` a system and animate, `fit` a personalized head."""

__version__ = '0.1.0'
__all__ = ['__version__', 'fit', 'load']


def __getattr__(name: str):
  if name in ('load', 'fit'):  # found when asked for, so that commands start without the systems
    from exp_jax import api
    return getattr(api, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
