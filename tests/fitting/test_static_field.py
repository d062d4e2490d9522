"""What static offsets start from."""

import jax.numpy as jnp
import numpy as np

from exp_jax.fitting.static_field import initial_static, rounding
from exp_jax.heads.densify import densify, laplacian, lift, smooth_operator
from exp_jax.heads.model import load_head

HEAD = load_head('procedural')


def test_rounding_leads_to_the_smooth_surface_but_for_the_eyes():
  dense, template = densify(HEAD, 1), np.asarray(HEAD.template, np.float64)
  operator = rounding(HEAD, dense)
  np.testing.assert_allclose(operator.sum(1), 0, atol=1e-6)           # moves with the head
  offsets, flat = operator @ template, np.asarray(lift(dense, HEAD.template))
  eyes = np.asarray(dense.regions['eyeballs'])
  assert not offsets[eyes == 1].any() and (eyes == 1).any()
  skin = eyes == 0
  np.testing.assert_allclose((flat + offsets)[skin], (smooth_operator(np.asarray(HEAD.faces), 1) @ template)[skin], atol=1e-7)
  bend = lambda v: np.linalg.norm(np.asarray(laplacian(dense, jnp.asarray(v, jnp.float32))), axis=1)[skin].mean()
  assert bend(flat + offsets) < 0.95 * bend(flat)


def test_meshes_that_are_not_split_everywhere_stay_flat():
  for dense in (densify(HEAD, 0), densify(HEAD, 1, regions=('face',))):
    assert rounding(HEAD, dense).nnz == 0 and rounding(HEAD, dense).shape == (len(dense.coarse_ids), len(HEAD.template))


def test_hair_and_clothes_are_expected_outside():
  dense = densify(HEAD, 0)
  along = np.tile(np.float32([0, 0, 1]), (len(dense.coarse_ids), 1))
  start = np.asarray(initial_static(dense, jnp.asarray(along)))
  assert not start[:, :2].any()
  scalp, clothes = (np.asarray(dense.regions[name]) for name in ('scalp', 'clothing'))
  np.testing.assert_allclose(start[:, 2], 0.008 * scalp + 0.004 * clothes, atol=1e-7)
