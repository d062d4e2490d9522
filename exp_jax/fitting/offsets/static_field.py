"""Where static offsets may act, what they start from, and the surface they are offsets of.

The dense mesh lies flat on the coarse triangles; a head is round. The offset that rounds it off
(`heads.densify.rounding` of the fitted coarse head) is known before any picture is looked at:
static offsets start from it, and what is penalised
is their difference to it. Letters: N dense vertices.
"""

import functools

import jax
import jax.numpy as jnp

from exp_jax.heads.densify import Dense, laplacian

_HARD = ('eyeballs', 'teeth', 'tongue', 'inner_mouth')
CENTIMETRE = 0.01
_SINGLE_REST = 0.03  # epsilon of a single picture off face and scalp


def static_mask(dense: Dense, *, shape_seen: bool, picture_face: float) -> jax.Array:
  """[N, 1]: where static offsets may act: not on eyes and teeth, and little where little is known.

  The shape of the face is seen in the normals of a clip. One picture, or colours alone, tell paint
  from shape too badly, and an outline is that of hair and clothes as well: it may move the scalp,
  hardly ears and neck, and the face by the share `picture_face`.
  """
  of = functools.partial(region, dense)
  mask = jnp.ones(dense.coarse_ids.shape[0])
  if not shape_seen:
    mask = jnp.maximum(jnp.maximum(of('scalp'), picture_face * of('face')), _SINGLE_REST)
    mask = smooth(dense, mask[:, None], 12)[:, 0]
  return (mask * solid(dense))[:, None]


def initial_static(dense: Dense, along: jax.Array) -> jax.Array:
  """[N, 3]: along unit directions [N, 3] 8 mm on the scalp and 4 mm on clothes.

  Source: spec sec. 2.1.9.
  """
  return (0.008 * region(dense, 'scalp') + 0.004 * region(dense, 'clothing'))[:, None] * along


def magnitude(static: jax.Array, face: jax.Array, *, on_face: float, elsewhere: float) -> jax.Array:
  """[] mean over vertices of the weighted square of static offsets [N, 3], in centimetres; face [N,
  1] in 0..1.

  On the face, which the linear model knows best, they cost `on_face`, on hair and clothes
  `elsewhere`. Source: eq. 7.
  """
  strength = on_face * face + elsewhere * (1 - face)
  return jnp.mean(jnp.sum(strength * (static / CENTIMETRE) ** 2, -1))


def smooth(dense: Dense, field: jax.Array, rounds: int) -> jax.Array:
  """[N, C]: `rounds` half-steps towards the mean of the neighbours."""
  for _ in range(rounds):
    field = field + 0.5 * laplacian(dense, field)
  return field


def region(dense: Dense, name: str) -> jax.Array:
  """[N] 0..1; zeros where the head does not name such a region."""
  return jnp.clip(dense.regions.get(name, jnp.zeros(dense.coarse_ids.shape[0])), 0, 1)


def solid(dense: Dense) -> jax.Array:
  """[N] 0 on eyes, teeth, tongue and in the mouth, little on the lids, which would fold."""
  mask = 1 - 0.9 * smooth(dense, region(dense, 'lids')[:, None], 2)[:, 0]
  for name in _HARD:
    mask = mask * (1 - region(dense, name))
  return mask
