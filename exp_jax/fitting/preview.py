"""What a fit looks like: six pictures of each frame, a PNG of a photograph or an mp4 of a clip.

Input; landmarks (green seen, red fitted); head as clay over the input; normals; normals without the
dynamic field; where the textured head and the input differ (black none, white a quarter of the
range).
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from exp_jax.controls.maps import (
  control_maps,
  full_offsets,
  own_motion,
  posed_heads,
  subject_camera,
)
from exp_jax.fitting.subject_record import FittedClip
from exp_jax.geometry import Camera, clip_coordinates, project
from exp_jax.heads.densify import Dense
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import head_landmarks
from exp_jax.media.images import contact_sheet, write_image
from exp_jax.media.video import write_video
from exp_jax.rendering import Topology, interpolate, rasterize
from exp_jax.rendering.shading import camera_normals, shade_harmonics, unit


def overlay(photo: np.ndarray, normals: np.ndarray) -> np.ndarray:
  """The fitted head as translucent clay on the photograph, uint8 [H, W, 3]."""
  inside = normals.any(-1, keepdims=True)
  normal = normals.astype(np.float32) / 127.5 - 1
  light = (
    np.clip(0.2 + 0.8 * np.clip(normal @ np.array([0.3, 0.35, 0.89]), 0, 1), 0, 1)[..., None] * 255
  )
  return np.where(inside, 0.45 * photo + 0.55 * light, photo).astype(np.uint8)


@jax.jit
def _textured(
  vertices: jax.Array, albedo: jax.Array, light: jax.Array, camera: Camera, topology: Topology
):
  """sRGB [H, W, 3] of a posed head [N, 3] under its fitted light, and coverage [H, W]."""
  clip = clip_coordinates(vertices, camera)
  fragments = rasterize(clip, topology, camera.image_size)
  columns = jnp.concatenate([camera_normals(vertices, topology.faces, camera), albedo], -1)
  maps = interpolate(columns, clip, topology, fragments)
  linear = jnp.clip(maps[..., 3:] * shade_harmonics(unit(maps[..., :3]), light), 0, 1)
  srgb = jnp.where(
    linear <= 0.0031308, 12.92 * linear, 1.055 * jnp.maximum(linear, 1e-6) ** (1 / 2.4) - 0.055
  )
  return srgb, fragments.face_id >= 0


def textured_heads(head: HeadModel, dense: Dense, subject: Subject):
  """Yields uint8 [H, W, 3] of each frame, background black; the subject must have albedo and
  light."""
  camera, topology = subject_camera(subject), Topology.from_faces(np.asarray(dense.faces))
  albedo, light = jnp.asarray(subject.albedo), jnp.asarray(subject.light)
  for vertices, _ in posed_heads(head, dense, subject, own_motion(subject), full_offsets(subject)):
    picture, covered = _textured(vertices, albedo, light, camera, topology)
    yield np.uint8(np.rint(255 * np.asarray(picture) * np.asarray(covered)[..., None]))


def heat(difference: np.ndarray) -> np.ndarray:
  """[H, W] 0..1 -> uint8 [H, W, 3]: black, red, yellow, white."""
  return np.uint8(255 * np.clip(3 * np.clip(difference, 0, 1)[..., None] - np.arange(3), 0, 1))


def write_preview(
  output: pathlib.Path,
  fitted: FittedClip,
  frames: np.ndarray,
  head: HeadModel,
  dense: Dense,
  *,
  still: bool,
) -> pathlib.Path:
  """Writes <output>/<subject>_preview.png or .mp4 and returns its path."""
  subject = fitted.subject
  size, motion = subject.image_size[0], own_motion(subject)
  normals = control_maps(head, dense, subject, motion, full_offsets(subject), size=size)
  plain = (
    control_maps(head, dense, subject, motion, None, size=size)
    if subject.dynamic_vertices.size
    else normals
  )
  project_landmarks = jax.jit(
    lambda params: project(head_landmarks(head, params), fitted.coarse.camera())[0]
  )
  textured = textured_heads(head, dense, subject) if subject.albedo is not None else None

  def rows():
    for i in range(len(frames)):
      photo = fitted.crop.cut(frames[i])
      marked = Image.fromarray(photo)
      draw = ImageDraw.Draw(marked)
      for points, colour in (
        (fitted.observation.points[i], (40, 220, 40)),
        (np.asarray(project_landmarks(fitted.coarse.params(i))), (235, 40, 40)),
      ):
        for x, y in points:
          draw.ellipse([x - 1, y - 1, x + 1, y + 1], fill=colour)
      row = [photo, np.array(marked), overlay(photo, normals[i]), normals[i], plain[i]]
      if textured is not None:
        own = next(textured)
        apart = np.abs(own.astype(np.float32) - photo).mean(-1) / 64
        row.append(heat(np.where(own.any(-1), apart, 0)))
      yield row

  if still:
    path = output / f'{subject.subject_id}_preview.png'
    write_image(path, contact_sheet(next(rows()), columns=6))
  else:
    path = output / f'{subject.subject_id}_preview.mp4'
    write_video(path, (np.concatenate(row, axis=1) for row in rows()), subject.fps)
  return path
