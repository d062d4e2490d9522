"""Teeth of actors: they show as people's do, and are not darker at the biting edge."""

import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.actors import Motion, load_stage, render_actor, sample_actor
from exp_jax.controls.mouth import INNER_LIPS, loop_of, tooth_share
from exp_jax.errors import UserError
from exp_jax.heads.densify import rest_vertices
from exp_jax.heads.model import HeadParams

SIZE = 128


@pytest.fixture(scope='module')
def stage():
  try:
    return load_stage('makehuman')
  except UserError:
    pytest.skip('`make setup` fetches the MakeHuman head')


@pytest.mark.long
def test_an_actors_lips_at_rest_leave_as_much_of_the_teeth_in_view_as_peoples_do(stage):
  head, dense = stage.assets.head, stage.assets.dense
  tooth = np.asarray(stage.assets.tooth)
  front = (tooth[:, 2] > 0) & (np.abs(tooth[:, 0]) < 8)
  for seed in (3, 11):
    actor = sample_actor(np.random.default_rng(seed), stage)
    rest = HeadParams(
      actor.shape,
      jnp.zeros(len(head.expression_names)),
      jnp.zeros((len(head.parents), 3)),
      jnp.zeros(3),
    )
    still = jnp.zeros_like(actor.static_offsets)
    person = rest_vertices(head, dense, rest, actor.static_offsets, still)
    lip = float(loop_of(person, stage.assets.lips)[INNER_LIPS.index(13), 1])
    assert lip - float(person[front, 1].min()) == pytest.approx(2.6e-3, abs=4e-4)


@pytest.mark.slow  # compiles the renderer: half a minute
def test_the_teeth_of_a_grin_do_not_fade_towards_their_edge(stage):
  head, actor = stage.assets.head, sample_actor(np.random.default_rng(3), stage)
  expression = np.zeros((1, len(head.expression_names)), np.float32)
  for name, value in (('mouthSmile', 0.8), ('mouthUpperUp', 0.6), ('mouthLowerDown', 0.5)):
    expression[0, [head.expression_names.index(name + side) for side in ('Left', 'Right')]] = value
  pose = np.zeros((1, len(head.parents), 3), np.float32)
  pose[0, head.joint('jaw'), 0] = 0.15
  motion = Motion(expression, pose, np.zeros((1, 3), np.float32), np.zeros(1, np.float32), 25.0)
  clip = render_actor(actor, motion, stage, size=3 * SIZE)
  frame, marks = clip.frames[0] / 255.0, clip.landmarks[0]
  lips = marks[list(INNER_LIPS)]
  (left, top), (right, bottom) = lips.min(0).astype(int), lips.max(0).astype(int)
  middle = slice((2 * left + right) // 3, (left + 2 * right) // 3)
  mouth = frame[top:bottom, middle]
  skin = frame[marks[[205, 425], 1].astype(int), marks[[205, 425], 0].astype(int)].mean(0)
  share = tooth_share(mouth, skin)
  rows = np.flatnonzero((share > 0.5).mean(1) > 0.6)
  assert len(rows) >= 8, 'crowns show'
  light = np.array([np.median(mouth[row].mean(-1)) for row in rows])
  assert light[-4:-1].mean() > 0.9 * light[len(rows) // 3 : len(rows) // 2].mean(), light
