"""Settings of a server: limits, how long things stay, which engines it has.

Flags and checks follow from this one declaration.
"""

import dataclasses
import pathlib

from exp_jax import catalog
from exp_jax.commands.animate import ENGINES
from exp_jax.errors import UserError
from exp_jax.files.resources import home
from exp_jax.performance.options import check, described, option

_WITH_OWN_WEIGHTS = ('proxy', 'dit')  # the others need an export


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a studio allows and for how long it remembers."""

  folder: pathlib.Path | None = option(
    None, 'where uploads and results lie (default: .studio in the home of exp_jax)', metavar='DIR'
  )
  max_megabytes: float = option(200.0, 'largest upload', low=0.001, high=100_000, unit='MB')
  max_seconds: float = option(60.0, 'longest clip', low=0.1, high=86_400, unit='seconds')
  queue: int = option(20, 'jobs that may wait', low=1, high=10_000)
  uploads: int = option(50, 'uploads that may lie there at once', low=1, high=100_000)
  jobs: int = option(500, 'jobs whose results may lie there at once', low=1, high=100_000)
  keep_hours: float = option(
    24.0, 'uploads and results are deleted after so long', low=0.001, high=8760, unit='hours'
  )
  patience: float = option(
    10.0,
    'a job that does not stop so long after a cancellation is ended with its process',
    low=0.1,
    high=3600,
    unit='seconds',
  )
  runs: pathlib.Path | None = option(
    None,
    'folder of training runs that may be looked at; nothing outside of it is read',
    metavar='DIR',
  )
  silence: float = option(
    900.0, 'a worker that reports nothing for so long is ended', low=1, high=86_400, unit='seconds'
  )

  def __post_init__(self):
    check(self)

  @property
  def place(self) -> pathlib.Path:
    """The folder of uploads and results."""
    return (home() / '.studio' if self.folder is None else pathlib.Path(self.folder)).absolute()

  @property
  def max_bytes(self) -> int:
    """Largest upload in bytes."""
    return int(self.max_megabytes * 1e6)

  @property
  def max_frames(self) -> int:
    """Most frames of a clip, whatever its rate says: 60 a second."""
    return max(1, int(self.max_seconds * 60))


def loading_of(exports: list[str], choices: list[str]) -> dict[str, dict]:
  """How each engine is loaded.

  Args:
    exports: 'ENGINE=DIR' of engines with weights of one's own.
    choices: 'ENGINE.OPTION=VALUE' of an engine's LoadOptions.

  Returns:
    {engine: {'export': text or None, option: text}}, of the engines that can be loaded.

  Raises:
    UserError: another form, no such engine, no such option.
  """
  found: dict[str, dict] = {name: {'export': None} for name in _WITH_OWN_WEIGHTS}
  for text in exports:
    engine, equals, path = text.partition('=')
    if not equals or engine not in ENGINES or engine == 'proxy':
      raise UserError(
        '--export takes ENGINE=DIR with ENGINE of '
        f'{", ".join(e for e in ENGINES if e != "proxy")}; got {text!r}'
      )
    if not pathlib.Path(path).is_dir():
      raise UserError(f'--export {engine}: the folder {path!r} does not exist')
    found.setdefault(engine, {})['export'] = str(pathlib.Path(path).absolute())
  for text in choices:
    name, equals, value = text.partition('=')
    engine, dot, key = name.partition('.')
    if not equals or not dot or engine not in ENGINES:
      raise UserError(
        f'--load takes ENGINE.OPTION=VALUE with ENGINE of {", ".join(ENGINES)}; got {text!r}'
      )
    known = {each.name: each for each in described(catalog.SYSTEMS[ENGINES[engine]].LoadOptions)}
    if key not in known:
      raise UserError(f'--load: engine {engine} has no option {key!r}; it has {", ".join(known)}')
    kind = known[key].kind
    if kind is bool and value not in ('true', 'false'):
      raise UserError(f'--load {name} must be true or false, got {value!r}')
    found.setdefault(engine, {'export': None})[key] = value == 'true' if kind is bool else value
  return found
