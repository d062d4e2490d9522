"""One synthetic person: everything that stays while they move. Drawn from a numpy generator
alone."""

import flax
import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.actors.appearance import sample_appearance, vertex_albedo
from exp_jax.actors.detail import sample_style
from exp_jax.actors.identity import Traits, sample_shape, sample_traits
from exp_jax.actors.lighting import sample_background, sample_light
from exp_jax.actors.materials import Look
from exp_jax.actors.motion import Motion
from exp_jax.actors.stage import Stage, load_stage
from exp_jax.actors.wrinkles import wrinkle_bank, wrinkle_depths
from exp_jax.controls.mouth import tooth_shift
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import Subject

_VISIBLE = 0.35  # metres of the world that the image is high, at the head: the head fills 60 %


@flax.struct.dataclass
class Actor:
  """Arrays only, so that all actors share one compiled renderer. N dense vertices, K wrinkles."""

  shape: jax.Array  # [S]
  static_offsets: jax.Array  # [N, 3] metres, rest pose
  normals: jax.Array  # [M, 3] rest normals of the vertices that wrinkle
  wrinkles: jax.Array  # [M, K] metres of relief at full depth
  gains: jax.Array  # [K, E]
  look: Look
  light: jax.Array  # [9, 3]
  lamp: jax.Array  # [3] camera frame, toward the key lamp
  background: jax.Array  # [96, 96, 3] linear
  focal: jax.Array  # [] in image heights
  seat: jax.Array  # [3] metres, the translation at rest, head frame
  grain: jax.Array  # [] sensor noise, sRGB
  traits: dict[str, jax.Array]  # what was drawn: sex, age, melanin, ...


def sample_actor(rng: np.random.Generator, stage: Stage | None = None, **fixed: float) -> Actor:
  """Draws a person, their light and their place.

  Args:
    rng: numpy generator; equal states give equal actors.
    stage: of the head model; MakeHuman by default.
    fixed: traits to set instead of drawing (`age=1.0`); everything else is drawn as without them.

  Raises:
    TypeError: for a trait that does not exist.
  """
  stage = stage or load_stage()
  seeds = rng.spawn(6)  # one stream per subject, so that a fixed trait changes nothing else
  traits = Traits(**(vars(sample_traits(seeds[0])) | fixed))
  head = stage.assets.head
  shape = sample_shape(seeds[1], head, traits)
  coarse = np.asarray(head.template, np.float64) + np.asarray(head.shape_basis, np.float64) @ shape
  style, offsets = sample_style(stage, seeds[2], traits)
  offsets = offsets + stage.smooth @ coarse
  wrinkles, gains = wrinkle_bank(stage, seeds[3], age=traits.age)
  dense = stage.assets.dense
  ids = np.asarray(stage.assets.skin_ids)
  rest = np.einsum(
    'nkc,nk->nc', coarse[np.asarray(dense.coarse_ids)], np.asarray(dense.barycentric)
  )
  normals = np.asarray(vertex_normals(jnp.asarray(rest + offsets, jnp.float32), dense.faces))[ids]
  # lines that have stayed
  offsets[ids] += (0.22 * traits.age**2 * wrinkles.sum(1))[:, None] * normals
  offsets *= 1 - stage.regions['eyeballs'][:, None]
  # shapes move the lips, not the teeth behind them
  offsets += tooth_shift(rest + offsets, np.asarray(stage.assets.tooth), stage.assets.lips)
  look = sample_appearance(stage, seeds[4], traits, style)
  light, lamp = sample_light(seeds[5])
  field_of_view = np.deg2rad(seeds[5].uniform(20, 25))
  distance = seeds[5].uniform(0.94, 1.1) * _VISIBLE / (2 * np.tan(field_of_view / 2))
  seat = np.array([seeds[5].normal(0, 0.008), -0.026 + seeds[5].normal(0, 0.006), -distance])
  seat[:2] -= [0, 0.5 * (style.hair_volume * 0.6)]
  as32 = lambda value: jnp.asarray(value, jnp.float32)
  return Actor(
    shape=as32(shape),
    static_offsets=as32(offsets),
    normals=as32(normals),
    wrinkles=as32(wrinkles),
    gains=as32(gains),
    look=look,
    light=as32(light),
    lamp=as32(lamp),
    background=as32(sample_background(seeds[5])),
    focal=as32(0.5 / np.tan(field_of_view / 2)),
    seat=as32(seat),
    grain=as32(seeds[5].uniform(0.0, 0.007)),
    traits={k: as32(v) for k, v in vars(traits).items()},
  )


def relief(actor: Actor, expression: jax.Array) -> jax.Array:
  """[M] metres along the normals: the wrinkles that the expression [E] forms; exactly zero at
  zero."""
  return actor.wrinkles @ wrinkle_depths(actor.gains, expression, jnp)


def dynamic_offsets(actor: Actor, expression: jax.Array) -> jax.Array:
  """[M, 3] metres in the rest pose, of the vertices `Assets.skin_ids`."""
  return relief(actor, expression)[:, None] * actor.normals


def truth(
  actor: Actor, motion: Motion, stage: Stage, *, size: int, subject_id: str = 'actor'
) -> Subject:
  """The subject file that a perfect fit of the rendered clip would leave."""
  moved = np.asarray(jax.vmap(lambda e: dynamic_offsets(actor, e))(jnp.asarray(motion.expression)))
  frames = len(motion.times)
  return Subject(
    subject_id=subject_id,
    head_name=stage.assets.head.name,
    head_digest=head_digest(stage.assets.head),
    levels=stage.assets.dense.levels,
    image_size=(size, size),
    fps=float(motion.fps),
    shape=np.asarray(actor.shape),
    expression=motion.expression,
    pose=motion.pose,
    translation=motion.translation + np.asarray(actor.seat),
    times=motion.times,
    focal=np.full(2, float(actor.focal) * size, np.float32),
    center=np.full(2, size / 2, np.float32),
    static_offsets=np.asarray(actor.static_offsets),
    dynamic_vertices=np.asarray(stage.assets.skin_ids),
    dynamic_offsets=moved.reshape(frames, -1, 3),
    albedo=vertex_albedo(actor.look),
    light=np.asarray(actor.light),
    report='{"source": "synthetic actor, exact"}',
  )
