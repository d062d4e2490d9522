"""The subject file: one person in one clip as fitted, or as known from synthesis.

The project's contract.

Head frame and camera frame: a vertex v of `head_vertices` (metres, y up, z out of the face) is at
diag(1, -1, -1) v in the OpenCV camera (x right, y down, z forward), which stands at the origin.
Letters: T frames, S, E, J of the head model, N dense vertices, M vertices with dynamic offsets.
"""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.files import npz
from exp_jax.geometry import HEAD_TO_CAMERA
from exp_jax.heads.densify import Dense, dense_vertices
from exp_jax.heads.model import HeadModel, HeadParams, head_digest
from exp_jax.heads.subject_checks import complaint

FORMAT = 'exp_jax subject'
VERSION = 1
_SHAPES = {  # name -> axes; '?' marks what may be absent
  'shape': 'S',
  'expression': 'TE',
  'pose': 'TJ3',
  'translation': 'T3',
  'focal': '2',
  'center': '2',
  'times': 'T',
  'static_offsets': 'N3',
  'dynamic_vertices': 'M',
  'dynamic_offsets': 'TM3',
  'albedo': '?N3',
  'light': '?93',
  'source_crop': '?T33',
}


@dataclasses.dataclass(frozen=True)
class Subject:
  """Arrays are float32 numpy except where said. Units: metres, radians, pixels, seconds."""

  subject_id: str
  head_name: str
  head_digest: str  # exp_jax.heads.head_digest of the model the numbers belong to
  levels: int  # of densify, everywhere
  image_size: tuple[int, int]  # (height, width) that focal and center refer to
  fps: float
  shape: np.ndarray  # [S]
  expression: np.ndarray  # [T, E]
  pose: np.ndarray  # [T, J, 3] axis-angle
  translation: np.ndarray  # [T, 3] head frame; the camera is at +z, so z is negative
  focal: np.ndarray  # [2] pixels
  center: np.ndarray  # [2] pixels; the top-left pixel has its centre at (0.5, 0.5)
  times: np.ndarray  # [T] seconds in the source clip
  static_offsets: np.ndarray  # [N, 3] in the rest pose
  dynamic_vertices: np.ndarray  # [M] int32 dense vertices that have dynamic offsets
  dynamic_offsets: np.ndarray  # [T, M, 3] in the rest pose; float16 in the file
  albedo: np.ndarray | None = None  # [N, 3] linear RGB in 0..1
  light: np.ndarray | None = None  # [9, 3] spherical harmonics in the camera frame
  source_crop: np.ndarray | None = None  # [T, 3, 3] source pixels -> pixels of this file
  report: str = '{}'  # JSON: how the file came to be, losses, warnings

  @property
  def num_frames(self) -> int:
    return len(self.times)

  @property
  def detail(self) -> str:
    """How personalized the head is: 'none' (the linear model alone), 'static', or 'full' with
    dynamic offsets."""
    if np.any(self.dynamic_offsets):
      return 'full'
    return 'static' if np.any(self.static_offsets) else 'none'


def validate(subject: Subject, source: str = 'subject') -> None:
  """Raises UserError unless all arrays are finite, fit together, and lie within the bounds of
  `subject_checks`."""
  sizes = {'2': 2, '3': 3, '9': 9}
  for name, axes in _SHAPES.items():
    value, optional = getattr(subject, name), axes.startswith('?')
    axes = axes.lstrip('?')
    if value is None and optional:
      continue
    if value is None or not isinstance(value, np.ndarray) or value.dtype.kind not in 'fi':
      raise UserError(f'{source}: {name} is not an array of numbers')
    for axis, size in zip(axes, value.shape):
      if sizes.setdefault(axis, size) != size:
        raise UserError(
          f'{source}: {name} has shape {value.shape}, but {axis} is {sizes[axis]} elsewhere'
        )
    if value.ndim != len(axes):
      raise UserError(f'{source}: {name} has shape {value.shape}, expected axes {" ".join(axes)}')
    if not np.isfinite(value).all():
      raise UserError(f'{source}: {name} holds NaN or infinite numbers')
  ids = subject.dynamic_vertices
  if ids.size and not (
    0 <= ids.min() and ids.max() < sizes['N'] and len(np.unique(ids)) == len(ids)
  ):
    raise UserError(f'{source}: dynamic_vertices are not distinct numbers below {sizes["N"]}')
  if sizes['T'] < 1:
    raise UserError(f'{source}: it has no frames')
  if words := complaint(subject):
    raise UserError(f'{source}: {words}')


def save_subject(path: str | os.PathLike, subject: Subject) -> None:
  """Writes the file whole or not at all; dynamic offsets and albedo as float16.

  Raises:
    UserError: `subject` is not valid (see `validate`), or its offsets exceed float16.
  """
  subject = dataclasses.replace(
    subject,
    **{
      name: np.asarray(
        getattr(subject, name), np.int32 if name == 'dynamic_vertices' else np.float32
      )
      for name in _SHAPES
      if getattr(subject, name) is not None
    },
  )
  validate(subject, str(path))
  arrays = {name: getattr(subject, name) for name in _SHAPES if getattr(subject, name) is not None}
  for name in ('dynamic_offsets', 'albedo'):
    if name in arrays:
      with np.errstate(over='ignore'):  # the next check speaks of it
        arrays[name] = arrays[name].astype(np.float16)
  if not np.isfinite(arrays['dynamic_offsets']).all():
    raise UserError(f'{path}: dynamic offsets are too large to be metres')
  npz.write_npz(
    path,
    arrays
    | {
      'format': np.array(FORMAT),
      'version': np.array(VERSION),
      'subject_id': np.array(subject.subject_id),
      'head_name': np.array(subject.head_name),
      'head_digest': np.array(subject.head_digest),
      'levels': np.array(subject.levels),
      'image_size': np.array(subject.image_size, np.int32),
      'fps': np.array(subject.fps, np.float64),
      'report': np.array(subject.report),
    },
  )


# one value each, of any axes
_SINGLE = 'format', 'version', 'subject_id', 'head_name', 'head_digest', 'levels', 'fps', 'report'


def load_subject(path: str | os.PathLike) -> Subject:
  """Reads a subject file.

  Raises:
    UserError: missing, truncated, foreign, from a newer version, with pickled objects, not finite,
      or with arrays that do not fit together.
  """
  arrays = npz.read_npz(path)
  arrays |= {
    name: arrays[name].reshape(()) for name in _SINGLE if name in arrays and arrays[name].size == 1
  }
  if str(arrays.get('format', '')) != FORMAT:
    raise UserError(
      f'{path} is not a subject file of this program; `python -m exp_jax.fit` writes them'
    )
  try:
    version = _whole(arrays['version'], 'version')
    if version > VERSION:
      raise UserError(
        f'{path} has version {version}, this program reads up to {VERSION}: update it'
      )
    height, width = (_whole(n, 'image_size') for n in arrays['image_size'])
    subject = Subject(
      subject_id=str(arrays['subject_id']),
      head_name=str(arrays['head_name']),
      head_digest=str(arrays['head_digest']),
      levels=_whole(arrays['levels'], 'levels'),
      image_size=(height, width),
      fps=float(arrays['fps']),
      report=str(arrays['report']),
      **{name: _numbers(arrays.get(name), name) for name in _SHAPES},
    )
  except KeyError as error:
    raise UserError(f'{path}: the entry {error} is missing') from None
  except (TypeError, ValueError, OverflowError, RecursionError) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f'{path}: an entry has the wrong kind of content ({error})') from None
  validate(subject, str(path))
  return subject


def _whole(value, name: str) -> int:
  if float(value) != int(value):
    raise ValueError(f'{name} is {float(value):g}, not a whole number')
  return int(value)


def _numbers(value, name):
  if value is None:
    return None
  if name != 'dynamic_vertices':
    with np.errstate(over='ignore'):  # what does not fit is infinite then, and refused
      return value.astype(np.float32)
  if value.dtype.kind not in 'iu' and not (np.isfinite(value) & (np.abs(value) < 2**31)).all():
    raise ValueError('dynamic_vertices are no whole numbers')
  return value.astype(np.int32)


def check_head(subject: Subject, head: HeadModel, dense: Dense | None = None) -> None:
  """Raises UserError unless `subject` was made with this head (and this dense mesh)."""
  for name, found, size in (
    ('shape', subject.shape.shape[-1], head.shape_basis.shape[-1]),
    ('expression', subject.expression.shape[-1], head.expression_basis.shape[-1]),
    ('pose', subject.pose.shape[1], len(head.parents)),
  ):
    if subject.head_digest == head_digest(head) and found != size:
      raise UserError(
        f'{subject.subject_id!r}: {name} has {found} entries, its head {head.name!r} has {size}'
      )
  if subject.head_digest != head_digest(head):
    raise UserError(
      f'{subject.subject_id} was made with head {subject.head_name!r} ({subject.head_digest}), '
      f'not with this {head.name!r} ({head_digest(head)})'
    )
  if dense is not None and (
    dense.levels != subject.levels or len(dense.coarse_ids) != len(subject.static_offsets)
  ):
    raise UserError(
      f'{subject.subject_id} has {len(subject.static_offsets)} dense vertices at level '
      f'{subject.levels}, the mesh has {len(dense.coarse_ids)} at level {dense.levels}'
    )


def frame_params(subject: Subject, frame: int) -> HeadParams:
  """HeadParams of one frame of a subject."""
  return HeadParams(
    shape=jnp.asarray(subject.shape),
    expression=jnp.asarray(subject.expression[frame]),
    pose=jnp.asarray(subject.pose[frame]),
    translation=jnp.asarray(subject.translation[frame]),
  )


def frame_offsets(subject: Subject, frame: int) -> np.ndarray:
  """[N, 3] dynamic offsets of one frame, zero where the file has none."""
  offsets = np.zeros_like(subject.static_offsets)
  offsets[subject.dynamic_vertices] = subject.dynamic_offsets[frame]
  return offsets


def subject_vertices(head: HeadModel, dense: Dense, subject: Subject, frame: int) -> jax.Array:
  """[N, 3] posed dense vertices of one frame, head frame, metres."""
  return dense_vertices(
    head,
    dense,
    frame_params(subject, frame),
    jnp.asarray(subject.static_offsets),
    jnp.asarray(frame_offsets(subject, frame)),
  )


def in_camera(points: jax.Array) -> jax.Array:
  """[..., 3] head frame (y up) -> OpenCV camera frame (y down, z forward), and back."""
  return points * jnp.diagonal(HEAD_TO_CAMERA)
