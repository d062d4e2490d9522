"""The subject file survives a round trip and refuses everything that is not one."""

import dataclasses

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import (
  Subject,
  check_head,
  frame_offsets,
  load_subject,
  save_subject,
  subject_vertices,
)

HEAD = load_head('procedural')
DENSE = densify(HEAD, 1)


def a_subject(**changes):
  rng = np.random.default_rng(0)
  frames, dense, moving = 3, len(DENSE.coarse_ids), np.array([5, 2, 900, 41, 7])
  numbers = lambda *shape: rng.normal(size=shape).astype(np.float32)
  subject = Subject(
    subject_id='a',
    head_name=HEAD.name,
    head_digest=head_digest(HEAD),
    levels=1,
    image_size=(48, 64),
    fps=25.0,
    shape=numbers(10),
    expression=numbers(frames, 10),
    pose=0.1 * numbers(frames, 6, 3),
    translation=numbers(frames, 3),
    focal=np.array([150.0, 151.0], np.float32),
    center=np.array([32.0, 24.0], np.float32),
    times=np.arange(frames, dtype=np.float32) / 25,
    static_offsets=0.01 * numbers(dense, 3),
    dynamic_vertices=moving.astype(np.int32),
    dynamic_offsets=0.001 * numbers(frames, len(moving), 3),
    light=numbers(9, 3),
    report='{"loss": 1.5}',
  )
  return dataclasses.replace(subject, **changes)


def test_round_trip(tmp_path):
  subject = a_subject()
  save_subject(tmp_path / 'a.npz', subject)
  again = load_subject(tmp_path / 'a.npz')
  for field in dataclasses.fields(Subject):
    before, after = getattr(subject, field.name), getattr(again, field.name)
    if field.name == 'dynamic_offsets':  # float16: three digits
      np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-7)
    elif isinstance(before, np.ndarray):
      np.testing.assert_array_equal(after, before)
      assert after.dtype == before.dtype
    else:
      assert after == before, field.name
  check_head(again, HEAD, DENSE)
  offsets = frame_offsets(again, 1)
  assert np.flatnonzero(np.abs(offsets).sum(1)).tolist() == sorted(again.dynamic_vertices.tolist())
  assert subject_vertices(HEAD, DENSE, again, 2).shape == (len(DENSE.coarse_ids), 3)


@pytest.mark.parametrize(
  'change, words',
  [
    ({'shape': np.full(10, np.nan)}, 'NaN'),
    ({'pose': np.zeros((2, 6, 3))}, 'pose'),
    ({'static_offsets': np.zeros((7, 3))}, 'below 7'),
    ({'dynamic_offsets': np.full((3, 5, 3), 1e6)}, 'too large'),
    ({'focal': np.array([0.0, 1.0])}, 'positive'),
    ({'fps': 0.0}, 'positive'),
    ({'report': '{'}, 'JSON'),
    # fmt: skip
    ({'dynamic_vertices': np.array([1, 1, 2, 3, 4])}, 'distinct'),
    ({'albedo': np.zeros((4, 3))}, 'albedo'),
  ],
)
def test_an_inconsistent_subject_is_not_written(change, words, tmp_path):
  with pytest.raises(UserError, match=words):
    save_subject(tmp_path / 'a.npz', a_subject(**change))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('damage, words', [
  (lambda a: a.update(expression=a['expression'][:, None]), 'expression'),
  (lambda a: a.update(pose=a['pose'] * np.inf), 'NaN or infinite'),
  (lambda a: a.update(shape=np.array(['x'] * 10)), 'wrong kind'),
  (lambda a: a.update(version=np.array(99)), 'version 99'),
  (lambda a: a.update(image_size=np.array([48])), 'wrong kind'),
  (lambda a: a.pop('fps'), 'missing'), (lambda a: a.pop('pose'), 'pose'),
  (lambda a: a.pop('format'), 'not a subject')])  # fmt: skip
def test_a_damaged_file_is_refused(damage, words, tmp_path):
  save_subject(tmp_path / 'a.npz', a_subject())
  arrays = dict(np.load(tmp_path / 'a.npz'))
  damage(arrays)
  np.savez(tmp_path / 'bad.npz', **arrays)
  with pytest.raises(UserError, match=words):
    load_subject(tmp_path / 'bad.npz')


def test_truncated_pickled_and_foreign_files_are_refused(tmp_path):
  save_subject(tmp_path / 'a.npz', a_subject())
  whole = (tmp_path / 'a.npz').read_bytes()
  for cut in (0, 10, len(whole) // 2, len(whole) - 30):
    (tmp_path / 'cut.npz').write_bytes(whole[:cut])
    with pytest.raises(UserError, match='cut.npz'):
      load_subject(tmp_path / 'cut.npz')
  np.savez(
    tmp_path / 'pickled.npz',
    format=np.array('exp_jax subject'),
    shape=np.array([print], dtype=object),
  )
  with pytest.raises(UserError, match='pickled'):
    load_subject(tmp_path / 'pickled.npz')


def test_a_subject_of_another_head_is_refused():
  with pytest.raises(UserError, match='was made with head'):
    check_head(a_subject(head_digest='0' * 16), HEAD)
  with pytest.raises(UserError, match='level'):
    check_head(a_subject(), HEAD, densify(HEAD, 2))
