"""The head model: a template, its linear bases, a skeleton and named regions.

Frame of every head: metres, right-handed, x toward the person's left, y up, z out of the face
(the frame of SMPL-X). Letters: V vertices, F faces, S shape, E expression, J joints, K landmarks.
`make_head` checks every shape and refuses NaN, so the code behind it never has to.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.digests import arrays_digest

ARRAY_AXES = {  # name -> its shape in letters; a leading '?' marks what a file may lack
  'template': 'V3',
  'faces': 'F3',
  'shape_basis': 'V3S',
  'expression_basis': 'V3E',
  'pose_basis': '?V3P',
  'joint_template': 'J3',
  'joint_shape': 'J3S',
  'joint_expression': 'J3E',
  'weights': 'VJ',
  'landmark_faces': 'K',
  'landmark_barycentric': 'K3',
  'uv': '?V2',
  'contour_faces': '?AC',
  'contour_barycentric': '?AC3',
}  # fmt: skip
_INTEGERS = ('faces', 'landmark_faces', 'contour_faces')
CONTOUR_ROWS = 79  # degrees of yaw from -39 to 39
NAME_LISTS = ('joint_names', 'shape_names', 'expression_names', 'landmark_names')


@flax.struct.dataclass
class HeadModel:
  """A parametric head; a pytree whose leaves are float32 (or all float64) except the int32
  indices."""

  template: jax.Array  # [V, 3] metres
  faces: jax.Array  # [F, 3] int32, counter-clockwise seen from outside
  # [V, 3, S] metres per unit; one unit is about one standard deviation
  shape_basis: jax.Array
  expression_basis: jax.Array  # [V, 3, E] metres per unit; one unit is the full facial action
  pose_basis: jax.Array | None  # [V, 3, 9 (J - 1)] metres, times vec(R_j - I) of joints 1..J-1
  joint_template: jax.Array  # [J, 3] metres
  joint_shape: jax.Array  # [J, 3, S]
  joint_expression: jax.Array  # [J, 3, E]
  weights: jax.Array  # [V, J] rows sum to 1
  landmark_faces: jax.Array  # [K] int32
  landmark_barycentric: jax.Array  # [K, 3] rows sum to 1
  uv: jax.Array | None  # [V, 2] in 0..1, y up
  regions: dict[str, jax.Array]  # name -> [V] soft mask in 0..1
  # -1 for the root, which is joint 0
  parents: tuple[int, ...] = flax.struct.field(pytree_node=False)
  joint_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
  shape_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
  expression_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
  landmark_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
  name: str = flax.struct.field(pytree_node=False)
  license: str = flax.struct.field(pytree_node=False)
  # the jaw line as seen from the side, one row for each degree of yaw of `contour_joint` from -39
  # to 39
  contour_faces: jax.Array | None = None  # [79, C] int32
  contour_barycentric: jax.Array | None = None  # [79, C, 3] rows sum to 1
  contour_joint: int = flax.struct.field(pytree_node=False, default=0)
  # file it was converted from, SHA-256
  source: str = flax.struct.field(pytree_node=False, default='')

  @property
  def signed_expressions(self) -> bool:
    """Whether expressions are components that go either way, one unit a standard deviation, as
    SMPL-X's and FLAME's.

    Components are numbered (expression0, expression1, ...); facial actions, of 0 to 1, have names
    of their own.
    """
    return all(
      name.startswith('expression') and name[len('expression') :].isdecimal()
      for name in self.expression_names
    )

  def has_joint(self, name: str) -> bool:
    """Whether the skeleton has such a joint; FLAME exists without a jaw, and its root is the
    neck."""
    return name in self.joint_names

  def joint(self, name: str, *, purpose: str = '') -> int:
    """The number of a joint.

    Args:
      name: of the joint, such as 'jaw'.
      purpose: what it is needed for, as the end of a sentence; the complaint gives it as the
        reason.

    Raises:
      UserError: the head has no such joint; its joints are listed.
    """
    if name not in self.joint_names:
      reason = f', which is needed {purpose}' if purpose else ''
      raise UserError(
        f'the head model {self.name!r} has no joint {name!r}{reason}; its joints are '
        f'{", ".join(self.joint_names)}'
      )
    return self.joint_names.index(name)

  def joint_turns(self, pose, name: str):
    """[..., J, 3] axis-angle poses -> [..., 3] of one joint; zeros if the head lacks it, since what
    is not there never turns."""
    return (
      pose[..., self.joint_names.index(name), :]
      if name in self.joint_names
      else 0 * pose[..., 0, :]
    )


@flax.struct.dataclass
class HeadParams:
  """What one frame of one person is, in the head's own frame."""

  shape: jax.Array  # [..., S]
  expression: jax.Array  # [..., E]
  # [..., J, 3] axis-angle, radians, relative to the parent; joint 0 is the root
  pose: jax.Array
  translation: jax.Array  # [..., 3] metres, added last


def neutral_params(head: HeadModel) -> HeadParams:
  """All zeros, in the head's own precision: the template at rest."""
  zeros = lambda *shape: jnp.zeros(shape, head.template.dtype)
  return HeadParams(
    shape=zeros(head.shape_basis.shape[-1]),
    expression=zeros(head.expression_basis.shape[-1]),
    pose=zeros(len(head.parents), 3),
    translation=zeros(3),
  )


def make_head(
  arrays: dict[str, np.ndarray],
  regions: dict[str, np.ndarray],
  *,
  parents,
  name,
  license,
  where: str = 'the arrays',
  source: str = '',
  contour_joint: int = 0,
  dtype=np.float32,
  **names,
) -> HeadModel:
  """Checks numpy arrays against each other and makes a HeadModel of them.

  Args:
    arrays: what `ARRAY_AXES` lists; others are ignored.
    regions: name -> [V].
    parents: [J] of each joint, -1 for the root.
    name: of the head model.
    license: of its numbers.
    where: names the culprit in complaints.
    source: where the numbers come from; it stands in the record.
    contour_joint: the joint whose yaw chooses the row of the contour.
    dtype: float32, or float64 where jax_enable_x64 is on.
    **names: the four of `NAME_LISTS`, a name for each joint, shape, expression and landmark.

  Raises:
    UserError: naming `where` and the array that is missing, misshapen, not finite or out of range.
  """
  if jax.dtypes.canonicalize_dtype(dtype) != dtype:
    raise UserError(f'{where}: a head in {np.dtype(dtype)} needs jax_enable_x64')
  checked, sizes = _checked_arrays(arrays, len(parents), where, dtype)
  _check_values(arrays, sizes, where)
  if ('contour_faces' in arrays) != (
    'contour_barycentric' in arrays
  ) or not 0 <= contour_joint < len(parents):
    raise UserError(
      f'{where}: contour_faces, contour_barycentric and contour_joint do not fit together'
    )
  for joint, parent in enumerate(parents):
    if not (parent < joint and (parent >= 0) == (joint > 0)):
      raise UserError(
        f'{where}: joint {joint} has parent {parent}; parents must come before children'
      )
  for key, value in regions.items():
    if (
      value.shape != (sizes['V'],)
      or not np.isfinite(value).all()
      or not 0 <= value.min() <= value.max() <= 1
    ):
      raise UserError(f'{where}: region {key!r} is not one number in 0..1 per vertex')
  for key, letter in zip(NAME_LISTS, 'JSEK'):
    if len(names[key]) != sizes[letter]:
      raise UserError(f'{where}: {len(names[key])} {key} for {sizes[letter]} columns')
  return HeadModel(
    **checked,
    regions={k: jnp.asarray(v, dtype) for k, v in sorted(regions.items())},
    parents=tuple(int(p) for p in parents),
    name=name,
    license=license,
    source=source,
    contour_joint=int(contour_joint),
    **{key: tuple(str(n) for n in names[key]) for key in NAME_LISTS},
  )


def _checked_arrays(
  arrays, joints, where, dtype
) -> tuple[dict[str, jax.Array | None], dict[str, int]]:
  """The arrays of `ARRAY_AXES` as jax arrays, and the size of each axis by its letter."""
  sizes = {'3': 3, '2': 2, 'P': 9 * (joints - 1), 'J': joints, 'A': CONTOUR_ROWS}
  checked = {}
  for key, letters in ARRAY_AXES.items():
    optional, letters = letters.startswith('?'), letters.lstrip('?')
    value = arrays.get(key)
    if value is None:
      if not optional:
        raise UserError(f'{where}: the array {key!r} is missing')
      checked[key] = None
      continue
    expected = tuple(sizes.get(letter, size) for letter, size in zip(letters, value.shape))
    if value.ndim != len(letters) or value.shape != expected:
      raise UserError(
        f'{where}: {key} has shape {value.shape}, expected {tuple(letters)} with {sizes}'
      )
    sizes.update(zip(letters, value.shape))
    if not np.isfinite(value).all():
      raise UserError(f'{where}: {key} holds NaN or infinite numbers')
    if value.dtype.kind not in ('iu' if key in _INTEGERS else 'fiu'):
      raise UserError(f'{where}: {key} holds {value.dtype}, not numbers of its kind')
    checked[key] = jax.device_put(value.astype(jnp.int32 if key in _INTEGERS else dtype))
  return checked, sizes


def _check_values(arrays, sizes, where) -> None:
  """Raises UserError unless indices lie inside what they number and shares sum to 1."""
  for key, count in (('faces', 'V'), ('landmark_faces', 'F'), ('contour_faces', 'F')):
    ids = arrays.get(key)
    if ids is not None and ids.size and not (0 <= ids.min() and ids.max() < sizes[count]):
      raise UserError(f'{where}: {key} points outside 0..{sizes[count] - 1}')
  for key in ('landmark_barycentric', 'contour_barycentric'):
    shares = arrays.get(key)
    if shares is not None and shares.size and np.abs(shares.sum(-1) - 1).max() > 1e-3:
      raise UserError(f'{where}: {key} does not sum to 1')
  if np.abs(arrays['weights'].sum(1) - 1).max() > 1e-3:
    raise UserError(f'{where}: skinning weights do not sum to 1')


def in_precision(head: HeadModel, dtype) -> HeadModel:
  """`head` with its floating leaves in `dtype`; float64 needs jax_enable_x64."""
  return jax.tree.map(lambda x: x.astype(dtype) if x.dtype.kind == 'f' else x, head)


def head_digest(head: HeadModel) -> str:
  """16 hex digits of what vertices depend on (not landmarks, regions, names); subject files carry
  it."""
  keys = ('template', 'faces', 'shape_basis', 'expression_basis', 'joint_template', 'weights')
  values = [np.asarray(getattr(head, key)) for key in keys]
  # float16: equal for a head in memory and the same head after a float16 file
  return arrays_digest(v.astype(np.int32 if v.dtype == np.int32 else np.float16) for v in values)[
    :16
  ]
