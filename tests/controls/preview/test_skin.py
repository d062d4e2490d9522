"""Skin that comes out of folds: areas against solid angles, lids and folds of a drawn head, the far
side, what hangs together."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from exp_jax.controls.maps import own_motion, subject_camera
from exp_jax.controls.preview.cut_out import person_colours, spread_weights
from exp_jax.controls.preview.hidden_side import lit_as_here
from exp_jax.controls.preview.skin import (
  fold_depth,
  kept_share,
  lash_lines,
  lash_share,
  lid_colours,
  seen_area,
  shut_share,
)
from exp_jax.controls.reenact import Motion
from exp_jax.errors import UserError
from exp_jax.geometry import project
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadParams, head_digest
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import head_landmarks
from exp_jax.systems.expportrait.portrait import Portrait, preview_frames

SIZE, SKIN = 192, np.array([200, 155, 130])
# MediaPipe's, a loop
_RIGHT_EYE = 33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7


def test_area_as_seen_is_the_solid_angle():
  """Against the exact formula of Van Oosterom and Strackee for a triangle; a triangle that is
  turned away has none."""
  rng = np.random.default_rng(0)
  corners = np.array([[0, 0, -1.0]]) + rng.normal(0, 0.03, (5, 3, 3))
  found = np.asarray(seen_area(jnp.asarray(corners.reshape(-1, 3)), jnp.arange(15).reshape(5, 3)))
  for triangle, area in zip(corners, found):
    a, b, c = triangle / np.linalg.norm(triangle, axis=-1, keepdims=True)
    angle = 2 * np.arctan2(np.linalg.det([a, b, c]), 1 + a @ b + b @ c + c @ a)
    assert area == pytest.approx(max(-angle, 0), rel=0.02, abs=1e-9)
  assert (found == 0).any() and (found > 0).any()


def test_pixels_are_kept_until_they_are_stretched():
  rows, columns = np.mgrid[:6, :6]
  points = jnp.asarray(np.stack([columns, -rows, 0 * rows - 100], -1).reshape(-1, 3), jnp.float32)
  index = np.arange(36).reshape(6, 6)
  quads = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], -1).reshape(
    -1, 4
  )
  faces = jnp.asarray(np.concatenate([quads[:, :3], quads[:, [0, 2, 3]]]))
  before = seen_area(points, faces)
  assert (before > 0).all()
  np.testing.assert_array_equal(kept_share(points, faces, before, jnp.ones(36)), 1)
  taller = kept_share(points * jnp.array([1, 5.0, 1]), faces, before, jnp.ones(36))
  np.testing.assert_allclose(taller, 0, atol=1e-6)
  elsewhere = kept_share(points * jnp.array([1, 2.0, 1]), faces, before, jnp.zeros(36))
  np.testing.assert_array_equal(elsewhere, 1)


def test_only_narrow_dark_lines_are_folds():
  photo = np.full((512, 60, 3), 0.7, np.float32)
  photo[100:104], photo[200:260] = 0.4, 0.4
  depth = fold_depth(photo)
  assert (
    depth[101:103].min() > 0.2
    and depth[225:235].max() < 0.02
    and depth[300:].max() < 0.01
    and depth.min() >= 0
  )


@pytest.fixture(scope='module')
def head():
  try:
    return load_head('makehuman')
  except UserError:
    pytest.skip('`make setup` fetches the MakeHuman head')


def someone(head, **actions):
  """A head at rest that faces the camera, with an expression."""
  expression = np.zeros((1, len(head.expression_names)), np.float32)
  for name, value in actions.items():
    expression[0, [head.expression_names.index(name + side) for side in ('Left', 'Right')]] = value
  zeros = lambda *axes: np.zeros(axes, np.float32)
  place = np.array([[0, 0, -1.1]], np.float32)
  return Subject(
    'someone',
    head.name,
    head_digest(head),
    1,
    (SIZE, SIZE),
    25.0,
    zeros(head.shape_basis.shape[-1]),
    expression,
    zeros(1, len(head.parents), 3),
    place,
    np.full(2, 4.0 * SIZE, np.float32),
    np.full(2, SIZE / 2, np.float32),
    zeros(1),
    zeros(len(densify(head, 1).weights), 3),
    np.zeros(0, np.int32),
    zeros(1, 0, 3),
  )


def marks(head, subject):
  """[478, 2] pixels."""
  params = HeadParams(
    *(
      jnp.asarray(a)
      for a in (subject.shape, subject.expression[0], subject.pose[0], subject.translation[0])
    )
  )
  return np.asarray(project(head_landmarks(head, params), subject_camera(subject))[0])


def drawn(head, subject, photo, **actions):
  """The portrait's own frame and one with another expression."""
  other = someone(head, **actions)
  both = [own_motion(each) for each in (subject, other)]
  motion = Motion(
    *(np.concatenate([getattr(each, f.name) for each in both]) for f in dataclasses.fields(Motion))
  )
  full = np.full((SIZE, SIZE), 255, np.uint8)
  portrait = Portrait(subject, photo, full, np.zeros((SIZE, SIZE), bool))
  return list(preview_frames(portrait, motion, None, head, densify(head, 1)))


def an_eye():
  """A sheet of skin, 1 mm between vertices, lit from the left, with an eye of 28 x 10 mm in it:
  everything within 2 mm of its rims shows lashes and sclera. Returns points in metres, true
  colours, seen ones, millimetres from the rims, in the eye."""
  x, y = (a.ravel() for a in np.meshgrid(np.arange(-34.0, 35), np.arange(-30.0, 31)))
  true = (0.75 - 0.006 * x + 0.003 * y)[:, None] * np.array([1, 0.77, 0.65])
  turn = np.linspace(0, 2 * np.pi, 200)
  rim = np.stack([14 * np.cos(turn), 5 * np.sin(turn)], -1)
  near = np.linalg.norm(np.stack([x, y], -1)[:, None] - rim, axis=-1).min(-1)
  inside = (x / 14) ** 2 + (y / 5) ** 2 < 1
  seen = true.copy()
  seen[near < 2] = np.where((np.arange(len(x)) % 2)[near < 2, None], 0.05, 0.95)
  seen[(np.abs(y - 9) < 0.6) & (np.abs(x) < 12)] *= 0.5  # the crease above the lid
  return np.stack([x, y, 0 * x], -1) / 1e3, true, seen, near, inside


def test_skin_goes_on_over_a_lid_without_a_step():
  """The lid is an eye's opening and 3 mm more; its colour is to be that of the skin as if there
  were no eye."""
  points, true, seen, near, inside = an_eye()
  opened = inside | (near < 3)
  ids, colours = lid_colours(
    seen, np.where(inside, 0.0, 1.0), (near, near), kept=np.where(opened, 0.0, 1.0), points=points
  )
  assert opened[ids].sum() == opened.sum(), 'all of the lid is filled'
  wrong = np.abs(colours - true[ids]).max(-1)
  border = opened[ids] & (near[ids] > 2)
  assert wrong[border].max() < 0.06 and wrong.mean() < 0.03, (wrong[border].max(), wrong.mean())
  assert np.ptp(true[ids].mean(-1)) > 0.12, 'one colour alone would be further off'
  crease = (np.abs(1e3 * points[ids, 1] - 9) < 0.6) & (np.abs(points[ids, 0]) < 0.010)
  assert crease.sum() > 10 and wrong[crease].max() < 0.06, 'a crease is not spread'


@pytest.mark.long
def test_a_line_of_lashes_is_even_and_thins_out_towards_both_corners():
  # outer corner first
  line = jnp.stack([jnp.linspace(30, 90, 25), 50 + 4 * jnp.sin(jnp.linspace(0, np.pi, 25))], -1)
  places = jnp.stack(jnp.meshgrid(jnp.arange(120) + 0.5, jnp.arange(100) + 0.5), -1)
  share = np.asarray(lash_share(places, line))
  thickness = share.sum(0)
  assert not share[:, :25].any() or share[:, :25].max() < 0.02
  assert share[:, 95:].max() < 0.02 and share.max() <= 1
  assert 40 < np.argmax(thickness) < 60, 'thickest a third of the way from the outer corner'
  steps = np.diff(thickness[30:90]) / thickness.max()
  assert np.abs(steps).max() < 0.15, 'no gaps, no beads'
  middle = np.asarray(line)[8]
  column = share[:, int(middle[0])]
  above, below = column[: int(middle[1]) - 1].sum(), column[int(middle[1]) + 2 :].sum()
  assert below > 1.3 * above, 'lashes hang down'
  twice = np.asarray(lash_share(2 * places, 2 * line))
  np.testing.assert_allclose(twice, share, atol=0.25)  # half a pixel of softness is the least


def test_eyes_are_shut_against_what_the_portrait_shows():
  before = jnp.array([0.3, 0.3])
  np.testing.assert_array_equal(shut_share(before, before), 0)
  np.testing.assert_array_equal(shut_share(0 * before, before), 1)
  between = shut_share(jnp.array([0.5, 0.6]) * before, before)
  assert 0 < between[1] < between[0] < 1
  # lids that are shut in the portrait
  np.testing.assert_array_equal(shut_share(jnp.zeros(2), jnp.array([0.02, 0.1])), 0)


def test_lashes_follow_the_upper_lid_and_come_to_lie_on_the_lower_one():
  x = jnp.linspace(0, 40, 9)
  upper, lower = (
    jnp.stack([x, 20 - 8 * jnp.sin(np.pi * x / 40)], -1),
    jnp.stack([x, 20 + 4 * jnp.sin(np.pi * x / 40)], -1),
  )
  lines = lash_lines(jnp.stack([upper, upper, lower, lower]), jnp.array([0.0, 1.0]))
  np.testing.assert_allclose(lines[0, 12], upper[4], atol=0.5)
  np.testing.assert_allclose(lines[1, 12], lower[4], atol=0.5)
  wobbly = upper.at[::2, 1].add(1.0)
  smooth = lash_lines(jnp.stack([wobbly, wobbly, lower, lower]), jnp.zeros(2))[0, :, 1]
  assert (jnp.diff(smooth, 2) > 0).all(), 'bent one way alone'


@pytest.mark.slow  # draws a whole head: 20 seconds of compiling
def test_a_closed_lid_is_skin_that_goes_on_over_its_border_with_a_line_of_lashes(head):
  """One photo shows skin alone, another everything in and about the open eye striped black: shut,
  both eyes look alike."""
  subject = someone(head)
  points = marks(head, subject)
  loop, corners = points[list(_RIGHT_EYE)], points[[33, 133], 0]
  rows = np.arange(SIZE)[:, None, None]
  skin = np.broadcast_to(SKIN * (0.75 + 0.5 * rows / SIZE), (SIZE, SIZE, 3))
  left, top = np.floor(loop.min(0)).astype(int) - 1
  right, bottom = np.ceil(loop.max(0)).astype(int) + 1
  striped = np.uint8(skin)
  striped[top:bottom, left:right:2] = 20
  (_, plain), (own, shut) = (
    drawn(head, subject, photo, eyeBlink=1.0) for photo in (np.uint8(skin), striped)
  )
  assert own[top:bottom, left + 2 : right - 2].min() < 60, 'the portrait itself is striped'
  lid = np.s_[top - 3 : bottom + 1, left + 3 : right - 5]  # the inner corner does not shut
  light = plain[lid].mean(-1) / skin[lid].mean(-1)
  line = light < 0.85
  columns = np.arange(left + 3, right - 5) + 0.5
  assert line.any(0).mean() > 0.7, 'where there is skin alone, what is dark is lashes'
  assert ((np.diff(line.astype(int), axis=0) == 1).sum(0) <= 1).all() and line.sum(0).max() <= 4, (
    'one thin line'
  )
  at = (
    (line * np.arange(line.shape[0])[:, None]).sum(0) / np.maximum(line.sum(0), 1) + top - 3 + 0.5
  )
  rim = points[[33, 7, 163, 144, 145, 153, 154, 155, 133]]
  away = (at - np.interp(columns, *rim.T))[line.any(0)]
  assert np.abs(away).max() < 2.5, ('it lies where the lids meet', away)
  assert np.abs(columns[line.any(0)] - corners.mean()).max() < np.ptp(corners) / 2, (
    'and ends at the corners'
  )
  assert np.abs(light[~line] - 1).max() < 0.16 and np.abs(light[~line] - 1).mean() < 0.03, (
    'else the lid is skin'
  )
  beside = ~scipy.ndimage.binary_dilation(line, iterations=2)
  apart = np.abs(shut[lid].astype(float) - plain[lid]).mean(-1)[beside]
  assert apart.max() < 40 and apart.mean() < 4, (
    'nothing of the open eye is left',
    apart.max(),
    apart.mean(),
  )


@pytest.mark.slow
def test_folds_of_a_smile_go_with_it_and_only_those(head):
  subject = someone(head, mouthSmile=1.0, cheekSquint=0.6)
  photo = np.tile(np.uint8(SKIN), (SIZE, SIZE, 1))
  photo[:, ::10] = np.uint8(0.7 * SKIN * np.array([1.15, 0.95, 0.8]))  # light in folds is warm
  own, rest = drawn(head, subject, photo)
  points = marks(head, subject)
  dark = lambda picture, at: (
    scipy.ndimage.minimum_filter(picture.mean(-1), 11)[int(at[1]), int(at[0])] / SKIN.mean()
  )
  cheeks, brow = [points[i] for i in (205, 425)], points[151]
  assert max(dark(own, at) for at in cheeks) < 0.82 and dark(own, brow) < 0.82
  assert dark(rest, brow) == pytest.approx(dark(own, brow), abs=0.04), (
    'a forehead is not pressed by a smile'
  )
  assert min(dark(rest, at) for at in cheeks) > 0.87, [dark(rest, at) for at in cheeks]
  warm = lambda picture, at: (
    np.max(
      (picture[..., 0] / np.maximum(picture[..., 2], 1.0))[
        int(at[1]) - 5 : int(at[1]) + 6, int(at[0]) - 5 : int(at[0]) + 6
      ]
    )
    / (SKIN[0] / SKIN[2])
  )
  assert min(warm(own, at) for at in cheeks) > 1.2
  assert max(warm(rest, at) for at in cheeks) < 1.12, (
    'a trace of their tint',
    [warm(rest, at) for at in cheeks],
  )


def a_sheet(rows, columns):
  """Numbers [rows, columns] of a sheet's vertices, and its mesh."""
  index = np.arange(rows * columns).reshape(rows, columns)
  sideways = [np.maximum(index - 1, index[:, :1]), np.minimum(index + 1, index[:, -1:])]
  around = np.stack([np.roll(index, 1, 0), np.roll(index, -1, 0), *sideways], -1)
  return index, types.SimpleNamespace(
    neighbours=around.reshape(-1, 4), degree=np.full(index.size, 4.0)
  )


def test_a_mirrored_cheek_has_the_light_of_its_own_side():
  """A sheet of even colour that is lit from the left; the right margin is not seen.

  Plain mirroring is far too bright there.
  """
  width = 41
  index, mesh = a_sheet(5, width)
  side = np.tile(np.linspace(-1, 1, width), 5)
  colours = (0.45 * np.exp(-0.24 * np.tanh(3 * side)))[:, None] * np.array([1, 0.8, 0.7])
  seen = np.float64(side < 0.6)
  mirror = index[:, ::-1].ravel()
  hidden = seen == 0
  ahead = np.tile([0.0, 0.0, 1.0], (index.size, 1))
  found = lit_as_here(
    np.where(hidden[:, None], 0.0, colours), mirror, seen, mesh, normals=ahead, skin=seen > 0
  )
  wrong = lambda values: np.abs(np.log(values[hidden] / colours[hidden])).max()
  assert wrong(found) < 0.1 < 0.4 < wrong(colours[mirror])


def test_the_hidden_flank_of_a_ridge_has_the_light_that_it_faces():
  """A ridge like a nose on a flat sheet, lit from the right by Lambert's law; its left flank is not
  seen. The right flank's colour is too bright there, and the flat sheet around has no word on it."""
  width = 61
  index, mesh = a_sheet(9, width)
  side = np.tile(np.linspace(-1, 1, width), 9)
  slope = -3 * side * np.exp(-((side / 0.25) ** 2))
  normals = np.stack([-slope, 0 * slope, 1 + 0 * slope], -1)
  normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
  light = np.array([0.5, 0.0, 0.87])
  colours = (0.12 + 0.4 * np.maximum(normals @ light, 0))[:, None] * np.array([1, 0.8, 0.7])
  hidden = (side < -0.04) & (side > -0.4)
  seen, mirror = 1.0 - hidden, index[:, ::-1].ravel()
  found = lit_as_here(
    np.where(hidden[:, None], 0.0, colours), mirror, seen, mesh, normals=normals, skin=seen > 0
  )
  wrong = lambda values: np.abs(np.log(values[hidden] / colours[hidden])).mean()
  assert wrong(found) < 0.5 * wrong(colours[mirror]) and wrong(found) < 0.1


def test_a_collar_moves_with_the_clothes_that_it_belongs_to():
  """Skin (joint 0) stands in the middle, cloth (joint 1) below; of the cloth's upper part, beside
  the skin, nothing is known."""
  colours, weights = np.full((20, 30, 3), 0.1), np.zeros((20, 30, 2))
  colours[:14, 10:20] = 0.8
  weights[:14, 10:20, 0] = 1
  weights[16:, :, 1] = 1
  known = weights.sum(-1) > 0
  found = spread_weights(weights, known, colours)
  np.testing.assert_allclose(found.sum(-1), 1, atol=1e-9)
  assert found[8:16, :9, 1].min() > 0.6 and found[10, 9, 1] > 0.8
  blind = spread_weights(weights, known, 0 * colours)
  assert blind[10, 9, 1] < 0.35, 'without colours it hangs on the skin'


def test_the_person_is_told_from_what_shines_through():
  """Known colours mixed by a soft matte: the person's comes back, and over the old background gives
  the picture again."""
  rows, columns = np.mgrid[:96, :96]
  matte = np.float32(np.clip((40 - np.hypot(rows - 48, columns - 48)) / 6 + 0.5, 0, 1))
  person = np.broadcast_to(np.float32([0.3, 0.2, 0.1]), (96, 96, 3))
  background = np.broadcast_to(np.float32([0.9, 0.95, 1.0]), (96, 96, 3))
  photo = matte[..., None] * person + (1 - matte[..., None]) * background
  found = person_colours(photo, matte, background)
  np.testing.assert_array_equal(found[..., 3], matte)
  np.testing.assert_allclose(found[matte > 0, :3], person[matte > 0], atol=0.02)
  assert np.abs(photo - person)[matte > 0].max() > 0.5, 'the picture itself has a light rim'
