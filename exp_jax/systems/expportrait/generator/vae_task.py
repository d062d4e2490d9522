"""Task 'expportrait/vae': trains the small autoencoder on video frames.

  loss = L1 + gradient * L1 of image differences + moments * (mean^2 + (variance - 1)^2 of each
  channel)

The decoder sees codes disturbed by Gaussian noise. Noise and moments stand for the KL term: the
first for the posterior's width, the second for the prior, and unit variance holds without running
statistics.
"""

import jax
import jax.numpy as jnp

from exp_jax.networks.patch_vae import patch_vae
from exp_jax.systems.expportrait.records.examples import examples as video_examples
from exp_jax.systems.expportrait.records.examples import held_out as video_held_out
from exp_jax.training.task import Task


def _differences(x):
  return x[..., 1:, :, :] - x[..., :-1, :, :], x[..., :, 1:, :] - x[..., :, :-1, :]


def reconstruction_loss(images, targets, *, gradient: float) -> jax.Array:
  """[..., H, W, 3], [..., H, W, 3] in [-1, 1] -> scalar."""
  edges = sum(jnp.abs(a - b).mean() for a, b in zip(_differences(images), _differences(targets)))
  return jnp.abs(images - targets).mean() + gradient * edges


def moment_loss(codes: jax.Array) -> jax.Array:
  """How far every channel is from mean 0 and variance 1 over a batch [..., C]; scalar."""
  codes = codes.reshape(-1, codes.shape[-1])
  return jnp.square(codes.mean(0)).mean() + jnp.square(codes.var(0) - 1.0).mean()


def task(config) -> Task:
  """See `Task`. Config: `model` (variant and overrides), `data`, `batch_size`, `loss`."""
  model, data = patch_vae(**config.model), config.data
  shape = (config.batch_size, data.num_frames, data.height, data.width, 3)
  if data.height % model.strides[1] or data.width % model.strides[2]:
    raise ValueError(f'frames of {data.height}x{data.width} do not divide by {model.strides[1:]}')

  def init_fn(rng):
    return model.init(rng, jnp.zeros((1, *shape[2:])))['params']

  def reconstruct(params, batch, rng, noise):
    images = batch['video'].astype(jnp.float32) / 127.5 - 1.0
    codes = model.apply({'params': params}, images, method='encode')
    latents = codes + noise * jax.random.normal(rng, codes.shape)
    return model.apply({'params': params}, latents, method='decode'), images, codes

  def loss_fn(params, batch, rng):
    output, images, codes = reconstruct(params, batch, rng, config.loss.latent_noise)
    loss = reconstruction_loss(output, images, gradient=config.loss.gradient)
    loss = loss + config.loss.moments * moment_loss(codes)
    return loss, {'psnr': -10.0 * jnp.log10(jnp.square(output - images).mean() / 4.0)}

  def evaluate(params, batch, rng):
    output, images, _ = reconstruct(params, batch, rng, 0.0)
    error = jnp.square(jnp.clip(output, -1, 1) - images).mean()
    # four frames, and below what became of them
    rows = [jnp.concatenate(list(x[:4, 0]), axis=1) for x in (images, output)]
    return {'psnr': -10.0 * jnp.log10(error / 4.0), 'frames': jnp.concatenate(rows) * 0.5 + 0.5}

  return Task(
    init_fn,
    loss_fn,
    {'video': jax.ShapeDtypeStruct(shape, jnp.uint8)},
    (('reconstruct', evaluate),),
  )


def examples(config):
  """(source, transform) of this task's batches."""
  return video_examples(config, ('video',))


def held_out(config):
  """The same of `config.data.held_out`; None if that is empty."""
  return video_held_out(config, ('video',))
