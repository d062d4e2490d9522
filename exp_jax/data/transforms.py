"""From a record to a training example: a window of frames and a reference from the same clip.

Randomness comes from the generator that the loader hands over, seeded per example. Letters as in
`sources`.
"""

import numpy as np
from scipy.spatial.transform import Rotation

from exp_jax.errors import UserError

REFERENCES = ('random', 'record', 'preview')


def angles(turn: np.ndarray, turns: np.ndarray) -> np.ndarray:
  """[K] degrees between a rotation vector [3] and others [K, 3]."""
  return np.degrees((Rotation.from_rotvec(turn).inv() * Rotation.from_rotvec(turns)).magnitude())


def draw_reference(
  rng: np.random.Generator,
  count: int,
  *,
  degrees: float,
  turn: np.ndarray | None,
  turns: np.ndarray | None,
  name: str = '',
) -> int:
  """The number of one of `count` candidates, uniformly among those whose head is turned away from
  the window's first frame.

  Args:
    degrees: least angle between the heads; where no candidate reaches it, the one that is farthest
      away is taken. 0: any.
    turn, turns: rotation vectors [3] of the window's first frame and [count, 3] of the candidates;
      None where nobody knows them.
    name: of the clip, for the message.

  Raises:
    UserError: `degrees` is asked for and rotations are not known.
  """
  if degrees <= 0:
    return int(rng.integers(0, count))
  if turn is None or turns is None:
    raise UserError(
      f'clip {name} does not tell how its heads are turned: prepare it again, or set '
      'config.data.reference_degrees=0'
    )
  away = angles(turn, turns)
  far = np.flatnonzero(away >= degrees)
  return int(rng.choice(far)) if len(far) else int(away.argmax())


def valid_cells(valid: np.ndarray, strides: tuple[int, int, int]) -> np.ndarray:
  """uint8 [T, H, W] of pixels -> [F, h, w] of codes: the least of the pixels and frames that a code
  is made of.

  With a temporal stride the first code is of the first frame, each further one of `strides[0]`
  frames.
  """
  st, sh, sw = strides
  T, H, W = valid.shape
  cells = valid[:, : H // sh * sh, : W // sw * sw].reshape(T, H // sh, sh, W // sw, sw).min((2, 4))
  if st == 1:
    return cells
  later = cells[1 : 1 + (T - 1) // st * st].reshape(-1, st, *cells.shape[1:]).min(1)
  return np.concatenate([cells[:1], later])


def take_window(
  record: dict,
  rng: np.random.Generator,
  *,
  num_frames: int,
  stride: int,
  reference: str,
  degrees: float = 0.0,
) -> dict:
  """`num_frames` frames, `stride` apart, from a random start, of a clip record or of one with codes
  of single frames.

  Args:
    record: see `data/sources.py`; latents, if any, need one code per frame.
    rng: numpy generator.
    num_frames: frames of the example.
    stride: at most this many source frames between neighbours; less where the clip is short.
    reference: 'random' draws the reference from all frames of the clip, as the paper's template
      does, or from those that are stored; 'record' keeps the record's own; 'preview' draws one of
      the record's textured previews, as `preview` or `preview_latents`, with the frame that it was
      drawn from.
    degrees: see `draw_reference`, for 'random'.

  Raises:
    UserError: the clip is shorter than `num_frames`, or lacks what `reference` needs.
  """
  total = len(record['normals'])
  if total < num_frames:
    raise UserError(f'clip {record["clip_id"]} has {total} frames, training asks for {num_frames}')
  if num_frames > 1:
    stride = min(stride, (total - 1) // (num_frames - 1))
  start = rng.integers(0, total - (num_frames - 1) * stride)
  chosen = start + stride * np.arange(num_frames)
  example = {
    k: record[k][chosen]
    for k in ('video', 'normals', 'matte', 'latents', 'extras', 'valid', 'turns')
    if k in record
  }
  example |= {k: record[k] for k in ('extra_names', 'clip_id') if k in record}
  turn = record['turns'][start] if 'turns' in record else None
  if 'references' in record:
    return example | _stored_reference(record, rng, chosen, turn, reference, degrees)
  pairs = (
    ('reference', 'video'),
    ('reference_normals', 'normals'),
    ('reference_latents', 'latents'),
  )
  if reference == 'record':
    return example | {own: record[own] for own, _ in pairs if own in record}
  if reference == 'preview':
    if 'preview_references' not in record:
      raise _no_previews(record)
    which = rng.integers(0, len(record['preview_references']))
    example['preview'] = record['previews'][which][chosen]
    pick = record['preview_references'][which]
  else:
    pick = draw_reference(
      rng, total, degrees=degrees, turn=turn, turns=record.get('turns'), name=record['clip_id']
    )
  example |= {'reference_turn': record['turns'][pick]} if 'turns' in record else {}
  return example | {own: record[source][pick] for own, source in pairs if source in record}


def _no_previews(record):
  return UserError(
    f'clip {record["clip_id"]} has no textured previews: `python -m exp_jax previews` adds them'
  )


def _stored_reference(record, rng, chosen, turn, reference, degrees) -> dict:
  """One of a window record's references; with 'preview' together with the preview that was drawn
  from it."""
  count, found = len(record['references']), {}
  if reference == 'record':
    raise UserError(
      f'clip {record["clip_id"]} holds {count} references to draw from: set '
      'config.data.reference="random"'
    )
  if reference == 'preview':
    if 'preview_latents' not in record:
      raise _no_previews(record)
    which = int(rng.integers(0, count))
    found['preview_latents'] = record['preview_latents'][which][chosen]
  else:
    which = draw_reference(
      rng,
      count,
      degrees=degrees,
      turn=turn,
      turns=record.get('references_turns'),
      name=record['clip_id'],
    )
  pairs = (
    ('reference', 'references'),
    ('reference_normals', 'references_normals'),
    ('reference_latents', 'references_latents'),
    ('clip', 'references_clip'),
    ('reference_turn', 'references_turns'),
  )
  return found | {own: record[stored][which] for own, stored in pairs if stored in record}


def take_codes(
  record: dict,
  rng: np.random.Generator,
  *,
  num_frames: int,
  time_stride: int,
  stride: int,
  reference: str,
  degrees: float = 0.0,
) -> dict:
  """`num_frames` frames of a window record whose codes join `time_stride` frames, with their codes
  and a reference.

  A window that begins with the clip's or the code's first frame is used from there; one whose codes
  were made with frames before it from any of its codes on. So a network sees both kinds of window
  that sampling meets.

  Args:
    stride: the largest stride that the windows must have been drawn with. reference, degrees: as
      `take_window`.

  Raises:
    UserError: the record holds no codes, too few, or was made with another largest stride.
  """
  name = record['clip_id']
  if 'window' not in record:
    raise UserError(
      f'clip {name} holds pixels, training asks for codes: encode the records with --codec wan'
    )
  _, _, largest, lead = (int(x) for x in record['window'])
  if largest != stride:
    raise UserError(
      f'the windows of clip {name} were drawn with strides up to {largest}, config.data.stride is '
      f'{stride}: encode '
      f'them again with --largest_stride {stride}, or set config.data.stride={largest}'
    )
  codes, held = (num_frames - 1) // time_stride + 1, len(record['latents'])
  if held < codes:
    raise UserError(
      f'a window of clip {name} holds {len(record["normals"])} frames and {held} latents, training '
      'asks for '
      f'{num_frames} and {codes}: encode the clips again with --frames {num_frames}'
    )
  first = int(rng.integers(0, held - codes + 1)) if lead else 0
  frames = slice(time_stride * first, time_stride * first + num_frames)
  example = {k: record[k][frames] for k in ('normals', 'extras', 'turns') if k in record}
  example |= {k: record[k][first : first + codes] for k in ('latents', 'valid')} | {'clip_id': name}
  example |= {'extra_names': record['extra_names']} if 'extra_names' in record else {}
  turn = example['turns'][0] if 'turns' in record else None
  example |= _stored_reference(record, rng, np.arange(codes), turn, reference, degrees)
  example['reference_latents'] = example['reference_latents'][:codes]
  return example


def turned(example: dict) -> dict:
  """Left and right change places; the x component of normals (channel 0) changes sign.

  Background (0, 0, 0) stays background. Arrays are [..., H, W, 3], or [..., H, W] for the matte and
  for `valid`; latents cannot be mirrored and are refused; strings and numbers of frames pass
  through; rotations are those of the mirror image.

  Raises:
    ValueError: latents, or further control channels, whose left and right are not known.
  """
  out = {}
  for key, value in example.items():
    if 'latents' in key or key == 'extras':
      raise ValueError(
        'mirror images are of pixels, not of stored latents or further control channels'
      )
    if not isinstance(value, np.ndarray) or key in ('preview_references', 'window'):
      out[key] = value
      continue
    if 'turn' in key:
      out[key] = value * np.array([1, -1, -1], value.dtype)
      continue
    value = np.flip(value, value.ndim - (1 if key in ('matte', 'valid') else 2))
    if key.endswith('normals'):
      covered, value = value.any(-1), value.copy()
      value[..., 0] = np.where(covered, 255 - value[..., 0], 0)
    out[key] = np.ascontiguousarray(value)
  return out


def mirror(example: dict, rng: np.random.Generator) -> dict:
  """`turned` half the time."""
  return example if rng.random() < 0.5 else turned(example)
