"""Full disks and too little memory: one sentence with a remedy and status 2, in every command, and
nothing half-made."""

import errno
import os
import subprocess

import jax
import numpy as np
import pytest

from exp_jax.commands import animate, evaluate, prepare
from exp_jax.data.sources import PortraitClips, write_records
from exp_jax.data.synthetic import synthetic_clip
from exp_jax.errors import UserError, exits_cleanly
from exp_jax.files import npz
from exp_jax.files.array_records import write_packed
from exp_jax.files.atomic import check_room, is_partial, write_text
from exp_jax.media.images import write_image
from exp_jax.media.video import write_video
from exp_jax.systems.expportrait.records import encode
from exp_jax.training.exports import write_export
from tests.convert.test_flame_param import exported  # noqa: F401
from tests.convert.test_subjects import head_file, run  # noqa: F401
from tests.media.films import write_film
from tests.systems.expportrait import prepare_films as films
from tests.systems.expportrait import test_encode as encoding
from tests.test_batches import fit  # noqa: F401

NOISE = np.random.default_rng(0).integers(0, 255, (4, 64, 72, 3), np.uint8)


def of(error, cause=None):
  """An exception with another behind it."""
  error.__cause__ = cause
  return error


@pytest.mark.parametrize(
  'error, words',
  [
    (OSError(errno.ENOSPC, 'No space left on device'), 'the disk is full: make room'),
    (
      OSError(errno.ENOSPC, 'No space left on device', 'out/a.mp4'),
      "the disk is full at 'out/a.mp4'",
    ),
    (OSError(errno.EDQUOT, 'Disk quota exceeded'), 'the disk is full'),
    (
      ValueError('RESOURCE_EXHAUSTED: Error writing local file "a": No space left on device'),
      'the disk is full',
    ),
    (
      of(RuntimeError('the save failed'), OSError(errno.ENOSPC, 'No space left on device')),
      'the disk is full',
    ),
    (MemoryError(), 'the memory of this machine does not suffice: use smaller'),
    (MemoryError('Unable to allocate 2 TiB'), 'suffice (Unable to allocate 2 TiB)'),
    (of(ValueError('could not draw'), MemoryError()), 'the memory of this machine'),
    (
      jax.errors.JaxRuntimeError(
        'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 7516192768 bytes.'
      ),
      'the memory of the device does not suffice (allocate 7516192768 bytes)',
    ),
  ],
  ids=lambda value: str(value)[:40],
)
def test_a_machine_without_room_is_a_sentence(error, words, capsys):
  @exits_cleanly
  def main():
    raise error

  with pytest.raises(SystemExit) as ended:
    main()
  said = capsys.readouterr().err
  assert ended.value.code == 2 and words in said and said.count('\n') == 1


@pytest.mark.parametrize(
  'error',
  (
    ValueError('no room'),
    RuntimeError('INTERNAL: crash'),
    OSError(errno.EIO, 'Input/output error'),
  ),
)
def test_other_errors_stay_what_they_are(error):
  @exits_cleanly
  def main():
    raise error

  with pytest.raises(type(error)):
    main()


def test_what_does_not_fit_is_refused_before_it_is_written(tmp_path):
  check_room(tmp_path, 1000)
  check_room(tmp_path / 'nowhere', 10**18)
  with pytest.raises(UserError, match='the disk is full'):
    check_room(tmp_path, 10**18)


@pytest.fixture
def disk(tmp_path):
  """Mounts a disk of so many kilobytes."""
  if os.geteuid():
    pytest.skip('mounting needs root')
  mounted = []

  def mount(kilobytes, name='disk'):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    if subprocess.run(
      ['mount', '-t', 'tmpfs', '-o', f'size={kilobytes}k', 'tmpfs', folder], capture_output=True
    ).returncode:
      pytest.skip('no mounts here')
    mounted.append(folder)
    return folder

  yield mount
  for folder in mounted:
    subprocess.run(['umount', folder], check=True)


def files_of(folder):
  return [path for path in folder.rglob('*') if path.is_file()]


def full(capsys, work, others=0):
  """Runs `work` as a command on a full disk: status 2, one sentence, after those on `others` that
  failed by themselves."""
  with pytest.raises(SystemExit) as ended:
    exits_cleanly(work)()
  said = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error:')]
  assert ended.value.code == 2 and len(said) == others + 1 and 'the disk is full' in said[-1]


@pytest.mark.parametrize(
  'write',
  [
    lambda path: write_text(path, 'a' * 10**5),
    lambda path: write_image(path.with_suffix('.png'), NOISE[0]),
    lambda path: write_video(path.with_suffix('.mp4'), NOISE, 10),
    lambda path: npz.write_npz(path, {'a': NOISE}),
    lambda path: write_export(path, None, {'a': NOISE}),
    lambda path: write_packed(path, [NOISE.tobytes()] * 3),
  ],
  ids=('text', 'image', 'video', 'npz', 'export', 'records'),
)
def test_every_writer(disk, write, capsys):
  folder = disk(8)
  full(capsys, lambda: write(folder / 'a'))
  assert not list(folder.iterdir())


def test_evaluate(disk, tmp_path, capsys):
  folder = disk(16)
  write_video(tmp_path / 'clips' / 'a.mp4', NOISE, 10)
  clips = str(tmp_path / 'clips')
  full(
    capsys,
    lambda: evaluate.main(
      [
        '--protocol',
        'all-self',
        '--result',
        clips,
        '--truth',
        clips,
        '--framing',
        'same',
        '--no_landmarks',
        '-o',
        f'{folder / "e"}',
      ]
    ),
  )
  assert not files_of(folder)


def test_convert(disk, exported, head_file, tmp_path, capsys):  # noqa: F811
  folder = disk(4)
  full(
    capsys,
    lambda: run(exported[0], '--kind', 'vhap', '--head', head_file, '-o', folder, '--levels', 3),
  )
  assert not files_of(folder)


@pytest.mark.parametrize('kilobytes', (12, 60))
def test_prepare(disk, tmp_path, capsys, monkeypatch, kilobytes):
  """What is there is whole, and with more room the same command goes on to the end."""
  films.use_stand_ins(monkeypatch.setattr)
  (tmp_path / 'clips').mkdir()
  for i in range(4):
    frames = films.frames_of(i)
    write_film(tmp_path / 'clips' / f'{i}.mp4', np.arange(len(frames)), 25, frames=frames)
  folder = disk(kilobytes)
  arguments = films.arguments(str(tmp_path / 'clips'), folder, '--holdout', '1')
  full(capsys, lambda: prepare.main(arguments))
  whole_records(folder)
  subprocess.run(['mount', '-o', 'remount,size=9m', folder], check=True)
  assert prepare.main(arguments) == 0 and whole_records(folder) >= 4 + 2


def test_encode(disk, tmp_path, capsys, monkeypatch):
  encoding.use_stand_in(monkeypatch.setattr)
  write_records(
    tmp_path / 'train.array_record',
    [synthetic_clip(i, num_frames=21, height=16, width=16) for i in range(3)],
  )
  (tmp_path / 'vae').mkdir()
  (tmp_path / 'vae' / 'weights').write_bytes(b'some')
  folder = disk(16)
  full(capsys, lambda: encode.main(encoding.arguments(tmp_path, folder)))
  whole_records(folder)
  subprocess.run(['mount', '-o', 'remount,size=9m', folder], check=True)
  assert encode.main(encoding.arguments(tmp_path, folder)) == 0 and whole_records(folder) >= 3 + 1


def whole_records(folder) -> int:
  """How many files of records there are; each is whole, and nothing unfinished lies beside them."""
  found = list(folder.rglob('*.array_record'))
  for path in found:
    source = PortraitClips(str(path))
    assert len(source) > 0 and all(source[i] for i in range(len(source))), path
  assert not [path for path in folder.rglob('*') if is_partial(path)]
  return len(found)


def test_fit(disk, fit, capsys):  # noqa: F811
  folder = disk(4, 'out')
  full(capsys, lambda: fit('read_footage', UserError('bad is damaged')), others=1)
  assert [path.name for path in files_of(folder)] == ['ann.npz']


def test_animate_over_a_folder_stops_at_the_first(disk, tmp_path, capsys, monkeypatch):
  folder, asked = disk(16), []
  for name in 'ab':
    write_image(tmp_path / 'faces' / f'{name}.png', NOISE[0])
  write_video(tmp_path / 'd.mp4', NOISE, 10)

  def one(model, source, driving, output, *_, **__):
    asked.append(source.stem)
    return write_video(output, NOISE, 10)

  monkeypatch.setattr(animate, 'animate_file', one)
  full(
    capsys,
    lambda: animate.main(
      ['-s', f'{tmp_path / "faces"}', '-d', f'{tmp_path / "d.mp4"}', '-o', f'{folder / "o"}']
    ),
  )
  assert asked == ['a'] and [path.name for path in files_of(folder)] == ['status.jsonl']
