"""The command that makes window records: resumed, shared among hosts, and honest about what it
cannot do."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from exp_jax.data.sources import PROMPT, PortraitClips, write_records
from exp_jax.data.synthetic import synthetic_clip
from exp_jax.files.npz import write_npz
from exp_jax.systems.expportrait.records import encode

ROOT = pathlib.Path(__file__).parents[3]
CLIPS, FRAMES = 5, 21


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  folder = tmp_path_factory.mktemp('clips')
  records = [
    synthetic_clip(i, num_frames=FRAMES if i != 3 else 4, height=16, width=16) for i in range(CLIPS)
  ]
  write_records(folder / 'train.array_record', records)
  (folder / 'vae').mkdir()
  (folder / 'vae' / 'weights').write_bytes(b'some')
  return folder


def use_stand_in(setter, seconds=0.0):
  """A causal stand-in for Wan's autoencoder, so that the command is tested and not the network."""
  from exp_jax.systems.expportrait.records.windows import Towers
  from tests.systems.expportrait.test_windows import running, stand_in

  def open_towers(**_):
    codec = stand_in().codec

    def slow(x):
      time.sleep(seconds)
      return running(np.asarray(x))

    object.__setattr__(codec, 'encode', slow)
    return Towers(codec, None, {'vae': 'abc'})

  setter(encode, 'open_towers', open_towers)


def arguments(clips, output, *more):
  return [
    '-i',
    str(clips / 'train.array_record'),
    '-o',
    str(output),
    '--vae',
    str(clips / 'vae'),
    '--codec',
    'wan',
    '--frames',
    '9',
    '--references',
    '2',
    *map(str, more),
  ]


def shards(output):
  return {path.name: path.read_bytes() for path in sorted(output.glob('*.array_record'))}


@pytest.fixture(scope='module')
def whole(clips, tmp_path_factory):
  output = tmp_path_factory.mktemp('whole')
  with pytest.MonkeyPatch.context() as patch:
    use_stand_in(patch.setattr)
    assert encode.main(arguments(clips, output)) == 3
  return output


def test_every_clip_gives_its_windows_and_short_ones_are_named(whole):
  source = PortraitClips(str(whole / 'encoded.array_record'))
  names = [source[i]['clip_id'] for i in range(len(source))]
  assert sorted(set(names)) == [f'ellipsoid_{i:05d}' for i in (0, 1, 2, 4)]
  assert {names.count(name) for name in names} == {4}, (
    'windows of 9 frames cover 21 one and a half times'
  )
  report = [json.loads(line) for line in (whole / 'report.jsonl').read_text().splitlines()]
  assert [line['status'] for line in report] == ['ok', 'ok', 'ok', 'failed', 'ok']
  assert (
    'has 4 frames, a window 9' in report[3]['reason']
    and report[3]['clip'] == 'train.array_record:3'
  )


def test_killed_and_started_again_it_gives_the_same_bytes(clips, whole, tmp_path):
  script = (
    'import sys\nfrom tests.systems.expportrait import test_encode\nfrom '
    'exp_jax.systems.expportrait.records import encode\n'
    'test_encode.use_stand_in(setattr, 0.05)\nsys.exit(encode.main(sys.argv[1:]))'
  )
  command = [sys.executable, '-c', script, *arguments(clips, tmp_path)]
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  made = lambda: len(list((tmp_path / 'parts').glob('[!.]*.array_record')))
  process = subprocess.Popen(
    command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  )
  until = time.monotonic() + 120
  while made() < 2 and process.poll() is None and time.monotonic() < until:
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL and 2 <= made() < 4 and not shards(tmp_path)
  kept = {path: path.stat().st_mtime_ns for path in (tmp_path / 'parts').glob('[!.]*.array_record')}
  with pytest.MonkeyPatch.context() as patch:
    use_stand_in(patch.setattr)
    assert encode.main(arguments(clips, tmp_path)) == 3
  assert shards(tmp_path) == shards(whole)
  assert all(path.stat().st_mtime_ns == when for path, when in kept.items()), (
    'what was made is not made again'
  )


def test_shares_of_hosts_merge_into_the_same_bytes(clips, whole, tmp_path, monkeypatch):
  use_stand_in(monkeypatch.setattr)
  for shard in (1, 0):
    encode.main(arguments(clips, tmp_path, '--shard', shard, '--num_shards', 2))
    assert not shards(tmp_path) and (tmp_path / f'report-{shard:05d}-of-00002.jsonl').is_file()
  monkeypatch.setattr(encode, 'window_records', lambda *_: 1 / 0)
  with (
    pytest.MonkeyPatch.context() as patch
  ):  # nothing is left to do but the short clip, which stays named
    patch.setattr(encode, 'window_records', lambda *_: pytest.fail('made again'))
    assert encode.main(arguments(clips, tmp_path)) == 3
  assert shards(tmp_path) == shards(whole)
  assert encode.main(arguments(clips, tmp_path, '--records_per_file', 3)) == 3
  assert sorted(shards(tmp_path)) == [
    'encoded-00000-of-00002.array_record',
    'encoded-00001-of-00002.array_record',
  ]


def test_mistakes_are_one_sentence_and_leave_nothing(clips, whole, tmp_path, monkeypatch, capsys):
  use_stand_in(monkeypatch.setattr)
  write_npz(tmp_path / 'p.npz', {'positive': np.zeros((4, 12), np.float32)})
  write_records(
    tmp_path / 'both' / 'train.array_record', [synthetic_clip(0, num_frames=9, height=16, width=16)]
  )
  write_records(
    tmp_path / 'both' / 'held_out.array_record',
    [synthetic_clip(1, num_frames=9, height=16, width=16)],
  )
  for more, words in (
    (('--frames', 8), '1 plus a multiple of 4'),
    (('--later', 2), 'share in 0..1'),
    (('--shard', 4), '--shard must be in'),
    (('--prompt', tmp_path / 'p.npz'), "no embedding 'empty'"),
    (('-i', tmp_path / 'both'), 'encode them apart'),
    (('-i', tmp_path / 'none'), 'no records'),
  ):
    with pytest.raises(SystemExit):
      encode.main(arguments(clips, tmp_path / 'out', *more))
    said = capsys.readouterr().err
    assert words in said and said.count('\n') == 1, said
    assert not shards(tmp_path / 'out') if (tmp_path / 'out').exists() else True
  assert encode.main(['-i', str(whole), *arguments(clips, tmp_path / 'out')[2:]]) == 3
  assert 'is encoded already' in capsys.readouterr().err


def test_embeddings_of_the_prompts_lie_beside_the_records(clips, tmp_path, monkeypatch):
  use_stand_in(monkeypatch.setattr)
  words = {
    name: np.full((4, 12), i, np.float32)
    for i, name in enumerate(('positive', 'empty', 'negative'))
  }
  write_npz(tmp_path / 'p.npz', words)
  encode.main(arguments(clips, tmp_path / 'out', '--prompt', tmp_path / 'p.npz'))
  assert (tmp_path / 'out' / PROMPT).read_bytes() == (tmp_path / 'p.npz').read_bytes()
