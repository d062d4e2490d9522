"""Tasks 'magicportrait/stage1' and 'magicportrait/stage2'.

  L = E w(t) || v - predict(sqrt(alpha_bar) z + sqrt(1 - alpha_bar) eps, t; maps, bank) ||^2     one t a clip

  stage1   frames by themselves: denoiser, AppearanceNet and guidance encoders learn, from Stable Diffusion
  stage2   clips: the motion modules learn, everything else is as the first stage left it

w is min-SNR's weight, `diffusion.gamma` 5 (0: none). eps is normal noise with `diffusion.offset`
times noise that all pixels and frames share. With probability `condition.drop` an example has no
reference; text and maps stay: 'example' draws for each, 'batch' once for all, as the published
trainer's base does. What lies behind the last tokens of AppearanceNet gets no gradient and is no
part of the optimizer.

Config: `model` (variant, weights, motion, motion_weights, fusion, prompt, dtype, attention, remat),
`condition` (maps, encoder, attend, gain, drop, dropout), `diffusion` (prediction, betas, zero_snr,
gamma, offset, late_share), `vae`, `data`, `batch_size`, `sample`. `diffusion.late_share` draws that
share of the times from the last one, where pose and identity are decided; 0 as published.

Letters: B clips, T frames, S pixels, h, w, C latents.
Source: MagicPortrait, arXiv 2504.21497, sections III-C and IV; the trainer of Champ, its base, for
what the paper leaves out.
"""

import pathlib

import jax
import jax.numpy as jnp

from exp_jax.diffusion import ddpm
from exp_jax.errors import UserError
from exp_jax.heads.trained_head import HEAD, found_beside
from exp_jax.networks.codec import open_codec
from exp_jax.networks.sd_start import check_prompt
from exp_jax.systems.magicportrait.maps import MAPS, shown_maps
from exp_jax.systems.magicportrait.model import (
  PROMPT,
  SENTENCE,
  Networks,
  initial_params,
  is_motion,
  is_read,
  networks_of,
)
from exp_jax.systems.magicportrait.records import Windows, open_records
from exp_jax.systems.magicportrait.schedule import schedule_bars
from exp_jax.systems.magicportrait.start import STAGES, start_fn
from exp_jax.training.task import Task

DROPOUTS = ('example', 'batch')


def keys_of(config) -> tuple[str, ...]:
  """The keys of a batch: pixels or latents of clip and reference, the maps, and the matte."""
  pixels = ('latents', 'reference_latents') if config.data.latents else ('video', 'reference')
  return (*pixels, *config.condition.maps, 'matte')


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
  }
  of |= {
    name: ((*lead, data.size, data.size, *((3,) if channels == 3 else ())), jnp.uint8)
    for name, channels in MAPS.items()
  }
  return {key: jax.ShapeDtypeStruct(*of[key]) for key in keys_of(config)}


def _check(config, codec) -> None:
  condition, diffusion = config.condition, config.diffusion
  if config.task not in STAGES:
    raise UserError(f'config.task is {config.task!r}, choose from {", ".join(STAGES)}')
  if condition.dropout not in DROPOUTS or not 0 <= condition.drop < 1:
    raise UserError(
      f'config.condition.dropout is {condition.dropout!r} at {condition.drop}: choose example or '
      'batch, and a share of '
      'at least 0 and below 1'
    )
  if codec.strides[0] != 1 or config.data.size % codec.strides[1]:
    raise UserError(
      f'frames of {config.data.size} pixels and an autoencoder of strides {codec.strides}: '
      'MagicPortrait takes one of '
      'single frames whose stride divides the size'
    )
  if not 0 <= diffusion.late_share <= 1 or diffusion.gamma < 0 or diffusion.offset < 0:
    raise UserError(
      f'config.diffusion has late_share {diffusion.late_share}, gamma {diffusion.gamma} and offset '
      f'{diffusion.offset}: '
      'a share is 0 to 1, the others are not negative'
    )
  if config.task == STAGES[0] and (config.model.motion or config.data.num_frames != 1):
    raise UserError(
      'the first stage sees single frames and has no motion modules: set config.model.motion to '
      'the empty word and '
      f'data.num_frames to 1, they are {config.model.motion!r} and {config.data.num_frames}'
    )
  if config.task == STAGES[1] and not config.model.motion:
    raise UserError("the second stage trains motion modules: set config.model.motion='frame'")
  if config.task == STAGES[0] and config.model.motion_weights:
    raise UserError('config.model.motion_weights belongs to the second stage: leave it empty')
  if config.task == STAGES[1] and not config.model.motion_weights:
    raise UserError(
      'config.model.motion_weights is empty: name a folder of `python -m exp_jax.convert.sd import '
      '--network '
      "sd_motion`, or say 'scratch'"
    )


def latents_of(codec, batch) -> tuple[jax.Array, jax.Array]:
  """(clip [B, T, h, w, C], reference [B, h, w, C]) of a batch."""
  if 'latents' in batch:
    return batch['latents'].astype(jnp.float32), batch['reference_latents'].astype(jnp.float32)
  code = lambda images: jax.lax.stop_gradient(
    codec.encode(images.astype(jnp.float32) / 127.5 - 1.0)
  )
  return code(batch['video']), code(batch['reference'][:, None])[:, 0]


def draw_times(rng: jax.Array, count: int, steps: int, late_share: float) -> jax.Array:
  """[B] training times, one a clip; a share of them the last one."""
  for_time, for_late = jax.random.split(rng)
  times = jax.random.randint(for_time, (count,), 0, steps)
  return jnp.where(jax.random.bernoulli(for_late, late_share, (count,)), steps - 1, times)


def draw_kept(rng: jax.Array, count: int, condition) -> jax.Array:
  """[B] whether the reference is there."""
  drawn = jax.random.bernoulli(
    rng, 1 - condition.drop, (count if condition.dropout == 'example' else 1,)
  )
  return jnp.broadcast_to(drawn, (count,))


def from_noise(
  networks: Networks,
  params: dict,
  bars,
  prediction: str,
  *,
  z: jax.Array,
  shown: dict,
  bank,
  rng: jax.Array,
) -> jax.Array:
  """[B, T, h, w, C] one guess of the clip from noise at the last time."""
  times = jnp.full(len(z), len(bars) - 1)
  noise = jax.random.normal(rng, z.shape)
  predicted = networks.predict(params, noise, times, networks.guidance(params, shown), bank)
  return ddpm.x0_and_noise(predicted, noise, ddpm.bars_at(bars, times), prediction)[0]


def task(config) -> Task:
  """See `Task`."""
  codec = open_codec(**config.vae)
  _check(config, codec)
  networks, bars = networks_of(config, codec, planned=True), schedule_bars(config.diffusion)
  prediction, gamma, offset = (config.diffusion[name] for name in ('prediction', 'gamma', 'offset'))

  def init_fn(rng):
    return initial_params(networks, rng, size=config.data.size, codec=codec)

  def loss_fn(params, batch, rng):
    for_time, for_noise, for_drop = jax.random.split(rng, 3)
    z, reference = latents_of(codec, batch)
    times = draw_times(for_time, len(z), len(bars), config.diffusion.late_share)
    noise, bar = ddpm.offset_noise(for_noise, z.shape, offset), ddpm.bars_at(bars, times)
    guidance, bank = (
      networks.guidance(params, shown_maps(networks.maps, batch)),
      networks.bank(params, reference),
    )
    predicted = networks.predict(
      params,
      ddpm.add_noise(z, noise, bar),
      times,
      guidance,
      bank,
      draw_kept(for_drop, len(z), config.condition),
    )
    error = jnp.square(predicted - ddpm.target(z, noise, bar, prediction)).mean((1, 2, 3, 4))
    weight = ddpm.min_snr_weight(bar, gamma, prediction) if gamma else 1.0
    return (weight * error).mean(), {}

  def evaluate(params, batch, rng):
    z, reference = latents_of(codec, batch)
    shown, bank = shown_maps(networks.maps, batch), networks.bank(params, reference)
    known = networks, params, bars, prediction
    guess = from_noise(*known, z=z, shown=shown, bank=bank, rng=rng)
    error = {'x0_error': jnp.square(guess - z).mean()}
    if config.vae.name == 'sd' and not config.vae.path:
      return error  # latents alone: nothing can be shown
    other = from_noise(
      *known,
      z=z,
      shown={k: jnp.roll(x, 1, axis=0) for k, x in shown.items()},
      bank=bank,
      rng=rng,
    )
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
      'psnr_other_maps': psnr(foreign),
      'frames': jnp.concatenate(rows),
    }

  trainable = is_motion if config.task == STAGES[1] else lambda path: is_read(networks, path)
  return Task(
    init_fn,
    loss_fn,
    batch_spec(config, codec),
    (('from noise', evaluate),),
    start=start_fn(config, networks, init_fn),
    trainable=trainable,
  )


def examples(config):
  """(source, transform) of this task's batches.

  Raises:
    UserError: the records, or the prompt of the networks, are not there.
  """
  check_prompt(config.model.get('prompt', ''), SENTENCE)
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
  networks read."""
  head = found_beside(config.data.path)
  prompt = {PROMPT: pathlib.Path(config.model.prompt)} if config.model.get('prompt', '') else {}
  return prompt | ({} if head is None else {HEAD: head})
