"""Lists and folders of inputs: whatever one of them ends with, it is named and the others are done;
only a full disk ends all."""

import contextlib
import errno
import importlib.util
import json
import pathlib
import types

import numpy as np
import pytest

from exp_jax.commands import animate
from exp_jax.errors import UserError, item_failure
from exp_jax.files.atomic import write_text
from exp_jax.fitting import job as fitting
from exp_jax.media.images import write_image
from exp_jax.media.video import write_video
from exp_jax.metrics.evaluation import job as evaluation
from exp_jax.systems.liveportrait.training import prepare as faces

ROOT = pathlib.Path(__file__).parents[1]
ERRORS = (
  ValueError('no such\ncodec'),
  OSError(errno.EIO, 'Input/output error'),
  AssertionError(),
  MemoryError(),
  RecursionError('maximum recursion depth exceeded'),
  UserError('bad is damaged'),
)
EACH_ERROR = pytest.mark.parametrize('error', ERRORS, ids=lambda error: type(error).__name__)
FULL = OSError(errno.ENOSPC, 'No space left on device')


def failing(function, error):
  """`function`, except where the name of the bad item is among what it is given."""

  def called(*args, **kwargs):
    if 'bad' in f'{args} {kwargs}':
      raise error
    return function(*args, **kwargs)

  return called


@EACH_ERROR
def test_a_failure_is_one_line_that_names_the_item(error):
  words = item_failure('b\x1bad', error)
  assert (
    words.isprintable()
    and words.count('bad') == 1
    or type(error) is UserError
    and words == 'bad is damaged'
  )
  assert type(error) in (UserError, MemoryError) or type(error).__name__ in words
  assert not isinstance(error, MemoryError) or 'memory' in words
  with pytest.raises(OSError, match='No space'):
    item_failure('bad', FULL)


@pytest.fixture
def fit(tmp_path, monkeypatch):
  """Fits three pictures, the heavy parts replaced: {name of a part: how to replace it}, and what
  came of it."""
  config = importlib.util.spec_from_file_location('fit_head', ROOT / 'configs' / 'fit_head.py')
  module = importlib.util.module_from_spec(config)
  config.loader.exec_module(module)
  settings = module.get_config('smoke')
  settings.update(
    dict(
      head='procedural', levels=0, together=3, landmark_model='', observations='', networks='none'
    )
  )
  paths = [tmp_path / f'{name}.png' for name in ('ann', 'bad', 'bob')]
  for path in paths:
    write_image(path, np.zeros((16, 18, 3), np.uint8))
  one = lambda clip: types.SimpleNamespace(
    subject=types.SimpleNamespace(detail='full', subject_id=clip),
    coarse=types.SimpleNamespace(error=np.zeros(1)),
    observation=types.SimpleNamespace(warnings=()),
    name=clip,
  )
  parts = {
    'read_footage': fitting.read_footage,
    'look_at': lambda frames, *, name, **_: name,
    'fit_clips': lambda clips, **_: [one(clip) for clip in clips],
    'write_preview': lambda output, fitted, frames, head, dense, *, still: (
      output / f'{fitted.name}.png'
    ),
    'save_subject': lambda path, subject: write_text(path, subject.subject_id),
  }
  monkeypatch.setattr(fitting, 'FaceEstimator', lambda: contextlib.nullcontext())
  for name, part in parts.items():
    monkeypatch.setattr(fitting, name, part)

  def run(part, error):
    monkeypatch.setattr(fitting, part, failing(parts[part], error))
    out = tmp_path / 'out'
    return [pathlib.Path(path).stem for path in fitting.fit_files(paths, out, settings)], sorted(
      p.stem for p in out.glob('*.npz')
    )

  return run


@pytest.mark.parametrize('part', ('read_footage', 'look_at', 'fit_clips', 'save_subject'))
@EACH_ERROR
def test_fit(fit, part, error, capsys):
  assert fit(part, error) == (['bad'], ['ann', 'bob'])
  assert 'error: ' in capsys.readouterr().err


def test_fit_ends_where_the_disk_is_full(fit):
  with pytest.raises(OSError, match='No space'):
    fit('save_subject', FULL)


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  folder = tmp_path_factory.mktemp('clips')
  rng = np.random.default_rng(0)
  for name in ('ann', 'bad', 'bob'):
    write_video(folder / f'{name}.mp4', rng.integers(0, 255, (3, 16, 18, 3), np.uint8), 10)
  return folder


@pytest.mark.long
@pytest.mark.parametrize('part', ('framing_of', 'load_clip', 'stream_times', 'measure_clip'))
@EACH_ERROR
def test_evaluate(clips, part, error, tmp_path, monkeypatch):
  monkeypatch.setattr(evaluation, part, failing(getattr(evaluation, part), error))
  _, failed = evaluation.evaluate(
    clips,
    clips,
    None,
    tmp_path,
    protocol='all-self',
    weights=None,
    framing='same',
    tools=evaluation.Tools(),
  )
  assert list(failed) == ['bad'] and failed['bad'].isprintable()
  assert [clip['name'] for clip in json.loads((tmp_path / 'clips.json').read_text())['clips']] == [
    'ann',
    'bob',
  ]


@EACH_ERROR
def test_animate(clips, error, tmp_path, monkeypatch, capsys):
  for name in ('ann', 'bad'):
    write_image(tmp_path / f'{name}.png', np.zeros((16, 18, 3), np.uint8))

  def one(model, source, driving, output, options, bars, save_motion=None):
    write_text(output, 'a video')
    return 3

  monkeypatch.setattr(animate, 'animate_file', failing(one, error))
  monkeypatch.setattr(
    animate, 'loaded', lambda *_: contextlib.nullcontext(types.SimpleNamespace(loaded={}))
  )
  assert (
    animate.main(['-s', f'{tmp_path / "ann.png"}', '-d', f'{clips}', '-o', f'{tmp_path / "out"}'])
    == 2
  )
  assert sorted(p.name for p in (tmp_path / 'out').glob('*.mp4')) == [
    'ann_by_ann.mp4',
    'ann_by_bob.mp4',
  ]
  said = capsys.readouterr().err
  assert said.count('error: ') == 1 and 'bad' in said


@EACH_ERROR
def test_face_records(clips, error, tmp_path, monkeypatch):
  monkeypatch.setattr(
    faces, 'face_records', failing(lambda path, *_, **__: [{'x': np.zeros(3)}], error)
  )
  count, complaints = faces.write_face_records(
    sorted(clips.iterdir()), tmp_path / 'faces.array_record', None, size=32
  )
  assert count == 2 and len(complaints) == 1 and complaints[0].isprintable()


@pytest.mark.parametrize('error', ERRORS[:5], ids=lambda error: type(error).__name__)
def test_datasets(clips, error, tmp_path, monkeypatch):
  pytest.importorskip('tensorflow_datasets')
  monkeypatch.syspath_prepend(str(ROOT / 'datasets'))
  import build

  files = tmp_path / 'files' / 'clips'
  files.mkdir(parents=True)
  for name in ('Ann_0', 'bad_0', 'Bob_0'):
    (files / f'WDA_{name}.mp4').write_bytes((clips / 'ann.mp4').read_bytes())
  arguments = [
    'hdtf',
    '--manual_dir',
    str(tmp_path / 'files'),
    '--data_dir',
    str(tmp_path / 'data'),
  ]
  records = importlib.import_module('clip_records')
  monkeypatch.setattr(records, 'read_frames', failing(records.read_frames, error))
  assert build.main(arguments) == 0
  report = [
    json.loads(line)
    for line in (tmp_path / 'data' / 'hdtf' / 'build_report.jsonl').read_text().splitlines()
  ]
  assert [line['clip_id'] for line in report] == ['WDA_bad_0']
  assert ('memory' if isinstance(error, MemoryError) else type(error).__name__) in report[0][
    'reason'
  ]
