"""A head of 20k faces is moved by a known field of offsets and recovered from its maps by gradients
alone."""

import jax
import jax.numpy as jnp
import meshes_for_tests
import numpy as np
import optax
import pytest

from exp_jax.geometry import clip_coordinates
from exp_jax.rendering import Topology, rasterize, surface_maps
from exp_jax.rendering.normals import vertex_normals
from exp_jax.rendering.shading import mask_map

SIZE = (256, 256)


@pytest.mark.slow  # half a minute of steps
def test_a_head_of_20k_faces_recovers_its_offsets():
  """From normals, depth and mask; and from the mask alone, where only antialiasing sees an
  error."""
  vertices, faces = meshes_for_tests.bumpy_head(95, 105)
  assert 19_000 < len(faces) < 21_000
  topology, camera = Topology.from_faces(faces), meshes_for_tests.front_camera(SIZE)
  x, y, z = vertices.T / 0.1
  angle = np.arctan2(x, -z)
  waves = [np.ones_like(x), y, x, z, y * y]
  waves += [np.cos(k * angle + p) * np.cos(m * y) for k in (2, 3) for m in (1, 2) for p in (0, 1.6)]
  waves = np.stack(waves, -1)
  front = waves[z < -0.2]  # orthogonal there: one number changes one thing that can be seen
  waves = waves @ np.linalg.inv(np.linalg.qr(front)[1]) * np.sqrt(len(front))
  basis = jnp.asarray(waves.T, jnp.float32) * 1e-3  # millimetres
  outward = vertex_normals(jnp.asarray(vertices), topology.faces)
  true = jnp.asarray(np.random.default_rng(0).normal(size=len(basis)), jnp.float32)
  moved = lambda amounts: vertices + (amounts @ basis)[:, None] * outward
  maps = jax.jit(lambda amounts: surface_maps(moved(amounts), camera, topology))

  @jax.jit
  def hard_mask(amounts):
    return {'mask': mask_map(rasterize(clip_coordinates(moved(amounts), camera), topology, SIZE))}

  target = maps(true)

  def fitted(draw, weights, steps):
    """Normals and depth are compared where both heads cover a pixel wholly: on the outline a single
    pixel centre says little of a surface seen edge-on."""
    tx = optax.adam(optax.cosine_decay_schedule(0.1, steps))

    @jax.jit
    def step(amounts, state):
      def loss(amounts):
        found = draw(amounts)
        inside = jax.lax.stop_gradient((found['mask'] > 0.99) & (target['mask'] > 0.99))
        return sum(
          weight
          * jnp.mean(jnp.where(name == 'mask', 1.0, inside) * (found[name] - target[name]) ** 2)
          for name, weight in weights.items()
        )

      update, state = tx.update(jax.grad(loss)(amounts), state)
      return optax.apply_updates(amounts, update), state

    amounts = jnp.zeros(len(basis))
    state = tx.init(amounts)
    for _ in range(steps):
      amounts, state = step(amounts, state)
    return amounts

  outline = lambda amounts: float(jnp.abs(maps(amounts)['mask'] - target['mask']).mean())
  at_rest = outline(jnp.zeros(len(basis)))
  recovered = fitted(maps, {'normal': 1.0, 'depth': 1e2, 'mask': 1.0}, 200)
  ids = rasterize(clip_coordinates(moved(true), camera), topology, SIZE).face_id
  in_sight = np.unique(faces[np.unique(ids)[1:]])  # the back of the head is not
  field = lambda amounts: np.linalg.norm(np.asarray(amounts @ basis)[in_sight])
  left = field(recovered - true) / field(true)
  print(
    f'{100 * left:.1f} % of the offsets left, {100 * outline(recovered) / at_rest:.1f} % of the '
    'outline'
  )
  assert left < 0.06 and outline(recovered) < 0.06 * at_rest
  assert outline(fitted(maps, {'mask': 1.0}, 60)) < 0.25 * at_rest
  np.testing.assert_array_equal(fitted(hard_mask, {'mask': 1.0}, 2), 0)
