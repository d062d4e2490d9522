"""Pictures whose name, size, text, profile or numbers are not what readers expect."""

import io
import os
import pathlib
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, PngImagePlugin, WebPImagePlugin

from exp_jax.errors import UserError
from exp_jax.media import footage, images
from tests.media.films import moving_square, write_film

FOREIGN = [
  ValueError('no'),
  OSError('no'),
  AssertionError(),
  MemoryError(),
  RecursionError('deep'),
  SyntaxError('no'),
  struct.error('no'),
  ZeroDivisionError('no'),
  KeyError('no'),
]


def _picture(height=40, width=56):
  return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def _png(path, *chunks, pixels=None):
  """A PNG file with chunks (kind, data) after its header; a kind with a '!' has a wrong check
  sum."""
  stream = io.BytesIO()
  Image.fromarray(_picture() if pixels is None else pixels).save(stream, 'PNG')
  content, extra = stream.getvalue(), b''
  for kind, data in chunks:
    name = kind.strip('!').encode()
    extra += (
      struct.pack('>I', len(data))
      + name
      + data
      + struct.pack('>I', zlib.crc32(name + data) ^ kind.endswith('!'))
    )
  path.write_bytes(content[:33] + extra + content[33:])


@pytest.mark.parametrize('suffix', ['.jfif', '.jpe', '.png', '.mp4', '', '.JPG'])
def test_a_picture_is_read_by_its_content_whatever_its_name(tmp_path, suffix):
  path = tmp_path / f'portrait{suffix}'
  Image.fromarray(_picture()).save(path, 'JPEG')
  assert footage.is_image(path) and footage.read_footage(path).frames.shape == (1, 40, 56, 3)


def test_a_film_is_read_by_its_content_whatever_its_name(tmp_path):
  write_film(tmp_path / 'film.mp4', np.arange(3), 25, frames=moving_square(3))
  (tmp_path / 'film.mp4').rename(tmp_path / 'film.jpg')
  assert (
    not footage.is_image(tmp_path / 'film.jpg')
    and len(footage.read_footage(tmp_path / 'film.jpg').frames) == 3
  )


@pytest.mark.parametrize('kind', ['JPEG2000', 'TGA', 'PPM', 'AVIF', 'BMP', 'TIFF'])
def test_formats_of_the_list_are_read(tmp_path, kind):
  flat = np.full((40, 56, 3), (200, 120, 60), np.uint8)
  Image.fromarray(flat).save(tmp_path / 'a.bin', kind)
  assert np.abs(images.read_image(tmp_path / 'a.bin').astype(int) - flat).max() <= 3


@pytest.mark.parametrize('kind', ['EPS', 'PCX', 'SGI', 'IM', 'ICO'])
def test_other_formats_are_refused_and_no_program_is_started(tmp_path, monkeypatch, kind):
  program = tmp_path / 'bin' / 'gs'
  program.parent.mkdir()
  program.write_text(f'#!/bin/sh\ntouch {tmp_path}/started\nexit 1\n')
  program.chmod(0o755)
  monkeypatch.setenv('PATH', str(program.parent), prepend=os.pathsep)
  Image.fromarray(_picture()).save(tmp_path / 'a.jpg', kind)
  with pytest.raises(UserError, match='not an image that can be read.*JPEG, PNG'):
    images.read_image(tmp_path / 'a.jpg')
  assert not (tmp_path / 'started').exists()


@pytest.mark.parametrize(
  'chunk',
  [
    ('zTXt', b'workflow\0\0' + zlib.compress(bytes(60_000_000))),
    ('iTXt', b'w\0\1\0\0\0' + zlib.compress(bytes(60_000_000))),
    ('tEXt', b'workflow\0' + b'0,' * 700_000),
    ('iCCP', b'p\0\0' + zlib.compress(bytes(60_000_000))),
    ('zTXt!', b'workflow\0\0' + zlib.compress(b'text')),
    ('iCCP!', b'p\0\0' + zlib.compress(bytes(100))),
    ('iCCP', b'p\0\0junk'),
    ('zTXt', b'workflow\0\0junk'),
  ],
  ids=lambda chunk: f'{chunk[0]} {len(chunk[1])}',
)
def test_text_and_profiles_that_are_too_large_or_damaged_do_not_hide_the_picture(tmp_path, chunk):
  _png(tmp_path / 'a.png', chunk)
  tracemalloc.start()
  try:
    np.testing.assert_array_equal(images.read_image(tmp_path / 'a.png'), _picture())
    assert tracemalloc.get_traced_memory()[1] < 25_000_000
  finally:
    tracemalloc.stop()


def test_many_texts_are_bounded_together_and_small_ones_are_kept(tmp_path):
  # 80 MB together
  texts = [
    ('zTXt', f'key{i}'.encode() + b'\0\0' + zlib.compress(bytes(200_000))) for i in range(400)
  ]
  _png(tmp_path / 'a.png', ('tEXt', b'Comment\0kept'), *texts)
  with images.open_picture(tmp_path / 'a.png') as image:
    image.load()
    assert image.info['Comment'] == 'kept' and sum(len(v) for v in image.text.values()) < 5_000_000


def _swapped_profile():
  """sRGB whose red and blue primaries change places."""
  profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes())
  red, blue = profile.index(b'rXYZ'), profile.index(b'bXYZ')
  profile[red : red + 4], profile[blue : blue + 4] = b'bXYZ', b'rXYZ'
  return bytes(profile)


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'P', 'PA', 'transparent palette'])
@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_a_profile_holds_beside_transparency_and_for_palettes(tmp_path, mode, suffix):
  if (mode, suffix) in (('PA', 'png'), ('transparent palette', 'tif')):
    pytest.skip('the format has no such pictures')
  image, options = Image.new('RGB', (6, 5), (200, 30, 40)), {}
  if mode == 'RGBA':
    image.putalpha(255)
  elif mode != 'RGB':
    image = image.convert('P', palette=Image.Palette.ADAPTIVE)
  if mode == 'PA':
    image = image.convert('PA')
  if mode == 'transparent palette':
    options['transparency'] = 255
  image.save(tmp_path / f'a.{suffix}', icc_profile=_swapped_profile(), **options)
  assert np.abs(images.read_image(tmp_path / f'a.{suffix}').astype(int) - [40, 30, 200]).max() <= 2


def test_transparency_is_laid_on_white_after_the_profile(tmp_path):
  Image.new('RGBA', (6, 5), (200, 30, 40, 0)).save(
    tmp_path / 'clear.png', icc_profile=_swapped_profile()
  )
  assert (images.read_image(tmp_path / 'clear.png') == 255).all()
  Image.new('RGBA', (6, 5), (0, 0, 0, 51)).save(tmp_path / 'half.png')
  assert (images.read_image(tmp_path / 'half.png') == 204).all()
  Image.new('LA', (6, 5), (0, 51)).save(tmp_path / 'grey.png')
  assert (images.read_image(tmp_path / 'grey.png') == 204).all()


def test_strips_join_without_a_seam(tmp_path):
  """A picture of more than one strip, which has 2^20 pixels, equals what was written."""
  tall = np.random.default_rng(1).integers(0, 255, (1500, 1100, 3), np.uint8)
  Image.fromarray(tall).save(tmp_path / 'a.bmp')
  np.testing.assert_array_equal(images.read_image(tmp_path / 'a.bmp'), tall)


def test_float_pictures_from_0_to_1_are_read(tmp_path):
  values = np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7)
  Image.fromarray(values).save(tmp_path / 'a.tif')
  np.testing.assert_array_equal(
    images.read_image(tmp_path / 'a.tif'), np.repeat(np.rint(values * 255)[..., None], 3, 2)
  )


@pytest.mark.parametrize(
  'values, words',
  [
    (np.float32([[0, 255]]), 'from 0 to 255'),
    (np.float32([[-1, 1]]), 'from -1 to 1'),
    (np.float32([[0, np.nan]]), 'not finite'),
    (np.int32([[0, 70000]]), 'from 0 to 70000'),
  ],
)
def test_numbers_without_a_known_white_are_refused_by_name(tmp_path, values, words):
  Image.fromarray(values).save(tmp_path / 'a.tif')
  with pytest.raises(UserError, match=f'a.tif.*{words}.*8-bit PNG'):
    images.read_image(tmp_path / 'a.tif')


def test_whole_numbers_of_32_bits_that_hold_8_are_read(tmp_path):
  Image.fromarray(np.int32([[0, 128, 255]])).save(tmp_path / 'a.tif')
  assert images.read_image(tmp_path / 'a.tif')[0, :, 0].tolist() == [0, 128, 255]


def _with_size(path, height, width, comment=0):
  """Changes the size in the header of a JPEG file, and adds a comment of so many bytes."""
  content = bytearray(path.read_bytes())
  at = next(i for i in (content.find(b'\xff' + bytes([m])) for m in (0xC0, 0xC2)) if i > 0)
  content[at + 5 : at + 9] = struct.pack('>HH', height, width)
  blocks = b''.join(
    b'\xff\xfe' + struct.pack('>H', 60_002) + bytes(60_000) for _ in range(comment // 60_000)
  )
  path.write_bytes(bytes(content[:2]) + blocks + bytes(content[2:]))


@pytest.mark.parametrize(
  'options', [{}, {'progressive': True}, {'subsampling': 0}, {'quality': 5}], ids=str
)
@pytest.mark.parametrize('comment', [0, 600_000])
@pytest.mark.parametrize('height, width', [(6000, 7000), (1900, 2000)])
def test_a_jpeg_that_claims_more_than_it_holds_is_refused_before_decoding(
  tmp_path, monkeypatch, options, comment, height, width
):
  path = tmp_path / 'lie.jpg'
  Image.fromarray(_picture()).save(path, **options)
  _with_size(path, height, width, comment)
  monkeypatch.setattr(ImageFile.ImageFile, 'load', lambda self: pytest.fail('decoded'))
  with pytest.raises(UserError, match=f'lie.jpg.*claims {width} x {height}'):
    images.read_image(path)


@pytest.mark.parametrize(
  'options', [{}, {'progressive': True}, {'quality': 1, 'optimize': True}], ids=str
)
@pytest.mark.parametrize('mode', ['L', 'RGB', 'CMYK'])
def test_a_flat_jpeg_is_no_lie(tmp_path, options, mode):
  """One colour is what JPEG can make smallest."""
  Image.new('RGB', (3000, 1200), 'white').convert(mode).save(tmp_path / 'a.jpg', **options)
  assert images.read_image(tmp_path / 'a.jpg').shape == (1200, 3000, 3)


def test_memory_is_bounded_by_settings_before_decoding(tmp_path, monkeypatch):
  Image.new('RGB', (500, 400), 'red').save(tmp_path / 'a.webp', lossless=True)  # some 30 bytes
  assert (tmp_path / 'a.webp').stat().st_size < 1000
  monkeypatch.setenv('EXP_JAX_MAX_MEDIA_MB', '5')
  assert images.read_image(tmp_path / 'a.webp').shape == (400, 500, 3)
  for kind in (
    ImageFile.ImageFile,
    WebPImagePlugin.WebPImageFile,
  ):  # the latter has a way of its own
    monkeypatch.setattr(kind, 'load', lambda self: pytest.fail('decoded'))
  monkeypatch.setenv('EXP_JAX_MAX_MEDIA_MB', '3')
  with pytest.raises(UserError, match='a.webp.*EXP_JAX_MAX_MEDIA_MB=4'):
    images.read_image(tmp_path / 'a.webp')
  monkeypatch.delenv('EXP_JAX_MAX_MEDIA_MB')
  monkeypatch.setenv('EXP_JAX_MAX_PIXELS', '199999')
  with pytest.raises(UserError, match='limit of 199,999.*EXP_JAX_MAX_PIXELS'):
    images.read_image(tmp_path / 'a.webp')
  for text in ('0', '-3', 'many', '1e6', '9' * 30):
    monkeypatch.setenv('EXP_JAX_MAX_PIXELS', text)
    with pytest.raises(UserError, match='EXP_JAX_MAX_PIXELS must be a whole number'):
      images.read_image(tmp_path / 'a.webp')


@pytest.mark.parametrize('error', FOREIGN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize('where', ['open', 'load'])
def test_whatever_the_library_raises_is_one_sentence(tmp_path, monkeypatch, error, where):
  Image.fromarray(_picture()).save(tmp_path / 'a.png')

  def fails(*args, **kwargs):
    raise error

  monkeypatch.setattr(
    *((Image, 'open') if where == 'open' else (PngImagePlugin.PngImageFile, 'load')), fails
  )
  with pytest.raises(UserError, match='a.png') as caught:
    images.read_image(tmp_path / 'a.png')
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('brand', [b'heic', b'heix', b'mif1'])
def test_heic_without_its_reader_is_named_with_the_remedy(tmp_path, monkeypatch, brand):
  monkeypatch.setitem(__import__('sys').modules, 'pillow_heif', None)
  path = pathlib.Path(tmp_path / 'photo.jpg')
  path.write_bytes(struct.pack('>I4s4sI4s4s', 24, b'ftyp', brand, 0, b'mif1', b'heic') + bytes(100))
  with pytest.raises(UserError, match='photo.jpg.*HEIC.*pip install pillow-heif'):
    footage.read_footage(path)


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_heic_is_upright_where_its_reader_is_installed(tmp_path, orientation):
  """EXIF alone tells the turn: pillow-heif writes no turn of the file's own."""
  pytest.importorskip('pillow_heif').register_heif_opener()
  upright = np.zeros((48, 64, 3), np.uint8)
  upright[:20, :30] = (220, 90, 30)
  exif = Image.Exif()
  exif[274] = orientation
  turns = {1: 0, 3: 2, 6: 1, 8: -1}[orientation]
  Image.fromarray(np.ascontiguousarray(np.rot90(upright, turns))).save(
    tmp_path / 'a.heic', 'HEIF', exif=exif, quality=95
  )
  read = images.read_image(tmp_path / 'a.heic')
  assert read.shape == upright.shape and np.abs(read.astype(int) - upright).mean() < 6
