"""Task 'sd/prior': a Stable Diffusion UNet without text learns what frames of people look like;
Loki and its siblings start there.

  loss = E || v - v_theta(sqrt(alpha_bar) z + sqrt(1 - alpha_bar) eps, t) ||^2,   t uniform

The schedule is Stable Diffusion's with zero terminal SNR, and velocity is predicted, so that the
network knows pure noise too.
Config: `model` (variant and overrides of networks/sd_unet.py), `vae` (of `open_codec`), `data`
(path, held_out, size, mirror), `batch_size`, `eval_time` (of the held-out measure).

The held-out measure compares the denoised latents at `eval_time` with the mean latent of the batch,
place by place: `share` is the ratio of the two mean squares. `noise_error` is the same for the
noise, whose mean is zero, so that 1 is what a mean achieves.
Letters: B examples, S pixels, h, w latent rows and columns, C channels.
Source: Rombach et al., 2022, section 3; Lin et al., 2024, algorithm 1.
"""

import jax
import jax.numpy as jnp

from exp_jax.diffusion import ddpm
from exp_jax.errors import UserError
from exp_jax.networks.codec import open_codec
from exp_jax.networks.sd_unet import SdUNet, sd_unet
from exp_jax.prior.frames import FrameRecords, SyntheticFrames
from exp_jax.training.task import Task


def prior_bars():
  """[1000] the schedule of the prior."""
  return ddpm.zero_terminal_snr(ddpm.alpha_bars())


def prior_unet(config) -> SdUNet:
  """The network that a config's `model` describes.

  Raises:
    UserError: it expects text: a prior has none.
  """
  own = dict(config.model)
  net = sd_unet(own.pop('variant'), **own)
  if net.text_dim:
    raise UserError(
      f'the prior is trained without text: set config.model.text_dim=0, it is {net.text_dim}'
    )
  return net


def task(config) -> Task:
  """See `Task`."""
  net, codec, size, B = (
    prior_unet(config),
    open_codec(**config.vae),
    config.data.size,
    config.batch_size,
  )
  if codec.channels != net.in_channels or codec.channels != net.out_channels:
    raise UserError(
      f'the autoencoder has {codec.channels} channels, the network {net.in_channels} and '
      f'{net.out_channels}: set '
      'config.model.in_channels and out_channels'
    )
  if codec.strides[0] != 1 or size % codec.strides[1]:
    raise UserError(
      f'frames of {size} pixels do not divide by the strides {codec.strides} of an autoencoder of '
      'single frames'
    )
  bars, side = prior_bars(), size // codec.strides[1]

  def init_fn(rng):
    return net.init(rng, jnp.zeros((1, 1, side, side, codec.channels)), jnp.zeros(1))['params']

  def latents_of(batch):
    images = batch['video'].astype(jnp.float32) / 127.5 - 1.0
    return jax.lax.stop_gradient(codec.encode(images[:, None]))[:, 0]

  def predicted(params, x, t):
    return net.apply({'params': params}, x[:, None], t)[:, 0]

  def loss_fn(params, batch, rng):
    for_time, for_noise = jax.random.split(rng)
    z = latents_of(batch)
    times = jax.random.randint(for_time, (len(z),), 0, len(bars))
    noise, bar = jax.random.normal(for_noise, z.shape), ddpm.bars_at(bars, times)
    v = predicted(params, ddpm.add_noise(z, noise, bar), times)
    return jnp.square(v - ddpm.target(z, noise, bar, 'v')).mean(), {}

  def denoise(params, batch, rng):
    z = latents_of(batch)
    times = jnp.full(len(z), config.eval_time)
    noise, bar = jax.random.normal(rng, z.shape), ddpm.bars_at(bars, times)
    x = ddpm.add_noise(z, noise, bar)
    x0, eps = ddpm.x0_and_noise(predicted(params, x, times), x, bar, 'v')
    error, spread = jnp.square(x0 - z).mean(), jnp.square(z - z.mean(0)).mean()
    shown = [codec.decode(frames[:4, None])[:, 0] for frames in (z, x, x0)]
    rows = jnp.concatenate([jnp.concatenate(list(row), axis=1) for row in shown])
    return {
      'x0_error': error,
      'share': error / spread,
      'noise_error': jnp.square(eps - noise).mean(),
      'frames': jnp.clip(rows * 0.5 + 0.5, 0.0, 1.0),
    }

  return Task(
    init_fn,
    loss_fn,
    {'video': jax.ShapeDtypeStruct((B, size, size, 3), jnp.uint8)},
    (('held out', denoise),),
  )


def _examples(config, path: str):
  data = config.data
  if data.name not in ('frames', 'synthetic_frames'):
    raise UserError(f"config.data.name is {data.name!r}; choose 'frames' or 'synthetic_frames'")
  source = SyntheticFrames(data.size) if data.name == 'synthetic_frames' else FrameRecords(path)

  def transform(video, rng):
    frame = video[rng.integers(len(video))]
    if frame.shape[:2] != (data.size, data.size):
      raise UserError(
        f'the frames are {frame.shape[1]}x{frame.shape[0]}, config.data.size says {data.size}'
      )
    return {'video': frame[:, ::-1] if data.mirror and rng.random() < 0.5 else frame}

  return source, transform


def examples(config):
  """(source, transform) of this task's batches."""
  return _examples(config, config.data.path)


def held_out(config):
  """The same of `config.data.held_out`; None if that is empty."""
  return _examples(config, config.data.held_out) if config.data.held_out else None
