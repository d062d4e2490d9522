"""What the SMPL-X and FLAME converters share: checked arrays -> head and shoulders -> HeadModel.

The cut is exact: joints are regressed from the whole mesh first, skinning weights of joints that
are left
out go to their nearest kept ancestor, and pose correctives of joints that stay at rest vanish. So
the
vertices equal those of the whole model with all other joints at rest and the root turning about its
joint.
"""

import numpy as np

from exp_jax.errors import UserError
from exp_jax.heads.model import HeadModel, make_head
from exp_jax.heads.regions import feather, polyline_distance, smooth_step


def numbers(data: dict, name: str, ndim: int, source) -> np.ndarray:
  """One array of the file, float64 or integer. Raises UserError if it is missing or not one."""
  value = data.get(name)
  if value is None:
    raise UserError(f'{source}: the entry {name!r} is missing; is it the model file?')
  try:
    value = np.asarray(value)
    value = value.astype(np.int64 if value.dtype.kind in 'iu' else np.float64)
  except (TypeError, ValueError):
    raise UserError(f'{source}: {name} is not an array of numbers') from None
  if value.ndim != ndim or not np.isfinite(value).all():
    raise UserError(
      f'{source}: {name} has shape {value.shape} or holds NaN; {ndim} axes were expected'
    )
  return value


def convert(
  data: dict,
  *,
  joints: dict[int, str],
  shape: slice,
  expression: slice,
  source,
  name: str,
  license: str,
  landmarks: tuple | None = None,
  cut: bool = True,
) -> HeadModel:
  """Makes a head of a whole model.

  Args:
    data: v_template [V, 3], f [F, 3], shapedirs [V, 3, D], posedirs [V, 3, 9 (J - 1)], weights [V,
    J],
      J_regressor [J, V], kintree_table [2, J].
    joints: index in the file -> our name, parents first, the new root first of all.
    shape, expression: columns of shapedirs.
    landmarks: names, faces [K] and barycentric [K, 3] on the whole mesh.
    cut: keep head and shoulders only.

  Raises:
    UserError: arrays are missing or do not fit together.
  """
  get = lambda key, ndim: numbers(data, key, ndim, source)
  template, faces, basis = get('v_template', 2), get('f', 2), get('shapedirs', 3)
  weights, correctives = get('weights', 2), get('posedirs', 3)
  regressor, parents = get('J_regressor', 2), get('kintree_table', 2)[0].copy()
  count, total = template.shape[0], weights.shape[1]
  fits = (
    template.shape == (count, 3)
    and basis.shape[:2] == (count, 3)
    and weights.shape == (count, total)
    and regressor.shape == (total, count)
    and len(parents) == total
    and faces.shape[1:] == (3,)
    and correctives.shape == (count, 3, 9 * (total - 1))
    and 0 <= faces.min()
    and faces.max() < count
    and max(joints) < total
  )
  if not fits:
    raise UserError(
      f'{source}: the arrays do not fit together (template {template.shape}, shapedirs '
      f'{basis.shape}, posedirs {correctives.shape}, weights {weights.shape}, J_regressor '
      f'{regressor.shape})'
    )
  parents[(parents < 0) | (parents >= total)] = -1  # the root is stored as 2^32 - 1
  order = list(joints)

  def kept_ancestor(joint):
    for _ in range(total):
      if joint in joints or joint < 0:
        return joint
      joint = parents[joint]
    raise UserError(f'{source}: the joints form a ring')

  owner = [max(kept_ancestor(j), -1) for j in range(total)]
  collapsed = np.zeros((count, len(order)))
  for joint in range(total):
    target = order.index(owner[joint]) if owner[joint] in joints else 0
    collapsed[:, target] += weights[:, joint]
  above = [kept_ancestor(parents[j]) for j in order]
  rest = regressor @ template
  basis_of = lambda part: np.einsum('jv,vcs->jcs', regressor, basis[:, :, part])
  features = np.concatenate([np.arange(9) + 9 * (j - 1) for j in order[1:]])

  kept = _head_and_shoulders(template, faces, weights, rest, joints) if cut else np.arange(count)
  new_id = np.full(count, -1)
  new_id[kept] = np.arange(len(kept))
  kept_faces = np.flatnonzero((new_id[faces] >= 0).all(1))
  names, face_ids, shares = (
    ((), np.zeros(0, int), np.zeros((0, 3))) if landmarks is None else landmarks
  )
  if len(face_ids) and not (0 <= face_ids.min() and face_ids.max() < len(faces)):
    raise UserError(f'{source}: landmarks lie on faces that do not exist')
  inside = np.isin(face_ids, kept_faces)
  small = new_id[faces[kept_faces]]
  points = np.einsum('kcd,kc->kd', template[faces[face_ids]], shares)
  local = {name: order.index(j) for j, name in joints.items()}
  centre = rest[order]
  return make_head(
    {
      'template': template[kept],
      'faces': small,
      'shape_basis': basis[kept][:, :, shape],
      'expression_basis': basis[kept][:, :, expression],
      'pose_basis': correctives[kept][:, :, features],
      'joint_template': centre,
      'joint_shape': basis_of(shape)[order],
      'joint_expression': basis_of(expression)[order],
      'weights': collapsed[kept],
      'landmark_faces': np.searchsorted(kept_faces, face_ids[inside]),
      'landmark_barycentric': shares[inside],
    },
    guess_regions(template[kept], small, collapsed[kept], centre, local, dict(zip(names, points))),
    parents=tuple(order.index(a) if a in joints else -1 for a in above),
    name=name,
    license=license,
    source=str(source),
    joint_names=tuple(joints.values()),
    shape_names=tuple(f'shape{k}' for k in range(basis[:, :, shape].shape[2])),
    expression_names=tuple(f'expression{k}' for k in range(basis[:, :, expression].shape[2])),
    landmark_names=tuple(n for n, i in zip(names, inside) if i),
  )


def _head_and_shoulders(template, faces, weights, rest, joints) -> np.ndarray:
  """Vertices that follow the kept joints, above 15 cm below the collars and between the arms."""
  by_name = {name: rest[j] for j, name in joints.items()}
  near = weights[:, list(joints)].sum(1) > 0.5
  if 'left_collar' in by_name:
    near &= template[:, 1] > by_name['left_collar'][1] - 0.15
    near &= np.abs(template[:, 0]) < abs(by_name['left_shoulder'][0]) + 0.06
  return np.unique(faces[near[faces].all(1)])


def guess_regions(vertices, faces, weights, joints, local, landmarks) -> dict[str, np.ndarray]:
  """Region masks from joints, and from the 51 inner landmarks (iBUG 17-67) where they are known."""
  x, y, z = vertices.T
  eye = (joints[local['left_eye']] + joints[local['right_eye']]) / 2
  balls = weights[:, local['left_eye']] + weights[:, local['right_eye']] > 0.5
  skin = (~balls).astype(np.float64)
  top, head, neck = y.max(), joints[local['head']], joints[local['neck']]
  radius = max(top - eye[1], 0.05)
  front = smooth_step(z, eye[2] - 0.75 * radius, eye[2] - 0.45 * radius)
  scalp = smooth_step(y, eye[1] + 0.55 * radius, eye[1] + 0.7 * radius)
  back = smooth_step(z, eye[2] - 0.8 * radius, eye[2] - 1.1 * radius)
  below = eye[1] - 1.1 * radius
  masks = {
    'face': skin * front * (1 - scalp) * smooth_step(y, below - 0.01, below + 0.01),
    'scalp': skin * np.maximum(scalp, back * smooth_step(y, head[1] - 0.02, head[1] + 0.02)),
    'ears': skin
    * np.exp(
      -0.5
      * (np.linalg.norm(np.stack([0 * x, y - eye[1] + 0.02, z - head[2]], 1), axis=1) / 0.02) ** 2
    )
    * smooth_step(
      np.abs(x), np.abs(x[y > head[1]]).max() * 0.8, np.abs(x[y > head[1]]).max() * 0.9
    ),
    'clothing': skin * smooth_step(y, neck[1] + 0.0, neck[1] - 0.02),
  }
  masks['neck'] = (
    skin
    * (1 - masks['clothing'])
    * smooth_step(y, head[1] - 0.02, head[1] - 0.05)
    * (1 - masks['face'])
  )
  groups = {
    'lips': (48, 60, 0.004, True),
    'brows': (17, 27, 0.005, False),
    'lids': (36, 48, 0.004, True),
  }
  for name, (first, last, width, _) in groups.items():
    points = [landmarks[str(k)] for k in range(first, last) if str(k) in landmarks]
    if len(points) == last - first:
      halves = np.split(np.stack(points), 1 if name == 'lips' else 2)
      ring = [np.concatenate([half, half[:1]]) if name != 'brows' else half for half in halves]
      distance = np.min([polyline_distance(vertices, line) for line in ring], 0)
      masks[name] = skin * smooth_step(distance, 2 * width, width)
  masks = {name: np.clip(feather(mask, faces, rounds=1), 0, 1) for name, mask in masks.items()}
  return masks | {'eyeballs': balls.astype(np.float64)}
