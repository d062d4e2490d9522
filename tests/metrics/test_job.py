"""A set of clips from end to end, with stand-ins for what looks at faces; the networks are tiny or
simple functions."""

import dataclasses
import itertools
import json
import math
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from exp_jax.commands import evaluate as command
from exp_jax.errors import UserError
from exp_jax.media.images import read_image, write_image
from exp_jax.media.video import read_frames, write_video
from exp_jax.metrics import psnr
from exp_jax.metrics.evaluation import job, probes
from exp_jax.metrics.evaluation.clips import fitted
from exp_jax.metrics.evaluation.job import Tools
from exp_jax.metrics.networks import Network

SIZE, COUNT = 32, 20
ROOT = pathlib.Path(__file__).parents[2]
RNG = np.random.default_rng(0)
FACE = RNG.uniform(8, 24, (478, 2)).astype(np.float32)


def video(path, frames=COUNT, *, size=SIZE, rate=25, seed=0, blank=(), noise=0.0):
  """A coloured clip that moves; black in frames `blank`, where the stand-in sees no face."""
  rng = np.random.default_rng(seed)
  base = np.repeat(np.repeat(rng.uniform(0.2, 1, (size // 8, size // 8, 3)), 8, 0), 8, 1)
  clip = np.stack([np.roll(base, t, 1) for t in range(frames)]) + noise * np.random.default_rng(
    9
  ).normal(size=(1, size, size, 3))
  clip[list(blank)] = 0
  path.parent.mkdir(parents=True, exist_ok=True)
  write_video(path, np.clip(clip, 0, 1), rate, crf=2)


def see(frames):
  """A face wherever a frame is not black; it moves with the mean colour."""
  points = np.stack([FACE + 4 * frame.mean((0, 1))[:2] / 255 for frame in frames])
  points[[frame.max() < 30 for frame in frames]] = np.nan
  return points


TOOLS = Tools(
  look=lambda name: see, lacking={'fit': 'needs a head model: run `make setup`'}, digest='stand-in'
)


def network(name, folder):
  """Simple functions in the place of networks."""
  mean = lambda images: np.asarray(images, np.float64).mean((1, 2)) / 255
  runs = {
    'lpips_alex': (lambda a, b: np.abs(np.asarray(a) - b).mean((1, 2, 3)), {'variant': 'alex'}),
    'inception': (lambda images: np.concatenate([mean(images), mean(images) ** 2], -1), {}),
    'i3d': (
      lambda clips: (
        np.asarray(clips, np.float64)[:, [0, 5, 15]].mean((2, 3)).reshape(len(clips), -1) / 255
      ),
      {'classes': 9, 'eps': 1e-5},
    ),
    'arcface': (lambda images: mean(images) - 0.3, {'variant': 'iresnet50'}),
    'identity_dlib': (lambda images: mean(images) - 0.4, {'variant': 'resnet_v1'}),
    'smirk': (
      lambda images: {
        'expression': np.repeat(mean(images), 2, -1),
        'eyelids': mean(images)[:, :2],
        'jaw': mean(images),
        'pose': mean(images) / 2,
      },
      {},
    ),
    'l2cs': (lambda images: mean(images)[:, :2], {}),
    'deep3d': (lambda images: {'expression': mean(images), 'angles': mean(images) / 2}, {}),
  }
  return (
    None
    if name not in runs or folder is None
    else Network(name, runs[name][0], 'stand-in', runs[name][1])
  )


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  folder = tmp_path_factory.mktemp('clips')
  for name, seed in (('a', 1), ('b', 2)):
    video(folder / 'truth' / f'{name}.mp4', seed=seed)
    video(folder / 'result' / f'{name}.mp4', seed=seed, noise=0.1)
    write_image(
      folder / 'portraits' / f'{name}.png', RNG.integers(60, 255, (40, 48, 3)).astype(np.uint8)
    )
  return folder


@pytest.fixture
def clips(written, tmp_path, monkeypatch):
  """A folder of one's own with two results, their truths and portraits."""
  monkeypatch.setattr(job, 'load_network', network)
  shutil.copytree(written, tmp_path, dirs_exist_ok=True)
  return tmp_path


def run(
  folder,
  protocol='all-self',
  target='truth',
  reference=None,
  tools=TOOLS,
  weights='w',
  framing='same',
  **options,
):
  """The videos have no records: that results show what their truths show is declared."""
  table, failed = job.evaluate(
    folder / 'result',
    folder / target,
    reference and folder / reference,
    folder / 'out',
    protocol=protocol,
    tools=tools,
    weights=weights,
    framing=framing,
    **options,
  )
  return table, failed, json.loads((folder / 'out' / 'scores.json').read_text())['metrics']


def test_all_of_self_with_variant_count_and_coverage(clips):
  table, failed, found = run(clips)
  assert not failed
  for name in (
    'psnr',
    'ssim',
    'l1',
    'lpips',
    'csim',
    'csim_dlib',
    'aed',
    'apd',
    'e_rmse',
    'p_rmse',
    'gaze',
    'fid',
    'fvd',
    'jitter',
    'seam_ratio',
    'found',
  ):
    score = found[name]
    assert (
      math.isfinite(score['value'])
      and score['variant']
      and score['count']
      and score['coverage'] == 1
    ), name
  assert (
    "dlib's face recognition resnet_v1" in found['csim_dlib']['variant']
    and 'ArcFace iresnet50' in found['csim']['variant']
  )
  assert found['lpips']['variant'] == 'LPIPS 0.1, AlexNet'
  assert (
    found['psnr']['count'] == 2 * COUNT
    and found['fvd']['count'] == 2
    and found['jitter']['count'] == 2 * (COUNT - 2)
  )
  assert 'rank deficient' in found['fvd']['variant']
  for name, words in (
    ('lpips_vgg', 'setup --metrics'),
    ('hpf', 'make setup'),
    ('aed_fit', 'make setup'),
    ('av_offset', 'no sound'),
  ):
    assert found[name]['value'] is None and words in found[name]['not_computed'], name
  assert table.count('\n| ') > 15 and 'Not computed:' in table and 'nan' not in table.lower()
  sheet = read_image(clips / 'out' / 'sheet.png')
  assert sheet.shape[0] > 2 * 160 and sheet.max() > 100
  assert not list((clips / 'out').rglob('.*'))


def test_pictures_on_the_sheet_keep_their_sides_in_proportion():
  tile = fitted(np.zeros((80, 40, 3), np.uint8), 20, 24)
  assert tile.shape == (20, 24, 3)
  np.testing.assert_array_equal(tile.max((0, 2)) > 0, [not 7 <= x < 17 for x in range(24)])


def test_equal_videos_are_perfect(clips):
  for name in 'ab':
    (clips / 'result' / f'{name}.mp4').write_bytes((clips / 'truth' / f'{name}.mp4').read_bytes())
  table, _, found = run(clips)
  # JSON has no infinity
  assert (
    found['psnr']['value'] == 'inf' and found['psnr']['count'] == 2 * COUNT and '| inf |' in table
  )
  assert found['ssim']['value'] == pytest.approx(1) and found['csim']['value'] == pytest.approx(1)
  for name in ('l1', 'lpips', 'aed', 'apd', 'e_rmse', 'p_rmse', 'gaze'):
    assert found[name]['value'] == pytest.approx(0, abs=1e-9), name
  for name in ('fid', 'fvd'):
    assert found[name]['value'] == pytest.approx(0, abs=1e-6), name
  assert found['jitter']['value'] == pytest.approx(found['jitter_driver']['value'])


def test_scores_are_those_of_the_public_functions(clips):
  from exp_jax.media.video import read_video
  from exp_jax.metrics import ssim

  _, _, found = run(clips)
  both = [
    [read_video(clips / side / f'{name}.mp4').frames / 255 for name in 'ab']
    for side in ('result', 'truth')
  ]
  a, b = (np.concatenate(each) for each in both)
  assert found['psnr']['value'] == pytest.approx(psnr(a, b).value, abs=1e-9)
  assert found['ssim']['value'] == pytest.approx(ssim(a, b).value, abs=1e-9)
  assert found['psnr']['variant'] == psnr(a, b).variant


def test_frames_without_a_face_lower_coverage_and_not_the_score_of_the_others(clips):
  video(clips / 'result' / 'a.mp4', seed=1, blank=(3, 17))
  video(clips / 'truth' / 'a.mp4', seed=1, blank=(5,))
  _, failed, found = run(clips)
  assert not failed
  for name in ('csim', 'aed', 'gaze', 'p_rmse'):
    assert found[name]['coverage'] == pytest.approx(37 / 40) and found[name]['count'] == 37, name
  assert found['found']['value'] == pytest.approx(38 / 40)
  assert found['psnr']['coverage'] == 1
  for name in 'ab':
    video(clips / 'result' / f'{name}.mp4', seed=1, blank=range(COUNT))
  _, failed, found = run(clips)
  assert (
    not failed
    and found['csim']['value'] is None
    and 'face was found' in found['csim']['not_computed']
  )
  assert found['found']['value'] == 0


@pytest.mark.long
def test_cross_compares_with_driver_and_portrait(clips):
  (clips / 'result' / 'a.mp4').rename(clips / 'result' / 'b--a.mp4')
  _, failed, found = run(clips, 'all-cross', reference='portraits')
  assert not failed and 'psnr' not in found
  assert found['aed']['count'] == 2 * COUNT and 'with the reference' in found['csim']['variant']
  assert '--real' in found['fid']['not_computed']
  portrait = read_image(clips / 'portraits' / 'b.png')
  embedding = network('arcface', 'w').run(
    job.probes.faces.arcface_cut(portrait, see(portrait[None])[0])[None]
  )[0]
  result = probes.Window(
    'cross', *(np.stack([portrait] * 2),) * 2, *(see(np.stack([portrait] * 2)),) * 2
  )
  own, _ = probes.identity(
    result,
    name='csim',
    network=network('arcface', 'w'),
    reference=probes.Reference(portrait, see(portrait[None])[0]),
  )
  assert own['csim'].value == pytest.approx(1) and np.linalg.norm(embedding) > 0
  _, _, found = run(clips, 'liveportrait-cross', reference='portraits', real=clips / 'portraits')
  assert (
    math.isfinite(found['fid']['value'])
    and 'real faces' in found['fid']['variant']
    and found['fid']['count'] == 2
  )


def test_without_weights_and_landmarks_rows_say_what_to_do_and_nothing_is_made_up(clips):
  for side, name in itertools.product(('truth', 'result'), 'ab'):
    video(clips / side / f'{name}.mp4', frames=3, noise=0.1 if side == 'result' else 0)
  table, failed, found = run(
    clips,
    'expportrait-self',
    tools=Tools(lacking=dict.fromkeys(('landmarks', 'fit'), 'run `make setup`')),
    weights=None,
    stride=1,
  )
  assert not failed
  assert {n for n, m in found.items() if m['value'] is not None} == {
    'psnr',
    'ssim',
    'l1',
    'seam_ratio',
  }
  assert (
    'backbone.pth' in found['csim']['not_computed']
    and 'make setup' in found['jitter']['not_computed']
  )
  for name, key in (('lpips', 'lpips_alex'), ('csim_dlib', 'identity_dlib')):
    assert (
      found[name]['not_computed']
      == f'needs the network {key}, which `python -m exp_jax setup --metrics` fetches'
    )
  ours = next(
    line for line in table.splitlines() if line.startswith('| **measured here: 2 clips, 6 frames')
  )
  assert ours.count('—') == 4
  assert (
    '| ExpPortrait (number of the paper) | 26.5507 | 0.85908 | 0.18394 | 0.0216 | 0.13185 | '
    '0.00948 | 0.83506 |' in table
  )


def test_protocols_set_size_and_frames(clips, monkeypatch):
  monkeypatch.setitem(
    job.PROTOCOLS, 'loki-self', dataclasses.replace(job.PROTOCOLS['loki-self'], size=24)
  )
  _, failed, found = run(clips, 'loki-self')
  assert not failed and found['psnr']['count'] == 2 * 16
  video(clips / 'result' / 'a.mp4', frames=COUNT + 5, seed=1)  # beyond the 16 that count
  assert not run(clips, 'loki-self')[1]


def test_with_a_stride_the_driver_is_sampled_and_not_the_result(clips, capsys):
  """Results of 7 frames meet frames 0, 3, ... 18 of their truths of 20; results of all 20 frames
  are refused, by name."""
  with pytest.raises(UserError, match='none of 2'):
    run(clips, stride=3)
  assert (
    "'b.mp4' has 20 frames; with a stride of 3, 'b.mp4' gives 7: the driver is sampled"
    in capsys.readouterr().err
  )
  ours, true = [], []
  for name in 'ab':
    true += [frame for frame, _ in read_frames(clips / 'truth' / f'{name}.mp4')][::3]
    write_video(clips / 'result' / f'{name}.mp4', true[-7:], 25 / 3, crf=0)
    ours += [frame for frame, _ in read_frames(clips / 'result' / f'{name}.mp4')]
  table, failed, found = run(clips, stride=3)
  assert not failed and found['ssim']['count'] == 2 * 7
  assert found['psnr']['value'] == pytest.approx(
    psnr(np.stack(ours) / 255, np.stack(true) / 255).value, abs=1e-9
  )
  assert 'Drivers were sampled with a stride of 3.' in table
  with pytest.raises(UserError, match='none of 2'):
    run(clips)


def test_wide_clips_are_refused_by_protocols_of_squares_unless_the_face_is_cut_out(
  clips, monkeypatch
):
  monkeypatch.setitem(
    job.PROTOCOLS, 'loki-self', dataclasses.replace(job.PROTOCOLS['loki-self'], size=24)
  )
  for side in ('truth', 'result'):
    for path in (clips / side).glob('*.mp4'):
      write_video(
        path, (np.pad(f, ((0, 0), (8, 8), (0, 0))) for f, _ in read_frames(path)), 25, crf=2
      )
  with pytest.raises(UserError, match='none of 2 clips'):
    run(clips, 'loki-self')
  _, failed, found = run(clips, 'loki-self', face_crop=True)
  assert not failed and found['psnr']['count'] == 2 * 16
  settings = json.loads((clips / 'out' / 'scores.json').read_text())['settings']
  assert settings['face_crop'] and settings['size'] == 24
  with pytest.raises(UserError, match='none of 2'):
    run(clips, 'loki-self', face_crop=True, tools=Tools(lacking=TOOLS.lacking))


@pytest.mark.long
def test_only_what_is_missing_is_done_again(clips, monkeypatch):
  looked = []
  tools = Tools(look=lambda name: looked.append(name) or see, digest='stand-in')
  first = run(clips, tools=tools)
  assert sorted(set(looked)) == ['a.mp4', 'b.mp4']
  looked.clear()
  assert run(clips, tools=tools)[2] == first[2] and not looked
  video(clips / 'result' / 'b.mp4', seed=2, noise=0.2)
  assert run(clips, tools=tools)[2]['psnr'] != first[2]['psnr'] and set(looked) == {'b.mp4'}
  looked.clear()
  (clips / 'out' / 'clips' / 'a.json').write_text('{damaged')
  run(clips, tools=tools)
  assert set(looked) == {'a.mp4'}
  looked.clear()
  newer = lambda name, folder: (
    (found := network(name, folder)) and dataclasses.replace(found, digest='newer weights')
  )
  monkeypatch.setattr(job, 'load_network', newer)
  run(clips, tools=tools)
  assert set(looked) == {'a.mp4', 'b.mp4'}


@pytest.mark.long
def test_an_interrupted_run_leaves_whole_clips_only_and_goes_on(clips):
  def stops(name):
    left = [1 if name == 'b.mp4' else 9]  # windows until the interruption

    def look(frames):
      left[0] -= 1
      if left[0] < 0:
        raise KeyboardInterrupt
      return see(frames)

    return look

  with pytest.raises(KeyboardInterrupt):
    run(clips, tools=Tools(look=stops, lacking=TOOLS.lacking, digest='stand-in'))
  done = sorted(p.name for p in (clips / 'out' / 'clips').iterdir())
  assert 'a.json' in done and not any(name.startswith(('b', '.')) for name in done)
  looked = []
  interrupted = run(
    clips,
    tools=Tools(look=lambda n: looked.append(n) or see, lacking=TOOLS.lacking, digest='stand-in'),
  )[2]
  assert set(looked) == {'b.mp4'}
  assert run(clips, again=True)[2] == interrupted


def test_one_bad_clip_is_named_and_harms_no_other(clips, capsys):
  (clips / 'result' / 'a.mp4').write_text('words')
  table, failed, found = run(clips)
  assert (
    set(failed) == {'a'}
    and "a.mp4' is not a video" in failed['a']
    and found['psnr']['count'] == COUNT
  )
  assert (
    json.loads((clips / 'out' / 'scores.json').read_text())['clips']['a']['error'] == failed['a']
  )
  assert '1 clips could not be measured and are not in these numbers: a.' in table and table.count(
    '| 20 |'
  )
  video(clips / 'truth' / 'c.mp4', frames=2)
  assert '1 clips have no generated video and are not in these numbers: c.mp4.' in run(clips)[0]


MISMATCHES = {
  'lengths': (dict(frames=COUNT - 1), "'a.mp4' has 20 frames, 'a.mp4' 19"),
  'rates': (dict(rate=30), '25.000 frames a second'),
  'sizes': (dict(size=40), "'a.mp4' is 32 x 32, its truth 40 x 40"),
}


@pytest.mark.parametrize('name', MISMATCHES)
def test_what_does_not_go_together_is_one_sentence(clips, capsys, name):
  more, words = MISMATCHES[name]
  video(clips / 'truth' / 'a.mp4', seed=1, **more)
  with pytest.raises(SystemExit) as ended:
    command.main(
      [
        '--protocol=all-self',
        '--framing=same',
        '--no_landmarks',
        '--result',
        str(clips / 'result' / 'a.mp4'),
        '--truth',
        str(clips / 'truth' / 'a.mp4'),
        '-o',
        str(clips / 'out'),
      ]
    )
  spoken = [
    line
    for line in capsys.readouterr().err.replace('\r', '\n').splitlines()
    if line.strip() and '|' not in line
  ]
  assert ended.value.code == 2 and len(spoken) == 1 and words in spoken[0], spoken
  assert not [p for p in (clips / 'out').rglob('*') if p.is_file()]


@pytest.mark.long
@pytest.mark.parametrize(
  'arguments, words',
  [
    (('--protocol=nope', '--result', 'result', '--truth', 'truth'), "no protocol 'nope'"),
    (('--protocol=all-self', '--result', 'result'), 'needs --truth'),
    (
      ('--protocol=all-self', '--result', 'result', '--truth', 'truth', '--driving', 'truth'),
      'no use for --driving',
    ),
    (('--protocol=all-cross', '--result', 'result', '--driving', 'truth'), 'needs --reference'),
    (('--protocol=all-self', '--result', 'nowhere', '--truth', 'truth'), "no 'nowhere'"),
    (
      ('--protocol=all-self', '--result', 'portraits', '--truth', 'truth'),
      'holds no generated video',
    ),
    (('--protocol=all-self', '--result', 'result/a.mp4', '--truth', 'truth'), 'is a video and'),
    (
      ('--protocol=all-self', '--result', 'result', '--truth', 'truth', '--weights', 'nowhere'),
      "'nowhere' is no folder",
    ),
    (
      ('--protocol=all-self', '--result', 'result', '--truth', 'truth', '--seam_every', '-1'),
      '--seam_every',
    ),
    (
      ('--protocol=all-self', '--result', 'result', '--truth', 'truth', '--stride', '0'),
      '--stride',
    ),
    (('--protocol=all-self', '--result', 'result', '--truth', 'odd'), "'a.mp4' has no truth in"),
    (
      (
        '--protocol=all-cross',
        '--result',
        'result',
        '--driving',
        'truth',
        '--reference',
        'portraits',
        '--framing',
        'same',
      ),
      'no use for --framing',
    ),
    (
      ('--protocol=all-self', '--result', 'result', '--truth', 'truth', '--clips', 'odd/other.mp4'),
      'is no list of clips',
    ),
    (('--protocol=all-self', '--result', 'result', '--truth', 'truth', '--bogus'), '--bogus'),
  ],
)
def test_bad_commands_are_one_sentence(clips, capsys, monkeypatch, arguments, words):
  monkeypatch.chdir(clips)
  video(clips / 'odd' / 'other.mp4', frames=2)
  with pytest.raises(SystemExit) as ended:
    command.main([*arguments, '-o', 'out'])
  error = capsys.readouterr().err
  assert ended.value.code == 2 and words in error and error.count('\n') == 1, error


def test_the_command_prints_its_table_and_its_status_tells_the_truth(clips, capsys):
  arguments = [
    '--protocol=all-self',
    '--framing=same',
    '--no_landmarks',
    '--result',
    str(clips / 'result'),
    '--truth',
    str(clips / 'truth'),
    '-o',
    str(clips / 'out'),
    '--seam_every',
    '4',
  ]
  assert command.main(arguments) == 0
  said = capsys.readouterr().out
  assert 'PSNR' in said and 'left out by --no_landmarks' in said and 'no seams given' not in said
  video(clips / 'truth' / 'b.mp4', frames=3)
  assert command.main(arguments) == 2
  assert '1 clips failed' in capsys.readouterr().err


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path):
  """2,000 frames in at most 1.2 times the memory of 200, with features for FID and FVD written all
  the while."""
  program = """
import resource, sys, pathlib, numpy as np
sys.path.insert(0, sys.argv[2])
from exp_jax.metrics.evaluation import job
from exp_jax.metrics.networks import Network
rows = lambda images: np.random.default_rng(0).normal(size=(len(images), 2048)).astype(np.float32)
job.load_network = lambda name, folder: Network(name, rows, 'stand-in', {}) if name == 'inception' else None
face = np.random.default_rng(0).uniform(8, 120, (478, 2)).astype(np.float32)
tools = job.Tools(look=lambda name: lambda frames: np.repeat(face[None], len(frames), 0))
folder = pathlib.Path(sys.argv[1])
job.evaluate(folder / 'result.mp4', folder / 'truth.mp4', None, folder / 'out', protocol='all-self', tools=tools, framing='same')
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

  def peak(frames):
    folder = tmp_path / str(frames)
    folder.mkdir()
    picture = RNG.uniform(0, 1, (128, 128, 3))
    for name in ('result', 'truth'):
      write_video(
        folder / f'{name}.mp4', (np.roll(picture, t, 1) for t in range(frames)), 25, crf=30
      )
    done = subprocess.run(
      [sys.executable, '-c', program, str(folder), str(ROOT)],
      capture_output=True,
      text=True,
      check=True,
    )
    assert (
      json.loads((folder / 'out' / 'scores.json').read_text())['metrics']['fid']['count'] == frames
    )
    return int(done.stdout.splitlines()[-1])

  assert peak(2000) <= 1.2 * peak(200)
