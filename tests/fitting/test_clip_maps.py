"""What networks are shown of a fit is drawn by one program, whoever it is."""

import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.fitting.clip_maps import drawn_normals
from exp_jax.fitting.coarse.coarse_fit import make_camera
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadParams
from exp_jax.rendering import Topology


@pytest.mark.long
@pytest.mark.usefixtures('lightly_compiled')
def test_a_second_person_needs_no_second_program():
  head = load_head('procedural')
  dense = densify(head, 0)
  topology = Topology.from_faces(np.asarray(dense.faces))
  people = []
  for seed in range(3):
    draw = np.random.default_rng(seed).normal
    params = HeadParams(
      jnp.asarray(draw(size=head.shape_basis.shape[-1]), jnp.float32),
      jnp.zeros(head.expression_basis.shape[-1]),
      jnp.zeros((len(head.parents), 3)),
      jnp.float32([0, 0, -0.7]),
    )
    people.append(
      np.asarray(
        drawn_normals(
          head, dense, topology, make_camera(jnp.float32(100.0 + seed), (64, 64)), params
        )
      )
    )
  assert drawn_normals._cache_size() == 1
  assert all(np.abs(people[0] - other).max() > 0.1 for other in people[1:])
  inside = np.linalg.norm(people[0], axis=-1) > 0.99
  assert inside.mean() > 0.1 and people[0][inside][:, 2].mean() < -0.5  # towards the viewer
