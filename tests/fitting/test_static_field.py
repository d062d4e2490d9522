"""What static offsets start from."""

import jax.numpy as jnp
import numpy as np

from exp_jax.fitting.offsets.static_field import initial_static, magnitude
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head

HEAD = load_head('procedural')


def test_hair_and_clothes_are_expected_outside():
  dense = densify(HEAD, 0)
  along = np.tile(np.float32([0, 0, 1]), (len(dense.coarse_ids), 1))
  start = np.asarray(initial_static(dense, jnp.asarray(along)))
  assert not start[:, :2].any()
  scalp, clothes = (np.asarray(dense.regions[name]) for name in ('scalp', 'clothing'))
  np.testing.assert_allclose(start[:, 2], 0.008 * scalp + 0.004 * clothes, atol=1e-7)


def test_offsets_of_the_face_cost_more_than_those_of_hair():
  static, face = np.random.default_rng(0).normal(0, 0.01, (7, 3)), np.linspace(0, 1, 7)
  expected = np.mean(
    [(10 * f + 1 * (1 - f)) * sum((100 * x) ** 2 for x in row) for row, f in zip(static, face)]
  )
  found = magnitude(
    jnp.asarray(static, jnp.float32),
    jnp.asarray(face[:, None], jnp.float32),
    on_face=10.0,
    elsewhere=1.0,
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)
