"""How lifelike and how fast synthetic actors are: are they faces to an estimator that has never
seen them, do its landmarks agree with the truth, how many frames a second are made.

  python benchmarks/actors.py [--people 50] [--size 512] [--sheet out/actors.png] [--json out.json]

Each person is drawn from the seed and their number, moves by a sampled clip, and is turned further
in some frames, so that heads look up to 50 degrees away from the camera. Found: MediaPipe's face
mesh (0.10.21, the sidecar of `make setup`) reports a face. Error: mean distance between its 478
landmarks and the projected true ones, over the distance of the outer eye corners in space seen from
the front. Speed: `render_actor` on clips of 16 frames, after compilation.
"""

import argparse
import json
import pathlib
import time

import numpy as np
from tqdm import tqdm

from exp_jax.actors import load_stage, render_actor, sample_actor, sample_motion
from exp_jax.errors import UserError
from exp_jax.media.images import contact_sheet, write_image
from exp_jax.observe.landmarks import FaceEstimator

_FURTHER = np.deg2rad([0, 0, 20, -20, 40, -40])  # yaw added to the frames of a person
_LIMIT = np.deg2rad(50)
_OUTER = (33, 263)  # MediaPipe's outer eye corners


def draw_person(stage, index: int, *, size: int):
  """Six frames of person `index`: frames [6, H, W, 3], landmarks [6, K, 2], eye distance,
  pixels."""
  rng = np.random.default_rng([2026, index])
  actor = sample_actor(rng, stage)
  motion = sample_motion(rng, stage.assets.head, num_frames=len(_FURTHER), fps=2)
  names = stage.assets.head.joint_names
  neck, head = names.index('neck'), names.index('head')
  yaw = motion.pose[:, neck, 1] + motion.pose[:, head, 1]
  add = np.clip(yaw + _FURTHER, -_LIMIT, _LIMIT) - yaw
  motion.pose[:, neck, 1] += 0.4 * add
  motion.pose[:, head, 1] += 0.6 * add
  clip = render_actor(actor, motion, stage, size=size)
  head = stage.assets.head
  corners = [head.landmark_names.index(str(k)) for k in _OUTER]
  faces, share = (
    np.asarray(head.landmark_faces)[corners],
    np.asarray(head.landmark_barycentric)[corners],
  )
  rest = np.asarray(head.template) + np.asarray(head.shape_basis) @ np.asarray(actor.shape)
  apart = np.einsum('kcd,kc->kd', rest[np.asarray(head.faces)[faces]], share)
  width = np.linalg.norm(apart[0] - apart[1])
  return clip.frames, clip.landmarks, width * clip.truth.focal[0] / -float(actor.seat[2])


def recognise(stage, *, people: int, size: int):
  """Faces found, frames, relative landmark errors of the found ones, one frame of each person."""
  found, frames, errors, shown = 0, 0, [], []
  with FaceEstimator() as estimator:
    for index in tqdm(range(people), desc='people', unit='person'):
      pictures, truth, width = draw_person(stage, index, size=size)
      shown.append(pictures[index % len(pictures)])
      for picture, true in zip(pictures, truth):
        marks, _, _ = estimator(picture)
        frames += 1
        if len(marks):
          found += 1
          errors.append(np.linalg.norm(marks[0, :, :2] - true, axis=-1).mean() / width)
  return found, frames, np.array(errors), shown


def frames_per_second(stage, size: int) -> float:
  rng = np.random.default_rng(0)
  actor = sample_actor(rng, stage)
  motion = sample_motion(rng, stage.assets.head, num_frames=16, fps=25)
  render_actor(actor, motion, stage, size=size)
  times = []
  for _ in range(3):
    start = time.perf_counter()
    render_actor(actor, motion, stage, size=size)
    times.append(time.perf_counter() - start)
  return 16 / min(times)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--people', type=int, default=50)
  parser.add_argument('--size', type=int, default=512, help='pixels of the recognised frames')
  parser.add_argument('--sheet', type=pathlib.Path, help='PNG of one frame of each person')
  parser.add_argument('--json', type=pathlib.Path)
  options = parser.parse_args()
  start = time.perf_counter()
  stage = load_stage()
  row = {'stage_seconds': time.perf_counter() - start}
  try:
    found, frames, errors, shown = recognise(stage, people=options.people, size=options.size)
    row |= {
      'frames': frames,
      'found': found,
      'found_share': found / frames,
      'landmark_error': float(errors.mean()),
      'landmark_error_worst_tenth': float(np.quantile(errors, 0.9)),
    }
    print(f'faces found: {found} of {frames} ({100 * found / frames:.1f} %)')
    print(
      f'landmark error: {100 * errors.mean():.2f} % of the eye distance on average, '
      f'{100 * np.quantile(errors, 0.9):.2f} % for the worst tenth'
    )
    if options.sheet:
      write_image(options.sheet, contact_sheet(shown, columns=10))
  except UserError as error:
    print(f'recognition skipped: {error}')
  for size in (64, 128, 256, 512):
    row[f'fps_{size}'] = frames_per_second(stage, size)
    print(f'{size} px: {row[f"fps_{size}"]:.1f} frames/s')
  if options.json:
    options.json.write_text(json.dumps(row, indent=1))


if __name__ == '__main__':
  main()
