"""How well the landmark fit predicts what it has not seen, on clips and photographs of your own.

  python benchmarks/fit_held_out.py CLIP [CLIP ...] [--limit 48] [--json out.json]

A fifth of the landmarks (every fifth of each group, so that lips, lids and brows keep most of
theirs) is hidden from the fit. Root mean square distances, per cent of the distance between the
eyes' outer corners:

  seen      landmarks that were fitted
  hidden    the others, in the same frames
  later     hidden landmarks in every second frame, with the shape found in the other frames alone; only
            expression, pose and position of these frames are fitted, to their seen landmarks
  jitter    root mean square second difference of the fitted landmarks over time, pixels of 512, and that
            of the observed ones
"""

import argparse
import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.fitting.coarse.fit import fit_coarse
from exp_jax.fitting.landmark_head import inter_ocular
from exp_jax.geometry import project
from exp_jax.geometry.second_differences import second_differences
from exp_jax.heads import load_head
from exp_jax.heads.skinning import head_landmarks
from exp_jax.media.footage import read_footage
from exp_jax.observe.face_crop import crop_observation, head_crop
from exp_jax.observe.landmarks import FaceEstimator, observe

_SIZE = 512


def fitted_points(head, fit) -> np.ndarray:
  """[T, 478, 2] pixels."""
  one = lambda e, p, t: project(
    head_landmarks(head, fit.params(0).replace(expression=e, pose=p, translation=t)), fit.camera()
  )[0]
  return np.asarray(jax.jit(jax.vmap(one))(fit.expression, fit.pose, fit.translation))


def percent(fitted, seen, which, found) -> float:
  distance = (
    np.linalg.norm(fitted - seen, axis=-1)[found][:, which] / inter_ocular(seen)[found][:, None]
  )
  return 100 * float(np.sqrt((distance**2).mean()))


def bend(points, found) -> float:
  whole = found[2:] & found[1:-1] & found[:-2]
  second = second_differences(points)[whole]
  return float(np.sqrt((second**2).sum(-1).mean())) if len(second) else 0.0


def part(observation, frames):
  take = lambda a: None if a is None else a[frames]
  return dataclasses.replace(
    observation,
    points=observation.points[frames],
    found=observation.found[frames],
    matte=take(observation.matte),
    trust=take(observation.trust),
    gaze=take(observation.gaze),
  )


def judge(head, estimator, path, limit: int) -> dict:
  frames = read_footage(path, limit=limit).frames
  observation = observe(frames, name=path.stem, estimator=estimator)
  seen = crop_observation(observation, head_crop(observation, size=_SIZE))
  hidden = np.arange(478) % 5 == 2
  hidden[468:] = False  # an iris has five points, the eye turns by all
  trust = np.ones(seen.points.shape[:2], np.float32)
  trust[:, hidden] = 0
  masked = dataclasses.replace(seen, trust=trust)
  fit = fit_coarse(head, masked)
  points = fitted_points(head, fit)
  row = dict(
    clip=path.name,
    frames=len(frames),
    found=int(seen.found.sum()),
    seen=percent(points, seen.points, ~hidden, seen.found),
    hidden=percent(points, seen.points, hidden, seen.found),
    jitter=bend(points, seen.found),
    observed_jitter=bend(seen.points, seen.found),
  )
  later = slice(1, None, 2)
  if seen.found[::2].sum() > 1 and seen.found[later].any():
    shape = fit_coarse(head, part(masked, slice(0, None, 2))).shape
    other = part(masked, later)
    row['later'] = percent(
      fitted_points(head, fit_coarse(head, other, shape=jnp.asarray(shape))),
      other.points,
      hidden,
      other.found,
    )
  return row


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('clips', type=pathlib.Path, nargs='*')
  parser.add_argument('--limit', type=int, default=48)
  parser.add_argument('--json', type=pathlib.Path)
  options = parser.parse_args()
  if not options.clips:
    print('no clips given: nothing to measure (see --help)')
    return
  head, rows = load_head('makehuman'), []
  with FaceEstimator() as estimator:
    for path in options.clips:
      try:
        rows.append(judge(head, estimator, path, options.limit))
      except UserError as error:
        rows.append(dict(clip=path.name, error=str(error)))
      print(
        ', '.join(
          f'{k} {v:.2f}' if isinstance(v, float) else f'{k} {v}' for k, v in rows[-1].items()
        ),
        flush=True,
      )
  if options.json:
    options.json.write_text(json.dumps(rows, indent=1))


if __name__ == '__main__':
  main()
