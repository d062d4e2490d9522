"""Random state dicts in the published names, the same on every machine, and random inputs: shared
by oracle, fixture and tests."""

import math

import numpy as np


def state_dict(shapes, seed):
  """{name: array} of {name: shape}: sane sizes, positive variances, u and v near the top singular
  pair of their weights."""
  rng = np.random.RandomState(seed)
  out = {}
  for name in sorted(shapes):
    shape = tuple(shapes[name])
    draw = rng.standard_normal(shape)
    if name.endswith('num_batches_tracked'):
      value = np.asarray(7, np.int64)
    elif name.endswith('running_var'):
      value = 0.5 + draw**2
    elif name.endswith(('weight', 'weight_orig')) and len(shape) > 1:
      value = draw * math.sqrt(1.6 / math.prod(shape[1:]))
    elif name.endswith('weight') or name.endswith('gamma'):
      value = 1 + 0.2 * draw
    else:
      value = 0.1 * draw
    out[name] = np.asarray(value if value.dtype == np.int64 else value.astype(np.float32))
  for name in [n for n in out if n.endswith('weight_orig')]:
    stem, matrix = (
      name.removesuffix('orig'),
      out[name].reshape(len(out[name]), -1).astype(np.float64),
    )
    u = rng.standard_normal(len(matrix))
    for _ in range(3):
      v = matrix.T @ u
      v /= np.linalg.norm(v)
      u = matrix @ v
      u /= np.linalg.norm(u)
    out[f'{stem}u'], out[f'{stem}v'] = u.astype(np.float32), v.astype(np.float32)
  return out


def inputs(size, seed, batch=2):
  """Images [B, size, size, 3], source and driving keypoints [B, 21, 3], which partly leave the
  picture."""
  rng = np.random.RandomState(seed)
  images = rng.uniform(size=(batch, size, size, 3)).astype(np.float32)
  source = rng.uniform(-0.9, 0.9, (batch, 21, 3)).astype(np.float32)
  driving = (source + 0.3 * rng.standard_normal(source.shape)).astype(np.float32)
  return images, source, driving


def vectors(width, seed, batch=3):
  return np.random.RandomState(seed).standard_normal((batch, width)).astype(np.float32)
