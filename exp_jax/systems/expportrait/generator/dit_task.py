"""Task 'expportrait/dit': flow matching of the portrait generator.

  z_sigma = (1 - sigma) z0 + sigma eps,   v = eps - z0,   loss = w(sigma) mean |v_hat - v|^2    in
  float32

The mean is over codes that show what the film shows (`valid`): pixels that a crop had to invent are
never a target.

Eq. 10 of the paper is weight 'eps'. A network with `prediction` 'x0' has its output turned into a
velocity first; small networks learn that one, since it asks for no copy of the noise.

What starts and what is trained, keys of `config.model`:

| key | meaning |
|---|---|
| weights | folder by `convert.wan` that the backbone starts from, 16 input channels are filled up with zeros; or 'scratch' |
| adapters | file by `convert.lora` to start adapters (and pose encoders, if it holds them) from |
| lora_rank, lora_alpha, lora_targets | adapters of that rank on the layers that fully match; rank 0: none |
| train | all, or lora (adapters and encoders), or warmup (encoders and the input channels of the condition) |

Further: `config.condition.preview` gives the code of the textured preview (`previews.py` adds it to
records), `config.condition.extras` names control channels after the normals (`extras` of the
records), `config.flow.prompt` an npz by `convert.wan_towers` whose `positive` is every clip's text.
Empty, it is the embedding of the empty prompt, from the file that `encode --prompt` put beside the
records; 'zeros' says that no embedding is meant.
"""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.controls.channels import extra_channels
from exp_jax.data.sources import PROMPT
from exp_jax.diffusion import flow_matching
from exp_jax.errors import UserError
from exp_jax.files.safetensors import nested
from exp_jax.heads.trained_head import HEAD, found_beside
from exp_jax.layers import lora
from exp_jax.networks.adapters import load_adapters
from exp_jax.networks.codec import Codec, open_codec
from exp_jax.networks.wan_dit import wan_dit
from exp_jax.networks.weights import fitted, load_weights
from exp_jax.systems.expportrait.generator.dit import PortraitDiT
from exp_jax.systems.expportrait.generator.prompts import CLIP_TOKENS, prompt_file, text_or_padding
from exp_jax.systems.expportrait.records.examples import examples as video_examples
from exp_jax.systems.expportrait.records.examples import held_out as video_held_out
from exp_jax.training.task import Task

PREDICTIONS = ('velocity', 'x0')
TRAINED = {
  'all': r'.*',
  'lora': r'(lora|pose|reference|fuse)/.*',  # patterns of parameter paths
  'warmup': r'(pose|reference|fuse)/.*|backbone/patch/.*',
}
_NOT_OF_THE_NETWORK = (
  'prediction',
  'weights',
  'adapters',
  'lora_rank',
  'lora_alpha',
  'lora_targets',
  'train',
)
SCRATCH = 'scratch'  # of `model.weights`: to train from nothing is said, not forgotten
_SHOWN = 3  # examples of a batch that an evaluation draws


def portrait_dit(config, codec: Codec) -> PortraitDiT:
  """The generator of a config's `model` and `condition` sections, for the latents of `codec`."""
  model = {k: v for k, v in dict(config.model).items() if k not in _NOT_OF_THE_NETWORK}
  if config.model.prediction not in PREDICTIONS:
    raise UserError(f'config.model.prediction must be one of {PREDICTIONS}')
  codes = 3 if config.condition.preview else 2  # noisy, reference [, preview]
  backbone = wan_dit(
    model.pop('variant'),
    in_channels=codes * codec.channels + codec.strides[0],
    out_channels=codec.channels,
    **model,
  )
  condition = {
    k: v for k, v in dict(config.condition).items() if not k.startswith(('drop_', 'extra', 'clip'))
  }
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
  normals = unit(batch['normals'])
  if 'extras' in batch:
    normals = jnp.concatenate([normals, unit(batch['extras'])], axis=-1)
  found = dict(
    reference_latents=code if code.ndim == 5 else code[:, None],
    reference=unit(batch['reference']),
    normals=normals,
    reference_normals=unit(batch['reference_normals']),
  )
  if 'preview' in batch:
    found['preview_latents'] = codec.encode(unit(batch['preview']) * 2.0 - 1.0)
  return found | {
    k: batch[k].astype(jnp.float32) for k in ('clip', 'preview_latents') if k in batch
  }


def variables_of(params: dict, scale: float) -> dict:
  """Parameters as Linen takes them: adapters, if there are any, as their own collection with alpha
  / rank inside."""
  own = {'params': {k: v for k, v in params.items() if k != 'lora'}}
  return own | ({lora.COLLECTION: lora.scaled(params['lora'], scale)} if 'lora' in params else {})


def lora_scale(config) -> float:
  """alpha / rank of a config; 1 without adapters."""
  rank = config.model.get('lora_rank', 0)
  return config.model.lora_alpha / rank if rank else 1.0


def control_channels(config) -> int:
  """Channels of the control maps: normals and what `condition.extras` names."""
  return 3 + extra_channels(tuple(config.condition.get('extras', ())))


def velocity_fn(model: PortraitDiT, prediction: str, scale: float = 1.0):
  """(params, z [B, F, h, w, C], sigma [B], **conditions) -> velocity, whatever the network
  predicts; with the condition `reuse` also what its blocks added. `scale` is that of adapters."""

  def velocity(params, z, sigma, **conditions):
    out = model.apply(variables_of(params, scale), z, 1000.0 * sigma, **conditions)
    out, added = out if conditions.get('reuse') is not None else (out, None)
    v = flow_matching.velocity_from_x0(out, z, sigma) if prediction == 'x0' else out
    return v if added is None else (v, added)

  return velocity


def batch_spec(config, codec: Codec) -> dict:
  """Shapes of a global batch. Latents are read from the records where `data.latents` says so."""
  data, B = config.data, config.batch_size
  st, sh, sw = codec.strides
  if (data.num_frames - 1) % st or data.height % (2 * sh) or data.width % (2 * sw):
    raise UserError(
      f'{data.num_frames} frames of {data.height}x{data.width} do not fit strides '
      f'{codec.strides} and 2x2 patches'
    )
  frame = (data.height, data.width, 3)
  spec = dict(
    normals=(B, data.num_frames, *frame), reference=(B, *frame), reference_normals=(B, *frame)
  )
  if config.condition.preview and st > 1:
    raise UserError(
      f'config.condition.preview is for autoencoders of single frames, {config.vae.name!r} joins '
      f'{st} of them'
    )
  if config.condition.preview and not data.latents:
    spec['preview'] = (B, data.num_frames, *frame)
  extra = control_channels(config) - 3
  if extra:
    spec['extras'] = (B, data.num_frames, *frame[:2], extra)
  spec = {k: jax.ShapeDtypeStruct(v, jnp.uint8) for k, v in spec.items()}
  image_dim = portrait_dit(config, codec).backbone.image_dim
  if image_dim:  # features of the reference's image, stored in the records
    spec['clip'] = jax.ShapeDtypeStruct((B, CLIP_TOKENS, image_dim), jnp.float16)
  F, grid = (data.num_frames - 1) // st + 1, (data.height // sh, data.width // sw, codec.channels)
  spec['valid'] = jax.ShapeDtypeStruct((B, F, *grid[:2]), jnp.uint8)
  if not data.latents:
    return spec | {'video': jax.ShapeDtypeStruct((B, data.num_frames, *frame), jnp.uint8)}
  given = (B, *grid) if st == 1 else (B, F, *grid)
  codes = {'latents': (B, F, *grid), 'reference_latents': given}
  codes |= {'preview_latents': (B, F, *grid)} if config.condition.preview else {}
  return spec | {name: jax.ShapeDtypeStruct(shape, jnp.float16) for name, shape in codes.items()}


def initial_fn(config, model: PortraitDiT, init_args: dict):
  """rng -> parameters, the network's own, with adapters where the config has a rank for them."""
  own = config.model

  def init(rng):
    params = model.init(rng, **init_args)['params']
    if own.get('lora_rank', 0):
      params['lora'] = {
        'backbone': lora.init(
          jax.random.fold_in(rng, 1),
          params['backbone'],
          own.lora_rank,
          targets=own.get('lora_targets', '') or lora.TARGETS,
        )
      }
    return params

  return init


def start_fn(config, init_fn, backbone):
  """() -> what `model.weights` and `model.adapters` hold, at the paths of the parameters; None
  without both.

  Raises:
    UserError: files that are missing, damaged, or of another network.
  """
  own, found = config.model, {}
  named = own.get('weights', '') not in ('', SCRATCH)
  if not (named or own.get('adapters', '')):
    return None
  like = jax.eval_shape(init_fn, jax.random.key(0))
  if named:
    weights = load_weights(own.weights, 'dit')
    for name in ('heads', 'eps'):  # which no array shows
      if (theirs := weights.sizes.get(name, ours := getattr(backbone, name))) != ours:
        raise UserError(
          f'{own.weights} was made for {name}={theirs:g}, config.model has {ours:g}: choose its '
          'variant, or '
          f'set config.model.{name}={theirs:g}'
        )
    found['backbone'] = nested(fitted(weights.arrays, like['backbone']).items())
  if own.get('adapters', ''):
    adapters = load_adapters(own.adapters)
    rank = max((max(r) for r in adapters.ranks.values()), default=0)
    if rank != own.get('lora_rank', 0):
      raise UserError(
        f'{own.adapters} has rank {rank}, config.model.lora_rank is {own.get("lora_rank", 0)}'
      )
    if adapters.diffs:
      raise UserError(
        f'{own.adapters} holds full differences: merge it into the weights first, `convert.lora '
        'merge`'
      )
    given = {'lora': {'backbone': adapters.tree(1.0 / lora_scale(config))}} | nested(
      adapters.encoders.items()
    )
    shapes = lambda tree: jax.tree.map(lambda x: tuple(x.shape), tree)
    for name, tree in given.items():
      if shapes(tree) != shapes(like[name]):
        raise UserError(
          f'{own.adapters} does not fit the {name} of this network: other targets, or another '
          'width?'
        )
    found |= given
  return lambda: found


def trainable(config):
  """Path of a parameter -> whether it is trained; None where all are.

  Raises:
    UserError: an unknown set, or 'lora' without adapters.
  """
  what = config.model.get('train', 'all')
  if what not in TRAINED:
    raise UserError(f'config.model.train is {what!r}, choose from {sorted(TRAINED)}')
  if (what == 'lora') != bool(config.model.get('lora_rank', 0)):
    raise UserError("config.model.train='lora' and config.model.lora_rank > 0 belong together")
  return None if what == 'all' else lambda path: re.fullmatch(TRAINED[what], path) is not None


def _only_condition_channels(params, channels: int):
  """The warm-up stage: the rows of the patch kernel that see the noisy latents, and its bias, get
  no gradient."""
  patch = params['backbone']['patch']
  kernel = jnp.concatenate(
    [jax.lax.stop_gradient(patch['kernel'][:channels]), patch['kernel'][channels:]]
  )
  patch = {'kernel': kernel, 'bias': jax.lax.stop_gradient(patch['bias'])}
  return params | {'backbone': params['backbone'] | {'patch': patch}}


def _held_channels(channels: int):
  """The same after an update (`Task.held`): weight decay would shrink those rows."""

  def held(after, before):
    new, old = (tree['backbone']['patch'] for tree in (after, before))
    patch = {
      'kernel': jnp.concatenate([old['kernel'][:channels], new['kernel'][channels:]]),
      'bias': old['bias'],
    }
    return after | {'backbone': after['backbone'] | {'patch': patch}}

  return held


def task(config) -> Task:
  """See `Task`. Config: `model, condition, vae, flow, data, batch_size`."""
  codec = open_codec(**config.vae)
  model, flow, scale = portrait_dit(config, codec), config.flow, lora_scale(config)
  spec, velocity = batch_spec(config, codec), velocity_fn(model, config.model.prediction, scale)
  text = text_or_padding(config, model.backbone.text_dim)
  trained = trainable(config)
  noisy = codec.channels * int(np.prod(model.backbone.patch))
  warming_up = config.model.get('train', 'all') == 'warmup'

  def with_text(conditions, batch):
    repeated = None if text is None else jnp.repeat(jnp.asarray(text), batch, axis=0)
    return conditions | {'text': repeated}

  frame = spec['reference'].shape[1:]
  F = (config.data.num_frames - 1) // codec.strides[0] + 1
  init_args = _one_example(config, codec, model, frame, F)
  init_fn = initial_fn(config, model, with_text(init_args, 1))

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
    keep_reference = jax.random.bernoulli(
      for_reference, 1.0 - config.condition.drop_reference, (B,)
    )
    if warming_up:
      params = _only_condition_channels(params, noisy)
    v = velocity(
      params,
      z,
      sigma,
      keep_pose=keep_pose,
      keep_reference=keep_reference * 1.0,
      **with_text(conditions_of(batch, codec), B),
    )
    error = _mean_where_valid(jnp.square(v - (noise - z0)), batch['valid'])
    weight = flow_matching.loss_weight(sigma, how=flow.weight)
    return (weight * error).mean(), {'x0_error': (jnp.square(sigma) * error).mean()}

  def denoise_once(params, batch, rng):
    """Mean squared error of x0 from pure noise, all conditions kept; of autoencoders of single
    frames also a clip to look at: for the first examples reference, driving normals, what the
    network says, and the truth."""
    z0 = latents_of(batch)
    noise, sigma = jax.random.normal(rng, z0.shape), jnp.ones(z0.shape[0])
    conditions = conditions_of(batch, codec)
    guess = noise - velocity(params, noise, sigma, **with_text(conditions, z0.shape[0]))
    found = {'x0_error': _mean_where_valid(jnp.square(guess - z0), batch['valid']).mean()}
    if codec.strides[0] == 1:
      shown = min(_SHOWN, len(z0))
      reference = jnp.broadcast_to(conditions['reference'][:shown, None], (shown, F, *frame))
      images = [jnp.clip(codec.decode(z[:shown]) * 0.5 + 0.5, 0.0, 1.0) for z in (guess, z0)]
      images[1] = images[1] * _dimmed(batch['valid'][:shown], frame)  # no target: half as bright
      # [B, F, H, 4 W, 3]
      columns = jnp.concatenate(
        [reference, conditions['normals'][:shown, ..., :3], *images], axis=-2
      )
      found['clip'] = jnp.concatenate(list(columns), axis=1)
    return found

  return Task(
    init_fn,
    loss_fn,
    spec,
    (('from_noise', denoise_once),),
    trainable=trained,
    start=start_fn(config, init_fn, model.backbone),
    held=_held_channels(noisy) if warming_up else None,
    tokens=_tokens(model, spec, codec, F),
  )


def _one_example(config, codec, model, frame: tuple[int, ...], F: int) -> dict[str, jax.Array]:
  """Zeros of the network's inputs, one clip of F latent frames; frame: [H, W, 3] of the video."""
  grid = (frame[0] // codec.strides[1], frame[1] // codec.strides[2], codec.channels)
  normals = (1, config.data.num_frames, *frame[:2], control_channels(config))
  inputs = dict(
    latents=jnp.zeros((1, F, *grid)),
    t=jnp.zeros(1),
    reference_latents=jnp.zeros((1, 1, *grid)),
    reference=jnp.zeros((1, *frame)),
    reference_normals=jnp.zeros((1, *frame)),
    normals=jnp.zeros(normals),
  )
  if config.condition.preview:
    inputs['preview_latents'] = jnp.zeros((1, F, *grid))
  if model.backbone.image_dim:
    inputs['clip'] = jnp.zeros((1, CLIP_TOKENS, model.backbone.image_dim))
  return inputs


def _mean_where_valid(error: jax.Array, valid: jax.Array) -> jax.Array:
  """[B, F, h, w, C], uint8 [B, F, h, w] -> [B] means over the codes that are valid; 0 where none
  is."""
  kept, axes = jnp.asarray(valid > 0, error.dtype)[..., None], tuple(range(1, error.ndim))
  return (error * kept).sum(axes) / jnp.maximum(kept.sum(axes) * error.shape[-1], 1.0)


def _dimmed(valid: jax.Array, frame) -> jax.Array:
  """[B, F, h, w] -> [B, F, H, W, 1]: 1, or 1/2 where the film shows nothing."""
  H, W = frame[:2]
  large = jnp.repeat(
    jnp.repeat(valid > 0, H // valid.shape[2], axis=2), W // valid.shape[3], axis=3
  )
  return jnp.where(large, 1.0, 0.5)[..., None]


def _tokens(model, spec, codec, frames):
  """Tokens of one example that the transformer sees."""
  _, H, W, _ = spec['reference'].shape
  pt, ph, pw = model.backbone.patch
  count = frames // pt * (H // codec.strides[1] // ph) * (W // codec.strides[2] // pw)
  return count * (frames + 1) // frames if model.fusion == 'sequence' else count


def examples(config):
  """(source, transform) of this task's batches.

  Raises:
    UserError: the config does not say what the network starts from or reads; or as of
      `examples.examples`.
  """
  if not config.model.get('weights', ''):
    raise UserError(
      'config.model.weights is empty, so the network would start from noise: name a folder by '
      '`python -m '
      f"exp_jax.convert.wan import`, or say config.model.weights='{SCRATCH}'"
    )
  codec = open_codec(**config.vae)
  if portrait_dit(config, codec).backbone.text_dim:
    prompt_file(config)
  return video_examples(config, tuple(batch_spec(config, codec)), strides=codec.strides)


def held_out(config):
  """The same of `config.data.held_out`; None if that is empty."""
  codec = open_codec(**config.vae)
  return video_held_out(config, tuple(batch_spec(config, codec)), strides=codec.strides)


def export_files(config) -> dict[str, pathlib.Path]:
  """What an export carries beside its parameters: the embeddings of the prompt, and which head its
  records show."""
  codec = open_codec(**config.vae)
  path, _ = prompt_file(config) if portrait_dit(config, codec).backbone.text_dim else (None, '')
  head = found_beside(config.data.path)
  return ({} if path is None else {PROMPT: path}) | ({} if head is None else {HEAD: head})
