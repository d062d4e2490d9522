import functools

import jax
import numpy as np
import pytest

from exp_jax.metrics import lpips
from exp_jax.networks.metric import perceptual
from tests.golden.named_weights import images

A, B = images(1, 5, 16, 20, 3), images(2, 5, 16, 20, 3)


@pytest.fixture(scope='module')
def distance():
  spec = jax.ShapeDtypeStruct((1, 16, 20, 3), np.float32)
  shapes = jax.eval_shape(perceptual.Lpips('tiny').init, jax.random.key(0), spec, spec)['params']
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: rng.uniform(-0.2, 0.5, leaf.shape).astype(np.float32), shapes)
  return jax.jit(functools.partial(perceptual.lpips_distance, params, variant='tiny'))


def test_it_is_the_mean_over_frames_in_batches(distance):
  score = lpips(A, B, distance=distance)
  assert score.value == pytest.approx(
    np.mean([float(distance(A[i : i + 1], B[i : i + 1])[0]) for i in range(5)]), rel=1e-5
  )
  assert score.count == 5 and score.coverage == 1 and 'AlexNet' in score.variant
  assert abs(lpips(A, A, distance=distance).value) < 1e-7
  order = np.array([3, 0, 4, 1, 2])
  assert lpips(A[order], B[order], distance=distance).value == pytest.approx(score.value, rel=1e-6)


def test_other_ranges_and_shapes_are_refused(distance):
  with pytest.raises(ValueError, match=r'\[0, 1\]'):
    lpips(2 * A - 1, 2 * B - 1, distance=distance)
  with pytest.raises(ValueError, match='both be'):
    lpips(A, B[:2], distance=distance)
