"""`animate` with archives and lists: each pair once, one bad entry stops nothing, the status is
true."""

import contextlib
import json
import types
import zipfile

import numpy as np
import pytest

from exp_jax.commands import animate
from exp_jax.files.digests import file_digest
from exp_jax.media.images import write_image
from exp_jax.media.video import write_video
from exp_jax.performance.options import record
from exp_jax.performance.results import write_record


@pytest.fixture
def made(tmp_path, monkeypatch):
  """Portraits and clips, loose and packed; results are made of the portrait's name. The pairs that
  were made."""
  made = []

  def one(model, source, driving, output, options, bars, **_):
    if not source.is_file() or source.read_bytes() == b'bad':
      raise animate.UserError(f'{str(source)!r} is damaged')
    made.append((source.name, driving.name))
    write_video(output, np.full((2, 32, 32, 3), len(made), np.uint8), 10)
    digests = {'source_sha256': file_digest(source), 'driving_sha256': file_digest(driving)}
    write_record(output, {'engine': 'proxy'} | record(options) | digests)
    return 2

  monkeypatch.setattr(animate, 'animate_file', one)
  model = types.SimpleNamespace(loaded={})
  monkeypatch.setattr(animate, 'loaded', lambda *_: contextlib.nullcontext(model))
  monkeypatch.chdir(tmp_path)
  for name in 'ab':
    write_image(tmp_path / name / 'me.png', np.full((32, 32, 3), ord(name), np.uint8))
  (tmp_path / 'b' / 'bad.png').write_bytes(b'bad')
  write_video(tmp_path / 'd.mp4', np.zeros((2, 32, 32, 3), np.uint8), 10)
  with zipfile.ZipFile('faces.zip', 'w') as archive:
    for name in ('a/me.png', 'b/me.png', 'b/bad.png'):
      archive.write(name)
    archive.writestr('__MACOSX/a/._me.png', b'-')
  (tmp_path / 'clips.txt').write_text('# one\nd.mp4\n')
  return made


def run(*arguments) -> int:
  try:
    return animate.main(list(arguments))
  except SystemExit as ended:
    return ended.code


def statuses(folder) -> dict:
  lines = map(json.loads, (folder / 'status.jsonl').read_text().splitlines())
  return {line['output']: line['status'] for line in lines}


def test_an_archive_by_a_list(made, tmp_path, capsys):
  arguments = ('-s', 'faces.zip', '-d', 'clips.txt', '-o', 'out')
  assert run(*arguments) == 2
  assert made == [('me.png', 'd.mp4')] * 2
  said = capsys.readouterr()
  assert "'faces.zip/b/bad.png' is damaged" in said.err
  assert 'faces.zip: 1 files of other kinds' in said.out and '2 of 3 pairs done' in said.out
  assert statuses(tmp_path / 'out') == {
    'a_me_png_by_d.mp4': 'ok',
    'b_me_png_by_d.mp4': 'ok',
    'bad_by_d.mp4': "'faces.zip/b/bad.png' is damaged",
  }
  assert run(*arguments) == 2 and len(made) == 2, 'what is done is passed over'
  left = sorted(path.name for path in (tmp_path / 'out').iterdir())
  assert left == [
    'a_me_png_by_d.json',
    'a_me_png_by_d.mp4',
    'b_me_png_by_d.json',
    'b_me_png_by_d.mp4',
    'status.jsonl',
  ]


def test_pairs_and_nothing_beyond_them(made, tmp_path, capsys):
  (tmp_path / 'pairs.csv').write_text(
    'portrait,driving\na/me.png,d.mp4\ngone.png,d.mp4\nb/me.png\nb/me.png,d.mp4\n'
  )
  assert run('-s', 'pairs.csv', '-o', 'out') == 2 and len(made) == 2
  said = capsys.readouterr().err
  assert 'gone.png' in said and "'b/me.png' is no pair" in said
  assert sorted(each == 'ok' for each in statuses(tmp_path / 'out').values()) == [
    False,
    False,
    True,
    True,
  ]
  (tmp_path / 'pairs.csv').write_text('portrait,driving\na/me.png,d.mp4\nb/me.png,d.mp4\n')
  assert run('-s', 'pairs.csv', '-o', 'out') == 0 and len(made) == 2


@pytest.mark.parametrize(
  'arguments, words',
  [
    (('-s', 'a/me.png', '-o', 'o.mp4'), 'required: -d/--driving'),
    (('-s', 'pairs.csv', '-d', 'd.mp4', '-o', 'o'), 'leave --driving out'),
    (('-s', 'a/me.png', '-d', 'pairs.csv', '-o', 'o'), 'give it as --source alone'),
    (('-s', 'faces.zip', '-d', 'd.mp4', '-o', 'o.mp4'), 'must be a folder too'),
    (('-s', 'clips.zip', '-d', 'd.mp4', '-o', 'o'), "'clips.zip' does not exist"),
    (('-s', 'bad.zip', '-d', 'd.mp4', '-o', 'o'), 'no zip archive, or a damaged one'),
    (('-s', 'a/me.png', '-d', 'faces.zip', '-o', 'o'), 'nothing in'),
  ],
)
def test_mistakes_are_one_sentence_and_nothing_is_made(made, tmp_path, capsys, arguments, words):
  (tmp_path / 'pairs.csv').write_text('portrait,driving\na/me.png,d.mp4\n')
  (tmp_path / 'bad.zip').write_text('PK?')
  assert run(*arguments) == 2 and not made
  said = capsys.readouterr().err
  assert words in said and said.count('\n') == 1
  assert not (tmp_path / 'o').exists() or not list((tmp_path / 'o').iterdir())


def test_the_status_names_no_folder_of_the_machine(made, tmp_path):
  home = tmp_path / 'Jane Doe'
  home.mkdir()
  (tmp_path / 'faces.zip').rename(home / 'faces.zip')
  assert run('-s', str(home / 'faces.zip'), '-d', str(tmp_path / 'd.mp4'), '-o', 'out') == 2
  words = (tmp_path / 'out' / 'status.jsonl').read_text()
  assert 'Jane' not in words and 'faces.zip/b/bad.png' in words


def test_a_cancel_leaves_no_unpacked_file(made, tmp_path, monkeypatch):
  def interrupted(*_, **__):
    assert list((tmp_path / 'out').rglob('me.png'))
    raise KeyboardInterrupt

  monkeypatch.setattr(animate, 'animate_file', interrupted)
  assert run('-s', 'faces.zip', '-d', 'd.mp4', '-o', 'out') == 130
  assert [path.name for path in (tmp_path / 'out').iterdir()] == ['status.jsonl']
