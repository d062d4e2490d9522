"""From records to examples: which frames, which codes, which reference."""

import numpy as np
import pytest

from exp_jax.data.transforms import (
  angles,
  draw_reference,
  take_codes,
  take_window,
  turned,
  valid_cells,
)
from exp_jax.errors import UserError


def about_y(*degrees):
  return np.float32([[0, np.radians(d), 0] for d in degrees])


def window_record(*, lead=0, stride=2, largest=2, codes=4, turns=(0, 2, 20, 30)):
  """A window of 1 + 4 (codes - 1) frames whose arrays tell where they come from."""
  N, R = 1 + 4 * (codes - 1), len(turns)
  frames = np.arange(N, dtype=np.uint8)[:, None, None, None]
  many = np.arange(R, dtype=np.uint8)[:, None, None, None]
  return dict(
    clip_id='c',
    subject_id='s',
    window=np.array([8, stride, largest, lead], np.int32),
    normals=np.broadcast_to(frames, (N, 16, 16, 3)),
    latents=np.broadcast_to(
      np.arange(codes, dtype=np.float16)[:, None, None, None], (codes, 2, 2, 16)
    ),
    valid=np.broadcast_to(np.arange(codes, dtype=np.uint8)[:, None, None], (codes, 2, 2)),
    references=np.broadcast_to(many, (R, 16, 16, 3)),
    references_normals=np.broadcast_to(many + 100, (R, 16, 16, 3)),
    references_latents=np.broadcast_to(np.float16(many)[:, None], (R, codes, 2, 2, 16)),
    turns=np.zeros((N, 3), np.float32),
    references_turns=about_y(*turns),
  )


def test_angles_are_those_of_rotations():
  np.testing.assert_allclose(angles(about_y(10)[0], about_y(10, 40, -20)), [0, 30, 30], atol=1e-4)
  assert angles(np.array([0, 0, 3.0]), np.array([[0, 0, -3.0]]))[0] == pytest.approx(
    np.degrees(2 * np.pi - 6), abs=1e-6
  )


def test_references_are_drawn_evenly_among_those_turned_away():
  counts = np.bincount(
    [
      draw_reference(
        np.random.default_rng(s), 4, degrees=5, turn=np.zeros(3), turns=about_y(0, 2, 20, 30)
      )
      for s in range(400)
    ],
    minlength=4,
  )
  assert counts[:2].sum() == 0 and 140 < counts[2] < 260
  still = [
    draw_reference(np.random.default_rng(s), 3, degrees=5, turn=np.zeros(3), turns=about_y(1, 3, 2))
    for s in range(9)
  ]
  assert set(still) == {1}, 'of a head that keeps still the frame that is farthest away'
  free = {
    draw_reference(np.random.default_rng(s), 3, degrees=0, turn=None, turns=None) for s in range(40)
  }
  assert free == {0, 1, 2}
  with pytest.raises(UserError, match='does not tell how its heads are turned'):
    draw_reference(np.random.default_rng(0), 3, degrees=5, turn=None, turns=None)


def test_a_first_window_begins_with_its_first_code_and_a_later_one_anywhere():
  firsts = {}
  for lead in (0, 3):
    firsts[lead] = set()
    for seed in range(30):
      example = take_codes(
        window_record(lead=lead),
        np.random.default_rng(seed),
        num_frames=5,
        time_stride=4,
        stride=2,
        reference='random',
        degrees=5.0,
      )
      first = int(example['latents'][0, 0, 0, 0])
      firsts[lead].add(first)
      np.testing.assert_array_equal(example['latents'][:, 0, 0, 0], first + np.arange(2))
      np.testing.assert_array_equal(example['valid'][:, 0, 0], first + np.arange(2))
      np.testing.assert_array_equal(
        example['normals'][:, 0, 0, 0],
        4 * first + np.arange(5),
        err_msg='code k ends with frame 4 k',
      )
      which = int(example['reference'][0, 0, 0])
      assert which in (2, 3) and example['reference_normals'][0, 0, 0] == 100 + which
      assert (
        example['reference_latents'].shape == (2, 2, 2, 16)
        and example['reference_latents'].max() == which
      )
  assert firsts == {0: {0}, 3: {0, 1, 2}}


@pytest.mark.parametrize(
  'change, words',
  [
    (dict(stride=1), 'drawn with strides up to 2, config.data.stride is 1'),
    (dict(num_frames=21), 'holds 13 frames and 4 latents, training asks for 21 and 6'),
    (dict(reference='record'), 'set config.data.reference="random"'),
    (dict(reference='preview'), 'no textured previews'),
  ],
)
def test_what_stored_codes_cannot_give_is_refused(change, words):
  asked = dict(num_frames=5, time_stride=4, stride=2, reference='random') | change
  with pytest.raises(UserError, match=words):
    take_codes(window_record(), np.random.default_rng(0), **asked)


def test_pixels_in_place_of_codes_are_refused():
  with pytest.raises(UserError, match='holds pixels, training asks for codes'):
    take_codes(
      {'clip_id': 'c'},
      np.random.default_rng(0),
      num_frames=5,
      time_stride=4,
      stride=1,
      reference='random',
    )


def test_whole_clips_of_codes_give_windows_of_any_stride():
  record = window_record(codes=4) | dict(window=np.array([0, 1, 1, 0], np.int32))
  record['latents'] = np.float16(np.arange(13))[:, None, None, None].repeat(2, 1)
  record['references_latents'], record['valid'] = (
    record['references_latents'][:, 0],
    np.full((13, 2, 2), 255, np.uint8),
  )
  for seed in range(20):
    example = take_window(
      record, np.random.default_rng(seed), num_frames=3, stride=4, reference='random', degrees=5.0
    )
    chosen = example['latents'][:, 0, 0, 0]
    np.testing.assert_array_equal(np.diff(chosen), [4, 4])
    np.testing.assert_array_equal(example['normals'][:, 0, 0, 0], chosen)
    assert int(example['reference'][0, 0, 0]) in (2, 3) and example['reference_latents'].ndim == 3


def test_a_code_is_valid_where_every_pixel_behind_it_is():
  rng = np.random.default_rng(0)
  valid = np.where(rng.random((9, 6, 8)) < 0.05, 0, 255).astype(np.uint8)
  found = valid_cells(valid, (4, 2, 4))
  assert found.shape == (3, 3, 2)
  for f, frames in enumerate(([0], [1, 2, 3, 4], [5, 6, 7, 8])):
    for r in range(3):
      for c in range(2):
        assert found[f, r, c] == valid[frames, 2 * r : 2 * r + 2, 4 * c : 4 * c + 4].min()
  assert valid_cells(valid, (1, 2, 4)).shape == (9, 3, 2)
  assert 0 < (found == 0).mean() < 1


def test_the_mirror_image_of_a_turn_to_the_left_is_one_to_the_right():
  example = turned(dict(turns=np.float32([[0.1, 0.2, 0.3]]), valid=np.uint8([[[0, 255]]])))
  np.testing.assert_array_equal(example['turns'], np.float32([[0.1, -0.2, -0.3]]))
  np.testing.assert_array_equal(example['valid'], [[[255, 0]]])
  with pytest.raises(ValueError, match='control channels'):
    turned(dict(extras=np.zeros((1, 2, 2, 3), np.uint8)))
