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
    reference: 'random' draws the reference from all frames of the clip, as the paper's template does;
      'record' keeps the record's own.

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
  if reference == 'random':
    pick = rng.integers(0, total)
    return example | {own: record[source][pick] for own, source in pairs if source in record}
  return example | {own: record[own] for own, _ in pairs if own in record}


def mirror(example: dict, rng: np.random.Generator) -> dict:
  """Half the time left and right change places; the x component of normals (channel 0) changes sign.

  Background (0, 0, 0) stays background. Latents cannot be mirrored and are refused.
  """
  if 'latents' in example:
    raise ValueError('mirror works on pixels, not on stored latents')
  if rng.random() < 0.5:
    return example
  out = {}
  for key, value in example.items():
    axis = value.ndim - (1 if key == 'matte' else 2)
    value = np.flip(value, axis)
    if key.endswith('normals'):
      covered = value.any(-1)
      value = value.copy()
      value[..., 0] = np.where(covered, 255 - value[..., 0], 0)
    out[key] = np.ascontiguousarray(value)
  return out
