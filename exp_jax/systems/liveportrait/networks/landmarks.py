"""Landmarks as LivePortrait uses them: where to crop, and how far eyes and lips are open.

Any of these numberings, told apart by the number of points; pixels whose centres are at whole
numbers:

| N | who | eyes from | mouth from | openness |
|---|---|---|---|---|
| 478 | MediaPipe (default; Apache-2.0) | `MEDIAPIPE` below | below | yes |
| 203 | LivePortrait's own network | 0,6,12,18; 24,30,36,42 | 48, 66 | yes |
| 106 | InsightFace's 2d106det | 33,35,40,39; 87,89,94,93 | 52, 61 | no |
| 101 | | 39,42,45,48; 51,54,57,60 | 75, 81 | no |
| 68 | iBUG | 36,39; 42,45 | 48, 54 | no |
| 5 | | 0; 1 | 3, 4 | no |
| 9 | X-Pose, animals | 2,3; 0,1 | 5, 6 | no |

MediaPipe's points are mapped by meaning: the corners and lids of the eyes, the corners and inner
edges of the lips. Its mesh
reaches up to the hair line, which the other sets do not: the extent of a face is taken from the
jaw, the brows, the eyes, the nose and the lips, as the published crops were.

The 203-point network runs from the user's own file (`--landmarks landmark.onnx`, with onnxruntime),
started by MediaPipe.
Letters: T frames, N points.
"""

import pathlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.media.squares import Square
from exp_jax.systems.liveportrait.crop import cut, square_about

LAYOUTS = {  # N: left eye, right eye (the viewer's), mouth
  203: ((0, 6, 12, 18), (24, 30, 36, 42), (48, 66)),
  106: ((33, 35, 40, 39), (87, 89, 94, 93), (52, 61)),
  101: ((39, 42, 45, 48), (51, 54, 57, 60), (75, 81)),
  68: ((36, 39), (42, 45), (48, 54)),
  5: ((0,), (1,), (3, 4)),
  9: ((2, 3), (0, 1), (5, 6)),
  478: ((33, 159, 133, 145), (362, 386, 263, 374), (61, 291)),
}
# (upper, lower, corner, corner) of the left eye, the right eye and the lips
_OPENNESS = {
  203: ((6, 18, 0, 12), (30, 42, 24, 36), (90, 102, 48, 66)),
  478: ((159, 145, 33, 133), (386, 374, 362, 263), (13, 14, 61, 291)),
}
# of MediaPipe's mesh: jaw from ear to ear, brows, eyes, nose, lips
MEDIAPIPE = (
  127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 356,
  46, 53, 52, 65, 55, 70, 63, 105, 66, 107, 276, 283, 282, 295, 285, 300, 293, 334, 296, 336,
  33, 160, 159, 158, 133, 153, 145, 144, 362, 385, 386, 387, 263, 373, 374, 380,
  168, 6, 197, 195, 5, 4, 1, 2, 98, 327, 48, 278, 61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, 78, 13, 308, 14)  # fmt: skip
CROPS = {  # (scale, vx, vy, rotate) of the published pipeline
  'source': (2.3, 0.0, -0.125, True),
  'driving': (2.2, 0.0, -0.1, False),
  'runner': (1.5, 0.0, -0.1, True),
}


def _check(points: np.ndarray) -> np.ndarray:
  if points.ndim < 2 or points.shape[-2] not in LAYOUTS or points.shape[-1] != 2:
    raise UserError(
      f'landmarks of shape {list(points.shape)} are not known; give [N, 2] with N one of '
      f'{sorted(LAYOUTS)}'
    )
  return np.asarray(points, np.float64)


def anchors(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """[N, 2] -> the points midway between the eyes and midway between the mouth's corners."""
  points = _check(points)
  left, right, mouth = LAYOUTS[points.shape[-2]]
  return (points[list(left)].mean(0) + points[list(right)].mean(0)) / 2, points[list(mouth)].mean(0)


def square_of(
  points: np.ndarray,
  kind: str = 'source',
  *,
  scale: float | None = None,
  vx: float | None = None,
  vy: float | None = None,
) -> Square:
  """The square to crop about landmarks [N, 2]; `kind` as in `CROPS`, any number replaced."""
  usual = CROPS[kind]
  eyes, mouth = anchors(points)
  points = points[list(MEDIAPIPE)] if len(points) == 478 else points
  return square_about(
    points,
    eyes,
    mouth,
    scale=usual[0] if scale is None else scale,
    vx=usual[1] if vx is None else vx,
    vy=usual[2] if vy is None else vy,
  )


def openness(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """How open eyes and lips are: the lids' distance over the eye's width, and the same of the lips.

  Args:
    points: [..., N, 2] with N 203 or 478.

  Returns:
    eyes: [..., 2] float32, the viewer's left and right. lip: [...] float32.

  Raises:
    UserError: for a numbering without lids.
  """
  points = _check(points)
  if points.shape[-2] not in _OPENNESS:
    raise UserError(
      f'the openness of eyes and lips is not to be had from {points.shape[-2]} landmarks; give 203 '
      'or 478'
    )
  apart = lambda i, j: np.linalg.norm(points[..., i, :] - points[..., j, :], axis=-1)
  ratios = [apart(a, b) / (apart(c, d) + 1e-6) for a, b, c, d in _OPENNESS[points.shape[-2]]]
  return np.stack(ratios[:2], -1).astype(np.float32), ratios[2].astype(np.float32)


def has_openness(points: np.ndarray) -> bool:
  """Whether `openness` knows this numbering."""
  return points.shape[-2] in _OPENNESS


class DenseLandmarks:
  """LivePortrait's 203-point network, from the user's file: (image, points to start from) -> [203,
  2] pixels.

  Args:
    path: landmark.onnx. session: anything with run(names, {'input': [1, 3, 224, 224]}) -> outputs;
      None: onnxruntime.

  Raises:
    UserError: no such file, or onnxruntime is not installed.
  """

  def __init__(self, path=None, session=None):
    if session is None:
      if not pathlib.Path(path).is_file():
        raise UserError(f'there is no landmark network {str(path)!r}')
      try:
        import onnxruntime
      except ImportError:
        raise UserError(
          "--landmarks needs onnxruntime: pip install 'exp_jax[estimators]'"
        ) from None
      try:
        session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
      except Exception as error:
        raise UserError(f'{str(path)!r} is no ONNX network: {str(error).splitlines()[0]}') from None
    self._session = session

  def __call__(self, image: np.ndarray, start: np.ndarray) -> np.ndarray:
    size = 224
    matrix = square_of(start, 'runner').matrix(size)
    pixels = np.clip(np.rint(cut(image, matrix, size)), 0, 255).astype(np.float32) / 255
    outputs = self._session.run(None, {'input': pixels.transpose(2, 0, 1)[None]})
    points = np.asarray(outputs[2], np.float64).reshape(-1, 2)  # the third output, as published
    if len(points) != 203:
      raise UserError(f'the landmark network answers with {len(points)} points, 203 were expected')
    return (np.concatenate([points * size, np.ones((203, 1))], 1) @ np.linalg.inv(matrix).T)[:, :2]


def read_landmarks(path) -> np.ndarray:
  """Landmarks of one's own: an .npz with `points`, [N, 2] or [T, N, 2], NaN where no face was
  seen -> [T, N, 2].

  Raises:
    UserError: no such file, no points, or an unknown number of them.
  """
  from exp_jax.files import npz

  arrays = npz.read_npz(path)
  if 'points' not in arrays or arrays['points'].ndim not in (2, 3):
    raise UserError(f'{path} has no array `points` of [N, 2] or [T, N, 2]')
  return _check(arrays['points'].reshape(-1, *arrays['points'].shape[-2:]))
