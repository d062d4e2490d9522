"""From a record to a training example: a window of frames and a reference from the same clip.

Randomness comes from the generator that the loader hands over, seeded per example.
"""

import numpy as np

from exp_jax.errors import UserError


def take_window(record: dict, rng: np.random.Generator, *, num_frames: int, stride: int,
                reference: str) -> dict:
  """`num_frames` frames, `stride` apart, from a random start.

  Args:
    record: see `data/sources.py`; latents, if any, need one code per frame.
    rng: numpy generator.
    num_frames: frames of the example.
    stride: at most this many source frames between neighbours; less where the clip is short.
    reference: 'random' draws the reference from all frames of the clip, as the paper's template
      does; 'record' keeps the record's own; 'preview' draws one of the record's textured previews, as `preview` or
      `preview_latents`, with the frame that it was drawn from.

  Raises:
    UserError: if the clip is shorter than `num_frames`.
  """
  total = len(record['video'])
  if total < num_frames:
    raise UserError(f'clip {record["clip_id"]} has {total} frames, training asks for {num_frames}')
  if num_frames > 1:
    stride = min(stride, (total - 1) // (num_frames - 1))
  start = rng.integers(0, total - (num_frames - 1) * stride)
  chosen = start + stride * np.arange(num_frames)
  per_frame = [k for k in ('video', 'normals', 'matte', 'latents') if k in record]
  example = {k: record[k][chosen] for k in per_frame}
  pairs = (('reference', 'video'), ('reference_normals', 'normals'), ('reference_latents', 'latents'))
  if reference == 'preview':
    if 'preview_references' not in record:
      raise UserError(f'clip {record["clip_id"]} has no textured previews: '
                      '`python -m exp_jax.systems.expportrait.previews` adds them')
    which = rng.integers(0, len(record['preview_references']))
    example |= {own: record[source][which][chosen]
                for own, source in (('preview', 'previews'), ('preview_latents', 'preview_latents')) if source in record}
  if reference in ('random', 'preview'):
    pick = rng.integers(0, total) if reference == 'random' else record['preview_references'][which]
    return example | {own: record[source][pick] for own, source in pairs if source in record}
  return example | {own: record[own] for own, _ in pairs if own in record}


def turned(example: dict) -> dict:
  """Left and right change places; the x component of normals (channel 0) changes sign.

  Background (0, 0, 0) stays background. Arrays are [..., H, W, 3], or [..., H, W] for the matte;
  latents cannot be mirrored and are refused; strings and numbers of frames pass through.
  """
  out = {}
  for key, value in example.items():
    if 'latents' in key:
      raise ValueError('mirror images are of pixels, not of stored latents')
    if not isinstance(value, np.ndarray) or key == 'preview_references':
      out[key] = value
      continue
    value = np.flip(value, value.ndim - (1 if key == 'matte' else 2))
    if key.endswith('normals'):
      covered, value = value.any(-1), value.copy()
      value[..., 0] = np.where(covered, 255 - value[..., 0], 0)
    out[key] = np.ascontiguousarray(value)
  return out


def mirror(example: dict, rng: np.random.Generator) -> dict:
  """`turned` half the time."""
  return example if rng.random() < 0.5 else turned(example)
