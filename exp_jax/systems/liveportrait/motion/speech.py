"""Motion from speech: a small causal transformer that continues a head's motion, given what is said
(appendix C of the paper).

A frame's motion is 69 numbers, changes since the first frame, each over its usual size: the
expression (63), pitch, yaw, roll, the logarithm of the scale, and the shift in the plane. Frame t
sees the motions of frames before it and the features of the speech about it (two frames ahead).
Attention falls off with the distance in time, by a slope of its own for every head, so that clips
may be of any length; while sampling the last `window` frames are looked at.

  python -m exp_jax liveportrait.speech --export out/speech_export --features talk_speech.npz -o talk.npz
  python -m exp_jax liveportrait.speech --export out/speech_export --audio talk.wav --whisper weights/whisper -o talk.npz
  python -m exp_jax.animate --engine liveportrait -s ann.jpg -d talk.npz -o ann.mp4 --export weights/liveportrait

Letters: B batch, T frames, D features, M = 69 numbers of a motion, h heads.
Source: LivePortrait (arXiv 2407.03168), appendix C; Fan et al., FaceFormer, 2022; Press et al.,
ALiBi, 2022 (the slopes).
"""

import argparse
import fractions
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files import npz
from exp_jax.layers.mlp import Mlp, gelu_erf
from exp_jax.layers.norms import LayerNorm
from exp_jax.systems.liveportrait.motion.templates import Template, save_template
from exp_jax.systems.liveportrait.networks.keypoints import (
  degrees_from_rotation,
  rotation_from_degrees,
)
from exp_jax.systems.liveportrait.networks.motion import KEYPOINTS, Motion
from exp_jax.training.exports import load_export

NUMBERS = 3 * KEYPOINTS + 6
_SIZES = np.concatenate(
  [np.full(3 * KEYPOINTS, 0.01), np.full(3, 10.0), [0.05], np.full(2, 0.05)]
).astype(np.float32)


def to_numbers(motion: Motion) -> np.ndarray:
  """A Motion of T frames -> [T, 69], changes since its first frame over their usual size."""
  first = lambda x: x - x[:1]
  turn = degrees_from_rotation(motion.rotation[:1].transpose(0, 2, 1) @ motion.rotation)
  rows = [
    first(motion.expression).reshape(len(turn), -1),
    turn,
    first(np.log(motion.scale))[:, None],
    first(motion.translation)[:, :2],
  ]
  return (np.concatenate(rows, 1) / _SIZES).astype(np.float32)


def to_motion(numbers: np.ndarray) -> Motion:
  """The inverse, of a head that is frontal, at rest and of scale 1 in its first frame."""
  values, K = np.asarray(numbers) * _SIZES, 3 * KEYPOINTS
  T = len(values)
  return Motion(
    np.zeros((T, KEYPOINTS, 3), np.float32),
    np.asarray(rotation_from_degrees(values[:, K : K + 3])),
    values[:, :K].reshape(T, KEYPOINTS, 3),
    np.exp(values[:, K + 3]),
    np.pad(values[:, K + 4 :], ((0, 0), (0, 1))),
  )


def aligned(features: np.ndarray, *, rate: float, features_rate: float, frames: int) -> np.ndarray:
  """[N, D] features at `features_rate` a second -> [frames, D] at `rate`, linear; what is beyond
  the end repeats it."""
  place = np.clip(np.arange(frames) * features_rate / rate, 0, len(features) - 1)
  low = np.floor(place).astype(int)
  share = (place - low)[:, None]
  return (
    (1 - share) * features[low] + share * features[np.minimum(low + 1, len(features) - 1)]
  ).astype(np.float32)


def causal_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """[B, T, h, e] three times -> [B, T, h, e]: to the past only, scores falling by 2^(-8 i / h) a
  frame in head i."""
  T, h, e = q.shape[1:]
  away = jnp.arange(T)[:, None] - jnp.arange(T)
  slopes = 2.0 ** (-8.0 * jnp.arange(1, h + 1) / h)
  scores = jnp.einsum('bnhe,bmhe->bhnm', q, k) * e**-0.5 - slopes[:, None, None] * away
  return jnp.einsum('bhnm,bmhe->bnhe', jax.nn.softmax(jnp.where(away >= 0, scores, -1e30), -1), v)


class Block(nn.Module):
  """One pre-norm layer: [B, T, D] -> same."""

  heads: int

  @nn.compact
  def __call__(self, x):
    y = LayerNorm(name='norm1')(x)
    q, k, v = (
      nn.Dense(x.shape[-1], name=n)(y).reshape(*x.shape[:-1], self.heads, -1) for n in 'qkv'
    )
    x = x + nn.Dense(x.shape[-1], name='out')(causal_attention(q, k, v).reshape(x.shape))
    return x + Mlp(4 * x.shape[-1], x.shape[-1], gelu_erf, name='mlp')(LayerNorm(name='norm2')(x))


class SpeechMotion(nn.Module):
  """(features [B, T, D], motions before each frame [B, T, M]) -> motions [B, T, M]."""

  features: int
  width: int
  heads: int
  depth: int

  @nn.compact
  def __call__(self, features, before):
    x = nn.Conv(self.width, (5,), padding='SAME', name='speech')(features) + nn.Dense(
      self.width, name='before'
    )(before)
    for i in range(self.depth):
      x = Block(self.heads, name=f'block{i}')(x)
    return before + nn.Dense(NUMBERS, kernel_init=nn.initializers.zeros, name='change')(
      LayerNorm(name='norm')(x)
    )


def speech_motion(config) -> SpeechMotion:
  """The network of a config's `model` section."""
  return SpeechMotion(
    config.model.features, config.model.width, config.model.heads, config.model.depth
  )


def continued(
  network: SpeechMotion, params: dict, features: jax.Array, *, window: int = 64
) -> jax.Array:
  """Motions [B, T, M] of features [B, T, D], frame after frame, the first at rest; each from at
  most `window` frames before."""
  B, T, _ = features.shape
  window = min(window, T)
  padded = jnp.pad(features, ((0, 0), (window - 1, 2), (0, 0)), mode='edge')
  step_of = lambda speech, before: network.apply({'params': params}, speech, before)[:, window - 1]

  def step(before, t):
    speech = jax.lax.dynamic_slice_in_dim(padded, t, window + 2, 1)  # two frames ahead
    now = jnp.where(t == 0, 0.0, step_of(speech, jnp.pad(before, ((0, 0), (0, 2), (0, 0)))))
    return jnp.concatenate([before[:, 1:], now[:, None]], 1), now

  _, motions = jax.lax.scan(step, jnp.zeros((B, window, NUMBERS)), jnp.arange(T))
  return jnp.moveaxis(motions, 0, 1)


def template_of(export, features: np.ndarray, *, features_rate: float | None = None) -> Template:
  """What an exported network makes of speech features [N, D].

  Raises:
    UserError: no such export, an export of something else, or features of another width.
  """
  config, params = load_export(export)
  if config.get('task') != 'liveportrait/speech':
    raise UserError(f'{export} is an export of {config.get("task")!r}, not of liveportrait/speech')
  if features.ndim != 2 or features.shape[1] != config.model.features:
    raise UserError(
      f'the speech features are {list(features.shape)}, the network wants [N, '
      f'{config.model.features}]'
    )
  rate, own = float(config.data.rate), float(features_rate or config.data.features_rate)
  frames = max(1, int(round(len(features) * rate / own)))
  speech = aligned(features, rate=rate, features_rate=own, frames=frames)
  run = jax.jit(lambda p, x: continued(speech_motion(config), p, x, window=int(config.data.frames)))
  return Template(
    to_motion(np.asarray(run(params, speech[None]))[0]),
    fractions.Fraction(rate).limit_denominator(1001),
  )


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(
    prog='python -m exp_jax liveportrait.speech',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--export', type=pathlib.Path, required=True, help='export of configs/liveportrait.py:speech'
  )
  parser.add_argument(
    '--features', type=pathlib.Path, help='npz with `features` [N, D], of any speech encoder'
  )
  parser.add_argument('--audio', type=pathlib.Path, help='sound or film; needs --whisper')
  parser.add_argument(
    '--whisper', type=pathlib.Path, help='weights by `python -m exp_jax.convert.whisper`'
  )
  parser.add_argument(
    '-o', '--output', type=pathlib.Path, required=True, help='motion template to write (.npz)'
  )
  args = parser.parse_args(argv)
  if args.output.suffix != '.npz':
    raise UserError(f'the output {str(args.output)!r} must end in .npz')
  if (args.features is None) == (args.audio is None) or (args.audio is None) != (
    args.whisper is None
  ):
    raise UserError('give --features FILE, or --audio FILE with --whisper DIR')
  if args.features is not None:
    arrays = npz.read_npz(args.features)
    if 'features' not in arrays:
      raise UserError(f'{args.features} has no array `features`')
    features, rate = arrays['features'].astype(np.float32), None
  else:
    from exp_jax.systems.liveportrait.networks.whisper import FEATURES_RATE, listen

    features, rate = listen(args.audio, args.whisper), FEATURES_RATE
  found = template_of(args.export, features, features_rate=rate)
  save_template(args.output, found)
  print(f'{args.output}: {len(found)} frames at {found.rate} a second')
  return 0


if __name__ == '__main__':
  raise SystemExit(main())
