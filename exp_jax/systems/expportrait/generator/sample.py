"""From a reference, its normals and driving normals to frames: the sampling end of the generator.

Clips longer than the trained length are covered by overlapping windows, in one of two ways:

  generate: at every step the velocities of all windows are averaged, faded towards their ends, so
            that one latent video is denoised as a whole and no seam is cut afterwards.
  stream:   window after window; each hands the velocities of its last latent frames, step by step,
            to the next, which fades from them to its own. Memory does not depend on the length.

Both draw the noise of a latent frame from its absolute index, and condition every window on the
same
portrait. Letters: T video frames, H, W pixels, F latent frames, n latent frames of a window, K
windows, o frames that neighbouring windows share.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.diffusion.caching import residual_ratios, steps_to_run
from exp_jax.diffusion.guidance import branch_columns, one_by_one, together
from exp_jax.diffusion.samplers import CONVENTIONS, SAMPLERS, sigma_grid
from exp_jax.diffusion.windows import (
  frame_noise,
  hand_over,
  hand_over_shares,
  streamed_starts,
  sum_of_windows,
  window_starts,
  window_weights,
)
from exp_jax.errors import UserError
from exp_jax.systems.expportrait.generator.dit_task import control_channels, lora_scale, velocity_fn
from exp_jax.systems.expportrait.generator.loading import Generator
from exp_jax.systems.expportrait.generator.sampling_options import BRANCHES, Sampling, guidance_plan


def _evaluation(model, prediction, scale, params, conditions):
  """evaluate(x [K, n, h, w, C], sigma, keep_pose [K], keep_reference [K], driving, reuse) ->
  velocity [, added].

  driving: `normals` [N, H, W, 3 + E] and perhaps `preview_latents` [n, h, w, C] of the window.
  """
  velocity = velocity_fn(model, prediction, scale)

  def evaluate(x, sigma, keep_pose, keep_reference, driving, reuse=None):
    K = len(x)
    repeated = jax.tree.map(
      lambda c: jnp.repeat(c, K, axis=0), conditions | {k: v[None] for k, v in driving.items()}
    )
    negative = repeated.pop('negative', None)
    if negative is not None:
      repeated['text'] = jnp.where(keep_pose[:, None, None] > 0, repeated['text'], negative)
    return velocity(
      params,
      x,
      jnp.broadcast_to(sigma, (K,)),
      keep_pose=keep_pose,
      keep_reference=keep_reference,
      reuse=reuse,
      **repeated,
    )

  return evaluate


_STATIC = ('model', 'stride', 'prediction', 'scale', 'sampler', 'steps', 'shift', 'plan', 'batched')


@functools.partial(jax.jit, static_argnames=(*_STATIC, 'window', 'overlap'))
def _denoise(
  params,
  conditions,
  driving,
  noise,
  *,
  model,
  stride,
  prediction,
  scale,
  sampler,
  steps,
  shift,
  plan,
  batched,
  window,
  overlap,
):
  """Latents [F, h, w, C] of a whole clip from noise [1, F, h, w, C]; driving normals [stride
  (F - 1) + 1, H, W, 3 + E]."""
  frames = noise.shape[1]
  starts = window_starts(frames, window, overlap)
  weights = jnp.asarray(window_weights(starts, frames, window), jnp.float32)
  evaluate = _evaluation(model, prediction, scale, params, conditions)

  def over_windows(x, sigma, keep_pose, keep_reference):
    def one(start):
      part = jax.lax.dynamic_slice_in_dim(x, start, window, axis=1)
      cut = {
        'normals': (stride * start, stride * (window - 1) + 1),
        'preview_latents': (start, window),
      }
      shown = {k: jax.lax.dynamic_slice_in_dim(v, *cut[k], axis=0) for k, v in driving.items()}
      return evaluate(part, sigma, keep_pose, keep_reference, shown)

    parts = jax.lax.map(one, jnp.asarray(starts)) * weights[:, None, :, None, None, None]
    return sum_of_windows(parts, starts[:, None] + np.arange(window), frames)

  denoise = (together if batched else one_by_one)(over_windows, plan, BRANCHES)
  return SAMPLERS[sampler](denoise, noise, _grid(sampler, steps, shift))[0]


@functools.partial(jax.jit, static_argnames=(*_STATIC, 'overlap', 'collect'))
def denoise_window(
  params,
  conditions,
  driving,
  noise,
  handed,
  ramp,
  *,
  run,
  model,
  stride,
  prediction,
  scale,
  sampler,
  steps,
  shift,
  plan,
  batched,
  overlap,
  collect=False,
):
  """One window of `stream`: (latents [n, h, w, C], velocities [steps, o, h, w, C] of its last o
  frames, residuals).

  handed: the same velocities of the window before; ramp [o] is the share of this window's own.
  run: None, or [steps] bool: a step where it is false adds what the blocks added last in this very
    window, the first step always being run. With `collect` the residuals of all steps are returned,
    for `residual_ratios`.
  """
  del stride
  evaluate = _evaluation(model, prediction, scale, params, conditions)
  if run is None:
    driven = lambda x, sigma, keep_pose, keep_reference: evaluate(
      x, sigma, keep_pose, keep_reference, driving
    )
    plain, memory = (together if batched else one_by_one)(driven, plan, BRANCHES), None
    own = lambda x, sigma, reuse: (plain(x, sigma), None)
  else:
    (poses, references), weights = branch_columns(plan, BRANCHES)
    _, n, h, w, _ = noise.shape
    wan, K = model.backbone, len(weights)
    tokens = (n + (model.fusion == 'sequence')) * (h // wan.patch[1]) * (w // wan.patch[2])
    memory = jnp.zeros((K, tokens, wan.width), wan.residual_dtype)

    def own(x, sigma, reuse):
      v, added = evaluate(jnp.repeat(x, K, axis=0), sigma, poses, references, driving, reuse)
      return jnp.einsum('k,k...->...', weights, v)[None], added

  def denoise(x, sigma, given, memory):
    before, run = given
    v, memory = own(x, sigma, (run, memory))
    v = hand_over(v, before, ramp)
    return v, memory, (v[0, v.shape[1] - overlap :], memory if collect else None)

  latents, _, kept = SAMPLERS[sampler](
    denoise, noise, _grid(sampler, steps, shift), per_step=(handed, run), memory=memory
  )
  return latents[0], *kept


def _grid(sampler, steps, shift):
  return sigma_grid(steps, shift, convention=CONVENTIONS.get(sampler, 'plain'))


def _prepared(
  model: Generator, reference, reference_normals, normals, chosen: Sampling, *, batched: bool
):
  """(conditions, static arguments); images checked against the trained size."""
  size = (*model.size, 3)
  shapes = {
    'reference': reference.shape,
    'reference_normals': reference_normals.shape,
    'normals': normals.shape[1:],
  }
  for name, shape in shapes.items():
    if (*shape[:2], min(shape[2], 3)) != size:
      raise UserError(f'{name} has shape {tuple(shape)}, the model was trained at {size}')
  channels = control_channels(model.config)
  if normals.shape[-1] != channels:
    raise UserError(
      f'the control maps have {normals.shape[-1]} channels, the model was trained with {channels}'
    )
  reference = jnp.asarray(reference, jnp.float32)
  conditions = dict(
    reference_latents=model.codec.reference_code(reference, model.window),
    reference=reference[None],
    reference_normals=jnp.asarray(reference_normals, jnp.float32)[None],
  )
  if model.text is not None:
    conditions['text'] = model.text
  if model.negative is not None:
    conditions['negative'] = model.negative
  if model.see is not None:
    conditions['clip'] = model.see(reference)
  return conditions, dict(
    model=model.model,
    stride=model.codec.strides[0],
    prediction=model.config.model.prediction,
    scale=lora_scale(model.config),
    shift=model.config.flow.shift,
    plan=guidance_plan(chosen),
    sampler=chosen.sampler,
    steps=chosen.steps,
    batched=batched,
  )


def _driving(model: Generator, normals, previews, count: int) -> dict:
  """What one window, or a clip, is driven by: `count` frames from the start of these, the last one
  repeated as needed."""
  last = lambda x: np.concatenate([x, np.repeat(x[-1:], count - len(x), axis=0)])
  driving = {'normals': jnp.asarray(last(np.asarray(normals[:count], np.float32)))}
  if model.model.preview:
    previews = np.asarray(previews[:count], np.float32)
    if previews.shape[1:] != (*model.size, 3):
      raise UserError(
        f'previews have shape {previews.shape[1:]}, the model was trained at {(*model.size, 3)}'
      )
    driving['preview_latents'] = model.codec.encode(jnp.asarray(last(previews)) * 2.0 - 1.0)
  return driving


def _check_previews(model: Generator, normals, previews):
  if model.model.preview and (previews is None or len(previews) != len(normals)):
    raise UserError('this model refines textured previews: give one for every driving map')


def _latent_shape(model: Generator):
  H, W = model.size
  return H // model.codec.strides[1], W // model.codec.strides[2], model.codec.channels


def generate(
  model: Generator,
  reference: np.ndarray,
  reference_normals: np.ndarray,
  normals: np.ndarray,
  rng: jax.Array,
  *,
  previews: np.ndarray | None = None,
  batched: bool = False,
  **sampling,
) -> np.ndarray:
  """Animates a portrait.

  Args:
    model: from `load_generator`.
    reference, reference_normals: [H, W, 3] float in [0, 1], at the trained size.
    normals: [T, H, W, 3 + E] float in [0, 1], driving control maps; any T >= 1.
    rng: key of the noise.
    previews: [T, H, W, 3] float in [0, 1], textured previews, for models with `condition.preview`;
      else not looked at.
    batched: guidance's evaluations in one batch, for devices with the memory.
    sampling: fields of `Sampling` (sampler, steps, guidance, reference_guidance, overlap) in place
      of the export's choice.

  Returns:
    [T, H, W, 3] float32 in [0, 1].

  Raises:
    UserError: if an image does not have the trained size, or sampling cannot be as asked
      (`sampling_of`).
  """
  chosen = model.sampling(streamed=False, **sampling)
  conditions, fixed = _prepared(
    model, reference, reference_normals, normals, chosen, batched=batched
  )
  _check_previews(model, normals, previews)
  st, T, window = model.codec.strides[0], len(normals), model.window
  frames = max(window, -(-(T - 1) // st) + 1)
  driving = _driving(model, normals, previews, st * (frames - 1) + 1)
  noise = frame_noise(rng, 0, frames, _latent_shape(model))
  latents = _denoise(
    model.params, conditions, driving, noise, window=window, overlap=chosen.overlap, **fixed
  )
  video = model.codec.open_decoder()(latents)
  return np.asarray(jnp.clip(video[:T] * 0.5 + 0.5, 0.0, 1.0))


def stream(
  model: Generator,
  reference: np.ndarray,
  reference_normals: np.ndarray,
  normals,
  rng: jax.Array,
  *,
  previews=None,
  batched: bool = False,
  run: np.ndarray | None = None,
  **sampling,
) -> Iterator[np.ndarray]:
  """As `generate`, for clips of any length: yields [k, H, W, 3] parts as they are ready, T frames
  together.

  `normals` and `previews` are anything with a shape, a length and slices, as an array mapped from
  the disk; a window of each is held at a time.
  Samplers that evaluate once a step: all but heun. `run` is a step cache of `calibrate_cache`, as
  many as `steps`: every window keeps what its own blocks added, none of another's; guidance is
  batched then.

  Raises:
    UserError: if an image does not have the trained size, for the sampler heun, a step cache that
      does not fit, or sampling that cannot be as asked (`sampling_of`).
  """
  chosen = model.sampling(**sampling)
  if run is not None and (len(run) != chosen.steps or not run[0]):
    raise UserError(
      f'the step cache is of {len(run)} steps and {"runs" if len(run) and run[0] else "skips"} the '
      'first; '
      f'{chosen.steps} are asked for, and the first must run: make it with calibrate_cache'
    )
  conditions, fixed = _prepared(
    model, reference, reference_normals, normals, chosen, batched=batched
  )
  _check_previews(model, normals, previews)
  st, T, shape, window, steps, o = (
    model.codec.strides[0],
    len(normals),
    _latent_shape(model),
    model.window,
    chosen.steps,
    chosen.overlap,
  )
  frames, count, done = -(-(T - 1) // st) + 1, st * (window - 1) + 1, 0
  handed, ramp = jnp.zeros((steps, o, *shape)), jnp.ones(o)
  decode, run = model.codec.open_decoder(), None if run is None else jnp.asarray(run)
  for first in streamed_starts(frames, window, o):
    shown = slice(st * first, st * first + count)
    driving = _driving(model, normals[shown], None if previews is None else previews[shown], count)
    latents, handed, _ = denoise_window(
      model.params,
      conditions,
      driving,
      frame_noise(rng, first, window, shape),
      handed,
      ramp,
      run=run,
      overlap=o,
      **fixed,
    )
    ramp = hand_over_shares(o)
    last = first + window >= frames
    part = decode(latents[: min(window, frames - first)] if last else latents[: window - o])
    part = np.asarray(jnp.clip(part * 0.5 + 0.5, 0.0, 1.0))[: T - done]
    done += len(part)
    yield part
    if last:
      return


def calibrate_cache(
  model: Generator,
  reference,
  reference_normals,
  normals,
  rng,
  *,
  previews=None,
  threshold: float = 0.12,
  **sampling,
) -> np.ndarray:
  """[steps] bool, which steps run the blocks, measured on one clip of at most a window; see
  `diffusion/caching.py`.

  It is made for `stream(..., run=...)` with the same sampling (fields of `Sampling`, else the
  export's choice), on clips of any length.

  Raises:
    UserError: if the clip is longer than a window, or sampling cannot be as asked (`sampling_of`).
  """
  chosen = model.sampling(**sampling)
  conditions, fixed = _prepared(model, reference, reference_normals, normals, chosen, batched=True)
  window, steps, shape = model.window, chosen.steps, _latent_shape(model)
  count = model.codec.strides[0] * (window - 1) + 1
  if len(normals) > count:
    raise UserError(
      f'a step cache is measured on a clip of one window, {count} frames; this one has '
      f'{len(normals)}: cut it'
    )
  _check_previews(model, normals, previews)
  *_, kept = denoise_window(
    model.params,
    conditions,
    _driving(model, normals, previews, count),
    frame_noise(rng, 0, window, shape),
    jnp.zeros((steps, 0, *shape)),
    jnp.ones(0),
    run=jnp.ones(steps, bool),
    overlap=0,
    collect=True,
    **fixed,
  )
  return steps_to_run(np.asarray(residual_ratios(kept)), threshold=threshold)
