"""`animate` from files to files, with a synthetic person in front of MediaPipe."""

import dataclasses
import importlib
import json
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage

from exp_jax import catalog
from exp_jax.actors.__main__ import main as make_actors
from exp_jax.commands.animate import ENGINES, main, options_of, parser
from exp_jax.controls.reenact import Motion
from exp_jax.errors import UserError
from exp_jax.fitting import tracked_driver
from exp_jax.fitting.tracked_driver import best_frame, track
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import Subject, load_subject, save_subject
from exp_jax.media.images import read_image, write_image
from exp_jax.media.squares import Crop, cut_picture
from exp_jax.media.video import read_video, write_timed_video, write_video
from exp_jax.observe import shared_estimator
from exp_jax.observe.landmarks import interpreter
from exp_jax.performance.options import record as options_record
from exp_jax.performance.results import (
  SideBySide,
  beside,
  cut_of,
  driving_record,
  square_record,
  write_record,
)
from exp_jax.systems.expportrait.drawing import DrawnFrames, TransferredOffsets, part_of, square_of
from exp_jax.systems.expportrait.opening import doubt
from tests.small_portrait import Truth, make_small_portrait


def _ready() -> bool:
  try:
    load_head('makehuman')
    return bool(interpreter())
  except UserError:
    return False


def _head_ready() -> bool:
  try:
    return bool(load_head('makehuman'))
  except UserError:
    return False


needs_head = pytest.mark.skipif(not _head_ready(), reason='`make setup` makes the MakeHuman head')
needs_estimator = pytest.mark.skipif(
  not _ready(), reason='`make setup` installs the landmark estimator and the head'
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A portrait in a larger picture, a clip of seven frames with uneven times, one that shows nobody
  in its middle."""
  folder = tmp_path_factory.mktemp('animate')
  make_actors(
    [
      '-o',
      f'{folder / "cast"}',
      '--num',
      '2',
      '--frames',
      '7',
      '--size',
      '256',
      '--seed',
      '5',
      '--fps',
      '8',
    ]
  )
  first, second = (
    read_video(folder / 'cast' / 'clips' / f'actor_0000{i}.mp4').frames for i in (0, 1)
  )
  rows, columns = np.mgrid[:330, :420]
  picture = np.stack([60 + rows / 3, 90 + columns / 5, 120 + 0 * rows], -1).astype(np.uint8)
  picture[40:296, 100:356] = first[0]
  write_image(folder / 'me.png', picture)
  times = np.array([0.0, 0.1, 0.2, 0.35, 0.4, 0.6, 0.7])
  write_timed_video(folder / 'drive.mp4', zip(second, times), 10)
  second[3:5] = 90
  write_video(folder / 'gone.mp4', second, 10)
  return folder


@needs_estimator
@pytest.mark.slow
def test_files_to_files(folder, monkeypatch):
  """The way of a user: animate, keep the motion, use it again, on the whole picture; the same seed
  and motion, the same bytes."""
  monkeypatch.chdir(folder)
  one, two = folder / 'a' / "it's $(one).mp4", folder / '-two.mp4'
  main(
    [
      '-s',
      'me.png',
      '-d',
      'drive.mp4',
      '-o',
      f'{one}',
      '--save_motion',
      'motion.npz',
      '--size',
      '128',
    ]
  )
  clip = read_video(one)
  assert clip.frames.shape == (7, 128, 128, 3)
  np.testing.assert_allclose(clip.times, read_video('drive.mp4').times, atol=1e-4)
  record = json.loads(beside(one, '.json').read_text())
  assert 0 < record['tremble_pixels_at_512']['result'] < 20 and record['smoothing'] == 0.08
  assert (
    record['frames'] == 7
    and record['seed'] == 0
    and record['versions']['exp_jax']
    and len(record['source_sha256']) == 64
  )
  assert str(folder) not in beside(one, '.json').read_text()
  assert beside(one, '_sheet.png').is_file()
  assert record['square']['picture_size'] == [330, 420] and record['square']['size'] == [128, 128]
  assert record['driving']['stride'] == 1 and record['driving']['frames'] == {
    'first': 0,
    'step': 1,
    'count': 7,
  }
  main(['-s', 'me.png', '-d', 'motion.npz', f'-o={two}', '--size', '128', '--paste_back'])
  whole, source = read_video(two).frames, read_image('me.png')
  assert whole.shape == (7, *source.shape)
  assert np.abs(whole[:, :8].astype(float) - source[:8]).mean() < 3, (
    'the border of the picture stands still'
  )
  motion = load_subject('motion.npz')
  assert motion.num_frames == 7 and np.abs(np.diff(motion.pose, axis=0)).max() > 1e-3
  main(
    [
      '-s',
      'me.png',
      '-d',
      'motion.npz',
      '-o',
      'dit.mp4',
      '--engine',
      'dit',
      '--steps',
      '2',
      '--size',
      '128',
    ]
  )
  small = read_video('dit.mp4').frames
  record = json.loads((folder / 'dit.json').read_text())
  assert record['sampling'] == {
    'sampler': 'euler',
    'steps': 2,
    'guidance': 1.0,
    'reference_guidance': 1.0,
    'overlap': 2,
    'negative_prompt': False,
  }
  assert (
    small.shape == (7, 128, 128, 3) and np.abs(small - clip.frames.astype(float)).mean() < 20
  ), 'the model refines the preview'
  main(['-s', 'me.png', '-d', 'motion.npz', '-o', 'again.mp4', '--size', '128', '--paste_back'])
  np.testing.assert_array_equal(read_video('again.mp4').frames, whole)


@needs_estimator
@pytest.mark.slow
def test_frames_without_a_face(folder, monkeypatch, capsys):
  monkeypatch.chdir(folder)
  with pytest.raises(SystemExit):
    main(['-s', 'me.png', '-d', 'gone.mp4', '-o', 'stop.mp4', '--no_face', 'stop', '--size', '128'])
  assert (
    '2 of 7 frames of gone.mp4' in capsys.readouterr().err and not (folder / 'stop.mp4').exists()
  )
  main(
    [
      '-s',
      'me.png',
      '-d',
      'gone.mp4',
      '-o',
      'cut.mp4',
      '--no_face',
      'cut',
      '--size',
      '128',
      '--save_motion',
      'cut.npz',
    ]
  )
  assert len(read_video('cut.mp4').frames) == 5 and load_subject('cut.npz').num_frames == 5


@needs_estimator
@pytest.mark.slow
def test_folders_go_on_after_a_bad_file_and_skip_what_is_done(folder, monkeypatch, capsys):
  monkeypatch.chdir(folder)
  (folder / 'clips').mkdir()
  (folder / 'clips' / 'bad.mp4').write_text('only words')
  (folder / 'clips' / 'good.mp4').write_bytes((folder / 'drive.mp4').read_bytes())
  arguments = ['-s', 'me.png', '-d', 'clips', '-o', 'all', '--size', '128', '--limit', '2']
  assert main(arguments) == 2
  assert 'bad.mp4' in capsys.readouterr().err
  lines = [json.loads(line) for line in (folder / 'all' / 'status.jsonl').read_text().splitlines()]
  assert {line['output']: line['status'] == 'ok' for line in lines} == {
    'me_by_bad.mp4': False,
    'me_by_good.mp4': True,
  }
  before = (folder / 'all' / 'me_by_good.mp4').stat().st_mtime_ns
  assert main(arguments) == 2 and (folder / 'all' / 'me_by_good.mp4').stat().st_mtime_ns == before
  names = sorted(p.name for p in (folder / 'all').iterdir())
  assert names == [
    'me_by_good.json',
    'me_by_good.mp4',
    'me_by_good_sheet.png',
    'me_by_good_side_by_side.mp4',
    'status.jsonl',
  ]


@needs_estimator
@pytest.mark.slow
def test_the_best_frame_of_a_clip_faces_the_camera(folder):
  from exp_jax.observe.landmarks import FaceEstimator

  head = load_head('makehuman')
  truth = load_subject(folder / 'cast' / 'truth' / 'actor_00001.npz')
  turn = np.linalg.norm(
    truth.pose[:, [head.joint_names.index(n) for n in ('neck', 'head')]].sum(1), axis=-1
  )
  with FaceEstimator() as estimator:
    number, picture = best_frame(
      folder / 'drive.mp4', head=head, dense=densify(head, 0), estimator=estimator
    )
  np.testing.assert_array_equal(picture, read_video(folder / 'drive.mp4').frames[number])
  assert turn[number] <= np.median(turn)


@needs_head
@pytest.mark.usefixtures('lightly_compiled')
def test_a_picture_follows_a_motion_from_files_to_a_file(tmp_path, monkeypatch):
  """At 64 pixels, with fits from files: the first frame is the picture, a step moves it as far as
  the camera says."""
  picture, points, matte = make_small_portrait(tmp_path)
  size = 64
  monkeypatch.setattr(shared_estimator, 'FaceEstimator', lambda: Truth(points, matte))
  monkeypatch.chdir(tmp_path)
  main(
    [
      '-s',
      'me.png',
      '-d',
      'motion.npz',
      '-o',
      'out.mp4',
      '--size',
      '64',
      '--subjects',
      'fits',
      '--smoothing',
      '0',
      '--seed',
      '3',
    ]
  )
  clip = read_video('out.mp4')
  assert clip.frames.shape == (3, size, size, 3)
  np.testing.assert_allclose(clip.times, [0, 0.1, 0.25], atol=1e-4)
  record = json.loads(beside(tmp_path / 'out.mp4', '.json').read_text())
  assert record['frames'] == 3 and record['seed'] == 3 and len(record['source_sha256']) == 64
  inside, frames = scipy.ndimage.binary_erosion(matte > 0, iterations=3), clip.frames.astype(float)
  error = lambda frame, columns: np.abs(frame - np.roll(picture, columns, 1))[
    np.roll(inside, columns, 1)
  ].mean()
  assert error(frames[0], 0) < 6 and error(frames[2], 0) < 6, (
    'of 255: the picture itself, drawn on its head'
  )
  assert error(frames[1], 6) < 12, (
    'six pixels to the right, where the sides of the head are seen anew'
  )
  assert error(frames[1], 0) > 20 and error(frames[1], -6) > 20


def test_offsets_and_maps_are_made_part_by_part():
  """What is asked for window by window is what would have been made at once, and little is made
  twice."""
  rng = np.random.default_rng(0)
  motion = Motion(
    *(rng.normal(size=(70, *shape)).astype(np.float32) for shape in ((5,), (4, 3), (3,)))
  )
  calls = []

  def transfer(subject, expression, jaw):
    calls.append(len(expression))
    return np.repeat(expression.sum(-1)[:, None, None] + jaw[:, :1, None], 2, axis=1)

  offsets = TransferredOffsets(transfer, None, motion, motion.pose[:, 2])
  whole = transfer(None, motion.expression, motion.pose[:, 2])
  assert len(offsets) == 70 and calls.pop() == 70
  for start, stop in ((0, 5), (3, 8), (30, 36), (66, 70)):
    cut, made = part_of(motion, offsets, start, stop)
    np.testing.assert_array_equal(made, whole[start:stop])
    np.testing.assert_array_equal(cut.pose, motion.pose[start:stop])
  assert calls == [32, 32, 6] and part_of(motion, None, 0, 2)[1] is None
  drawn = DrawnFrames(
    7, 4, lambda start, stop: np.full((stop - start, 4, 4, 3), 51 * start, np.uint8)
  )
  assert (
    len(drawn) == 7 and drawn[2:40].shape == (5, 4, 4, 3) and abs(drawn[1:3].max() - 0.2) < 1e-6
  )


def test_results_lie_beside_and_tell_no_path(tmp_path):
  long = tmp_path / ('x' * 251 + '.mp4')
  frames = np.random.default_rng(0).integers(0, 255, (3, 32, 48, 3)).astype(np.uint8)
  write_video(long, frames, 10)
  write_video(tmp_path / 'd.mp4', frames[:, :, :32], 10)
  with SideBySide(
    long, frames[0], tmp_path / 'd.mp4', times=np.array([0, 0.1, 0.25]), rate=10
  ) as columns:
    for frame in frames:
      columns.add(frame)
    columns.finish()
  write_record(long, {'a': 1}, driving=tmp_path / 'd.mp4')
  record = json.loads(beside(long, '.json').read_text())
  assert record['a'] == 1 and 'secret' not in json.dumps(record)
  assert set(record) == {'a', 'versions', 'driving_sha256', 'output_sha256'}
  assert all(len(p.name) <= 255 for p in tmp_path.iterdir()) and len(list(tmp_path.iterdir())) == 5
  found = read_video(beside(long, '_side_by_side.mp4'))
  assert found.frames.shape == (3, 32, 48 + 32 + 48, 3)
  np.testing.assert_allclose(found.times, [0, 0.1, 0.25], atol=1e-4)


def test_what_lies_beside_is_whole_or_not_there(tmp_path):
  """A result that is not finished leaves nothing; a driver that ends too soon is told at the end
  and holds nobody up."""
  frames = np.random.default_rng(0).integers(0, 255, (40, 32, 48, 3)).astype(np.uint8)
  write_video(tmp_path / 'd.mp4', frames[:1], 10)
  of = lambda: SideBySide(
    tmp_path / 'o.mp4', frames[0], tmp_path / 'd.mp4', times=np.arange(40) / 10, rate=10
  )
  with pytest.raises(OSError, match='stopped'), of() as columns:
    columns.add(frames[0])
    raise OSError('stopped')
  assert [path.name for path in tmp_path.iterdir()] == ['d.mp4']
  with pytest.raises(UserError, match='d.mp4'), of() as columns:
    for frame in frames:
      columns.add(frame)
    columns.finish()
  assert [path.name for path in tmp_path.iterdir()] == ['d.mp4']


def test_every_system_plugs_in_by_the_same_names():
  given = parser().parse_args(['-s', 'a.png', '-d', 'b.mp4', '-o', 'c.mp4'])
  assert given.engine == 'proxy' and set(ENGINES.values()) == set(catalog.SYSTEMS)
  for name, system in catalog.SYSTEMS.items():
    assert (
      callable(importlib.import_module(system.module).load)
      and system.Options() == system.Options()
      and system.LoadOptions() is not None
    )
    kind = next(
      c
      for c in vars(importlib.import_module(system.module)).values()
      if isinstance(c, type) and getattr(c, 'name', None) == name
    )
    assert {'animate', 'estimate', 'warm_up', 'close', '__enter__', '__exit__'} <= set(
      dir(kind)
    ) and kind.Options is system.Options


def test_what_is_done_is_not_skipped_under_other_settings(tmp_path, capsys):
  """A folder run that asks for another stride than the finished video's is told so; the same
  settings skip it, --again does not."""
  for name in ('s', 'd', 'o'):
    (tmp_path / name).mkdir()
  write_image(tmp_path / 's' / 'me.png', np.zeros((64, 64, 3), np.uint8))
  for path in (tmp_path / 'd' / 'clip.mp4', tmp_path / 'o' / 'me_by_clip.mp4'):
    write_video(path, np.zeros((2, 64, 64, 3), np.uint8), 10)
  base = [
    '-s',
    str(tmp_path / 's'),
    '-d',
    str(tmp_path / 'd'),
    '-o',
    str(tmp_path / 'o'),
    '--engine',
    'dit',
    '--steps',
    '4',
  ]
  given = options_record(options_of(parser().parse_args(base)))
  chosen = {'sampler': 'euler', 'steps': 4, 'overlap': 2}
  write_record(tmp_path / 'o' / 'me_by_clip.mp4', given | {'source_frame': 7, 'sampling': chosen})
  assert main(base) == 0
  capsys.readouterr()
  for more, words in (
    (['--driving_stride', '4'], 'driving_stride 1, now 4'),
    (['--overlap', '1'], 'overlap 2, now 1'),
  ):
    assert main(base + more) == 2
    assert (
      f'me_by_clip.mp4 is there with other settings ({words}); --again' in capsys.readouterr().err
    )
  write_record(
    tmp_path / 'o' / 'me_by_clip.mp4',
    given | {'maps': ['of another network'], 'transfer': 'embedded'},
  )
  assert main(base) == 2 and 'made with other models (maps); --again' in capsys.readouterr().err
  write_record(tmp_path / 'o' / 'me_by_clip.mp4', given | {'limit': 5})
  assert main(base) == 2 and 'limit 5, now None' in capsys.readouterr().err


def moving_subject(frames, rate):
  """A subject of the procedural head whose numbers tell the frame."""
  head = load_head('procedural')
  count = len(densify(head, 0).coarse_ids)
  number = np.arange(frames, dtype=np.float32)
  return Subject(
    'a',
    head.name,
    head_digest(head),
    0,
    (64, 64),
    rate,
    np.zeros(10, np.float32),
    np.repeat(number[:, None], 10, 1),
    np.zeros((frames, len(head.parents), 3), np.float32),
    np.tile(np.float32([0, 0, -1]), (frames, 1)),
    np.ones(2, np.float32),
    np.ones(2, np.float32),
    number / rate,
    np.zeros((count, 3), np.float32),
    np.zeros(0, np.int32),
    np.zeros((frames, 0, 3), np.float32),
  )


def test_a_stride_samples_the_driver(tmp_path, monkeypatch):
  """Every fourth frame, at its own time, whether the driver is watched or was kept; frames without
  a face keep their numbers."""
  write_video(tmp_path / 'd.mp4', [np.full((256, 256, 3), 15 * t, np.uint8) for t in range(13)], 25)
  points = np.random.default_rng(0).uniform(60, 190, (478, 3)).astype(np.float32)
  points[[33, 133, 362, 263], :2] = [(70, 100), (100, 100), (150, 100), (180, 100)]
  seen = []

  def estimator(image):
    seen.append(round(image.mean() / 15))
    return points[None][: seen[-1] != 4], None, None

  monkeypatch.setattr(tracked_driver, 'fit_coarse_long', lambda *_, **__: None)
  monkeypatch.setattr(
    tracked_driver,
    'tracked',
    lambda clip, fit, *, rate, **_: moving_subject(len(clip.points), rate),
  )
  common = dict(head=load_head('procedural'), dense=None, size=64, stride=4)
  found = track(tmp_path / 'd.mp4', estimator=estimator, **common)
  assert (
    seen == [0, 4, 8, 12]
    and found.rate == Fraction(25, 4)
    and found.subject.fps == 6.25
    and found.whole
  )
  np.testing.assert_allclose(found.times, [0, 0.16, 0.32, 0.48])
  np.testing.assert_array_equal(found.kept, [0, 4, 8, 12])
  cut = track(tmp_path / 'd.mp4', estimator=estimator, limit=3, no_face='cut', **common)
  np.testing.assert_array_equal(cut.kept, [0, 8])
  assert not cut.whole and driving_record(4, cut.kept)['frames'] == {
    'first': 0,
    'step': 8,
    'count': 2,
  }
  save_subject(tmp_path / 'm.npz', moving_subject(13, 25.0))
  kept = track(tmp_path / 'm.npz', limit=3, **common)
  np.testing.assert_array_equal(kept.subject.expression[:, 0], [0, 4, 8])
  np.testing.assert_allclose(kept.times, [0, 0.16, 0.32])
  assert kept.rate == Fraction(25, 4) and kept.subject.fps == 6.25


def test_networks_see_the_key_frames_of_the_driver_and_no_others(tmp_path, monkeypatch):
  """Up to four of the frames that were watched and show the face, in the square that the driver is
  fitted in."""
  write_video(tmp_path / 'd.mp4', [np.full((256, 256, 3), 10 * t, np.uint8) for t in range(25)], 25)
  points = np.random.default_rng(0).uniform(60, 190, (478, 3)).astype(np.float32)
  points[[33, 133, 362, 263], :2] = [(70, 100), (100, 100), (150, 100), (180, 100)]
  looked, given = [], []

  def estimator(image):
    return points[None][: round(image.mean() / 10) != 24], None, None

  def maps(image, points):
    looked.append(round(image.mean() / 10))
    assert image.shape == (64, 64, 3) and points.shape == (478, 2) and points.max() <= 64
    return {
      'normals': np.tile(np.float32([0, 0, 1]), (64, 64, 1)),
      'weights': np.full((64, 64), 0.01 * looked[-1], np.float32),
    }

  maps.kind, maps.digest, maps.name, maps.licence, maps.num_tokens, maps.signs = (
    'fake',
    '',
    'fake',
    '',
    0,
    (1, 1, 1),
  )
  monkeypatch.setattr(
    tracked_driver,
    'fit_coarse_long',
    lambda head, seen, *, keys: given.append((len(seen.points), keys)),
  )
  monkeypatch.setattr(
    tracked_driver,
    'tracked',
    lambda clip, fit, *, rate, **_: moving_subject(len(clip.points), rate),
  )
  common = dict(head=load_head('procedural'), dense=None, size=64, estimator=estimator)
  track(tmp_path / 'd.mp4', stride=2, map_estimators=(maps,), **common)
  ((frames, keys),) = given
  assert frames == 13 and looked == [0, 8, 14, 22] and len(keys.points) == 4
  np.testing.assert_allclose(keys.normal_weights[:, 32, 32], 0.01 * np.array(looked), atol=1e-3)
  track(tmp_path / 'd.mp4', **common)
  assert given[1] == (25, None) and len(looked) == 4


def test_the_best_frame_is_the_calmest_that_shows_the_face(monkeypatch):
  """The fit gives each frame the expression that its brightness says; the calmest frame shows
  nobody, the next is taken."""
  frames = np.stack([np.full((256, 256, 3), 10 * value, np.uint8) for value in (5, 1, 9, 2, 7, 3)])
  points, head, shown = (
    np.random.default_rng(0).uniform(60, 190, (478, 3)).astype(np.float32),
    load_head('procedural'),
    [],
  )

  def estimator(image):
    if value := 0 if image[0, 0, 0] == 10 else image[0, 0, 0] // 10:
      shown.append(value)
    return points[None][: bool(value)], None, None

  def fit(head, cut):
    return SimpleNamespace(
      pose=np.zeros((len(cut.points), len(head.parents), 3)),
      expression=np.array(shown, float)[:, None],
    )

  monkeypatch.setattr(tracked_driver, 'fit_coarse_long', fit)
  find = lambda **how: best_frame(frames, head=head, dense=None, estimator=estimator, **how)
  number, picture = find()
  assert number == 3 and shown == [5, 9, 2, 7, 3]
  np.testing.assert_array_equal(picture, frames[3])
  shown.clear()
  assert find(candidates=3)[0] == 5 and shown == [5, 9, 3]
  with pytest.raises(UserError, match='no face found in the portrait; use a clip'):
    best_frame(frames[1:2], head=head, dense=None, estimator=estimator)


def test_the_square_of_the_record_is_where_the_portrait_was_cut():
  """The portrait's own pixels are the judge, as fitted and at another size, to one grey level:
  files keep the matrix in float32."""
  equal = lambda a, b: np.testing.assert_allclose(a.astype(int), b.astype(int), atol=1)
  image = np.random.default_rng(0).integers(0, 255, (90, 120, 3)).astype(np.uint8)
  for crop in (Crop(13.25, 7.5, 61.0, 64), Crop(-6.0, 20.0, 80.0, 64)):
    portrait = SimpleNamespace(
      subject=SimpleNamespace(source_crop=np.linalg.inv(crop.matrix())[None], image_size=(64, 64))
    )
    square = square_record(image.shape[:2], square_of(portrait, image))
    equal(cut_picture(image, cut_of(json.loads(json.dumps(square)))), crop.cut(image))
    small = square_of(portrait, image).resized((32, 32))
    equal(cut_picture(image, small), dataclasses.replace(crop, size=32).cut(image))
  whole = SimpleNamespace(subject=SimpleNamespace(source_crop=None, image_size=(64, 64)))
  equal(
    cut_picture(image[:, :90], square_of(whole, image[:, :90])),
    Crop(0.0, 0.0, 90.0, 64).cut(image[:, :90]),
  )
  assert square_record((90, 120), None) == {
    'picture_size': [90, 120],
    'matrix': None,
    'size': [90, 120],
  }


@pytest.mark.parametrize(
  'given, words',
  [
    (['--driving_stride', '0'], '--driving_stride must be at least 1'),
    (
      ['--engine', 'liveportrait', '--random_weights', 'tiny', '--driving_stride', '2'],
      '--driving_stride belongs to --engine',
    ),
    (['--sampler', 'unipc'], '--sampler belongs to --engine dit'),
    (['--overlap', '1'], '--overlap belongs to --engine dit'),
    (['--guidance', '1'], '--guidance belongs to --engine dit'),
    (['--vae', 'out'], '--vae belongs to --engine dit'),
    (['--absolute'], '--absolute belongs to --engine liveportrait; the engine is proxy'),
    (
      ['--engine', 'dit', '--filters', 'scale=1e-6'],
      '--filters belongs to --engine liveportrait; the engine is dit',
    ),
    (
      ['--engine', 'liveportrait', '--random_weights', 'tiny', '--steps', '9'],
      '--steps belongs to --engine proxy or dit',
    ),
    (['--engine', 'dit', '--overlap', '9'], 'overlap=9 does not fit'),
    (['--engine', 'dit', '--sampler', 'heun'], 'heun'),
  ],
)
def test_an_option_that_the_engine_cannot_honour_is_refused_by_name(tmp_path, capsys, given, words):
  write_image(tmp_path / 'me.png', np.zeros((64, 64, 3), np.uint8))
  with pytest.raises(SystemExit) as ended:
    main(
      [
        '-s',
        str(tmp_path / 'me.png'),
        '-d',
        str(tmp_path / 'me.png'),
        '-o',
        str(tmp_path / 'a.mp4'),
        *given,
      ]
    )
  assert ended.value.code == 2 and words in capsys.readouterr().err


def test_a_portrait_whose_head_misses_its_landmarks_is_doubted_by_name():
  report = lambda error: json.dumps({'landmark_error_share_of_eye_distance': error})
  assert not doubt('ann.jpg', report(0.018)) and not doubt('ann.jpg', json.dumps({}))
  words = doubt('cat.jpg', report(0.0214))
  assert words.startswith('cat.jpg') and '2.1 %' in words and 'human face' in words
