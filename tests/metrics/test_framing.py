"""Which part of a picture and which frames a result shows: by its record, by declaration, or not at
all.

The clips are smooth colours that move, so that what H.264 loses is small beside a wrong square or
frame. H, W = 96, 136.
"""

import dataclasses
import json

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from exp_jax.commands import evaluate as command
from exp_jax.errors import UserError
from exp_jax.media.squares import Cut, Square, cut_picture
from exp_jax.media.video import read_frames, video_rate, write_video
from exp_jax.metrics.evaluation.job import Tools, evaluate
from exp_jax.metrics.evaluation.protocols import PROTOCOLS
from exp_jax.metrics.framing import Framing, framing_of, target_frames
from exp_jax.performance.results import (
  cut_of,
  driven_frames,
  driving_record,
  read_record,
  square_record,
  write_record,
)

HEIGHT, WIDTH, COUNT = 96, 136, 13
SQUARE = Square((70.3, 41.8), 61.5).cut(64)
TOOLS = Tools(lacking=dict.fromkeys(('landmarks', 'fit'), 'left out'))


def picture(t, height=HEIGHT, width=WIDTH):
  """[height, width, 3] uint8: waves that move with t, of colours that change slowly, which H.264
  keeps at half the size."""
  y, x = np.mgrid[:height, :width] / 20.0
  waves = [np.sin(x + 0.2 * c + 0.7 * t) * np.cos(1.3 * y - 0.4 * t) for c in range(3)]
  return np.rint(128 + 100 * np.stack(waves, -1)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
  for name in ('result', 'truth'):
    (tmp_path / name).mkdir()
  write_video(tmp_path / 'truth' / 'a.mp4', [picture(t) for t in range(COUNT)], 25, crf=0)
  return tmp_path


def perfect(
  folder,
  cut=SQUARE,
  *,
  name='a',
  frames=range(COUNT),
  stride=1,
  rate=None,
  record=True,
  size=(HEIGHT, WIDTH),
):
  """The clip's own frames in a square, as `animate` would leave them at its best."""
  path = folder / 'result' / f'{name}.mp4'
  clip = [frame for frame, _ in read_frames(folder / 'truth' / 'a.mp4')]
  shown = [clip[t] if cut is None else cut_picture(clip[t], cut) for t in frames]
  write_video(
    path, shown, video_rate(folder / 'truth' / 'a.mp4') / stride if rate is None else rate, crf=0
  )
  if record:
    write_record(
      path,
      {'square': square_record(size, cut), 'driving': driving_record(stride, np.array(frames))},
    )
  return path


def scores(folder, protocol='all-self', **options):
  evaluate(
    folder / 'result',
    folder / 'truth',
    None,
    folder / 'out',
    protocol=protocol,
    tools=TOOLS,
    **options,
  )
  return json.loads((folder / 'out' / 'scores.json').read_text())['metrics']


def refused(capsys, call):
  """What is said of the only clip, which fails."""
  with pytest.raises(SystemExit):
    call()
  return capsys.readouterr().err


@pytest.mark.parametrize('edge', [64, 40])
def test_a_perfect_square_scores_as_one_without_being_asked(folder, edge):
  perfect(folder, SQUARE.resized((edge, edge)))
  found = scores(folder)
  assert (
    found['psnr']['value'] > 40
    and found['psnr']['count'] == COUNT
    and found['ssim']['value'] > 0.99
  )
  table = command.evaluate_pair(folder / 'result' / 'a.mp4', folder / 'truth' / 'a.mp4')
  assert table['psnr']['value'] == pytest.approx(found['psnr']['value'], abs=1e-9)
  listed = json.loads((folder / 'out' / 'clips.json').read_text())['clips'][0]['framing']
  np.testing.assert_allclose(listed['matrix'], SQUARE.resized((edge, edge)).matrix, atol=1e-5)


def test_the_protocols_size_is_cut_out_of_the_clip_itself(folder):
  """At 512 pixels the truth keeps what a result of 64 has lost."""
  perfect(folder)
  frames = list(target_frames(folder / 'truth' / 'a.mp4', Framing(SQUARE), 512))
  assert len(frames) == COUNT and frames[0].shape == (512, 512, 3)
  np.testing.assert_array_equal(
    frames[3],
    cut_picture(
      next(f for i, (f, _) in enumerate(read_frames(folder / 'truth' / 'a.mp4')) if i == 3),
      SQUARE.resized((512, 512)),
    ),
  )


def test_without_the_record_it_would_have_been_another_picture(folder):
  """What was said in silence before: the square against the whole clip squeezed into one."""
  write_video(
    folder / 'truth' / 'a.mp4', [picture(t, HEIGHT, HEIGHT) for t in range(COUNT)], 25, crf=0
  )
  perfect(folder, Square((50.3, 41.8), 61.5).cut(HEIGHT), size=(HEIGHT, HEIGHT))
  assert scores(folder, framing='same')['psnr']['value'] < 20 < 40 < scores(folder)['psnr']['value']


def test_what_cannot_be_known_is_refused_or_declared(folder, capsys):
  path = perfect(folder, record=False)
  assert 'say --framing=same' in refused(capsys, lambda: scores(folder))
  write_video(folder / 'truth' / 'a.mp4', [frame for frame, _ in read_frames(path)], 25, crf=0)
  assert scores(folder, framing='same')['psnr']['value'] > 40
  perfect(folder)
  write_record(path, {'steps': 8})  # of an older version: it says nothing of squares
  assert 'say --framing=same' in refused(capsys, lambda: scores(folder))


def test_other_places_are_refused(folder, capsys):
  perfect(folder, size=(HEIGHT, WIDTH + 8))
  assert "belongs to a picture of 144x96, 'a.mp4' is 136x96" in refused(
    capsys, lambda: scores(folder)
  )
  path = perfect(folder)
  path.write_bytes((folder / 'truth' / 'a.mp4').read_bytes())
  assert 'was changed or replaced' in refused(capsys, lambda: scores(folder))
  other = perfect(folder, Square((71.3, 41.8), 61.5).cut(64), name='b')
  truth = folder / 'truth' / 'a.mp4'
  for end in ('.mp4', '.json'):
    other.with_suffix(end).rename(truth.with_suffix(end))
  perfect_again = folder / 'result' / 'a.mp4'
  write_video(perfect_again, [np.zeros((64, 64, 3), np.uint8)] * COUNT, 25)
  write_record(
    perfect_again,
    {
      'square': square_record((HEIGHT, WIDTH), SQUARE),
      'driving': driving_record(1, np.arange(COUNT)),
    },
  )
  assert 'show other squares' in refused(capsys, lambda: scores(folder))


def test_a_result_that_was_pasted_back_meets_the_whole_clip(folder, capsys):
  perfect(folder, None)
  assert scores(folder)['psnr']['value'] > 40
  words = refused(capsys, lambda: scores(folder, 'expportrait-self', stride=1))
  assert 'compares squares of 512 pixels' in words and 'without --paste_back' in words


def see(frames):
  """A face in the middle of every frame."""
  height, width = frames.shape[1:3]
  points = np.random.default_rng(0).uniform(-0.15, 0.15, (478, 2)) * min(height, width) + [
    width / 2,
    height / 2,
  ]
  return np.repeat(points[None], len(frames), 0).astype(np.float32)


def test_a_face_is_cropped_out_of_the_square_on_both_sides(folder):
  perfect(folder)
  looked = set()
  look = lambda name: lambda frames: looked.add(frames.shape[1:3]) or see(frames)
  evaluate(
    folder / 'result',
    folder / 'truth',
    None,
    folder / 'out',
    protocol='all-self',
    tools=Tools(look=look, lacking={'fit': 'no head'}),
    face_crop=True,
  )
  found = json.loads((folder / 'out' / 'scores.json').read_text())['metrics']
  assert found['psnr']['value'] > 40 and found['psnr']['count'] == COUNT
  assert len(looked) == 2 and max(looked) == (64, 64), (
    'the square of the face is found in the square of the result'
  )


def test_frames_are_those_the_driver_was_sampled_at(folder, capsys):
  perfect(folder, frames=range(0, COUNT, 4), stride=4)
  found = scores(folder, 'expportrait-self')  # the paper's stride by itself
  assert found['psnr']['value'] > 35 and found['psnr']['count'] == 4
  content = json.loads((folder / 'out' / 'scores.json').read_text())
  assert (
    content['clips']['a']['framing']['frames'] == {'first': 0, 'step': 4, 'count': 4}
    and content['settings']['stride'] == 4
  )
  assert 'Drivers were sampled with a stride of 4.' in (folder / 'out' / 'table.md').read_text()
  assert scores(folder)['psnr']['value'] > 40  # of all-self any stride
  perfect(folder)
  words = refused(capsys, lambda: scores(folder, 'expportrait-self'))
  assert (
    'a stride of 1, 4 is wanted' in words
    and '--driving_stride 4' in words
    and '--stride 1' in words
  )
  perfect(folder, frames=[0, 1, 5, 6, 12])  # frames without a face were cut out of the driver
  assert scores(folder)['psnr']['value'] > 40 and scores(folder)['psnr']['count'] == 5
  perfect(folder, frames=range(5))  # animate --limit 5
  assert scores(folder)['psnr']['count'] == 5
  path, late = perfect(folder, frames=range(5)), np.arange(COUNT - 4, COUNT + 1)
  write_record(
    path, {'square': square_record((HEIGHT, WIDTH), SQUARE), 'driving': driving_record(1, late)}
  )
  assert "'a.mp4' has 13 frames, the result follows its frame 13" in refused(
    capsys, lambda: scores(folder)
  )


def test_a_motion_file_as_driver_is_compared_frame_by_frame(folder, capsys):
  for stride, frames in ((1, range(COUNT)), (4, range(0, COUNT, 4))):
    path = perfect(folder, frames=frames, stride=stride)
    write_record(
      path,
      {'square': square_record((HEIGHT, WIDTH), SQUARE), 'driving': driving_record(stride, None)},
    )
    assert scores(folder)['psnr']['value'] > 40
  path = perfect(folder, frames=range(3))
  write_record(
    path, {'square': square_record((HEIGHT, WIDTH), SQUARE), 'driving': driving_record(1, None)}
  )
  assert "'a.mp4' has 3 frames, 'a.mp4' 13; they must agree" in refused(
    capsys, lambda: scores(folder)
  )


def test_the_truth_is_written_as_it_is_compared_and_serves_as_truth(folder, capsys):
  perfect(folder, frames=range(0, COUNT, 2), stride=2)
  first = scores(folder, truths=folder / 'cut')
  cut = folder / 'cut' / 'a.mp4'
  assert [f.shape for f, _ in read_frames(cut)] == [(64, 64, 3)] * 7 and video_rate(cut) == 25 / 2
  np.testing.assert_allclose(cut_of(read_record(cut)['square']).matrix, SQUARE.matrix)
  evaluate(
    folder / 'result', folder / 'cut', None, folder / 'out2', protocol='all-self', tools=TOOLS
  )
  again = json.loads((folder / 'out2' / 'scores.json').read_text())['metrics']
  # equal bytes
  assert (
    again['psnr']['count'] == 7 and again['psnr']['value'] == 'inf' and first['psnr']['value'] > 40
  )
  for name in ('truth', 'result'):
    before = (folder / name / 'a.mp4').read_bytes()
    assert '--write_truth would replace' in refused(
      capsys, lambda name=name: scores(folder, truths=folder / name, again=True)
    )
    assert (folder / name / 'a.mp4').read_bytes() == before


def test_a_list_of_clips_makes_a_figure_again(folder, capsys, monkeypatch):
  monkeypatch.setitem(
    PROTOCOLS, 'expportrait-self', dataclasses.replace(PROTOCOLS['expportrait-self'], size=64)
  )
  for name in 'bc':
    (folder / 'truth' / f'{name}.mp4').write_bytes((folder / 'truth' / 'a.mp4').read_bytes())
  for name in 'ab':
    perfect(folder, name=name, frames=range(0, COUNT, 4), stride=4)
  first = scores(folder, 'expportrait-self')
  listed = folder / 'list.json'
  listed.write_bytes((folder / 'out' / 'clips.json').read_bytes())
  content = json.loads(listed.read_text())
  assert content['stride'] == 4 and [clip['name'] for clip in content['clips']] == ['a', 'b']
  assert (
    len(content['clips'][0]['target']['sha256']) == 64 and str(folder) not in listed.read_text()
  )
  # a third clip is not of the figure
  perfect(folder, name='c', frames=range(0, COUNT, 4), stride=4)
  assert scores(folder, 'expportrait-self', clip_list=listed) == first
  assert scores(folder, 'expportrait-self')['psnr']['count'] == 12
  perfect(folder, name='b', frames=range(0, 8, 4), stride=4)
  with pytest.raises(SystemExit):
    command.main(
      [
        '--protocol=expportrait-self',
        '--no_landmarks',
        '--result',
        str(folder / 'result' / 'b.mp4'),
        '--truth',
        str(folder / 'truth' / 'b.mp4'),
        '-o',
        str(folder / 'out'),
        '--clips',
        str(listed),
      ]
    )
  assert "names 'a', of which there is no result" in capsys.readouterr().err
  assert evaluate(
    folder / 'result',
    folder / 'truth',
    None,
    folder / 'out',
    protocol='expportrait-self',
    tools=TOOLS,
    clip_list=listed,
  )[1]['b'].startswith("'b' follows other frames of its driver")
  write_video(folder / 'truth' / 'a.mp4', [picture(t + 1) for t in range(COUNT)], 25)
  with pytest.raises(UserError, match="the target of 'a' is not the file"):
    scores(folder, 'expportrait-self', clip_list=listed)


def test_in_cross_reenactment_places_do_not_matter_but_frames_do(folder):
  path = perfect(folder, frames=range(0, COUNT, 4), stride=4, size=(10, 10))
  framing = framing_of(path, folder / 'truth' / 'a.mp4', kind='cross', stride=4)
  assert framing.cut is None and framing.frames == (0, 4, 8, 12)
  with pytest.raises(UserError, match='3 is wanted'):
    framing_of(path, folder / 'truth' / 'a.mp4', kind='cross', stride=3)


@pytest.mark.parametrize('frames', [[0], [3, 7, 11], [0, 1, 5]])
def test_frame_numbers_go_through_a_record(frames):
  record = json.loads(json.dumps(driving_record(4, np.array(frames))))
  np.testing.assert_array_equal(driven_frames(record), frames)
  assert driven_frames(driving_record(4, None)) is None


def test_turned_squares_are_cut_where_they_lie():
  """Against SciPy's interpolation of the same smooth picture; half a pixel off would be 4
  of 255."""
  cut = Square((66.0, 47.0), 50, 0.4).cut(48)
  image = picture(0)
  y, x = np.mgrid[:48, :48] + 0.5
  places = cut.to_source(np.stack([x, y], -1)) - 0.5
  for c in range(3):
    wanted = map_coordinates(image[..., c].astype(float), [places[..., 1], places[..., 0]], order=3)
    # rounding to bytes, and another cubic kernel
    assert np.abs(cut_picture(image, cut)[..., c] - wanted).max() < 1.5
  box = Cut(np.array([[0.5, 0, 0], [0, 0.75, 0]]), (72, 68))  # squeezed: no square of the picture
  wanted = [
    map_coordinates(
      image[..., c].astype(float),
      np.meshgrid(np.arange(72) / 0.75 + 0.5 / 0.75 - 0.5, np.arange(68) * 2 + 0.5, indexing='ij'),
      order=3,
    )
    for c in range(3)
  ]
  assert np.abs(cut_picture(image, box) - np.stack(wanted, -1))[2:-2, 2:-2].max() < 3
