"""Content credentials: signed files read back as unchanged, changed ones as changed; keys stay
private; every fault is a sentence."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from exp_jax.commands import verify
from exp_jax.errors import UserError
from exp_jax.media.video import read_frames, write_video
from exp_jax.performance.animation import Animation
from exp_jax.progress import Watch
from exp_jax.provenance import credentials, stamp


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  for name in ('EXP_JAX_CERTIFICATE', 'EXP_JAX_CERTIFICATE_KEY'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('EXP_JAX_HOME', str(tmp_path / 'home'))
  return tmp_path / 'home'


@pytest.fixture
def film(tmp_path):
  frames = np.uint8(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)))
  write_video(tmp_path / 'film.mp4', frames, 25)
  return tmp_path / 'film.mp4'


def changed(path: pathlib.Path, place: float) -> pathlib.Path:
  content = bytearray(path.read_bytes())
  content[content.index(b'mdat') + 8 + int(place * 100)] ^= 1
  path.write_bytes(content)
  return path


def test_what_is_signed_is_read_back_and_streams_stay(film):
  before = [frame for frame, _ in read_frames(film)]
  credentials.sign(film, credentials.certificate(), {'engine': 'proxy', 'mark': 'abc123'})
  found = credentials.read(film)
  assert found.valid and found.self_made and not found.trusted and found.problems == ()
  assert found.about == {'engine': 'proxy', 'mark': 'abc123'} and found.generator.startswith(
    'exp_jax '
  )
  np.testing.assert_array_equal(before, [frame for frame, _ in read_frames(film)])
  assert [p.name for p in film.parent.glob('*film*')] == ['film.mp4']


def test_one_flipped_bit_is_seen(film):
  assert credentials.read(film) is None
  credentials.sign(film, credentials.certificate(), {})
  found = credentials.read(changed(film, 0.5))
  assert not found.valid and any('Hash' in code or 'hash' in code for code in found.problems)


def test_the_key_is_the_users_alone_and_made_once(home):
  assert 'agreed' in credentials.first_note() and credentials.first_note() is None
  path = credentials.own_file()
  assert (
    path.is_relative_to(home)
    and path.stat().st_mode & 0o777 == 0o600
    and path.parent.stat().st_mode & 0o777 == 0o700
  )
  assert credentials.certificate() == credentials.certificate()


def test_a_certificate_of_the_user_signs(film, tmp_path, monkeypatch):
  own = credentials.make_own().read_bytes()
  chain, begin, key = own.partition(b'-----BEGIN PRIVATE KEY')
  (tmp_path / 'chain.pem').write_bytes(chain)
  (tmp_path / 'key.pem').write_bytes(begin + key)
  monkeypatch.setenv('EXP_JAX_CERTIFICATE', str(tmp_path / 'chain.pem'))
  with pytest.raises(UserError, match='EXP_JAX_CERTIFICATE_KEY both'):
    credentials.certificate()
  monkeypatch.setenv('EXP_JAX_CERTIFICATE_KEY', str(tmp_path / 'gone.pem'))
  with pytest.raises(UserError, match='gone.pem.*cannot be read'):
    credentials.certificate()
  monkeypatch.setenv('EXP_JAX_CERTIFICATE_KEY', str(tmp_path / 'chain.pem'))
  with pytest.raises(UserError, match='no PEM file with a private key'):
    credentials.certificate()
  monkeypatch.setenv('EXP_JAX_CERTIFICATE_KEY', str(tmp_path / 'key.pem'))
  named = credentials.certificate()
  assert not named.self_made
  credentials.sign(film, named, {})
  assert credentials.read(film).valid


def test_a_key_of_another_certificate_is_refused_and_the_film_stays(film):
  one = credentials.certificate()
  credentials.make_own()
  other = credentials.certificate()
  before = film.read_bytes()
  with pytest.raises(UserError, match='cannot be signed'):
    credentials.sign(
      film, credentials.Certificate(b'-----BEGIN CERTIFICATE-----\n?\n', other.key, False), {}
    )
  with pytest.raises(UserError, match='key cannot be read'):
    credentials.sign(
      film, credentials.Certificate(one.chain, b'-----BEGIN PRIVATE KEY-----\n?', False), {}
    )
  assert film.read_bytes() == before and not [
    p for p in film.parent.iterdir() if 'partial' in p.name
  ]


def animation(frames, **more):
  return Animation(
    iter(frames),
    np.arange(len(frames)) / 25,
    25,
    frames[0],
    {'engine': 'proxy', 'source_sha256': 'ab' * 32, **more},
  )


def test_a_saved_animation_tells_whence_it_comes(tmp_path, capsys):
  frames = [np.full((256, 256, 3), 100 + t, np.uint8) for t in range(6)]
  animation(frames).save(tmp_path / 'a.mp4')
  record = json.loads((tmp_path / 'a.json').read_text())
  found = credentials.read(tmp_path / 'a.mp4')
  assert record['certificate'] == 'self-made'
  assert found.about['mark'] == record['mark'] and found.about['portrait_sha256'] == 'ab' * 32
  assert verify.main([str(tmp_path / 'a.mp4'), str(tmp_path / 'a_side_by_side.mp4')]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert (
    all(
      'as it was signed' in line and f'mark {record["mark"]} (certainty' in line for line in lines
    )
    and len(lines) == 2
  )
  # credentials are lost
  write_video(
    tmp_path / 'copy.mp4', (frame for frame, _ in read_frames(tmp_path / 'a.mp4')), 25, crf=18
  )
  with pytest.raises(SystemExit):
    verify.main([str(tmp_path / 'copy.mp4')])
  assert f'no content credentials; mark {record["mark"]}' in capsys.readouterr().out


def test_equal_inputs_carry_equal_marks_and_others_others():
  told = stamp.about({'engine': 'dit', 'seed': 1, 'source_sha256': 'a', 'seconds': {'draw': 1}})
  assert told == stamp.about(
    {'engine': 'dit', 'seed': 1, 'source_sha256': 'a', 'seconds': {'draw': 2}}
  )
  assert (
    told['settings_sha256']
    != stamp.about({'engine': 'dit', 'seed': 2, 'source_sha256': 'a'})['settings_sha256']
  )
  driven = [
    stamp.about({'engine': 'dit', 'seed': 1, 'source_sha256': 'a', 'driving_sha256': d})
    for d in 'xy'
  ]
  assert driven[0]['mark'] == driven[1]['mark'] == told['mark'], (
    'a clip, and the motion that was kept of it, give the same video'
  )
  assert driven[0]['driving_sha256'] == 'x'
  assert told['mark'] != stamp.about({'engine': 'dit', 'seed': 1, 'source_sha256': 'b'})['mark']


def test_it_is_left_out_aloud_only(tmp_path):
  words, frames = [], [np.full((256, 256, 3), 100, np.uint8)] * 2
  quiet = animation(frames)
  quiet.provenance, quiet.watch = False, Watch(warn=words.append)
  quiet.save(tmp_path / 'b.mp4', beside=False)
  assert words == [stamp.UNSIGNED] and credentials.read(tmp_path / 'b.mp4') is None
  assert 'mark' not in json.loads((tmp_path / 'b.json').read_text())


def test_a_home_that_cannot_be_written_is_named_before_anything_is_drawn(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('EXP_JAX_HOME', str(tmp_path / 'file'))
  drawn = []
  frames = (drawn.append(t) for t in range(2))
  with pytest.raises(UserError, match='EXP_JAX_HOME'):
    Animation(frames, np.arange(2) / 25, 25, np.zeros((4, 4, 3), np.uint8), {}).save(
      tmp_path / 'a.mp4'
    )
  assert not drawn and not (tmp_path / 'a.mp4').exists()


KILLED = """
import os, signal, sys
import c2pa
import numpy as np
real = c2pa.Builder.sign
def sign(self, *arguments):
  real(self, *arguments)
  if sys.argv[1] == 'kill':
    os.kill(os.getpid(), signal.SIGKILL)
c2pa.Builder.sign = sign
from exp_jax.performance.animation import Animation
frames = [np.full((32, 32, 3), 100, np.uint8)] * 2
Animation(iter(frames), np.arange(2) / 25, 25, frames[0], {'engine': 'proxy'}).save('a.mp4', beside=False)
"""


def test_a_kill_while_it_signs_leaves_nothing_after_the_next_run(tmp_path):
  folder = tmp_path / 'out'
  folder.mkdir()
  run = lambda how: (
    subprocess.run(
      [sys.executable, '-c', KILLED, how], cwd=folder, check=how == 'go', capture_output=True
    ).returncode
  )
  assert run('kill') == -9 and not (folder / 'a.mp4').exists() and list(folder.iterdir())
  assert run('go') == 0 and sorted(p.name for p in folder.iterdir()) == ['a.json', 'a.mp4']
  assert credentials.read(folder / 'a.mp4').valid


def test_start_does_not_pay_for_it():
  code = 'import sys, exp_jax.performance.animation; print([m for m in ("c2pa", "cryptography") if m in sys.modules])'
  assert (
    subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=True
    ).stdout.strip()
    == '[]'
  )
