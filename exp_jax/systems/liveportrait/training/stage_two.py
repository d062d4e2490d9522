"""Task 'liveportrait/stage2': stitching, eyes and lips, with all that was learnt in stage one held
still.

  stitching   another person's motion; outside of the head nothing may change:   |(I_st - I_recon) shoulders| + w |move|
  eyes, lips  a random openness in 0..0.8 is asked for:   |(I - I_recon) (1 - M)| + w_cond |seen - asked| + w |move|

I_recon is the source painted with its own keypoints. How open eyes and lips are in a painted
picture is seen by the network of
stage one that learnt it from landmarks (`model.openness`: an export of stage one, where the weights
themselves have none).

Letters: B batch, K keypoints, S pixels. Source: LivePortrait (arXiv 2407.03168), section 3.3, Eqs.
5 and 6.
"""

import functools

import jax
import jax.numpy as jnp

from exp_jax.errors import UserError
from exp_jax.files.safetensors import flattened, nested
from exp_jax.systems.liveportrait.models import extract_motion, init_params, load, networks, paint
from exp_jax.systems.liveportrait.networks.convolutions import halve
from exp_jax.systems.liveportrait.networks.keypoints import posed, transform
from exp_jax.systems.liveportrait.networks.retargeting import retargeting_move, stitching_move
from exp_jax.systems.liveportrait.training import losses, records, stage_one
from exp_jax.systems.liveportrait.training.critics import critics
from exp_jax.training.exports import load_export
from exp_jax.training.task import Task

TRAINED = ('stitching', 'eyes', 'lip')
MOST_OPEN = 0.8
examples, held_out = stage_one.examples, stage_one.held_out


def task(config) -> Task:
  """See `Task`.

  Config: `model` (variant, norm, weights, openness), `data`, `loss`, `batch_size`.
  """
  nets = networks(config.model.variant, norm=config.model.norm)
  _, openness = critics(config.model.variant)
  S, weight = nets.input_size, config.loss

  def init_fn(rng):
    params = init_params(nets, rng)
    blank = openness.init(jax.random.fold_in(rng, 200), jnp.zeros((1, S, S, 3)))
    return params | {'openness': blank['params']}

  def moves(params, batch, rng):
    """(source, volume, x_s, {part: (driving keypoints, move)}, asked openness of eyes and lip [B]
    each)."""
    source, driving = floats_of(batch)
    motion, other = (extract_motion(nets, params, halve(x)) for x in (source, driving))
    # another person's: the next example of the batch
    other = jax.tree.map(lambda x: jnp.roll(x, 1, 0), other)
    x_s = posed(motion)
    moved = (other.rotation, other.expression, other.scale, other.translation)
    x_d = transform(motion.canonical, *moved)
    ratios = jnp.clip(losses.openness_of(batch['source_landmarks']), 0, 1)
    asked = MOST_OPEN * jax.random.uniform(rng, (2, len(x_s)))
    volume = nets.appearance.apply({'params': params['appearance']}, halve(source))
    x_s, x_d, volume = jax.lax.stop_gradient((x_s, x_d, volume))
    eyes, lip = jnp.concatenate([ratios[:, :2], asked[0][:, None]], 1), ratios[:, 2]
    by_part = {
      'stitching': (x_d, stitching_move(nets.stitching, params['stitching'], x_s, x_d)),
      'eyes': (x_s, retargeting_move(nets.eyes, params['eyes'], x_s, eyes)),
      'lip': (
        x_s,
        retargeting_move(nets.lip, params['lip'], x_s, jnp.stack([lip, asked[1]], 1)),
      ),
    }
    return volume, x_s, by_part, asked

  def loss_fn(params, batch, rng):
    volume, x_s, by_part, (eyes, lips) = moves(params, batch, rng)
    recon = jax.lax.stop_gradient(paint(nets, params, volume, x_s, x_s))
    landmarks, size, total, metrics = batch['source_landmarks'], 2 * S, 0.0, {}
    masks = {
      'stitching': losses.shoulders(landmarks, size),
      'eyes': losses.outside(landmarks, 'eyes', size),
      'lip': losses.outside(landmarks, 'lip', size),
    }
    for part, (base, move) in by_part.items():
      picture = paint(nets, params, volume, x_s, base + move)
      constant = (jnp.abs(picture - recon) * masks[part]).mean()
      loss = constant + weight.regular[part] * jnp.abs(move).mean()
      if part != 'stitching':
        seen = openness.apply({'params': params['openness']}, halve(picture))
        error = jnp.abs(seen[:, :2] - eyes[:, None]).mean(-1)
        error = jnp.abs(seen[:, 2] - lips) if part == 'lip' else error
        loss = loss + weight.condition[part] * error.mean()
        metrics[f'{part}_condition'] = error.mean()
      metrics |= {f'{part}_constant': constant, f'{part}_move': jnp.abs(move).mean()}
      total = total + loss
    return total, metrics

  def evaluate(params, batch, rng):
    loss, metrics = loss_fn(params, batch, rng)
    volume, x_s, by_part, _ = moves(params, batch, rng)
    volume, x_s = volume[:4], x_s[:4]
    ends = [x_s, *((base + move)[:4] for base, move in by_part.values())]
    rows = [jnp.concatenate(list(paint(nets, params, volume, x_s, x)), 1) for x in ends]
    return metrics | {'loss': loss, 'frames': jnp.concatenate(rows)}

  # the smoke run may stand on nothing
  begins = config.model.weights or config.data.name != 'toy_faces'
  return Task(
    init_fn,
    loss_fn,
    records.batch_spec(config.batch_size, 2 * S),
    (('retarget', evaluate),),
    trainable=lambda path: path.split('/')[0] in TRAINED,
    start=functools.partial(_started, config, nets) if begins else None,
  )


def _started(config, nets) -> dict:
  """The parameters that stage one left; UserError where there are none, or of other networks."""
  if not config.model.weights:
    raise UserError(
      'stage two teaches three small networks what stage one knows: set config.model.weights to '
      'published weights or an export of stage one'
    )
  model = load(config.model.weights)
  if model.nets.variant != nets.variant or model.nets.appearance.norm != nets.appearance.norm:
    raise UserError(
      f'config.model.weights are {model.nets.variant} with norm {model.nets.appearance.norm!r}; '
      'set config.model.variant and config.model.norm to that'
    )
  return {name: dict(model.params[name]) for name in stage_one.PARTS} | {
    'openness': _openness(config)
  }


def floats_of(batch) -> tuple[jax.Array, jax.Array]:
  """Source and driving pictures in [0, 1]."""
  return stage_one.floats(batch['source']), stage_one.floats(batch['driving'])


def _openness(config) -> dict:
  """The network of a stage-one export that sees openness."""
  path = config.model.openness or config.model.weights
  try:
    tree = flattened(load_export(path)[1])
  except (UserError, KeyError) as error:
    raise UserError(
      'stage two asks a network how open eyes and lips are: set config.model.openness to an '
      'export of stage one '
      f'({error})'
    ) from None
  found = {k.removeprefix('openness.'): v for k, v in tree.items() if k.startswith('openness.')}
  if not found:
    raise UserError(
      f'{path} has no network that sees openness: set config.model.openness to an export of stage '
      'one'
    )
  return nested(found.items())
