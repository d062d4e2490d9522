import numpy as np

from exp_jax.media.fill import push_pull


def test_known_pixels_stay_and_holes_stay_within_the_range():
  rng = np.random.default_rng(0)
  values = rng.uniform(0.2, 0.8, (21, 34, 3)).astype(np.float32)
  known = (rng.uniform(size=(21, 34)) < 0.3).astype(np.float32)
  filled = push_pull(values, known)
  np.testing.assert_allclose(filled[known == 1], values[known == 1], atol=1e-6)
  seen = values[known == 1]
  assert (filled >= seen.min(0) - 1e-5).all() and (filled <= seen.max(0) + 1e-5).all()


def test_a_hole_in_a_ramp_is_filled_about_linearly():
  ramp = np.linspace(0, 1, 64, dtype=np.float32)[None, :, None].repeat(48, 0)
  known = np.ones((48, 64), np.float32)
  known[16:32, 24:40] = 0
  filled = push_pull(np.where(known[..., None] > 0, ramp, 9.0), known)
  assert np.abs(filled - ramp).max() < 0.08


def test_one_known_pixel_fills_everything():
  values, known = np.zeros((9, 13, 2), np.float32), np.zeros((9, 13), np.float32)
  values[4, 7], known[4, 7] = (0.3, 0.6), 1
  np.testing.assert_allclose(
    push_pull(values, known), np.broadcast_to([0.3, 0.6], (9, 13, 2)), atol=1e-6
  )
