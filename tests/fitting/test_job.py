"""A list of inputs of which some are bad: each is told in a sentence, the others come out as if
they had been alone."""

import importlib.util
import json
import pathlib

import known_clips
import numpy as np
import pytest

from exp_jax.fitting import job
from exp_jax.heads.personalized import load_subject
from exp_jax.media.images import write_image

CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'fit_head.py'
HEIGHT, WIDTH = 256, 320
FIELDS = ('shape', 'expression', 'pose', 'translation', 'focal')


def config(**changes):
  spec = importlib.util.spec_from_file_location('fit_head', CONFIG)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  chosen = module.get_config('smoke')
  chosen.update(dict(offsets='no', networks='none', together=4) | changes)
  return chosen


@pytest.fixture(scope='module')
def points():
  return known_clips.clip(known_clips.makehuman(), 1).observation.points[0]


class Scripted:
  """Sees in a picture of one grey the faces that are listed under that grey."""

  def __init__(self, faces):
    self._faces = faces

  def __call__(self, image):
    found = self._faces[int(image[0, 0, 0])]
    flat = np.float32(found).reshape(-1, 478, 2)
    return (
      np.concatenate([flat, 0 * flat[..., :1]], -1),
      np.ones(len(flat)),
      np.full(image.shape[:2], 255, np.uint8),
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.ended = True


def pictures(folder, greys):
  for name, grey in greys.items():
    write_image(folder / f'{name}.png', np.full((HEIGHT, WIDTH, 3), grey, np.uint8))
  return [folder / f'{name}.png' for name in greys]


def alike(folder, one, two):
  first, second = (load_subject(folder / f'{name}.npz') for name in (one, two))
  for name in FIELDS:
    np.testing.assert_allclose(
      getattr(first, name), getattr(second, name), rtol=1e-5, atol=1e-5, err_msg=name
    )


@pytest.mark.long
def test_no_face_and_two_faces_harm_no_other(points, tmp_path, monkeypatch, capsys):
  faces = {
    0: [],
    10: [points],
    20: [points, points + [90, 4]],
    30: [np.float32([20, 9]) + 0.09 * points],
  }
  estimator = Scripted(faces)
  monkeypatch.setattr(job, 'FaceEstimator', lambda: estimator)
  inputs = pictures(tmp_path, {'nobody': 0, 'ann': 10, 'pair': 20, 'speck': 30, 'bob': 10})
  failed = job.fit_files(inputs, tmp_path / 'out', config())
  said = capsys.readouterr().err
  assert estimator.ended
  assert [pathlib.Path(name).stem for name in failed] == ['nobody', 'speck']
  assert 'error: no face found in nobody; use a picture where one face is clearly visible' in said
  assert 'error: the face in speck is only about' in said
  assert 'warning: pair shows two faces of similar size in frame 0' in said
  assert sorted(p.stem for p in (tmp_path / 'out').glob('*.npz')) == ['ann', 'bob', 'pair']
  assert json.loads(load_subject(tmp_path / 'out' / 'pair.npz').report)['warnings']
  alike(tmp_path / 'out', 'ann', 'bob')
  alike(tmp_path / 'out', 'ann', 'pair')


@pytest.mark.long
def test_a_focal_length_in_other_units_is_named_and_the_true_one_kept(
  points, tmp_path, monkeypatch, capsys
):
  """Ten times larger eyes make the same focal length an odd one."""
  near = (points - points.mean(0)) * 12 + [160, 128]
  monkeypatch.setattr(job, 'FaceEstimator', lambda: Scripted({10: [points], 20: [near]}))
  inputs = pictures(tmp_path, {'odd': 20, 'ann': 10})
  focal = 2.4 * 256
  assert len(job.fit_files(inputs, tmp_path / 'out', config(focal=focal))) == 1
  said = capsys.readouterr().err
  assert (
    'error: a focal length of 614.4 pixels would put the face in odd 0.0' in said
    and 'pixels of the input' in said
  )
  subject = load_subject(tmp_path / 'out' / 'ann.npz')
  np.testing.assert_allclose(subject.focal * subject.source_crop[0, 0, 0], focal, rtol=5e-3)
  assert len(job.fit_files(inputs, tmp_path / 'out', config(focal=35.0), again=True)) == 2, (
    'millimetres'
  )


def observed(folder, name, points, **maps):
  folder.mkdir(exist_ok=True)
  np.savez(folder / f'{name}.npz', points=points[None], **maps)


@pytest.mark.slow  # half a minute of compilation
def test_an_empty_matte_and_normals_without_values_harm_no_other(points, tmp_path, capsys):
  inputs = pictures(tmp_path, dict(plain=0, hollow=0, lost=0, some=0))
  size = (1, HEIGHT, WIDTH)
  facing = np.zeros((*size, 3), np.float32) + np.float32([0, 0, 1])
  seen, full = tmp_path / 'seen', np.full(size, 255, np.uint8)
  away = dict(normal_weights=np.zeros(size, np.float32))  # says nothing, but is of the same kind
  broken, part = np.full_like(facing, np.nan), facing.copy()
  part[0, 40:60] = np.nan
  observed(seen, 'plain', points, matte=full, normals=facing, **away)
  observed(seen, 'hollow', points, matte=0 * full, normals=facing, **away)
  observed(seen, 'lost', points, matte=full, normals=broken)
  observed(seen, 'some', points, matte=full, normals=part, **away)
  assert not job.fit_files(inputs, tmp_path / 'out', config(observations=f'{seen}'))
  said = capsys.readouterr().err
  assert 'warning: hollow: the matte is empty in all frames and is not used' in said
  assert f'warning: lost: {HEIGHT * WIDTH} pixels of the normals hold NaN and get weight 0' in said
  assert f'warning: some: {20 * WIDTH} pixels of the normals hold NaN and get weight 0' in said
  for name in ('hollow', 'lost', 'some'):
    alike(tmp_path / 'out', 'plain', name)
