"""SMPL-X and FLAME files of full size that show a person: the MakeHuman head (CC0) on other
triangles, in other bases.

No number of a licensed model is in them. Template, bases, joints and weights are MakeHuman's,
carried over by `resampled_surface`; identities and expressions are turned into principal
components, as in the originals, so that coefficients go either way and have no names. So the truth
is known: a point of the MakeHuman head is a point of the file.
Letters: V vertices of MakeHuman, N of the file, S its directions.
"""

import dataclasses

import numpy as np
import scipy.sparse

from exp_jax.convert.heads.registration import nearest_on_triangles, normals_of
from exp_jax.convert.heads.resampled_surface import Resampled, resampled
from exp_jax.heads.landmark_sets import IBUG_FROM_MEDIAPIPE
from exp_jax.heads.model import HeadModel

UP = 1.5  # metres that SMPL-X's head stands above its origin
_BALL = 546  # vertices of an eyeball in both models
_FLAME_VERTICES, _FLAME_FACES, _SMPLX_HEAD = 5023, 9976, 6500
_USUAL_ACTION = 0.3  # standard deviation of an action's strength
_SHOULDERS = {  # metres, joints that MakeHuman's head and shoulders lack
  'left_collar': (0.06, -0.15, -0.04),
  'right_collar': (-0.06, -0.15, -0.04),
  'left_shoulder': (0.18, -0.16, -0.05),
  'right_shoulder': (-0.18, -0.16, -0.05),
}
_JAW_OPEN = 0.35  # radians that the jaw's direction of a head without a jaw stands for


@dataclasses.dataclass(frozen=True)
class Person:
  """A person on other triangles, in the frame of MakeHuman, metres.

  Attributes:
    mesh: how its vertices follow from MakeHuman's.
    template: [N, 3].
    shapedirs: [N, 3, 400] 300 of identity, 100 of expression.
    weights: [N, J] of MakeHuman's joints.
    joints: [J, 3] of MakeHuman, for this person.
    landmarks: [478, 3] where MediaPipe's points are on MakeHuman's own surface.
  """

  mesh: Resampled
  template: np.ndarray
  shapedirs: np.ndarray
  weights: np.ndarray
  joints: np.ndarray
  landmarks: np.ndarray


def person(head: HeadModel, mesh: Resampled, *, seed: int, with_jaw: bool) -> Person:
  """Draws somebody; `with_jaw` False turns the opening of the jaw into a direction among the
  expressions."""
  rng, double = (
    np.random.default_rng(seed),
    lambda name: np.asarray(getattr(head, name), np.float64),
  )
  coefficients = 0.6 * rng.normal(size=head.shape_basis.shape[-1])
  template = double('template') + double('shape_basis') @ coefficients
  joints = double('joint_template') + double('joint_shape') @ coefficients
  weights, actions = double('weights'), _USUAL_ACTION * double('expression_basis')
  if not with_jaw:
    place = template - joints[head.joint('jaw')]
    opened = np.cross([_JAW_OPEN, 0.0, 0.0], place) * weights[:, [head.joint('jaw')]]
    actions = np.concatenate([actions, _USUAL_ACTION * opened[..., None]], -1)
  bases = [
    _components(mesh.mix, double('shape_basis'), 300, rng),
    _components(mesh.mix, actions, 100, rng),
  ]
  corners = np.asarray(head.faces)[np.asarray(head.landmark_faces)]
  return Person(
    mesh=mesh,
    template=mesh.mix @ template,
    shapedirs=np.concatenate(bases, -1),
    weights=mesh.mix @ weights,
    joints=joints,
    landmarks=np.einsum('kcd,kc->kd', template[corners], double('landmark_barycentric')),
  )


def _components(mix, basis, count, rng) -> np.ndarray:
  """[N, 3, count]: principal components of [V, 3, S] as the file has them, filled up with next to
  nothing."""
  left, sizes, _ = np.linalg.svd(basis.reshape(-1, basis.shape[-1]), full_matrices=False)
  moved = (left * sizes).reshape(basis.shape)[..., :count]
  moved = (mix @ moved.reshape(len(basis), -1)).reshape(mix.shape[0], 3, -1)
  rest = 1e-7 * rng.normal(size=(mix.shape[0], 3, count - moved.shape[-1]))
  return np.concatenate([moved, rest], -1)


def _regressor(template: np.ndarray, among: list[np.ndarray], joints: np.ndarray) -> np.ndarray:
  """[J, N] the smallest weights on the vertices `among` each joint that sum to 1 and give the
  joint."""
  found = np.zeros((len(joints), len(template)))
  for row, ids, joint in zip(found, among, joints):
    system = np.concatenate([template[ids].T, np.ones((1, len(ids)))])
    row[ids] = np.linalg.lstsq(system, np.append(joint, 1.0), rcond=None)[0]
  return found


def _correctives(template: np.ndarray, count: int, rng) -> np.ndarray:
  """[N, 3, count] metres: smooth waves of a tenth of a millimetre or so; what moves with the pose
  must not be nothing."""
  waves = rng.normal(size=(3, 8)) * 25
  field = np.sin(template @ waves + rng.uniform(0, 6, 8))
  return 1e-4 * np.einsum('nw,wcp->ncp', field, rng.normal(size=(8, 3, count)))


def _embedded(who: Person, ids) -> tuple[np.ndarray, np.ndarray]:
  """Faces [K] and weights [K, 3] nearest to MediaPipe's points `ids`, on the skin of the file."""
  skin = np.flatnonzero(who.mesh.part[who.mesh.faces].max(1) == 0)
  normals = normals_of(who.template, who.mesh.faces[skin])
  points = who.landmarks[list(ids)]
  nearest = np.linalg.norm(who.template[None] - points[:, None], axis=-1).argmin(1)
  faces, shares, _ = nearest_on_triangles(
    points, normals[nearest], who.template, who.mesh.faces[skin]
  )
  return skin[faces], shares


def _side_files(who: Person) -> tuple[tuple, tuple]:
  """The 51 inner iBUG points, and the outline's 17 as rows of a contour that never slides."""
  still = _embedded(who, IBUG_FROM_MEDIAPIPE[17:])
  ids, shares = _embedded(who, IBUG_FROM_MEDIAPIPE[:17])
  return still, (np.tile(ids, (79, 1)), np.tile(shares, (79, 1, 1)))


def _tables(parents, count: int) -> np.ndarray:
  return np.stack([np.array(parents, np.int64) % 2**32, np.arange(count)]).astype(np.uint32)


def flame_person(
  head: HeadModel, parents: tuple[int, ...], *, seed: int = 1, with_jaw: bool = True
):
  """FLAME with a face.

  Args:
    head: the MakeHuman head.
    parents: of neck, head, jaw (unless without), left eye, right eye.
    seed: of person and triangles.
    with_jaw: five joints, or four and a jaw that opens by an expression.

  Returns:
    entries of the model file; static embedding; dynamic embedding; masks (name -> vertex ids); the
    `Person`.
  """
  mesh = resampled(
    head, skin=_FLAME_VERTICES - 2 * _BALL, ball=_BALL, rim=62, without=('clothing',), seed=seed
  )
  assert len(mesh.faces) == _FLAME_FACES, len(mesh.faces)
  who = person(head, mesh, seed=seed, with_jaw=with_jaw)
  column = {name: who.weights[:, k].copy() for k, name in enumerate(head.joint_names)}
  column['neck'] += column.pop('spine')
  if not with_jaw:
    column['head'] += column.pop('jaw')
  names = [name for name in ('neck', 'head', 'jaw', 'left_eye', 'right_eye') if name in column]
  joints = np.stack([who.joints[head.joint(name)] for name in names])
  (ids, shares), (rows, row_shares) = _side_files(who)
  model = _model(who, np.stack([column[name] for name in names], 1), joints, parents, seed)
  model['J_regressor'] = scipy.sparse.csc_matrix(model['J_regressor'])
  masks = _masks(head, mesh)
  return (
    model,
    {'lmk_face_idx': ids, 'lmk_b_coords': shares},
    {'lmk_face_idx': rows, 'lmk_b_coords': row_shares},
    masks,
    who,
  )


def _model(who: Person, weights, joints, parents, seed) -> dict[str, np.ndarray]:
  """The entries that both files share, of the head alone."""
  among = [np.flatnonzero(w > 0.3 * w.max()) for w in weights.T]
  return {
    'v_template': who.template.astype(np.float32),
    'f': who.mesh.faces.astype(np.uint32),
    'shapedirs': who.shapedirs.astype(np.float32),
    'weights': weights / weights.sum(1, keepdims=True),
    'posedirs': _correctives(
      who.template, 9 * (len(parents) - 1), np.random.default_rng(seed)
    ).astype(np.float32),
    'J_regressor': _regressor(who.template, among, joints),
    'kintree_table': _tables(parents, len(parents)),
  }


def _masks(head: HeadModel, mesh: Resampled) -> dict[str, np.ndarray]:
  of = lambda name: mesh.mix @ np.asarray(head.regions[name], np.float64) > 0.5
  left = mesh.mix @ np.asarray(head.template, np.float64)[:, 0] > 0
  skin = mesh.part == 0
  found = {
    'face': of('face') & skin,
    'scalp': of('scalp') & skin,
    'neck': of('neck') & skin,
    'lips': of('lips') & skin,
    'left_ear': of('ears') & left,
    'right_ear': of('ears') & ~left,
    'left_eyeball': mesh.part == 1,
    'right_eyeball': mesh.part == 2,
  }
  return {name: np.flatnonzero(mask) for name, mask in found.items()}


def smplx_person(
  head: HeadModel,
  body: dict[str, np.ndarray],
  names: tuple[str, ...],
  owner: np.ndarray,
  *,
  seed: int = 0,
):
  """SMPL-X with a face: head and shoulders of a person, everything else as `body` has it.

  Args:
    head: the MakeHuman head.
    body: entries of a file of full size that has no face.
    names: of its joints.
    owner: [N] the joint of each vertex of `body`.
    seed: of person and triangles.

  Returns:
    entries of the file, and the `Person`.
  """
  total, up = len(body['v_template']), np.array([0, UP, 0])
  mesh = resampled(head, skin=_SMPLX_HEAD - 2 * _BALL, ball=_BALL, seed=seed)
  who = person(head, mesh, seed=seed, with_jaw=True)
  who = dataclasses.replace(
    who, template=who.template + up, joints=who.joints + up, landmarks=who.landmarks + up
  )
  column = {name: names.index(name) for name in head.joint_names}
  own = len(who.template)
  weights = np.zeros((own, len(names)))
  weights[:, list(column.values())] = who.weights / who.weights.sum(1, keepdims=True)
  place = dict(zip(head.joint_names, who.joints)) | {
    name: up + at for name, at in _SHOULDERS.items()
  }
  spine = np.flatnonzero(who.weights[:, 0] > 0.3)
  among = [
    np.flatnonzero(weights[:, column[name]] > 0.3) if name in column else spine for name in place
  ]
  # where nobody looks
  limbs = np.resize(
    np.flatnonzero(~np.isin(owner, [names.index(name) for name in place])), total - own
  )
  regressor = np.zeros((len(names), total))
  regressor[[names.index(name) for name in place], :own] = _regressor(
    who.template, among, np.stack(list(place.values()))
  )
  for k in set(range(len(names))) - {names.index(name) for name in place}:
    regressor[k, own:] = (owner[limbs] == k) / max((owner[limbs] == k).sum(), 1)
  rng = np.random.default_rng(seed)
  corners = own + rng.integers(0, len(limbs), (len(body['f']) - len(mesh.faces), 3))
  grown = lambda mine, key: np.concatenate([mine.astype(body[key].dtype), body[key][limbs]])
  (ids, shares), (rows, row_shares) = _side_files(who)
  return body | {
    'v_template': grown(who.template, 'v_template'),
    'f': np.concatenate([mesh.faces, corners]).astype(np.uint32),
    'shapedirs': grown(who.shapedirs, 'shapedirs'),
    'weights': grown(weights, 'weights'),
    'J_regressor': regressor,
    'posedirs': grown(_correctives(who.template, body['posedirs'].shape[-1], rng), 'posedirs'),
    'lmk_faces_idx': ids,
    'lmk_bary_coords': shares,
    'dynamic_lmk_faces_idx': rows,
    'dynamic_lmk_bary_coords': row_shares,
  }, who
