"""How far two fitted heads disagree on where a face looks, and how much of it a picture could show.

  python benchmarks/nod.py -o out/nod [--people 16] [--seed 140]

Each person is one picture of a synthetic actor that nothing was trained on, fitted as a user's is:
landmarks, maps by the embedded network, a head. With G the rotation of the head's joint in the
camera and C the turn that lays the landmarks of the mean head onto those of a person's neutral one
(about their means, least squares), a head is compared with the true one by

  joint   G: what reenactment carries from driver to portrait
  face    G C: where the face looks, whatever joint its shape sits on

Of `one fit`, degrees about x (nod), y and z against the truth: mean and standard deviation over
people. Of `carried over`, root mean squares over all ordered pairs of people of what a driver's
picture turns a portrait's head by, against the same of the true heads: by either rule, in both.

`told by faces` asks whether C could be known: the x of its axis-angle from neutral landmarks (turned
and scaled onto the mean head's) of actors' exact shapes, disturbed by so many millimetres, by a
ridge regression learnt on half of 2000: degrees left on others. `told by fits` is what is left
of the nod of one fit when it is regressed on what that fit knows: tuned (with the ridge's weight) on
half of the people, evaluated on the others, mean over 200 divisions.
Letters: K landmarks, N people, D numbers known of each.
"""

import argparse
import functools
import itertools
import json
import pathlib
import sys
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from exp_jax.actors import render_actor, sample_motion
from exp_jax.actors.identity import sample_shape, sample_traits
from exp_jax.controls.head_motion import head_motion
from exp_jax.errors import UserError, exits_cleanly
from exp_jax.files.atomic import write_text
from exp_jax.fitting.subject import fit_frames
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import head_landmarks
from exp_jax.recipes.retouch_records import Pipeline

_SKIN = 468  # landmarks before the irises, which turn
_FILMED = 1.5  # pixels of a picture's side over those of the fitted square
_WEIGHTS = (0.3, 3.0, 30.0, 300.0)  # of the ridge, over standardized inputs
_DRAWN, _DIVISIONS = 2000, 200


def neutral(head: HeadModel, shape: np.ndarray) -> np.ndarray:
  """[468, 3] landmarks of a shape at rest, metres, about their mean."""
  rest = HeadParams(
    jnp.asarray(shape, jnp.float32),
    jnp.zeros(head.expression_basis.shape[-1]),
    jnp.zeros((len(head.parents), 3)),
    jnp.zeros(3),
  )
  points = np.asarray(head_landmarks(head, rest), np.float64)[:_SKIN]
  return points - points.mean(0)


def rotations(head: HeadModel, subject: Subject) -> dict[str, np.ndarray]:
  """{'joint': G, 'face': G C} [3, 3] of a subject's first frame."""
  turn = head_motion(head, subject).rotation[0]
  mean = neutral(head, np.zeros(head.shape_basis.shape[-1]))
  tilt = Rotation.align_vectors(neutral(head, subject.shape), mean)[0].as_matrix()
  return {'joint': turn, 'face': turn @ tilt}


def degrees(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """[3] axis-angle of the turn from `other` to `one`."""
  return Rotation.from_matrix(one @ other.T).as_rotvec(degrees=True)


def summary(people: list[tuple[dict, dict]]) -> dict[str, dict]:
  """The figures at the top of this file; people: `rotations` of the fit and of the truth of each.

  What is carried over is a turn in the camera: by the rule 'face' a portrait's joint is turned as
  the driver's, and by how their neutral faces lie on their joints.
  """
  table = {'one fit': {}, 'carried over': {}}
  for rule in ('joint', 'face'):
    off = np.array([degrees(fit[rule], true[rule]) for fit, true in people])
    table['one fit'][rule] = {'mean': off.mean(0).tolist(), 'std': off.std(0, ddof=1).tolist()}

  def turned(driver, portrait, rule):  # of the portrait's head since its picture
    return driver[rule] @ portrait[rule].T

  for wanted, used in itertools.product(('joint', 'face'), repeat=2):
    off = np.array(
      [
        degrees(turned(b[0], a[0], used), turned(b[1], a[1], wanted))
        for a, b in itertools.permutations(people, 2)
      ]
    )
    key = f'truth by {wanted}, fit by {used}'
    table['carried over'][key] = np.sqrt((off**2).mean(0)).tolist()
  return table


def straightened(head: HeadModel, shape: np.ndarray) -> tuple[np.ndarray, float]:
  """([1404] neutral landmarks in the face's own frame, of the mean head's size, mm; degrees of C
  about x)."""
  mean, own = neutral(head, np.zeros(head.shape_basis.shape[-1])), neutral(head, shape)
  tilt = Rotation.align_vectors(own, mean)[0]
  own = tilt.inv().apply(own) * np.linalg.norm(mean) / np.linalg.norm(own)
  return 1e3 * (own - mean).ravel(), float(tilt.as_rotvec(degrees=True)[0])


def ridge(known: np.ndarray, wanted: np.ndarray, new: np.ndarray, weight: float) -> np.ndarray:
  """[M] predictions for `new` [M, D], learnt from `known` [N, D] and `wanted` [N]; weight: over D."""
  middle, spread = known.mean(0), known.std(0) + 1e-9
  known, new = (known - middle) / spread, (new - middle) / spread
  inner = known @ known.T + weight * known.shape[1] * np.eye(len(known))
  return wanted.mean() + new @ known.T @ np.linalg.solve(inner, wanted - wanted.mean())


def _left_out(known: np.ndarray, wanted: np.ndarray, weight: float) -> float:
  """Sum of squares over people, each predicted from the others."""
  others = [np.delete(np.arange(len(wanted)), k) for k in range(len(wanted))]
  found = [ridge(known[o], wanted[o], known[[k]], weight) for k, o in enumerate(others)]
  return float(np.square(wanted - np.concatenate(found)).sum())


def left_on_others(known: np.ndarray, wanted: np.ndarray) -> float:
  """Standard deviation that is left on half of N people when the other half tuned the ridge."""
  left = []
  for seed in range(_DIVISIONS):
    order = np.random.default_rng(seed).permutation(len(wanted))
    tuned, others = order[: len(order) // 2], order[len(order) // 2 :]
    best = min(_WEIGHTS, key=functools.partial(_left_out, known[tuned], wanted[tuned]))
    found = ridge(known[tuned], wanted[tuned], known[others], best)
    left.append(np.std(wanted[others] - found, ddof=1))
  return float(np.mean(left))


def told_by(head: HeadModel, people: Sequence[tuple[Subject, Subject]]) -> dict[str, dict]:
  """The figures `told by faces` and `told by fits`; people: fit and truth of each."""
  rng = np.random.default_rng(5)
  shapes = [sample_shape(rng, head, sample_traits(rng)) for _ in range(_DRAWN)]
  faces, tilts = map(np.array, zip(*(straightened(head, shape) for shape in shapes)))
  learnt, choice, others = np.split(np.arange(_DRAWN), [_DRAWN // 2, 3 * _DRAWN // 4])
  by_faces = {'nothing known': float(tilts[others].std())}
  for noise in (0.0, 0.5, 1.0, 2.0):
    seen = faces + noise * rng.normal(size=faces.shape)
    off = [
      tilts - ridge(seen[learnt], tilts[learnt], seen, weight)
      for weight in (1e-4, 1e-3, 1e-2, 0.1, 1.0)
    ]
    best = min(off, key=lambda each: each[choice].std())
    by_faces[f'disturbed by {noise} mm'] = float(best[others].std())

  fits = [fit for fit, _ in people]
  found, leaning = map(np.array, zip(*(straightened(head, fit.shape) for fit in fits)))
  true = np.array([straightened(head, truth.shape)[0] for _, truth in people])
  joints = [[rotations(head, each)['joint'] for each in pair] for pair in people]
  wanted = np.array([degrees(*pair)[0] for pair in joints])
  directions = np.linalg.svd(faces - faces.mean(0), full_matrices=False)[2]
  middle = found - faces.mean(0)
  view = np.array([[f.focal[0] / f.image_size[0], f.translation[0, 2]] for f in fits])
  known = {
    'tilt of its neutral face': leaning[:, None],
    'tilt, focal length, distance': np.c_[leaning, view],
    '2 directions of faces': middle @ directions[:2].T,
    '8 directions of faces': middle @ directions[:8].T,
    'shape coefficients': np.array([fit.shape for fit in fits]),
  }
  by_fits = {name: left_on_others(each, wanted) for name, each in known.items()}
  by_fits['nothing known'] = left_on_others(np.zeros((len(fits), 1)), wanted)
  off = found - true
  return {
    'told by faces': by_faces,
    'told by fits': by_fits
    | {
      'mm between fitted and true landmarks': float(np.sqrt(np.square(off).mean())),
      'the same without their mean over people': float(off.std(0, ddof=1).mean()),
      'mm between true landmarks and their mean': float(true.std(0, ddof=1).mean()),
    },
  }


def meet(pipeline: Pipeline, number: int) -> tuple[Subject, Subject]:
  """The fit of a picture of person `number`, and the truth."""
  actor, rng = pipeline.cast(number)
  assets, size = pipeline.stage.assets, round(_FILMED * pipeline.size)
  motion = sample_motion(rng, assets.head, num_frames=1, fps=12.5)
  clip = render_actor(actor, motion, pipeline.stage, size=size)
  fit = fit_frames(
    clip.frames, name=f'person {number}', rate=12.5, head=assets.head, dense=assets.dense,
    size=pipeline.size, estimator=pipeline.estimator, map_estimators=pipeline.networks,
    offsets=False,
  )  # fmt: skip
  return fit.subject, clip.truth


@exits_cleanly
def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True)
  parser.add_argument('--people', type=int, default=16)
  parser.add_argument('--seed', type=int, default=140, help='of people; training has 31')
  options = parser.parse_args()
  if options.people < 6:
    raise UserError(f'--people must be at least 6, got {options.people}')
  options.output.mkdir(parents=True, exist_ok=True)
  people = []
  with Pipeline(size=256, seed=options.seed) as pipeline:
    for number in range(options.people):
      people.append(meet(pipeline, number))
      print(f'met person {number}', flush=True)
    head = pipeline.stage.assets.head
  table = summary([tuple(rotations(head, each) for each in pair) for pair in people])
  table |= told_by(head, people)
  told = {'command': ['python', 'benchmarks/nod.py', *sys.argv[1:]], 'people': len(people)}
  write_text(options.output / 'nod.json', json.dumps(told | table, indent=1) + '\n')
  for part, rows in table.items():
    for name, row in rows.items():
      print(f'{part:13s} {name:28s}', json.dumps(row))


if __name__ == '__main__':
  main()
