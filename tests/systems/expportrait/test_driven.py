"""Turns that are held back: when there is a limit, and when there is a warning."""

import numpy as np

from exp_jax.controls.turn_limit import Reach
from exp_jax.heads.head_files import load_head
from exp_jax.systems.expportrait.driven import driven, reach_of_portrait
from exp_jax.systems.expportrait.options import Options
from tests.controls.test_reenact import subject

HEAD = load_head('procedural')


def test_a_limit_of_the_user_is_kept_in_silence_and_180_is_none():
  """The warning tells of what the portrait shows, not of what was asked for."""
  reference, driver = subject(1, frames=1), subject(2, frames=6, turn=0.8)
  narrow = Reach(np.array([0.0, 0.0, 1.0]), np.eye(3)[:2], np.radians(np.full(24, 5.0)))
  for most, expected in ((None, 1), (5.0, 0)):
    said = []
    driven(
      reference, driver, HEAD, Options(most_turn=most, smoothing=0), reach=narrow, warn=said.append
    )
    assert len(said) == expected and all('--most_turn 180' in words for words in said)
  nobody = dict(subject=None, head=None, dense=None)
  assert reach_of_portrait(**nobody, options=Options(most_turn=180), draws_hidden=False) is None
  assert reach_of_portrait(**nobody, options=Options(), draws_hidden=True) is None
