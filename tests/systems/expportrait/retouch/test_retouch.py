"""The network that repairs previews: what it does to a picture, at any size, and that at first it
does nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.test_util import check_grads

from exp_jax.controls.preview.drawing import KNOWN
from exp_jax.systems.expportrait.retouch.network import (
  FARTHEST,
  Repair,
  repaired,
  retouch_net,
  sampled,
  seen_by_network,
)
from exp_jax.systems.expportrait.retouch.retoucher import carried_out

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (48, 48, 3), np.uint8)


@pytest.mark.long
def test_at_the_start_the_result_is_the_preview_to_the_bit():
  model = retouch_net('tiny')
  unit = lambda channels: jnp.asarray(RNG.random((2, 32, 64, channels), np.float32))
  seen = seen_by_network(unit(3), unit(KNOWN), unit(3), unit(3))
  params = model.init(jax.random.key(0), seen)['params']
  repair = jax.jit(lambda p: model.apply({'params': p}, seen))(params)
  assert repair.flow.shape == (2, 32, 64, 2) and repair.residual.shape == (2, 32, 64, 3)
  one = jax.tree.map(lambda x: x[0, :, :32], repair)
  for size in (32, 48, 96):
    picture = RNG.integers(0, 256, (size, size, 3), np.uint8)
    np.testing.assert_array_equal(carried_out(picture, one), picture)


def test_a_flow_takes_colours_from_where_it_points_and_repeats_the_border():
  image, flow = RNG.random((7, 9, 3)), RNG.uniform(-4, 4, (7, 9, 2))
  rows, columns = np.mgrid[:7, :9].astype(float)
  wanted = np.stack(
    [
      scipy.ndimage.map_coordinates(
        image[..., c], [rows + flow[..., 1], columns + flow[..., 0]], order=1, mode='nearest'
      )
      for c in range(3)
    ],
    -1,
  )
  np.testing.assert_allclose(
    sampled(jnp.asarray(image, jnp.float32), jnp.asarray(flow, jnp.float32)), wanted, atol=1e-5
  )


def test_the_derivative_with_respect_to_the_flow_meets_finite_differences():
  image = jnp.asarray(scipy.ndimage.gaussian_filter(RNG.random((8, 9, 3)), (2, 2, 0)), jnp.float32)
  # between pixels, where it is smooth
  flow = jnp.asarray(RNG.uniform(0.2, 0.8, (8, 9, 2)) * [1, -1], jnp.float32)
  check_grads(
    lambda f: sampled(image, f), (flow,), order=1, modes=('rev',), rtol=2e-2, atol=1e-2, eps=1e-2
  )


def test_a_repair_is_enlarged_linearly_between_the_centres_of_its_pixels():
  """A residual of a third of the size: an independent reading by np.interp, the larger picture's
  own grain on top."""
  residual = RNG.normal(0, 0.1, (16, 16, 3)).astype(np.float32)
  picture = RNG.random((48, 48, 3)).astype(np.float32)
  repair = Repair(jnp.zeros((16, 16, 2)), jnp.asarray(residual))
  places = (np.arange(48) + 0.5) / 3 - 0.5
  along = lambda rows: np.stack([np.interp(places, np.arange(16), row) for row in rows])
  wanted = np.stack([along(along(residual[..., c]).T).T for c in range(3)], -1)
  np.testing.assert_allclose(repaired(jnp.asarray(picture), repair) - picture, wanted, atol=1e-5)


def test_a_flow_is_a_share_of_the_picture_at_every_size():
  for size in (16, 48):
    picture = jnp.asarray(RNG.random((size, size, 3)), jnp.float32)
    repair = Repair(jnp.full((16, 16, 2), 1 / 16) * jnp.array([1.0, 0.0]), jnp.zeros((16, 16, 3)))
    found, step = repaired(picture, repair), size // 16
    np.testing.assert_allclose(found[:, :-step], picture[:, step:], atol=1e-5)


@pytest.mark.long
def test_the_flow_stays_within_its_reach_and_real_sizes_are_small():
  model = retouch_net('small')
  seen = jax.ShapeDtypeStruct((1, 256, 256, 3 + KNOWN + 6), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), seen)['params']
  assert sum(x.size for x in jax.tree.leaves(params)) * 2 < 12e6, 'bytes in bfloat16'
  found = jax.eval_shape(lambda p, x: model.apply({'params': p}, x), params, seen)
  assert found.residual.shape == (1, 256, 256, 3)
  tiny = retouch_net('tiny')
  loud = jnp.asarray(RNG.normal(0, 9, (1, 32, 32, 3 + KNOWN + 6)), jnp.float32)
  params = jax.tree.map(lambda x: x + 3, tiny.init(jax.random.key(1), loud)['params'])
  assert float(jnp.abs(tiny.apply({'params': params}, loud).flow).max()) <= FARTHEST
