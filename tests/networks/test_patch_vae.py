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
  x = jnp.zeros((5, 7, 8, 8, 1)).at[2, 3, 3:5, 3:5].set(1.0)  # the middle of patch (2, 3)
  out = overlap_add(x.reshape(5, 7, -1), 4)[..., 0]
  rows, columns = np.nonzero(np.asarray(out))
  assert set(rows) == {2 * 4 + 1, 2 * 4 + 2} and set(columns) == {3 * 4 + 1, 3 * 4 + 2}


@pytest.mark.parametrize('variant', sorted(VARIANTS))
def test_shapes(variant):
  model = patch_vae(variant)
  images = jnp.zeros((2, 3, 16, 24, 3))
  params = jax.eval_shape(lambda: model.init(jax.random.key(1), images))
  latents = jax.eval_shape(lambda p, x: model.apply(p, x, method='encode'), params, images)
  assert latents.shape == (2, 3, 16 // model.strides[1], 24 // model.strides[2], model.channels)
  video = jax.eval_shape(lambda p, z: model.apply(p, z, method='decode'), params, latents)
  assert video.shape == images.shape


@pytest.mark.long
def test_frames_do_not_see_each_other():
  model = patch_vae('tiny')
  images = jax.random.uniform(jax.random.key(0), (3, 16, 24, 3), minval=-1.0)
  params = model.init(jax.random.key(1), images)
  whole = model.apply(params, images)
  np.testing.assert_allclose(model.apply(params, images[1]), whole[1], atol=1e-5)
  assert np.abs(whole[0] - whole[1]).max() > 1e-3
