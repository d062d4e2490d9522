import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from exp_jax.convert.metric_weights.metrics_tables import TABLES
from exp_jax.files.safetensors import nested
from exp_jax.metrics import fid, frechet_distance, fvd
from exp_jax.metrics.frechet import merged, moments
from exp_jax.networks.metric.i3d import I3d
from tests.golden.named_weights import images, named_weights, shapes_of

RNG = np.random.default_rng(0)


def by_sqrtm(a, b):
  """The textbook form, with scipy's matrix square root."""
  covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
  return (
    np.sum((a.mean(0) - b.mean(0)) ** 2)
    + np.trace(covariances[0] + covariances[1])
    - 2 * np.trace(root).real
  )


@pytest.mark.parametrize('count, size', [(300, 24), (90, 7)])
def test_frechet_core_agrees_with_scipys_square_root(count, size):
  a, b = (
    RNG.normal(size=(count, size)) @ RNG.normal(size=(size, size)),
    0.3 + RNG.normal(size=(count + 40, size)),
  )
  assert frechet_distance(moments(a), moments(b)) == pytest.approx(by_sqrtm(a, b), rel=1e-6)


def test_rank_deficient_sets_agree_to_what_is_known_there():
  a, b = RNG.normal(size=(20, 60)), RNG.normal(size=(20, 60)) + 0.2
  assert frechet_distance(moments(a), moments(b)) == pytest.approx(by_sqrtm(a, b), rel=1e-6)
  score = fid(a, b)
  assert score.count == 20 and 'rank deficient' in score.variant and 'N = 20' in score.variant


def test_gaussians_with_known_distance():
  a = RNG.normal(size=(5000, 3))
  # exactly white
  a = (a - a.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(a, rowvar=False)).T)
  scale, shift = np.array([2.0, 3.0, 0.5]), np.array([1.0, -2.0, 0.0])
  assert frechet_distance(moments(a), moments(a * scale + shift)) == pytest.approx(
    5 + (1 + 4 + 0.25), rel=1e-9
  )


def test_pieces_give_the_moments_of_the_whole():
  a = RNG.normal(3, 2, size=(50, 6))
  total = moments(a[:0])
  for part in (a[:1], a[1:20], a[20:20], a[20:]):
    total = merged(total, moments(part))
  assert total.count == 50
  np.testing.assert_allclose(total.mean, a.mean(0), atol=1e-12)
  np.testing.assert_allclose(total.covariance, np.cov(a, rowvar=False), atol=1e-12)


def test_equal_sets_are_at_zero_whatever_their_order():
  a = RNG.normal(size=(40, 9))
  assert abs(fid(a, RNG.permutation(a)).value) < 1e-9
  assert abs(fvd(a, a).value) < 1e-9


def test_too_few_samples_are_said():
  score = fid(RNG.normal(size=(1, 4)), RNG.normal(size=(9, 4)))
  assert (
    np.isnan(score.value)
    and 'too few' in score.variant
    and score.coverage == 0
    and score.count == 1
  )
  with pytest.raises(ValueError, match='finite'):
    fid(np.full((3, 2), np.nan), np.zeros((3, 2)))


@pytest.mark.long
def test_shuffled_frames_move_video_features_and_not_those_of_frames():
  """Anchors C3: what FVD sees is order, what FID sees is not."""
  golden = np.load(pathlib.Path(__file__).parents[1] / 'golden' / 'metric_networks.npz')
  _, book, _ = TABLES['i3d'](named_weights(shapes_of(golden, 'i3d.shapes')), 'i3d')
  params = nested(book.leaves.items())
  logits = jax.jit(lambda clips: I3d().apply({'params': params}, 2 * clips - 1))
  # a picture that travels
  clip = np.stack([np.roll(images(1, 32, 36, 3), 3 * t, axis=1) for t in range(10)])
  jumbled = clip[np.random.default_rng(1).permutation(10)]
  batch = np.stack([clip, jumbled, clip[:, :, ::-1], jumbled[:, :, ::-1]])
  found = np.asarray(logits(jnp.asarray(batch)))
  assert np.abs(found[0] - found[1]).max() > 0.01 * np.abs(found[0]).max()
  assert fvd(found[[0, 2]], found[[1, 3]]).value > 1e3 * abs(
    fvd(found[[0, 2]], found[[0, 2]]).value
  )
  frames = lambda c: c.mean((1, 2))  # any feature of single frames
  assert abs(fid(frames(clip), frames(jumbled)).value) < 1e-9
