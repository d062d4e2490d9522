import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.fitting.landmark_head import (
  IRISES,
  LIDS,
  OVAL,
  inter_ocular,
  landmark_head,
  landmark_weights,
)
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadParams
from exp_jax.heads.skinning import head_landmarks


def _head(name):
  try:
    return load_head(name)
  except UserError:
    pytest.skip('`make setup` fetches the MakeHuman head')


@pytest.mark.parametrize('name', ['procedural', 'makehuman'])
def test_the_small_head_has_the_landmarks_of_the_full_one(name):
  head = _head(name)
  small = landmark_head(head)
  assert len(small.template) < len(head.template) and len(small.faces) == len(head.landmark_faces)
  rng = np.random.default_rng(0)
  params = HeadParams(
    *(
      jnp.asarray(rng.normal(size=shape), jnp.float32)
      for shape in (
        head.shape_basis.shape[-1:],
        head.expression_basis.shape[-1:],
        (len(head.parents), 3),
        (3,),
      )
    )
  )
  params = params.replace(pose=0.3 * params.pose, expression=0.3 * params.expression)
  full, few = head_landmarks(head, params), head_landmarks(small, params)
  np.testing.assert_allclose(few, full, atol=1e-6)  # metres


def test_weights_are_positive_and_name_each_part():
  weights = landmark_weights()
  assert weights.shape == (478,) and weights.min() > 0
  assert (
    weights[list(OVAL)].max() < 1 < weights[list(LIDS)].min() and weights[list(IRISES)].min() > 1
  )


def test_the_unit_of_error_is_between_the_outer_corners_of_the_eyes():
  points = np.zeros((2, 478, 2))
  points[:, 263] = [30, 40]
  np.testing.assert_allclose(inter_ocular(points), [50, 50])
