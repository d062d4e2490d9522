"""What static offsets start from."""

import jax.numpy as jnp
import numpy as np

from exp_jax.fitting.static_field import initial_static
from exp_jax.heads.densify import densify
from exp_jax.heads.model import load_head

HEAD = load_head('procedural')


def test_hair_and_clothes_are_expected_outside():
  dense = densify(HEAD, 0)
  along = np.tile(np.float32([0, 0, 1]), (len(dense.coarse_ids), 1))
  start = np.asarray(initial_static(dense, jnp.asarray(along)))
  assert not start[:, :2].any()
  scalp, clothes = (np.asarray(dense.regions[name]) for name in ('scalp', 'clothing'))
  np.testing.assert_allclose(start[:, 2], 0.008 * scalp + 0.004 * clothes, atol=1e-7)
