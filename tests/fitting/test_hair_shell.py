"""Hair of known depth, seen from five sides in noisy depth that is known up to scale and shift."""

import jax
import jax.numpy as jnp
import known_clips
import numpy as np
import pytest

from exp_jax.fitting.coarse.coarse_fit import CoarseFit, make_camera
from exp_jax.fitting.offsets.fields import Meshes
from exp_jax.fitting.offsets.hair_shell import hair_shell
from exp_jax.fitting.offsets.targets import make_targets
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import dense_vertices, densify
from exp_jax.heads.model import HeadParams
from exp_jax.rendering import Topology, surface_maps

FRAMES, MAP = 5, 96


@pytest.fixture(scope='module')
def stage():
  head = known_clips.makehuman()
  dense, joint = densify(head, 0), head.joint('head')
  pose = np.zeros((FRAMES, len(head.parents), 3), np.float32)
  pose[:, joint, 1] = np.linspace(-0.8, 0.8, FRAMES)
  pose[:, joint, 0] = [0.3, 0, 0.2, 0, 0.3]
  sizes = head.shape_basis.shape[-1], head.expression_basis.shape[-1]
  fit = CoarseFit(
    jnp.zeros(sizes[0]),
    jnp.zeros((FRAMES, sizes[1])),
    jnp.asarray(pose),
    jnp.tile(jnp.array([0, -0.03, -0.72]), (FRAMES, 1)),
    jnp.float32(560),
    jnp.zeros(FRAMES),
    (256, 256),
  )
  topology = Topology.from_faces(np.asarray(dense.faces))
  camera, still = make_camera(fit.focal * MAP / 256, (MAP, MAP)), jnp.zeros_like(head.template)
  draw = jax.jit(
    lambda e, p, t, static: surface_maps(
      dense_vertices(head, dense, HeadParams(fit.shape, e, p, t), static, still), camera, topology
    )
  )

  def read(static, hide=None):
    """(start, along) of what is seen of a head with `static` offsets; `hide` a frame with something
    before it."""
    maps = [draw(fit.expression[t], fit.pose[t], fit.translation[t], static) for t in range(FRAMES)]
    matte = np.stack([m['mask'][..., 0] for m in maps])
    # a pixel of the outline mixes head and nothing; the mask of belief leaves it out
    depth = np.stack([m['depth'][..., 0] / np.maximum(m['mask'][..., 0], 1e-3) for m in maps])
    depth = depth + np.random.default_rng(1).normal(0, 1e-3, depth.shape)
    normals = np.stack([m['normal'] for m in maps]) * [1, -1, -1]
    if hide is not None:
      depth[hide, 20:60, 10:80] = 0.5
    points = np.full((FRAMES, 478, 2), 250.0)  # the chin: all of the matte is above it
    targets = make_targets(
      points, MAP, matte=np.uint8(255 * matte), normals=normals, depth=3 - 1.7 * depth
    )
    along = vertex_normals(head.template, dense.faces)
    start, out = hair_shell(
      Meshes(head, dense, dense, topology), fit, head.template, along, targets
    )
    return np.asarray(start), np.asarray(out), np.asarray(along)

  return head, read


def test_hair_is_read_where_it_is_seen_and_bare_scalp_stays(stage):
  head, read = stage
  scalp = np.asarray(head.regions['scalp'])
  front = (scalp > 0.99) & (np.asarray(head.template)[:, 2] > 0)
  bare = np.max([np.asarray(head.regions[name]) for name in ('scalp', 'ears', 'clothing')], 0) == 0
  along = np.asarray(vertex_normals(head.template, head.faces))
  for thick in (0.0, 0.02):
    start, out, _ = read(jnp.asarray(thick * scalp[:, None] * along))
    np.testing.assert_allclose(out, along, atol=1e-6, err_msg='no ear is hidden')
    assert np.abs((start * along).sum(-1) - thick)[front].mean() < 0.0025, thick
    assert not start[bare].any()


def test_ears_under_hair_go_straight_out_to_it(stage):
  head, read = stage
  at, ears = np.asarray(head.template), np.asarray(head.regions['ears'])
  along = np.asarray(vertex_normals(head.template, head.faces))
  aside = np.sign(at[:, :1]) * np.float32([1, 0, 0])
  hair = 0.02 * np.asarray(head.regions['scalp'])[:, None] * along
  static = jnp.asarray(np.where(ears[:, None] > 0.05, 0.03 * aside, hair))
  hidden = ears > 0.9
  for hide in (None, 2):
    start, out, _ = read(static, hide)
    assert (out * aside).sum(-1)[hidden].min() > 0.9
    np.testing.assert_allclose((start * aside).sum(-1)[hidden].mean(), 0.03, atol=0.006)
