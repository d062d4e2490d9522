import numpy as np
import pytest
from PIL import Image

from exp_jax.errors import UserError
from exp_jax.media import images


def _picture():
  rng = np.random.default_rng(0)
  return rng.integers(0, 255, (5, 7, 3), np.uint8)


def test_png_round_trip_and_nothing_else_is_left(tmp_path):
  images.write_image(tmp_path / 'a.png', _picture())
  np.testing.assert_array_equal(images.read_image(tmp_path / 'a.png'), _picture())
  assert [p.name for p in tmp_path.iterdir()] == ['a.png']


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
  upright = _picture()
  stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
            5: upright.swapaxes(0, 1), 6: np.rot90(upright, 1), 7: np.rot90(upright, 2).swapaxes(0, 1),
            8: np.rot90(upright, -1)}[orientation]
  exif = Image.Exif()
  exif[274] = orientation
  Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / 'a.png', exif=exif)
  np.testing.assert_array_equal(images.read_image(tmp_path / 'a.png'), upright)


def test_alpha_is_laid_on_white_and_16_bit_grey_is_scaled(tmp_path):
  Image.fromarray(np.zeros((3, 4, 4), np.uint8), 'RGBA').save(tmp_path / 'clear.png')
  assert (images.read_image(tmp_path / 'clear.png') == 255).all()
  Image.fromarray(np.full((3, 4), 65535, np.uint16)).save(tmp_path / 'deep.png')
  assert (images.read_image(tmp_path / 'deep.png') == 255).all()


@pytest.mark.parametrize('content, word', [(None, 'does not exist'), (b'', 'empty'), (b'hello', 'not an image'),
                                           ('truncated', 'damaged')])
def test_bad_files_are_one_sentence(tmp_path, content, word):
  path = tmp_path / 'bad.png'
  if content == 'truncated':
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
  elif content is not None:
    path.write_bytes(content)
  with pytest.raises(UserError, match=word) as error:
    images.read_image(path)
  assert 'bad.png' in str(error.value) and '\n' not in str(error.value)


def test_a_bomb_is_refused_from_its_header(tmp_path, monkeypatch):
  images.write_image(tmp_path / 'a.png', _picture())
  monkeypatch.setattr(images, 'MAX_PIXELS', 10)
  with pytest.raises(UserError, match='more than the limit'):
    images.read_image(tmp_path / 'a.png')


@pytest.mark.parametrize('name', ['-x.png', "it's \"q\" $(touch owned).png", '人' * 83 + 'ab.png', 'x' * 251 + '.png'],
                         ids=lambda name: name[:12])
def test_any_name_is_just_a_name(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  images.write_image(name, _picture())
  np.testing.assert_array_equal(images.read_image(name), _picture())
  assert [p.name for p in tmp_path.iterdir()] == [name]
