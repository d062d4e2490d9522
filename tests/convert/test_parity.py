"""SMPL-X and FLAME of full size against package smplx: golden numbers always, the package itself
where installed."""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.convert import flame, smplx, stand_in
from exp_jax.heads import (
  HeadParams,
  contour_landmarks,
  head_joints,
  head_landmarks,
  head_vertices,
  load_head,
  neutral_params,
  save_head,
)
from exp_jax.heads.model import in_precision

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
STEP = {'smplx': 25, 'flame': 12}
POSES = ('vertices', 'joints', 'landmarks')


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
  """The stand-in model files of full size, written once (two seconds)."""
  folder = tmp_path_factory.mktemp('stand_in')
  stand_in.write_smplx(folder)
  stand_in.write_flame(folder)
  return folder


@pytest.fixture(scope='session')
def heads(folder):
  """Both models whole, in float64."""
  with jax.enable_x64(True):
    return {
      'smplx': smplx.convert(
        folder / 'SMPLX_NEUTRAL.npz', num_shape=300, whole=True, dtype=np.float64
      ),
      'flame': flame.convert(
        folder / 'FLAME_NEUTRAL.pkl',
        landmarks=folder / 'flame_static_embedding.pkl',
        contour=folder / 'flame_dynamic_embedding.npy',
        dtype=np.float64,
      ),
    }


@pytest.fixture(scope='module')
def golden():
  return np.load(GOLDEN / 'smplx.npz')


def params_of(golden, kind, k, dtype=np.float64):
  return HeadParams(
    *(
      jnp.asarray(golden[f'{kind}_{key}'][k], dtype)
      for key in ('shape', 'expression', 'pose', 'translation')
    )
  )


@jax.jit
def _points(head, params):
  return head_vertices(head, params), head_joints(head, params), head_landmarks(head, params)


_contour = jax.jit(contour_landmarks)


def as_the_package_looks(head):
  """Package smplx chooses FLAME's contour by the root alone."""
  return head.replace(contour_joint=0) if head.name == 'flame' else head


@pytest.mark.long
@pytest.mark.parametrize('dtype, tolerance', [(np.float64, 1e-6), (np.float32, 1e-5)])
@pytest.mark.parametrize('kind', ['smplx', 'flame'])
def test_equal_to_the_golden_numbers_of_package_smplx(kind, dtype, tolerance, heads, golden):
  """Metres. The rest in float64 is the package's 1e-8 added to every axis-angle."""
  with jax.enable_x64(True):
    head = in_precision(heads[kind], dtype)
    assert head.template.shape[0] == {'smplx': 10475, 'flame': 5023}[kind]
    for k in range(3):
      found = dict(zip(POSES, _points(head, params_of(golden, kind, k, dtype))))
      assert all(value.dtype == dtype for value in found.values())
      found['vertices'] = found['vertices'][:: STEP[kind]]
      for key in POSES:
        expected = golden[f'{kind}_{key}'][k]
        worst = np.abs(np.asarray(found[key], np.float64) - expected).max()
        assert worst <= tolerance, (
          f'{key}: {worst} m; if the stand-in files changed on purpose, run make_smplx_fixture.py'
        )


@pytest.mark.long
@pytest.mark.parametrize('kind', ['smplx', 'flame'])
def test_the_contour_equals_the_table_at_whole_degrees(kind, heads, golden):
  with jax.enable_x64(True):
    head = as_the_package_looks(heads[kind])
    for k in (1, 2):  # 17 degrees, and -50, which is beyond the table
      found = _contour(head, params_of(golden, kind, k))
      np.testing.assert_allclose(found, golden[f'{kind}_contour'][k], atol=1e-6)


def turned(head, degrees):
  """Zero parameters but for the yaw of the contour's joint."""
  zero = neutral_params(head)
  return zero.replace(pose=zero.pose.at[head.contour_joint, 1].set(jnp.radians(degrees)))


@pytest.mark.long
def test_the_contour_is_smooth_in_yaw_and_level_at_its_ends(heads):
  with jax.enable_x64(True):
    head = heads['flame']
    at = lambda head, d: contour_landmarks(head, turned(head, d))
    points = functools.partial(jax.jit(at), head)
    slope = functools.partial(jax.jit(jax.jacfwd(at, argnums=1)), head)
    step = 1e-4
    for degrees in (-38.7, -7.5, 0.4, 3.2, 12.1, 38.5):
      expected = (points(degrees + step) - points(degrees - step)) / (2 * step)
      np.testing.assert_allclose(slope(degrees), expected, atol=1e-6)
    for knot in (-39.0, -1.0, 0.0, 25.0, 39.0):  # the derivative does not jump where a row begins
      np.testing.assert_allclose(slope(knot - 1e-7), slope(knot + 1e-7), atol=1e-6)
    reverse = jax.jit(jax.grad(lambda p, head: contour_landmarks(head, p).sum()))(
      turned(head, 0.0), head
    )
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(reverse))


@pytest.mark.long
def test_head_and_shoulders_are_a_slice_of_the_whole(folder, heads, golden):
  """To 1e-12 m in float64, with the joints that are cut off at rest and the body turning about the
  spine joint."""
  with jax.enable_x64(True):
    part = smplx.convert(folder / 'SMPLX_NEUTRAL.npz', num_shape=300, dtype=np.float64)
    whole = heads['smplx']
    given = params_of(golden, 'smplx', 0)
    rows = [whole.joint(name) for name in part.joint_names]
    pose = jnp.zeros_like(given.pose).at[jnp.array(rows[1:])].set(given.pose[jnp.array(rows[1:])])
    full, _, points = _points(whole, given.replace(pose=pose))
    small, _, part_points = _points(part, given.replace(pose=pose[jnp.array(rows)]))
    index = {tuple(row): k for k, row in enumerate(np.asarray(whole.template))}
    kept = [index[tuple(row)] for row in np.asarray(part.template)]
    assert 5000 < len(kept) < 6500
    np.testing.assert_allclose(small, full[np.array(kept)], rtol=0, atol=1e-12)
    np.testing.assert_allclose(part_points, points, rtol=0, atol=1e-12)


@pytest.mark.long
def test_derivatives_match_finite_differences_and_are_finite_at_rest(heads):
  with jax.enable_x64(True):
    head = heads['flame']
    weight = np.random.default_rng(0).normal(size=(51, 3))
    landmark_score = lambda p, head: jnp.sum(weight * head_landmarks(head, p))
    score = functools.partial(jax.jit(landmark_score), head=head)
    slope = functools.partial(jax.jit(jax.grad(landmark_score)), head=head)
    rng = np.random.default_rng(1)
    away = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape)), neutral_params(head))
    for params in (neutral_params(head), away):
      gradient = slope(params)
      assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
      way = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)
      moved = lambda step: score(jax.tree.map(lambda p, w: p + step * w, params, way))  # noqa: B023
      expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
      found = sum(jnp.sum(g * w) for g, w in zip(jax.tree.leaves(gradient), jax.tree.leaves(way)))
      np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.long
def test_a_head_in_double_precision_survives_its_file(heads, tmp_path):
  with jax.enable_x64(True):
    small = heads['flame'].replace(
      shape_basis=heads['flame'].shape_basis[..., :3],
      joint_shape=heads['flame'].joint_shape[..., :3],
      shape_names=heads['flame'].shape_names[:3],
    )
    save_head(tmp_path / 'a.npz', small)
    again = load_head(tmp_path / 'a.npz', dtype=np.float64)
    assert again.source == small.source and 'sha256:' in again.source and again.contour_joint == 1
    for key in ('template', 'shape_basis', 'pose_basis', 'contour_barycentric'):
      np.testing.assert_array_equal(getattr(again, key), getattr(small, key))
  assert load_head(tmp_path / 'a.npz').template.dtype == np.float32


@pytest.mark.long
@pytest.mark.parametrize('kind', ['smplx', 'flame'])
def test_equal_to_package_smplx_where_it_is_installed(kind, folder, heads):
  pytest.importorskip('torch')
  pytest.importorskip('smplx')
  import torch

  spec = importlib.util.spec_from_file_location(
    'make_smplx_fixture', GOLDEN / 'make_smplx_fixture.py'
  )
  fixture = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(fixture)
  joints, chain = {'smplx': (55, (0, 3, 6, 9, 12)), 'flame': (5, (0, 1))}[kind]
  given = fixture.parameters(joints, chain, seed=99)
  worst_of = {}
  for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-5)):
    made = dict(zip((*POSES, 'contour'), fixture.forward(kind, str(folder), given, dtype)))
    with jax.enable_x64(True):
      numpy_dtype = np.float64 if dtype == torch.float64 else np.float32
      head = in_precision(heads[kind], numpy_dtype)
      for k in range(3):
        params = params_of({f'{kind}_{n}': v for n, v in given.items()}, kind, k, numpy_dtype)
        found = dict(
          zip(
            (*POSES, 'contour'),
            (*_points(head, params), _contour(as_the_package_looks(head), params)),
          )
        )
        for key in (*POSES, 'contour')[: 4 if k else 3]:
          worst = np.abs(found[key] - made[key][k]).max()
          worst_of[key, str(dtype)] = max(worst, worst_of.get((key, str(dtype)), 0))
          assert worst <= tolerance, (key, k, worst)
  print(kind, {' '.join(key): f'{value:.1e} m' for key, value in worst_of.items()})
