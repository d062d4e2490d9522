"""Clips whose fit is known: a head moved by known parameters and seen by a known camera."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.fitting.coarse.coarse_fit import make_camera
from exp_jax.fitting.landmark_head import landmark_head
from exp_jax.geometry import project
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.skinning import head_landmarks
from exp_jax.observe.observation import Observation

SIZE = (256, 256)


@dataclasses.dataclass(frozen=True)
class Truth:
  """params: shape [S], the rest [T, ...]; focal in pixels."""

  params: HeadParams
  focal: float
  observation: Observation


def makehuman() -> HeadModel:
  try:
    return load_head('makehuman')
  except UserError:
    pytest.skip('`make setup` fetches the MakeHuman head', allow_module_level=True)


def clip(
  head: HeadModel, frames: int, *, seed: int = 0, focal: float = 2.4 * 256, yaw: float = 0.35
) -> Truth:
  """`frames` frames of one person who turns from -yaw to yaw, smiles and opens the mouth,
  smoothly."""
  rng = np.random.default_rng(seed)
  time = np.linspace(-1, 1, frames) if frames > 1 else np.array([0.6])
  index = {name: i for i, name in enumerate(head.joint_names)}
  shape = np.clip(rng.normal(0, 0.5, head.shape_basis.shape[-1]), -1, 1)
  expression = np.zeros((frames, head.expression_basis.shape[-1]))
  for name, curve in (
    ('mouthSmileLeft', 0.3 + 0.3 * time),
    ('mouthSmileRight', 0.3 + 0.3 * time),
    ('browInnerUp', 0.4 - 0.2 * time),
  ):
    expression[:, head.expression_names.index(name)] = curve
  pose = np.zeros((frames, len(head.parents), 3))
  turn = np.stack([0.1 * time**2, yaw * time, 0.05 * time], -1)
  pose[:, index['neck']] = pose[:, index['head']] = turn / 2
  pose[:, index['jaw'], 0] = 0.08 + 0.05 * time
  for eye in ('left_eye', 'right_eye'):
    pose[:, index[eye], 1] = 0.1 * time
  translation = np.array([0.01, -0.03, -0.72]) + 0.01 * time[:, None] * [1, 0.5, 1]
  params = HeadParams(
    *(jnp.asarray(a, jnp.float32) for a in (shape, expression, pose, translation))
  )
  small, camera = landmark_head(head), make_camera(jnp.float32(focal), SIZE)
  points = jax.vmap(
    lambda e, p, t: project(head_landmarks(small, HeadParams(params.shape, e, p, t)), camera)[0]
  )(params.expression, params.pose, params.translation)
  return Truth(
    params, focal, Observation(np.array(points), np.ones(frames, bool), None, SIZE, 'truth')
  )
