"""Probes: what is asked of a window of frames.

Each gives scores of the window, and arrays that a clip's end needs.

A probe is a function (window) -> (scores, arrays): `scores` {metric: Score over the window's
frames}, to be pooled; `arrays` {name: [T, ...] or [rows, D]}, to be joined over the clip. Windows
have WINDOW frames, the last one of a clip fewer.
Letters: T frames of a window, H x W pixels.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from exp_jax.controls.deformation_maps import expression_maps
from exp_jax.heads.model import HeadModel
from exp_jax.metrics import faces, motion
from exp_jax.metrics.image import l1, psnr, ssim
from exp_jax.metrics.networks import Network
from exp_jax.metrics.perceptual import lpips
from exp_jax.metrics.score import Score, mean_score
from exp_jax.metrics.steadiness import squared_jitter

WINDOW = 16
Found = tuple[dict[str, Score], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Window:
  """result, target: [T, H, W, 3] uint8, the target being the truth (self) or the driver (cross), of
  sizes of their own in the latter case; points, target_points: [T, 478, 2] pixels, NaN without a
  face, or None if nobody looks."""

  kind: str
  result: np.ndarray
  target: np.ndarray
  points: np.ndarray | None = None
  target_points: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Reference:
  """The portrait of a cross-reenactment: picture uint8 [H, W, 3], its landmarks [478, 2] or None if
  there is no face."""

  picture: np.ndarray
  points: np.ndarray | None


def pixels(window: Window, *, wanted: tuple[str, ...]) -> Found:
  """PSNR, SSIM and L1 of equal sizes."""
  a, b = window.result / 255.0, window.target / 255.0
  measures = {'psnr': psnr, 'ssim': ssim, 'l1': l1}
  return {name: measure(a, b) for name, measure in measures.items() if name in wanted}, {}


def perceptual(window: Window, *, name: str, network: Network) -> Found:
  """LPIPS; `name` is the metric's."""
  variant = {'alex': 'AlexNet', 'vgg16': 'VGG16'}[network.sizes['variant']]
  found = lpips(
    window.result / np.float32(255),
    window.target / np.float32(255),
    distance=network.run,
    variant=f'LPIPS 0.1, {variant}',
  )
  return {name: found}, {}


def inception(window: Window, *, network: Network) -> Found:
  """Features for FID; those of the target only where it is the truth."""
  rows = {'fid.result': network.run(window.result)}
  return {}, rows | ({'fid.target': network.run(window.target)} if window.kind == 'self' else {})


def kinetics(window: Window, *, network: Network) -> Found:
  """Logits for FVD, a row a full window."""
  run = lambda clip: (
    network.run(clip[None])
    if len(clip) == WINDOW
    else np.zeros((0, network.sizes.get('classes', 400)), np.float32)
  )
  return {}, {'fvd.result': run(window.result), 'fvd.target': run(window.target)}


def _of_faces(cut: Callable, network: Network, pictures, points) -> dict[str, np.ndarray]:
  """{name: [T, ...] float64} of a network on the faces of pictures, NaN in frames without one."""
  seen = np.flatnonzero(np.isfinite(points).all((1, 2)))
  crops = [cut(pictures[t], points[t]) for t in seen] or [np.zeros_like(cut(pictures[0], _ANY))]
  found = network.run(np.stack(crops))
  found = found if isinstance(found, dict) else {'': found}
  out = {name: np.full((len(pictures), *rows.shape[1:]), np.nan) for name, rows in found.items()}
  for name, rows in found.items():
    out[name][seen] = rows[: len(seen)]
  return out


_ANY = np.random.default_rng(0).uniform(8, 24, (478, 2))  # somewhere, to know the size of a cut


# metric -> (how its network wants a face, what the network is called)
IDENTITIES = {
  'csim': (faces.arcface_cut, 'ArcFace'),
  'csim_dlib': (faces.dlib_cut, "dlib's face recognition"),
}


def identity(window: Window, *, name: str, network: Network, reference: Reference | None) -> Found:
  """CSIM by a network of `IDENTITIES`: with the truth's frame (self), or with the reference
  (cross); `name` is the metric's."""
  cut, called = IDENTITIES[name]
  ask = lambda pictures, points: _of_faces(cut, network, pictures, points)['']
  own, variant = (
    ask(window.result, window.points),
    f'{called} {network.sizes["variant"]}, aligned on MediaPipe landmarks',
  )
  if window.kind == 'self':
    return {
      name: motion.csim(
        own, ask(window.target, window.target_points), variant=f'{variant}, with the truth'
      )
    }, {}
  other = np.full(own.shape[1:], np.nan)
  if reference.points is not None:
    other = ask(reference.picture[None], reference.points[None])[0]
  return {name: motion.csim(own, other, variant=f'{variant}, with the reference')}, {}


def smirk(window: Window, *, network: Network) -> Found:
  """AED and APD by SMIRK."""
  cut = functools.partial(faces.box_cut, scale=1.4, size=224)
  a, b = (
    _of_faces(cut, network, p, q)
    for p, q in ((window.result, window.points), (window.target, window.target_points))
  )
  face = lambda found: np.concatenate([found['expression'], found['eyelids'], found['jaw']], -1)
  return {'aed': motion.aed(face(a), face(b)), 'apd': motion.apd(a['pose'], b['pose'])}, {}


def deep3d(window: Window, *, network: Network) -> Found:
  """E-RMSE and P-RMSE by Deep3DFaceRecon."""
  a, b = (
    _of_faces(faces.deep3d_cut, network, p, q)
    for p, q in ((window.result, window.points), (window.target, window.target_points))
  )
  aligned = 'aligned on MediaPipe landmarks'
  return {
    'e_rmse': motion.rmse(
      a['expression'], b['expression'], variant=f'Deep3DFaceRecon expression, {aligned}'
    ),
    'p_rmse': motion.rmse(
      a['angles'], b['angles'], variant=f'Deep3DFaceRecon angles in radians, {aligned}'
    ),
  }, {}


def gaze(window: Window, *, network: Network) -> Found:
  """Gaze MAE by L2CS-Net, on squares of 1.25 times the landmarks' box (its authors cut by
  RetinaFace)."""
  cut = functools.partial(faces.box_cut, scale=1.25, size=448)
  a, b = (
    _of_faces(cut, network, p, q)['']
    for p, q in ((window.result, window.points), (window.target, window.target_points))
  )
  variant = 'L2CS-Net of Gaze360, squares about the landmarks'
  return {
    'gaze': motion.gaze_mae(motion.gaze_directions(a), motion.gaze_directions(b), variant=variant)
  }, {}


def own_fit(
  window: Window,
  *,
  head: HeadModel,
  follow_result: Callable,
  follow_target: Callable,
  wanted: tuple[str, ...],
) -> Found:
  """Metrics of our own fit: expression, pose, gaze, deformation; rotations go on to the clip's end
  for HPF.

  `follow_result` and `follow_target`: (points, image size) -> a record as
  `fitting.coefficients.Coefficients`.
  """
  a = follow_result(window.points, window.result.shape[1:3])
  b = follow_target(window.target_points, window.target.shape[1:3])
  jaw = [head.joint('jaw')] if head.has_joint('jaw') else []
  face = lambda c: np.concatenate([c.expression, *(c.pose[:, joint] for joint in jaw)], -1)
  turn = lambda c: _axis_angles(c.rotation)
  what, turns = (
    f'exp_jax fit of {head.name}: {kind}'
    for kind in ('expression, jaw' if jaw else 'expression', 'rotation of the head, radians')
  )
  scores = {
    'aed_fit': motion.aed(face(a), face(b), variant=what),
    'apd_fit': motion.apd(turn(a), turn(b), variant=turns),
    'e_rmse_fit': motion.rmse(face(a), face(b), variant=what),
    'p_rmse_fit': motion.rmse(turn(a), turn(b), variant=turns),
    'gaze_fit': motion.gaze_mae(
      a.gaze, b.gaze, variant=f'exp_jax fit of {head.name}: both eyes, from the irises'
    ),
  }
  if 'hef' in wanted:
    target, swapped, mask = expression_maps(head, b, a)
    scores['hef'] = motion.hef(swapped, target, mask, variant=f'exp_jax fit of {head.name}')
  return {n: s for n, s in scores.items() if n in wanted}, {
    'rotation.result': a.rotation,
    'rotation.target': b.rotation,
  }


def _axis_angles(rotations: np.ndarray) -> np.ndarray:
  """[T, 3, 3] -> [T, 3] radians; NaN stays."""
  from scipy.spatial.transform import Rotation

  known = np.isfinite(rotations).all((1, 2))
  out = np.full((len(rotations), 3), np.nan)
  if known.any():
    out[known] = Rotation.from_matrix(rotations[known]).as_rotvec()
  return out


class Steadiness:
  """Squared second differences of landmarks, and mean changes of the picture, over the borders of
  windows too.

  Its arrays have two rows, and one, less than the clip has frames; points are scaled to a picture
  512 high.
  """

  def __init__(self):
    self._points, self._frame = {}, None

  def __call__(self, window: Window) -> Found:
    scores, arrays = {}, {}
    if window.points is not None:
      seen = np.isfinite(window.points).all((1, 2)).astype(float)
      scores['found'] = mean_score(seen, 'share of frames in which MediaPipe sees the face')
      for name, points, picture in (
        ('result', window.points, window.result),
        ('target', window.target_points, window.target),
      ):
        points = np.concatenate(
          [self._points.get(name, points[:0]), points * (512 / picture.shape[1])]
        )
        self._points[name] = points[-2:]
        arrays[f'second.{name}'] = squared_jitter(points)
    frames = window.result if self._frame is None else np.concatenate([self._frame, window.result])
    self._frame = frames[-1:]
    arrays['changes'] = np.array(
      [np.abs(b.astype(np.float32) - a).mean() / 255 for a, b in zip(frames[:-1], frames[1:])]
    )
    return scores, arrays
