"""A long list of clips through a function, on many hosts, killed and started again as often as it pleases.

Each clip has a key: a digest of all bytes and settings that its record depends on. The record lies at parts/<key>.npz,
or the reason why there is none at parts/<key>.failed.json; both appear whole. So a clip that is there is not made again, a
changed one is, and any number of processes may share a list and a folder. Records depend on the clip alone, so
shards are the same bytes whoever made their parts and however often they were stopped.

Reasons that lie in the clip are kept; errors that nobody foresaw (a device that fails) are tried again at the next start. What
ends the process itself (a decoder that crashes) is found by a note of attempts. After five of either the clip is left out.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import pathlib
import sys
import time
import traceback
from collections.abc import Callable

import tqdm

from exp_jax.data.sources import from_bytes, to_bytes, write_records
from exp_jax.errors import UserError
from exp_jax.media.atomic import replacing
from exp_jax.systems.expportrait.prepare_list import Item

ATTEMPTS = 5
_OF_THE_MACHINE = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EMFILE)
_STALE = 3600.0  # seconds after which a temporary file is nobody's: its writer was killed
_IN_A_ROW = 5, 20  # so many unforeseen errors on end, before and after the first success, are no fault of the clips


class Stop(UserError):
  """Ends the run: what is missing or full is not the clip's fault."""


def of_the_clip(error: Exception) -> Exception:
  """The error, if it may be blamed on a clip; raises it if it is `Stop` or of the machine (disk full, no rights)."""
  if isinstance(error, Stop) or isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
    raise error
  return error


@dataclasses.dataclass(frozen=True)
class Work:
  """key(item): hex digits of all that the record depends on, UserError if the item cannot be read. make(items): for each a
  record or the error that it ended with. together: how many items `make` is given at once."""
  key: Callable[[Item], str]
  make: Callable[[list[Item]], list]
  together: int = 1


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of an item; reason is '' for one whose record is there."""
  item: Item
  key: str
  reason: str


class Digests:
  """SHA-256 of files, remembered beside the output by size and time of change, so that a restart reads nothing twice."""

  def __init__(self, path: pathlib.Path):
    self._path, self._known = path, {}
    if path.is_file():
      for line in path.read_text(errors='replace').splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):   # a line that was cut off by a kill
          entry = json.loads(line)
          self._known[entry['path'], entry['size'], entry['time']] = entry['sha256']

  def __call__(self, path: pathlib.Path) -> str:
    """UserError if the file is missing or empty."""
    try:
      stat = path.stat()
    except OSError as error:
      raise UserError(f'{str(path)!r} cannot be read ({error.strerror})') from None
    if stat.st_size == 0:
      raise UserError(f'{str(path)!r} is empty (0 bytes); record or export it again')
    entry = str(path.absolute()), stat.st_size, stat.st_mtime_ns
    if entry not in self._known:
      digest = hashlib.sha256()
      with open(path, 'rb') as stream:
        while block := stream.read(1 << 20):
          digest.update(block)
      self._known[entry] = digest.hexdigest()
      self._path.parent.mkdir(parents=True, exist_ok=True)
      with open(self._path, 'a') as stream:
        stream.write('\n' + json.dumps(dict(path=entry[0], size=entry[1], time=entry[2], sha256=digest.hexdigest())))
    return self._known[entry]


def digest_of(*parts) -> str:
  """32 hex digits of JSON-ready values."""
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def run_items(items: list[Item], output: pathlib.Path, work: Work, *, retry: bool = False, label: str = 'prepare'
              ) -> list[Outcome]:
  """Makes what is missing; returns an outcome for every item, in their order.

  A record that is in a finished shard is not missing, even if its part was deleted to save space.

  Args:
    retry: try again what failed before.

  Raises:
    Stop, OSError: see `of_the_clip`; or an unforeseen error that several clips ended with before the first success.
  """
  parts = output / 'parts'
  parts.mkdir(parents=True, exist_ok=True)
  for path in parts.glob('.*.partial*'):
    with contextlib.suppress(OSError):
      if time.time() - path.stat().st_mtime > _STALE:
        path.unlink()
  finished = {key for keys in finished_keys(output).values() for key in keys}
  outcomes: dict[str, Outcome] = {}
  pending: list[tuple[Item, str]] = []
  for item in tqdm.tqdm(items, desc='look', unit='clip', disable=len(items) < 500, leave=False):
    if item.wrong:
      outcomes[item.clip_id] = Outcome(item, '', item.wrong)
      continue
    try:
      key = work.key(item)
    except UserError as error:
      outcomes[item.clip_id] = Outcome(item, '', str(error))
      continue
    if key in finished or _part(output, key).is_file():
      outcomes[item.clip_id] = Outcome(item, key, '')
    elif (reason := _failure(parts, key)) and not retry:
      outcomes[item.clip_id] = Outcome(item, key, reason)
    else:
      pending.append((item, key))
  unforeseen, successes = 0, 0
  with tqdm.tqdm(total=len(items), initial=len(outcomes), desc=label, unit='clip') as bar:
    for first in range(0, len(pending), work.together):
      group = pending[first:first + work.together]
      tried = [(item, key) for item, key in group if _attempt(parts, key, retry)]
      results = iter(work.make([item for item, _ in tried]))
      for item, key in group:
        result = next(results) if (item, key) in tried else UserError(
          f'its preparation broke off {ATTEMPTS} times; look at it and at {output / "errors"}, then pass --retry_failed')
        unforeseen = 0 if isinstance(result, (dict, UserError)) else unforeseen + 1
        outcomes[item.clip_id] = Outcome(item, key, _keep(output, item, key, result))
        successes += isinstance(result, dict)
        bar.update()
        if unforeseen >= _IN_A_ROW[successes > 0]:
          raise result
  return [outcomes[item.clip_id] for item in items]


def _keep(output: pathlib.Path, item: Item, key: str, result) -> str:
  """Stores a record, or the reason why there is none, and returns the reason."""
  failed, note = (output / 'parts' / f'{key}.{ending}' for ending in ('failed.json', 'attempts'))
  if isinstance(result, dict):
    with replacing(_part(output, key)) as partial:
      partial.write_bytes(to_bytes(result))
    failed.unlink(missing_ok=True)
    note.unlink(missing_ok=True)
    return ''
  if isinstance(result, UserError):
    reason = str(result)
    with replacing(failed) as partial:
      partial.write_text(json.dumps({'reason': reason}) + '\n')
    note.unlink(missing_ok=True)
  else:
    reason = f'{type(result).__name__}: {" ".join(str(result).split())[:300]}'
    folder = output / 'errors'
    folder.mkdir(exist_ok=True)
    words = ''.join(traceback.format_exception(result))
    (folder / f'{key}.txt').write_text(f'{item.clip_id}\n{words}')
  tqdm.tqdm.write(f'{item.name}: {reason}', file=sys.stderr)
  return reason


def _part(output: pathlib.Path, key: str) -> pathlib.Path:
  return output / 'parts' / f'{key}.npz'


def _failure(parts: pathlib.Path, key: str) -> str:
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
    return str(json.loads((parts / f'{key}.failed.json').read_text())['reason'])
  return ''


def _attempt(parts: pathlib.Path, key: str, retry: bool) -> bool:
  """Notes that a clip is begun; False if that was noted too often without an end."""
  note = parts / f'{key}.attempts'
  if retry:
    note.unlink(missing_ok=True)
  if note.is_file() and note.stat().st_size >= ATTEMPTS:
    return False
  with open(note, 'ab') as stream:
    stream.write(b'.')
  return True


def write_report(path: pathlib.Path, outcomes: list[Outcome]) -> None:
  """A JSON object a line: clip, clip_id, subject_id, status 'ok' or 'failed', reason."""
  lines = [json.dumps({'clip': o.item.name, 'clip_id': o.item.clip_id, 'subject_id': o.item.subject_id,
                       'status': 'failed' if o.reason else 'ok', 'reason': o.reason}) for o in outcomes]
  with replacing(path) as partial:
    partial.write_text('\n'.join(lines) + '\n')


def finished_keys(output: pathlib.Path) -> dict[str, list[str]]:
  """Shards that are there, name -> keys of their records in order."""
  try:
    index = json.loads((output / 'index.json').read_text())
    return {name: list(entry['keys']) for name, entry in index.items()
            if (output / name).is_file() and (output / name).stat().st_size == entry['bytes']}
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return {}


def plan_shards(outcomes: list[Outcome], held_out: set[str], per_file: int) -> dict[str, list[Outcome]]:
  """Name of each shard -> its records. `per_file` 0: one file a split."""
  plan = {}
  for split in ('train', 'held_out'):
    # Split before failures are left out: repairing a clip must not move another person across the border.
    good = [o for o in outcomes if (o.item.subject_id in held_out) == (split == 'held_out') and not o.reason]
    if not per_file:
      plan |= {f'{split}.array_record': good} if good else {}
      continue
    count = -(-len(good) // per_file)
    plan |= {f'{split}-{i:05d}-of-{count:05d}.array_record': good[i * per_file:(i + 1) * per_file] for i in range(count)}
  return plan


def write_shards(output: pathlib.Path, plan: dict[str, list[Outcome]], work: Work) -> None:
  """Writes the shards that are not there yet and removes those of an earlier plan; a damaged part is made again."""
  done = finished_keys(output)
  index = {}
  for name, outcomes in tqdm.tqdm(plan.items(), desc='write', unit='file', disable=len(plan) < 3):
    keys = [outcome.key for outcome in outcomes]
    if done.get(name) != keys:
      write_records(output / name, (_record(output, outcome, work) for outcome in outcomes))
    index[name] = {'keys': keys, 'bytes': (output / name).stat().st_size}
  for split in ('train', 'held_out'):
    for old in (*output.glob(f'{split}.array_record'), *output.glob(f'{split}-*-of-*.array_record')):
      if old.name not in plan:
        old.unlink()
  with replacing(output / 'index.json') as partial:
    partial.write_text(json.dumps(index) + '\n')


def _record(output, outcome, work):
  part = _part(output, outcome.key)
  with contextlib.suppress(ValueError, OSError):
    return from_bytes(part.read_bytes())
  result = work.make([outcome.item])[0]
  if not isinstance(result, dict):
    raise UserError(f'{part} is damaged, and to make it again failed: {result}')
  with replacing(part) as partial:
    partial.write_bytes(to_bytes(result))
  return result
