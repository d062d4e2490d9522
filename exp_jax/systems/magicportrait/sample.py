"""From a portrait's latents and guidance maps to frames: MagicPortrait's sampling end.

All frames of a film are denoised together: at every step of DDIM each window of n frames is
predicted, and where windows share frames their predictions are averaged.

  v = v_u + g (v_c - v_u)       u without the reference; text and maps are the same in both

  open    windows spread evenly over the film, neighbours sharing `overlap` frames, faded towards their ends; the last ends with it
  loop    a window at every multiple of n - overlap, the last going on at the first frame, plain averages: published, overlap 1. There
          the end of a film is blended with its beginning

Encoders run once a frame, AppearanceNet once a portrait. In memory are the latents of all frames
(64 KB each at 512 pixels) and one window; the guidance of all frames lies on the disk. Steps are
called from Python: convolutions inside loops of a compiled program are slow on CPUs.

Letters: n frames of a window, T frames in all, S pixels, h, w, C latents.
Source: MagicPortrait, arXiv 2504.21497, and its published code: DDIM, 20 steps, scale 3.5. It skips
the division by the number of windows at scales up to 1; here it is always made.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from exp_jax.diffusion import ddpm
from exp_jax.diffusion.choices import LARGEST_GUIDANCE
from exp_jax.diffusion.windows import (
  even_weights,
  frame_noise,
  window_frames,
  window_starts,
  window_weights,
  wrapped_window_frames,
)
from exp_jax.errors import UserError
from exp_jax.files.frame_spool import FrameSpool
from exp_jax.files.safetensors import flattened
from exp_jax.networks.codec import Codec, open_codec
from exp_jax.systems.magicportrait.maps import shown_maps
from exp_jax.systems.magicportrait.model import PROMPT, Networks, networks_of
from exp_jax.systems.magicportrait.options import WINDOWS
from exp_jax.systems.magicportrait.schedule import schedule_bars, schedule_times
from exp_jax.systems.magicportrait.start import STAGES
from exp_jax.training.exports import load_export

STILL_WINDOW = 12  # frames at once of an export without motion modules
_CHUNK = (
  4  # frames whose guidance is made at once: at 512 pixels a frame of it takes hundreds of MB
)


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Settings of a sampler.

  Attributes:
    steps: of DDIM.
    guidance: on the reference; 1 is none and costs half.
    overlap: frames that neighbouring windows share.
    windows: 'open' or 'loop'.
  """

  steps: int = 20
  guidance: float = 3.5
  overlap: int = 4
  windows: str = 'open'


@dataclasses.dataclass
class Generator:
  """An export, ready to sample; `encode`, `bank` and `predict` are its compiled calls.

  Attributes:
    config: of the export.
    networks: see `Networks`.
    params: their parameters.
    codec: pixels to latents and back.
    encode: (params, {map: uint8 [1, k, S, S(, 3)]}) -> guidance [1, k, h, w, W_0].
    bank: (params, latents [1, h, w, C]) -> tokens, or None.
    predict: (params, x, times [1], guidance, bank or None) -> prediction.
  """

  config: ml_collections.ConfigDict
  networks: Networks
  params: dict
  codec: Codec
  encode: Callable = dataclasses.field(init=False)
  bank: Callable = dataclasses.field(init=False)
  predict: Callable = dataclasses.field(init=False)

  def __post_init__(self):
    names = self.networks.maps
    self.encode = jax.jit(
      lambda params, maps: self.networks.guidance(params, shown_maps(names, maps))
    )
    self.predict, self.bank = jax.jit(self.networks.predict), jax.jit(self.networks.bank)

  @property
  def size(self) -> int:
    """Pixels of a frame, square."""
    return self.config.data.size

  @property
  def window(self) -> int:
    """Frames of the clips that it was trained on; of a first stage, frames at once."""
    return self.config.data.num_frames if self.networks.denoiser.motion else STILL_WINDOW

  def sampling(self, **given) -> Sampling:
    """The export's choice with the values of `given` that are not None in its place.

    Raises:
      UserError: an overlap that is no part of a window, or guidance out of range or on a reference
        that was never dropped.
    """
    chosen = Sampling(
      **(
        dict(self.config.sample)
        | {name: value for name, value in given.items() if value is not None}
      )
    )
    schedule_times(chosen.steps)
    if chosen.windows not in WINDOWS:
      raise UserError(f'--windows is {chosen.windows!r}, choose from {", ".join(WINDOWS)}')
    if not 0 <= chosen.overlap < self.window:
      raise UserError(
        f'--overlap is {chosen.overlap}, windows of this model have {self.window} frames: choose '
        'at most '
        f'{self.window - 1}'
      )
    if not 0 <= chosen.guidance <= LARGEST_GUIDANCE:
      raise UserError(f'--guidance must be in 0..{LARGEST_GUIDANCE:g}, got {chosen.guidance:g}')
    if chosen.guidance != 1 and (
      not self.config.condition.drop or self.networks.appearance is None
    ):
      raise UserError(
        '--guidance needs a model with a reference that was dropped in training (condition.drop); '
        'this one has none: '
        'set it to 1'
      )
    return chosen


def load_generator(path, *, vae: str | None = None, frame_by_frame: bool = False) -> Generator:
  """Loads and verifies an export; `vae` replaces what its config says of the autoencoder.

  Args:
    frame_by_frame: accept an export of the first stage, which knows nothing of time.

  Raises:
    UserError: it is missing, damaged, of another task or without motion modules, or holds numbers
      that are not finite.
  """
  config, params = load_export(path)
  if config.task not in STAGES:
    raise UserError(f'{path} is an export of {config.task!r}, not of {STAGES[1]}')
  if config.task == STAGES[0] and not frame_by_frame:
    raise UserError(
      f'{path} is an export of the first stage, without motion modules: its frames would flicker. '
      'Train the second '
      'stage on it, or draw frames by themselves with --frame_by_frame'
    )
  if config.task == STAGES[1] and frame_by_frame:
    raise UserError(
      f'{path} has motion modules, so that --frame_by_frame has no meaning: leave it out'
    )
  place = vae or config.vae.path
  near = pathlib.Path(path) / place
  codec = open_codec(
    config.vae.name, str(near) if place.startswith('..') and near.is_dir() else place
  )
  if (prompt := pathlib.Path(path) / PROMPT).is_file():
    config = config.copy_and_resolve_references().unlock()
    config.model.prompt = str(prompt)
    config.lock()
  bad = [name for name, leaf in flattened(params).items() if not np.isfinite(leaf).all()]
  if bad:
    raise UserError(
      f'{path} holds NaN or infinite numbers in {bad[0]} ({len(bad)} arrays in all): train and '
      'export it again'
    )
  return Generator(config, networks_of(config, codec), jax.tree.map(jnp.asarray, params), codec)


def joined_windows(total: int, window: int, chosen: Sampling) -> tuple[np.ndarray, np.ndarray]:
  """(frames [K, n], weights [K, n] that sum to one over every frame) of a film of `total`
  frames."""
  if chosen.windows == 'loop':
    frames = wrapped_window_frames(total, window, chosen.overlap)
    return frames, even_weights(frames, total)
  frames = window_frames(total, window, chosen.overlap)
  return frames, window_weights(
    window_starts(total, window, chosen.overlap), total, frames.shape[1]
  )


def encoded_guidance(
  model: Generator,
  shown: Callable[[int, int], dict],
  total: int,
  tell: Callable[[str, int, int], None],
) -> FrameSpool | None:
  """The guidance of all frames on the disk, to be closed; None of a model without maps.

  `shown` and `tell` as of `stream`.
  """
  if not model.networks.maps:
    return None
  side = model.size // model.codec.strides[1]
  spool = FrameSpool(
    (side, side, model.networks.denoiser.widths[0]), jnp.dtype(model.config.model.dtype)
  )
  try:
    for first in range(0, total, _CHUNK):
      tell('guidance', first, total)
      maps = shown(first, min(first + _CHUNK, total))
      count = len(next(iter(maps.values())))
      whole = {
        name: np.concatenate([part, np.repeat(part[-1:], _CHUNK - count, 0)])[None]
        for name, part in maps.items()
      }
      guidance = np.asarray(model.encode(model.params, whole))[0, :count]
      spool.append(guidance.astype(spool.dtype))
    tell('guidance', total, total)
  except BaseException:
    spool.__exit__()
    raise
  return spool


def sampled_latents(
  model: Generator,
  guidance: FrameSpool | None,
  bank,
  noise: np.ndarray,
  chosen: Sampling,
  tell: Callable[[str, int, int], None] = lambda *_: None,
) -> np.ndarray:
  """All frames' latents from noise, float32 [T, h, w, C].

  Args:
    guidance: of all frames. bank: of the reference.
    noise: [T, h, w, C].
    chosen: of `Generator.sampling`.
    tell: called with (stage, done, total) before each window of each step.
  """
  diffusion = model.config.diffusion
  bars, times, total = schedule_bars(diffusion), schedule_times(chosen.steps), len(noise)
  frames, weights = joined_windows(total, model.window, chosen)
  branches = tuple(
    (w, tokens) for w, tokens in ((chosen.guidance, bank), (1 - chosen.guidance, None)) if w
  )
  x = np.array(noise, np.float32)
  for step, time in enumerate(times):
    predicted, t = np.zeros_like(x), jnp.full(1, int(time))
    for k, (numbers, shares) in enumerate(zip(frames, weights)):
      tell('sample', step * len(frames) + k, len(times) * len(frames))
      part = jnp.asarray(x[numbers])[None]
      added = None if guidance is None else jnp.asarray(guidance.read(numbers))[None]
      found = sum(
        weight * model.predict(model.params, part, t, added, tokens) for weight, tokens in branches
      )
      predicted[numbers] += shares[:, None, None, None].astype(np.float32) * np.asarray(found[0])
    following = bars[times[step + 1]] if step + 1 < len(times) else 1.0
    for numbers in np.array_split(np.arange(total), -(-total // model.window)):
      x[numbers] = ddpm.ddim_step(
        x[numbers],
        predicted[numbers],
        np.float32(bars[time]),
        np.float32(following),
        diffusion.prediction,
      )
  tell('sample', len(times) * len(frames), len(times) * len(frames))
  return x


def stream(
  model: Generator,
  photo: np.ndarray,
  shown: Callable[[int, int], dict],
  total: int,
  rng: jax.Array,
  chosen: Sampling,
  *,
  tell: Callable[[str, int, int], None] = lambda *_: None,
) -> Iterator[np.ndarray]:
  """Frames of a driven portrait, one by one; the first comes when all are sampled.

  Args:
    photo: [S, S, 3] float in 0..1.
    shown: (start, stop) -> {map: uint8 [stop - start, S, S(, 3)]} of those frames.
    total: T.
    rng: key of the noise; a frame's noise depends on its number alone.
    chosen: of `Generator.sampling`.
    tell: called with (stage, done, total) before each part of the work; it may raise to end it.

  Yields:
    [S, S, 3] float32 in 0..1.

  Raises:
    UserError: a photo of another size, or numbers that are not finite; no room on the disk.
  """
  S, codec = model.size, model.codec
  if photo.shape != (S, S, 3) or not np.isfinite(photo).all():
    raise UserError(
      f'the portrait has shape {photo.shape}; this model takes finite numbers of {(S, S, 3)}'
    )
  reference = codec.encode(jnp.asarray(photo, jnp.float32)[None, None] * 2 - 1)[:, 0]
  bank, decode = model.bank(model.params, reference), codec.open_decoder()
  parts = [
    np.asarray(frame_noise(rng, first, model.window, reference.shape[1:]))[0]
    for first in range(0, total, model.window)
  ]
  noise = np.concatenate(parts)[:total]
  guidance = encoded_guidance(model, shown, total, tell)
  try:
    latents = sampled_latents(model, guidance, bank, noise, chosen, tell)
  finally:
    if guidance is not None:
      guidance.__exit__()
  for latent in latents:
    yield np.asarray(jnp.clip(decode(jnp.asarray(latent)[None])[0] * 0.5 + 0.5, 0.0, 1.0))
