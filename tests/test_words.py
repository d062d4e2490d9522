"""Names and text of others, wherever they are shown: one printable line on a terminal, harmless and
whole in a page, no place of a machine in what is given away."""

import contextlib
import html.parser
import json
import pathlib
import re
import types
import urllib.parse

import numpy as np
import pytest

from exp_jax.commands import animate, evaluate
from exp_jax.commands.bars import Bars
from exp_jax.convert import subjects
from exp_jax.data import clip_job
from exp_jax.errors import UserError, without_folders
from exp_jax.files.digests import RememberedDigests, key_of
from exp_jax.media.images import write_image
from exp_jax.media.video import read_frames, write_video
from exp_jax.metrics.evaluation import job as evaluation
from exp_jax.recipes.demo_stages import stages
from exp_jax.recipes.page import write_page
from tests.test_batches import failing, fit  # noqa: F401

ODD = 'a#b?c%20d&<b>"\'\x1b[2J'
FORGED = 'bad\nerror: forged \x1b[31mred\r\u202e'
PIXELS = np.zeros((3, 16, 18, 3), np.uint8)


def shown(capsys) -> str:
  """What was printed; every line of it is printable and none was forged (a bar begins its line by a
  carriage return)."""
  found = capsys.readouterr()
  for line in re.split('[\r\n]', found.out + found.err):
    line = line.replace('\x1b[A', '')  # tqdm moves up to the bar above
    assert line.isprintable() and not line.startswith('error: forged'), line
  return found.out + found.err


class Links(html.parser.HTMLParser):
  """Tags and links of a page."""

  def __init__(self):
    super().__init__()
    self.tags, self.links, self.words = set(), [], ''

  def handle_starttag(self, tag, attributes):
    self.tags.add(tag)
    self.links += [value for name, value in attributes if name in ('src', 'href')]

  def handle_data(self, data):
    self.words += data


@pytest.fixture
def page(tmp_path, monkeypatch):
  """The page of a demo in a folder with a telling name, of a portrait and a driver with odd names;
  its text, and the folder."""
  out = tmp_path / 'Jane Doe' / 'demo'
  portrait, driver = tmp_path / 'Jane Doe' / f'{ODD}.png', tmp_path / 'Jane Doe' / f'{ODD}2.mp4'
  todo = stages(out, portrait, driver)
  values = {
    kind: {'psnr': 1.0, 'ssim': 1.0, 'l1': 1.0, 'frames': ODD}
    for kind in (
      ODD,
      'self, model',
      'self, repeat the reference',
      'cross, model',
      'cross, repeat the reference',
    )
  }
  (out / 'benchmark').mkdir(parents=True)
  (out / 'benchmark' / 'scores.json').write_text(
    json.dumps({'scores': values, 'offset_error_mm': {ODD: 1.0}, 'control_swap_db': 1.0})
  )
  return write_page(out, todo, {}).read_text(), out, todo


def test_a_page_of_odd_names(page):
  text, out, todo = page
  found = Links()
  found.feed(text)
  assert found.tags <= set(
    'html meta title style h1 h2 h3 p video img table tr th td br code'.split()
  )
  preview = next(stage.leaves for stage in todo if stage.name == 'preview').with_suffix('')
  paths = {
    str(out / urllib.parse.unquote(urllib.parse.urlsplit(link).path)) for link in found.links
  }
  assert (
    f'{preview}_sheet.png' in paths
    and f'{preview}_side_by_side.mp4' in paths
    and len(paths) == len(set(found.links))
  )
  assert not any(
    urllib.parse.urlsplit(link).query or urllib.parse.urlsplit(link).fragment
    for link in found.links
  )
  assert ODD in found.words, 'what stands in the scores'


def test_a_page_says_nothing_of_the_machine(page):
  text, out, _ = page
  assert 'Jane' not in text and str(out.parent) not in text and 'demo/subjects' in text


def test_text_without_folders():
  for words, expected in (
    ("'/home/Jane Doe/clips/a.mp4' is empty", "'a.mp4' is empty"),
    ('/home/jane/x.npz: scale is missing', 'x.npz: scale is missing'),
    (
      'see https://a.org/b/c for more, and/or 24 1/s',
      'see https://a.org/b/c for more, and/or 24 1/s',
    ),
    ('clips/a.mp4 and ./b', 'clips/a.mp4 and ./b'),
    ('--config.data.path=/data/jane/records', '--config.data.path=records'),
    ('File "/home/jane/lib/x.py", line 3', 'File "x.py", line 3'),
    (pathlib.Path('/a/b'), 'b'),
  ):
    assert without_folders(words) == expected
  assert without_folders('/home/Jane Doe/a.mp4: is empty', '/home/Jane Doe') == 'a.mp4: is empty'


def test_bars_and_their_words(capsys):
  with Bars() as bars:
    bars(f'find faces in {FORGED}', 1, 3)
    bars.warn(f'{FORGED} is odd')
    bars.say(FORGED)
  assert 'forged' in shown(capsys)


def test_warnings_about_files(tmp_path, capsys):
  """A film whose name is odd and whose end is lost."""
  path = tmp_path / f'{FORGED}.mkv'
  write_video(
    tmp_path / 'a.mp4', np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), np.uint8), 10
  )
  content = (tmp_path / 'a.mp4').read_bytes()
  path.write_bytes(content[: len(content) * 3 // 4])
  list(read_frames(path, allow_partial=True))
  assert 'forged' in shown(capsys)


def test_subjects(tmp_path, capsys):
  """A clip whose name is odd and that cannot be read."""
  (tmp_path / f'{FORGED}.npz').write_bytes(b'nothing')
  with pytest.raises(SystemExit):
    subjects.main(
      [
        str(tmp_path / f'{FORGED}.npz'),
        '--kind',
        'vhap',
        '--head',
        'procedural',
        '-o',
        str(tmp_path / 'out'),
      ]
    )
  assert 'forged' in shown(capsys)


@pytest.fixture
def places(tmp_path):
  """Portraits and clips with odd names, in a folder with a telling one."""
  folder = tmp_path / 'Jane Doe'
  for name in ('good', FORGED):
    write_image(folder / 'faces' / f'{name}.png', PIXELS[0])
    write_video(folder / 'clips' / f'{name}.mp4', PIXELS, 10)
  return folder


def given_away(folder) -> None:
  """No file below the folder tells where it was made."""
  for path in folder.rglob('*'):
    assert not path.is_file() or b'Jane' not in path.read_bytes(), path


def test_animate(places, monkeypatch, capsys):
  def one(model, source, driving, output, *_, **__):
    raise UserError(f'{str(source)!r} is damaged, as {driving} is')

  monkeypatch.setattr(animate, 'animate_file', one)
  monkeypatch.setattr(
    animate, 'loaded', lambda *_: contextlib.nullcontext(types.SimpleNamespace(loaded={}))
  )
  assert (
    animate.main(
      ['-s', str(places / 'faces'), '-d', str(places / 'clips'), '-o', str(places / 'out')]
    )
    == 2
  )
  assert 'forged' in shown(capsys)
  assert len((places / 'out' / 'status.jsonl').read_text().splitlines()) == 4
  given_away(places / 'out')


def test_evaluate(places, monkeypatch, capsys):
  error = UserError(f"'{places}/clips/x.mp4' is damaged")
  monkeypatch.setattr(evaluation, 'measure_clip', failing(evaluation.measure_clip, error))
  clips = str(places / 'clips')
  with contextlib.suppress(SystemExit):
    evaluate.main(
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
        str(places / 'out'),
      ]
    )
  assert 'forged' in shown(capsys) and 'damaged' in (places / 'out' / 'scores.json').read_text()
  given_away(places / 'out')


def test_fit(fit, capsys):  # noqa: F811
  assert fit('save_subject', UserError(f'{FORGED} is damaged'))[0] == ['bad']
  assert 'forged' in shown(capsys)


@pytest.mark.parametrize('kind', (UserError, ValueError))
def test_lists_of_clips(places, kind, capsys):
  """What `prepare` and `encode` say and keep of the clips that failed."""
  items = [
    clip_job.Item(path.stem, 'one', path.name, path)
    for path in sorted((places / 'clips').iterdir())
  ]
  work = clip_job.Work(
    lambda item: key_of(item.clip_id),
    lambda items: [kind(f'{item.path} is damaged\x1b[2J') for item in items],
  )
  outcomes = clip_job.run_items(items, places / 'out', work)
  clip_job.write_report(places / 'out' / 'report.jsonl', outcomes)
  RememberedDigests(places / 'out' / 'digests.jsonl')(items[0].path)
  assert 'forged' in shown(capsys) and all('is damaged' in outcome.reason for outcome in outcomes)
  given_away(places / 'out')
