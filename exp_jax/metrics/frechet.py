"""The Frechet distance between two sets of features, and FID and FVD, which are it.

  d = |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr sqrt(C1^(1/2) C2 C1^(1/2))

In float64 and symmetric, so that no complex root appears; covariances are unbiased. Moments can be
gathered piece by piece (Chan et al., 1979), so a set may be larger than the memory. Letters: N
samples, D features.

Sources: Heusel et al., GANs trained by a two time-scale update rule, 2017; Unterthiner et al.,
FVD, 2018.
"""

import dataclasses
import math

import numpy as np

from exp_jax.metrics.score import Score


@dataclasses.dataclass(frozen=True)
class Moments:
  """count: samples; mean: [D]; scatter: [D, D] sum of outer products about the mean, both
  float64."""

  count: int
  mean: np.ndarray
  scatter: np.ndarray

  @property
  def covariance(self) -> np.ndarray:
    """[D, D], unbiased."""
    return self.scatter / (self.count - 1)


def moments(features: np.ndarray) -> Moments:
  """Of [N, D] features, N >= 0.

  Raises:
    ValueError: not [N, D], or NaN.
  """
  features = np.asarray(features, np.float64)
  if features.ndim != 2 or not np.isfinite(features).all():
    raise ValueError(f'features must be finite [N, D], got {features.shape}')
  mean = features.mean(0) if len(features) else np.zeros(features.shape[1])
  centred = features - mean
  return Moments(len(features), mean, centred.T @ centred)


def merged(a: Moments, b: Moments) -> Moments:
  """Of both sets together."""
  count = a.count + b.count
  if not count:
    return a
  apart = b.mean - a.mean
  scatter = a.scatter + b.scatter + np.outer(apart, apart) * (a.count * b.count / count)
  return Moments(count, a.mean + apart * (b.count / count), scatter)


def frechet_distance(a: Moments, b: Moments) -> float:
  """The distance; NaN if a set has fewer than two samples."""
  if min(a.count, b.count) < 2:
    return float('nan')
  values, vectors = np.linalg.eigh(a.covariance)
  root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
  product = root @ b.covariance @ root
  trace = np.sqrt(np.clip(np.linalg.eigvalsh((product + product.T) / 2), 0, None)).sum()
  return float(
    np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance) + np.trace(b.covariance) - 2 * trace
  )


def frechet_score(a: Moments, b: Moments, variant: str) -> Score:
  """The distance with what its sizes mean; count is that of the smaller set."""
  least, size = min(a.count, b.count), len(a.mean)
  value = frechet_distance(a, b)
  if least < 2:
    variant += f'; N = {least}: too few, at least 2 are needed'
  elif least <= size:
    variant += f'; N = {least} and {max(a.count, b.count)} for {size} features: rank deficient, biased upwards'
  return Score(value, variant, least, 1.0 if math.isfinite(value) else 0.0)


def fid(
  features: np.ndarray, truth: np.ndarray, *, variant: str = 'Inception pool3 of TensorFlow 2015'
) -> Score:
  """Frechet inception distance of [N, 2048] features (`networks.inception.inception_features`)."""
  return frechet_score(moments(features), moments(truth), variant)


def fvd(
  logits: np.ndarray, truth: np.ndarray, *, variant: str = 'I3D logits of 16 frames, 224 px'
) -> Score:
  """Frechet video distance of [N, 400] logits of clips (`networks.i3d.i3d_logits`), equally long on
  both sides."""
  return frechet_score(moments(logits), moments(truth), variant)
