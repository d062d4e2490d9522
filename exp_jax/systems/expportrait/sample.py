"""From a reference, its normals and driving normals to frames: the sampling end of the generator.

Clips longer than the trained length are covered by overlapping windows; at every step their velocities are
averaged, faded towards the ends of each window, so that one latent video is denoised as a whole and no seam
is cut afterwards.

Letters: T video frames, H, W pixels, F latent frames, n latent frames of a window, K windows.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from exp_jax.diffusion.guidance import guided
from exp_jax.diffusion.samplers import SAMPLERS, sigma_grid
from exp_jax.errors import UserError
from exp_jax.systems.expportrait.codec import Codec, open_codec
from exp_jax.systems.expportrait.dit import PortraitDiT
from exp_jax.systems.expportrait.dit_task import portrait_dit, velocity_fn
from exp_jax.training.exports import load_export


@dataclasses.dataclass(frozen=True)
class Generator:
  """An export of task 'expportrait/dit', ready to sample."""
  model: PortraitDiT
  params: dict
  codec: Codec
  config: ml_collections.ConfigDict

  @property
  def size(self) -> tuple[int, int]:
    """(height, width) it was trained at."""
    return self.config.data.height, self.config.data.width


def load_generator(path, *, vae_path: str | None = None) -> Generator:
  """Loads and verifies an export; `vae_path` replaces the autoencoder's path in its config.

  Raises:
    UserError: if an export is missing, damaged or of another task.
  """
  config, params = load_export(path)
  if config.task != 'expportrait/dit':
    raise UserError(f'{path} is an export of {config.task!r}, not of expportrait/dit')
  codec = open_codec(config.vae.name, vae_path or config.vae.path)
  return Generator(portrait_dit(config, codec), jax.tree.map(jnp.asarray, params), codec, config)


def window_starts(total: int, window: int, overlap: int) -> np.ndarray:
  """First frames of windows that cover `total` frames; the last one ends with the clip.

  The windows are spread evenly, neighbours sharing at least `overlap` frames.
  """
  if total <= window:
    return np.zeros(1, int)
  count = int(np.ceil((total - overlap) / (window - overlap)))
  return np.round(np.linspace(0, total - window, count)).astype(int)


def window_weights(starts: np.ndarray, total: int, window: int) -> np.ndarray:
  """[K, n] weights, a ramp to each inner end of a window, summing to one over every frame."""
  ramp = np.minimum(np.arange(window) + 1.0, window - np.arange(window))
  frames = starts[:, None] + np.arange(window)
  sums = np.zeros(total)
  np.add.at(sums, frames, np.broadcast_to(ramp, frames.shape))
  return ramp / sums[frames]


@functools.partial(jax.jit, static_argnames=(
  'model', 'encode', 'decode', 'strides', 'channels', 'prediction', 'frames', 'window', 'overlap',
  'sampler', 'steps', 'shift', 'guidance'))
def _sample(params, reference, reference_normals, normals, rng, *, model, encode, decode, strides,
            channels, prediction, frames, window, overlap, sampler, steps, shift, guidance):
  """One clip: normals [N, H, W, 3] with N = stride * (frames - 1) + 1 -> [N, H, W, 3] in [0, 1]."""
  st, sh, sw = strides
  H, W, _ = reference.shape
  starts = window_starts(frames, window, overlap)
  weights = jnp.asarray(window_weights(starts, frames, window), jnp.float32)
  code = encode(reference[None, None] * 2.0 - 1.0)
  velocity = velocity_fn(model, prediction)
  text = None
  if model.backbone.text_dim:
    text = jnp.zeros((1, 1, model.backbone.text_dim))

  def over_windows(keep_pose, x, sigma):
    def one(start):
      part = jax.lax.dynamic_slice_in_dim(x, start, window, axis=1)
      pose = jax.lax.dynamic_slice_in_dim(normals, st * start, st * (window - 1) + 1, axis=0)
      return velocity(params, part, jnp.broadcast_to(sigma, (1,)), reference_latents=code,
                      reference=reference[None], reference_normals=reference_normals[None],
                      normals=pose[None], keep_pose=keep_pose * jnp.ones(1), text=text)[0]
    parts = jax.lax.map(one, jnp.asarray(starts)) * weights[:, :, None, None, None]
    where = starts[:, None] + np.arange(window)
    return jnp.zeros_like(x).at[0, where].add(parts)

  denoise = guided(functools.partial(over_windows, 1.0), functools.partial(over_windows, 0.0),
                   guidance)
  noise = jax.random.normal(rng, (1, frames, H // sh, W // sw, channels))
  convention = 'diffusers' if sampler == 'unipc' else 'plain'
  latents = SAMPLERS[sampler](denoise, noise, sigma_grid(steps, shift, convention=convention))
  decoded = jax.lax.map(lambda z: decode(z[None])[0], latents[0]) if st == 1 else decode(latents)[0]
  return jnp.clip(decoded * 0.5 + 0.5, 0.0, 1.0)


def generate(model: Generator, reference: np.ndarray, reference_normals: np.ndarray,
             normals: np.ndarray, rng: jax.Array, *, steps: int = 4, guidance: float = 1.0,
             sampler: str = 'euler', overlap: int = 2) -> np.ndarray:
  """Animates a portrait.

  Args:
    model: from `load_generator`.
    reference, reference_normals: [H, W, 3] float in [0, 1], at the trained size.
    normals: [T, H, W, 3] float in [0, 1], driving control maps; any T >= 1.
    rng: key of the noise.
    steps: evaluations of the sampler's grid.
    guidance: on the pose branch; 1 is none and costs half.
    sampler: a key of `SAMPLERS`.
    overlap: latent frames that neighbouring windows share at least.

  Returns:
    [T, H, W, 3] float32 in [0, 1].

  Raises:
    UserError: if an image does not have the trained size.
  """
  size = (*model.size, 3)
  for name, image in (('reference', reference), ('reference_normals', reference_normals),
                      ('normals', normals[0])):
    if image.shape != size:
      raise UserError(f'{name} has shape {image.shape}, the model was trained at {size}')
  st, T = model.codec.strides[0], len(normals)
  window = (model.config.data.num_frames - 1) // st + 1
  frames = max(window, -(-(T - 1) // st) + 1)
  fill = np.repeat(normals[-1:], st * (frames - 1) + 1 - T, axis=0)
  codec = model.codec
  video = _sample(
    model.params, jnp.asarray(reference, jnp.float32), jnp.asarray(reference_normals, jnp.float32),
    jnp.asarray(np.concatenate([normals, fill]), jnp.float32), rng, model=model.model,
    encode=codec.encode, decode=codec.decode, strides=codec.strides, channels=codec.channels,
    prediction=model.config.model.prediction, frames=frames, window=window,
    overlap=min(overlap, window - 1), sampler=sampler, steps=steps,
    shift=model.config.flow.shift, guidance=guidance)
  return np.asarray(video[:T])
