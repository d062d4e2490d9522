"""Every stage with random tiny weights: arrays in, arrays out; files in, files out, by the command
itself."""

import dataclasses
import fractions
import json

import numpy as np
import pytest

from exp_jax.commands import animate as command
from exp_jax.errors import UserError
from exp_jax.media.images import read_image, write_image
from exp_jax.media.squares import cut_picture
from exp_jax.media.video import read_video, write_timed_video
from exp_jax.observe.people import watch_faces
from exp_jax.performance.inputs import footage
from exp_jax.performance.results import cut_of
from exp_jax.progress import Watch
from exp_jax.systems.liveportrait import animate as engine
from exp_jax.systems.liveportrait import faces, painting
from exp_jax.systems.liveportrait.crop import cut as crop_cut
from exp_jax.systems.liveportrait.models import Model, random_model
from exp_jax.systems.liveportrait.motion.driving import take
from exp_jax.systems.liveportrait.motion.templates import load_template
from exp_jax.systems.liveportrait.options import Options
from exp_jax.systems.liveportrait.pipeline_options import DrivingOptions, PipelineOptions


def face_points(center, size):
  """478 points that look like a face of MediaPipe's where it matters."""
  rng = np.random.default_rng(0)
  points = rng.uniform(-0.45, 0.45, (478, 2))
  for index, place in {
    33: (-0.3, -0.2),
    133: (-0.1, -0.2),
    159: (-0.2, -0.23),
    145: (-0.2, -0.17),
    362: (0.1, -0.2),
    263: (0.3, -0.2),
    386: (0.2, -0.23),
    374: (0.2, -0.17),
    61: (-0.15, 0.25),
    291: (0.15, 0.25),
    13: (0, 0.24),
    14: (0, 0.27),
  }.items():
    points[index] = place
  return points * size + center


class Pretended:
  """Finds faces where the picture has squares of pure red, one per square; their size tells the
  face's."""

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def __call__(self, image):
    red = (image[..., 0] > 200) & (image[..., 1] < 60) & (image[..., 2] < 60)
    found, left = [], red.copy()
    while left.sum() > 40:
      rows, columns = np.nonzero(left)
      column = columns.min()
      row = rows[columns == column].min()
      width = int(np.argmin(np.append(red[row + 1, column:], False)))
      height = int(np.argmin(np.append(red[row:, column + 1], False)))
      left[max(row - 2, 0) : row + height + 2, max(column - 2, 0) : column + width + 2] = False
      found.append(face_points((column + width / 2, row + height / 2), max(width, height)))
    points = np.zeros((len(found), 478, 3), np.float32)
    points[..., :2] = np.array(found).reshape(-1, 478, 2)
    return points, np.ones(len(found)), np.zeros(image.shape[:2], np.uint8)


def picture(size, *squares, seed=0):
  """Noise with red squares (left, top, side)."""
  image = np.random.default_rng(seed).integers(60, 160, (*size, 3)).astype(np.uint8)
  for left, top, side in squares:
    image[top : top + side, left : left + side] = (250, 10, 10)
  return image


@pytest.fixture(scope='module')
def model():
  return random_model('tiny', 3)


@pytest.fixture(autouse=True)
def pretended(monkeypatch):
  monkeypatch.setattr(engine, 'FaceEstimator', Pretended)


def animated(model, source, driving, *, points=(None, None), rate=25, **options):
  """All frames, by faces that are pretended."""
  loaded = engine.LivePortrait(model, estimator=Pretended())
  return loaded.animate(
    source,
    driving,
    options=Options(**options),
    source_points=points[0],
    driving_points=points[1],
    rate=rate,
  ).frames()


def clip(count, size=(64, 64), without=(), squares=lambda t: ((20 + t, 18, 24),)):
  return np.stack(
    [picture(size, *(() if t in without else squares(t)), seed=t) for t in range(count)]
  )


@pytest.mark.long
def test_a_picture_moves_inside_its_crop_only(model):
  source = picture((120, 150), (60, 50, 20))
  frames = animated(model, source, clip(3))
  assert frames.shape == (3, 120, 150, 3) and frames.dtype == np.uint8
  changed = (frames != source).any((0, 3))
  assert 0.05 < changed.mean() < 0.6 and not changed[:10].any() and not changed[:, :20].any()
  crop = animated(model, source, clip(3), crop_only=True)
  assert crop.shape == (3, 128, 128, 3)


@pytest.mark.long
def test_several_faces_are_painted_each(model):
  source = picture((100, 260), (30, 40, 20), (180, 40, 24))
  both = animated(model, source, clip(1), face='all')[0]
  left, right = (animated(model, source, clip(1), face=f)[0] for f in ('left', 'right'))
  largest, place = (animated(model, source, clip(1), face=f)[0] for f in ('largest', '40,50'))
  np.testing.assert_array_equal(largest, right)
  np.testing.assert_array_equal(place, left)
  half = 110
  np.testing.assert_array_equal(both[:, :half], left[:, :half])
  np.testing.assert_array_equal(both[:, half + 20 :], right[:, half + 20 :])
  np.testing.assert_array_equal(left[:, half + 20 :], source[:, half + 20 :])
  for choice, words in (('7', 'there is no face 7'), ('nose', 'must be largest')):
    with pytest.raises(UserError, match=words):
      animated(model, source, clip(1), face=choice)
  with pytest.raises(UserError, match='no face found'):
    animated(model, picture((64, 64)), clip(1))


@pytest.mark.long
def test_a_clip_is_edited_and_frames_without_a_face_pass(model):
  source = clip(4, (100, 110), without=(2,), squares=lambda t: ((40 + t, 40, 20),))
  frames = animated(model, source, clip(4))
  assert frames.shape == source.shape
  np.testing.assert_array_equal(frames[2], source[2])
  assert all((frames[t] != source[t]).mean() > 0.05 for t in (0, 1, 3))
  still = animated(model, source, clip(1)[0])  # a picture drives all frames
  assert still.shape == source.shape
  short = animated(model, source, clip(2))
  assert len(short) == 2


@pytest.mark.slow
def test_one_frame_at_a_time_equals_all_at_once(model, monkeypatch):
  """Batches of painted pictures do not matter."""
  source, driving = picture((90, 90), (35, 35, 20)), clip(5)
  one = animated(model, source, driving)
  monkeypatch.setattr(painting.jax, 'default_backend', lambda: 'tpu')
  several = animated(model, source, driving)
  # a float32 sum in another order may cross a whole number
  assert np.abs(one.astype(int) - several).max() <= 1


def test_landmarks_of_ones_own_need_no_estimator(model, monkeypatch):
  monkeypatch.setattr(engine, 'FaceEstimator', None)
  source = picture((90, 90))
  points = np.array([[35, 40], [55, 40], [45, 50], [38, 60], [52, 60.0]])
  frames = (
    engine.LivePortrait(model)
    .animate(source, clip(2), source_points=points, driving_points=np.stack([points] * 2))
    .frames()
  )
  assert frames.shape == (2, 90, 90, 3)
  whole = (
    engine.LivePortrait(model)
    .animate(source, clip(2), options=Options(no_crop=True, crop_driving='no'))
    .frames()
  )
  assert whole.shape == (2, 90, 90, 3) and (whole[0] != source).mean() > 0.9


def test_drivers_without_a_face(model):
  watched = lambda frames: watch_faces(footage(frames).frames(), Pretended(), stage='x')
  frames = clip(5, without=(0, 3))
  points = faces.tracks(watched(frames), 'largest', 'x')[0]
  said = []
  read = lambda how: faces.read_driver(
    model,
    footage(frames).frames,
    watched(frames),
    points,
    rate=footage(frames).rate,
    no_face=how,
    watch=Watch(warn=said.append),
  )
  held, kept = read('hold')
  assert (
    len(held) == 5
    and list(held.found) == [False, True, True, False, True]
    and '2 of 5 frames' in said[0]
  )
  np.testing.assert_array_equal(held.motion.expression[0], held.motion.expression[1])
  left, kept = read('cut')
  assert list(kept) == [1, 2, 4] and len(left) == 3
  np.testing.assert_array_equal(left.motion.rotation, held.motion.rotation[[1, 2, 4]])
  with pytest.raises(UserError, match='--no_face'):
    read('stop')


def test_a_driver_that_is_not_square_is_cropped_by_one_box(model):
  wide = clip(3, (64, 100))
  watched = watch_faces(footage(wide).frames(), Pretended(), stage='x')
  points = faces.tracks(watched, 'largest', 'x')[0]
  read = lambda **crop: faces.read_driver(
    model, footage(wide).frames, watched, points, rate=footage(wide).rate, **crop
  )[0]
  cropped, asked, whole = read(), read(crop='yes'), read(crop='no')
  np.testing.assert_array_equal(cropped.motion.expression, asked.motion.expression)
  assert np.abs(cropped.motion.expression - whole.motion.expression).max() > 1e-6


def test_two_clips_are_matched_by_time(model):
  """A driver of 10 frames a second and a source of 20: by time every second source frame meets a
  driver frame."""
  source = clip(6, (80, 80), squares=lambda t: ((30, 30, 20),))
  found, watched = engine.read_source(
    model, footage(source, rate=20), PipelineOptions(), Pretended()
  )
  driver, _ = engine.read_clip(model, footage(clip(3), rate=10), PipelineOptions(), Pretended())
  options = PipelineOptions(DrivingOptions(smooth=0.0), stitching=False)
  ready = painting.cast(model, found, [driver], options, source_times=watched.times, source_rate=20)
  assert len(ready.times) == 6 and ready.rate == 20
  matched = dataclasses.replace(
    driver,
    motion=take(driver.motion, np.array([0, 0, 1, 1, 2, 2])),
    eyes=None,
    lip=None,
    found=None,
  )
  index = painting.cast(
    model,
    found,
    [matched],
    dataclasses.replace(options, by_index=True),
    source_times=watched.times,
    source_rate=20,
  )
  np.testing.assert_allclose(ready.keypoints[0][::2], index.keypoints[0][::2], atol=1e-6)
  half = painting.cast(
    model,
    found,
    [driver],
    dataclasses.replace(options, by_index=True),
    source_times=watched.times,
    source_rate=20,
  )
  assert len(half.times) == 3  # as published: the shorter one counts, whatever its rate


def test_values_that_are_not_finite_are_computed_again_or_refused(model):
  class Breaks(Model):
    def paint(self, volume, source, driving):
      return (
        super().paint(volume, source, driving)
        if self.nets.generator.dtype == 'float32'
        else np.full(3, np.nan)
      )

  import exp_jax.systems.liveportrait.models as models

  broken, said = Breaks(models.networks('tiny', dtype='bfloat16'), model.params), []
  painter = painting.Painter(broken, PipelineOptions(), warn=said.append)
  points = np.zeros((1, 21, 3), np.float32)
  volume = model.appearance(np.zeros((1, 64, 64, 3), np.float32))
  assert np.isfinite(painter.faces_of(volume, points, points)).all() and 'bfloat16' in said[0]
  with pytest.raises(UserError, match='not finite'):
    painting.Painter(Never(model.nets, model.params), PipelineOptions()).faces_of(None, None, None)


class Never(Model):
  def paint(self, *_):
    return np.full((1, 128, 128, 3), np.nan)


@pytest.fixture
def files(tmp_path):
  write_image(tmp_path / 'one.png', picture((97, 121), (50, 40, 20)))
  write_image(tmp_path / 'two.png', picture((80, 200), (20, 30, 20), (150, 30, 20)))
  write_timed_video(
    tmp_path / 'drive.mp4',
    ((f, i * 1001 / 30000) for i, f in enumerate(clip(4))),
    fractions.Fraction(30000, 1001),
  )
  write_timed_video(
    tmp_path / 'other.mp4', ((f, i / 15) for i, f in enumerate(clip(3, without=(1,)))), 15
  )
  return tmp_path


def run(folder, *arguments):
  try:
    return command.main(
      ['--engine', 'liveportrait', '--random_weights', 'tiny', *map(str, arguments)]
    )
  except SystemExit as ended:
    return ended.code


def test_the_command(files, capsys):
  """Frames, exact rate, side by side, sheet, record; the motion kept and used again gives the same
  video."""
  out = files / 'a.mp4'
  assert (
    run(
      files,
      '-s',
      files / 'one.png',
      '-d',
      files / 'drive.mp4',
      '-o',
      out,
      '--save_motion',
      files / 'm.npz',
    )
    == 0
  )
  made = read_video(out)
  assert made.frames.shape == (4, 97, 121, 3) and made.rate == fractions.Fraction(30000, 1001)
  assert (files / 'a_side_by_side.mp4').is_file() and (files / 'a_sheet.png').is_file()
  record = json.loads((files / 'a.json').read_text())
  assert record['frames'] == 4 and record['faces'] == 1 and len(record['output_sha256']) == 64
  assert record['square'] == {'picture_size': [97, 121], 'matrix': None, 'size': [97, 121]}, (
    'the whole picture'
  )
  assert record['driving'] == {'stride': 1, 'frames': {'first': 0, 'step': 1, 'count': 4}}
  assert len(load_template(files / 'm.npz')) == 4
  assert run(files, '-s', files / 'one.png', '-d', files / 'm.npz', '-o', files / 'b.mp4') == 0
  np.testing.assert_array_equal(read_video(files / 'b.mp4').frames, made.frames)
  capsys.readouterr()


def test_the_record_says_where_a_painted_square_lies(files, monkeypatch):
  """It is the place that the networks were shown, to the grain of the picture: half a pixel beside
  it is twice as far off."""
  shown = []
  monkeypatch.setattr(
    painting, 'cut', lambda image, *where: shown.append(crop_cut(image, *where)) or shown[-1]
  )
  assert (
    run(
      files,
      '-s',
      files / 'one.png',
      '-d',
      files / 'drive.mp4',
      '-o',
      files / 's.mp4',
      '--crop_only',
    )
    == 0
  )
  square = cut_of(json.loads((files / 's.json').read_text())['square'])
  image, off = read_image(files / 'one.png'), []
  for shift in (0.0, 0.5):
    moved = dataclasses.replace(
      square, matrix=square.matrix - shift * square.matrix[:, :2] @ np.ones((2, 1)) * [0, 0, 1]
    )
    off.append(np.abs(cut_picture(image, moved) - shown[0]).mean())
  assert read_video(files / 's.mp4').frames.shape[1:3] == square.size and off[0] < off[1] / 2


def test_the_command_with_people_and_options(files):
  out = files / 'c.mp4'
  assert (
    run(
      files,
      '-s',
      files / 'two.png',
      '-d',
      files / 'drive.mp4',
      '-o',
      out,
      '--face',
      'all',
      '--face_driver',
      f'1={files / "other.mp4"}',
      '--edit',
      'smile=0.5',
      'yaw=5',
      '--part_weights',
      'pose=0.5',
      '--filters',
      'scale=1e-6',
      '--eye_retargeting',
      '--retarget_base',
      'driven',
      '--reference_frame',
      'best',
    )
    == 0
  )
  assert json.loads((files / 'c.json').read_text())['faces'] == 2
  assert (
    run(
      files,
      '-s',
      files / 'drive.mp4',
      '-d',
      files / 'other.mp4',
      '-o',
      files / 'd.mp4',
      '--no_face',
      'hold',
    )
    == 0
  )
  assert read_video(files / 'd.mp4').rate == fractions.Fraction(30000, 1001)


@pytest.mark.parametrize(
  'arguments, words',
  [
    (('--edit', 'nose=1'), 'nose=1'),
    (('--edit', 'smile=9'), 'smile must be in'),
    (('--part_weights', 'pose=2'), 'pose must be in'),
    (('--reference_frame', 'x'), '--reference_frame'),
    (('--reference_frame', '99'), 'below 4'),
    (('--multiplier', '-1'), '--multiplier'),
    (('--face_driver', '5=drive.mp4'), 'names face 5'),
    (('--face_driver', '1=nowhere.mp4'), 'nowhere.mp4'),
    (('--source_landmarks', 'no.npz'), 'no.npz'),
    (('--export', 'x'), 'needs --export'),
    (('--face', 'nose'), 'must be largest'),
  ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(files, monkeypatch, capsys, arguments, words):
  monkeypatch.chdir(files)
  before = sorted(p.name for p in files.iterdir())
  assert run(files, '-s', 'one.png', '-d', 'drive.mp4', '-o', 'out.mp4', *arguments) == 2
  said = capsys.readouterr().err.replace('\r', '\n').splitlines()
  lines = [line for line in said if line.strip() and 'frame [' not in line and '|' not in line]
  assert len(lines) == 1 and lines[0].startswith('error: ') and words in lines[0], lines
  assert sorted(p.name for p in files.iterdir()) == before
