"""What Loki's tiny model does on people it never saw, where the truth is known; and what driver
maps tell of whose motion they show.

  python -m exp_jax actors -o out/loki/actors --num 448 --seed 24
  python benchmarks/loki.py out/loki/export --actors out/loki/actors --first 424 --count 12 -o out/loki/benchmark [--steps 10]
  python benchmarks/loki.py --leak --actors out/loki/actors --count 50 -o out/loki/leak

For each person i and the next one j, with true heads:
  self     first frame of i, the motion of i; truth: the clip of i
  cross    first frame of i, the motion of j put on the head of i; truth: the actor i rendered with that motion
  repeat   the first frame, held still
  codec    the truth through the autoencoder: what the best network could reach
  swap     decibels by which the map of j brings the result nearer to j's motion than i's own map does

PSNR inside the head's matte, over frames in which the face moved by more than 2 % of the picture's
width. --leak: a linear classifier tells, from driver maps of substituted coefficients, which of the
people the motion is of; the reference's shape is the same for all.
"""

import argparse
import dataclasses
import json
import pathlib

import jax
import numpy as np
from actor_cases import run, score, sheet

from exp_jax.actors import load_stage, sample_motion
from exp_jax.controls.driver_map import driver_maps, driver_surface
from exp_jax.controls.reenact import reenact
from exp_jax.errors import ArgumentParser
from exp_jax.files.atomic import write_text
from exp_jax.heads.personalized import load_subject
from exp_jax.systems.expportrait.evaluation.actor_benchmark import recreate
from exp_jax.systems.loki.animate import load
from exp_jax.systems.loki.options import Options


def leak(folder: pathlib.Path, count: int, size: int = 32) -> dict:
  """Share of frames of which a ridge classifier names the driver, maps drawn on one reference's
  shape; chance is 1 / count.

  Each person moves twice, by motions drawn for it. 'other motion': it learns the first and is asked
  for the second, so that only what
  belongs to the person helps. 'same motion': it learns the first half of a motion and is asked for
  the second, which shows that it
  can learn at all: a motion has its own ways.
  """
  settings, stage = json.loads((folder / 'settings.json').read_text()), load_stage('makehuman')
  head = stage.assets.head
  surface, files = driver_surface(head), sorted((folder / 'truth').glob('*.npz'))[:count]
  subjects = [load_subject(path) for path in files]
  features, people, clips, times = [], [], [], []
  for person, subject in enumerate(subjects):
    actor, _ = recreate(settings, person, stage)
    for clip in (0, 1):
      drawn = sample_motion(
        np.random.default_rng([7919, person, clip]),
        head,
        num_frames=settings['frames'],
        fps=settings['fps'],
      )
      driver = dataclasses.replace(
        subject,
        expression=drawn.expression,
        pose=drawn.pose,
        translation=(drawn.translation + np.asarray(actor.seat)).astype(np.float32),
      )
      maps = driver_maps(head, surface, subjects[0], reenact(subjects[0], driver, head), size=size)
      rows = (
        np.concatenate([maps.places, maps.deformation], -1)
        .reshape(len(maps.mask), -1)
        .astype(np.float32)
      )
      features.append(rows)
      people += [person] * len(rows)
      clips += [clip] * len(rows)
      times += list(range(len(rows)))
  features, people, clips, times = (
    np.concatenate(features),
    np.array(people),
    np.array(clips),
    np.array(times),
  )
  early = times < times.max() / 2
  found = {}
  for name, learn, ask in (
    ('other motion', clips == 0, clips == 1),
    ('same motion', (clips == 0) & early, (clips == 0) & ~early),
  ):
    x, y = features[learn], np.eye(count)[people[learn]]
    mean = x.mean(0)
    kernel = (x - mean) @ (x - mean).T
    weights = np.linalg.solve(
      kernel + 1e-2 * np.trace(kernel) / len(x) * np.eye(len(x)), y - y.mean(0)
    )
    said = ((features[ask] - mean) @ (x - mean).T @ weights).argmax(1)
    found[name] = float((said == people[ask]).mean())
  return {'people': count, 'chance': 1 / count, 'frames asked': int((clips == 1).sum())} | found


def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('export', nargs='?')
  parser.add_argument('--actors', type=pathlib.Path, required=True)
  parser.add_argument('--first', type=int, default=0)
  parser.add_argument('--count', type=int, default=12)
  parser.add_argument('--steps', type=int)
  parser.add_argument('--leak', action='store_true')
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True)
  args = parser.parse_args(argv)
  args.output.mkdir(parents=True, exist_ok=True)
  if args.leak:
    results = leak(args.actors, args.count)
  else:
    with load(args.export) as model:
      cases = run(
        model,
        args.actors,
        list(range(args.first, args.first + args.count)),
        Options(steps=args.steps),
      )
      results = score(cases) | {'steps': model.generator.sampling(steps=args.steps).steps}
    sheet(args.output / 'sheet.png', cases[:12])
  write_text(args.output / 'scores.json', json.dumps(results, indent=1) + '\n')
  print(json.dumps(results, indent=1), f'\n{jax.default_backend()}')


if __name__ == '__main__':
  main()
