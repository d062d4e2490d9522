"""A surface behind the lips for heads that have none, so that an open mouth is no hole in a map.

Half of a sphere of 10 rings of 20 vertices, open towards the lips, that moves with the skull. With
j the jaw's joint, l the middle of the lips, d = |l - j| and u = (l - j) / d, all of the neutral
face, its centre is j + 0.75 (l - j) - 5 mm u, its radius d / 4. Heads with teeth, tongue or an
inner mouth of their own (MakeHuman, ICT) get none.

Letters: V vertices of the head, C = 200 of the cavity, G faces.
Source: the geometry of Loki's renderer (arXiv 2605.24176) in numbers; where a head lacks the jaw's
joint, that of the head stands in.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.skinning import joint_transforms, rest_joints

RINGS, AROUND = 10, 20
_RADIUS, _ALONG, _BACK = 0.25, 0.75, 0.005  # shares of d; metres
_FLAME_LIP, _FLAME_VERTICES = 3533, 5023
_INNER = ('teeth', 'tongue', 'inner_mouth')


@flax.struct.dataclass
class MouthCavity:
  """points [C, 3]: of the unit half-sphere, its pole at -z; faces [G, 3] int32, fronts inside; lips
  [V]: weights of l; anchor: j."""

  points: jax.Array
  faces: jax.Array
  lips: jax.Array
  anchor: int = flax.struct.field(pytree_node=False)
  skull: int = flax.struct.field(pytree_node=False)


def mouth_cavity(head: HeadModel) -> MouthCavity | None:
  """The cavity of a head; None where it has an inner mouth of its own, or no lips to place it
  by."""
  has = lambda name: name in head.regions and bool(np.asarray(head.regions[name]).max() > 0.5)
  if any(map(has, _INNER)):
    return None
  if head.name == 'flame' and len(head.template) == _FLAME_VERTICES:
    lips = np.zeros(_FLAME_VERTICES)
    lips[_FLAME_LIP] = 1
  elif has('lips'):
    lips = np.asarray(head.regions['lips'], np.float64)
  else:
    return None
  polar, turn = (
    np.linspace(np.pi / 2, np.pi, RINGS)[:, None],
    2 * np.pi * np.arange(AROUND) / AROUND,
  )
  points = np.stack(
    [np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn), np.cos(polar) + 0 * turn], -1
  ).reshape(-1, 3)
  ring, place = (
    a.ravel() for a in np.meshgrid(np.arange(RINGS - 1), np.arange(AROUND), indexing='ij')
  )
  corner = lambda r, k: (ring + r) * AROUND + (place + k) % AROUND
  faces = np.concatenate(
    [
      np.stack([corner(0, 0), corner(0, 1), corner(1, 0)], 1),
      np.stack([corner(0, 1), corner(1, 1), corner(1, 0)], 1),
    ]
  )
  anchor = (
    head.joint('jaw')
    if head.has_joint('jaw')
    else head.joint('head', purpose='to place the inside of its mouth')
  )
  return MouthCavity(
    jnp.asarray(points, jnp.float32),
    jnp.asarray(faces, jnp.int32),
    jnp.asarray(lips / lips.sum(), jnp.float32),
    anchor,
    head.joint('head', purpose='to carry the inside of its mouth'),
  )


def neutral_cavity(head: HeadModel, cavity: MouthCavity, shape: jax.Array) -> jax.Array:
  """[C, 3] metres: the cavity of a person [S] at rest."""
  neutral = head.template + jnp.einsum('vcs,s->vc', head.shape_basis, shape)
  still = HeadParams(
    shape,
    jnp.zeros(head.expression_basis.shape[-1]),
    jnp.zeros((len(head.parents), 3)),
    jnp.zeros(3),
  )
  joint, lip = rest_joints(head, still)[cavity.anchor], jnp.einsum('v,vc->c', cavity.lips, neutral)
  distance = jnp.linalg.norm(lip - joint)
  forward = (lip - joint) / distance
  side = jnp.cross(jnp.array([0.0, 1.0, 0.0]), forward)
  side = side / jnp.linalg.norm(side)  # the lips never lie straight above the jaw's joint
  axes = jnp.stack([side, jnp.cross(forward, side), forward])  # rows: x, y, z of the sphere
  centre = joint + _ALONG * (lip - joint) - _BACK * forward
  return centre + _RADIUS * distance * cavity.points @ axes


def posed_cavity(head: HeadModel, cavity: MouthCavity, params: HeadParams) -> jax.Array:
  """[C, 3] metres: the cavity as the skull carries it; expression and jaw do not move it."""
  still = params.replace(expression=0 * params.expression)
  move = joint_transforms(head, still)[cavity.skull]
  return neutral_cavity(head, cavity, params.shape) @ move[:3, :3].T + move[:3, 3]
