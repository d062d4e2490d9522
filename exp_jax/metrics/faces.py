"""Faces cut out of pictures as the networks behind metrics expect them, from MediaPipe's 478
landmarks.

Pixels: the top-left one has its centre at (0.5, 0.5). Published alignments put it at (0, 0); half a
pixel is added to them
here. Letters: K points.
"""

import numpy as np

from exp_jax.geometry import similarity
from exp_jax.media.squares import cut_bytes, head_place

# Right and left eye (of the picture: left and right), nose, mouth corners, on 112 x 112:
# insightface's alignment.
ARCFACE_POINTS = (
  np.array(
    [
      [38.2946, 51.6963],
      [73.5318, 51.5014],
      [56.0252, 71.7366],
      [41.5493, 92.3655],
      [70.7299, 92.2041],
    ]
  )
  + 0.5
)
# The same five on the standard face of Deep3DFaceRecon, y up.
DEEP3D_POINTS = np.array(
  [
    [-0.31148657, 0.29036078, 0.13377953],
    [0.30979887, 0.28972036, 0.13179526],
    [0.0032535, -0.04617932, 0.55244243],
    [-0.25216928, -0.38133916, 0.22405732],
    [0.2484662, -0.38128236, 0.22235769],
  ]
)
# Corners of the eyes (outer, inner; of the picture's right eye first) and the base of the nose:
# dlib's five points, on its face of side 1, which fills the middle two thirds of a chip; pixels of
# dlib, with their centres at integers.
DLIB_POINTS = (
  (
    np.array(
      [
        [0.8595674595992, 0.2134981538014],
        [0.6460604764104, 0.2289674387677],
        [0.1205750620789, 0.2137274526848],
        [0.3340850613712, 0.2290642403242],
        [0.4901123135679, 0.6277975316475],
      ]
    )
    + 0.25
  )
  / 1.5
  * 150
)
DLIB_IDS = (263, 362, 33, 133, 2)  # the same in MediaPipe's landmarks
EYES = ((33, 133, 159, 145), (362, 263, 386, 374))  # corners and lids; irises would follow the gaze
NOSE, MOUTH = 1, (61, 291)


def five_points(landmarks: np.ndarray) -> np.ndarray:
  """[..., 478, 2] -> [..., 5, 2]: eyes, tip of the nose, corners of the mouth, those on the
  picture's left first."""
  eyes = [landmarks[..., list(ids), :].mean(-2) for ids in EYES]
  return np.stack([*eyes, landmarks[..., NOSE, :], *(landmarks[..., i, :] for i in MOUTH)], -2)


def similarity_matrix(points: np.ndarray, target: np.ndarray) -> np.ndarray:
  """[2, 3] the scaled rotation and shift that best moves points [K, 2] onto target [K, 2]; see
  `geometry.similarity`."""
  scale, rotation, shift = similarity(points, target)
  return np.concatenate([scale * rotation, shift[:, None]], 1)


def arcface_cut(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
  """The aligned face, uint8 [112, 112, 3]."""
  return cut_bytes(image, similarity_matrix(five_points(landmarks), ARCFACE_POINTS), 112)


def dlib_matrix(landmarks: np.ndarray) -> np.ndarray:
  """[2, 3] pixels of dlib's upright face, 150 x 150, -> pixels of the picture; landmarks [478, 2].

  As dlib's get_face_chip_details with a padding of 0.25 and five points, in whose place MediaPipe's
  are taken. Least squares are those in the picture, and the square is a pixel smaller than its 150
  pixels are, with half a pixel of it on each side: all as there.
  """
  matrix = similarity_matrix(DLIB_POINTS, landmarks[..., DLIB_IDS, :] - 0.5)
  middle, scale = matrix @ [75, 75, 1], np.hypot(*matrix[:, 0])
  turn = matrix[:, :2] / scale * (150 * scale - 1) / 149
  # chip pixel 74.5 of dlib is 75 here
  return np.concatenate([turn, (middle + 0.5 - turn @ [75, 75])[:, None]], 1)


def dlib_cut(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
  """The upright face as dlib's network expects it, uint8 [150, 150, 3]; landmarks [478, 2].

  A face of twice that size or more is halved before, as often as that is so. dlib halves what is
  about it in the picture, so that the pixels that remain follow from where that begins. dlib takes
  what is left to lie a quarter of a pixel to the left and a quarter lower than it does, and so does
  this. Beyond the picture all is black; dlib begins with that up to two pixels earlier.
  """
  matrix, size, margin, times = dlib_matrix(landmarks), 150, 2, 0
  side = 149 * np.hypot(*matrix[:, 0]) + 1
  while (side + 1) / 2 > size:
    side, margin, times = (side + 1) / 2, 2 * margin + 2, times + 1
  # dlib's pixels
  corners = (
    matrix[:, :2] @ [[0.5, 149.5, 0.5, 149.5], [0.5, 0.5, 149.5, 149.5]] + matrix[:, 2:] - 0.5
  )
  low = np.clip(np.floor(corners.min(1) - margin + 0.5), 0, None).astype(int)
  high = np.clip(np.floor(corners.max(1) + margin + 0.5), 0, None).astype(int) + 1
  part = image[low[1] : high[1], low[0] : high[0]]
  matrix = matrix - np.concatenate([np.zeros((2, 2)), low[:, None]], 1)
  for _ in range(times):
    if min(part.shape[:2]) > 8:
      part, matrix = _halved(part), matrix / 2 - [[0, 0, 1], [0, 0, 0.5]]
  if min(part.shape[:2]) < 1:
    return np.zeros((size, size, 3), np.uint8)
  inverse = np.linalg.inv(np.concatenate([matrix, [[0, 0, 1]]]))[:2]
  return cut_bytes(part, inverse, size)


def _halved(image: np.ndarray) -> np.ndarray:
  """Every second pixel of uint8 [H, W, 3], from the third on, after the binomial filter 1 4 6 4 1,
  as in dlib's pyramids."""
  found = image.astype(np.float32)
  for _ in range(2):
    first, second, third, fourth, fifth = (found[k : len(found) - 4 + k : 2] for k in range(5))
    found = np.swapaxes((first + fifth + 4 * (second + fourth) + 6 * third) / 16, 0, 1)
  return found.astype(np.uint8)  # cut off and not rounded, as there


def box_matrix(landmarks: np.ndarray, *, scale: float, size: int) -> np.ndarray:
  """[2, 3] of the upright square of `scale` times the landmarks' box (mean of its sides), as SMIRK
  cuts it."""
  low, high = landmarks.min(-2), landmarks.max(-2)
  side = scale * (high - low).mean()
  factor = size / side
  return (
    np.array([[factor, 0, size / 2], [0, factor, size / 2]])
    - factor * np.outer([1, 1], [0, 0, 1]) * ((low + high) / 2)[:, None]
  )


def box_cut(image: np.ndarray, landmarks: np.ndarray, *, scale: float, size: int) -> np.ndarray:
  """That square, uint8 [size, size, 3]; landmarks [478, 2] (the skin's 468 make the box)."""
  return cut_bytes(image, box_matrix(landmarks[:468], scale=scale, size=size), size)


def deep3d_cut(
  image: np.ndarray, landmarks: np.ndarray, *, size: int = 224, scale: float = 102.0
) -> np.ndarray:
  """The upright square in which the five points have the scale of the standard face, uint8 [size,
  size, 3].

  Scaled orthography by least squares (rotation absorbs the rest); source: preprocessing of
  Deep3DFaceRecon.
  """
  points = five_points(landmarks) * [1, -1]  # y up
  standard = np.concatenate([DEEP3D_POINTS, np.ones((5, 1))], 1)
  rows = np.linalg.lstsq(standard, points, rcond=None)[0].T  # [2, 4]: two scaled rows, shift
  factor = scale / np.mean(np.linalg.norm(rows[:, :3], axis=1))
  center = rows[:, 3] * [1, -1]
  return cut_bytes(
    image,
    np.array(
      [[factor, 0, size / 2 - factor * center[0]], [0, factor, size / 2 - factor * center[1]]]
    ),
    size,
  )


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
