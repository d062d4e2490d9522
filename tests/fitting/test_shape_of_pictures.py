"""A clip's shape from single frames with maps: means of their fits, and all frames solved with
it."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.fitting.coarse import fit as coarse
from exp_jax.fitting.coarse.coarse_fit import CoarseFit
from exp_jax.fitting.coarse.fit import chosen_frames, fit_coarse_long, shape_of_pictures
from exp_jax.observe.observation import Observation

SIZE = (64, 64)
FOCALS, ERRORS = np.array([100.0, 400.0, 1e6]), np.array([0.01, 0.02, 0.5])


def observation(frames):
  """Its points' first number tells the frame; maps are there."""
  points = np.zeros((frames, 478, 2), np.float32)
  points[:, 0, 0] = np.arange(frames)
  maps = np.zeros((frames, *SIZE), np.float32) + np.arange(frames)[:, None, None]
  return Observation(
    points,
    np.ones(frames, bool),
    None,
    SIZE,
    'none',
    normals=np.repeat(maps[..., None], 3, -1).astype(np.float16),
    normal_weights=np.float16(maps),
    depth=maps,
    depth_weights=np.float16(maps),
  )


@pytest.fixture
def calls(monkeypatch):
  """Fits of single frames whose shape, focal length and error the frame tells; what was asked for
  is noted."""
  noted = []

  def fake(head, observations, *, shapes=None, focals=None, length=None):
    assert length == (None if shapes is None else 64)  # clips of a length share their program
    (seen,) = observations
    frame, count = int(seen.points[0, 0, 0]), len(seen.points)
    noted.append(
      (count, seen.depth is not None, None if shapes is None else (float(shapes[0][0]), focals[0]))
    )
    error = np.full(count, ERRORS[frame] if shapes is None else 0.01)
    return [
      CoarseFit(
        jnp.full(2, 1.0 + frame),
        np.full((count, 3), frame),
        np.zeros((count, 1, 3)),
        np.zeros((count, 3)),
        jnp.float32(FOCALS[frame]),
        jnp.asarray(error),
        SIZE,
      )
    ]

  monkeypatch.setattr(coarse, 'fit_coarse_many', fake)
  return noted


def test_frames_are_fitted_alone_and_averaged_but_for_what_no_head_explains(calls):
  found = shape_of_pictures(None, observation(3))
  assert calls == [(1, True, None)] * 3
  np.testing.assert_allclose(found.shape, 1.5)
  np.testing.assert_allclose(found.focal, 200, rtol=1e-5)  # of its logarithm
  assert found.expression.shape == (1, 3)


def test_no_frame_that_is_explained_is_an_error(calls):
  with pytest.raises(UserError, match='does not explain the landmarks'):
    shape_of_pictures(None, chosen_frames(observation(3), np.array([2])))


def test_all_frames_are_solved_with_the_shape_of_the_key_frames(calls):
  plain = dataclasses.replace(
    observation(3), normals=None, normal_weights=None, depth=None, depth_weights=None
  )
  fit_coarse_long(None, plain, keys=chosen_frames(observation(3), np.array([0, 1])))
  assert calls[:2] == [(1, True, None)] * 2
  ((count, maps, (shape, focal)),) = calls[2:]
  assert (count, maps, shape) == (3, False, 1.5) and abs(focal - 200) < 1e-3
  calls.clear()
  alone = fit_coarse_long(
    None, chosen_frames(plain, np.array([1])), keys=chosen_frames(observation(3), np.array([1]))
  )
  assert len(calls) == 1 and alone.expression[0, 0] == 1, 'a picture is its own key frame'
