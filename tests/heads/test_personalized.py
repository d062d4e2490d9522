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
    translation=0.1 * numbers(frames, 3) - np.float32([0, 0, 1]),
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
    ({'fps': np.inf}, 'frame rate'),
    ({'fps': 1e-5}, 'frame rate'),
    ({'fps': 1e7}, 'frame rate'),
    ({'times': np.array([0, 0.2, 0.1])}, 'times must increase: frame 2'),
    ({'times': np.array([0, 0.1, 0.1])}, 'times must increase'),
    ({'times': np.array([0, 1e-6, 2e-6])}, 'apart'),
    ({'times': np.array([0, 1, 1e9])}, 'times reach'),
    ({'pose': np.full((3, 6, 3), 1e30)}, 'pose reaches'),
    ({'expression': np.full((3, 10), 3e38)}, 'expression reaches'),
    ({'shape': np.full(10, -1e5)}, 'shape reaches'),
    (
      {'translation': np.float32([[0, 0, -1], [0, 0, 0.2], [0, 0, -1]])},
      'in front of the camera in frame 1',
    ),
    (
      {'translation': np.float32([[0, 0, -1], [0, 0, 0], [0, 0, -1]])},
      'in front of the camera in frame 1',
    ),
    ({'translation': np.full((3, 3), -1e6)}, 'translation reaches'),
    ({'static_offsets': np.full((len(DENSE.coarse_ids), 3), 5.0)}, 'static_offsets reaches'),
    ({'image_size': (10**6, 10**6)}, 'image_size'),
    ({'image_size': (0, 64)}, 'image_size'),
    ({'image_size': (16000, 16000)}, 'image_size'),
    ({'focal': np.array([1e-3, 150])}, 'focal'),
    ({'focal': np.array([1e9, 150])}, 'focal'),
    ({'center': np.array([32, 1e7])}, 'center'),
    ({'levels': -1}, 'levels'),
    ({'levels': 9}, 'levels'),
    ({'light': np.full((9, 3), 1e6)}, 'light reaches'),
    ({'albedo': np.full((len(DENSE.coarse_ids), 3), 30)}, 'albedo runs'),
    ({'source_crop': np.zeros((3, 3, 3))}, 'affine'),
    ({'source_crop': np.tile(np.diag([1, 0, 1]), (3, 1, 1))}, 'inverted'),
    ({'source_crop': np.tile([[1, 1, 0], [1, 1.0001, 0], [0, 0, 1]], (3, 1, 1))}, 'inverted'),
    ({'source_crop': np.tile([[1, 0, 1e9], [0, 1, 0], [0, 0, 1]], (3, 1, 1))}, 'moves'),
    ({'report': '[]'}, 'must be a JSON object'),
    ({'report': '{"warnings": "many"}'}, 'list of texts'),
    ({'report': '{"landmark_error_share_of_eye_distance": "much"}'}, 'must be a number'),
    ({'report': '[' * 100_000}, 'JSON'),
    ({'subject_id': 'a' * 1000}, 'subject_id'),
    ({'shape': np.full(10, np.nan)}, 'NaN'),
    ({'pose': np.zeros((2, 6, 3))}, 'pose'),
    ({'static_offsets': np.zeros((7, 3))}, 'below 7'),
    ({'dynamic_offsets': np.full((3, 5, 3), 1e6)}, 'too large'),
    ({'focal': np.array([0.0, 1.0])}, 'positive'),
    ({'fps': 0.0}, 'positive'),
    ({'report': '{'}, 'JSON'),
    ({'dynamic_vertices': np.array([1, 1, 2, 3, 4])}, 'distinct'),
    ({'albedo': np.zeros((4, 3))}, 'albedo'),
  ],
)
def test_an_inconsistent_subject_is_not_written(change, words, tmp_path):
  with pytest.raises(UserError, match=words):
    save_subject(tmp_path / 'a.npz', a_subject(**change))
  assert not list(tmp_path.iterdir())


def test_what_a_fit_can_give_is_within_the_bounds(tmp_path):
  """The widest that people film: 0.12 m and 1000 m away, uneven times of a 1000 Hz camera, a turned
  and mirrored crop."""
  crop = np.tile([[0, -3.0, 900], [-3.0, 0, 40], [0, 0, 1]], (3, 1, 1))
  for depth, focal in ((0.12, 40.0), (1000.0, 2e5)):
    save_subject(
      tmp_path / 'a.npz',
      a_subject(
        translation=np.tile([0, 0, -depth], (3, 1)),
        focal=np.full(2, focal),
        times=np.array([3600, 3600.001, 3600.5]),
        fps=1000.0,
        source_crop=crop,
        albedo=np.ones((len(DENSE.coarse_ids), 3)),
        report='{"warnings": ["a"]}',
      ),
    )
    assert load_subject(tmp_path / 'a.npz').num_frames == 3


def test_coefficients_of_another_number_than_the_head_has():
  for name, values in (
    ('shape', np.zeros(9)),
    ('expression', np.zeros((3, 11))),
    ('pose', np.zeros((3, 5, 3))),
  ):
    with pytest.raises(UserError, match=f'{name} has'):
      check_head(a_subject(**{name: values}), HEAD)


@pytest.mark.parametrize(
  'damage, words',
  [
    (lambda a: a.update(image_size=np.array([np.inf, 48])), 'wrong kind'),
    (lambda a: a.update(levels=np.array(1e300)), 'levels'),
    (lambda a: a.update(levels=np.array(0.5)), 'levels is 0.5, not a whole number'),
    (lambda a: a.update(image_size=np.array([48.5, 64])), 'image_size is 48.5, not a whole number'),
    (lambda a: a.update(dynamic_vertices=np.full(5, np.nan)), 'whole numbers'),
    (lambda a: a.update(expression=a['expression'].astype(np.float64) + 1e300), 'NaN or infinite'),
    (lambda a: a.update(expression=a['expression'][:, None]), 'expression'),
    (lambda a: a.update(pose=a['pose'] * np.inf), 'NaN or infinite'),
    (lambda a: a.update(shape=np.array(['x'] * 10)), 'wrong kind'),
    (lambda a: a.update(version=np.array(99)), 'version 99'),
    (lambda a: a.update(image_size=np.array([48])), 'wrong kind'),
    (lambda a: a.pop('fps'), 'missing'),
    (lambda a: a.pop('pose'), 'pose'),
    (lambda a: a.pop('format'), 'not a subject'),
  ],
)
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


@pytest.mark.parametrize(
  'form',
  [
    lambda v: v.astype('>f4') if v.dtype.kind == 'f' else v,
    lambda v: v.astype(np.float64) if v.dtype.kind == 'f' else v,
    lambda v: np.asfortranarray(v),
    np.atleast_1d,
    lambda v: v.astype('>i8') if v.dtype.kind == 'i' else v,
    lambda v: v.astype(float) if v.dtype.kind == 'i' else v,
  ],
  ids=['big endian', 'double', 'columns', 'one axis', 'wide', 'floating'],
)
def test_every_form_of_the_same_numbers_is_read(form, tmp_path):
  save_subject(tmp_path / 'a.npz', a_subject())
  np.savez(
    tmp_path / 'b.npz', **{name: form(value) for name, value in np.load(tmp_path / 'a.npz').items()}
  )
  first, second = load_subject(tmp_path / 'a.npz'), load_subject(tmp_path / 'b.npz')
  for field in dataclasses.fields(first):
    before, after = getattr(first, field.name), getattr(second, field.name)
    assert np.array_equal(before, after) and getattr(before, 'dtype', None) == getattr(
      after, 'dtype', None
    ), field.name
