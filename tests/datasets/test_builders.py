"""The builders of footage: layouts, spans and boxes of the publishers' lists, splits by subject,
honest reports."""

import ast
import fractions
import hashlib
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.media.video import read_video
from tests.datasets import fakes

ROOT = pathlib.Path(__file__).parents[2]
pytest.importorskip('tensorflow_datasets')


@pytest.fixture(scope='module')
def build():
  sys.path.insert(0, str(ROOT / 'datasets'))
  import build

  yield build
  sys.path.remove(str(ROOT / 'datasets'))


def text(value):
  return value.decode() if isinstance(value, bytes) else str(np.asarray(value))


def records(folder):
  """(split, record) of a dataset on disk, by TFDS and no code of ours."""
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(folder)
  return [
    (split, record) for split in builder.info.splits for record in builder.as_data_source(split)
  ]


def report(data, name):
  path = data / name / 'build_report.jsonl'
  return (
    {line['clip_id']: line['reason'] for line in map(json.loads, path.read_text().splitlines())}
    if path.is_file()
    else {}
  )


@pytest.mark.parametrize('name', fakes.FAKES)
def test_the_three_clips_of_each_dataset(build, name, tmp_path, capsys):
  fakes.FAKES[name](tmp_path / 'files')
  assert (
    build.main(
      [name, '--manual_dir', str(tmp_path / 'files'), '--data_dir', str(tmp_path / 'data')]
    )
    == 0
  )
  said = capsys.readouterr().out.strip().splitlines()
  expected = fakes.SUBJECTS[name]
  found = {}
  for split, record in records(said[-1]):
    clip_id = text(record['clip_id'])
    found[clip_id] = text(record['subject_id']), split
    video = (
      bytes(np.asarray(record['video']).item())
      if not isinstance(record['video'], bytes)
      else record['video']
    )
    assert text(record['sha256']) == hashlib.sha256(video).hexdigest()
    (tmp_path / 'clip.mp4').write_bytes(video)
    clip = read_video(tmp_path / 'clip.mp4')
    assert clip.frames.shape[1:3] == (int(record['height']), int(record['width']))
    assert fractions.Fraction(text(record['frame_rate'])) == clip.rate == fakes.RATE
    assert (tmp_path / 'files' / text(record['source'])).is_file()
    assert text(record['license']) and isinstance(json.loads(text(record['attributes'])), dict)
  assert {clip: subject for clip, (subject, _) in found.items()} == {
    clip: subject for clip, (subject, _) in expected.items()
  }
  by_name = sys.modules['clip_records'].split_of
  for clip, (subject, split) in found.items():
    assert split == (expected[clip][1] or by_name(subject))
  splits = {}
  for subject, split in found.values():
    assert splits.setdefault(subject, split) == split, 'a subject in two splits'


@pytest.mark.parametrize('name', fakes.FAKES)
def test_an_empty_folder_says_what_belongs_there(build, name, tmp_path, capsys):
  (tmp_path / 'files').mkdir()
  with pytest.raises(SystemExit) as ended:
    build.main(
      [name, '--manual_dir', str(tmp_path / 'files'), '--data_dir', str(tmp_path / 'data')]
    )
  error = capsys.readouterr().err
  assert ended.value.code == 2 and 'MANUAL_DIR' in error and 'Traceback' not in error


def cut_of(build, name, tmp_path, clip_id):
  """The clip that a builder cut, decoded."""
  build.main([name, '--manual_dir', str(tmp_path / 'files'), '--data_dir', str(tmp_path / 'data')])
  folder = next((tmp_path / 'data' / name).rglob('dataset_info.json')).parent
  record = next(record for _, record in records(folder) if text(record['clip_id']) == clip_id)
  (tmp_path / 'cut.mp4').write_bytes(bytes(np.asarray(record['video']).item()))
  return read_video(tmp_path / 'cut.mp4')


def assert_place(clip, *, first, last, left, top, side):
  """The frames first ... last of the raw video, and the square whose corner is there, by the
  colours that tell."""
  raw = fakes.raw_frames()[first : last + 1, top : top + side, left : left + side]
  assert clip.frames.shape == raw.shape
  assert (
    np.abs(clip.frames.astype(int) - raw).mean() < 3
    and np.abs(clip.frames.mean((1, 2)) - raw.mean((1, 2))).max() < 3
  )
  np.testing.assert_allclose(clip.times, np.arange(len(raw)) / fakes.RATE, atol=1e-4)


def test_vfhq_frames_and_crop_at_another_resolution(build, tmp_path):
  """Frames start + 1 ... end - 1; the box is in pixels of twice the size."""
  fakes.vfhq_raw(tmp_path / 'files')
  clip = cut_of(build, 'vfhq', tmp_path, 'Clip+a-b_c+P0+C0+F9-20')
  assert_place(clip, first=10, last=19, left=20, top=10, side=40)
  assert report(tmp_path / 'data', 'vfhq') == {'Clip+gone+P0+C0+F0-10': 'gone.mp4 is not there'}


def test_celebv_hq_seconds_and_grown_square(build, tmp_path):
  """The box 0.5-0.8 x 0.2-0.8 of 160 x 90 grown by 0.02: 54.4 x 57.6 pixels, as a square of 57.6
  about its middle."""
  fakes.celebv_hq(tmp_path / 'files')
  clip = cut_of(build, 'celebv_hq', tmp_path, 'M2Ohb0FAaJU_1')
  assert_place(clip, first=10, last=24, left=75, top=16, side=58)


def test_hdtf_stamps_and_crop_at_the_reference_height(build, tmp_path):
  """Second 1 to 2; 640, 80 with 480 x 480 at 720 lines is 80, 10 with 60 x 60 at 90."""
  fakes.hdtf(tmp_path / 'files')
  clip = cut_of(build, 'hdtf', tmp_path, 'WDA_SomeBody_000_1')
  assert_place(clip, first=25, last=49, left=80, top=10, side=60)
  assert report(tmp_path / 'data', 'hdtf') == {
    'WDA_SomeBody_000_0': 'WDA_crop_wh.txt has no box for it'
  }


def test_hdtf_speakers_have_one_name_and_one_split(build, tmp_path):
  """Lists in the publishers' shape: numbers without an underscore, some names with and without one,
  and radio programmes."""
  names = {
    'WRA_SpeakerA': ('', '0', '1', '2'),
    'WDA_SpeakerB': ('0', '1', '3'),
    'WRA_Some-Body': ('',),
    'RD_Radio': ('1', '38', '39'),
    'WDA_JamesClyburn': ('', '1'),
    'WDA_WhipJimClyburn': ('',),
  }
  names |= {
    f'WRA_{chr(65 + i)}Name{chr(65 + j)}': ('', '0', '12') for i in range(10) for j in range(26)
  }
  meta = tmp_path / 'files' / 'meta'
  meta.mkdir(parents=True)
  for group in ('RD', 'WDA', 'WRA'):
    videos = [
      f'{name}{number}'.split('_', 1)[1]
      for name, numbers in names.items()
      if name.startswith(group)
      for number in numbers
    ]
    (meta / f'{group}_annotion_time.txt').write_text(
      ''.join(f'{video}.mp4 00:00-00:01 00:02-00:03\n' for video in videos)
    )
    (meta / f'{group}_crop_wh.txt').write_text('')
    (meta / f'{group}_resolution.txt').write_text('')
  with pytest.raises(SystemExit):  # nothing is there to build from; the parts tell
    build.main(
      ['hdtf', '--manual_dir', str(tmp_path / 'files'), '--data_dir', str(tmp_path / 'data')]
    )
  module = sys.modules['hdtf.hdtf_dataset_builder']
  parts = module.Builder.parts(None, tmp_path / 'files')
  assert {part.subject_id for part in parts} == set(names)
  assert len(parts) == 2 * sum(map(len, names.values())) and len(
    {part.clip_id for part in parts}
  ) == len(parts)
  splits = {}
  for part in parts:
    assert splits.setdefault(part.subject_id, part.split) == part.split
  assert splits['WDA_JamesClyburn'] == splits['WDA_WhipJimClyburn'] and set(splits.values()) == {
    'train',
    'validation',
  }
  for name in ('WRA_SpeakerA', 'WDA_SpeakerB'):  # cut clips have the same people
    assert module.person_of(f'{name}1_0') == name


def test_a_subject_that_a_list_puts_into_two_splits_is_held_out(build, tmp_path):
  fakes.talkinghead_1kh(tmp_path / 'files')
  clip = 'ef-gh_0003_S0_E10_L0_T0_R32_B32'
  fakes.write_cut(tmp_path / 'files' / 'train' / 'cropped_clips' / f'{clip}.mp4')
  assert (
    build.main(
      [
        'talkinghead_1kh',
        '--manual_dir',
        str(tmp_path / 'files'),
        '--data_dir',
        str(tmp_path / 'data'),
      ]
    )
    == 0
  )
  assert report(tmp_path / 'data', 'talkinghead_1kh') == {
    clip: 'ef-gh is in a split that nothing is trained on'
  }


def test_talkinghead_tubes(build, tmp_path):
  """Frames S ... E inclusive."""
  fakes.talkinghead_1kh(tmp_path / 'files')
  clip = cut_of(build, 'talkinghead_1kh', tmp_path, 'ab_cd_0004_S10_E19_L60_T30_R140_B110')
  assert_place(clip, first=10, last=19, left=30, top=15, side=40)


def test_broken_clips_are_left_out_and_named(build, tmp_path):
  fakes.vfhq(tmp_path / 'files')
  (tmp_path / 'files' / 'clips' / 'Clip+x+P0+C0+F0-9.mp4').write_text('words')
  fakes.ravdess(tmp_path / 'takes')
  (tmp_path / 'takes' / 'Actor_01').mkdir()
  (tmp_path / 'takes' / 'Actor_01' / '03-01-06-01-02-01-01.mp4').write_bytes(b'sound')
  for name, folder in (('vfhq', 'files'), ('ravdess', 'takes')):
    assert (
      build.main(
        [name, '--manual_dir', str(tmp_path / folder), '--data_dir', str(tmp_path / 'data')]
      )
      == 0
    )
  assert 'not a video' in report(tmp_path / 'data', 'vfhq')['Clip+x+P0+C0+F0-9']
  assert report(tmp_path / 'data', 'ravdess') == {'03-01-06-01-02-01-01': 'it holds sound only'}


@pytest.mark.parametrize(
  'name, file, content, words',
  [
    (
      'celebv_hq',
      'meta/celebvhq_info.json',
      '{"clips": {"a_1": {}}}',
      'is not the list of CelebV-HQ',
    ),
    ('hdtf', 'meta/RD_annotion_time.txt', 'Radio1.mp4 soon-later', 'is not what HDTF writes'),
    ('talkinghead_1kh', 'data_list/val_video_tubes.txt', 'a,b,c', 'line 1 is not name,H,W'),
    ('vfhq', 'meta/Clip+a+P0+C0+F0-9.txt', 'H 3\n', 'has no CROP'),
  ],
)
def test_a_damaged_list_is_one_sentence(build, tmp_path, capsys, name, file, content, words):
  path = tmp_path / 'files' / file
  path.parent.mkdir(parents=True)
  path.write_text(content)
  with pytest.raises(SystemExit) as ended:
    build.main(
      [name, '--manual_dir', str(tmp_path / 'files'), '--data_dir', str(tmp_path / 'data')]
    )
  error = capsys.readouterr().err
  assert ended.value.code == 2 and words in error and path.name in error and error.count('\n') == 1


def test_a_square_lies_inside(build):
  square = sys.modules['clip_records'].square
  for box in ((0.9, 0.5, 1.0, 1.0), (0, 0, 1, 1), (0.4, 0.1, 0.5, 0.9), (-0.1, 0, 0.2, 0.3)):
    left, top, right, bottom = np.array(square(box, grow=0.02, shape=(90, 160))) * [
      160,
      90,
      160,
      90,
    ]
    assert (
      right - left == pytest.approx(bottom - top)
      and min(left, top) >= 0
      and right <= 160 + 1e-9
      and bottom <= 90 + 1e-9
    )


def test_every_dataset_has_its_papers():
  for name in (*fakes.FAKES, 'actors'):
    words = (ROOT / 'datasets' / name / 'README.md').read_text()
    for needed in ('Licence', 'Source', 'split', 'build'):
      assert needed.lower() in words.lower(), (
        f'datasets/{name}/README.md does not speak of {needed}'
      )


def test_nothing_imports_tensorflow_or_jax(tmp_path):
  for path in (ROOT / 'datasets').rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      names = (
        [a.name for a in node.names]
        if isinstance(node, ast.Import)
        else [node.module]
        if isinstance(node, ast.ImportFrom)
        else []
      )
      assert not any(n and n.split('.')[0] in ('tensorflow', 'jax', 'torch') for n in names), path
  code = 'import sys, build, vfhq.vfhq_dataset_builder; print([m for m in ("jax", "tensorflow") if m in sys.modules])'
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT / 'datasets', capture_output=True, text=True
  )
  assert done.stdout.strip() == '[]', done.stderr


def test_a_built_dataset_is_a_list_of_clips(build, tmp_path):
  from exp_jax.data.clip_list import items_of_dataset

  fakes.nersemble(tmp_path / 'files')
  build.main(
    ['nersemble', '--manual_dir', str(tmp_path / 'files'), '--data_dir', str(tmp_path / 'data')]
  )
  items = items_of_dataset(tmp_path / 'data' / 'nersemble', 'test')
  assert [(item.clip_id, item.subject_id) for item in items] == sorted(
    (clip, subject) for clip, (subject, _) in fakes.SUBJECTS['nersemble'].items()
  )
  with items[0].files() as paths:
    assert len(read_video(paths['video']).frames) == 3 and set(paths) == {'video'}
  with pytest.raises(UserError, match="no split 'train', but test"):
    items_of_dataset(tmp_path / 'data' / 'nersemble', 'train')
  with pytest.raises(UserError, match='no dataset'):
    items_of_dataset(tmp_path / 'nowhere', 'train')
