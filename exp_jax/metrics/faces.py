"""Faces cut out of pictures as the networks behind metrics expect them, from MediaPipe's 478 landmarks.

Pixels: the top-left one has its centre at (0.5, 0.5). Published alignments put it at (0, 0); half a pixel is added to them
here. Letters: K points.
"""

import numpy as np

from exp_jax.geometry import similarity
from exp_jax.media.squares import cut_bytes, head_place

# Right and left eye (of the picture: left and right), nose, mouth corners, on 112 x 112: insightface's alignment.
ARCFACE_POINTS = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
                           [70.7299, 92.2041]]) + 0.5
# The same five on the standard face of Deep3DFaceRecon, y up.
DEEP3D_POINTS = np.array([[-0.31148657, 0.29036078, 0.13377953], [0.30979887, 0.28972036, 0.13179526],
                          [0.0032535, -0.04617932, 0.55244243], [-0.25216928, -0.38133916, 0.22405732],
                          [0.2484662, -0.38128236, 0.22235769]])
EYES = ((33, 133, 159, 145), (362, 263, 386, 374))      # corners and lids; irises would follow the gaze
NOSE, MOUTH = 1, (61, 291)


def five_points(landmarks: np.ndarray) -> np.ndarray:
  """[..., 478, 2] -> [..., 5, 2]: eyes, tip of the nose, corners of the mouth, those on the picture's left first."""
  eyes = [landmarks[..., list(ids), :].mean(-2) for ids in EYES]
  return np.stack([*eyes, landmarks[..., NOSE, :], *(landmarks[..., i, :] for i in MOUTH)], -2)


def similarity_matrix(points: np.ndarray, target: np.ndarray) -> np.ndarray:
  """[2, 3] the scaled rotation and shift that best moves points [K, 2] onto target [K, 2]; see `geometry.similarity`."""
  scale, rotation, shift = similarity(points, target)
  return np.concatenate([scale * rotation, shift[:, None]], 1)


def arcface_cut(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
  """The aligned face, uint8 [112, 112, 3]."""
  return cut_bytes(image, similarity_matrix(five_points(landmarks), ARCFACE_POINTS), 112)


def box_matrix(landmarks: np.ndarray, *, scale: float, size: int) -> np.ndarray:
  """[2, 3] of the upright square of `scale` times the landmarks' box (mean of its sides), as SMIRK cuts it."""
  low, high = landmarks.min(-2), landmarks.max(-2)
  side = scale * (high - low).mean()
  factor = size / side
  return np.array([[factor, 0, size / 2], [0, factor, size / 2]]) - factor * np.outer([1, 1], [0, 0, 1]) * (
    (low + high) / 2)[:, None]


def box_cut(image: np.ndarray, landmarks: np.ndarray, *, scale: float, size: int) -> np.ndarray:
  """That square, uint8 [size, size, 3]; landmarks [478, 2] (the skin's 468 make the box)."""
  return cut_bytes(image, box_matrix(landmarks[:468], scale=scale, size=size), size)


def deep3d_cut(image: np.ndarray, landmarks: np.ndarray, *, size: int = 224, scale: float = 102.0) -> np.ndarray:
  """The upright square in which the five points have the scale of the standard face, uint8 [size, size, 3].

  Scaled orthography by least squares (rotation absorbs the rest); source: preprocessing of Deep3DFaceRecon.
  """
  points = five_points(landmarks) * [1, -1]                                     # y up
  standard = np.concatenate([DEEP3D_POINTS, np.ones((5, 1))], 1)
  rows = np.linalg.lstsq(standard, points, rcond=None)[0].T                     # [2, 4]: two scaled rows, shift
  factor = scale / np.mean(np.linalg.norm(rows[:, :3], axis=1))
  center = rows[:, 3] * [1, -1]
  return cut_bytes(image, np.array([[factor, 0, size / 2 - factor * center[0]], [0, factor, size / 2 - factor * center[1]]]), size)


def face_square(points: np.ndarray, image_size: tuple[int, int]) -> tuple[float, float, float]:
  """(left, top, side) of one square about the head in all frames, inside the picture.

  Args:
    points: [T, 478, 2] pixels, NaN in frames without a face.
    image_size: (height, width).

  Raises:
    ValueError: no face in any frame.
  """
  seen = points[np.isfinite(points).all((1, 2))][:, :468]
  if not len(seen):
    raise ValueError('no face in any frame')
  middle, lift, side = head_place(seen)
  side = min(side, *image_size)
  left, top = np.clip(middle - [side / 2, side / 2 + lift], 0, np.array(image_size[::-1]) - side)
  return float(left), float(top), float(side)
