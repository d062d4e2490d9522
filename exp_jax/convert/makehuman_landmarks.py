"""Calibrates where MediaPipe's 478 landmarks lie on the MakeHuman head, and writes their embedding.

  python -m exp_jax.convert.makehuman_landmarks -o exp_jax/heads/makehuman_landmarks.npz

Nobody has published this correspondence, so it is measured. Synthetic people, whose true geometry
is known, are rendered from many sides; the estimator marks them; and each landmark becomes the
point of the surface whose projections are nearest to its marks over all pictures (least weighted
sum of distances, relative to the width between the eyes). That holds for the contour too, where a
mark seldom lies on the skin.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from exp_jax.actors import load_stage, render_actor, sample_actor, sample_motion
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files.npz import write_npz
from exp_jax.fitting.landmark_head import IRISES
from exp_jax.geometry import Camera, project
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject, frame_params, in_camera
from exp_jax.heads.skinning import head_vertices
from exp_jax.media.images import contact_sheet, write_image
from exp_jax.observe.landmarks import FaceEstimator

_SIZE = 512
_FRAMES = 4  # of each person
_SPREAD = 0.65  # radians that the head may be turned further, either way
_SHARES = np.array([(i, j, 4 - i - j) for i in range(5) for j in range(5 - i)]) / 4


@jax.jit
def _project(head: HeadModel, params, camera: Camera):
  """Pixels [V, 2] of the coarse vertices, and how squarely each faces the camera [V] in -1..1."""
  vertices = in_camera(head_vertices(head, params))
  facing = -jnp.sum(vertex_normals(vertices, head.faces) * vertices, -1)
  return project(vertices, camera)[0], facing / jnp.linalg.norm(vertices, axis=-1)


def collect(*, people: int, seed: int):
  """Pictures of people, N in all.

  Returns:
    marks [N, 478, 2], pixels [N, V, 2] and facing [N, V] of the true vertices, all but the last in
    units of the mean distance of the eyes; the marked pictures.
  """
  stage = load_stage()
  head = stage.assets.head
  eyes = [head.joint(f'{side}_eye') for side in ('left', 'right')]
  spin = [head.joint(name) for name in ('neck', 'head')]
  found = [], [], [], []
  with FaceEstimator() as estimator:
    for index in tqdm.tqdm(range(people), desc='people', unit='person'):
      rng = np.random.default_rng([seed, index])
      actor = sample_actor(rng, stage)
      motion = sample_motion(rng, head, num_frames=_FRAMES, fps=1)
      motion.pose[:, spin, 1] += rng.uniform(-_SPREAD / 2, _SPREAD / 2, (_FRAMES, 1))
      clip = render_actor(actor, motion, stage, size=_SIZE)
      for frame, picture in enumerate(clip.frames):
        points, _, _ = estimator(picture)
        if len(points):
          pixels, facing = (np.asarray(a) for a in _view(head, clip.truth, frame))
          apart = np.asarray(head.joint_template)[eyes]
          scale = clip.truth.focal[0] * np.linalg.norm(apart[0] - apart[1]) / -float(actor.seat[2])
          found[0].append(points[0, :, :2] / scale)
          found[1].append(pixels / scale)
          found[2].append(facing)
          picture = picture.copy()
          x, y = np.clip(points[0, :, :2].astype(int), 0, _SIZE - 1).T
          picture[y, x] = (0, 255, 0)
          found[3].append(picture)
  if len(found[0]) < 10:
    raise UserError(f'the estimator saw {len(found[0])} faces only; more --people are needed')
  return head, *(np.stack(part).astype(np.float32) for part in found[:3]), found[3]


def _view(head: HeadModel, truth: Subject, frame: int):
  camera = Camera(jnp.eye(3), jnp.zeros(3), truth.focal, truth.center, truth.image_size)
  return _project(head, frame_params(truth, frame), camera)


def embed(head: HeadModel, marks, pixels, facing):
  """The surface point nearest to each landmark's marks: faces [K], barycentric [K, 3], residual
  [K].

  First among vertices, then among a grid on the faces about the best of them.
  """
  faces = np.asarray(head.faces)
  parts = {
    name: np.asarray(head.regions[name]) > 0.5
    for name in ('eyeballs', 'inner_mouth', 'teeth', 'tongue')
  }
  skin = ~np.any(list(parts.values()), 0) & (np.asarray(head.regions['clothing']) < 0.5)
  ids, shares, residuals = [], [], []
  for landmark in tqdm.tqdm(range(marks.shape[1]), desc='landmarks', unit='point'):
    among = np.flatnonzero(parts['eyeballs'] if landmark in IRISES else skin)
    mark = marks[:, landmark]
    weight = np.ones(len(mark))
    for _ in range(2):
      distance = np.linalg.norm(pixels[:, among] - mark[:, None], axis=-1)
      best = among[(weight @ distance).argmin()]
      weight = np.clip(facing[:, best], 0, 1) + 0.05  # what faces away is guessed by the estimator
    ring = np.unique(faces[(faces == best).any(1)])
    near = np.flatnonzero(np.isin(faces, ring).any(1) & np.isin(faces, among).all(1))
    spots = np.einsum('nfcd,sc->nfsd', pixels[:, faces[near]], _SHARES)
    cost = np.einsum('n,nfs->fs', weight, np.linalg.norm(spots - mark[:, None, None], axis=-1))
    face, share = np.unravel_index(cost.argmin(), cost.shape)
    ids.append(near[face]), shares.append(_SHARES[share])
    residuals.append(cost.min() / weight.sum())
  return np.array(ids), np.array(shares), np.array(residuals)


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True, help='npz to write')
  parser.add_argument(
    '--people', type=int, default=96, help=f'people, {_FRAMES} pictures each (default 96)'
  )
  parser.add_argument('--seed', type=int, default=7)
  parser.add_argument(
    '--sheet', type=pathlib.Path, help='also write a contact sheet PNG of marked pictures'
  )
  args = parser.parse_args(argv)
  head, marks, pixels, facing, pictures = collect(people=args.people, seed=args.seed)
  faces, barycentric, residuals = embed(head, marks, pixels, facing)
  worst = np.argsort(-residuals)[:5]
  print(
    f'{len(marks)} faces; residual {100 * residuals.mean():.2f} % of the distance of the eyes, the '
    'worst '
    f'{", ".join(f"{100 * residuals[k]:.1f} % ({k})" for k in worst)}'
  )
  if args.sheet:
    write_image(args.sheet, contact_sheet(pictures[:24], columns=6))
  write_npz(
    args.output, {'faces': faces, 'barycentric': barycentric, 'names': np.arange(478).astype(str)}
  )


if __name__ == '__main__':
  main()
