import numpy as np
import pytest
from PIL import Image, ImageCms

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
  stored = {
    1: upright,
    2: upright[:, ::-1],
    3: upright[::-1, ::-1],
    4: upright[::-1],
    5: upright.swapaxes(0, 1),
    6: np.rot90(upright, 1),
    7: np.rot90(upright, 2).swapaxes(0, 1),
    8: np.rot90(upright, -1),
  }[orientation]
  exif = Image.Exif()
  exif[274] = orientation
  Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / 'a.png', exif=exif)
  np.testing.assert_array_equal(images.read_image(tmp_path / 'a.png'), upright)


def test_alpha_is_laid_on_white_and_16_bit_grey_is_scaled(tmp_path):
  Image.fromarray(np.zeros((3, 4, 4), np.uint8), 'RGBA').save(tmp_path / 'clear.png')
  assert (images.read_image(tmp_path / 'clear.png') == 255).all()
  Image.fromarray(np.full((3, 4), 65535, np.uint16)).save(tmp_path / 'deep.png')
  assert (images.read_image(tmp_path / 'deep.png') == 255).all()


def test_palettes_cmyk_and_animations_become_rgb(tmp_path):
  red = Image.new('RGB', (7, 5), (200, 30, 40))
  red.convert('P', palette=Image.Palette.ADAPTIVE).save(tmp_path / 'palette.png')
  red.convert('CMYK').save(tmp_path / 'cmyk.tif')
  red.save(
    tmp_path / 'moving.gif', save_all=True, append_images=[Image.new('RGB', (7, 5), (0, 0, 255))]
  )
  red.save(
    tmp_path / 'moving.webp',
    save_all=True,
    append_images=[Image.new('RGB', (7, 5), (0, 0, 255))],
    lossless=True,
  )
  red.convert('L').save(tmp_path / 'grey.jpg', quality=100)
  for name in ('palette.png', 'cmyk.tif', 'moving.gif', 'moving.webp'):
    pixels = images.read_image(tmp_path / name)
    assert pixels.shape == (5, 7, 3) and np.abs(pixels.astype(int) - [200, 30, 40]).max() <= 2, name
  grey = images.read_image(tmp_path / 'grey.jpg')
  assert grey.shape == (5, 7, 3) and (grey == grey[..., :1]).all()


def test_a_colour_profile_is_applied(tmp_path):
  """Under a profile of equal energy the same number means another colour; sRGB's own profile
  changes nothing."""
  red = Image.new('RGB', (4, 4), (200, 30, 40))
  own = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
  red.save(tmp_path / 'own.png', icc_profile=own)
  assert np.abs(images.read_image(tmp_path / 'own.png').astype(int) - [200, 30, 40]).max() <= 1
  lab = ImageCms.ImageCmsProfile(ImageCms.createProfile('LAB')).tobytes()
  red.save(tmp_path / 'foreign.png', icc_profile=lab)  # a profile that is not of RGB says nothing
  assert np.abs(images.read_image(tmp_path / 'foreign.png').astype(int) - [200, 30, 40]).max() <= 1
  swapped = bytearray(own)  # red and blue primaries change places
  at_red, at_blue = swapped.index(b'rXYZ'), swapped.index(b'bXYZ')
  swapped[at_red : at_red + 4], swapped[at_blue : at_blue + 4] = b'bXYZ', b'rXYZ'
  red.save(tmp_path / 'swapped.png', icc_profile=bytes(swapped))
  assert np.abs(images.read_image(tmp_path / 'swapped.png').astype(int) - [40, 30, 200]).max() <= 2


@pytest.mark.parametrize(
  'content, word',
  [(None, 'does not exist'), (b'', 'empty'), (b'hello', 'not an image'), ('truncated', 'damaged')],
)
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


@pytest.mark.parametrize(
  'name',
  ['-x.png', 'it\'s "q" $(touch owned).png', '人' * 83 + 'ab.png', 'x' * 251 + '.png'],
  ids=lambda name: name[:12],
)
def test_any_name_is_just_a_name(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  images.write_image(name, _picture())
  np.testing.assert_array_equal(images.read_image(name), _picture())
  assert [p.name for p in tmp_path.iterdir()] == [name]
