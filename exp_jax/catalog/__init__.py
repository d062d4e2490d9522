"""The systems that animate, by name.

A system's `animate` module has `load(...) -> model`, `Options` and `LoadOptions` (its dataclasses),
and `from_command`, which loads it as the command line says;
`model.animate(portrait, driving, *, options, progress, cancel) -> Animation`. What can be trained
is in `tasks.py`, so that whoever animates does not import it.
"""

from exp_jax.systems.expportrait import animate as expportrait
from exp_jax.systems.liveportrait import animate as liveportrait
from exp_jax.systems.loki import animate as loki
from exp_jax.systems.magicportrait import animate as magicportrait

SYSTEMS = {
  'expportrait': expportrait,
  'liveportrait': liveportrait,
  'loki': loki,
  'magicportrait': magicportrait,
}
