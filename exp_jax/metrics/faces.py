"""Faces cut out of pictures as the networks behind metrics expect them, from MediaPipe's 478 landmarks.

Pixels: the top-left one has its centre at (0.5, 0.5). Published alignments put it at (0, 0); half a pixel is added to them
here. Letters: K points.
"""

import numpy as np
from PIL import Image

from exp_jax.geometry import similarity
from exp_jax.media.paste import upright_square

# Right and left eye (of the picture: left and right), nose, mouth corners, on 112 x 112: insightface's alignment.
ARCFACE_POINTS = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
                           [70.7299, 92.2041]]) + 0.5
# The same five on the standard face of Deep3DFaceRecon, y up.
DEEP3D_POINTS = np.array([[-0.31148657, 0.29036078, 0.13377953], [0.30979887, 0.28972036, 0.13179526],
                          [0.0032535, -0.04617932, 0.55244243], [-0.25216928, -0.38133916, 0.22405732],
                          [0.2484662, -0.38128236, 0.22235769]])
_EYES = ((33, 133, 159, 145), (362, 263, 386, 374))      # corners and lids; irises would follow the gaze
_NOSE, _MOUTH = 1, (61, 291)


def five_points(landmarks: np.ndarray) -> np.ndarray:
  """[..., 478, 2] -> [..., 5, 2]: eyes, tip of the nose, corners of the mouth, those on the picture's left first."""
  eyes = [landmarks[..., list(ids), :].mean(-2) for ids in _EYES]
  return np.stack([*eyes, landmarks[..., _NOSE, :], *(landmarks[..., i, :] for i in _MOUTH)], -2)


def similarity_matrix(points: np.ndarray, target: np.ndarray) -> np.ndarray:
  """[2, 3] the scaled rotation and shift that best moves points [K, 2] onto target [K, 2]; see `geometry.similarity`."""
  scale, rotation, shift = similarity(points, target)
  return np.concatenate([scale * rotation, shift[:, None]], 1)


def cut(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
  """Picture uint8 [H, W, 3] through `matrix` [2, 3] (picture -> cut), bilinear, black outside -> uint8 [size, size, 3]."""
  inverse = np.linalg.inv(np.concatenate([matrix, [[0, 0, 1]]]))[:2]
  return np.asarray(Image.fromarray(image).transform((size, size), Image.Transform.AFFINE, inverse.reshape(-1),
                                                     Image.Resampling.BILINEAR))


def arcface_cut(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
  """The aligned face, uint8 [112, 112, 3]."""
  return cut(image, similarity_matrix(five_points(landmarks), ARCFACE_POINTS), 112)


def box_matrix(landmarks: np.ndarray, *, scale: float, size: int) -> np.ndarray:
  """[2, 3] of the upright square of `scale` times the landmarks' box (mean of its sides), as SMIRK cuts it."""
  low, high = landmarks.min(-2), landmarks.max(-2)
  side = scale * (high - low).mean()
  factor = size / side
  return np.array([[factor, 0, size / 2], [0, factor, size / 2]]) - factor * np.outer([1, 1], [0, 0, 1]) * (
    (low + high) / 2)[:, None]


def box_cut(image: np.ndarray, landmarks: np.ndarray, *, scale: float, size: int) -> np.ndarray:
  """That square, uint8 [size, size, 3]; landmarks [478, 2] (the skin's 468 make the box)."""
  return cut(image, box_matrix(landmarks[:468], scale=scale, size=size), size)


def deep3d_cut(image: np.ndarray, landmarks: np.ndarray, *, size: int = 224, scale: float = 102.0) -> np.ndarray:
  """The upright square in which the five points have the scale of the standard face, uint8 [size, size, 3].

  Scaled orthography by least squares (rotation absorbs the rest); source: preprocessing of Deep3DFaceRecon.
  """
  points = five_points(landmarks) * [1, -1]                                     # y up
  standard = np.concatenate([DEEP3D_POINTS, np.ones((5, 1))], 1)
  rows = np.linalg.lstsq(standard, points, rcond=None)[0].T                     # [2, 4]: two scaled rows, shift
  factor = scale / np.mean(np.linalg.norm(rows[:, :3], axis=1))
  center = rows[:, 3] * [1, -1]
  return cut(image, np.array([[factor, 0, size / 2 - factor * center[0]], [0, factor, size / 2 - factor * center[1]]]), size)


def face_square(points: np.ndarray, image_size: tuple[int, int], *, scale: float = 2.1, up: float = 0.12
                ) -> tuple[float, float, float]:
  """(left, top, side) of one square about the head in all frames, inside the picture.

  Args:
    points: [T, 478, 2] pixels, NaN in frames without a face.
    image_size: (height, width).
    scale: side in face heights. up: shift of the centre towards the hair, in face heights.

  Raises:
    ValueError: no face in any frame.
  """
  seen = points[np.isfinite(points).all((1, 2))][:, :468]
  if not len(seen):
    raise ValueError('no face in any frame')
  face = np.median((seen.max(1) - seen.min(1)).max(-1))
  low, high = seen.min((0, 1)), seen.max((0, 1))
  side = min(max(scale * face, 1.25 * (high - low).max()), *image_size)
  corner = (low + high) / 2 - [side / 2, side / 2 + up * face]
  left, top = np.clip(corner, 0, np.array(image_size[::-1]) - side)
  return float(left), float(top), float(side)


def cut_square(image: np.ndarray, square: tuple[float, float, float], size: int) -> np.ndarray:
  """That part of uint8 [H, W, 3], resampled with antialiasing -> uint8 [size, size, 3]."""
  left, top, side = square
  return upright_square(image, left=left, top=top, side=side, size=size)
