"""Synthetic people with known truth: who they are, how they move, what they look like."""

from exp_jax.actors.actor import Actor, dynamic_offsets, sample_actor
from exp_jax.actors.motion import GESTURES, Motion, gesture, sample_motion, still_motion
from exp_jax.actors.render import Clip, render_actor
from exp_jax.actors.stage import Stage, load_stage, make_stage

__all__ = [
  'GESTURES',
  'Actor',
  'Clip',
  'Motion',
  'Stage',
  'dynamic_offsets',
  'gesture',
  'load_stage',
  'make_stage',
  'render_actor',
  'sample_actor',
  'sample_motion',
  'still_motion',
]
