"""Moves a person and a performance from one head model to another by fitting vertices, never by
copying numbers.

  python -m exp_jax.convert.transfer_coefficients smplx.npz flame.npz params.npz -o out.npz \\
    --vertex-ids SMPL-X__FLAME_vertex_ids.npy
  python -m exp_jax.convert.transfer_coefficients makehuman ict.npz params.npz -o out.npz      # paired by shape

params.npz holds shape [S], expression [T, E], pose [T, J, 3] and translation [T, 3] of the first
head; out.npz the same of the second, and the residual of each frame. First the shape is solved so
that the neutral heads agree; what remains between them (no basis is another's) is carried along as
an offset, so that a neutral face stays neutral; then each frame's expression, pose and translation.
Gauss-Newton in float64 on

  mean_k w_k |target_k - source_k|^2 [mm^2]  +  prior |coefficients|^2  +  (1e-3 |rotations| per
  radian)^2

Eyes of which no vertex is paired take the source's rotation by name: a turn about the eye's own
centre.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.flatten_util import ravel_pytree
from scipy.spatial.transform import Rotation

from exp_jax.convert.heads.registration import Correspondence, from_vertex_ids, register
from exp_jax.convert.smplx import vertex_ids
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files.npz import read_npz, write_npz
from exp_jax.geometry import similarity
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadModel, HeadParams, in_precision, neutral_params
from exp_jax.heads.skinning import head_joints, head_vertices, joint_transforms

PRIOR = (
  0.02  # square millimetres per unit of a coefficient squared, where pairs were found by shape
)
_EXACT_PRIOR = 1e-9  # where they are the same vertices
_STEPS = 7
_ROTATION_PRIOR = 1e-6  # square millimetres per radian squared: only what no vertex tells


def transfer(
  source: HeadModel,
  target: HeadModel,
  pairs: Correspondence,
  params: HeadParams,
  *,
  prior: float | None = None,
  progress: bool = False,
) -> tuple[HeadParams, dict[str, np.ndarray]]:
  """The target's parameters for frames of one person.

  Args:
    params: shape [S], expression [T, E], pose [T, J, 3], translation [T, 3] of the source.
    prior: see the top; None for a small one, tiny where pairs are exact.

  Returns:
    Parameters of the target in the same form, float32 numpy; and root-mean-square distances over
    the pairs in millimetres: 'before' (the target's own neutral head laid on the source's),
      'neutral' (with its shape solved), 'offset' (what
    the shape could not say and is carried along), 'frames' [T] (what remains of each frame).

  Raises:
    UserError: parameters that do not fit the source.
  """
  frames = _checked(source, params)
  prior = (_EXACT_PRIOR if pairs.exact else PRIOR) if prior is None else prior
  with jax.enable_x64(True), jax.default_matmul_precision('highest'):
    return _transfer(source, target, pairs, params, frames, prior, progress)


def _transfer(source, target, pairs, params, frames, prior, progress):
  whole = in_precision(source, np.float64)
  near, pairs_ids, shares = _near(target, pairs)
  weights = jnp.asarray(pairs.weights / pairs.weights.sum())
  double = lambda x: jnp.asarray(np.asarray(x), jnp.float64)
  on_source = functools.partial(
    _on_source, ids=jnp.asarray(pairs.source_ids), shares=jnp.asarray(pairs.source_shares)
  )
  solver = functools.partial(_solve, near, pairs_ids, shares, weights)
  zero = neutral_params(near)
  unseen = _unseen_eyes(near, pairs_ids)
  turnable = jnp.array([name not in unseen for name in near.joint_names])

  # the person: neutral head against neutral head
  neutral = neutral_params(whole).replace(shape=double(params.shape))
  points, _ = on_source(whole, neutral)
  start = _laid_on(near, pairs_ids, shares, weights, zero, points)
  before = _rms(near, pairs_ids, shares, weights, start, points)
  fitted = solver(start, points, prior, turnable, names=('shape', 'pose', 'translation'))
  neutral_rms = _rms(near, pairs_ids, shares, weights, fitted, points)
  # what stays between the neutral heads, in the source's rest frame
  offset = points - _points(near, pairs_ids, shares, fitted)
  if pairs.exact:
    offset = 0 * offset

  made, remain = [], []
  index = {name: k for k, name in enumerate(source.joint_names)}
  for t in tqdm.trange(frames, desc='frames', unit='frame', disable=not progress):
    frame = HeadParams(
      *(
        double(x)
        for x in (params.shape, params.expression[t], params.pose[t], params.translation[t])
      )
    )
    points, turns = on_source(whole, frame)
    points = points - jnp.einsum('kab,kb->ka', turns, offset)
    start = _laid_on(near, pairs_ids, shares, weights, zero.replace(shape=fitted.shape), points)
    for k, name in enumerate(near.joint_names):
      if name in unseen and name in index:
        start = start.replace(pose=start.pose.at[k].set(frame.pose[index[name]]))
    found = solver(start, points, prior, turnable, names=('expression', 'pose', 'translation'))
    made.append(jax.tree.map(lambda x: np.asarray(x, np.float32), found))
    remain.append(float(_rms(near, pairs_ids, shares, weights, found, points)))
  stack = lambda name: np.stack([getattr(p, name) for p in made])
  result = HeadParams(
    shape=np.asarray(fitted.shape, np.float32),
    expression=stack('expression'),
    pose=stack('pose'),
    translation=stack('translation'),
  )
  offset_rms = float(jnp.sqrt(jnp.sum(weights * jnp.sum(offset**2, -1)))) * 1e3
  return result, {
    'before': np.array(before),
    'neutral': np.array(neutral_rms),
    'offset': np.array(offset_rms),
    'frames': np.array(remain),
  }


def _checked(source: HeadModel, params: HeadParams) -> int:
  """Number of frames, once every array fits the source."""
  frames = np.shape(params.translation)[0] if np.ndim(params.translation) == 2 else 0
  zero = neutral_params(source)
  expected = {
    'shape': zero.shape.shape,
    'expression': (frames, *zero.expression.shape),
    'pose': (frames, *zero.pose.shape),
    'translation': (frames, 3),
  }
  for name, shape in expected.items():
    value = np.asarray(getattr(params, name))
    if (
      value.shape != shape
      or not frames
      or value.dtype.kind not in 'fiu'
      or not np.isfinite(value).all()
    ):
      raise UserError(
        f'{name} has shape {value.shape} or holds no finite numbers; {source.name} takes {shape}'
      )
  return frames


def _near(target: HeadModel, pairs: Correspondence):
  """The target in float64, cut down to the vertices that are paired; their new ids [K, 3] and
  shares [K, 3]."""
  kept, local = np.unique(pairs.target_ids, return_inverse=True)
  head = in_precision(target, np.float64)
  head = head.replace(
    template=head.template[kept],
    shape_basis=head.shape_basis[kept],
    expression_basis=head.expression_basis[kept],
    pose_basis=None if head.pose_basis is None else head.pose_basis[kept],
    weights=head.weights[kept],
    uv=None,
    regions={},
    faces=jnp.zeros((0, 3), jnp.int32),
    contour_faces=None,
    contour_barycentric=None,
  )
  return head, jnp.asarray(local.reshape(-1, 3)), jnp.asarray(pairs.target_shares)


def _unseen_eyes(near, ids) -> set[str]:
  """Eye joints that no paired vertex follows."""
  follows = np.asarray(near.weights)[np.asarray(ids)].max((0, 1))
  return {
    n for k, n in enumerate(near.joint_names) if n in ('left_eye', 'right_eye') and follows[k] < 0.5
  }


@jax.jit
def _on_source(head, params, *, ids, shares):
  """The source's points [K, 3] in a frame, and the turn [K, 3, 3] of each from rest."""
  transforms = joint_transforms(head, params)
  points = jnp.einsum('kcd,kc->kd', head_vertices(head, params)[ids], shares)
  weights = jnp.einsum('kcj,kc->kj', head.weights[ids], shares)
  return points, jnp.einsum('kj,jab->kab', weights, transforms[:, :3, :3])


@jax.jit
def _points(near, ids, shares, params):
  return jnp.einsum('kcd,kc->kd', head_vertices(near, params)[ids], shares)


_joints = jax.jit(head_joints)


def _rms(near, ids, shares, weights, params, points) -> float:
  """Millimetres."""
  square = np.sum((np.asarray(_points(near, ids, shares, params)) - np.asarray(points)) ** 2, -1)
  return float(1e3 * np.sqrt(np.sum(np.asarray(weights) * square)))


def _laid_on(near, ids, shares, weights, params, points) -> HeadParams:
  """`params` with the root turned and moved so that the target at rest lies on the points as a
  rigid body."""
  rest = _points(near, ids, shares, params)
  _, rotation, _ = similarity(*(np.asarray(x) for x in (rest, points, weights)))
  share = np.asarray(weights)[:, None]
  pivot = np.asarray(_joints(near, params))[0]
  shift = (
    (share * np.asarray(points)).sum(0)
    - pivot
    - rotation @ ((share * np.asarray(rest)).sum(0) - pivot)
  )
  pose = params.pose.at[0].set(jnp.asarray(Rotation.from_matrix(rotation).as_rotvec()))
  return params.replace(pose=pose, translation=jnp.asarray(shift))


@functools.partial(jax.jit, static_argnames='names')
def _solve(near, ids, shares, weights, start, points, prior, turnable, *, names) -> HeadParams:
  """Gauss-Newton from `start` over the parameters called `names`; `turnable` [J] are joints that
  may turn."""
  flat, unravel = ravel_pytree({name: getattr(start, name) for name in names})
  each = {'shape': prior, 'expression': prior, 'pose': _ROTATION_PRIOR, 'translation': 0.0}
  cost, _ = ravel_pytree({name: jnp.full_like(getattr(start, name), each[name]) for name in names})
  may_move = {'pose': jnp.broadcast_to(turnable[:, None], start.pose.shape).astype(flat.dtype)}
  free, _ = ravel_pytree(
    {name: may_move.get(name, jnp.ones_like(getattr(start, name))) for name in names}
  )
  root = 1e3 * jnp.sqrt(weights)[:, None]  # the residual is in millimetres

  def residual(x):
    return (root * (_points(near, ids, shares, start.replace(**unravel(x))) - points)).reshape(-1)

  def step(x, _):
    slope = jax.jacfwd(residual)(x) * free
    system = slope.T @ slope + jnp.diag(cost + 1e-9 + (1 - free))
    change = jnp.linalg.solve(system, slope.T @ residual(x) + cost * free * x)
    return x - free * change, None

  return start.replace(**unravel(jax.lax.scan(step, flat, None, length=_STEPS)[0]))


def read_params(path) -> HeadParams:
  """shape, expression, pose and translation of an npz file. Raises UserError if one is missing."""
  found = read_npz(path, ('shape', 'expression', 'pose', 'translation'))
  for name in ('shape', 'expression', 'pose', 'translation'):
    if name not in found:
      raise UserError(
        f'{path}: the entry {name!r} is missing; shape, expression, pose and translation are needed'
      )
  return HeadParams(**found)


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add('source', help='head npz the parameters belong to, or makehuman, procedural')
  add('target', help='head npz to fit')
  add('params', help='npz with shape [S], expression [T, E], pose [T, J, 3], translation [T, 3]')
  add('-o', '--output', required=True, help='npz to write')
  add(
    '--vertex-ids',
    help='npy: for each vertex of the target the vertex of the source (heads that were not cut)',
  )
  add(
    '--prior',
    type=float,
    help=f'cost of coefficients (default {PRIOR}, or {_EXACT_PRIOR} with --vertex-ids)',
  )
  options = parser.parse_args(argv)
  source, target, params = (
    load_head(options.source),
    load_head(options.target),
    read_params(options.params),
  )
  _checked(source, params)
  if options.vertex_ids:
    ids = vertex_ids(options.vertex_ids, len(source.template))
    if len(ids) != len(target.template):
      raise UserError(
        f'{options.vertex_ids} has {len(ids)} ids, {options.target} has {len(target.template)} '
        'vertices'
      )
    pairs = from_vertex_ids(ids, np.arange(len(ids)))
  else:
    pairs = register(source, target)
  made, residual = transfer(source, target, pairs, params, prior=options.prior, progress=True)
  arrays = {name: getattr(made, name) for name in ('shape', 'expression', 'pose', 'translation')}
  write_npz(
    options.output, arrays | {f'residual_mm_{name}': value for name, value in residual.items()}
  )
  print(
    f'{options.output}: {len(pairs.weights)} pairs; neutral heads {residual["before"]:.2f} mm '
    'apart, '
    f'{residual["neutral"]:.2f} mm with the shape solved; frames {residual["frames"].mean():.2f} '
    'mm on average, '
    f'{residual["frames"].max():.2f} at worst'
  )


if __name__ == '__main__':
  main()
