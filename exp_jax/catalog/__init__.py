"""The systems that animate, by name: what can be chosen of each, and where its computation lies.

A system's `animate` module has `load(...) -> model`;
`model.animate(portrait, driving, *, options, progress, cancel) -> Animation`. It is imported when a
system is loaded, so that a command's help and its checks do not wait for JAX. What can be trained
is in `tasks.py`, so that whoever animates does not import it.
"""

import dataclasses
import importlib

from exp_jax.systems.expportrait import options as expportrait
from exp_jax.systems.liveportrait import options as liveportrait
from exp_jax.systems.loki import options as loki
from exp_jax.systems.magicportrait import options as magicportrait


@dataclasses.dataclass(frozen=True)
class System:
  """A system that animates.

  Attributes:
    Options: dataclass of what can be chosen of an animation.
    LoadOptions: dataclass of what is chosen when the system is loaded.
    module: name of the module that computes.
  """

  Options: type
  LoadOptions: type
  module: str

  def load(self, *args, **options):
    """`load` of the system's module: the model, ready to animate."""
    return importlib.import_module(self.module).load(*args, **options)


SYSTEMS = {
  'expportrait': System(
    expportrait.Options, expportrait.LoadOptions, 'exp_jax.systems.expportrait.animate'
  ),
  'liveportrait': System(
    liveportrait.Options, liveportrait.LoadOptions, 'exp_jax.systems.liveportrait.animate'
  ),
  'loki': System(loki.Options, loki.LoadOptions, 'exp_jax.systems.loki.animate'),
  'magicportrait': System(
    magicportrait.Options, magicportrait.LoadOptions, 'exp_jax.systems.magicportrait.animate'
  ),
}
