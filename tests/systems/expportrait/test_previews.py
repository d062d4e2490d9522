"""Textured previews in records: drawn from a frame of the clip, they reproduce that frame and
follow the others."""

import numpy as np
import pytest

from exp_jax.actors.__main__ import main as make_actors
from exp_jax.commands.prepare import main as prepare
from exp_jax.data.sources import PortraitClips
from exp_jax.data.transforms import take_window, turned
from exp_jax.errors import UserError
from exp_jax.metrics import psnr
from exp_jax.networks.codec import open_codec
from exp_jax.systems.expportrait.generator import previews
from exp_jax.systems.expportrait.records.windows import Towers, WindowOptions, window_records


@pytest.fixture(scope='module')
def records(tmp_path_factory):
  """Two actors of four frames with two previews each."""
  folder = tmp_path_factory.mktemp('previews')
  make_actors(
    [
      '-o',
      f'{folder}',
      '--num',
      '2',
      '--frames',
      '4',
      '--size',
      '96',
      '--fps',
      '4',
      '--seed',
      '3',
      '--head',
      'procedural',
    ]
  )
  prepare(
    [
      '--clips',
      f'{folder / "clips"}',
      '--subjects',
      f'{folder / "truth"}',
      '--mattes',
      f'{folder / "mattes"}',
      '-o',
      f'{folder / "shards"}',
      '--size',
      '64',
      '--head',
      'procedural',
      '--holdout',
      '0',
    ]
  )
  previews.main(
    [
      '-i',
      f'{folder / "shards"}',
      '--subjects',
      f'{folder / "truth"}',
      '-o',
      f'{folder / "out"}',
      '--head',
      'procedural',
    ]
  )
  source = PortraitClips(f'{folder / "out"}')
  return [source[i] for i in range(len(source))]


@pytest.mark.long
def test_a_preview_is_its_own_frame_and_nearer_to_the_others_than_that_frame_held_still(records):
  gains = []
  for record in records:
    assert record['previews'].shape == (2, 4, 64, 64, 3) and record['previews'].dtype == np.uint8
    video, mask = record['video'] / 255.0, record['matte'] / 255.0
    for clip, frame in zip(record['previews'] / 255.0, record['preview_references']):
      own = psnr(clip[frame], video[frame], mask=mask[frame]).value
      others = [t for t in range(4) if t != frame]
      moved = psnr(clip[others], video[others], mask=mask[others]).value
      still = psnr(
        np.broadcast_to(video[frame], video[others].shape), video[others], mask=mask[others]
      ).value
      assert own > 24 and moved > still, (own, moved, still)
      gains.append(moved - still)
  assert np.mean(gains) > 1.5, gains


@pytest.mark.long
def test_training_draws_a_preview_with_the_frame_it_was_drawn_from(records):
  record, seen = records[0], set()
  codec = open_codec('space_to_depth', '')
  # the same as codes: equal draws, equal examples
  (stored,) = window_records(record, Towers(codec), WindowOptions())
  for seed in range(12):
    draw = lambda of, seed=seed: take_window(
      of, np.random.default_rng(seed), num_frames=2, stride=2, reference='preview'
    )
    example, coded = draw(record), draw(stored)
    place = next(t for t in range(3) if np.array_equal(example['video'][0], record['video'][t]))
    which = next(
      k for k in range(2) if np.array_equal(example['preview'][0], record['previews'][k, place])
    )
    frame = record['preview_references'][which]
    np.testing.assert_array_equal(example['reference'], record['video'][frame])
    for key in ('reference', 'reference_normals', 'normals', 'turns'):
      np.testing.assert_array_equal(coded[key], example[key])
    np.testing.assert_array_equal(example['reference_normals'], record['normals'][frame])
    pixels = codec.decode(coded['preview_latents'].astype(np.float32)) * 127.5 + 127.5
    np.testing.assert_allclose(pixels, example['preview'], atol=0.1)
    seen.add(which)
  assert seen == {0, 1}
  plain = {k: v for k, v in record.items() if not k.startswith('preview')}
  with pytest.raises(UserError, match='no textured previews'):
    take_window(plain, np.random.default_rng(0), num_frames=2, stride=1, reference='preview')
  mirrored = turned(record)
  np.testing.assert_array_equal(mirrored['previews'], record['previews'][:, :, :, ::-1])
  np.testing.assert_array_equal(mirrored['preview_references'], record['preview_references'])


def test_reference_frames_are_spread_over_the_clip_and_always_the_same():
  for total, count in ((16, 2), (7, 3), (1, 4), (60, 4)):
    frames = previews.reference_frames('some clip', total, count)
    assert len(frames) == min(count, total) and frames.min() >= 0 and frames.max() < total
    assert len(set(frames)) == len(frames)
    assert all(
      k * total / len(frames) - 1 < f < (k + 1) * total / len(frames) for k, f in enumerate(frames)
    )
    np.testing.assert_array_equal(frames, previews.reference_frames('some clip', total, count))
