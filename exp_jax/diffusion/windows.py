"""Long clips by windows: which frames each covers, how they share frames, and noise that belongs to
a frame.

A network trained on clips of n frames meets longer ones in windows of n. Two ways to join them:

  together:       at every step of a sampler the results of all windows are averaged, weighted by
                  `window_weights` (faded towards their ends) or `even_weights`.
  one by one:     each window hands what it found for its last o frames to the next one, which fades
                  from that to its own (`hand_over`). Memory does not depend on the length.

All indices and weights are made on the host, from the length alone. Letters: N frames of the clip,
n of a window, K windows, o frames that neighbours share.
"""

import jax
import jax.numpy as jnp
import numpy as np


def _check(window: int, overlap: int):
  if window < 1 or not 0 <= overlap < window:
    raise ValueError(
      f'windows of {window} frames cannot share {overlap}: the overlap must be 0 to one less than '
      'a window'
    )


def window_starts(total: int, window: int, overlap: int) -> np.ndarray:
  """First frames [K] of windows that cover `total` frames; the last one ends with the clip.

  The windows are spread evenly, neighbours sharing at least `overlap` frames. A clip that is not
  longer than a window gets one window.

  Raises:
    ValueError: if the overlap is not smaller than a window.
  """
  _check(window, overlap)
  if total <= window:
    return np.zeros(1, int)
  count = int(np.ceil((total - overlap) / (window - overlap)))
  return np.round(np.linspace(0, total - window, count)).astype(int)


def streamed_starts(total: int, window: int, overlap: int) -> range:
  """First frames of windows for which the length need not be known: neighbours share exactly
  `overlap` frames.

  The last window may reach past the clip.

  Raises:
    ValueError: if the overlap is not smaller than a window.
  """
  _check(window, overlap)
  return range(0, max(total - overlap, 1), window - overlap)


def window_frames(total: int, window: int, overlap: int) -> np.ndarray:
  """[K, n] frames of the windows of `window_starts`; n is `total` where the clip is shorter than a
  window."""
  return window_starts(total, window, overlap)[:, None] + np.arange(min(window, total))


def wrapped_window_frames(total: int, window: int, overlap: int) -> np.ndarray:
  """[K, n] frames of windows on a closed loop: whatever reaches past the end goes on at the first
  frame.

  A window starts at every multiple of window - overlap, so the last one may consist mostly of first
  frames: the end of the clip is blended with its beginning. n is `total` where the clip is not
  longer than a window, and nothing wraps then.

  Raises:
    ValueError: if the overlap is not smaller than a window.

  Source: the `uniform` context scheduler of AnimateDiff's command line (neggles, 2023) at stride 1,
  as Champ and MagicPortrait use it with windows of 12 that share 1.
  """
  _check(window, overlap)
  if total <= window:
    return np.arange(total)[None]
  return (np.arange(0, total, window - overlap)[:, None] + np.arange(window)) % total


def _shares(ramp: np.ndarray, frames: np.ndarray, total: int) -> np.ndarray:
  sums = np.zeros(total)
  np.add.at(sums, frames, np.broadcast_to(ramp, frames.shape))
  return ramp / sums[frames]


def window_weights(starts: np.ndarray, total: int, window: int) -> np.ndarray:
  """[K, n] weights, a ramp to each end of a window, summing to one over every frame."""
  ramp = np.minimum(np.arange(window) + 1.0, window - np.arange(window))
  return _shares(ramp, starts[:, None] + np.arange(window), total)


def even_weights(frames: np.ndarray, total: int) -> np.ndarray:
  """[K, n] weights of windows with these frames [K, n], all alike at one frame, summing to one over
  every frame."""
  return _shares(np.ones(frames.shape[1]), frames, total)


def sum_of_windows(parts: jax.Array, frames: np.ndarray, total: int) -> jax.Array:
  """Weighted results of windows, added frame by frame.

  Args:
    parts: [K, B, n, ...] the results of the windows, times their weights.
    frames: [K, n] where each part belongs.
    total: frames of the clip.

  Returns:
    [B, total, ...].
  """
  clip = jnp.zeros((parts.shape[1], total, *parts.shape[3:]), parts.dtype)
  return clip.at[:, frames].add(jnp.moveaxis(parts, 0, 1))


def hand_over_shares(overlap: int) -> jax.Array:
  """[o] how much of each shared frame is the later window's own, rising from 1 / (o + 1)."""
  return (jnp.arange(overlap) + 1.0) / (overlap + 1.0)


def hand_over(own: jax.Array, handed: jax.Array, shares: jax.Array) -> jax.Array:
  """A window's values whose first frames fade from what the window before found there to its own.

  Args:
    own: [B, n, ...].
    handed: [o, ...] the window before, at the frames it shares.
    shares: [o] of `hand_over_shares`, or ones for a first window.

  Returns:
    [B, n, ...].
  """
  overlap = len(shares)
  share = shares.reshape(-1, *(1,) * (own.ndim - 2))
  return own.at[:, :overlap].set(share * own[:, :overlap] + (1.0 - share) * handed[None])


def frame_noise(
  rng: jax.Array, first: int | jax.Array, count: int, shape: tuple[int, ...]
) -> jax.Array:
  """[1, count, *shape] normal draws, each frame's from its absolute index alone."""
  return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(rng, i), shape))(
    first + jnp.arange(count)
  )[None]
