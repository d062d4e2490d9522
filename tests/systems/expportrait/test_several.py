"""Several faces of a picture: each as it is drawn alone, and the rest of the picture untouched."""

import dataclasses
import types

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.heads.head_files import load_head
from exp_jax.heads.personalized import load_subject
from exp_jax.media.squares import Cut
from exp_jax.observe import shared_estimator
from exp_jax.systems.expportrait import animate, opening
from exp_jax.systems.expportrait.options import Options
from exp_jax.systems.expportrait.portrait import Portrait
from exp_jax.systems.expportrait.several import open_faces, pasted_faces, territory
from tests.small_portrait import Truth, make_small_portrait


def cut(left, top, side, size=40):
  scale = size / side
  return Cut(np.array([[scale, 0, -scale * left], [0, scale, -scale * top]]), (size, size))


def portrait_of(each):
  matrix = np.concatenate([each.matrix, [[0, 0, 1]]])[None]
  return types.SimpleNamespace(
    subject=types.SimpleNamespace(source_crop=matrix, image_size=each.size)
  )


def test_a_pixel_belongs_to_the_nearer_face():
  """Squares of one size that overlap by half: shares add up to one in each pixel of both."""
  cuts = [cut(0, 0, 40), cut(20, 0, 40)]
  one, two = territory(cuts, 0), territory(cuts, 1)
  np.testing.assert_allclose(one[:, 20:] + two[:, :20], 1, atol=1e-6)
  assert (one[20, :27] == 1).all() and (one[20, 33:] == 0).all()
  assert (territory(cuts[:1], 0) == 1).all()
  large = territory([cut(0, 0, 80), cut(60, 30, 20)], 0)
  at = lambda x, y: large[round(y / 2), round(x / 2)]
  assert at(40, 40) == 1 and at(70, 40) == 0 and at(50, 40) == 1


def test_outside_of_the_squares_not_a_bit_changes():
  image = np.random.default_rng(0).integers(0, 255, (60, 100, 3)).astype(np.uint8)
  cuts = [cut(5, 10, 40), cut(35, 12, 40), cut(80, 0, 10, 40)]
  colours = (0, 100, 200)
  frame = np.concatenate([np.full((40, 40, 3), c, np.uint8) for c in colours], 1)
  (found,) = pasted_faces(iter([frame]), list(map(portrait_of, cuts)), image)
  for each, colour, (x, y) in zip(cuts, colours, ((25, 30), (55, 32), (85, 5))):
    assert (found[y - 2 : y + 2, x - 2 : x + 2] == colour).all(), each
  assert (found[30, 14:38] == 0).all() and (found[30, 44:68] == 100).all()
  inside = np.zeros((60, 100), bool)
  inside[10:50, 5:45] = inside[12:52, 35:75] = inside[0:11, 79:91] = (
    True  # the coarse one reaches a pixel on
  )
  np.testing.assert_array_equal(found[~inside], image[~inside])
  assert (image == np.random.default_rng(0).integers(0, 255, image.shape)).all()


class Opening:
  """Opens faces; the third is too small."""

  def __init__(self):
    self.asked = []

  def __call__(self, **one):
    self.asked.append(one)
    if one['face'] == '2':
      raise UserError('too small')
    return types.SimpleNamespace(image=np.zeros((4, 4, 3)), frame=7)


def opened(face, warn=pytest.fail):
  opening, four = Opening(), lambda image: np.zeros((4, 478, 2))
  found = open_faces(opening, face, find=four, name='me.png', warn=warn)
  assert len(found) == len([one for one in opening.asked if one['face'] != '2'])
  return [(one['face'], one.get('source_frame')) for one in opening.asked]


def test_all_faces_but_those_that_cannot_be_fitted():
  said = []
  assert opened('all', said.append) == [('0', None), ('1', '7'), ('2', '7'), ('3', '7')]
  assert said == ['face 2 of me.png is left as it is: too small']
  assert opened('3+1') == [('1', None), ('3', '7')]
  with pytest.raises(UserError, match='too small'):
    opened('0+2')


@pytest.mark.parametrize('face', ('every', '1+', '0+x', '+'))
def test_other_choices_are_refused(face):
  with pytest.raises(UserError, match='all, or numbers joined by'):
    Options(face=face)


def test_one_face_alone_drives():
  with pytest.raises(UserError, match='the face of the driver'):
    Options(driving_face='all')


@pytest.mark.long
@pytest.mark.usefixtures('lightly_compiled')
def test_each_is_drawn_as_if_it_were_alone(tmp_path, monkeypatch):
  """Two people side by side: each half of the result is the square of that person."""
  try:
    load_head('makehuman')
  except UserError:
    pytest.skip('`make setup` makes the MakeHuman head')
  picture, points, matte = make_small_portrait(tmp_path)
  subject = load_subject(tmp_path / 'fits' / 'me.npz')
  both = np.concatenate([picture, picture[..., ::-1]], axis=1)
  two = np.stack([points, points + [64, 0]])
  monkeypatch.setattr(shared_estimator, 'FaceEstimator', lambda: Truth(points, matte))
  monkeypatch.setattr(Truth, '__call__', lambda *_: (two, np.ones(2), matte))

  def fitted(image, *, face=None, **_):
    crop = np.eye(3, dtype=np.float32)
    crop[0, 2] = -64 * (face or 0)
    own = dataclasses.replace(subject, source_crop=crop[None], report='{}')
    photo = image[:, 64 * (face or 0) :][:, :64]
    return Portrait(own, photo, matte, np.zeros((64, 64), bool))

  monkeypatch.setattr(opening, 'open_portrait', fitted)
  with animate.load(transfer='none', networks='none') as model:
    frames = {
      face: model.animate(
        both, tmp_path / 'motion.npz', options=Options(size=64, smoothing=0, face=face)
      ).frames()
      for face in ('all', '0', '1')
    }
    whole = model.animate(
      both, tmp_path / 'motion.npz', options=Options(size=64, smoothing=0, face='0+1')
    )
    assert whole.record['square']['size'] == [64, 128] and whole.record['face'] == '0+1'
    assert len(whole.record['other_portrait_fits']) == 1
    with pytest.raises(UserError, match='must be largest, a number'):
      model.portrait(both, options=Options(size=64, face='all'))
  assert frames['all'].shape == (3, 64, 128, 3)
  inner = slice(5, 58)  # within the feathered border
  for number, start in enumerate((0, 64)):
    alone = frames[str(number)]
    np.testing.assert_array_equal(
      frames['all'][:, inner, start:][:, :, inner], alone[:, inner, inner]
    )
    assert np.abs(alone[1].astype(int) - alone[0]).mean() > 3, 'it moves'
  np.testing.assert_array_equal(whole.frames(), frames['all'])
