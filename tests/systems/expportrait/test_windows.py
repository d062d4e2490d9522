"""Which windows and references a clip gives, and that their codes are those that sampling will
meet."""

import numpy as np
import pytest

from exp_jax.data.sources import from_bytes, to_bytes
from exp_jax.data.synthetic import synthetic_clip
from exp_jax.data.transforms import angles
from exp_jax.errors import UserError
from exp_jax.networks.codec import Codec, open_codec
from exp_jax.systems.expportrait.records.windows import (
  Towers,
  WindowOptions,
  mirrored,
  pick_references,
  plan_windows,
  window_records,
)


def running(clip):
  """A stand-in for a causal autoencoder: [T, H, W, 3] -> [F, H/8, W/8, 16], code k is the mean of
  ALL frames up to 4 k."""
  if clip.ndim > 4:
    return np.stack([running(one) for one in clip])
  means = np.cumsum(clip, axis=0) / np.arange(1, len(clip) + 1)[:, None, None, None]
  coarse = means[::4, ::8, ::8].mean(-1, keepdims=True)
  return np.repeat(coarse, 16, axis=-1)


def stand_in():
  codec = Codec((4, 8, 8), 16, lambda x: running(np.asarray(x)), None, lambda: None)
  return Towers(codec, None, {'vae': 'abc', 'codec': 'wan'})


def clip_of(frames=40, seed=1):
  record = synthetic_clip(seed, num_frames=frames, height=16, width=24)
  rng = np.random.default_rng(seed)
  turns = np.cumsum(rng.normal(size=(frames, 3)), axis=0).astype(np.float32) * 0.05
  valid = np.full((frames, 16, 24), 255, np.uint8)
  valid[:, :, 20:] = 0
  return record | dict(turns=turns, valid=valid, offsets='full')


@pytest.mark.parametrize(
  'total, frames, largest',
  [(225, 49, 2), (100, 49, 3), (49, 49, 2), (50, 49, 1), (300, 17, 2), (97, 49, 2)],
)
def test_every_frame_of_a_clip_lies_in_a_window(total, frames, largest):
  strides, leads, starts = set(), [], set()
  for clip in range(60):
    plan = plan_windows(
      total, f'clip {clip}', WindowOptions(frames=frames, largest_stride=largest), 4
    )
    assert plan == plan_windows(
      total, f'clip {clip}', WindowOptions(frames=frames, largest_stride=largest), 4
    )
    seen = np.zeros(total, bool)
    for start, stride, lead in plan:
      assert (
        0 <= start - 4 * stride * lead
        and start + (frames - 1) * stride < total
        and 1 <= stride <= largest
      )
      seen[start : start + (frames - 1) * stride + 1] = True
      strides.add(stride)
      leads.append(lead)
      starts.add(start)
    assert seen.all()
  possible = [s for s in range(1, largest + 1) if (frames - 1) * s < total]
  assert strides == set(possible)
  if total > 4 * frames:
    assert 0.2 < np.mean(np.array(leads) > 0) < 0.8 and len(starts) > total / 2


def test_a_share_of_windows_begins_in_the_middle_of_a_code():
  for later, low, high in ((0.0, 0, 0), (1.0, 0.75, 1)):
    leads = [
      lead
      for i in range(40)
      for _, _, lead in plan_windows(225, f'{i}', WindowOptions(later=later), 4)
    ]
    assert low <= np.mean(np.array(leads) > 0) <= high and max(leads) <= 4


def test_short_clips_are_named():
  with pytest.raises(
    UserError, match='clip x has 30 frames, a window 49: leave it out, or pass --frames 29'
  ):
    plan_windows(30, 'x', WindowOptions(), 4)
  with pytest.raises(UserError, match='--frames must be 1 plus a multiple of 4'):
    WindowOptions(frames=48).check(4)


def test_codes_of_a_later_window_are_those_of_a_longer_code():
  """Equal to encoding from `lead` latents before it and cutting, and unlike encoding the window
  alone."""
  record, options = clip_of(), WindowOptions(frames=9, later=1.0, windows=6, references=3)
  found = window_records(record, stand_in(), options)
  assert len(found) == 6 and sum(int(r['window'][3]) > 0 for r in found) >= 3
  for made in found:
    start, stride, largest, lead = map(int, made['window'])
    assert largest == 2
    scaled = record['video'] / 127.5 - 1.0
    whole = running(scaled[start - 4 * stride * lead : start + 8 * stride + 1 : stride])
    np.testing.assert_allclose(made['latents'], whole[lead:], atol=2e-3)
    np.testing.assert_array_equal(
      made['normals'], record['normals'][start : start + 8 * stride + 1 : stride]
    )
    np.testing.assert_array_equal(
      made['turns'], record['turns'][start : start + 8 * stride + 1 : stride]
    )
    np.testing.assert_array_equal(made['valid'], np.broadcast_to([255, 255, 0], (3, 2, 3)))
    if lead:
      alone = running(scaled[start : start + 8 * stride + 1 : stride])
      assert np.abs(alone - made['latents']).max() > 0.01
    assert 'video' not in made and 'matte' not in made
    from_bytes(to_bytes(made))


def test_references_come_with_their_own_maps_and_codes_followed_by_blanks():
  record = clip_of()
  made = window_records(record, stand_in(), WindowOptions(frames=9, references=3))[0]
  assert made['references'].shape == (3, 16, 24, 3) and made['references_latents'].shape == (
    3,
    3,
    2,
    3,
    16,
  )
  names = ('references', 'references_normals', 'references_turns', 'references_latents')
  for image, normals, turn, codes in zip(*(made[k] for k in names)):
    frame = next(t for t in range(40) if np.array_equal(record['video'][t], image))
    np.testing.assert_array_equal(normals, record['normals'][frame])
    np.testing.assert_array_equal(turn, record['turns'][frame])
    blank = np.concatenate([image[None] / 127.5 - 1.0, np.zeros((8, 16, 24, 3))])
    np.testing.assert_allclose(codes, running(blank), atol=2e-3)


def test_references_are_turned_as_far_from_each_other_as_can_be():
  record = clip_of(120)
  least = lambda frames: min(
    angles(record['turns'][i], record['turns'][frames[frames != i]]).min() for i in frames
  )
  picked = pick_references(record['turns'], 120, 'c', WindowOptions())
  assert len(set(picked)) == 4 and (np.diff(picked) > 0).all()
  rng = np.random.default_rng(0)
  random = [least(rng.choice(120, 4, replace=False)) for _ in range(200)]
  assert least(picked) > np.percentile(random, 90)
  still = pick_references(np.zeros((6, 3), np.float32), 6, 'c', WindowOptions())
  assert len(set(still)) == 4, 'a head that keeps still gives different frames all the same'
  assert len(set(pick_references(None, 50, 'c', WindowOptions()))) == 4


def test_codes_of_single_frames_are_the_whole_clip_without_its_video():
  record, towers = (
    clip_of(7),
    Towers(open_codec('space_to_depth', ''), None, {'codec': 'space_to_depth'}),
  )
  (made,) = window_records(record, towers, WindowOptions(frames=5, references=2))
  assert (
    made['latents'].shape == (7, 4, 6, 48)
    and made['valid'].shape == (7, 4, 6)
    and 'video' not in made
  )
  np.testing.assert_array_equal(made['window'], [0, 1, 1, 0])
  np.testing.assert_allclose(
    towers.codec.decode(made['latents'].astype(np.float32)) * 127.5 + 127.5,
    record['video'],
    atol=0.1,
  )
  from_bytes(to_bytes(made))


def test_clip_tokens_are_those_of_each_reference():
  see = lambda image: np.full((1, 257, 1280), image.mean(), np.float32)
  towers = Towers(stand_in().codec, see, {'clip': 'd'})
  made = window_records(clip_of(), towers, WindowOptions(frames=9, references=3))[0]
  for image, tokens in zip(made['references'], made['references_clip']):
    assert tokens.shape == (257, 1280) and abs(float(tokens[0, 0]) - image.mean() / 255) < 1e-3
  assert '"clip": "d"' in made['weights']


def test_mirror_images_hold_the_mirrored_person():
  record = clip_of()
  other = mirrored(record)
  assert other['clip_id'].endswith('-mirrored')
  np.testing.assert_array_equal(other['video'], record['video'][:, :, ::-1])
  np.testing.assert_array_equal(
    pick_references(other['turns'], 40, other['clip_id'], WindowOptions()),
    pick_references(record['turns'], 40, record['clip_id'], WindowOptions()),
  )
  with pytest.raises(UserError, match='cannot change places'):
    mirrored(record | dict(extras=np.zeros((40, 16, 24, 3), np.uint8), extra_names='iris'))
