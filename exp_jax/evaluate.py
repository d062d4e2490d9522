"""Scores videos against their truth, or a video model on held-out synthetic actors.

  python -m exp_jax.evaluate pairs --result out/a.mp4 --truth b.mp4 [-o scores.json]
  python -m exp_jax.evaluate actors --export out/dit_export --transfer out/transfer_export --actors out/actors \\
      --first 32 --count 6 -o out/benchmark

`pairs` prints PSNR, SSIM and L1 with their variant, frame count and coverage. `actors` needs the folder that
`python -m exp_jax.actors` left; --first is the number of the first actor that was not trained on.
"""

import argparse
import json
import pathlib
import sys

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly


def print_table(table: dict[str, dict[str, float]]) -> None:
  """One line a row of {row: {figure: value}}."""
  for row, values in table.items():
    print(f'{row:<34}' + '  '.join(f'{k} {v:8.4f}' if isinstance(v, float) else f'{k} {v}' for k, v in values.items()))


def evaluate_pair(result: pathlib.Path, truth: pathlib.Path) -> dict:
  """PSNR, SSIM, L1 of two videos of equal size and length."""
  import dataclasses

  from exp_jax.media.video import read_video
  from exp_jax.metrics import l1, psnr, ssim
  a, b = read_video(result).frames, read_video(truth).frames
  if a.shape != b.shape:
    raise UserError(f'{str(result)!r} is {len(a)} frames of {a.shape[2]}x{a.shape[1]}, {str(truth)!r} is {len(b)} of '
                    f'{b.shape[2]}x{b.shape[1]}; they must agree')
  return {m.__name__: dataclasses.asdict(m(a / 255.0, b / 255.0)) for m in (psnr, ssim, l1)}


def evaluate_actors(args) -> dict:
  """Scores of a generator on held-out actors, for the `actors` command. Raises UserError for unusable inputs."""
  from exp_jax.heads.densify import densify
  from exp_jax.heads.model import load_head
  from exp_jax.systems.expportrait import actor_benchmark
  from exp_jax.systems.expportrait.sample import load_generator
  from exp_jax.systems.expportrait.transfer import Transfer
  if not (args.actors / 'settings.json').is_file():
    raise UserError(f'{str(args.actors)!r} was not made by `python -m exp_jax.actors`')
  if args.count < 2:
    raise UserError('--count must be at least 2: cross-reenactment needs a driver')
  if args.first < 0 or args.steps < 1:
    raise UserError(f'--first must not be negative and --steps at least 1, got {args.first} and {args.steps}')
  head = load_head('makehuman')
  generator = load_generator(args.export, vae_path=args.vae and str(args.vae))
  transfer = Transfer(args.transfer, head, densify(head, 1))
  cases, offsets = actor_benchmark.run_cases(
    generator, transfer, args.actors, list(range(args.first, args.first + args.count)), steps=args.steps,
    guidance=args.guidance, seed=args.seed)
  results = actor_benchmark.score(cases) | {'offset_error_mm': offsets}
  actor_benchmark.write_results(args.output, cases, results)
  return results


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(dest='command', required=True)
  pairs = commands.add_parser('pairs', help='a video against its truth')
  pairs.add_argument('--result', type=pathlib.Path, required=True)
  pairs.add_argument('--truth', type=pathlib.Path, required=True)
  pairs.add_argument('-o', '--output', type=pathlib.Path, help='JSON to write')
  actors = commands.add_parser('actors', help='a video model on held-out actors')
  for name in ('--export', '--transfer', '--actors'):
    actors.add_argument(name, type=pathlib.Path, required=True)
  actors.add_argument('--vae', type=pathlib.Path, help="autoencoder export, if not where the model's config says")
  actors.add_argument('-o', '--output', type=pathlib.Path, required=True, help='folder for scores, sheets, videos')
  actors.add_argument('--first', type=int, required=True, help='number of the first held-out actor')
  actors.add_argument('--count', type=int, default=6)
  actors.add_argument('--steps', type=int, default=4)
  actors.add_argument('--guidance', type=float, default=1.0)
  actors.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  if args.command == 'pairs':
    table = evaluate_pair(args.result, args.truth)
    print_table(table)
    if args.output:
      args.output.parent.mkdir(parents=True, exist_ok=True)
      args.output.write_text(json.dumps(table, indent=1) + '\n')
    return 0
  results = evaluate_actors(args)
  print_table(results['scores'])
  print(f'control maps of another clip move the result towards it by {results["control_swap_db"]:.2f} dB')
  print('error of the dynamic offsets, mm: ' + ', '.join(f'{k} {v:.4f}' for k, v in results['offset_error_mm'].items()))
  return 0


if __name__ == '__main__':
  sys.exit(main())
