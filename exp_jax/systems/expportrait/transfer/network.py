"""Identity-adaptive expression transfer: driving code and the target's neutral geometry -> dynamic
offsets.

ExpPortrait sec. 3.2, eqs. 8 and 9:  q_i = E(psi_i, omega_i),   delta_f(i) = G(V_neutral, q_i)

G is one network for all vertices. What does not change from frame to frame is computed once a
person: the identity code z, a set of learned integrals over the skin (deformation from the template
and relief, against learned functions of the
place: an old head is known by its folds and its sag, which no single vertex tells), and the code
a_v of each vertex, from its place, position, normal and relief, FiLM-conditioned by z on every
layer. A frame then enters by FiLM on the last hidden layer, minus the same at rest:

  y_v(i) = silu((1 + gamma(q_i)) a_v + beta(q_i)) - silu((1 + gamma(q_0)) a_v + beta(q_0)),   q_0 = E(0, 0)
  delta_f(i)_v = mask_v (W y_v(i) + n_v sum_s relief_s(v) w_s . y_v(i))

so no expression means no offset, and a frame costs little. The second term deepens the lines that
are there; the first makes lines where none is yet, in any direction. W and w start at zero: an
untrained module changes nothing. Nothing depends on the number of vertices; integrals are weighted
by area.

Letters: B people, T frames, P skin vertices, N of them predicted, E expression, S scales, D code.
"""

import dataclasses
import functools
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.heads.densify import Dense
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject
from exp_jax.heads.trained_head import check_trained_on
from exp_jax.layers.batching import in_blocks
from exp_jax.systems.expportrait.transfer.transfer_features import (
  Neutral,
  Resample,
  Surface,
  neutral_of,
  surface_of,
)
from exp_jax.training.exports import load_export

RADIUS = 0.15  # metres; places are divided by it
_DEFORMATION = 0.005  # metres: what a face differs from the template by
_RELIEF, _FINE = 2e-4, 1e-5  # metres: usual relief of a face, and what a fine line adds
_OFFSET = 1e-3  # metres; the network's output of 1
_PSI, _JAW = 0.3, 0.15
_WINDOW = 5  # frames that the temporal option sees


def fourier(x: jax.Array, octaves: int) -> jax.Array:
  """[..., C] -> [..., C (1 + 2 octaves)]: x, sin(2^l pi x), cos(2^l pi x)."""
  angles = jnp.pi * x[..., None] * 2.0 ** jnp.arange(octaves)
  parts = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
  return jnp.concatenate([x, parts.reshape(*x.shape[:-1], -1)], -1)


def _relief_inputs(relief: jax.Array) -> jax.Array:
  """[..., S] metres -> [..., 2S]: as it is, and compressed so that ten micrometres count beside
  half a millimetre."""
  return jnp.concatenate([relief / _RELIEF, jnp.arcsinh(relief / _FINE)], -1)


class DrivingEncoder(nn.Module):
  """E: expression [B, T, E] and jaw [B, T, 3] -> code [B, T, D].

  `temporal` adds what neighbouring frames say.
  """

  width: int = 128
  code_dim: int = 128
  temporal: bool = False

  @nn.compact
  def __call__(self, expression: jax.Array, jaw: jax.Array) -> jax.Array:
    x = jnp.concatenate([expression / _PSI, jaw / _JAW], -1)
    for i in range(2):
      x = nn.gelu(nn.Dense(self.width, name=f'hidden_{i}')(x))
    if self.temporal:
      # The first and the last frame stand for those beyond, so that a still face stays still.
      half = _WINDOW // 2
      padded = jnp.concatenate(
        [jnp.repeat(x[:, :1], half, 1), x, jnp.repeat(x[:, -1:], half, 1)], 1
      )
      x = x + nn.Conv(
        self.width,
        (_WINDOW,),
        padding='VALID',
        feature_group_count=self.width,
        kernel_init=nn.initializers.zeros,
        name='temporal',
      )(padded)
    return nn.gelu(nn.Dense(self.code_dim, name='out')(x))


class IdentityEncoder(nn.Module):
  """Integrals of what is personal against learned functions of the place: -> z [B, D]."""

  width: int = 128
  integrals: int = 96
  code_dim: int = 128
  octaves: int = 6

  @nn.compact
  def __call__(
    self, neutral: jax.Array, relief: jax.Array, place: jax.Array, area: jax.Array
  ) -> jax.Array:
    """neutral [B, P, 3] and relief [B, P, S], metres; place [P, 3] on the template; area [P] sums
    to 1."""
    x = fourier(place / RADIUS, self.octaves)
    for i in range(2):
      x = nn.silu(nn.Dense(self.width, name=f'place_{i}')(x))
    patterns = nn.Dense(self.integrals, name='patterns')(x)
    fields = jnp.concatenate([(neutral - place) / _DEFORMATION, _relief_inputs(relief)], -1)
    found = jnp.einsum('pk,bpc,p->bkc', patterns, fields, area)
    found = found.reshape(len(found), -1)
    found = found * self.param('gain', nn.initializers.constant(5.0), found.shape[-1:])
    x = nn.Dense(2 * self.code_dim, name='linear')(found)
    x = jnp.concatenate(
      [x, nn.Dense(2 * self.code_dim, name='compressed')(jnp.arcsinh(10 * found))], -1
    )
    x = nn.silu(nn.LayerNorm(name='norm')(x))
    x = nn.silu(nn.Dense(2 * self.code_dim, name='hidden')(x))
    return nn.LayerNorm(name='norm_out')(nn.Dense(self.code_dim, name='out')(x))


class VertexEncoder(nn.Module):
  """The frame-independent layers of G: what is known of each vertex and z [B, D] -> a_v [B, N,
  D]."""

  width: int = 128
  depth: int = 3
  code_dim: int = 64
  octaves: int = 6

  @nn.compact
  def __call__(self, neutral, normals, relief, place, mask, z):
    """[B, N, 3], [B, N, 3], [B, N, S], [B, N, 3], [B, N], [B, D]; metres."""
    seen = jnp.concatenate(
      [
        fourier(place / RADIUS, self.octaves),
        fourier(neutral / RADIUS, self.octaves),
        normals,
        (neutral - place) / _DEFORMATION,
        _relief_inputs(relief),
        mask[..., None],
      ],
      -1,
    )
    x = nn.Dense(self.width, name='in')(seen)
    for i in range(self.depth):
      scale, shift = jnp.split(nn.Dense(2 * self.width, name=f'film_{i}')(z)[:, None], 2, -1)
      y = nn.LayerNorm(name=f'norm_{i}')(x) * (1 + scale) + shift
      x = x + nn.Dense(self.width, name=f'hidden_{i}')(nn.silu(y))
    return nn.Dense(self.code_dim, name='out')(nn.silu(x))


class ExpressionTransfer(nn.Module):
  """E and G of the paper as one module; `identity`, `vertices` and `offsets` are its steps, for use
  in chunks."""

  width: int = 128
  depth: int = 3
  code_dim: int = 128
  vertex_dim: int = 64
  integrals: int = 96
  octaves: int = 6
  scales: int = 3
  temporal: bool = False

  def setup(self):
    self.driving = DrivingEncoder(self.width, self.code_dim, self.temporal)
    self.identity_encoder = IdentityEncoder(self.width, self.integrals, self.code_dim, self.octaves)
    self.vertex_encoder = VertexEncoder(self.width, self.depth, self.vertex_dim, self.octaves)
    self.film = nn.Dense(2 * self.vertex_dim)
    self.out = nn.Dense(3 + self.scales, use_bias=False, kernel_init=nn.initializers.zeros)

  def identity(self, neutral, relief, place, area):
    """z [B, D]; see `IdentityEncoder`."""
    return self.identity_encoder(neutral, relief, place, area)

  def vertices(self, neutral, normals, relief, place, mask, z):
    """a_v [B, N, D]; see `VertexEncoder`."""
    return self.vertex_encoder(neutral, normals, relief, place, mask, z)

  def drive(self, expression, jaw):
    """What frames do to the last layer, [B, T + 1, 2, D]; the last row is a face at rest.

    expression [B, T, E], units of the head model; jaw [B, T, 3] axis-angle, radians.
    """
    still = lambda values: jnp.zeros_like(values[:, :1])
    driven = [
      self.film(self.driving(e, j)) for e, j in ((expression, jaw), (still(expression), still(jaw)))
    ]
    driven = jnp.concatenate(driven, 1)
    return driven.reshape(*driven.shape[:2], 2, self.vertex_dim)

  def offsets(self, driven, rest, codes, normals, relief, mask):
    """[B, T, N, 3] metres from rows of `drive`, driven [B, T, 2, D] and rest [B, 1, 2, D], and
    `vertices` [B, N, D]."""
    hidden = lambda rows: nn.silu(codes[:, None] * (1 + rows[:, :, :1]) + rows[:, :, 1:])
    free, along = jnp.split(self.out(hidden(driven) - hidden(rest)), (3,), -1)
    along = jnp.einsum('btns,bns->btn', along, jnp.arcsinh(relief / (2 * _FINE)))
    return _OFFSET * mask[:, None, :, None] * (free + along[..., None] * normals[:, None])

  def __call__(self, expression, jaw, neutral, normals, relief, place, area, mask, at):
    """All steps at once, for training.

    Args:
      expression: [B, T, E] units of the head model; jaw: [B, T, 3] axis-angle, radians.
      neutral, normals, relief: [B, P, 3], [B, P, 3], [B, P, S] of all skin
        (`transfer_features.Neutral`).
      place, area, mask: [P, 3], [P], [P] of the surface.
      at: [B, N] int32, which of the P vertices to predict.

    Returns:
      [B, T, N, 3] metres.
    """
    z = self.identity(neutral, relief, place, area)
    take = lambda values: jnp.take_along_axis(values, at[..., None], 1)
    seen = take(neutral), take(normals), take(relief)
    codes = self.vertices(*seen, place[at], mask[at], z)
    driven = self.drive(expression, jaw)
    return self.offsets(driven[:, :-1], driven[:, -1:], codes, *seen[1:], mask[at])


def mirrored_expressions(names: tuple[str, ...]) -> np.ndarray | None:
  """[E] which expression takes the place of each in a mirror; None if none of them has a side."""
  swap = lambda name: name.replace('Left', '<').replace('Right', 'Left').replace('<', 'Right')
  if not any(swap(name) != name and swap(name) in names for name in names):
    return None
  return np.array(
    [names.index(swap(name)) if swap(name) in names else i for i, name in enumerate(names)]
  )


class Transfer:
  """A trained module, ready to use: (subject, expression [T, E], jaw [T, 3]) -> dynamic offsets [T,
  N, 3], metres.

  Vertices and frames are taken in chunks of fixed size, so that memory does not grow with either. A
  module that was trained on mirrored people too (`config.data.mirror`) is asked twice, the second
  time in the mirror, and the mean is taken: mirrored driving of a mirrored person is then the
  mirrored result by construction, and errors of either side average out.

  Raises:
    UserError: the export is missing, damaged, of another task or for another number of expressions.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    head: HeadModel,
    dense: Dense,
    *,
    chunk: tuple[int, int] = (4096, 16),
  ):
    config, params = load_export(path)
    if config.task != 'expportrait/transfer':
      raise UserError(f'{path} is an export of {config.task!r}, not of expportrait/transfer')
    check_trained_on(
      path, head, what='the expression transfer', otherwise='go without it (--transfer none)'
    )
    if config.model.get('expression') != head.expression_basis.shape[-1]:
      raise UserError(
        f'{path} was trained on {config.model.get("expression")} expression parameters, the head '
        f'{head.name!r} has {head.expression_basis.shape[-1]}'
      )
    if 'vertex_dim' not in config.model:
      raise UserError(f'{path} holds an expression transfer of an earlier version: train it again')
    order = mirrored_expressions(head.expression_names) if config.data.mirror else None
    self._start(
      build(config), params, head, dense, surface_of(head, dense), config.data.levels, chunk, order
    )

  @classmethod
  def of(
    cls,
    module: ExpressionTransfer,
    params: dict,
    head: HeadModel,
    dense: Dense,
    surface: Surface,
    *,
    levels: int | None = None,
    order: np.ndarray | None = None,
    chunk: tuple[int, int] = (4096, 16),
  ) -> 'Transfer':
    """The same from parameters in memory.

    Args:
      levels: of the mesh that they were trained on; None: of this one.
      order: [E] `mirrored_expressions`, to ask in the mirror too; None does not.
    """
    self = cls.__new__(cls)
    self._start(
      module, params, head, dense, surface, dense.levels if levels is None else levels, chunk, order
    )
    return self

  def _start(self, module, params, head, dense, surface, levels, chunk, order):
    self._order = order
    self.head, self.dense, self.surface, self._chunk = head, dense, surface, chunk
    self.module, self.params = module, params
    self._resample = (
      None if levels == dense.levels or dense.refined else Resample(head, dense, levels)
    )
    method = lambda name: jax.jit(
      functools.partial(module.apply, {'params': jax.device_put(params)}, method=name)
    )
    self._identity, self._vertices, self._drive, self._offsets = (
      method(name) for name in ('identity', 'vertices', 'drive', 'offsets')
    )

  def __call__(self, subject: Subject, expression: np.ndarray, jaw: np.ndarray) -> np.ndarray:
    full = np.zeros((len(expression), self.surface.count, 3), np.float32)
    full[:, self.surface.ids] = self.of_person(
      subject.shape, subject.static_offsets, expression, jaw
    )
    return full

  def of_person(
    self, shape: np.ndarray, static_offsets: np.ndarray, expression: np.ndarray, jaw: np.ndarray
  ) -> np.ndarray:
    """[T, P, 3] offsets of the moving skin.

    Relief and identity are measured on the mesh that the module was trained on.
    """
    seen, identity = self.measured(shape, static_offsets)
    return self.on_surface(seen, expression, jaw, identity=identity)

  def measured(
    self, shape: np.ndarray, static_offsets: np.ndarray
  ) -> tuple[Neutral, tuple[Neutral, Surface]]:
    """A person on this surface, and on the mesh that the module was trained on, with its surface."""
    seen = neutral_of(self.head, self.dense, self.surface, shape, static_offsets)
    if self._resample is None:
      return seen, (seen, self.surface)
    relief, trained = self._resample(shape, static_offsets)
    return dataclasses.replace(seen, relief=relief[self.surface.ids]), (
      trained,
      self._resample.surface,
    )

  @property
  def order(self) -> np.ndarray | None:
    """[E] which expression takes the place of each where the mirror is asked too; None: it is
    not."""
    return self._order

  def apply(self, step: str, *arrays) -> jax.Array:
    """One step of the module: 'identity', 'vertices', 'drive' or 'offsets' of
    `ExpressionTransfer`."""
    return getattr(self, f'_{step}')(*arrays)

  def on_surface(
    self,
    seen: Neutral,
    expression: np.ndarray,
    jaw: np.ndarray,
    *,
    identity: tuple[Neutral, Surface] | None = None,
  ) -> np.ndarray:
    """[T, P, 3] from what is seen of a person on this surface; `identity` is the same on another
    mesh, for the pooled code."""
    person, skin = identity or (seen, self.surface)
    plain = self._one_side(seen, self.surface.place, person, skin.place, skin.area, expression, jaw)
    if self._order is None:
      return plain
    across = np.array([-1, 1, 1], np.float32)
    turned = lambda one: dataclasses.replace(
      one, neutral=one.neutral * across, normals=one.normals * across
    )
    other = self._one_side(
      turned(seen),
      self.surface.place * across,
      turned(person),
      skin.place * across,
      skin.area,
      np.asarray(expression)[:, self._order],
      np.asarray(jaw) * -across,
    )
    return 0.5 * (plain + other * across)

  def _driven(self, expression, jaw) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `ExpressionTransfer.drive`, [1, T, 2, D] and at rest [1, 1, 2, D]."""

    def with_rest(*rows):
      found = np.asarray(self._drive(*(each[None] for each in rows)))[0]
      return np.stack([found[:-1], np.broadcast_to(found[-1:], found[:-1].shape)], 1)

    both = in_blocks(with_rest, *(np.asarray(a, np.float32) for a in (expression, jaw)))
    return both[None, :, 0], both[None, :1, 1]

  def _one_side(self, seen, place, person, pooled_place, area, expression, jaw):
    surface, (vertices, frames) = self.surface, self._chunk
    z = self._identity(person.neutral[None], person.relief[None], pooled_place, area)
    driven, rest = self._driven(expression, jaw)
    found = np.zeros((len(expression), len(surface.ids), 3), np.float32)
    for first in range(0, len(surface.ids), vertices):
      at = np.minimum(np.arange(first, first + vertices), len(surface.ids) - 1)
      part = [
        np.asarray(a)[None, at]
        for a in (seen.neutral, seen.normals, seen.relief, place, surface.mask)
      ]
      codes = self._vertices(*part, z)
      for start in range(0, len(expression), frames):
        rows = np.minimum(np.arange(start, start + frames), len(expression) - 1)
        offsets = np.asarray(
          self._offsets(driven[:, rows], rest, codes, part[1], part[2], part[4])
        )[0]
        stop, end = min(start + frames, len(expression)), min(first + vertices, len(surface.ids))
        found[start:stop, first:end] = offsets[: stop - start, : end - first]
    return found


def build(config) -> ExpressionTransfer:
  """The module of a config's `model` section (`expression` is the number of its inputs, not a
  field)."""
  return ExpressionTransfer(**{k: v for k, v in config.model.items() if k != 'expression'})
