"""The list of clips behind a set of scores, so that a figure can be made again: which files, which
frames, by digest.

  OUT/clips.json    {"protocol", "stride", "clips": [{"name", "result", "target", "reference", "frames", "framing"}]}

Files are named without their folders, with sha256. Given back (`--clips`), the list chooses the
clips; their truths or drivers and portraits must be the same files, and the results must follow the
same frames. Results may be of another model.
"""

import json
import pathlib

from exp_jax.errors import UserError
from exp_jax.files.atomic import write_text
from exp_jax.files.digests import file_digest
from exp_jax.metrics.evaluation.pairs import Pair
from exp_jax.metrics.framing import Framing


def clip_entry(pair: Pair, framing: Framing, frames: int) -> dict:
  """One clip of the list; `frames` of the result were measured."""
  file = lambda path: None if path is None else {'file': path.name, 'sha256': file_digest(path)}
  return {
    'name': pair.name,
    'result': file(pair.result),
    'target': file(pair.target),
    'reference': file(pair.reference),
    'frames': frames,
    'framing': framing.as_json(),
  }


def write_clip_list(
  output: pathlib.Path, protocol: str, stride: int | None, entries: list[dict]
) -> None:
  """<output>/clips.json, atomic."""
  write_text(
    output / 'clips.json',
    json.dumps({'protocol': protocol, 'stride': stride, 'clips': entries}, indent=1) + '\n',
  )


def read_clip_list(path: pathlib.Path) -> dict[str, dict]:
  """{name: entry}.

  Raises:
    UserError: the file is none that `evaluate` wrote.
  """
  try:
    clips = json.loads(path.read_text())['clips']
    return {
      entry['name']: entry
      for entry in clips
      if entry['target']['sha256'] and entry['framing'] and entry['frames']
    }
  except (OSError, ValueError, KeyError, TypeError):
    raise UserError(
      f'{str(path)!r} is no list of clips; give the clips.json that `evaluate` leaves beside its '
      'scores'
    ) from None


def chosen_pairs(pairs: list[Pair], listed: dict[str, dict]) -> list[Pair]:
  """The pairs that a list names.

  Raises:
    UserError: one is missing, or its truth, driver or portrait is another file.
  """
  found = {pair.name: pair for pair in pairs}
  if missing := sorted(set(listed) - set(found)):
    raise UserError(
      f'the list of clips names {missing[0]!r}, of which there is no result; {len(missing)} of '
      f'{len(listed)} are '
      'missing'
    )
  for name, entry in listed.items():
    for what, path in (('target', found[name].target), ('reference', found[name].reference)):
      known = entry.get(what)
      if (
        (path is None) != (known is None)
        or path is not None
        and file_digest(path) != known['sha256']
      ):
        raise UserError(
          f'the {what} of {name!r} is not the file that the list of clips names'
          + (f', {known["file"]!r}' if known else '')
        )
  return [found[name] for name in listed]


def check_listed(entry: dict, framing: Framing, name: str) -> None:
  """UserError where a result follows other frames than the list says."""
  known, made = entry['framing'], framing.as_json()
  if (known['stride'], known['frames']) != (made['stride'], made['frames']):
    raise UserError(
      f'{name!r} follows other frames of its driver than the list of clips says (stride '
      f'{known["stride"]}); animate it '
      f'again with --driving_stride {known["stride"]}'
    )
