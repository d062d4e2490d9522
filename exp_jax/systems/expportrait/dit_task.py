"""Task 'expportrait/dit': flow matching of the portrait generator.

  z_sigma = (1 - sigma) z0 + sigma eps,   v = eps - z0,   loss = w(sigma) mean |v_hat - v|^2    in
  float32

Eq. 10 of the paper is weight 'eps'. A network with `prediction` 'x0' has its output turned into a
velocity first; small networks learn that one, since it asks for no copy of the noise.
"""

import jax
import jax.numpy as jnp

from exp_jax.diffusion import flow_matching
from exp_jax.errors import UserError
from exp_jax.networks.wan_dit import wan_dit
from exp_jax.systems.expportrait.codec import Codec, open_codec
from exp_jax.systems.expportrait.correspond import place_loss
from exp_jax.systems.expportrait.dit import PortraitDiT
from exp_jax.systems.expportrait.examples import examples as video_examples
from exp_jax.systems.expportrait.examples import held_out as video_held_out
from exp_jax.training.task import Task

PREDICTIONS = ('velocity', 'x0')


def portrait_dit(config, codec: Codec) -> PortraitDiT:
  """The generator of a config's `model` and `condition` sections, for the latents of `codec`."""
  model = dict(config.model)
  if model.pop('prediction') not in PREDICTIONS:
    raise UserError(f'config.model.prediction must be one of {PREDICTIONS}')
  codes = 3 if config.condition.guide else 2                  # noisy, reference [, moved reference]
  backbone = wan_dit(model.pop('variant'), in_channels=codes * codec.channels + codec.strides[0],
                     out_channels=codec.channels, **model)
  condition = {k: v for k, v in dict(config.condition).items() if not k.startswith('drop_')}
  return PortraitDiT(backbone, codec.strides, **condition)


def unit(images: jax.Array) -> jax.Array:
  """uint8 -> float32 in [0, 1]."""
  return images.astype(jnp.float32) / 255.0


def conditions_of(batch: dict, codec: Codec) -> dict:
  """Keyword arguments of `PortraitDiT` from a batch; the reference is encoded unless its code is
  stored."""
  code = batch.get('reference_latents')
  if code is None:
    code = codec.encode(unit(batch['reference'])[:, None] * 2.0 - 1.0)
  code = code.astype(jnp.float32)
  return dict(reference_latents=code if code.ndim == 5 else code[:, None],
              reference=unit(batch['reference']), normals=unit(batch['normals']),
              reference_normals=unit(batch['reference_normals']))


def velocity_fn(model: PortraitDiT, prediction: str):
  """(params, z [B, F, h, w, C], sigma [B], **conditions) -> velocity, whatever the network
  predicts."""

  def velocity(params, z, sigma, **conditions):
    out = model.apply({'params': params}, z, 1000.0 * sigma, **conditions)
    return flow_matching.velocity_from_x0(out, z, sigma) if prediction == 'x0' else out

  return velocity


def velocity_and_places_fn(model: PortraitDiT, prediction: str):
  """As `velocity_fn`, but -> (velocity, the guide's guessed places [B, 1 + N, h, w, 3], reference first)."""

  def both(params, z, sigma, **conditions):
    out, found = model.apply({'params': params}, z, 1000.0 * sigma, mutable=['intermediates'], **conditions)
    v = flow_matching.velocity_from_x0(out, z, sigma) if prediction == 'x0' else out
    return v, found['intermediates']['places'][0]

  return both


def batch_spec(config, codec: Codec) -> dict:
  """Shapes of a global batch. Latents are read from the records where `data.latents` says so."""
  data, B = config.data, config.batch_size
  st, sh, sw = codec.strides
  if (data.num_frames - 1) % st or data.height % (2 * sh) or data.width % (2 * sw):
    raise UserError(f'{data.num_frames} frames of {data.height}x{data.width} do not fit strides '
                    f'{codec.strides} and 2x2 patches')
  frame = (data.height, data.width, 3)
  spec = dict(normals=(B, data.num_frames, *frame), reference=(B, *frame),
              reference_normals=(B, *frame))
  if config.condition.guide:               # the guide is taught by the mesh; sampling needs normals alone
    spec |= dict(places=(B, data.num_frames, *frame), reference_places=(B, *frame))
  spec = {k: jax.ShapeDtypeStruct(v, jnp.uint8) for k, v in spec.items()}
  if not data.latents:
    return spec | {'video': jax.ShapeDtypeStruct((B, data.num_frames, *frame), jnp.uint8)}
  F, grid = (data.num_frames - 1) // st + 1, (data.height // sh, data.width // sw, codec.channels)
  given = (B, *grid) if st == 1 else (B, F, *grid)
  return spec | {'latents': jax.ShapeDtypeStruct((B, F, *grid), jnp.float16),
                 'reference_latents': jax.ShapeDtypeStruct(given, jnp.float16)}


def task(config) -> Task:
  """See `Task`. Config: `model, condition, vae, flow, data, batch_size`."""
  codec = open_codec(**config.vae)
  model, flow = portrait_dit(config, codec), config.flow
  spec, velocity = batch_spec(config, codec), velocity_fn(model, config.model.prediction)
  located = velocity_and_places_fn(model, config.model.prediction)
  text = None
  if model.backbone.text_dim:                  # one fixed prompt for all clips: zeros, its padding
    text = jnp.zeros((1, config.flow.text_tokens, model.backbone.text_dim))

  def with_text(conditions, batch):
    return conditions | {'text': None if text is None else jnp.repeat(text, batch, axis=0)}

  def init_fn(rng):
    _, *frame = spec['reference'].shape
    F = (config.data.num_frames - 1) // codec.strides[0] + 1
    grid = (frame[0] // codec.strides[1], frame[1] // codec.strides[2], codec.channels)
    image = jnp.zeros((1, *frame))
    return model.init(rng, jnp.zeros((1, F, *grid)), jnp.zeros(1), **with_text(dict(
      reference_latents=jnp.zeros((1, 1, *grid)), reference=image, reference_normals=image,
      normals=jnp.zeros((1, config.data.num_frames, *frame))), 1))['params']

  def latents_of(batch):
    if 'latents' in batch:
      return batch['latents'].astype(jnp.float32)
    return jax.lax.stop_gradient(codec.encode(unit(batch['video']) * 2.0 - 1.0))

  def loss_fn(params, batch, rng):
    for_sigma, for_noise, for_pose, for_reference = jax.random.split(rng, 4)
    z0 = latents_of(batch)
    B = z0.shape[0]
    sigma = flow_matching.draw_sigma(for_sigma, B, how=flow.sigma, amount=flow.shift)
    noise = jax.random.normal(for_noise, z0.shape)
    z = flow_matching.interpolate(z0, noise, sigma)
    keep_pose = jax.random.bernoulli(for_pose, 1.0 - config.condition.drop_pose, (B,)) * 1.0
    keep_reference = jax.random.bernoulli(for_reference, 1.0 - config.condition.drop_reference, (B,))
    run = located if 'places' in batch else velocity
    v = run(params, z, sigma, keep_pose=keep_pose, keep_reference=keep_reference * 1.0,
            **with_text(conditions_of(batch, codec), B))
    v, guess = v if 'places' in batch else (v, None)
    error = jnp.square(v - (noise - z0)).mean(range(1, z0.ndim))
    weight = flow_matching.loss_weight(sigma, how=flow.weight)
    loss, metrics = (weight * error).mean(), {'x0_error': (jnp.square(sigma) * error).mean()}
    if 'places' in batch:
      places = jnp.concatenate([unit(batch['reference_places'])[:, None], unit(batch['places'])], 1)
      metrics['place_error'] = place_loss(guess, places, codec.strides[1])
      loss = loss + flow.place_weight * metrics['place_error']
    return loss, metrics

  def denoise_once(params, batch, rng):
    """Mean squared error of x0 from pure noise, all conditions kept."""
    z0 = latents_of(batch)
    noise, sigma = jax.random.normal(rng, z0.shape), jnp.ones(z0.shape[0])
    v = velocity(params, noise, sigma, **with_text(conditions_of(batch, codec), z0.shape[0]))
    return {'x0_error': jnp.square(noise - v - z0).mean()}

  return Task(init_fn, loss_fn, spec, (('from_noise', denoise_once),))


def examples(config):
  """(source, transform) of this task's batches."""
  return video_examples(config, tuple(batch_spec(config, open_codec(**config.vae))))


def held_out(config):
  """The same of `config.data.held_out`; None if that is empty."""
  return video_held_out(config, tuple(batch_spec(config, open_codec(**config.vae))))
