"""A portrait of 64 pixels whose head and motion are known, as files, and the landmarks that an
estimator would find."""

import pathlib

import numpy as np
from PIL import Image, ImageDraw

from exp_jax.controls.maps import subject_camera
from exp_jax.fitting.tracked_driver import frames_of
from exp_jax.geometry import project
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadModel, head_digest
from exp_jax.heads.personalized import Subject, frame_params, save_subject, subject_vertices
from exp_jax.heads.skinning import head_landmarks
from exp_jax.media.images import write_image


class Truth:
  """Stands in for MediaPipe: the landmarks and the matte of the one person who is ever seen,
  whatever the picture."""

  def __init__(self, points, matte):
    self._found = (
      np.concatenate([points, np.zeros((478, 1))], 1).astype(np.float32)[None],
      np.ones(1, np.float32),
      matte,
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def __call__(self, image):
    return self._found


def make_small_portrait(
  folder: pathlib.Path, head: HeadModel | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Writes me.png, fits/me.npz and motion.npz (three frames; in the second the head stands six
  pixels to the right).

  Args:
    folder: that is filled.
    head: the head model; None: MakeHuman's.

  Returns:
    picture [64, 64, 3] uint8, landmarks [478, 2] and matte [64, 64] of it.
  """
  size, focal, distance = 64, 150.0, 0.75
  head = head or load_head('makehuman')
  dense = densify(head, 1)
  zero = lambda *shape: np.zeros(shape, np.float32)
  step = 6 / focal * distance  # metres: six pixels
  motion = Subject(
    'me',
    head.name,
    head_digest(head),
    1,
    (size, size),
    10.0,
    zero(head.shape_basis.shape[-1]),
    zero(3, head.expression_basis.shape[-1]),
    zero(3, len(head.parents), 3),
    np.float32([[0, 0.02, -distance], [step, 0.02, -distance], [0, 0.02, -distance]]),
    np.float32([focal, focal]),
    np.float32([size / 2, size / 2]),
    np.float32([0, 0.1, 0.25]),
    zero(len(dense.coarse_ids), 3),
    np.zeros(0, np.int32),
    zero(3, 0, 3),
  )
  (folder / 'fits').mkdir()
  save_subject(folder / 'motion.npz', motion)
  own = frames_of(motion, slice(0, 1))
  save_subject(folder / 'fits' / 'me.npz', own)
  corners = np.asarray(project(subject_vertices(head, dense, own, 0), subject_camera(own))[0])[
    np.asarray(dense.faces)
  ]
  cover = Image.new('L', (size, size))
  for triangle in corners:
    ImageDraw.Draw(cover).polygon([tuple(p) for p in triangle], fill=255)
  matte = np.array(cover)
  rows, columns = np.mgrid[:size, :size]
  picture = np.stack(
    [
      130 + 60 * np.sin(columns / 4),
      120 + 60 * np.cos(rows / 5),
      90 + 50 * np.sin((rows + columns) / 6),
    ],
    -1,
  )
  picture = np.where(matte[..., None] > 0, picture, 40).astype(np.uint8)
  write_image(folder / 'me.png', picture)
  points = np.asarray(project(head_landmarks(head, frame_params(own, 0)), subject_camera(own))[0])
  return picture, points, matte
