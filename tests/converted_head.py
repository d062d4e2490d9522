"""A small head as conversion leaves it: its own triangles, numbered components for expressions,
MediaPipe's landmarks by shape."""

import functools

import jax.numpy as jnp
import numpy as np

from exp_jax.convert.heads.landmark_transfer import with_mediapipe_landmarks
from exp_jax.convert.heads.resampled_surface import resampled
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadModel


@functools.cache
def converted_head(
  *, skin: int = 1500, shapes: int = 8, expressions: int = 6, jaw: bool = True
) -> HeadModel:
  """MakeHuman's surface with fewer vertices and directions; without teeth, tongue, bag of the
  mouth, and maybe jaw."""
  whole = load_head('makehuman')
  mesh = resampled(whole, skin=skin, ball=72, seed=3)
  carried = lambda values: np.tensordot(
    mesh.mix.toarray(), np.asarray(values, np.float64), 1
  ).astype(np.float32)

  def components(basis, joints, count):
    left, sizes, right = np.linalg.svd(
      np.asarray(basis, np.float64).reshape(-1, basis.shape[-1]), full_matrices=False
    )
    few = (left * sizes).reshape(basis.shape)[..., :count]
    return jnp.asarray(carried(few)), jnp.asarray(
      np.asarray(joints) @ right.T[:, :count], jnp.float32
    )

  shape, joint_shape = components(whole.shape_basis, whole.joint_shape, shapes)
  expression, joint_expression = components(
    whole.expression_basis, whole.joint_expression, expressions
  )
  marks = np.asarray(whole.landmark_faces), np.asarray(whole.landmark_barycentric)
  points = np.einsum(
    'kcd,kc->kd', np.asarray(whole.template)[np.asarray(whole.faces)[marks[0]]], marks[1]
  )
  template = carried(whole.template)
  near = np.linalg.norm(template[mesh.faces].mean(1)[None] - points[:, None], axis=-1).argmin(1)
  head = whole.replace(
    template=jnp.asarray(template),
    faces=jnp.asarray(mesh.faces, jnp.int32),
    shape_basis=shape,
    expression_basis=expression,
    joint_shape=joint_shape,
    joint_expression=joint_expression,
    weights=jnp.asarray(carried(whole.weights)),
    uv=None,
    regions={
      name: jnp.asarray(np.clip(carried(mask), 0, 1))
      for name, mask in whole.regions.items()
      if name not in ('teeth', 'tongue', 'inner_mouth')
    },
    landmark_faces=jnp.asarray(near, jnp.int32),
    landmark_barycentric=jnp.full((478, 3), 1 / 3),
    name='converted',
    license='CC0',
    shape_names=tuple(f'shape{k}' for k in range(shapes)),
    expression_names=tuple(f'expression{k}' for k in range(expressions)),
  )
  head = with_mediapipe_landmarks(head, whole)[0]
  return head if jaw else _without_jaw(head)


def _without_jaw(head: HeadModel) -> HeadModel:
  at, skull = head.joint('jaw'), head.joint('head')
  keep = [k for k in range(len(head.parents)) if k != at]
  weights = np.array(head.weights)
  weights[:, skull] += weights[:, at]
  return head.replace(
    weights=jnp.asarray(weights[:, keep]),
    joint_template=head.joint_template[np.array(keep)],
    joint_shape=head.joint_shape[np.array(keep)],
    joint_expression=head.joint_expression[np.array(keep)],
    joint_names=tuple(head.joint_names[k] for k in keep),
    parents=tuple(keep.index(head.parents[k]) if head.parents[k] >= 0 else -1 for k in keep),
  )
