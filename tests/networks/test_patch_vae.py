import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.networks.patch_vae import (
  VARIANTS,
  depth_to_space,
  overlap_add,
  patch_vae,
  space_to_depth,
)


def test_space_to_depth_is_undone_and_keeps_a_patch_together():
  x = jnp.arange(3 * 8 * 12 * 2.0).reshape(3, 8, 12, 2)
  y = space_to_depth(x, 4)
  assert y.shape == (3, 2, 3, 32)
  np.testing.assert_array_equal(y[1, 1, 2].reshape(4, 4, 2), x[1, 4:8, 8:12])
  np.testing.assert_array_equal(depth_to_space(y, 4), x)


def test_overlap_add_of_ones_is_one_inside():
  ones = overlap_add(jnp.ones((3, 5, 8 * 8 * 2)), 4)
  assert ones.shape == (12, 20, 2)
  np.testing.assert_allclose(ones[2:-2, 2:-2], 1.0, atol=1e-6)


def test_overlap_add_centres_patches():
  x = jnp.zeros((5, 7, 8, 8, 1)).at[2, 3, 3:5, 3:5].set(1.0)      # the middle of patch (2, 3)
  out = overlap_add(x.reshape(5, 7, -1), 4)[..., 0]
  rows, columns = np.nonzero(np.asarray(out))
  assert set(rows) == {2 * 4 + 1, 2 * 4 + 2} and set(columns) == {3 * 4 + 1, 3 * 4 + 2}


@pytest.mark.parametrize('variant', sorted(VARIANTS))
def test_shapes_and_unit_variance(variant):
  model = patch_vae(variant)
  images = jax.random.uniform(jax.random.key(0), (2, 3, 16, 24, 3), minval=-1.0)
  params = jax.jit(model.init)(jax.random.key(1), images)['params']
  latents = jax.jit(lambda p, x: model.apply({'params': p}, x, method='encode'))(params, images)
  assert latents.shape == (2, 3, 16 // model.strides[1], 24 // model.strides[2], model.channels)
  np.testing.assert_allclose(jnp.square(latents).mean(-1), 1.0, rtol=1e-5)
  decode = jax.jit(lambda p, z: model.apply({'params': p}, z, method='decode'))
  assert decode(params, latents).shape == images.shape
  np.testing.assert_allclose(decode(params, 3.0 * latents), decode(params, latents), atol=1e-4)
