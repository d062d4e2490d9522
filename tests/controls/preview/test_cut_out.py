"""The cut-out's depth, and what of the head is drawn: ears that turn, and nothing where the
portrait shows the background."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from scipy.spatial.transform import Rotation

from exp_jax.controls.maps import full_offsets, own_motion, posed_heads, subject_camera
from exp_jax.controls.preview.cut_out import sheet_depth
from exp_jax.controls.preview.make_proxy import make_proxy
from exp_jax.controls.preview.texture import OPACITY
from exp_jax.errors import UserError
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import Subject

SIZE, CELL = 128, 0.004  # pixels; metres between grid points


def a_side_of_a_head():
  """A cheek that falls away to an ear 6 cm behind it, with its relief; right of the ear nothing of
  the model is seen."""
  columns = np.arange(40)
  falling = 1.0 + 0.06 * np.clip((columns - 10) / 10, 0, 1) ** 2
  depth = np.tile(falling, (30, 1))
  depth[:, 20:26] += 0.004 * (-1.0) ** np.arange(6)
  seen = np.tile(columns < 26, (30, 1))
  ear = seen & (columns >= 20)
  core = scipy.ndimage.binary_erosion(seen & ~ear, iterations=6, border_value=0)
  core[:, :14] = True
  return np.where(seen, depth, 0), seen, core, ear


def folds(depth):
  """How many cells of a sheet, turned by 30 degrees so that its right side comes into view, lie in
  reverse order."""
  x = CELL * np.arange(depth.shape[1])
  turned = x * np.cos(np.pi / 6) + depth * np.sin(np.pi / 6)
  return int((np.diff(turned, axis=1) < 0).sum())


def test_an_ear_that_turns_into_view_is_not_folded_over_by_what_lies_around_it():
  depth, seen, core, ear = a_side_of_a_head()
  found = sheet_depth(depth, seen, core, ear)
  assert folds(found) == 0
  assert found[:, 28:].min() > 1.03, 'beside an ear the sheet goes on at the depth of the ear'
  np.testing.assert_array_equal(found[core], depth[core])
  as_cheek = sheet_depth(depth, seen, core, np.zeros_like(ear))
  assert folds(as_cheek) > 20, 'at the depth of the cheek it folds'


@pytest.fixture(scope='module')
def head():
  try:
    return load_head('makehuman')
  except UserError:
    pytest.skip('`make setup` fetches the MakeHuman head')


@pytest.mark.slow  # prepares a whole head: 20 seconds of compiling
def test_nothing_of_the_head_is_drawn_where_the_portrait_shows_the_background(head):
  """A person who is much narrower than the head that was fitted: what lies beside them is not
  drawn, in front nor behind."""
  zeros = lambda *axes: np.zeros(axes, np.float32)
  dense = densify(head, 1)
  subject = Subject(
    'someone',
    head.name,
    head_digest(head),
    1,
    (SIZE, SIZE),
    25.0,
    zeros(head.shape_basis.shape[-1]),
    zeros(1, len(head.expression_names)),
    zeros(1, len(head.parents), 3),
    np.array([[0, 0, -1.1]], np.float32),
    np.full(2, 4.0 * SIZE, np.float32),
    np.full(2, SIZE / 2, np.float32),
    zeros(1),
    zeros(len(dense.weights), 3),
    zeros(0).astype(np.int32),
    zeros(1, 0, 3),
  )
  vertices, transforms = next(
    posed_heads(head, dense, subject, own_motion(subject), full_offsets(subject))
  )
  matte = np.zeros((SIZE, SIZE), np.uint8)
  matte[:, SIZE // 2 - 14 : SIZE // 2 + 14] = 255
  photo = np.where(matte[..., None] > 0, np.uint8([200, 155, 130]), np.uint8([40, 80, 200]))
  proxy = make_proxy(
    photo,
    matte,
    np.zeros((SIZE, SIZE), bool),
    dense=dense,
    template=np.asarray(vertices),
    vertices=vertices,
    transforms=transforms,
    camera=subject_camera(subject),
    eye_centers=np.array([[0.03, 0, 0.1], [-0.03, 0, 0.1]]),
  )
  across = 4.0 * SIZE * np.asarray(vertices)[:, 0] / -np.asarray(vertices)[:, 2]
  beside = (np.abs(across) > 20) & (np.abs(across) < SIZE / 2 - 2)
  inside = sum(np.asarray(dense.regions[name]) for name in ('inner_mouth', 'teeth', 'tongue')) > 0.5
  opacity = np.asarray(proxy.texture.opacity())
  assert (beside & ~inside).sum() > 1000 and opacity[beside & ~inside].max() < 0.01
  face = np.asarray(dense.regions['face']) > 0.5
  assert jnp.median(opacity[face & (np.abs(across) < 8)]) > 0.9
  # but where the head turns such a place of the face towards the viewer, it is skin
  still, about = np.asarray(proxy.reference_vertices), np.asarray(vertices).mean(0)
  turned = (still - about) @ Rotation.from_rotvec([0, 0.9, 0]).as_matrix().T + about
  drawn = lambda at: np.asarray(proxy.texture.now(jnp.asarray(at, jnp.float32)))[:, OPACITY]
  np.testing.assert_allclose(drawn(still), opacity, atol=1e-6)
  towards = face & beside & ~inside & (across < 0) & (np.asarray(proxy.texture.beyond_facing) < 0.6)
  assert towards.sum() > 100 and np.median(drawn(turned)[towards]) > 0.9
