"""One clip through all probes, and what stays of it on disk, so that a set is finished where it was
interrupted.

  OUT/clips/<name>.json          key, frames, {metric: Score}
  OUT/clips/<name>.<side>.f32    features for FID (.fid) and FVD (.fvd): rows of float32
  OUT/clips/<name>.png           four moments: target, (portrait,) result

The key is a digest of the clip's files, the settings and the weights: where any of them changes,
the clip is done again.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Callable

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.atomic import replacing, write_text
from exp_jax.files.digests import file_digest
from exp_jax.files.resources import setup_command
from exp_jax.media.images import contact_sheet, resize, write_image
from exp_jax.metrics.evaluation.pairs import Pair, check, first_frames, windows
from exp_jax.metrics.evaluation.probes import Reference, Window
from exp_jax.metrics.faces import face_square
from exp_jax.metrics.framing import Framing
from exp_jax.metrics.motion import hpf
from exp_jax.metrics.score import Score, pooled
from exp_jax.metrics.steadiness import av_offset, jitter_score, seam_ratio

# squares are averaged
ROOTS = 'e_rmse', 'p_rmse', 'e_rmse_fit', 'p_rmse_fit', 'jitter', 'jitter_driver'
_FEATURES = ('fid.result', 'fid.target', 'fvd.result', 'fvd.target')
_TILE, _MOMENTS = 160, 4


@dataclasses.dataclass(frozen=True)
class Settings:
  """kind: self or cross; size, frames: of the protocol; stride: drivers must have been sampled
  with, None: any; seam_every: frames between seams of windows, 0 unknown; face_crop: compare a
  square about the head (of the truth; in cross-reenactment each its own), found in the first
  window; framing: 'record' or 'same', see `framing_of`."""

  kind: str
  size: int | None
  stride: int | None = None
  frames: int | None = None
  seam_every: int = 0
  face_crop: bool = False
  framing: str = 'record'


def key_of(pair: Pair, settings: Settings, framing: Framing, tools: dict) -> str:
  """24 hex digits of files, settings, framing and `tools` (metrics and digests of weights)."""
  found = hashlib.sha256(
    json.dumps([dataclasses.asdict(settings), framing.as_json(), tools], sort_keys=True).encode()
  )
  for path in filter(None, (pair.result, pair.target, pair.reference)):
    found.update(bytes.fromhex(file_digest(path)))
  return found.hexdigest()[:24]


def load_clip(folder: pathlib.Path, name: str, key: str) -> dict | None:
  """What `measure_clip` left, if it is there and of this key."""
  try:
    record = json.loads((folder / f'{name}.json').read_text())
  except (OSError, ValueError):
    return None
  return record if isinstance(record, dict) and record.get('key') == key else None


def scores_of(record: dict) -> dict[str, Score]:
  """The scores of a clip's record."""
  return {
    name: Score(
      **(fields | {'value': math.nan if fields['value'] is None else float(fields['value'])})
    )
    for name, fields in record['scores'].items()
  }


def as_json(score: Score) -> dict:
  """Fields of a score.

  JSON has neither NaN, which becomes None, nor infinity, which becomes the text 'inf'.
  """
  value = (
    score.value
    if math.isfinite(score.value)
    else None
    if math.isnan(score.value)
    else str(score.value)
  )
  return dataclasses.asdict(score) | {'value': value}


class _Features(contextlib.ExitStack):
  """Rows of float32 appended to files, which appear if the block whose context this is succeeds."""

  def __init__(self, folder: pathlib.Path, name: str):
    super().__init__()
    self._folder, self._name, self._files = folder, name, {}
    self.rows = {}

  def add(self, kind: str, rows: np.ndarray) -> None:
    if kind not in self._files:
      partial = self.enter_context(replacing(self._folder / f'{self._name}.{kind}.f32'))
      self._files[kind] = self.enter_context(open(partial, 'wb'))
    self._files[kind].write(np.ascontiguousarray(rows, np.float32).tobytes())
    count = self.rows.get(kind, [0, rows.shape[-1]])[0]
    self.rows[kind] = [count + len(rows), rows.shape[-1]]


def read_features(folder: pathlib.Path, name: str, kind: str, shape) -> np.ndarray:
  """[N, D] float32 mapped from the disk."""
  if not shape[0]:
    return np.zeros(shape, np.float32)
  return np.memmap(folder / f'{name}.{kind}.f32', np.float32, 'r', shape=tuple(shape))


def measure_clip(
  pair: Pair,
  settings: Settings,
  probes: list[Callable],
  folder: pathlib.Path,
  key: str,
  *,
  wanted: tuple[str, ...],
  framing: Framing = Framing(),
  reference: Reference | None = None,
  look: tuple[Callable, Callable] | None = None,
  look_once: Callable | None = None,
  progress: Callable = lambda count: None,
) -> dict:
  """Runs a clip through the probes and writes its record, sheet and features; returns the record.

  Args:
    probes: (window) -> (scores, arrays), fresh for this clip.
    folder: for the files; made if it is missing.
    framing: how the pair goes together; by default as the files are, frame by frame.
    look: landmarks of result and target frames, (frames) -> [T, 478, 2]; None: nobody looks.
    look_once: (name) -> such a follower, fresh; needed for `face_crop`.
    progress: called with how many frames are done, window by window.

  Raises:
    UserError: files that cannot be read or do not go together; nothing is left then.
  """
  times = check(pair, settings.frames, framing)
  total = min(times[0].frames, settings.frames or times[0].frames)
  squares = _squares(pair, settings, framing, look_once) if settings.face_crop else (None, None)
  moments = {round(m) for m in np.linspace(0, total - 1, _MOMENTS + 2)[1:-1]}
  folder.mkdir(parents=True, exist_ok=True)
  parts, asked, arrays, tiles, done = {}, [], {}, [], 0
  with _Features(folder, pair.name) as features:
    for result, target in windows(
      pair,
      kind=settings.kind,
      size=settings.size,
      frames=settings.frames,
      squares=squares,
      framing=framing,
    ):
      points = (None, None) if look is None else (look[0](result), look[1](target))
      window = Window(settings.kind, result, target, *points)
      for probe in probes:
        scores, found = probe(window)
        for name, score in scores.items():
          parts.setdefault(name, []).append(score)
        for name, rows in found.items():
          features.add(name, rows) if name in _FEATURES else arrays.setdefault(name, []).append(
            rows
          )
      for t in range(len(result)):
        if done + t in moments:
          tiles.append(_tile(target[t], reference, result[t]))
      asked.append(len(result))
      done += len(result)
      progress(len(result))
    scores = {name: pooled(found, root=name in ROOTS, asked=asked) for name, found in parts.items()}
    scores |= _of_the_whole({n: np.concatenate(v) for n, v in arrays.items()}, settings, times)
    record = {
      'key': key,
      'name': pair.name,
      'frames': done,
      'rate': times[0].rate,
      'framing': framing.as_json(),
      'features': features.rows,
      'scores': {name: as_json(score) for name, score in scores.items() if name in wanted},
    }
    write_image(folder / f'{pair.name}.png', np.concatenate(tiles, 1))
  write_text(folder / f'{pair.name}.json', json.dumps(record, indent=1) + '\n')
  return record


def _squares(pair: Pair, settings: Settings, framing: Framing, look_once: Callable | None):
  """Squares of result and target; UserError where no face is seen."""
  if look_once is None:
    raise UserError(
      f'--face_crop needs landmarks; run {setup_command()}, or leave --no_landmarks out'
    )
  found = []
  for path in (pair.target,) if settings.kind == 'self' else (pair.result, pair.target):
    frames = first_frames(path, framing) if path == pair.target else first_frames(path)
    points = look_once(path.name)(frames)
    if not np.isfinite(points).all((1, 2)).any():
      raise UserError(
        f'{path.name!r} shows no face in its first {len(frames)} frames; leave --face_crop out'
      )
    found.append(face_square(points, frames.shape[1:3]))
  return found[0], found[-1]


def _of_the_whole(arrays: dict[str, np.ndarray], settings: Settings, times) -> dict[str, Score]:
  """Scores that need the clip from end to end."""
  scores = {'av_offset': av_offset(*times)}
  if len(arrays.get('rotation.result', ())) > 1:
    turns = arrays['rotation.result'], arrays['rotation.target']
    scores |= {'hpf': hpf(*turns), 'hpf_camera': hpf(*turns, side='camera')}
  for name, key in (('jitter', 'second.result'), ('jitter_driver', 'second.target')):
    if len(arrays.get(key, ())):
      scores[name] = jitter_score(arrays[key])
  changes = arrays.get('changes', np.zeros(0))
  if len(changes):
    every = settings.seam_every
    scores['seam_ratio'] = seam_ratio(
      changes, np.arange(every, len(changes) + 1, every) if every else np.zeros(0, int)
    )
  return scores


def _tile(target, reference: Reference | None, result) -> np.ndarray:
  """Portrait (if there is one), target and result on top of each other, in tiles of one size on
  white."""
  shown = [target, result] if reference is None else [reference.picture, target, result]
  height = max(1, round(_TILE * result.shape[0] / result.shape[1]))
  return contact_sheet([fitted(picture, height, _TILE) for picture in shown], columns=1)


def fitted(picture: np.ndarray, height: int, width: int) -> np.ndarray:
  """A picture within [height, width], its sides in proportion, on white."""
  scale = min(height / picture.shape[0], width / picture.shape[1])
  small = resize(picture, tuple(max(1, round(scale * n)) for n in picture.shape[:2]))[
    :height, :width
  ]
  tile = np.full((height, width, 3), 255, np.uint8)
  top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
  tile[top : top + small.shape[0], left : left + small.shape[1]] = small
  return tile
