"""Task 'liveportrait/stage1': the four networks from scratch, with three discriminators against
them.

  source, driving   two frames of a clip (the same one of a photograph)
  x_s = s_s (x_c,s R_s + delta_s) + t_s,   x_d = s_d (x_c,s R_d + delta_d) + t_d          Eq. 2
  loss = L_E + L_L + L_H + L_delta + L_P,cascade + L_G,cascade + L_faceid + L_guide       Eq. 4, each with its weight

One tree of parameters and one optimizer serve both sides of the adversarial game: what
discriminators want is a loss of the painted picture held still, what the painter wants is a loss of
the discriminators held still, and the two are added. A small network learns to see how open eyes
and lips are; stage two asks it. Animals: config.loss without head_pose, lips and identity.

What looks at pictures is named in the config: VGG-19 and ArcFace by their converted weights, as in
the paper, or stand-ins that need none (`losses`). Nothing stands in unasked, and a run with
stand-ins says so when it starts (`concessions`).

Letters: B batch, K keypoints, S pixels of the input. Source: LivePortrait (arXiv 2407.03168),
section 3.2, appendix D.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp

from exp_jax.errors import UserError
from exp_jax.networks.metric import arcface, perceptual
from exp_jax.networks.weights import load_weights
from exp_jax.systems.liveportrait.models import (
  Networks,
  extract_motion,
  init_params,
  load,
  networks,
  paint,
)
from exp_jax.systems.liveportrait.networks.convolutions import halve
from exp_jax.systems.liveportrait.networks.keypoints import posed, transform
from exp_jax.systems.liveportrait.networks.motion import angles, read_motion
from exp_jax.systems.liveportrait.training import losses, records
from exp_jax.systems.liveportrait.training.critics import REGIONS, critics
from exp_jax.training.task import Task

STAND_INS = {'features': 'pyramid', 'identity': 'coarse'}
PARTS = ('appearance', 'motion', 'warping', 'generator')


@dataclasses.dataclass(frozen=True)
class Look:
  """How pictures are looked at: `run(params, pictures)`, parameters that stay as they are, or None,
  by shape and from the disk."""

  run: Callable
  shapes: dict | None = None
  load: Callable | None = None


def _named(key: str, name: str, network: str) -> None:
  if not name:
    raise UserError(
      f'config.model.{key} names nothing that looks at pictures: give --config.model.{key}=DIR, '
      'made by `python -m '
      f'exp_jax.convert.metrics {network}`, or --config.model.{key}={STAND_INS[key]}, a stand-in '
      'without weights '
      'that is no substitute'
    )


def concessions(config) -> list[str]:
  """Sentences about what a run does without, of what the paper has."""
  found = [
    f'config.model.{key} is {name!r}, a stand-in without weights for the {what} of the paper'
    for key, name, weight, what in (
      ('features', config.model.features, 'perceptual', 'VGG-19'),
      ('identity', config.model.identity, 'identity', 'ArcFace'),
    )
    if name == STAND_INS[key] and config.loss[weight]
  ]
  if config.data.images == 'none' or not config.data.image_share:
    found.append('it trains on clips alone, where the paper mixes photographs in')
  return found


def features_of(name: str) -> Look:
  """'pyramid' needs no weights; else a folder of `python -m exp_jax.convert.metrics vgg19`."""
  _named('features', name, 'vgg19')
  if name == 'pyramid':
    return Look(lambda params, images: losses.pyramid_features(images))
  weights = load_weights(name, 'vgg19')
  variant = weights.sizes.get('variant', 'vgg19')
  return _look(weights, lambda params, images: perceptual.features(params, images, variant=variant))


def identity_of(name: str) -> Look:
  """'coarse' needs no weights; else a folder of `python -m exp_jax.convert.metrics arcface`."""
  _named('identity', name, 'arcface')
  if name == 'coarse':
    return Look(lambda params, faces: losses.coarse_identity(faces))
  weights = load_weights(name, 'arcface')
  variant = weights.sizes['variant']
  return _look(weights, lambda params, faces: arcface.embed(params, faces, variant=variant))


def _look(weights, run) -> Look:
  return Look(
    run,
    jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), weights.tree()),
    weights.tree,
  )


def floats(images: jax.Array) -> jax.Array:
  """uint8 [...] -> float32 in [0, 1]."""
  return images.astype(jnp.float32) / 255


def regions_of(images: jax.Array, landmarks: jax.Array, size: int) -> dict[str, jax.Array]:
  """The pictures that the cascaded losses look at: all of it as painted, the face at `size`, the
  lips at half of it."""
  return {
    'whole': images,
    'face': losses.crops(images, *losses.face_region(landmarks), size),
    'lips': losses.crops(images, *losses.lip_region(landmarks), size // 2),
  }


def _painted(nets: Networks, params: dict, batch: dict) -> dict:
  """Everything that the losses need of a batch."""
  source, driving = floats(batch['source']), floats(batch['driving'])
  raw_s, raw_d = (
    nets.motion.apply({'params': params['motion']}, halve(x)) for x in (source, driving)
  )
  of_source, of_driving = read_motion(raw_s), read_motion(raw_d)
  x_s = posed(of_source)
  x_d = transform(
    of_source.canonical,
    of_driving.rotation,
    of_driving.expression,
    of_driving.scale,
    of_driving.translation,
  )
  volume = nets.appearance.apply({'params': params['appearance']}, halve(source))
  return dict(
    source=source,
    driving=driving,
    raw=(raw_s, raw_d),
    motions=(of_source, of_driving),
    x_s=x_s,
    x_d=x_d,
    picture=paint(nets, params, volume, x_s, x_d),
  )


def _region_terms(
  weight, fake: dict, real: dict, features, judge, frozen_judge
) -> dict[str, jax.Array]:
  """The terms that are summed over the picture and its regions.

  Args:
    weight: `config.loss`.
    fake: region -> painted pictures.
    real: region -> pictures of the driver.
    features: pictures -> features that are compared.
    judge: (region, pictures) -> (scores, features) of the discriminators.
    frozen_judge: the same, through which no gradient reaches the discriminators; None: nothing is
      judged.
  """
  terms = {name: jnp.zeros(()) for name in ('perceptual', 'gan', 'feature_matching', 'critic')}
  still = jax.lax.stop_gradient
  for name in (n for n in REGIONS if weight[n]):
    share = weight[name]
    terms['perceptual'] += share * losses.feature_loss(features, fake[name], real[name])
    if frozen_judge is None:
      continue
    score, seen = frozen_judge(name, fake[name])
    real_seen = frozen_judge(name, real[name])[1]
    terms['gan'] += -share * score.mean()
    terms['feature_matching'] += share * sum(
      jnp.abs(a - still(b)).mean() for a, b in zip(seen, real_seen)
    )
    terms['critic'] += share * losses.hinge_real_fake(
      judge(name, real[name])[0], judge(name, still(fake[name]))[0]
    )
  return terms


def task(config) -> Task:
  """See `Task`. Config: `model` (variant, norm, weights), `data`, `loss`, `batch_size`."""
  nets = networks(config.model.variant, norm=config.model.norm)
  discriminator, openness = critics(config.model.variant)
  S, weight = nets.input_size, config.loss
  # what costs nothing need not look
  named = lambda key, term: config.model[key] or ('' if weight[term] else STAND_INS[key])
  looks = {
    'features': features_of(named('features', 'perceptual')),
    'identity': identity_of(named('identity', 'identity')),
  }
  given = {name: look for name, look in looks.items() if look.shapes is not None}
  # else nothing is judged at all
  adversarial = any(weight[name] for name in ('gan', 'feature_matching', 'critic'))
  keypoints = tuple(weight.guided_keypoints)
  if len(keypoints) != len(losses.GUIDES):
    raise UserError(
      f'config.loss.guided_keypoints must name {len(losses.GUIDES)} keypoints, got {len(keypoints)}'
    )

  def look_at(params, name):
    return functools.partial(looks[name].run, params.get('looks', {}).get(name))

  painted = functools.partial(_painted, nets)

  def judge(params, name, pictures):
    return discriminator.apply({'params': params['discriminators'][name]}, pictures)

  def loss_fn(params, batch, rng):
    found = painted(params, batch)
    terms = _pose_terms(nets, params, batch, found, rng, weight)
    landmarks, still = batch['driving_landmarks'], jax.lax.stop_gradient
    real, fake = (regions_of(x, landmarks, S) for x in (found['driving'], found['picture']))
    terms['identity'] = losses.identity_loss(
      look_at(params, 'identity'),
      losses.aligned_faces(found['picture'], landmarks),
      losses.aligned_faces(found['source'], batch['source_landmarks']),
    )
    terms |= _region_terms(
      weight,
      fake,
      real,
      look_at(params, 'features'),
      functools.partial(judge, params),
      functools.partial(judge, still(params)) if adversarial else None,
    )
    both = halve(jnp.concatenate([found['source'], found['driving']]))
    wanted = losses.openness_of(jnp.concatenate([batch['source_landmarks'], landmarks]))
    seen = openness.apply({'params': params['openness']}, both)
    terms['openness'] = jnp.abs(seen - jnp.clip(wanted, 0, 1)).mean()
    total = sum(weight[name] * value for name, value in terms.items())
    return total, terms | {'psnr': psnr(found['picture'], found['driving'])}

  def start():
    own = (
      {name: dict(load(config.model.weights).params[name]) for name in PARTS}
      if config.model.weights
      else {}
    )
    return own | ({'looks': {name: look.load() for name, look in given.items()}} if given else {})

  return Task(
    lambda rng: _first_params(nets, discriminator, openness, given, rng),
    loss_fn,
    records.batch_spec(config.batch_size, 2 * S),
    (('reconstruct', lambda params, batch, rng: _reconstruct(painted(params, batch))),),
    trainable=(lambda path: not path.startswith('looks/')) if given else None,
    start=start if config.model.weights or given else None,
  )


def _first_params(nets, discriminator, openness, given: dict, rng) -> dict:
  """Parameters of the networks, of their critics, and room for those that only look."""
  params, S = init_params(nets, rng, PARTS), nets.input_size
  sizes = {'whole': 2 * S, 'face': S, 'lips': S // 2}
  blank = lambda size: jnp.zeros((1, size, size, 3))
  params['discriminators'] = {
    name: discriminator.init(jax.random.fold_in(rng, 100 + i), blank(sizes[name]))['params']
    for i, name in enumerate(REGIONS)
  }
  params['openness'] = openness.init(jax.random.fold_in(rng, 200), blank(S))['params']
  if given:
    params['looks'] = {
      name: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), look.shapes)
      for name, look in given.items()
    }
  return params


def _reconstruct(found: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Scores and frames of what `_painted` found."""
  picture = found['picture']
  rows = [jnp.concatenate(list(x[:4]), 1) for x in (found['source'], found['driving'], picture)]
  return {
    'psnr': psnr(picture, found['driving']),
    'psnr_of_source': psnr(found['source'], found['driving']),
    'frames': jnp.concatenate(rows),
  }


def _pose_terms(nets, params, batch, found, rng, weight) -> dict[str, jax.Array]:
  """What is asked of keypoints and poses."""
  keypoints = tuple(weight.guided_keypoints)
  landmarks, own = batch['driving_landmarks'], found['motions']
  terms = {}
  matrix, shift = losses.random_affine(rng, len(landmarks), strength=0.15)
  turned = posed(
    extract_motion(nets, params, losses.warped(halve(found['driving']), matrix, shift))
  )
  terms['equivariance'] = losses.equivariance_loss(posed(own[1]), turned, matrix, shift)
  terms['prior'] = (
    sum(
      losses.prior_loss(x, distance=weight.prior_distance, depth=weight.prior_depth, free=keypoints)
      for x in (found['x_s'], found['x_d'])
    )
    / 2
  )
  known = jnp.stack([batch['source_posed'], batch['driving_posed']])
  off = jnp.stack(
    [
      jnp.abs(angles(raw) - batch[f'{name}_angles']).mean(-1)
      for raw, name in zip(found['raw'], ('source', 'driving'))
    ]
  )
  terms['head_pose'] = (known * off).sum() / jnp.maximum(known.sum(), 1.0)
  terms['deformation'] = sum(jnp.abs(m.expression).mean() for m in own) / 2
  terms['guide'] = losses.guidance_loss(
    batch['source_landmarks'],
    found['x_s'],
    found['x_d'],
    landmarks,
    keypoints=keypoints,
    omega=weight.wing_omega,
    epsilon=weight.wing_epsilon,
  )
  return terms


def psnr(found: jax.Array, wanted: jax.Array) -> jax.Array:
  """Of a whole batch in [0, 1], dB."""
  return -10.0 * jnp.log10(jnp.square(found - wanted).mean() + 1e-10)


def examples(config, *, part: str = 'train'):
  """(source, transform) of both stages' batches."""
  size = 2 * networks(config.model.variant).input_size
  if part == 'train' and config.task == 'liveportrait/stage1':
    for words in concessions(config):
      print(f'warning: {words}', file=sys.stderr)
  return records.source_of(config.data, size, part=part), functools.partial(records.pair, size=size)


def held_out(config):
  """The same of faces that are not trained on; None if there are none."""
  has = config.data.held_out if config.data.name == 'face_clips' else config.data.holdout
  return examples(config, part='held_out') if has else None
