"""Whisper's encoder: speech features for `speech`, from the user's weights.

  log mel: 16 kHz, Hann windows of 400 samples every 160, 80 (or 128) mel bands (Slaney's), log10 of
    at least 1e-10, at most 8 below
  the loudest of 30 s, (x + 4) / 4;   conv 3 - gelu - conv 3 of stride 2 - gelu - + positions - layers - norm:  50 vectors a second

Letters: B batch, N samples, T frames of the spectrogram, D width. Source: Radford et al., 2022
(arXiv 2212.04356), section 2.2.
"""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.layers.attention import attention
from exp_jax.layers.mlp import gelu_erf
from exp_jax.layers.norms import LayerNorm
from exp_jax.networks.weights import load_weights, place

SAMPLES, HOP, WINDOW, SECONDS = 16_000, 160, 400, 30
FEATURES_RATE = 50.0


def mel_filters(bands: int) -> np.ndarray:
  """[bands, 201] triangles on Slaney's mel scale (linear to 1 kHz, then logarithmic), of equal
  area."""
  to_mel = lambda f: np.where(
    f < 1000, 3 * f / 200, 15 + 27 * np.log(np.maximum(f, 1e-9) / 1000) / np.log(6.4)
  )
  to_hertz = lambda m: np.where(m < 15, 200 * m / 3, 1000 * np.exp(np.log(6.4) * (m - 15) / 27))
  edges = to_hertz(np.linspace(to_mel(np.array(0.0)), to_mel(np.array(SAMPLES / 2)), bands + 2))
  bins = np.fft.rfftfreq(WINDOW, 1 / SAMPLES)
  rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
  falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
  return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]


def log_mel(sound: np.ndarray, bands: int = 80) -> np.ndarray:
  """[N] samples in [-1, 1] -> [N / 160, bands] float32."""
  padded = np.pad(sound.astype(np.float64), WINDOW // 2, mode='reflect')
  frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][: len(sound) // HOP]
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
  power = np.square(np.abs(np.fft.rfft(frames * window)))
  mel = np.log10(np.maximum(power @ mel_filters(bands).T, 1e-10))
  return ((np.maximum(mel, mel.max() - 8) + 4) / 4).astype(np.float32)


class Layer(nn.Module):
  """One pre-norm layer: [B, T, D] -> same. Keys have no bias."""

  heads: int

  @nn.compact
  def __call__(self, x):
    y = LayerNorm(1e-5, name='norm1')(x)
    q, k, v = (
      nn.Dense(x.shape[-1], use_bias=n != 'k', name=n)(y).reshape(*x.shape[:-1], self.heads, -1)
      for n in 'qkv'
    )
    x = x + nn.Dense(x.shape[-1], name='out')(attention(q, k, v).reshape(x.shape))
    y = gelu_erf(nn.Dense(4 * x.shape[-1], name='fc1')(LayerNorm(1e-5, name='norm2')(x)))
    return x + nn.Dense(x.shape[-1], name='fc2')(y)


class WhisperEncoder(nn.Module):
  """Log mel [B, T, bands] -> [B, T / 2, D]."""

  width: int
  heads: int
  layers: int
  bands: int = 80
  positions: int = 1500

  @nn.compact
  def __call__(self, mel: jax.Array) -> jax.Array:
    x = gelu_erf(nn.Conv(self.width, (3,), padding=1, name='conv1')(mel))
    x = gelu_erf(nn.Conv(self.width, (3,), (2,), padding=1, name='conv2')(x))
    table = self.param('positions', nn.initializers.zeros, (self.positions, self.width))
    x = x + table[: x.shape[1]]
    for i in range(self.layers):
      x = Layer(self.heads, name=f'layer{i}')(x)
    return LayerNorm(1e-5, name='norm')(x)


def read_sound(path: pathlib.Path) -> np.ndarray:
  """[N] float32 mono samples at 16 kHz of a sound file or a film.

  Raises:
    UserError: no such file, or no sound in it.
  """
  import av

  from exp_jax.media.decode import open_media

  with open_media(path) as container:
    if not container.streams.audio:
      raise UserError(f'{str(path)!r} holds no sound')
    resampler = av.AudioResampler('flt', 'mono', SAMPLES)
    try:
      frames = [
        out
        for frame in container.decode(container.streams.audio[0])
        for out in resampler.resample(frame)
      ]
      parts = [out.to_ndarray().ravel() for out in (*frames, *resampler.resample(None))]
    except av.FFmpegError as error:
      raise UserError(f'the sound of {str(path)!r} is damaged ({error.strerror})') from None
  if not parts:
    raise UserError(f'{str(path)!r} holds no sound')
  return np.concatenate(parts)


def listen(path: pathlib.Path, weights) -> np.ndarray:
  """Features [N, D] of a file's sound, 50 a second: pieces of 30 s, each for itself.

  Raises:
    UserError: the sound or the weights cannot be used.
  """
  if not (pathlib.Path(weights) / 'config.json').is_file():
    raise UserError(
      f'there are no Whisper weights at {weights}: make them with `python -m '
      'exp_jax.convert.whisper`'
    )
  loaded = load_weights(weights, 'whisper')
  network = WhisperEncoder(**loaded.sizes)
  like = jax.eval_shape(
    lambda: network.init(jax.random.key(0), jnp.zeros((1, 2 * network.positions, network.bands)))[
      'params'
    ]
  )
  params, run = place(loaded.arrays, like), jax.jit(lambda p, x: network.apply({'params': p}, x))
  sound, piece, out = read_sound(path), SAMPLES * SECONDS, []
  for start in range(0, len(sound), piece):
    part = sound[start : start + piece]
    mel = log_mel(np.pad(part, (0, piece - len(part))), network.bands)
    count = -(-len(part) * int(FEATURES_RATE) // SAMPLES)
    out.append(np.asarray(run(params, mel[None]))[0, :count])
  return np.concatenate(out)
