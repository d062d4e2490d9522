"""What is handed over: bounds, content, names; files that are none are refused in the reader's own
words."""

import os
import signal
import struct
import threading
import zlib

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.files.npz import read_npz
from exp_jax.media.images import read_image
from exp_jax.media.video import write_video
from exp_jax.performance.inputs import first_picture, footage
from exp_jax.studio.refusals import TooLarge, TooMany
from exp_jax.studio.uploads import safe_name
from tests.studio.conftest import hand_over

ODD = '../a b/..\\c<b>"\x1b[2J\u202e.jpg'


def chunk(kind: bytes, content: bytes) -> bytes:
  return (
    struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
  )


def bad_files(folder):
  """{name: bytes} of files that are refused."""
  header = chunk(b'IHDR', struct.pack('>IIBBBBB', 60_000, 60_000, 8, 2, 0, 0, 0))
  return {
    'postscript.jpg': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n',
    'page.png': b'<html><script>alert(1)</script>',
    'empty.jpg': b'',
    'large.png': b'\x89PNG\r\n\x1a\n'
    + header
    + chunk(b'IDAT', zlib.compress(b''))
    + chunk(b'IEND', b''),
    'cut.mp4': (folder / 'clip.mp4').read_bytes()[:900],
    'text.mp4': b'no film',
    'pickle.npz': b'\x80\x04N.',
  }


@pytest.mark.long
@pytest.mark.parametrize(
  'name',
  ['postscript.jpg', 'page.png', 'empty.jpg', 'large.png', 'cut.mp4', 'text.mp4', 'pickle.npz'],
)
def test_bad_files_are_refused_in_the_readers_own_words(studio, files, tmp_path, name):
  path = tmp_path / name
  path.write_bytes(bad_files(files)[name])
  with pytest.raises(UserError) as own:
    if name.endswith('.npz'):
      read_npz(path)
    clip = footage(path)
    read_image(path) if clip.still else first_picture(clip)
  with pytest.raises(UserError) as refused:
    hand_over(studio, path)
  assert str(refused.value) == str(own.value).replace(f'{tmp_path}/', '')
  assert not list((studio.settings.place / 'uploads').iterdir()), 'nothing is left of it'


@pytest.mark.long
def test_text_that_swells_is_no_harm(studio, files, tmp_path):
  whole = (files / 'me.png').read_bytes()
  text = b'Comment\0\0' + zlib.compress(b'x' * 200_000_000, 9)
  (tmp_path / 'bomb.png').write_bytes(whole[:33] + chunk(b'zTXt', text) + whole[33:])
  assert hand_over(studio, tmp_path / 'bomb.png').found == hand_over(studio, files / 'me.png').found


def test_content_counts_and_not_the_name(studio, files):
  found = hand_over(studio, files / 'me.png', 'me.mp4').found
  assert found['kind'] == 'picture' and (found['width'], found['height']) == (48, 32)
  found = hand_over(studio, files / 'clip.mp4', 'clip.jpg').found
  assert found['kind'] == 'clip' and (found['frames'], found['rate']) == (6, 10.0)


def test_bounds_of_size_length_and_number(open_studio, files, tmp_path):
  studio = open_studio(max_megabytes=0.02, max_seconds=1.0, uploads=2)
  (tmp_path / 'large.jpg').write_bytes(b'x' * 20_001)
  with pytest.raises(TooLarge, match='larger than 0.02 MB'):
    hand_over(studio, tmp_path / 'large.jpg')
  write_video(tmp_path / 'long.mp4', np.zeros((22, 16, 16, 3), np.uint8), 20)
  with pytest.raises(TooLarge, match='lasts 1.1 s, this server takes clips of at most 1 s'):
    hand_over(studio, tmp_path / 'long.mp4')
  for _ in range(2):
    hand_over(studio, files / 'me.png')
  with pytest.raises(TooMany, match='2 uploads lie here'):
    hand_over(studio, files / 'me.png')


@pytest.mark.parametrize(
  'name, safe',
  [
    (ODD, 'c_b___[2J_.jpg'),
    ('..', 'file'),
    ('.hidden.png', 'hidden.png'),
    ('/etc/passwd', 'passwd'),
    ('', 'file'),
    ('ä.JPG', 'ä.JPG'),
    ('x' * 300 + '.mp4', 'x' * 96 + '.mp4'),
    ('ü' * 300, 'ü' * 50),
    ('a.' + 'b' * 300, 'a.' + 'b' * 98),
  ],
)
def test_names_do_no_harm(name, safe):
  assert safe_name(name) == safe


def test_an_odd_name_stays_below_its_folder(studio, files):
  made = hand_over(studio, files / 'me.png', ODD)
  assert studio.uploads.path(made.id).parent.parent.parent == studio.settings.place / 'uploads'
  assert made.name.isprintable()


@pytest.mark.long
def test_a_file_that_kills_its_reader_kills_nothing_else(studio, files):
  hand_over(studio, files / 'me.png')
  inspector = studio.uploads.inspector_id
  os.kill(inspector, signal.SIGSTOP)  # as a reader that hangs; then it dies
  threading.Timer(0.3, os.kill, (inspector, signal.SIGKILL)).start()
  with pytest.raises(
    UserError,
    match="'me.png' cannot be read: the process that looked into it was ended by signal 9",
  ):
    hand_over(studio, files / 'me.png')
  assert hand_over(studio, files / 'me.png').size
