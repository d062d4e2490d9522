"""The metrics that need no foreign weights, where the truth is known: do they grow as the motion
they judge goes wrong?

  python benchmarks/metrics.py [--people 3] [--frames 32] [--size 384] [-o out/benchmark_metrics]

Synthetic people are rendered twice: with a motion, and with the same motion muted (expression and
jaw times a strength) or turned (head turns times a strength). `evaluate` scores the second against
the first through MediaPipe's landmarks and our fit; beside each score stands the same metric of the
true parameters. Prints a table, leaves scores.json.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import operator
import pathlib

import numpy as np
from scipy.spatial.transform import Rotation

from exp_jax.actors import load_stage, render_actor, sample_actor, sample_motion
from exp_jax.commands.evaluate import own_tools
from exp_jax.errors import exits_cleanly
from exp_jax.media.video import write_video
from exp_jax.metrics import aed, apd, gaze_mae, hpf
from exp_jax.metrics.evaluation.clips import Settings, measure_clip, scores_of
from exp_jax.metrics.evaluation.job import make_probes
from exp_jax.metrics.evaluation.pairs import Pair

CASES = {
  'the same': (1.0, 1.0),
  'expression x 0.8': (0.8, 1.0),
  'expression x 0.5': (0.5, 1.0),
  'expression x 0': (0.0, 1.0),
  'turns x 0.8': (1.0, 0.8),
  'turns x 0.5': (1.0, 0.5),
  'turns x 0': (1.0, 0.0),
}
CHOSEN = ('psnr', 'aed_fit', 'apd_fit', 'gaze_fit', 'hpf', 'hef', 'jitter')


def changed(motion, head, strength: float, turning: float):
  """The motion with its expression and jaw, or its turns of neck and head, times a strength."""
  pose = np.array(motion.pose)
  pose[:, head.joint('jaw')] *= strength
  for joint in ('neck', 'head'):
    pose[:, head.joint(joint)] *= turning
  return dataclasses.replace(motion, expression=motion.expression * np.float32(strength), pose=pose)


def true_scores(a, b, head) -> dict[str, float]:
  """The metrics of true motions: expression and jaw, rotation of the head, gaze, all as
  `metrics.probes.own_fit` takes them."""
  turn = lambda m, *joints: functools.reduce(
    operator.mul, (Rotation.from_rotvec(m.pose[:, head.joint(j)]) for j in joints)
  )
  face = lambda m: np.concatenate([m.expression, m.pose[:, head.joint('jaw')]], -1)
  skull = lambda m: turn(m, head.joint_names[0], 'neck', 'head')
  gaze = lambda m: np.stack(
    [(skull(m) * turn(m, eye)).as_matrix()[:, :, 2] for eye in ('left_eye', 'right_eye')], 1
  )
  return {
    'aed_fit': aed(face(a), face(b)).value,
    'apd_fit': apd(skull(a).as_rotvec(), skull(b).as_rotvec()).value,
    'gaze_fit': gaze_mae(gaze(a), gaze(b)).value,
    'hpf': hpf(skull(a).as_matrix(), skull(b).as_matrix()).value,
  }


@exits_cleanly
def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--people', type=int, default=3)
  parser.add_argument('--frames', type=int, default=32)
  parser.add_argument('--size', type=int, default=384)
  parser.add_argument(
    '-o', '--output', type=pathlib.Path, default=pathlib.Path('out/benchmark_metrics')
  )
  args = parser.parse_args()
  stage, table = load_stage('makehuman'), {}
  head = stage.assets.head
  args.output.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    tools = own_tools(stack, True)
    for person in range(args.people):
      rng = np.random.default_rng([2026, person])
      actor, motion = (
        sample_actor(rng, stage),
        sample_motion(rng, head, num_frames=args.frames, fps=12.0),
      )
      for case, strengths in CASES.items():
        other = changed(motion, head, *strengths)
        path = args.output / f'{person}-{case.replace(" ", "_")}.mp4'
        write_video(
          path, render_actor(actor, other, stage, size=args.size, subject_id='a').frames, 12, crf=12
        )
        truth = args.output / f'{person}-the_same.mp4'
        record = measure_clip(
          Pair(path.stem, path, truth),
          Settings('self', None),
          make_probes(CHOSEN, {}, tools, path.stem, None),
          args.output / 'clips',
          '',
          wanted=CHOSEN,
          look=(tools.look('result'), tools.look('truth')),
        )
        measured = {name: score.value for name, score in scores_of(record).items()}
        table.setdefault(case, []).append(
          {'measured': measured, 'true': true_scores(other, motion, head)}
        )
  mean = lambda case, kind, name: float(np.mean([row[kind][name] for row in table[case]]))
  print(f'{args.people} people, {args.frames} frames each, {args.size} px; measured (true)')
  print(
    '| the result is | AED | APD | HPF, degrees | gaze, degrees | HEF | jitter | PSNR '
    '|\n|---|---|---|---|---|---|---|---|'
  )
  for case in CASES:
    both = lambda name, digits, case=case: (
      f'{mean(case, "measured", name):.{digits}f} ({mean(case, "true", name):.{digits}f})'
    )
    print(
      f'| {case} | {both("aed_fit", 4)} | {both("apd_fit", 4)} | {both("hpf", 2)} | '
      f'{both("gaze_fit", 2)} | '
      f'{mean(case, "measured", "hef"):.4f} | {mean(case, "measured", "jitter"):.2f} | '
      f'{mean(case, "measured", "psnr"):.1f} |'
    )
  (args.output / 'scores.json').write_text(json.dumps(table, indent=1) + '\n')


if __name__ == '__main__':
  main()
