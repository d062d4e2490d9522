"""Moving the mean over the clip from the dynamic field to the static one: nothing that is seen
changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.fitting.offsets.disentangle import mean_over_clip, recentred

FRAMES, POINTS = 5, 7
RNG = np.random.default_rng(0)
VALID = jnp.array([1, 1, 1, 1, 0]) / 4  # the last frame is padding


def test_recentring_keeps_every_surface_and_leaves_no_mean():
  mixing = {'broad': RNG.normal(size=(POINTS, 3)), 'fine': RNG.normal(size=(POINTS, 4))}
  field = lambda row: sum(jnp.asarray(mixing[name], jnp.float32) @ row[name] for name in mixing)
  dynamic = {
    'broad': jnp.asarray(RNG.normal(size=(FRAMES, 3, 3)), jnp.float32),
    'fine': jnp.asarray(RNG.normal(size=(FRAMES, 4, 3)), jnp.float32),
  }
  static = jnp.asarray(RNG.normal(size=(POINTS, 3)), jnp.float32)
  after, moved = recentred(dynamic, static, VALID, field)
  for t in range(FRAMES):
    row = lambda fields, t=t: {name: values[t] for name, values in fields.items()}
    np.testing.assert_allclose(field(row(after)) + moved, field(row(dynamic)) + static, atol=1e-5)
  for name, values in after.items():
    np.testing.assert_allclose(np.mean(values[:4], axis=0), 0, atol=1e-6)
    assert np.abs(np.mean(dynamic[name][:4], axis=0)).max() > 0.1
  assert np.abs(moved - static).max() > 0.1, 'what was common to all frames is static now'


@pytest.mark.parametrize('frames', [(0,), (2, 0), (3, 1, 2, 0)])
def test_the_mean_is_that_of_all_frames_whichever_are_changed(frames):
  """Against the clip with the changed rows in their places, derivative included."""
  whole = jnp.asarray(RNG.normal(size=(FRAMES, POINTS, 3)), jnp.float32)
  rows = jnp.asarray(RNG.normal(size=(len(frames), POINTS, 3)), jnp.float32)
  changed = np.array(whole)
  changed[list(frames)] = rows
  found, pull = jax.vjp(lambda rows: mean_over_clip(VALID, whole, jnp.array(frames), rows), rows)
  np.testing.assert_allclose(found, changed[:4].mean(0), atol=1e-6)
  np.testing.assert_allclose(pull(jnp.ones((POINTS, 3)))[0], np.full(rows.shape, 1 / 4), atol=1e-6)
  np.testing.assert_allclose(
    mean_over_clip(VALID, whole, jnp.array([4]), rows[:1]), np.mean(whole[:4], axis=0), atol=1e-6
  )
