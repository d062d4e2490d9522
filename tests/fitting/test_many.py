"""Many subjects in one program: equal to one by one, padding unseen, the mean of the dynamic field
gone."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.fitting.coarse.clips import bucket
from exp_jax.fitting.coarse.coarse_fit import CoarseFit
from exp_jax.fitting.job import part_of
from exp_jax.fitting.offsets.energies import TERMS
from exp_jax.fitting.offsets.fit import fit_many, fit_offsets
from exp_jax.fitting.offsets.losses import LOSS_TERMS
from exp_jax.fitting.offsets.options import OffsetOptions
from exp_jax.fitting.offsets.targets import Targets, make_targets, take_frame
from exp_jax.geometry import project
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.skinning import head_landmarks

MAP = 24
OPTIONS = OffsetOptions(steps=6, polish=2, batch=2)


@pytest.fixture(scope='module')
def head():
  return make_head()


def make_head():
  """The procedural head with 478 points on its face."""
  head = load_head('procedural')
  on_face = np.asarray(head.regions['face'])[np.asarray(head.faces)].min(1) > 0.5
  faces = np.random.default_rng(0).choice(np.flatnonzero(on_face), 478)
  return head.replace(
    landmark_faces=jnp.asarray(faces),
    landmark_barycentric=jnp.full((478, 3), 1 / 3),
    landmark_names=tuple(map(str, range(478))),
  )


def a_subject(head, frames: int, seed: int):
  """(coarse fit, points, found, targets) with random normals, depth and matte."""
  rng = np.random.default_rng(seed)
  pose = np.zeros((frames, 6, 3), np.float32)
  pose[:, 2, 1] = np.linspace(-0.3, 0.3, frames)
  expression = jnp.asarray(0.1 * rng.random((frames, 10)), jnp.float32)
  place = jnp.tile(jnp.array([0, 0.05, -0.8]), (frames, 1))
  fit = CoarseFit(
    jnp.zeros(10),
    expression,
    jnp.asarray(pose),
    place,
    jnp.float32(560),
    jnp.zeros(frames),
    (256, 256),
  )
  points = np.stack(
    [project(head_landmarks(head, fit.params(t)), fit.camera())[0] for t in range(frames)]
  )
  normals = rng.normal(size=(frames, MAP, MAP, 3)) + [0, 0, 3]
  maps = dict(
    normals=normals,
    depth=rng.random((frames, MAP, MAP)),
    matte=np.full((frames, 256, 256), 255, np.uint8),
  )
  return fit, points, np.ones(frames, bool), make_targets(points, MAP, **maps)


@pytest.mark.long
@pytest.mark.usefixtures('lightly_compiled')
def test_many_at_once_equal_one_by_one_and_padding_is_never_seen(head):
  dense = densify(head, 0)
  subjects = [a_subject(head, 3, seed=1), a_subject(head, 5, seed=2)]
  assert bucket(3) == 3 and bucket(5) == 6
  many = fit_many(head, dense, *zip(*subjects), options=OPTIONS, seed=4)
  vectorised = fit_many(head, dense, *zip(*subjects), options=OPTIONS, seed=4, at_once=2)
  for one, other in zip(many, vectorised):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
      # metres, radians, losses of order one: rounding of another order of sums
      np.testing.assert_allclose(a, b, atol=1e-5)
  assert many[0].dynamic.shape[0] == 3 and many[1].pose.shape == (5, 6, 3)
  # the clip of five alone is padded to six in the same way, and its batches are drawn alike
  alone = fit_offsets(head, dense, *subjects[1], options=OPTIONS, seed=4)
  for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(many[1])):
    np.testing.assert_allclose(a, b, atol=1e-5)
  for fitted in many:
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted))
    assert np.abs(fitted.dynamic).max() > 1e-6, 'it moves'
    assert np.linalg.norm(fitted.dynamic.mean(0), axis=-1).max() < 1e-6, (
      'the mean belongs to the static field'
    )
    assert fitted.losses.shape == (OPTIONS.steps, len(LOSS_TERMS)) and LOSS_TERMS[:-1] == TERMS


@pytest.mark.slow
def test_devices_share_subjects_and_nothing_changes(head, tmp_path):
  """Three subjects on two devices, in a process of its own, equal those of one device."""
  dense = densify(head, 0)
  subjects = [a_subject(head, 3, seed=k) for k in range(3)]
  here = fit_many(head, dense, *zip(*subjects), options=OPTIONS)
  script = tmp_path / 'two_devices.py'
  script.write_text(
    'import sys; sys.path.insert(0, sys.argv[1])\n'
    'import jax, numpy as np, test_many as t\n'
    'assert jax.local_device_count() == 2\n'
    'head = t.make_head(); dense = t.densify(head, 0)\n'
    'fits = t.fit_many(head, dense, *zip(*[t.a_subject(head, 3, seed=k) for k in range(3)]), '
    'options=t.OPTIONS)\n'
    'assert all(f.static.devices() for f in fits)\n'
    'np.savez(sys.argv[2], *[np.asarray(leaf) for f in fits for leaf in jax.tree.leaves(f)])\n'
  )
  out = tmp_path / 'fits.npz'
  root = pathlib.Path(__file__).parents[2]
  env = os.environ | {
    'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': str(root),
  }
  subprocess.run([sys.executable, script, os.path.dirname(__file__), out], env=env, check=True)
  leaves = [leaf for fit in here for leaf in jax.tree.leaves(fit)]
  with np.load(out) as there:
    for name, leaf in zip(there.files, leaves, strict=True):
      np.testing.assert_allclose(there[name], leaf, atol=1e-5)


def test_buckets_grow_by_halves():
  sizes = [bucket(n) for n in range(1, 200)]
  assert sorted(set(sizes)) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
  assert all(size >= n for n, size in enumerate(sizes, 1))


def test_subjects_of_different_kinds_are_refused(head):
  one, two = a_subject(head, 3, seed=1), a_subject(head, 3, seed=2)
  other = two[3].replace(depth=None)
  with pytest.raises(ValueError, match='equal image sizes and kinds of maps'):
    fit_many(head, densify(head, 0), *zip(one, (*two[:3], other)), options=OPTIONS)


def test_bad_pixels_are_not_believed():
  points = np.full((2, 478, 2), 8.0)
  normals = np.tile(np.array([0, 0, 2.0]), (2, 16, 16, 1))
  normals[0, 3, 4] = np.nan
  normals[1, 5, 6] = 0
  depth = np.ones((2, 16, 16))
  depth[1, 7, 8] = np.inf
  matte = np.full((2, 16, 16), 255, np.uint8)
  matte[0, :, :6] = 0
  targets = make_targets(points, 16, normals=normals, depth=depth, matte=matte)
  inside = np.asarray(targets.inside)
  assert inside[0, 3, 4] == inside[1, 5, 6] == inside[1, 7, 8] == 0
  assert not inside[0, :, :8].any() and inside[0, 8:, 9:].all(), (
    'two pixels inside the edge of the matte'
  )
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(targets))
  np.testing.assert_allclose(np.linalg.norm(take_frame(targets, 0).normals[8, 8]), 1, atol=1e-6)
  with pytest.raises(ValueError, match='normals has 1 frames, the landmarks have 2'):
    make_targets(points, 16, normals=normals[:1])


def test_whole_factors_average_and_others_take_the_nearest():
  frames = np.zeros((1, 8, 8, 3), np.uint8)
  frames[0, ::2] = 255
  halved = make_targets(np.zeros((1, 478, 2)), 4, frames=frames)
  assert isinstance(halved, Targets)
  # the mean of black and white in sRGB, a byte, made linear
  np.testing.assert_allclose(
    take_frame(halved, 0).image, ((128 / 255 + 0.055) / 1.055) ** 2.4, atol=1e-6
  )
  thirds = make_targets(np.zeros((1, 478, 2)), 3, frames=frames)
  assert set(np.unique(take_frame(thirds, 0).image)) <= {0.0, 1.0}


def test_maps_come_back_as_they_were_given_to_a_byte():
  """Normals to half a degree, shares and colours to half a byte, depth up to scale and shift."""
  rng = np.random.default_rng(0)
  normals = rng.normal(size=(2, 8, 8, 3))
  normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
  frames, depth = rng.integers(0, 256, (2, 8, 8, 3), np.uint8), rng.normal(700, 40, (2, 8, 8))
  targets = make_targets(np.zeros((2, 478, 2)), 8, normals=normals, depth=depth, frames=frames)
  taken = take_frame(targets, jnp.array([1, 0]))
  angle = np.degrees(np.arccos(np.clip((np.asarray(taken.normals) * normals[::-1]).sum(-1), -1, 1)))
  assert angle.max() < 0.5
  srgb = frames[::-1] / 255
  np.testing.assert_allclose(
    taken.image, np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4), atol=1e-6
  )
  slope, shift = np.polyfit(np.asarray(taken.depth).ravel(), depth[::-1].ravel(), 1)
  np.testing.assert_allclose(slope * np.asarray(taken.depth) + shift, depth[::-1], atol=0.1)
  assert sum(leaf.nbytes for leaf in jax.tree.leaves(targets)) == 2 * 64 * (3 + 2 + 3 + 1)


def test_parts_cover_all_inputs_once():
  inputs = list(range(7))
  parts = [part_of(inputs, f'{k}/3') for k in range(3)]
  assert sorted(sum(parts, [])) == inputs and parts[1] == [1, 4]
  for wrong in ('3/3', '1', 'a/2', '-1/2', '1/0'):
    with pytest.raises(UserError, match='--part must be K/N'):
      part_of(inputs, wrong)
