"""The command: files that can be read back, going on after an interruption, clear refusals."""

import av
import numpy as np
import pytest
from PIL import Image

from exp_jax.actors import clips
from exp_jax.actors.__main__ import main
from exp_jax.heads import load_subject

COMMON = ['--frames', '3', '--size', '40', '--head', 'procedural', '--fps', '10']


def run(folder, *more):
  main(['-o', str(folder), *COMMON, *more])


@pytest.mark.long
def test_files_appear_and_a_second_run_only_adds(tmp_path):
  run(tmp_path, '--num', '2', '--seed', '5')
  with av.open(str(tmp_path / 'clips' / 'actor_00001.mp4')) as container:
    stream = container.streams.video[0]
    assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ('h264', 'yuv420p')
    frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
  assert np.array(frames).shape == (3, 40, 40, 3)
  subject = load_subject(tmp_path / 'truth' / 'actor_00001.npz')
  assert subject.subject_id == 'actor_00001' and subject.num_frames == 3
  with np.load(tmp_path / 'mattes' / 'actor_00001.npz') as maps:
    assert maps['matte'].shape == (3, 40, 40) and maps['landmarks'].shape[::2] == (3, 2)
  kept = (tmp_path / 'clips' / 'actor_00001.mp4').stat().st_mtime_ns
  (tmp_path / 'truth' / 'actor_00000.npz').unlink()  # as if it had been interrupted there
  run(tmp_path, '--num', '3', '--seed', '5')
  assert (tmp_path / 'clips' / 'actor_00001.mp4').stat().st_mtime_ns == kept
  assert (tmp_path / 'truth' / 'actor_00000.npz').exists()
  assert Image.open(tmp_path / 'sheet.png').size == (120, 40)
  assert not [p for p in tmp_path.rglob('*.tmp*')]


@pytest.mark.parametrize(
  'more, words',
  [
    (['--seed', '6'], 'another seed'),
    (['--size', '33'], '--size'),
    (['--num', '0'], '--num'),
    (['--head', 'nowhere.npz'], 'nowhere.npz'),
  ],
)
def test_refusals_end_with_status_two_and_a_sentence(more, words, tmp_path, capsys):
  clips.claim_folder(
    tmp_path,
    {'head': 'procedural', 'frames': 3, 'size': 40, 'fps': 10.0, 'seed': 5, 'maps': False},
  )
  with pytest.raises(SystemExit) as ended:
    run(tmp_path, *more)
  assert ended.value.code == 2
  assert words in capsys.readouterr().err
