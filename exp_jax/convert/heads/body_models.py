"""What the SMPL-X and FLAME converters share: checked arrays -> head and shoulders -> HeadModel.

The cut is exact: joints are regressed from the whole mesh first, skinning weights of joints that
are left out go to their nearest kept ancestor, and pose correctives of joints that stay at rest
vanish. So the vertices equal those of the whole model with all other joints at rest and the root
turning about its joint.
"""

import dataclasses

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.npz import read_npz
from exp_jax.heads.model import CONTOUR_ROWS, HeadModel, make_head
from exp_jax.heads.regions import feather, polyline_distance, smooth_step


def numbers(data: dict, name: str, ndim: int, source, *, integer: bool = False) -> np.ndarray:
  """One array of the file, float64 or int64.

  Raises UserError if it is missing, no array of numbers, or not finite.
  """
  value = data.get(name)
  if value is None:
    raise UserError(f'{source}: the entry {name!r} is missing; is it the right file?')
  if not isinstance(value, np.ndarray) or value.dtype.kind not in 'iufb':
    raise UserError(f'{source}: {name} is not an array of numbers')
  value = value.astype(np.int64 if value.dtype.kind in 'iu' else np.float64)
  if value.ndim != ndim or not value.size or not np.isfinite(value).all():
    raise UserError(
      f'{source}: {name} has shape {value.shape}, is empty or holds NaN; {ndim} axes were expected'
    )
  if integer and (value != np.round(value)).any():
    raise UserError(f'{source}: {name} holds fractions, whole numbers were expected')
  return value.astype(np.int64) if integer else value


def embedding(
  data: dict, faces: str, shares: str, ndim: int, source
) -> tuple[np.ndarray, np.ndarray]:
  """Points on a mesh: face ids with `ndim` axes, and barycentric weights with one more, of
  length 3."""
  ids, weights = (
    numbers(data, faces, ndim, source, integer=True),
    numbers(data, shares, ndim + 1, source),
  )
  if weights.shape != (*ids.shape, 3):
    raise UserError(f'{source}: {shares} has shape {weights.shape}, {(*ids.shape, 3)} was expected')
  if np.abs(weights.sum(-1) - 1).max() > 1e-2:
    raise UserError(f'{source}: {shares} does not sum to 1')
  return ids, weights


def ibug_landmarks(data: dict, faces: str, shares: str, source) -> tuple:
  """The 51 inner points of the iBUG 68 that FLAME and SMPL-X files carry: names 17.., faces [K],
  weights [K, 3]."""
  ids, weights = embedding(data, faces, shares, 1, source)
  if len(ids) > 51:
    raise UserError(f'{source}: {faces} has {len(ids)} points, iBUG has 51 inside the face')
  return tuple(str(k) for k in range(17, 17 + len(ids))), ids, weights


def mediapipe_landmarks(path) -> tuple:
  """mediapipe_landmark_embedding.npz: names are MediaPipe's indices; faces [K], weights [K, 3]."""
  data = read_npz(path, ('lmk_face_idx', 'lmk_b_coords', 'landmark_indices'))
  ids, weights = embedding(data, 'lmk_face_idx', 'lmk_b_coords', 1, path)
  names = numbers(data, 'landmark_indices', 1, path, integer=True)
  if (
    len(names) != len(ids)
    or not 0 <= names.min() <= names.max() < 478
    or len(set(names)) < len(names)
  ):
    raise UserError(f'{path}: landmark_indices are not one of 0..477 for each point')
  return tuple(str(k) for k in names), ids, weights


def contour_rows(ids: np.ndarray, weights: np.ndarray, source) -> tuple[np.ndarray, np.ndarray]:
  """The dynamic contour of FLAME and SMPL-X in the order of yaw, -39 to 39 degrees.

  The files hold 0..39 degrees in rows 0..39 and -1..-39 in rows 40..78.
  """
  if len(ids) != CONTOUR_ROWS:
    raise UserError(f'{source}: the contour has {len(ids)} rows, {CONTOUR_ROWS} were expected')
  order = np.concatenate([np.arange(78, 39, -1), np.arange(40)])
  return ids[order], weights[order]


def convert(
  data: dict,
  *,
  joints: dict[int, str],
  shape: slice,
  expression: slice,
  source,
  name: str,
  license: str,
  origin: str = '',
  landmarks: tuple | None = None,
  region_landmarks: tuple | None = None,
  contour: tuple | None = None,
  contour_joint: str = 'neck',
  masks: dict[str, np.ndarray] | None = None,
  cut: bool = True,
  dtype=np.float32,
) -> HeadModel:
  """Makes a head of a whole model.

  Args:
    data: v_template [V, 3], f [F, 3], shapedirs [V, 3, D], posedirs [V, 3, 9 (J - 1)], weights [V,
      J], J_regressor [J, V], kintree_table [2, J].
    joints: index in the file -> our name, parents first, the new root first of all.
    shape: columns of shapedirs.
    expression: columns of shapedirs.
    source: names the file in complaints.
    name: of the head.
    license: of the file.
    origin: goes into the head as its source.
    landmarks: names, faces [K] and barycentric [K, 3] on the whole mesh.
    region_landmarks: names, faces and barycentric of iBUG 17-67, from which lips, lids and brows
      are guessed.
    contour: faces [79, C] and barycentric [79, C, 3] in the order of `contour_rows`.
    contour_joint: the joint that they follow.
    masks: region -> [V] bool on the whole mesh, in place of a guess.
    cut: keep head and shoulders only.
    dtype: of the head.

  Raises:
    UserError: arrays are missing or do not fit together.
  """
  model = _read_model(data, joints, source)
  collapsed, above = _collapsed(model, joints, source)
  order, rest = list(joints), model.regressor @ model.template
  kept, kept_faces, small = _kept(model, rest, joints, cut=cut)
  nothing = (), np.zeros(0, int), np.zeros((0, 3))
  names, face_ids, shares = landmarks or nothing
  region_names, region_faces, region_shares = region_landmarks or nothing
  _check_faces((face_ids, region_faces, *(contour[:1] if contour else ())), model, source)
  inside, centre = np.isin(face_ids, kept_faces), rest[order]
  local = {name: order.index(j) for j, name in joints.items()}
  named = dict(zip(region_names, _on_faces(model, region_faces, region_shares)))
  regions = guess_regions(model.template[kept], small, collapsed[kept], centre, local, named)
  for region, mask in (masks or {}).items():
    regions[region] = np.clip(feather(mask[kept].astype(np.float64), small, rounds=1), 0, 1)
  size = lambda columns: model.basis[:, :, columns].shape[2]
  return make_head(
    {
      **_bases(model, kept, order, shape, expression),
      'faces': small,
      'joint_template': centre,
      'weights': collapsed[kept],
      'landmark_faces': np.searchsorted(kept_faces, face_ids[inside]),
      'landmark_barycentric': shares[inside],
      **_contour_arrays(contour, kept_faces, source),
    },
    regions,
    parents=tuple(order.index(a) if a in joints else -1 for a in above),
    name=name,
    license=license,
    where=str(source),
    source=origin,
    contour_joint=local[contour_joint],
    dtype=dtype,
    joint_names=tuple(joints.values()),
    shape_names=_numbered('shape', size(shape)),
    expression_names=_numbered('expression', size(expression)),
    landmark_names=tuple(n for n, i in zip(names, inside) if i),
  )


def _kept(
  model, rest: np.ndarray, joints: dict[int, str], *, cut: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Vertices that stay, faces that stay, and these [F, 3] in the new numbers; `rest`: all joints."""
  kept = np.arange(len(model.template))
  if cut:
    kept = _head_and_shoulders(model.template, model.faces, model.weights, rest, joints)
  new_id = np.full(len(model.template), -1)
  new_id[kept] = np.arange(len(kept))
  kept_faces = np.flatnonzero((new_id[model.faces] >= 0).all(1))
  return kept, kept_faces, new_id[model.faces[kept_faces]]


def _bases(
  model, kept: np.ndarray, order: list[int], shape: slice, expression: slice
) -> dict[str, np.ndarray]:
  """Template and linear bases of the vertices and joints that stay."""
  features = np.concatenate([np.arange(9) + 9 * (j - 1) for j in order[1:]])
  joints_by = lambda columns: np.tensordot(model.regressor, model.basis[:, :, columns], 1)[order]
  return {
    'template': model.template[kept],
    'shape_basis': model.basis[kept][:, :, shape],
    'expression_basis': model.basis[kept][:, :, expression],
    'pose_basis': model.correctives[kept][:, :, features],
    'joint_shape': joints_by(shape),
    'joint_expression': joints_by(expression),
  }


def _on_faces(model, faces: np.ndarray, shares: np.ndarray) -> np.ndarray:
  """[K, 3] points of the template at barycentric [K, 3] on faces [K]."""
  return np.einsum('kcd,kc->kd', model.template[model.faces[faces]], shares)


def _check_faces(numbers, model, source) -> None:
  """UserError where landmarks lie on faces that there are not."""
  for ids in numbers:
    if ids.size and not (0 <= ids.min() and ids.max() < len(model.faces)):
      raise UserError(f'{source}: landmarks lie on faces that do not exist')


def _numbered(what: str, count: int) -> tuple[str, ...]:
  return tuple(f'{what}{k}' for k in range(count))


def _contour_arrays(contour: tuple | None, kept_faces: np.ndarray, source) -> dict[str, np.ndarray]:
  """The contour on the faces that are kept; nothing of None."""
  if contour is None:
    return {}
  if not np.isin(contour[0], kept_faces).all():
    raise UserError(f'{source}: the contour leaves the head')
  return {
    'contour_faces': np.searchsorted(kept_faces, contour[0]),
    'contour_barycentric': contour[1],
  }


@dataclasses.dataclass(frozen=True)
class _Model:
  """The arrays of a file, checked against each other."""

  template: np.ndarray  # [V, 3]
  faces: np.ndarray  # [F, 3]
  basis: np.ndarray  # [V, 3, D]
  correctives: np.ndarray  # [V, 3, 9 (J - 1)]
  weights: np.ndarray  # [V, J]
  regressor: np.ndarray  # [J, V]
  parents: np.ndarray  # [J], -1 for the root


def _read_model(data: dict, joints: dict[int, str], source) -> _Model:
  get = lambda key, ndim: numbers(data, key, ndim, source)
  template, basis = get('v_template', 2), get('shapedirs', 3)
  faces = numbers(data, 'f', 2, source, integer=True)
  weights, correctives = get('weights', 2), get('posedirs', 3)
  regressor, parents = (
    get('J_regressor', 2),
    numbers(data, 'kintree_table', 2, source, integer=True)[0],
  )
  count, total = template.shape[0], weights.shape[1]
  fits = (
    template.shape == (count, 3)
    and basis.shape[:2] == (count, 3)
    and weights.shape == (count, total)
    and regressor.shape == (total, count)
    and len(parents) == total
    and faces.shape[1:] == (3,)
    and correctives.shape == (count, 3, 9 * (total - 1))
    and set(joints) <= set(range(total))
    and 0 <= faces.min()
    and faces.max() < count
  )
  if not fits:
    raise UserError(
      f'{source}: the arrays do not fit together (template {template.shape}, shapedirs '
      f'{basis.shape}, posedirs {correctives.shape}, weights {weights.shape}, J_regressor '
      f'{regressor.shape})'
    )
  parents[(parents < 0) | (parents >= total)] = -1  # the root is stored as 2^32 - 1
  return _Model(template, faces, basis, correctives, weights, regressor, parents)


def _collapsed(model: _Model, joints: dict[int, str], source) -> tuple[np.ndarray, list[int]]:
  """Skinning weights [V, J'] of the kept joints, each with those of the joints that are left out
  below it, and its parent."""
  total = len(model.parents)

  def kept_ancestor(joint):
    for _ in range(total):
      if joint in joints or joint < 0:
        return joint
      joint = model.parents[joint]
    raise UserError(f'{source}: the joints form a ring')

  order, owner = list(joints), [max(kept_ancestor(j), -1) for j in range(total)]
  collapsed = np.zeros((len(model.template), len(order)))
  for joint in range(total):
    target = order.index(owner[joint]) if owner[joint] in joints else 0
    collapsed[:, target] += model.weights[:, joint]
  return collapsed, [kept_ancestor(model.parents[j]) for j in order]


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
  head, neck = joints[local['head']], joints[local['neck']]
  # of a whole body, hands may be higher
  top = y[weights[:, local['head']] > 0.5].max(initial=eye[1])
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
      np.abs(x),
      np.abs(x[y > head[1]]).max(initial=0.01) * 0.8,
      np.abs(x[y > head[1]]).max(initial=0.01) * 0.9,
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
    'lips': (48, 60, 0.004),
    'brows': (17, 27, 0.005),
    'lids': (36, 48, 0.004),
  }
  for name, (first, last, width) in groups.items():
    points = [landmarks[str(k)] for k in range(first, last) if str(k) in landmarks]
    if len(points) == last - first:
      halves = np.split(np.stack(points), 1 if name == 'lips' else 2)
      ring = [np.concatenate([half, half[:1]]) if name != 'brows' else half for half in halves]
      distance = np.min([polyline_distance(vertices, line) for line in ring], 0)
      masks[name] = skin * smooth_step(distance, 2 * width, width)
  masks = {name: np.clip(feather(mask, faces, rounds=1), 0, 1) for name, mask in masks.items()}
  return masks | {'eyeballs': balls.astype(np.float64)}


def flame_masks(table: dict, count: int, source) -> dict[str, np.ndarray]:
  """Our regions [V] bool out of FLAME_masks.pkl (name -> vertex ids)."""
  made = {}
  for region, parts in _MASKS.items():
    if not set(parts) & set(table):
      continue
    mask = np.zeros(count, bool)
    for part in parts:
      if part in table:
        ids = numbers(table, part, 1, source, integer=True)
        if not (0 <= ids.min() and ids.max() < count):
          raise UserError(f'{source}: {part} names vertices that FLAME does not have')
        mask[ids] = True
    made[region] = mask
  if not made:
    raise UserError(f'{source} names none of the regions of FLAME_masks.pkl')
  eyes = made.get('eyeballs', np.zeros(count, bool))
  return {region: mask & (~eyes | (region == 'eyeballs')) for region, mask in made.items()}


_MASKS = {
  'face': ('face',),
  'scalp': ('scalp',),
  'neck': ('neck', 'boundary'),
  'lips': ('lips',),
  'ears': ('left_ear', 'right_ear'),
  'eyeballs': ('left_eyeball', 'right_eyeball'),
}


def summary(path, head: HeadModel) -> str:
  """What a converter prints: counts, where it comes from, licence."""
  lines = [
    f'{path}: {head.name}, {len(head.template)} vertices, {len(head.faces)} triangles, '
    f'{len(head.shape_names)} shape and {len(head.expression_names)} expression directions, '
    f'{len(head.parents)} joints, {len(head.landmark_names)} landmarks'
    + ('' if head.contour_faces is None else f' and a contour of {head.contour_faces.shape[1]}'),
    f'source: {head.source}',
    f'licence: {head.license}',
  ]
  return '\n'.join(lines)
