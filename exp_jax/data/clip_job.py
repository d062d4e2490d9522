"""A long list of clips through a function, on many hosts, killed and started again as often as it
pleases.

Each clip has a key: a digest of all bytes and settings that its records depend on. They lie in
parts/<key>.array_record, or the reason why there are none in parts/<key>.failed.json; both appear
whole. So a clip that is there is not made again, a changed one is, and any number of processes may
share a list and a folder. Records depend on the clip alone, so shards are the same bytes whoever
made their parts and however often they were stopped.

Reasons that lie in the clip are kept; errors that nobody foresaw (a device that fails) are tried
again at the next start. What ends the process itself (a decoder that crashes) is found by a note of
attempts. After five of either the clip is left out.
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

from exp_jax.data.clip_list import Item, share_of
from exp_jax.data.sources import PortraitClips, from_bytes, write_records
from exp_jax.errors import UserError, one_line, without_folders
from exp_jax.files.array_records import write_packed
from exp_jax.files.atomic import is_partial, write_text

ATTEMPTS = 5
_OF_THE_MACHINE = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EMFILE)
_STALE = 3600.0  # seconds after which a temporary file is nobody's: its writer was killed
# so many unforeseen errors on end, before and after the first success, are no fault of the clips
_IN_A_ROW = 5, 20


class Stop(UserError):
  """Ends the run: what is missing or full is not the clip's fault."""


def of_the_clip(error: Exception) -> Exception:
  """The error, if it may be blamed on a clip; raises it if it is `Stop` or of the machine (disk
  full, no rights)."""
  if isinstance(error, Stop) or isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
    raise error
  return error


@dataclasses.dataclass(frozen=True)
class Work:
  """key(item): hex digits of all that the records depend on, UserError if the item cannot be read.
  make(items): for each a
  list of records or the error that it ended with. together: how many items `make` is given at once.
  figures(item, key): what the report says of an item beside its status."""

  key: Callable[[Item], str]
  make: Callable[[list[Item]], list]
  together: int = 1
  figures: Callable[[Item, str], dict] = lambda item, key: {}


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of an item; reason is '' for one whose records are there. figures: measured on the
  way, for the report."""

  item: Item
  key: str
  reason: str
  figures: dict = dataclasses.field(default_factory=dict)


def digest_of(*parts) -> str:
  """32 hex digits of JSON-ready values."""
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def run_items(
  items: list[Item],
  output: pathlib.Path,
  work: Work,
  *,
  retry: bool = False,
  label: str = 'prepare',
) -> list[Outcome]:
  """Makes what is missing; returns an outcome for every item, in their order.

  A record that is in a finished shard is not missing, even if its part was deleted to save space.

  Args:
    retry: try again what failed before.

  Raises:
    Stop, OSError: see `of_the_clip`; or an unforeseen error that several clips ended with before
      the first success.
  """
  parts = output / 'parts'
  parts.mkdir(parents=True, exist_ok=True)
  for path in filter(is_partial, parts.iterdir()):
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
      outcomes[item.clip_id] = Outcome(
        item, '', without_folders(error, *() if item.path is None else (item.path.parent,))
      )
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
      group = pending[first : first + work.together]
      tried = [(item, key) for item, key in group if _attempt(parts, key, retry)]
      results = iter(work.make([item for item, _ in tried]))
      for item, key in group:
        result = (
          next(results)
          if (item, key) in tried
          else UserError(
            f'its preparation broke off {ATTEMPTS} times; look at it and at {output / "errors"}, '
            'then pass --retry_failed'
          )
        )
        unforeseen = 0 if isinstance(result, (list, UserError)) else unforeseen + 1
        outcomes[item.clip_id] = Outcome(item, key, _keep(output, item, key, result))
        successes += isinstance(result, list)
        bar.update()
        if unforeseen >= _IN_A_ROW[successes > 0]:
          raise result
  found = [outcomes[item.clip_id] for item in items]
  return [dataclasses.replace(one, figures=work.figures(one.item, one.key)) for one in found]


def _keep(output: pathlib.Path, item: Item, key: str, result) -> str:
  """Stores the records of a clip, or the reason why there are none, and returns the reason."""
  failed, note = (output / 'parts' / f'{key}.{ending}' for ending in ('failed.json', 'attempts'))
  folders = () if item.path is None else (item.path.parent,)
  if isinstance(result, list):
    write_records(_part(output, key), result)
    failed.unlink(missing_ok=True)
    note.unlink(missing_ok=True)
    return ''
  if isinstance(result, UserError):
    reason = without_folders(result, *folders)
    write_text(failed, json.dumps({'reason': reason}) + '\n')
    note.unlink(missing_ok=True)
  else:
    reason = without_folders(
      f'{type(result).__name__}: {" ".join(str(result).split())[:300]}', *folders
    )
    folder = output / 'errors'
    folder.mkdir(exist_ok=True)
    words = without_folders(''.join(traceback.format_exception(result)), *folders)
    (folder / f'{key}.txt').write_text(f'{item.clip_id}\n{words}')
  tqdm.tqdm.write(one_line(f'{item.name}: {reason}'), file=sys.stderr)
  return reason


def _part(output: pathlib.Path, key: str) -> pathlib.Path:
  return output / 'parts' / f'{key}.array_record'


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
  """A JSON object a line: clip, clip_id, subject_id, status 'ok' or 'failed', reason, and the
  figures of the clip."""
  lines = [
    json.dumps(
      {
        'clip': o.item.name,
        'clip_id': o.item.clip_id,
        'subject_id': o.item.subject_id,
        'status': 'failed' if o.reason else 'ok',
        'reason': o.reason,
      }
      | o.figures
    )
    for o in outcomes
  ]
  write_text(path, '\n'.join(lines) + '\n')


def finished_keys(output: pathlib.Path) -> dict[str, list[str]]:
  """Shards that are there, name -> keys of their records in order."""
  try:
    index = json.loads((output / 'index.json').read_text())
    return {
      name: list(entry['keys'])
      for name, entry in index.items()
      if (output / name).is_file() and (output / name).stat().st_size == entry['bytes']
    }
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return {}


NAMES = ('train', 'held_out')


def plan_shards(
  outcomes: list[Outcome], held_out: set[str], per_file: int, names: tuple[str, str] = NAMES
) -> dict[str, list[Outcome]]:
  """Name of each shard -> its clips.

  `per_file` clips a file, 0: one file a split. names: of the two splits.
  """
  plan = {}
  for split in names:
    # Split before failures are left out: repairing a clip must not move another person across the
    # border.
    good = [
      o for o in outcomes if (o.item.subject_id in held_out) == (split == names[1]) and not o.reason
    ]
    if not per_file:
      plan |= {f'{split}.array_record': good} if good else {}
      continue
    count = -(-len(good) // per_file)
    plan |= {
      f'{split}-{i:05d}-of-{count:05d}.array_record': good[i * per_file : (i + 1) * per_file]
      for i in range(count)
    }
  return plan


def write_shards(
  output: pathlib.Path, plan: dict[str, list[Outcome]], work: Work, names: tuple[str, str] = NAMES
) -> None:
  """Writes the shards that are not there yet and removes those of an earlier plan; a damaged part
  is made again."""
  done = finished_keys(output)
  index = {}
  for name, outcomes in tqdm.tqdm(plan.items(), desc='write', unit='file', disable=len(plan) < 3):
    keys = [outcome.key for outcome in outcomes]
    if done.get(name) != keys:
      write_packed(
        output / name, (data for outcome in outcomes for data in _records(output, outcome, work))
      )
    index[name] = {'keys': keys, 'bytes': (output / name).stat().st_size}
  for split in names:
    for old in (
      *output.glob(f'{split}.array_record'),
      *output.glob(f'{split}-*-of-*.array_record'),
    ):
      if old.name not in plan:
        old.unlink()
  write_text(output / 'index.json', json.dumps(index) + '\n')


def _records(output, outcome, work) -> list[bytes]:
  part = _part(output, outcome.key)
  with contextlib.suppress(ValueError, OSError):
    return _whole(part)
  result = work.make([outcome.item])[0]
  if not isinstance(result, list):
    raise UserError(f'{part} is damaged, and to make it again failed: {result}')
  write_records(part, result)
  return _whole(part)


def _whole(part: pathlib.Path) -> list[bytes]:
  """The packed records of a part, each looked at; ValueError if one is damaged."""
  source = PortraitClips(str(part))
  packed = [source.packed(i) for i in range(len(source))]
  for data in packed:
    from_bytes(data)
  return packed


def add_sharing_arguments(parser) -> None:
  """Options of every command that works through a list on one host or many."""
  parser.add_argument('--shard', type=int, help='only every --num_shards-th clip, from this one on')
  parser.add_argument('--num_shards', type=int, default=1)
  parser.add_argument(
    '--records_per_file',
    type=int,
    default=0,
    metavar='CLIPS',
    help='split shards into files of so many clips (default 0: one file)',
  )
  parser.add_argument(
    '--retry_failed', action='store_true', help='try clips again that failed before'
  )


def check_sharing(args) -> None:
  """UserError for values that cannot be."""
  for name, least in (('records_per_file', 0), ('num_shards', 1)):
    if getattr(args, name) < least:
      raise UserError(
        f'--{name} must {"not be negative" if least == 0 else f"be at least {least}"}, got '
        f'{getattr(args, name)}'
      )


def of_share(name: str, args) -> str:
  """A file's name, with the number of the host's share where there are several."""
  stem, _, ending = name.rpartition('.')
  return (
    name if args.shard is None else f'{stem}-{args.shard:05d}-of-{args.num_shards:05d}.{ending}'
  )


def run_shared(
  items: list[Item],
  output: pathlib.Path,
  work: Work,
  args,
  *,
  held_out: set[str],
  label: str,
  names: tuple[str, str] = NAMES,
) -> list[Outcome]:
  """Works through a list, or one host's share of it (then no shards are written), and writes the
  report.

  A run over the whole list takes what shares have made: it is their merging.
  """
  if args.shard is not None:
    outcomes = run_items(
      share_of(items, args.shard, args.num_shards),
      output,
      work,
      retry=args.retry_failed,
      label=f'{label} {args.shard}/{args.num_shards}',
    )
  else:
    outcomes = run_items(items, output, work, retry=args.retry_failed, label=label)
    write_shards(output, plan_shards(outcomes, held_out, args.records_per_file, names), work, names)
  write_report(output / of_share('report.jsonl', args), outcomes)
  return outcomes


def print_outcomes(output: pathlib.Path, outcomes: list[Outcome], done: str) -> int:
  """Says how many are done and names what failed; returns the exit status."""
  failed = [outcome for outcome in outcomes if outcome.reason]
  print(f'{output}: {len(outcomes) - len(failed)} clips {done}, {len(failed)} failed')
  for outcome in failed:
    print('  ' + one_line(f'{outcome.item.name}: {outcome.reason}'), file=sys.stderr)
  return 3 if failed else 0
