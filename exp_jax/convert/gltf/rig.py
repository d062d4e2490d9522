"""A subject as what glTF can carry: a mesh at rest, joints, four weights a vertex, targets with a
curve each.

glTF poses a vertex as ours: targets are added at rest, then joints turn them. What it lacks is
carried by what it has:

  joints that an expression moves     translations of joints in every frame, so that each joint's matrix is ours exactly
  pose correctives, moving wrinkles   a field [N, 3] a frame; its principal components become targets, detail0, detail1, ...
  more than four weights a vertex     the four largest, made to sum to one

What stays is measured: `Rig.error` is the largest distance between a vertex posed by the numbers of
the file and ours.
Letters: N vertices, T frames, J joints, K targets.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from exp_jax.heads.densify import Dense, dense_vertices, lift
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.personalized import Subject, frame_offsets, frame_params
from exp_jax.heads.skinning import canonical_vertices, head_joints, joint_transforms, rest_joints

_USED = 1e-4  # of an expression: below, a clip does not use it
_WEIGHTS = 4
_DETAIL_ERROR = 1e-5  # metres that the components of the detail may leave


_posed, _moved, _joints = jax.jit(dense_vertices), jax.jit(joint_transforms), jax.jit(head_joints)


@jax.jit
def _corrective(head: HeadModel, dense: Dense, params: HeadParams) -> jax.Array:
  """[N, 3] what the pose alone adds at rest."""
  still = head.replace(shape_basis=0 * head.shape_basis, expression_basis=0 * head.expression_basis)
  return lift(dense, canonical_vertices(still, params) - head.template)


@dataclasses.dataclass(frozen=True)
class Rig:
  """What a file holds.

  Metres; glTF's own frame, which is the head's: x to the person's left, y up, z out of the face.

  Attributes:
    vertices: [N, 3] at rest, static offsets included.
    faces: [G, 3].
    targets: [K, N, 3] added at rest.
    target_names: of them; with _reverse where a curve also goes the other way.
    target_units: what a weight of 1 is in units of the expression (negative in reverse), or of the
      component's largest.
    curves: [T, K] in 0..1, the range of the sliders of Blender, which holds weights within it.
    joints: [N, 4] indices, and weights [N, 4] that sum to 1.
    joint_names: [J].
    parents: [J], -1 for the root.
    places: [J, 3] of the joints at rest.
    rotations: [T, J, 4] quaternions x, y, z, w against the parent.
    translations: [T, J, 3] against the parent; the root's against the scene.
    times: [T] seconds.
    origin: [3] what was subtracted from the head's own frame: the head joint in the first frame.
    detail: how many of the targets are components of detail.
    error: largest distance of a vertex from ours over all frames.
  """

  vertices: np.ndarray
  faces: np.ndarray
  targets: np.ndarray
  target_names: tuple[str, ...]
  target_units: tuple[float, ...]
  curves: np.ndarray
  joints: np.ndarray
  weights: np.ndarray
  joint_names: tuple[str, ...]
  parents: tuple[int, ...]
  places: np.ndarray
  rotations: np.ndarray
  translations: np.ndarray
  times: np.ndarray
  origin: np.ndarray
  detail: int
  error: float


def make_rig(
  head: HeadModel,
  dense: Dense,
  subject: Subject,
  *,
  all_expressions: bool = False,
  whole: bool = True,
  most_detail: int = 16,
) -> Rig:
  """The rig of a subject.

  Args:
    head: of the subject.
    dense: of the head, at the subject's number of subdivisions.
    subject: person and frames.
    all_expressions: a target for each expression of the head, not only for those that the clip
      uses.
    whole: all dense vertices; False: only the head model's own, with the offsets that they have.
    most_detail: components of pose correctives and dynamic offsets at most; 0 leaves them out.
  """
  count = len(dense.coarse_ids) if whole else len(head.template)
  faces = np.asarray(dense.faces if whole else head.faces)
  frames = range(subject.num_frames)
  neutral = HeadParams(
    jnp.asarray(subject.shape),
    jnp.zeros(head.expression_basis.shape[-1]),
    jnp.zeros((len(head.parents), 3)),
    jnp.zeros(3),
  )
  raised = lambda values: np.asarray(lift(dense, jnp.asarray(values)))[:count]
  vertices = raised(canonical_vertices(head, neutral)) + subject.static_offsets[:count]
  used = np.flatnonzero(all_expressions | (np.abs(subject.expression).max(0) > _USED))
  basis = raised(head.expression_basis[..., used]) if len(used) else np.zeros((count, 3, 0))
  detail, course = _components(_detail(head, dense, subject, count), most_detail)
  names = (*(head.expression_names[k] for k in used), *(f'detail{k}' for k in range(len(detail))))
  shapes, curves = (
    np.concatenate([np.moveaxis(basis, -1, 0), detail]),
    np.concatenate([subject.expression[:, used], course], 1),
  )
  targets, curves, names, units = _within_sliders(shapes, curves, names)
  joints, weights = _four(np.asarray(dense.weights)[:count])
  places, rotations, translations, origin = _skeleton(head, subject, neutral)
  rig = Rig(
    vertices=vertices.astype(np.float32),
    faces=faces,
    targets=targets,
    target_names=names,
    target_units=units,
    curves=curves,
    joints=joints,
    weights=weights,
    joint_names=head.joint_names,
    parents=head.parents,
    places=places,
    rotations=rotations,
    translations=translations,
    times=(subject.times - subject.times[0]).astype(np.float32),
    origin=origin,
    detail=sum(name.startswith('detail') for name in names),
    error=0.0,
  )
  static = jnp.asarray(subject.static_offsets)
  dynamic = lambda t: jnp.asarray(frame_offsets(subject, t))
  true = lambda t: (
    np.asarray(_posed(head, dense, frame_params(subject, t), static, dynamic(t)))[:count] - origin
  )
  wrong = [float(np.linalg.norm(posed_vertices(rig, t) - true(t), axis=1).max()) for t in frames]
  return dataclasses.replace(rig, error=max(wrong))


def posed_vertices(rig: Rig, frame: int) -> np.ndarray:
  """[N, 3] of one frame by the numbers of the file."""
  rest = rig.vertices.astype(np.float64) + np.tensordot(
    rig.curves[frame].astype(np.float64), rig.targets, 1
  )
  world = []
  for joint, parent in enumerate(rig.parents):
    local = np.eye(4)
    local[:3, :3], local[:3, 3] = (
      Rotation.from_quat(rig.rotations[frame, joint]).as_matrix(),
      rig.translations[frame, joint],
    )
    world.append(local if parent < 0 else world[parent] @ local)
  moved = np.stack([w[:3, 3] - w[:3, :3] @ place for w, place in zip(world, rig.places)])
  turned = np.stack([w[:3, :3] for w in world])
  blended = np.einsum('nk,nkab->nab', rig.weights, turned[rig.joints])
  return np.einsum('nab,nb->na', blended, rest) + np.einsum(
    'nk,nka->na', rig.weights, moved[rig.joints]
  )


def _detail(head: HeadModel, dense: Dense, subject: Subject, count: int) -> np.ndarray:
  """[T, N, 3] what is added at rest in each frame, beside shape and expression: dynamic offsets and
  pose correctives."""
  field = np.zeros((subject.num_frames, count, 3), np.float32)
  inside = subject.dynamic_vertices < count
  field[:, subject.dynamic_vertices[inside]] = subject.dynamic_offsets[:, inside]
  if head.pose_basis is None:
    return field
  for t in range(subject.num_frames):
    field[t] += np.asarray(_corrective(head, dense, frame_params(subject, t)))[:count]
  return field


def _components(field: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
  """Targets [K, N, 3] and curves [T, K] whose sum is `field` [T, N, 3], as few as leave no vertex
  farther than 10 micrometres."""
  flat = field.reshape(len(field), -1).astype(np.float64)
  if not most or not np.abs(flat).max() > 0:
    return np.zeros((0, *field.shape[1:])), np.zeros((len(field), 0))
  size, turn = np.linalg.eigh(flat @ flat.T)  # few frames, many vertices
  order = np.argsort(-size)
  for kept in range(1, min(most, len(flat)) + 1):
    course = turn[:, order[:kept]]
    shapes = course.T @ flat
    left = np.linalg.norm((flat - course @ shapes).reshape(-1, 3), axis=-1).max()
    if left < _DETAIL_ERROR:
      break
  scale = np.abs(course).max(0)  # curves within -1..1, as artists expect them
  return (shapes * scale[:, None]).reshape(kept, *field.shape[1:]), course / scale


def _within_sliders(shapes: np.ndarray, curves: np.ndarray, names: tuple[str, ...]):
  """Targets float32 [K', N, 3], curves [T, K'] in 0..1, names and units, of targets [K, N, 3] and
  curves [T, K] of any range."""
  parts = []
  for shape, curve, name in zip(shapes, curves.T, names):
    unit = max(1.0, float(np.abs(curve).max()))
    parts.append((unit * shape, np.maximum(curve, 0) / unit, name, unit))
    if curve.min() < 0:
      parts.append((-unit * shape, np.maximum(-curve, 0) / unit, f'{name}_reverse', -unit))
  if not parts:
    return shapes.astype(np.float32), curves.astype(np.float32), (), ()
  made, moved, named, units = zip(*parts)
  return np.stack(made).astype(np.float32), np.stack(moved, 1).astype(np.float32), named, units


def _four(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The largest four of [N, J] weights: joints uint16 [N, 4], weights float32 [N, 4] that sum
  to 1."""
  padded = np.pad(weights, ((0, 0), (0, max(0, _WEIGHTS - weights.shape[1]))))
  joints = np.argsort(-padded, 1)[:, :_WEIGHTS]
  kept = np.take_along_axis(padded, joints, 1)
  joints = np.where(kept > 0, joints, 0)
  return joints.astype(np.uint16), (kept / kept.sum(1, keepdims=True)).astype(np.float32)


def _skeleton(head: HeadModel, subject: Subject, neutral: HeadParams):
  """Joints at rest [J, 3], rotations [T, J, 4], translations [T, J, 3], and the origin [3]."""
  places = np.asarray(rest_joints(head, neutral), np.float64)
  frames = range(subject.num_frames)
  # [T, J, 4, 4]
  world = np.stack([np.asarray(_moved(head, frame_params(subject, t)), np.float64) for t in frames])
  stand = np.einsum('tjab,jb->tja', world[..., :3, :3], places) + world[..., :3, 3]
  origin = np.asarray(_joints(head, frame_params(subject, 0)), np.float64)[head.joint('head')]
  stand = stand - origin
  translations = stand.copy()
  for joint, parent in enumerate(head.parents):
    if parent >= 0:
      translations[:, joint] = np.einsum(
        'tba,tb->ta', world[:, parent, :3, :3], stand[:, joint] - stand[:, parent]
      )
  rotations = (
    Rotation.from_rotvec(subject.pose.reshape(-1, 3)).as_quat().reshape(*subject.pose.shape[:2], 4)
  )
  for t in range(1, len(rotations)):  # the short way round between frames
    rotations[t] *= np.where((rotations[t] * rotations[t - 1]).sum(-1, keepdims=True) < 0, -1, 1)
  return places, rotations, translations, origin
