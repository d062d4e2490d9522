"""From a clip's pixels to window records: which windows, which references, and their codes.

A generator is trained on windows of N frames. The codes of an autoencoder with a temporal stride
belong to the frame that it began with, so windows are chosen when codes are made, seeded by the
clip's id:

  - their starts are spread so that every frame of the clip lies in a window, with a stride of 1 to
    `largest_stride` each;
  - a share `later` of them begins in the middle of a longer code: `lead` latent frames are encoded
    before it and left out. That is how `sample.stream` meets every window but a clip's first;
  - references are frames of the clip whose heads are turned as far from each other as can be.

With codes of single frames any window can be cut later: the record is the whole clip.
Letters: T frames of a clip, N of a window, F latent frames, R references.
"""

import dataclasses
import json
import zlib
from collections.abc import Callable

import numpy as np

from exp_jax.data.transforms import angles, turned, valid_cells
from exp_jax.errors import UserError
from exp_jax.networks.codec import Codec


@dataclasses.dataclass(frozen=True)
class WindowOptions:
  """What is cut out of a clip; see the top of the file.

  Attributes:
    frames: N, 1 plus a multiple of the autoencoder's temporal stride.
    windows: of a clip; 0: as many as cover it one and a half times.
    largest_stride: frames between neighbours, at most.
    later: share of windows that begin in the middle of a code.
    lead: latent frames before those, at most.
    references: R.
    seed: of all draws, beside the clip's id.
  """

  frames: int = 49
  windows: int = 0
  largest_stride: int = 2
  later: float = 0.5
  lead: int = 4
  references: int = 4
  seed: int = 0

  def check(self, time_stride: int) -> None:
    """UserError for values that cannot be."""
    if self.frames < 1 or (self.frames - 1) % time_stride:
      raise UserError(
        f'--frames must be 1 plus a multiple of {time_stride} for this autoencoder, got '
        f'{self.frames}'
      )
    for name, least in (('windows', 0), ('largest_stride', 1), ('lead', 1), ('references', 1)):
      if getattr(self, name) < least:
        raise UserError(f'--{name} must be at least {least}, got {getattr(self, name)}')
    if not 0 <= self.later <= 1:
      raise UserError(f'--later must be a share in 0..1, got {self.later}')


@dataclasses.dataclass(frozen=True)
class Towers:
  """The networks behind the codes.

  Attributes:
    codec: the autoencoder.
    clip: image [H, W, 3] float in [0, 1] -> CLIP tokens [1, 257, 1280], or None.
    digests: of their weights, by name.
  """

  codec: Codec
  clip: Callable | None = None
  digests: dict = dataclasses.field(default_factory=dict)


def _generator(clip_id: str, seed: int) -> np.random.Generator:
  return np.random.default_rng((seed, zlib.crc32(clip_id.removesuffix('-mirrored').encode())))


def plan_windows(
  total: int, clip_id: str, options: WindowOptions, time_stride: int
) -> list[tuple[int, int, int]]:
  """(start, stride, lead) of each window of a clip of `total` frames, by start; the same whenever
  they are asked for.

  `start` is the frame that the first code ends with; `lead` latent frames of `time_stride * stride`
  frames each lie before it.

  Raises:
    UserError: the clip is shorter than a window.
  """
  N = options.frames
  if total < N:
    raise UserError(
      f'clip {clip_id} has {total} frames, a window {N}: leave it out, or pass --frames '
      f'{1 + (total - 1) // time_stride * time_stride}'
    )
  rng = _generator(clip_id, options.seed)
  count = options.windows or -(-3 * total // (2 * N))
  chosen = []
  for i in range(count):
    stride = int(rng.integers(1, options.largest_stride + 1))
    stride = max(1, min(stride, (total - 1) // max(N - 1, 1)))
    room = total - 1 - (N - 1) * stride  # the last start that fits
    anchor = room * i / (count - 1) if count > 1 else room * rng.random()
    slack = max(0.0, N - (total - N) / max(count - 1, 1)) / 2  # neighbours still meet
    start = (
      int(np.clip(round(anchor + slack * rng.uniform(-1, 1)), 0, room))
      if 0 < i < count - 1
      else round(anchor)
    )
    fits = start // (time_stride * stride)
    lead = min(options.lead, fits) if rng.random() < options.later else 0
    chosen.append((start, stride, lead))
  return sorted(chosen)


def pick_references(
  turns: np.ndarray | None, total: int, clip_id: str, options: WindowOptions
) -> np.ndarray:
  """[R] int32 frames, ascending: the one turned farthest from a random one, then always the
  farthest from all chosen ones.

  Without rotations [T, 3] they are spread over time.
  """
  rng, count = _generator(clip_id, options.seed + 1), min(options.references, total)
  if turns is None:
    return np.minimum((np.arange(count) + rng.random(count)) * total / count, total - 1).astype(
      np.int32
    )
  chosen = [int(angles(turns[rng.integers(0, total)], turns).argmax())]
  nearest = angles(turns[chosen[0]], turns)
  while len(chosen) < count:
    nearest[chosen] = -1.0  # a still head: other frames all the same
    chosen.append(int((nearest + 1e-6 * rng.random(total)).argmax()))
    nearest = np.minimum(nearest, angles(turns[chosen[-1]], turns))
  return np.sort(np.array(chosen, np.int32))


def _scaled(images: np.ndarray) -> np.ndarray:
  return images.astype(np.float32) / 127.5 - 1.0


def _half(codes) -> np.ndarray:
  return np.asarray(codes, np.float16)


def window_records(record: dict, towers: Towers, options: WindowOptions) -> list[dict]:
  """The window records of one clip record.

  Raises:
    UserError: the clip is shorter than a window, or holds previews for an autoencoder that joins
      frames.
  """
  codec, strides = towers.codec, towers.codec.strides
  picked = pick_references(record.get('turns'), len(record['video']), record['clip_id'], options)
  picked = record.get('preview_references', picked)
  shared = {
    k: record[k] for k in ('clip_id', 'subject_id', 'extra_names', 'offsets') if k in record
  }
  shared |= dict(
    references=record['video'][picked],
    references_normals=record['normals'][picked],
    weights=json.dumps(towers.digests, sort_keys=True),
  )
  if 'turns' in record:
    shared['references_turns'] = record['turns'][picked]
  if towers.clip is not None:
    shared['references_clip'] = np.stack(
      [_half(towers.clip(image.astype(np.float32) / 255))[0] for image in shared['references']]
    )
  if strides[0] == 1:
    return [shared | _whole_clip(record, codec, picked)]
  if 'previews' in record:
    raise UserError(
      f'clip {record["clip_id"]} holds textured previews, which are for autoencoders of single '
      'frames: encode the '
      'records of `exp_jax.prepare` instead'
    )
  F = (options.frames - 1) // strides[0] + 1
  shared['references_latents'] = np.stack(
    [
      _half(codec.reference_code(image.astype(np.float32) / 255, F))[0]
      for image in shared['references']
    ]
  )
  plan = plan_windows(len(record['video']), record['clip_id'], options, strides[0])
  return [shared | _window(record, codec, options, *one) for one in plan]


def _whole_clip(record: dict, codec: Codec, picked: np.ndarray) -> dict:
  """Codes of every frame: windows of any start and stride can be cut out of them."""
  latents = _half(codec.encode(_scaled(record['video'])))
  found = {k: record[k] for k in ('normals', 'extras', 'turns') if k in record}
  found |= dict(
    latents=latents,
    references_latents=latents[picked],
    window=np.array([0, 1, 1, 0], np.int32),
    valid=_cells(record, slice(None), codec),
  )
  if 'previews' in record:  # their pixels have served
    found['preview_latents'] = np.stack(
      [_half(codec.encode(_scaled(clip))) for clip in record['previews']]
    )
  return found


def _cells(record: dict, frames, codec: Codec) -> np.ndarray:
  valid = (
    record['valid'] if 'valid' in record else np.full(record['video'].shape[:3], 255, np.uint8)
  )
  return np.ascontiguousarray(valid_cells(valid[frames], codec.strides))


def _window(
  record: dict, codec: Codec, options: WindowOptions, start: int, stride: int, lead: int
) -> dict:
  before = lead * codec.strides[0]  # frames of the code that are left out
  frames = start + stride * np.arange(-before, options.frames)
  shown = frames[before:]
  return {k: record[k][shown] for k in ('normals', 'extras', 'turns') if k in record} | dict(
    latents=_half(codec.encode(_scaled(record['video'][frames])))[lead:],
    valid=_cells(record, frames, codec)[lead:],
    window=np.array([start, stride, options.largest_stride, lead], np.int32),
  )


def mirrored(record: dict) -> dict:
  """A clip record's mirror image, under clip_id + '-mirrored'.

  UserError if it holds further control channels.
  """
  if 'extras' in record:
    raise UserError(
      f'clip {record["clip_id"]} holds further control channels, whose left and right cannot '
      'change places: encode '
      'without --mirror'
    )
  return turned(record) | {'clip_id': record['clip_id'] + '-mirrored'}
