"""Calibrates where MediaPipe's 478 landmarks lie on the MakeHuman head, and writes their embedding.

  python -m exp_jax.convert.makehuman_landmarks -o exp_jax/heads/makehuman_landmarks.npz

Nobody has published this correspondence, so it is measured: random identities are rendered from several sides
with painted brows, lips and irises, the estimator marks them, each mark is looked up in the fragment buffer,
and the marks are brought together on the template. The marks of one landmark scatter by a few millimetres
(printed); their weighted median is projected back onto the surface.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
import trimesh

from exp_jax.errors import ArgumentParser, exits_cleanly
from exp_jax.fitting.coarse import make_camera
from exp_jax.fitting.landmark_head import IRISES
from exp_jax.geometry import clip_coordinates
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.files import write_npz
from exp_jax.heads.model import HeadModel, HeadParams, load_head
from exp_jax.heads.skinning import head_vertices
from exp_jax.media.images import contact_sheet, write_image
from exp_jax.observe.landmarks import FaceEstimator
from exp_jax.rendering import Topology, barycentrics, interpolate, rasterize

_SIZE = 512
_YAWS = (0.0, 0.0, -0.25, 0.25, -0.5, 0.5)  # radians; the frontal view twice, for other identities


def paint(head: HeadModel) -> np.ndarray:
  """[V, 8] attributes that `shade` colours: rest position, brow, lip, eyeball, inner-mouth and tooth masks."""
  masks = [np.asarray(head.regions[name]) for name in ('brows', 'lips', 'eyeballs', 'inner_mouth', 'teeth')]
  return np.concatenate([np.asarray(head.template), np.stack(masks, -1)], -1)


def shade(attributes: np.ndarray, normal: np.ndarray, eyes: np.ndarray, skin: np.ndarray) -> np.ndarray:
  """Colours [H, W, 3]: Lambert skin with darker brows, red lips, irises drawn about the eyes' axes."""
  position, (brow, lip, eyeball, mouth, tooth) = attributes[..., :3], np.moveaxis(attributes[..., 3:], -1, 0)
  colour = skin * np.ones((*position.shape[:-1], 3))
  for mask, ink in ((brow, (0.16, 0.1, 0.07)), (lip, (0.66, 0.28, 0.27)), (mouth * (1 - tooth), (0.3, 0.1, 0.1)),
                    (tooth, (0.9, 0.88, 0.84))):
    colour += np.clip(mask, 0, 1)[..., None] * (np.array(ink) - colour)
  for eye in eyes:
    axis = position - eye
    distance = np.linalg.norm(axis, axis=-1, keepdims=True)
    off = np.arccos(np.clip(axis[..., 2] / np.maximum(distance[..., 0], 1e-6), -1, 1))
    ball = (eyeball > 0.5) & (np.abs(position[..., 0] - eye[0]) < 0.02)
    iris = np.where(off < 0.17, 0.03, np.where(off < 0.42, 0.25, 0.92))
    colour = np.where(ball[..., None], iris[..., None] * np.array([1.0, 0.97, 0.95]), colour)
  light = 0.45 + 0.6 * np.clip(normal @ np.array([0.2, 0.35, 0.9]), 0, 1)
  return np.clip(colour * light[..., None], 0, 1)


@jax.jit
def _render(head: HeadModel, topology: Topology, attributes: jax.Array, params: HeadParams):
  """Interpolated attributes and normals [H, W, C + 3], face ids [H, W], barycentrics [H, W, 3]."""
  vertices = head_vertices(head, params)
  clip = clip_coordinates(vertices, make_camera(jnp.float32(2.1 * _SIZE), (_SIZE, _SIZE)))
  fragments = rasterize(clip, topology, (_SIZE, _SIZE))
  attributes = jnp.concatenate([attributes, vertex_normals(vertices, head.faces)], -1)
  maps = interpolate(attributes, clip, topology, fragments)
  return maps, fragments.face_id, barycentrics(clip, topology, fragments)


def view(head: HeadModel, topology: Topology, rng: np.random.Generator, yaw: float):
  """One painted picture: pixels, face ids, barycentrics, and how squarely each pixel's surface faces us."""
  shape = rng.normal(0, 0.45, head.shape_basis.shape[-1])
  shape[3:5] *= 0.3                                               # weight and muscle say little of the face
  pose = np.zeros((len(head.parents), 3))
  pose[2] = (rng.normal(0, 0.08), yaw + rng.normal(0, 0.05), rng.normal(0, 0.05))
  expression = np.zeros(head.expression_basis.shape[-1])
  params = HeadParams(*(jnp.asarray(a, jnp.float32) for a in (shape, expression, pose, (0, -0.02, -1.0))))
  maps, face_id, barycentric = (np.asarray(a) for a in _render(head, topology, jnp.asarray(paint(head)), params))
  normal = maps[..., -3:]
  skin = np.array([0.75, 0.55, 0.45]) * rng.uniform(0.55, 1.2)
  picture = shade(maps[..., :-3], normal, np.asarray(head.joint_template)[-2:], skin)
  picture = np.where(face_id[..., None] >= 0, picture, 0.5)
  return np.rint(picture * 255).astype(np.uint8), face_id, barycentric, normal[..., 2]


def collect(head: HeadModel, *, identities: int, seed: int):
  """Marks on the template: [N, 478, 3] metres, their weights [N, 478], and the pictures."""
  rng, topology = np.random.default_rng(seed), Topology.from_faces(np.asarray(head.faces))
  template, faces = np.asarray(head.template), np.asarray(head.faces)
  marks, weights, pictures = [], [], []
  with FaceEstimator() as estimator:
    for i in tqdm.tqdm(range(identities), desc='views', unit='view'):
      picture, face_id, barycentric, facing = view(head, topology, rng, _YAWS[i % len(_YAWS)])
      points, _, _ = estimator(picture)
      if not len(points):
        continue
      x, y = np.clip(points[0, :, :2].astype(int), 0, _SIZE - 1).T
      hit = face_id[y, x]
      corners = template[faces[np.maximum(hit, 0)]]               # [478, 3, 3]
      marks.append(np.einsum('kcd,kc->kd', corners, barycentric[y, x]))
      weights.append(np.where(hit >= 0, np.clip(facing[y, x], 0, 1) ** 2, 0))
      picture = picture.copy()
      picture[y, x] = (0, 255, 0)
      pictures.append(picture)
  return np.stack(marks), np.stack(weights), pictures


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Along axis 0, each coordinate by itself: [N, K, 3], [N, K] -> [K, 3]."""
  order = np.argsort(values, axis=0)
  sorted_values = np.take_along_axis(values, order, 0)
  cumulative = np.cumsum(np.take_along_axis(np.repeat(weights[..., None], 3, -1), order, 0), 0)
  pick = (cumulative >= cumulative[-1:] / 2).argmax(0)
  return np.take_along_axis(sorted_values, pick[None], 0)[0]


def embed(head: HeadModel, targets: np.ndarray):
  """Nearest surface points: irises on the eyeballs, all others on the skin. faces [478], barycentric [478, 3]."""
  template, faces = np.asarray(head.template), np.asarray(head.faces)
  region = {name: np.asarray(mask)[faces].min(1) > 0.5 for name, mask in head.regions.items()}
  inner = region['eyeballs'] | region['teeth'] | region['tongue'] | region['inner_mouth']
  chosen, barycentric = np.zeros(478, np.int32), np.zeros((478, 3), np.float32)
  for indices, allowed in ((list(IRISES), region['eyeballs']), (list(range(468)), ~inner)):
    ids = np.flatnonzero(allowed)
    triangles = template[faces[ids]]
    for k in indices:
      points = trimesh.triangles.closest_point(triangles, np.broadcast_to(targets[k], (len(ids), 3)))
      best = np.argmin(np.linalg.norm(points - targets[k], axis=-1))
      chosen[k] = ids[best]
      barycentric[k] = trimesh.triangles.points_to_barycentric(triangles[best:best + 1], points[best:best + 1])[0]
  barycentric = np.clip(barycentric, 0, 1)
  return chosen, barycentric / barycentric.sum(-1, keepdims=True)


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True, help='npz to write')
  parser.add_argument('--identities', type=int, default=96, help='pictures to look at (default 96)')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--sheet', type=pathlib.Path, help='also write a contact sheet PNG of the marked pictures')
  args = parser.parse_args(argv)
  head = load_head('makehuman')
  with jax.default_matmul_precision('highest'):
    marks, weights, pictures = collect(head, identities=args.identities, seed=args.seed)
  targets = weighted_median(marks, weights)
  spread = np.linalg.norm(marks - targets, axis=-1)
  faces, barycentric = embed(head, targets)
  moved = np.linalg.norm(np.einsum('kcd,kc->kd', np.asarray(head.template)[np.asarray(head.faces)[faces]],
                                   barycentric) - targets, axis=-1)
  print(f'faces found in {len(marks)} of {args.identities} pictures; median scatter of a landmark '
        f'{1e3 * np.median(spread):.1f} mm; median move onto the surface {1e3 * np.median(moved):.2f} mm')
  if args.sheet:
    write_image(args.sheet, contact_sheet(pictures[:24], columns=6))
  write_npz(args.output, {'faces': faces, 'barycentric': barycentric, 'names': np.arange(478).astype(str)})


if __name__ == '__main__':
  main()
