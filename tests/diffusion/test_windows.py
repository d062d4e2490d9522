"""Windows over long clips: every frame covered, weights that sum to one, wrapping only where
asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.diffusion.windows import (
  even_weights,
  frame_noise,
  hand_over,
  hand_over_shares,
  streamed_starts,
  sum_of_windows,
  window_frames,
  window_starts,
  window_weights,
  wrapped_window_frames,
)

SIZES = [
  (total, window, overlap)
  for total in (*range(1, 30), 47, 100, 201)
  for window in (1, 2, 3, 5, 8, 12, 16)
  for overlap in range(window)
]


@pytest.mark.parametrize('window', sorted({window for _, window, _ in SIZES}))
def test_windows_cover_every_frame_with_weight_one(window):
  for total, _, overlap in (sizes for sizes in SIZES if sizes[1] == window):
    starts, frames = window_starts(total, window, overlap), window_frames(total, window, overlap)
    n = min(window, total)
    assert starts[0] == 0 and starts[-1] + n == total and frames.shape == (len(starts), n)
    assert all(0 < b - a <= window - overlap for a, b in zip(starts, starts[1:]))
    assert (np.diff(frames, axis=1) == 1).all() and frames.max() < total  # nothing wraps
    for weights in (window_weights(starts, total, n), even_weights(frames, total)):
      sums = np.zeros(total)
      np.add.at(sums, frames, weights)
      np.testing.assert_allclose(sums, 1.0)
      assert (weights > 0).all()


@pytest.mark.parametrize('window', sorted({window for _, window, _ in SIZES}))
def test_wrapped_windows_cover_a_closed_loop(window):
  for total, _, overlap in (sizes for sizes in SIZES if sizes[1] == window):
    frames = wrapped_window_frames(total, window, overlap)
    n = min(window, total)
    assert frames.shape[1] == n and set(frames.reshape(-1)) == set(range(total))
    assert all(len(set(row)) == n for row in frames)
    steps = np.diff(frames, axis=1)
    assert ((steps == 1) | (steps == 1 - total)).all()
    if total > window:
      assert len(frames) == -(-total // (window - overlap))
      np.testing.assert_array_equal(frames[:, 0], np.arange(len(frames)) * (window - overlap))
    sums = np.zeros(total)
    np.add.at(sums, frames, even_weights(frames, total))
    np.testing.assert_allclose(sums, 1.0)


def test_the_published_windows_of_twelve_that_share_one():
  """Written out, for the lengths of which MagicPortrait's and Champ's loops were followed by
  hand."""
  run = lambda *parts: [f for first, last in parts for f in range(first, last + 1)]
  expected = {
    12: [run((0, 11))],
    13: [run((0, 11)), run((11, 12), (0, 9))],
    5: [run((0, 4))],
    23: [run((0, 11)), run((11, 22)), run((22, 22), (0, 10))],
    24: [run((0, 11)), run((11, 22)), run((22, 23), (0, 9))],
    30: [run((0, 11)), run((11, 22)), run((22, 29), (0, 3))],
  }
  for total, frames in expected.items():
    assert wrapped_window_frames(total, 12, 1).tolist() == frames


@pytest.mark.parametrize('window', sorted({window for _, window, _ in SIZES}))
def test_streamed_windows_share_what_they_should_and_reach_the_end(window):
  for total, _, overlap in (sizes for sizes in SIZES if sizes[1] == window):
    starts = list(streamed_starts(total, window, overlap))
    assert starts[0] == 0 and set(np.diff(starts)) <= {window - overlap}
    assert starts[-1] + window >= total and all(start + window < total for start in starts[:-1])


def test_windows_of_the_whole_overlap_are_refused():
  for make in (window_starts, window_frames, wrapped_window_frames, streamed_starts):
    with pytest.raises(ValueError, match='cannot share 5'):
      make(9, 5, 5)


def test_windows_fade_toward_both_ends():
  """A frame counts in a window by its distance to the nearer end, as a share of what it counts in
  all."""
  starts, total, window = np.array([0, 3, 7]), 12, 5
  counts = np.zeros((3, total))
  for k, start in enumerate(starts):
    for i in range(window):
      counts[k, start + i] = min(i, window - 1 - i) + 1
  expected = [
    counts[k, start : start + window] / counts.sum(0)[start : start + window]
    for k, start in enumerate(starts)
  ]
  np.testing.assert_allclose(window_weights(starts, total, window), expected, atol=1e-12)


@pytest.mark.parametrize('make', [window_frames, wrapped_window_frames])
def test_what_all_windows_agree_on_comes_back(make):
  total = 13
  frames = make(total, 5, 2)
  clip = np.random.default_rng(0).normal(size=(2, total, 3, 4))
  parts = np.moveaxis(clip[:, frames], 1, 0) * even_weights(frames, total)[:, None, :, None, None]
  np.testing.assert_allclose(
    jax.jit(lambda p: sum_of_windows(p, frames, total))(parts), clip, atol=1e-6
  )


def test_hand_over_fades_from_the_window_before_to_the_own():
  own, handed = np.zeros((1, 5, 2, 3), np.float32), np.ones((3, 2, 3), np.float32)
  shares = hand_over_shares(3)
  np.testing.assert_allclose(shares, [0.25, 0.5, 0.75])
  faded = np.asarray(hand_over(jnp.asarray(own), jnp.asarray(handed), shares))
  np.testing.assert_allclose(faded[0, :, 0, 0], [0.75, 0.5, 0.25, 0, 0])
  np.testing.assert_array_equal(hand_over(jnp.asarray(own), jnp.asarray(handed), jnp.ones(3)), own)
  np.testing.assert_array_equal(hand_over(jnp.asarray(own), jnp.zeros((0, 2, 3)), jnp.ones(0)), own)


def test_noise_belongs_to_the_absolute_frame():
  whole = frame_noise(jax.random.key(3), 0, 9, (2, 3))
  np.testing.assert_array_equal(frame_noise(jax.random.key(3), 4, 3, (2, 3)), whole[:, 4:7])
  assert np.abs(whole[0, 1] - whole[0, 2]).min() > 0
