"""A portrait ready to be driven: the fitted subject, its pixels, and what follows from both.

ExpPortrait, Algorithm REENACT of the spec: fit the reference, track the driver, transfer the
expression onto the reference's own neutral geometry, pose, render. Everything but the last step is
the same for the textured preview and for the video model.
"""

import collections.abc
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from PIL import Image, ImageDraw

from exp_jax.controls import maps
from exp_jax.controls.lids import shut_eyes
from exp_jax.controls.mouth import INNER_LIPS, inner_lips, loop_of
from exp_jax.controls.preview.drawing import draw_frame, draw_known_frame, wrinkle_shading
from exp_jax.controls.preview.make_proxy import make_proxy
from exp_jax.controls.preview.skin import rims_of
from exp_jax.controls.reenact import Motion
from exp_jax.errors import UserError
from exp_jax.fitting.landmark_head import landmark_head
from exp_jax.fitting.offsets.options import OffsetOptions
from exp_jax.fitting.subject import fit_frames
from exp_jax.geometry import project
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import Dense, rest_vertices
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import head_landmarks, landmark_pixels, rest_joints
from exp_jax.media.images import resize
from exp_jax.media.squares import Crop, crop_of
from exp_jax.metrics.steadiness import jitter
from exp_jax.observe.landmarks import FaceEstimator


@dataclasses.dataclass(frozen=True)
class Portrait:
  """subject: one frame; photo [H, W, 3] and matte [H, W] uint8: its crop; mouth [H, W] bool:
  between the lips."""

  subject: Subject
  photo: np.ndarray
  matte: np.ndarray
  mouth: np.ndarray


_normals = jax.jit(vertex_normals)
_CLOSED = (
  0.06  # mean gap between the lips, share of the mouth's width, below which they count as touching
)


def mouth_opening(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """bool [H, W]: between the inner lips of MediaPipe landmarks [478, 2] in pixels; nowhere if they
  touch."""
  x, y = points[list(INNER_LIPS)].T
  area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2  # the shoelace formula
  image = Image.new('L', size[::-1])
  if area > _CLOSED * np.ptp(x) ** 2:
    ImageDraw.Draw(image).polygon(list(zip(x, y)), fill=1)
  opening, grown = np.array(image, bool), round(size[0] / 256)
  return scipy.ndimage.binary_dilation(opening, iterations=grown) if grown else opening


def fitted_mouth(head: HeadModel, subject: Subject, frame: int) -> np.ndarray:
  """bool [H, W]: `mouth_opening` by the fitted head's own landmarks in a frame; nowhere if they are
  not MediaPipe's 478."""
  params = HeadParams(
    *(
      jnp.asarray(a)
      for a in (
        subject.shape,
        subject.expression[frame],
        subject.pose[frame],
        subject.translation[frame],
      )
    )
  )
  points = np.asarray(project(head_landmarks(head, params), maps.subject_camera(subject))[0])
  if len(points) <= max(INNER_LIPS):
    return np.zeros(subject.image_size, bool)
  return mouth_opening(points, subject.image_size)


def scaled(portrait: Portrait, size: int) -> Portrait:
  """The portrait at size x size pixels."""
  camera = maps.subject_camera(portrait.subject, size)
  crops = portrait.subject.source_crop
  factor = size / portrait.subject.image_size[0]
  subject = dataclasses.replace(
    portrait.subject,
    image_size=camera.image_size,
    focal=np.asarray(camera.focal),
    center=np.asarray(camera.center),
    source_crop=None
    if crops is None
    else (np.diag([factor, factor, 1.0]) @ crops).astype(np.float32),
  )
  shape = camera.image_size
  return Portrait(
    subject,
    resize(portrait.photo, shape),
    resize(portrait.matte, shape),
    resize(portrait.mouth.astype(np.uint8) * 255, shape) > 127,
  )


def open_portrait(
  image: np.ndarray,
  *,
  name: str,
  head: HeadModel,
  dense: Dense,
  size: int = 512,
  options: OffsetOptions = OffsetOptions(),
  estimator: FaceEstimator,
  subject: Subject | None = None,
  face: int | None = None,
  near: tuple[float, float] | None = None,
  map_estimators: tuple = (),
) -> Portrait:
  """A photograph, uint8 [H, W, 3], with its fit; `subject` is one made before; the rest and
  UserErrors as of `fit_frames`."""
  if subject is not None:
    crop = crop_of_subject(subject, image, name)
    faces, _, matte = estimator(image)
    if not len(faces):
      raise UserError(
        f'no face found in {name}, although {subject.subject_id} was fitted to it; fit it again'
      )
    return _portrait(subject, crop, image, crop.cut(matte), crop.to_crop(faces[0][:, :2]))
  fitted = fit_frames(
    image[None],
    name=name,
    rate=25.0,
    head=head,
    dense=dense,
    size=size,
    options=options,
    estimator=estimator,
    face=face,
    near=near,
    map_estimators=map_estimators,
  )
  return _portrait(
    fitted.subject, fitted.crop, image, fitted.observation.matte[0], fitted.observation.points[0]
  )


def crop_of_subject(subject: Subject, image: np.ndarray, name: str) -> Crop:
  """Where the subject was cut out of the picture.

  A file that does not tell is of the whole picture, if sizes agree.
  """
  if subject.source_crop is None:
    if image.shape[0] != image.shape[1] or subject.image_size[0] != subject.image_size[1]:
      raise UserError(
        f'{subject.subject_id} does not tell where it was cut out of {name} (no source_crop), and '
        'the picture is '
        f'{image.shape[1]}x{image.shape[0]}, its own '
        f'{subject.image_size[1]}x{subject.image_size[0]}; fit it again '
        'with `python -m exp_jax.fit`'
      )
    return Crop(0.0, 0.0, float(image.shape[0]), subject.image_size[0])
  return crop_of(subject.source_crop[0], subject.image_size[1], subject.image_size[1])


def _portrait(
  subject: Subject, crop: Crop, image: np.ndarray, matte: np.ndarray, points: np.ndarray
) -> Portrait:
  photo = crop.cut(image)
  return Portrait(subject, photo, matte, mouth_opening(points, photo.shape[:2]))


def neutral_vertices(head: HeadModel, dense: Dense, subject: Subject) -> np.ndarray:
  """[N, 3] V_neutral = V^s + static offsets: rest pose, no expression."""
  params = HeadParams(
    jnp.asarray(subject.shape),
    jnp.zeros(head.expression_basis.shape[-1]),
    jnp.zeros((len(head.parents), 3)),
    jnp.zeros(3),
  )
  static = jnp.asarray(subject.static_offsets)
  return np.asarray(rest_vertices(head, dense, params, static, jnp.zeros_like(static)))


def tremble(head: HeadModel, subject: Subject, motion: Motion) -> float | None:
  """How much the face trembles: root mean square second difference of the head's landmarks as the
  subject's camera sees them.

  Pixels of a picture 512 high. Quick motion counts as well: compare a result with its driver. None
  for fewer than three frames.
  """
  if len(motion.pose) < 3:
    return None
  numbers = subject.shape, motion.expression, motion.pose, motion.translation
  points = landmark_pixels(landmark_head(head), maps.subject_camera(subject), *numbers)
  return jitter(points, subject.image_size).value


def preview_frames(
  portrait: Portrait, motion: Motion, dynamic: np.ndarray | None, head: HeadModel, dense: Dense
) -> collections.abc.Iterator[np.ndarray]:
  """Textured preview, one uint8 [H, W, 3] frame after the other."""
  return _drawn(draw_frame, portrait, motion, dynamic, head, dense)


def known_frames(
  portrait: Portrait, motion: Motion, dynamic: np.ndarray | None, head: HeadModel, dense: Dense
) -> collections.abc.Iterator[tuple[np.ndarray, np.ndarray]]:
  """The same frames, each with what is known of its pixels: uint8 [H, W, `drawing.KNOWN`]."""
  return _drawn(draw_known_frame, portrait, motion, dynamic, head, dense)


def _drawn(
  draw: collections.abc.Callable,
  portrait: Portrait,
  motion: Motion,
  dynamic: np.ndarray | None,
  head: HeadModel,
  dense: Dense,
) -> collections.abc.Iterator:
  subject = portrait.subject
  vertices, transforms = next(
    maps.posed_heads(head, dense, subject, maps.own_motion(subject), maps.full_offsets(subject))
  )
  params = HeadParams(
    jnp.asarray(subject.shape),
    *(jnp.asarray(a[0]) for a in (subject.expression, subject.pose, subject.translation)),
  )
  eyes = [head.joint(name) for name in ('left_eye', 'right_eye')]
  lips, shut = inner_lips(head), shut_eyes(head, subject.shape, subject.expression[:1])
  if shut is not None:
    still = Motion(shut, subject.pose[:1], subject.translation[:1])
    shut = next(maps.posed_heads(head, dense, subject, still, maps.full_offsets(subject)))[0]
  drawn = make_proxy(
    portrait.photo,
    portrait.matte,
    portrait.mouth,
    dense=dense,
    vertices=vertices,
    transforms=transforms,
    template=neutral_vertices(head, dense, subject),
    camera=maps.subject_camera(subject),
    eye_centers=np.asarray(rest_joints(head, params))[eyes],
    lips=lips,
    rims=rims_of(head),
    shut=shut,
  )
  plain = maps.posed_heads(head, dense, subject, motion, None)
  folded = maps.posed_heads(head, dense, subject, motion, dynamic)
  for (without, _), (vertices, transforms) in zip(plain, folded):
    wrinkles = (
      jnp.ones(len(vertices))
      if dynamic is None
      else wrinkle_shading(_normals(vertices, dense.faces), _normals(without, dense.faces))
    )
    yield draw(
      drawn, vertices, transforms, wrinkles, None if lips is None else loop_of(vertices, lips)
    )


def to_subject(
  reference: Subject, motion: Motion, dynamic: np.ndarray | None, driving: Subject
) -> Subject:
  """The reenacted head as a subject file of T frames, which every later stage reads."""
  moving = (
    np.zeros(0, np.int32)
    if dynamic is None
    else np.flatnonzero(np.abs(dynamic).max((0, 2)) > 0).astype(np.int32)
  )
  crops = reference.source_crop
  return dataclasses.replace(
    reference,
    fps=driving.fps,
    times=driving.times,
    expression=motion.expression,
    pose=motion.pose,
    translation=motion.translation,
    dynamic_vertices=moving,
    dynamic_offsets=np.zeros((len(motion.pose), 0, 3), np.float32)
    if dynamic is None
    else dynamic[:, moving],
    source_crop=None if crops is None else np.repeat(crops[:1], len(motion.pose), 0),
  )
