"""Normals, relative depth and foreground of every pixel, by ONNX networks that the user has
downloaded.

  DAViD (microsoft/DAViD, MIT): multi-task-model-*.onnx, or its depth-, normal- and
    foreground-segmentation-model-*.onnx. Input 1 x 3 x 512 x 512 float32, BGR in 0..1, the picture
    padded to a square by repeating its border; outputs depth, normals, foreground in that order.
  MoGe-2 (microsoft/MoGe, MIT): moge-2-vit*-normal-onnx. Inputs image 1 x 3 x H x W float32, RGB in
    0..1, and num_tokens (absent in static exports); outputs points, normal, mask, metric_scale.

Both give depth that grows away from the camera up to scale and shift, which is how an Observation
keeps it. In which sense the axes of the normals point is found from the maps (`guess_signs`) or
from rendered normals
(`calibrate_signs`): what is seen faces the viewer, and a head is round. onnxruntime is an optional
extra.
"""

import dataclasses
import itertools
import os
import pathlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.digests import file_digest
from exp_jax.observe.maps.resample import halved, resize_cubic, resize_linear

_SIDE = 512  # of DAViD's input
_PARTS = {  # kind -> what its outputs are, in order
  'david-multi': ('depth', 'normals', 'foreground'),
  'david-depth': ('depth',),
  'david-normal': ('normals',),
  'david-foreground': ('foreground',),
  'moge': ('points', 'normal', 'mask'),
}
_NAMES = {'david': 'DAViD', 'moge': 'MoGe-2'}


@dataclasses.dataclass(frozen=True)
class MapEstimator:
  """A loaded network; call it with a picture.

  kind: a key of `_PARTS`. session: has get_inputs, get_outputs and run, as onnxruntime's has.
  digest: sha256 of the file. num_tokens: of MoGe, 1200..3600; more is finer and slower.
  signs: that turn the network's axes into those of an Observation; None: found from its maps.
  """

  kind: str
  session: object
  digest: str
  name: str
  licence: str = 'MIT'
  num_tokens: int = 1800
  signs: tuple[int, int, int] | None = None

  def __call__(self, image: np.ndarray, points: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """uint8 RGB [H, W, 3] -> some of normals [H, W, 3] (network's axes), depth, foreground, weights
    [H, W].

    Landmarks `points` [K, 2] are what other estimators look at more closely; these networks see the
    whole picture.
    """
    del points
    if self.kind == 'moge':
      return self._moge(image)
    tensor, frame = david_input(image)
    outputs = self.session.run(None, {self.session.get_inputs()[0].name: tensor})
    parts = _PARTS[self.kind]
    if len(outputs) < len(parts):
      raise UserError(f'{self.name} gave {len(outputs)} outputs, {len(parts)} were expected')
    return {part: david_output(part, value, frame) for part, value in zip(parts, outputs)}

  def _moge(self, image):
    inputs = {i.name: i for i in self.session.get_inputs()}
    shape = inputs['image'].shape
    size = tuple(n if isinstance(n, int) and n > 0 else m for n, m in zip(shape[2:], image.shape))
    feed = {'image': moge_input(image, size)}
    if 'num_tokens' in inputs:
      feed['num_tokens'] = np.array(self.num_tokens, np.int64)
    names = [output.name for output in self.session.get_outputs()]
    return moge_output(dict(zip(names, self.session.run(None, feed))), image.shape[:2])


def david_input(image: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
  """uint8 RGB [H, W, 3] -> float32 BGR [1, 3, 512, 512] in 0..1, and (H, W, rows, columns padded
  before)."""
  height, width = image.shape[:2]
  side = max(height, width)
  top, left = (side - height) // 2, (side - width) // 2
  values = image[..., ::-1].astype(np.float32) / 255
  values = np.pad(values, ((top, side - height - top), (left, side - width - left), (0, 0)), 'edge')
  while values.shape[0] > 3 * _SIDE:
    values = halved(values)
  values = resize_linear(values, (_SIDE, _SIDE))
  return np.ascontiguousarray(values.transpose(2, 0, 1)[None]), (height, width, top, left)


def david_output(part: str, value: np.ndarray, frame: tuple[int, ...]) -> np.ndarray:
  """One output of the network -> normals [H, W, 3] unit, depth [H, W], or foreground [H, W] in
  0..1."""
  height, width, top, left = frame
  channels = 3 if part == 'normals' else 1
  if value.size != channels * _SIDE**2:
    raise UserError(
      f'the network gave {part} of shape {list(value.shape)}, {channels} x {_SIDE} x {_SIDE} was '
      'expected; is it the right file?'
    )
  square = value.reshape(channels, _SIDE, _SIDE).transpose(1, 2, 0)
  square = resize_cubic(square, (max(height, width),) * 2)
  found = square[top : top + height, left : left + width]
  if part == 'normals':
    length = np.linalg.norm(found, axis=-1, keepdims=True)
    return found / np.where(length > 1e-8, length, 1)
  return found[..., 0] if part == 'depth' else np.clip(found[..., 0], 0, 1)


def moge_input(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """uint8 RGB [H, W, 3] -> float32 RGB [1, 3, *size] in 0..1."""
  values = image.astype(np.float32) / 255
  if values.shape[:2] != size:
    values = resize_linear(values, size)
  return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def moge_output(outputs: dict[str, np.ndarray], size: tuple[int, int]) -> dict[str, np.ndarray]:
  """points [1, h, w, 3], normal [1, h, w, 3], mask [1, h, w] -> normals, depth, weights at
  `size`."""
  found = {}
  for key, channels in (('points', 3), ('normal', 3), ('mask', 1)):
    value = np.asarray(outputs[key], np.float32)
    if value.ndim != (4 if channels == 3 else 3) or (channels == 3 and value.shape[-1] != 3):
      raise UserError(f'MoGe-2 gave {key} of shape {list(value.shape)}; is it the right file?')
    found[key] = value[0] if value.shape[1:3] == size else resize_linear(value[0], size)
  length = np.linalg.norm(found['normal'], axis=-1, keepdims=True)
  return {
    'normals': found['normal'] / np.where(length > 1e-8, length, 1),
    'depth': found['points'][..., 2],
    'weights': np.clip(found['mask'], 0, 1),
  }


def load_map_estimator(
  path: str | os.PathLike, *, kind: str | None = None, session=None, num_tokens: int = 1800
) -> MapEstimator:
  """Opens a network file and checks that it is one of the known ones.

  Args:
    kind: 'david-multi', 'david-depth', 'david-normal', 'david-foreground' or 'moge'; None: recognised by
      the outputs, and where those are alike by the file's name.
    session: instead of one of onnxruntime, for tests.

  Raises:
    UserError: no such file, onnxruntime is not installed, not an ONNX file, or another network.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f'no such network file: {path}')
  digest = file_digest(path)
  if session is None:
    try:
      import onnxruntime  # an optional extra
    except ImportError:
      raise UserError(
        f'{path.name} needs onnxruntime, which is not installed; run `pip install onnxruntime`'
      ) from None
    try:
      session = onnxruntime.InferenceSession(
        str(path), providers=onnxruntime.get_available_providers()
      )
    except Exception as error:  # its exceptions share no base but Exception
      line = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
      raise UserError(f'{path} cannot be opened as an ONNX network: {line}') from None
  kind = _check(session, path, kind)
  family = _NAMES[kind.split('-')[0]]
  return MapEstimator(kind, session, digest, f'{family} {path.name}', num_tokens=num_tokens)


def _check(session, path, kind) -> str:
  """The kind of network, or a UserError that says what was found."""
  inputs = {i.name: list(i.shape) for i in session.get_inputs()}
  outputs = {o.name: list(o.shape) for o in session.get_outputs()}
  found = f'it has inputs {inputs} and outputs {outputs}'
  known = lambda: UserError(
    f'{path} is neither a DAViD nor a MoGe-2 network with normals: {found}; see the files that '
    'docs/guides/fit.md names'
  )
  if kind is not None and kind not in _PARTS:
    raise UserError(f'there is no kind of network {kind!r}; use one of {sorted(_PARTS)}')
  if set(_PARTS['moge']) <= set(outputs) and len(inputs.get('image', ())) == 4:
    guess = 'moge'
  else:
    shape = next(iter(inputs.values()), [])
    fits = (
      len(inputs) == 1
      and len(shape) == 4
      and all(
        not isinstance(n, int) or n < 0 or n == wanted
        for n, wanted in zip(shape, (1, 3, _SIDE, _SIDE))
      )
    )
    channels = [_channels(s) for s in outputs.values()]
    if not fits or None in channels:
      raise known()
    if channels == [1, 3, 1]:
      guess = 'david-multi'
    elif channels == [3]:
      guess = 'david-normal'
    elif channels == [1]:
      guess = 'david-foreground' if 'foreground' in path.name.lower() else 'david-depth'
      if kind in ('david-foreground', 'david-depth'):
        guess = kind
    else:
      raise known()
  if kind is not None and kind != guess:
    raise UserError(f'{path} is not a {kind} network but looks like {guess}: {found}')
  return guess


def _channels(shape) -> int | None:
  """1 or 3, of an output [1, 512, 512], [1, C, 512, 512]; None for anything else."""
  if len(shape) not in (3, 4) or any(
    isinstance(n, int) and n > 0 and n != _SIDE for n in shape[-2:]
  ):
    return None
  channels = 1 if len(shape) == 3 else shape[1]
  return channels if channels in (1, 3) else None


def calibrate_signs(
  normals: np.ndarray, rendered: np.ndarray, weights: np.ndarray
) -> tuple[int, int, int]:
  """Signs of x, y, z that turn estimated normals most nearly into rendered ones.

  Args:
    normals, rendered: [..., 3]; rendered ones are in the frame of an Observation.
    weights: [...], 0 where either is unknown.
  """
  # the cosine is a sum over axes
  product = np.asarray(normals, np.float64) * rendered * np.asarray(weights)[..., None]
  share = product.reshape(-1, 3).sum(0)
  return max(itertools.product((1, -1), repeat=3), key=lambda signs: float(np.dot(signs, share)))


def guess_signs(
  normals: np.ndarray, weights: np.ndarray, points: np.ndarray
) -> tuple[tuple[int, int, int], float]:
  """Signs of x, y, z by which a face seen from the front is round and faces the viewer.

  The seen side faces the viewer (z), leans right on the right (x) and up at the top (y). Only an
  ellipse in
  the box of the landmarks is looked at: shoulders lean up at the bottom and would mislead.

  Args:
    normals: [T, H, W, 3]. weights: [T, H, W], how far they are believed.
    points: [T, K, 2] landmarks of the face, pixels.

  Returns:
    the signs, and how sure: the smallest of |mean z| and the two |correlations|, in 0..1.
  """
  low, high = points.min(1), points.max(1)
  middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1)
  rows, columns = (np.arange(n) + 0.5 for n in weights.shape[1:])
  x = ((columns[None] - middle[:, :1]) / half[:, :1])[:, None, :]  # [T, 1, W]
  y = ((middle[:, 1:] - rows[None]) / half[:, 1:])[:, :, None]  # [T, H, 1]
  inside = x**2 + y**2 < 1
  weights, normals = (
    np.asarray(weights, np.float64)[inside],
    np.asarray(normals, np.float64)[inside],
  )
  if weights.sum() <= 0:
    return (1, 1, 1), 0.0
  mean = lambda values: float(np.average(values, weights=weights))
  measures = []
  for value, place in zip(normals.T, (x, y)):
    place = np.broadcast_to(place, inside.shape)[inside]
    value, place = value - mean(value), place - mean(place)
    spread = np.sqrt(mean(value**2) * mean(place**2))
    measures.append(mean(value * place) / spread if spread > 1e-12 else 0.0)
  measures.append(mean(normals[:, 2]))
  return tuple(-1 if m < 0 else 1 for m in measures), float(min(abs(m) for m in measures))
