"""Identity-adaptive expression transfer: driving code and the target's neutral geometry -> dynamic offsets.

ExpPortrait sec. 3.2, eqs. 8 and 9:  q_i = E(psi_i, omega_i),   delta_f(i) = G(V_neutral, q_i)

E encodes expression and jaw of a frame; G is one small network shared by all vertices, which sees where a vertex
lies on the target and on the template, its normal, and a pooled code of the whole neutral head (a wrinkle depends on
age, which no single vertex tells). FiLM by q on every hidden layer; the last layer starts at zero, so an untrained
module changes nothing. Nothing depends on the number of vertices.

Letters: B examples, N vertices, E expression, D code, S vertices of the pooled code.
"""

import dataclasses
import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import Dense, rest_vertices
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.personalized import Subject
from exp_jax.training.exports import load_export

_RADIUS = 0.15           # metres; positions are divided by it
_OFFSET_UNIT = 0.01      # metres; the network's output of 1
_PSI_UNIT, _JAW_UNIT = 0.3, 0.15
POOL_STRIDE = 17         # every 17th coarse vertex enters the pooled identity code


def fourier(x: jax.Array, octaves: int) -> jax.Array:
  """[..., C] -> [..., C (1 + 2 octaves)]: x, sin(2^l pi x), cos(2^l pi x)."""
  angles = jnp.pi * x[..., None] * 2.0 ** jnp.arange(octaves)
  parts = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
  return jnp.concatenate([x, parts.reshape(*x.shape[:-1], -1)], -1)


class ExpressionTransfer(nn.Module):
  """E and G of the paper as one module."""
  code_dim: int = 128
  width: int = 256
  depth: int = 5
  octaves: int = 6
  identity_dim: int = 32

  @nn.compact
  def __call__(self, expression, jaw, neutral, normals, template, mask, pool):
    """Predicts offsets.

    Args:
      expression: [B, E] units of the head model; jaw: [B, 3] axis-angle, radians.
      neutral, normals: [B, N, 3] metres about the head joint, unit normals, of the target at rest.
      template: [B, N, 3] the same vertices of the model's template.
      mask: [B, N] face mask in 0..1.
      pool: [B, S, 6] neutral minus template, and template, of the vertices of the pooled code.

    Returns:
      [B, N, 3] metres.
    """
    q = jnp.concatenate([expression / _PSI_UNIT, jaw / _JAW_UNIT], -1)
    for i in range(2):
      q = nn.gelu(nn.Dense(self.width, name=f'encoder_{i}')(q))
    q = nn.LayerNorm(name='encoder_norm')(nn.Dense(self.code_dim, name='encoder_out')(q))
    identity = nn.silu(nn.Dense(64, name='identity_0')(pool * jnp.array([30.0] * 3 + [1 / _RADIUS] * 3)))
    identity = nn.Dense(self.identity_dim, name='identity_1')(jnp.mean(identity, 1))
    q = jnp.concatenate([q, nn.LayerNorm(name='identity_norm')(identity)], -1)
    place = jnp.concatenate([fourier(neutral / _RADIUS, self.octaves), normals,
                             fourier(template / _RADIUS, self.octaves), mask[..., None],
                             (neutral - template) * 30], -1)
    x = nn.Dense(self.width, name='in')(place) + nn.Dense(self.width, name='in_code')(q)[:, None]
    for i in range(self.depth):
      scale, shift = jnp.split(nn.Dense(2 * self.width, name=f'film_{i}')(q)[:, None], 2, -1)
      y = nn.Dense(self.width, name=f'hidden_{i}')(nn.silu(x))
      x = x + y * (1 + scale) + shift
    out = nn.Dense(3, kernel_init=nn.initializers.zeros, name='out')(nn.silu(x))
    return mask[..., None] * _OFFSET_UNIT * out


@dataclasses.dataclass(frozen=True)
class Neutral:
  """What G sees of one subject: positions about the head joint, [N, 3] each, mask [N], pool [S, 6]."""
  neutral: np.ndarray
  normals: np.ndarray
  template: np.ndarray
  mask: np.ndarray
  pool: np.ndarray


def neutral_of(head: HeadModel, dense: Dense, subject: Subject) -> Neutral:
  """The inputs of `ExpressionTransfer` that stay the same for all frames of a subject."""
  rest = HeadParams(jnp.asarray(subject.shape), jnp.zeros(head.expression_basis.shape[-1]),
                    jnp.zeros((len(head.parents), 3)), jnp.zeros(3))
  static = jnp.asarray(subject.static_offsets)
  vertices = rest_vertices(head, dense, rest, static, jnp.zeros_like(static))
  template = rest_vertices(head, dense, rest.replace(shape=jnp.zeros_like(rest.shape)), jnp.zeros_like(static),
                           jnp.zeros_like(static))
  joint = list(head.joint_names).index('head')
  origin = np.asarray(head.joint_template[joint])
  own = origin + np.asarray(head.joint_shape[joint]) @ np.asarray(subject.shape)
  mask = np.asarray(dense.regions['face'] * (1 - dense.regions['eyeballs']))
  neutral, template = np.asarray(vertices) - own, np.asarray(template) - origin
  pooled = np.arange(0, head.template.shape[0], POOL_STRIDE)      # coarse vertices lead the dense ones
  return Neutral(neutral.astype(np.float32), np.asarray(vertex_normals(vertices, dense.faces)),
                 template.astype(np.float32), mask,
                 np.concatenate([neutral[pooled] - template[pooled], template[pooled]], -1).astype(np.float32))


class Transfer:
  """A trained module, ready to use: (subject, expression [T, E], jaw [T, 3]) -> dynamic offsets [T, N, 3]."""

  def __init__(self, path: pathlib.Path, head: HeadModel, dense: Dense, *, chunk: int = 4):
    config, self._params = load_export(path)
    if config.task != 'expportrait/transfer':
      raise UserError(f'{path} is an export of {config.task!r}, not of expportrait/transfer')
    if config.model.expression != head.expression_basis.shape[-1]:
      raise UserError(f'{path} was trained on {config.model.expression} expression parameters, the head '
                      f'{head.name!r} has {head.expression_basis.shape[-1]}')
    self._apply = functools.partial(jax.jit(build(config).apply), {'params': jax.tree.map(jnp.asarray, self._params)})
    self._head, self._dense, self._chunk = head, dense, chunk

  def __call__(self, subject: Subject, expression: np.ndarray, jaw: np.ndarray) -> np.ndarray:
    seen = neutral_of(self._head, self._dense, subject)
    face = np.flatnonzero(seen.mask > 0)
    count, step = len(expression), self._chunk
    stay = [np.repeat(a[None], step, 0) for a in (seen.neutral[face], seen.normals[face], seen.template[face],
                                                  seen.mask[face], seen.pool)]
    full = np.zeros((count, len(seen.mask), 3), np.float32)
    for start in range(0, count, step):
      pick = np.minimum(np.arange(start, start + step), count - 1)
      offsets = np.asarray(self._apply(expression[pick], jaw[pick], *stay))
      full[start:start + step, face] = offsets[:min(step, count - start)]
    return full


def build(config) -> ExpressionTransfer:
  """The module of a config's `model` section (`expression` is the number of its inputs, not a field)."""
  return ExpressionTransfer(**{k: v for k, v in config.model.items() if k != 'expression'})
