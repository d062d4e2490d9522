"""Task 'loki': same-person clips, the frame that speaks for the person drawn anew each time, the
driver map the only motion.

  L = E || target - predict(sqrt(alpha_bar) z + sqrt(1 - alpha_bar) eps, t; map, bank) ||^2      t drawn for each frame

With probability `condition.drop` an example has the null map, zeros through the encoder, and no
reference, jointly; 'independent' drops each by itself. The reference network is frozen, and is no
part of the optimizer.

Config: `model` (variant, weights, reference, prompt, dtype, attention, remat), `condition` (map,
encoder, gain, drop, dropout), `diffusion` (prediction, zero_snr, most_beta, shift, late_share,
shared_times), `vae`, `data`, `batch_size`, `sample`. `diffusion.late_share` draws that share of the
times from the last tenth, where pose and identity are decided, and `shared_times` gives that share
of the clips one time for all frames; both 0 as published.

Letters: B clips, T frames, S pixels, h, w, C latents.
Source: Loki, arXiv 2605.24176, and its published code; times a frame as CAP4D.
"""

import pathlib

import jax
import jax.numpy as jnp

from exp_jax.diffusion import ddpm
from exp_jax.errors import UserError
from exp_jax.heads.trained_head import HEAD, found_beside
from exp_jax.networks.codec import open_codec
from exp_jax.networks.sd_start import check_prompt
from exp_jax.systems.loki.model import (
  OF_MAPS,
  PROMPT,
  Networks,
  initial_params,
  networks_of,
  nothing_shown,
  shown_maps,
)
from exp_jax.systems.loki.records import Windows, open_records, vector_length
from exp_jax.systems.loki.schedule import loki_bars
from exp_jax.systems.loki.start import start_fn
from exp_jax.training.task import Task

DROPOUTS = ('joint', 'independent')
_LATE = 0.9  # of the training times
_KINDS = {
  'places': ((3,), jnp.float16),
  'depth': ((), jnp.float16),
  'deformation': ((3,), jnp.float16),
  'mask': ((), jnp.uint8),
}


def keys_of(config) -> tuple[str, ...]:
  """The keys of a batch: pixels or latents of clip and reference, and what the encoder looks at."""
  pixels = ('latents', 'reference_latents') if config.data.latents else ('video', 'reference')
  kind = config.condition.map
  shown = ('vector',) if kind == 'vector' else ('video',) if kind == 'rgb' else OF_MAPS
  return tuple(dict.fromkeys((*pixels, *shown, 'matte')))


def batch_spec(config, codec) -> dict:
  """Shapes of a global batch."""
  data = config.data
  lead, side = (config.batch_size, data.num_frames), data.size // codec.strides[1]
  of = {
    'video': ((*lead, data.size, data.size, 3), jnp.uint8),
    'reference': ((lead[0], data.size, data.size, 3), jnp.uint8),
    'latents': ((*lead, side, side, codec.channels), jnp.float16),
    'matte': ((*lead, data.size, data.size), jnp.uint8),
    'reference_latents': ((lead[0], side, side, codec.channels), jnp.float16),
    'vector': ((*lead, vector_length(data)), jnp.float32),
  }
  of |= {
    name: ((*lead, data.size, data.size, *last), kind) for name, (last, kind) in _KINDS.items()
  }
  return {key: jax.ShapeDtypeStruct(*of[key]) for key in keys_of(config)}


def _check(config, codec) -> None:
  if config.condition.dropout not in DROPOUTS or not 0 <= config.condition.drop < 1:
    raise UserError(
      f'config.condition.dropout is {config.condition.dropout!r} at {config.condition.drop}: '
      'choose joint or '
      'independent, and a share of at least 0 and below 1'
    )
  if codec.strides[0] != 1 or config.data.size % codec.strides[1]:
    raise UserError(
      f'frames of {config.data.size} pixels and an autoencoder of strides {codec.strides}: Loki '
      'takes one of single '
      'frames whose stride divides the size'
    )
  if config.diffusion.prediction not in ddpm.PREDICTIONS:
    raise UserError(
      f'config.diffusion.prediction is {config.diffusion.prediction!r}, choose from '
      f'{", ".join(ddpm.PREDICTIONS)}'
    )


def latents_of(codec, batch) -> tuple[jax.Array, jax.Array]:
  """(clip [B, T, h, w, C], reference [B, h, w, C]) of a batch."""
  if 'latents' in batch:
    return batch['latents'].astype(jnp.float32), batch['reference_latents'].astype(jnp.float32)
  code = lambda images: jax.lax.stop_gradient(
    codec.encode(images.astype(jnp.float32) / 127.5 - 1.0)
  )
  return code(batch['video']), code(batch['reference'][:, None])[:, 0]


def draw_times(rng: jax.Array, shape: tuple[int, int], steps: int, diffusion) -> jax.Array:
  """[B, T] training times: one a frame, or one a clip for a share of them; a share from the last
  tenth."""
  for_time, for_late, for_shared = jax.random.split(rng, 3)
  times = jax.random.randint(for_time, shape, 0, steps)
  late = jax.random.bernoulli(for_late, diffusion.late_share, shape)
  times = jnp.where(late, int(_LATE * steps) + times * (steps - int(_LATE * steps)) // steps, times)
  shared = jax.random.bernoulli(for_shared, diffusion.shared_times, (shape[0], 1))
  return jnp.where(shared, times[:, :1], times)


def _kept(rng: jax.Array, count: int, condition) -> tuple[jax.Array, jax.Array]:
  """([B] whether the map is there, [B] whether the reference is)."""
  for_map, for_reference = jax.random.split(rng)
  kept = jax.random.bernoulli(for_map, 1 - condition.drop, (count,))
  return kept, kept if condition.dropout == 'joint' else jax.random.bernoulli(
    for_reference, 1 - condition.drop, (count,)
  )


def from_noise(
  networks: Networks,
  params: dict,
  bars,
  prediction: str,
  *,
  z: jax.Array,
  shown: jax.Array,
  bank,
  rng: jax.Array,
):
  """[B, T, h, w, C] one guess of the clip from noise at the last time that the sampler visits."""
  last = 981 if prediction == 'eps' else len(bars) - 1
  times = jnp.full(z.shape[:2], last)
  bar, noise = ddpm.bars_at(bars, times), jax.random.normal(rng, z.shape)
  predicted = networks.predict(params, noise, times, networks.guidance(params, shown), bank)
  return ddpm.x0_and_noise(predicted, noise, bar, prediction)[0]


def task(config) -> Task:
  """See `Task`."""
  codec = open_codec(**config.vae)
  _check(config, codec)
  networks, bars = networks_of(config, codec, planned=True), loki_bars(config.diffusion)
  prediction, spec = config.diffusion.prediction, batch_spec(config, codec)

  def init_fn(rng):
    return initial_params(
      networks, rng, size=config.data.size, codec=codec, vector=vector_length(config.data)
    )

  def loss_fn(params, batch, rng):
    for_time, for_noise, for_drop = jax.random.split(rng, 3)
    z, reference = latents_of(codec, batch)
    times = draw_times(for_time, z.shape[:2], len(bars), config.diffusion)
    noise, bar = jax.random.normal(for_noise, z.shape), ddpm.bars_at(bars, times)
    keep_map, keep_reference = _kept(for_drop, len(z), config.condition)
    shown = shown_maps(networks.kind, batch)
    shown = jnp.where(keep_map.reshape(-1, *(1,) * (shown.ndim - 1)), shown, nothing_shown(shown))
    bank = networks.bank(params, reference)
    bank = (
      bank if bank is None or config.model.reference == 'trained' else jax.lax.stop_gradient(bank)
    )
    predicted = networks.predict(
      params,
      ddpm.add_noise(z, noise, bar),
      times,
      networks.guidance(params, shown),
      bank,
      keep_reference,
    )
    return jnp.square(predicted - ddpm.target(z, noise, bar, prediction)).mean(), {}

  def evaluate(params, batch, rng):
    z, reference = latents_of(codec, batch)
    shown, bank = shown_maps(networks.kind, batch), networks.bank(params, reference)
    known = networks, params, bars, prediction
    guess = from_noise(*known, z=z, shown=shown, bank=bank, rng=rng)
    error = {'x0_error': jnp.square(guess - z).mean()}
    if config.vae.name == 'sd' and not config.vae.path:
      return error  # latents alone: nothing can be shown
    other = from_noise(*known, z=z, shown=jnp.roll(shown, 1, axis=0), bank=bank, rng=rng)
    images = [
      codec.decode(x) * 0.5 + 0.5
      for x in (jnp.broadcast_to(reference[:, None], z.shape), guess, other, z)
    ]
    repeated, own, foreign, truth = (jnp.clip(x, 0.0, 1.0) for x in images)
    weight = (batch['matte'] > 0)[..., None] * 1.0
    psnr = lambda x: (
      -10 * jnp.log10((jnp.square(x - truth) * weight).sum() / jnp.maximum(3 * weight.sum(), 1))
    )
    rows = [jnp.concatenate(list(x[:4, 0]), axis=1) for x in (repeated, own, truth)]
    return error | {
      'psnr': psnr(own),
      'psnr_repeated': psnr(repeated),
      'psnr_other_map': psnr(foreign),
      'frames': jnp.concatenate(rows),
    }

  trained = config.model.reference == 'trained'
  return Task(
    init_fn,
    loss_fn,
    spec,
    (('from noise', evaluate),),
    start=start_fn(config, networks, init_fn),
    trainable=lambda path: trained or path.split('/')[0] != 'reference',
  )


def examples(config):
  """(source, transform) of this task's batches.

  Raises:
    UserError: the records, or the prompt of the reference network, are not there.
  """
  if config.model.reference != 'none':
    check_prompt(config.model.get('prompt', ''), '')
  return open_records(config, config.data.path), Windows(config, keys_of(config))


def held_out(config):
  """The same of `config.data.held_out`; None if that is empty."""
  return (
    (open_records(config, config.data.held_out), Windows(config, keys_of(config)))
    if config.data.held_out
    else None
  )


def export_files(config):
  """What an export carries beside its parameters: which head its maps show, and the prompt that its
  reference network reads."""
  head = found_beside(config.data.path)
  prompt = {PROMPT: pathlib.Path(config.model.prompt)} if config.model.get('prompt', '') else {}
  return prompt | ({} if head is None else {HEAD: head})
