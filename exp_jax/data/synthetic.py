"""Clips that need no download: shaded, turning ellipsoids with eyes and a cap, and their normal
maps.

Orthographic view, image coordinates in [-1, 1], x right, y up, z towards the viewer. A pixel meets
p^T A p = 1 with A = R diag(1 / r^2) R^T where the quadratic in z has a root; the normal is A p,
normalized.

Letters: T frames, H, W pixels.
"""

import dataclasses

import numpy as np
from scipy.spatial.transform import Rotation


def _rotation(yaw, pitch):
  """[3, 3]: first pitch about x, then yaw about y."""
  cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
  about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
  return about_y @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])


def _frame(size, radii, rotation, centre, colors, light):
  """(image, normals, matte): float in [0, 1], [H, W, 3], [H, W, 3], [H, W]."""
  H, W = size
  x = (np.arange(W) + 0.5)[None, :] * 2 / W - 1 - centre[0] + np.zeros((H, 1))
  y = 1 - (np.arange(H) + 0.5)[:, None] * 2 / H - centre[1] + np.zeros((1, W))
  A = rotation @ np.diag(radii**-2.0) @ rotation.T
  b = A[0, 2] * x + A[1, 2] * y
  c = A[0, 0] * x**2 + 2 * A[0, 1] * x * y + A[1, 1] * y**2 - 1
  root = b**2 - A[2, 2] * c
  inside = root > 0
  z = (-b + np.sqrt(np.where(inside, root, 0))) / A[2, 2]
  p = np.stack([x, y, z], -1)
  n = np.einsum('ij,hwj->hwi', A, p)
  n /= np.maximum(np.linalg.norm(n, axis=-1, keepdims=True), 1e-9)
  own = np.einsum('ji,hwj->hwi', rotation, p) / radii  # on the unit sphere of the object
  skin, cap, eye, ground = colors
  albedo = np.where((own[..., 1:2] > 0.45) | (own[..., 2:] < -0.1), cap, skin)
  for side in (-0.4, 0.4):
    spot = np.linalg.norm(own - np.array([side, 0.15, 0.9]), axis=-1, keepdims=True)
    albedo = np.where(spot < 0.18, eye, albedo)
  shade = 0.35 + 0.65 * np.maximum(np.einsum('hwi,i->hw', n, light), 0)[..., None]
  image = np.where(inside[..., None], albedo * shade, ground)
  return image, np.where(inside[..., None], n * 0.5 + 0.5, 0), inside.astype(float)


def synthetic_clip(index: int, *, num_frames: int, height: int, width: int) -> dict:
  """One clip as a record of `data/sources.py`; the same for the same arguments, always.

  The reference is a frame of the same motion that the clip itself does not hold.
  """
  rng = np.random.default_rng(index)
  radii = rng.uniform([0.4, 0.5, 0.4], [0.6, 0.75, 0.6])
  colors = rng.uniform(0.1, 1.0, (4, 3)) * np.array([[1], [0.7], [0.4], [1]])
  light = rng.normal(size=3) * 0.5 + np.array([0, 0.3, 1])
  light /= np.linalg.norm(light)
  phase, speed = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.1, 0.25, 3)
  frames, turns = [], []
  for t in range(num_frames + 1):
    yaw, pitch, drift = np.sin(phase + speed * 3 * t) * np.array([0.7, 0.3, 0.15])
    turns.append(_rotation(yaw, pitch))
    frames.append(_frame((height, width), radii, turns[-1], (drift, 0.0), colors, light))
  image, normals, matte = ((np.stack(x) * 255 + 0.5).astype(np.uint8) for x in zip(*frames))
  return dict(
    video=image[1:],
    normals=normals[1:],
    matte=matte[1:],
    reference=image[0],
    reference_normals=normals[0],
    turns=Rotation.from_matrix(turns[1:]).as_rotvec().astype(np.float32),
    offsets='full',
    clip_id=f'ellipsoid_{index:05d}',
    subject_id=f'ellipsoid_{index:05d}',
  )


@dataclasses.dataclass(frozen=True)
class SyntheticClips:
  """A random-access source of `count` clips."""

  num_frames: int
  height: int
  width: int
  count: int = 64

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    return synthetic_clip(index, num_frames=self.num_frames, height=self.height, width=self.width)
