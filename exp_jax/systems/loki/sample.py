"""From a portrait's latents and driver maps to frames, window by window: Loki's sampling end.

The encoder runs once a window and the reference network once a portrait; only the generator is
called at every step. A window after
the first shares o frames with the one before: at every step these are that window's result at the
step's noise, so that the new frames grow onto it. Memory does not depend on the length. Steps are
called from Python: convolutions inside loops of a compiled program are slow on CPUs.

  joint:        eps = eps_u + g (eps_c - eps_u),                           u: null map through the encoder, no reference
  independent:  eps = eps_u + g (eps_m - eps_u) + r (eps_mr - eps_m)       m: the map alone

Letters: n frames of a window, o of its overlap, T frames in all, S pixels, h, w, C latents.
Source: Loki, arXiv 2605.24176, and its published code: DDIM, 50 steps, scale 2. Windows are ours:
upstream makes 16 frames.
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
from exp_jax.diffusion.windows import frame_noise, streamed_starts
from exp_jax.errors import UserError
from exp_jax.networks.codec import Codec, open_codec
from exp_jax.systems.loki.model import PROMPT, Networks, networks_of, nothing_shown
from exp_jax.systems.loki.records import vector_length
from exp_jax.systems.loki.schedule import loki_bars, loki_times
from exp_jax.training.exports import load_export


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Settings of a sampler.

  Attributes:
    steps: of DDIM.
    guidance: on map and reference together, or on the map; 1 is none and costs half.
    reference_guidance: on the reference, of exports trained with independent dropout.
    overlap: frames that neighbouring windows share.
  """

  steps: int = 50
  guidance: float = 2.0
  reference_guidance: float = 1.0
  overlap: int = 4


@dataclasses.dataclass
class Generator:
  """An export of task 'loki', ready to sample; `encode`, `bank` and `predict` are its compiled
  calls.

  Attributes:
    config: of the export.
    networks: see `Networks`.
    params: their parameters.
    codec: pixels to latents and back.
    encode: (params, maps [1, n, S, S, channels] or vectors [1, n, D]) -> guidance.
    bank: (params, latents [1, h, w, C]) -> tokens, or None.
    predict: (params, x, times [1], guidance, bank, keep [1]) -> prediction.
  """

  config: ml_collections.ConfigDict
  networks: Networks
  params: dict
  codec: Codec
  encode: Callable = dataclasses.field(init=False)
  bank: Callable = dataclasses.field(init=False)
  predict: Callable = dataclasses.field(init=False)

  def __post_init__(self):
    self.encode, self.predict = jax.jit(self.networks.guidance), jax.jit(self.networks.predict)
    self.bank = jax.jit(self.networks.bank)

  @property
  def size(self) -> int:
    """Pixels of a frame, square."""
    return self.config.data.size

  @property
  def window(self) -> int:
    """Frames of the clips that it was trained on."""
    return self.config.data.num_frames

  def sampling(self, **given) -> Sampling:
    """The export's choice with the values of `given` that are not None in its place.

    Raises:
      UserError: an overlap that is no part of a window, guidance out of range or on a reference
        that was not dropped by itself.
    """
    chosen = Sampling(
      **(
        dict(self.config.sample)
        | {name: value for name, value in given.items() if value is not None}
      )
    )
    loki_times(chosen.steps, self.config.diffusion.prediction)
    if not 0 <= chosen.overlap < self.window:
      raise UserError(
        f'--overlap is {chosen.overlap}, windows of this model have {self.window} frames: choose '
        'at most '
        f'{self.window - 1}'
      )
    for name in ('guidance', 'reference_guidance'):
      if not 0 <= getattr(chosen, name) <= LARGEST_GUIDANCE:
        raise UserError(
          f'--{name} must be in 0..{LARGEST_GUIDANCE:g}, got {getattr(chosen, name):g}'
        )
    if chosen.reference_guidance != 1 and self.config.condition.dropout == 'joint':
      raise UserError(
        '--reference_guidance is for models trained with independent dropout; this one dropped map '
        'and reference '
        'together: leave it out'
      )
    if (chosen.guidance, chosen.reference_guidance) != (1, 1) and not self.config.condition.drop:
      raise UserError(
        '--guidance needs a model that was trained with dropout (condition.drop); this one was '
        'not: set it to 1'
      )
    return chosen


def load_generator(path, *, vae: str | None = None) -> Generator:
  """Loads and verifies an export; `vae` replaces what its config says of the autoencoder.

  Raises:
    UserError: it is missing, damaged, of another task, or holds numbers that are not finite.
  """
  config, params = load_export(path)
  if config.task != 'loki':
    raise UserError(f'{path} is an export of {config.task!r}, not of loki')
  place = vae or config.vae.path
  near = pathlib.Path(path) / place
  codec = open_codec(
    config.vae.name, str(near) if place.startswith('..') and near.is_dir() else place
  )
  if (prompt := pathlib.Path(path) / PROMPT).is_file():
    config = config.copy_and_resolve_references().unlock()
    config.model.prompt = str(prompt)
  networks = networks_of(config, codec, vector=vector_length(config.data))
  if networks.reference is not None and 'reference' not in params:
    raise UserError(f'{path} lacks the reference network; export it again')
  bad = [
    jax.tree_util.keystr(place)
    for place, leaf in jax.tree_util.tree_leaves_with_path(params)
    if not np.isfinite(leaf).all()
  ]
  if bad:
    raise UserError(
      f'{path} holds NaN or infinite numbers in {bad[0]} ({len(bad)} arrays in all): train and '
      'export it again'
    )
  return Generator(config, networks, jax.tree.map(jnp.asarray, params), codec)


def branches_of(chosen: Sampling, dropout: str) -> tuple[tuple[float, bool, bool], ...]:
  """((weight, sees the map, sees the reference), ...) of guidance; those of weight 0 are left
  out."""
  g, r = chosen.guidance, chosen.reference_guidance
  if dropout == 'joint':
    found = ((g, True, True), (1 - g, False, False))
  else:
    found = ((r, True, True), (g - r, True, False), (1 - g, False, False))
  return tuple(branch for branch in found if branch[0])


def stream(
  model: Generator,
  photo: np.ndarray,
  shown: Callable[[int, int], np.ndarray],
  total: int,
  rng: jax.Array,
  chosen: Sampling,
) -> Iterator[np.ndarray]:
  """Frames of a driven portrait, part by part.

  Args:
    photo: [S, S, 3] float in 0..1.
    shown: (start, stop) -> what the encoder sees of those frames, [stop - start, S, S, channels] or
      vectors.
    total: T.
    rng: key of the noise; a frame's noise depends on its number alone.
    chosen: of `Generator.sampling`.

  Yields:
    [k, S, S, 3] float32 in 0..1, T frames together.

  Raises:
    UserError: a photo of another size, or numbers that are not finite.
  """
  S, n, codec = model.size, model.window, model.codec
  if photo.shape != (S, S, 3) or not np.isfinite(photo).all():
    raise UserError(
      f'the portrait has shape {photo.shape}; this model takes finite numbers of {(S, S, 3)}'
    )
  reference = codec.encode(jnp.asarray(photo, jnp.float32)[None, None] * 2 - 1)[:, 0]
  bank, decode = model.bank(model.params, reference), codec.open_decoder()
  before, empty = None, None
  for first in streamed_starts(total, n, chosen.overlap):
    part = np.asarray(shown(first, min(first + n, total)), np.float32)
    if not np.isfinite(part).all():
      raise UserError(
        'the driver maps hold NaN or infinite numbers: the fit of the driver or of the portrait is '
        'broken, fit it '
        'again'
      )
    part = jnp.asarray(np.concatenate([part, np.repeat(part[-1:], n - len(part), 0)]))[None]
    guidance = model.encode(model.params, part)
    if empty is None and any(
      not seen for _, seen, _ in branches_of(chosen, model.config.condition.dropout)
    ):
      empty = model.encode(model.params, nothing_shown(part))
    noise = frame_noise(rng, first, n, reference.shape[1:])
    latents = denoised(model, noise, guidance, empty, bank, before=before, chosen=chosen)
    before = latents[:, n - chosen.overlap :] if chosen.overlap else None
    new = latents[0, chosen.overlap if first else 0 : total - first]
    yield np.asarray(jnp.clip(decode(new) * 0.5 + 0.5, 0.0, 1.0))


def denoised(
  model: Generator,
  noise: jax.Array,
  guidance: jax.Array,
  empty: jax.Array | None,
  bank,
  *,
  before: jax.Array | None,
  chosen: Sampling,
) -> jax.Array:
  """[1, n, h, w, C] latents of a window; `before` [1, o, h, w, C]: what its first frames are."""
  prediction, params = model.config.diffusion.prediction, model.params
  bars, times = loki_bars(model.config.diffusion), loki_times(chosen.steps, prediction)
  last = bars[0] if prediction == 'eps' else 1.0
  branches, x = branches_of(chosen, model.config.condition.dropout), noise
  for now, time in enumerate(times):
    bar, following = bars[time], bars[times[now + 1]] if now + 1 < len(times) else last
    if before is not None:
      x = x.at[:, : before.shape[1]].set(ddpm.add_noise(before, noise[:, : before.shape[1]], bar))
    t, total = jnp.full(1, int(time)), 0.0
    for weight, seen, kept in branches:
      total = total + weight * model.predict(
        params, x, t, guidance if seen else empty, bank, jnp.array([kept])
      )
    x = ddpm.ddim_step(x, total, jnp.float32(bar), jnp.float32(following), prediction)
  return x if before is None else x.at[:, : before.shape[1]].set(before)
