"""What becomes of a fit when the head turns into profile, and whose fault it is: the detector's or
the solver's.

  python benchmarks/fit_profile.py [--people 3] [--frames 24] [--json profile.json]

Synthetic heads turn from 25 degrees on one side to 85 on the other. Bands of yaw, over the frames
with a face; distances are root mean squares of the 468 landmarks of the skin, per cent of the eye
distance seen from the front, apart for the half of the face that is turned to the camera and the
other:

  detected   MediaPipe's marks against the true ones
  fit        the landmark stage on MediaPipe's marks, against the true ones
  behind     degrees by which the fitted yaw lags behind the true one
  solver     degrees of rotation error of the same stage on the true landmarks
"""

import argparse
import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.actors import load_stage, render_actor, sample_actor
from exp_jax.actors.motion import still_motion
from exp_jax.fitting.coarse.coarse_fit import make_camera
from exp_jax.fitting.coarse.fit import fit_coarse
from exp_jax.geometry import project
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.model import HeadParams
from exp_jax.heads.skinning import head_vertices, joint_transforms, points_on_faces
from exp_jax.observe.landmarks import FaceEstimator
from exp_jax.observe.observation import Observation

_SIZE = 512
_BANDS = (0, 30, 50, 60, 70, 80, 90)


def turning(head, frames: int, sign: int):
  """A still face whose yaw goes from -25 to 85 degrees, and that yaw [T]."""
  yaw = sign * np.linspace(-25, 85, frames)
  motion = still_motion(head, num_frames=frames, fps=8.0)
  pose = motion.pose.copy()
  for name, share in (('neck', 0.4), ('head', 0.6)):
    pose[:, head.joint(name), 1] = share * np.radians(yaw)
  return dataclasses.replace(motion, pose=pose), np.abs(yaw)


@functools.partial(jax.jit, static_argnames='head_joint')
def _look(head, shape, expression, pose, translation, focal, head_joint):
  """Pixels [K, 2], cosines towards the camera [K] and the head's rotation [3, 3] of one frame."""
  params = HeadParams(shape, expression, pose, translation)
  vertices = head_vertices(head, params)
  on_marks = lambda values: points_on_faces(
    values, head.faces, head.landmark_faces, head.landmark_barycentric
  )
  points, normals = on_marks(vertices), on_marks(vertex_normals(vertices, head.faces))
  unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
  facing = -jnp.sum(unit(normals) * unit(points), -1)
  return (
    project(points, make_camera(focal, (_SIZE, _SIZE)))[0],
    facing,
    joint_transforms(head, params)[head_joint, :3, :3],
  )


def looks(head, of):
  """The same of all frames of anything with shape, expression, pose, translation and focal."""
  focal, joint = jnp.float32(np.ravel(of.focal)[0]), head.joint('head')
  each = [
    _look(
      head,
      jnp.asarray(of.shape),
      *(jnp.asarray(getattr(of, name)[t]) for name in ('expression', 'pose', 'translation')),
      focal,
      joint,
    )
    for t in range(len(of.expression))
  ]
  return [np.stack(parts) for parts in zip(*each)]


def degrees(turns) -> np.ndarray:
  return np.degrees(np.arccos(np.clip((np.trace(turns, axis1=1, axis2=2) - 1) / 2, -1, 1)))


def judge(stage, estimator, index: int, frames: int) -> list[dict]:
  """A row for each frame with a face."""
  head = stage.assets.head
  motion, yaw = turning(head, frames, 2 * (index % 2) - 1)
  clip = render_actor(
    sample_actor(np.random.default_rng([77, index]), stage, age=0.5), motion, stage, size=_SIZE
  )
  seen = [np.asarray(estimator(frame)[0], np.float32) for frame in clip.frames]
  found = np.array([len(marks) > 0 for marks in seen])
  last = seen[np.flatnonzero(found)[0]]
  points = np.stack([(last := marks if len(marks) else last)[0, :, :2] for marks in seen])
  fit_to = lambda points, found: fit_coarse(
    head, Observation(points.astype(np.float32), found, None, (_SIZE, _SIZE), 'profile')
  )
  true, facing, turn = looks(head, clip.truth)
  fitted, _, fitted_turn = looks(head, fit_to(points, found))
  solved = looks(head, fit_to(clip.landmarks, np.ones(frames, bool)))[2]
  front = np.abs(yaw).argsort()[:3]
  width = np.median(np.linalg.norm(clip.landmarks[front, 263] - clip.landmarks[front, 33], axis=-1))
  own_yaw = np.abs(np.degrees(np.arctan2(fitted_turn[:, 0, 2], fitted_turn[:, 2, 2])))
  off = degrees(solved @ turn.swapaxes(1, 2))
  near = facing[:, :468] > 0.1

  def apart(points, t, half):
    return 100 * float(
      np.sqrt(((points[t, :468] - true[t, :468])[half[t]] ** 2).sum(-1).mean()) / width
    )

  return [
    dict(
      yaw=float(yaw[t]),
      behind=float(yaw[t] - own_yaw[t]),
      solver=float(off[t]),
      detected=apart(points, t, near),
      detected_hidden=apart(points, t, ~near),
      fit=apart(fitted, t, near),
      fit_hidden=apart(fitted, t, ~near),
    )
    for t in np.flatnonzero(found)
  ]


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--people', type=int, default=3)
  parser.add_argument('--frames', type=int, default=24)
  parser.add_argument('--json', type=pathlib.Path)
  options = parser.parse_args()
  stage, estimator, rows = load_stage(), FaceEstimator(), []
  try:
    for index in range(21, 21 + options.people):
      rows += judge(stage, estimator, index, options.frames)
  finally:
    estimator.__exit__()
  for low, high in zip(_BANDS[:-1], _BANDS[1:]):
    if band := [row for row in rows if low <= row['yaw'] < high]:
      mean = {name: np.mean([row[name] for row in band]) for name in band[0] if name != 'yaw'}
      print(
        f'{low}-{high} degrees, {len(band)} frames: '
        + ', '.join(f'{k} {v:.1f}' for k, v in mean.items())
      )
  if options.json:
    options.json.write_text(json.dumps(rows, indent=1))


if __name__ == '__main__':
  main()
