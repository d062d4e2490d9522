"""Scores generated videos against their truth or their driver and portrait, or a video model on
synthetic actors.

  python -m exp_jax.evaluate --protocol=expportrait-self --result out/videos --truth clips -o out/eval
  python -m exp_jax.evaluate --protocol=expportrait-cross --result out/a.mp4 --driving d.mp4 --reference p.jpg -o out/eval
  python -m exp_jax.evaluate pairs --result out/a.mp4 --truth b.mp4 [-o scores.json]
  python -m exp_jax.evaluate actors --export out/dit_export --transfer out/transfer_export --actors out/actors \\
      --first 32 --count 6 -o out/benchmark

The first form takes a video or a folder of videos, which find their counterparts by name (a.mp4
with a.mp4, or portrait--driver.mp4), and leaves scores.json, table.md (the paper's layout, its
numbers beside ours), sheet.png and clips.json (which clips, frames and digests the scores are
of; --clips takes it back). `animate` writes the square of a portrait: the record beside the result
says which, and the truth is cut and sampled by it; --write_truth DIR keeps what it was compared
with. Results without a record are refused, unless --framing=same says that they show what their
truths show. expportrait-self and -cross compare results whose *drivers* were sampled with a stride
of 4 (animate --driving_stride 4); --stride N wants another. Metrics
look through networks: `exp-jax setup --metrics` fetches those of LPIPS and CSIM (dlib), which
everybody may use; the others need weights of one's own (--weights, see
`python -m exp_jax.convert.metrics --help`). The report says of each figure which network made it,
and of each that is missing what to run; the '(exp_jax fit)' metrics, from our own landmarks and
head model, stand without. It goes on where it was interrupted. `pairs` prints PSNR, SSIM and L1 of
two videos as they are, or as a record says. `actors` needs the folder that
`python -m exp_jax.actors` left; --first is the number of the first actor that was not trained on.
Exit status: 0 all measured, 2 bad input, or at least one clip failed (each is named).
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import sys

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files.atomic import write_text
from exp_jax.files.locks import only_one
from exp_jax.files.resources import metric_weights

FRAMINGS = ('record', 'same')


def print_table(table: dict[str, dict[str, float]]) -> None:
  """One line a row of {row: {figure: value}}."""
  for row, values in table.items():
    print(
      f'{row:<34}'
      + '  '.join(
        f'{k} {v:8.4f}' if isinstance(v, float) else f'{k} {v}' for k, v in values.items()
      )
    )


def evaluate_pair(result: pathlib.Path, truth: pathlib.Path) -> dict:
  """PSNR, SSIM, L1 of two videos of equal size and length, or of a result and the part of its truth
  that its record names."""
  from exp_jax.media.video import read_frames
  from exp_jax.metrics import pooled
  from exp_jax.metrics.evaluation.pairs import Pair, windows
  from exp_jax.metrics.evaluation.probes import Window, pixels
  from exp_jax.metrics.framing import Framing, framing_of
  from exp_jax.performance.results import read_record

  shape = lambda path: (sum(1 for _ in read_frames(path)), *next(read_frames(path))[0].shape[:2])
  framing = (
    framing_of(result, truth, kind='self') if 'square' in (read_record(result) or {}) else Framing()
  )
  a, b = shape(result), shape(truth)
  if framing == Framing() and a != b:
    raise UserError(
      f'{str(result)!r} is {a[0]} frames of {a[2]}x{a[1]}, {str(truth)!r} is {b[0]} of '
      f'{b[2]}x{b[1]}; they must '
      'agree'
    )
  found = [
    pixels(Window('self', x, y), wanted=('psnr', 'ssim', 'l1'))[0]
    for x, y in windows(Pair('', result, truth), kind='self', size=None, framing=framing)
  ]
  return {
    name: dataclasses.asdict(pooled([scores[name] for scores in found]))
    for name in ('psnr', 'ssim', 'l1')
  }


def evaluate_actors(args) -> dict:
  """Scores of a generator on held-out actors, for the `actors` command.

  Raises UserError for unusable inputs.
  """
  from exp_jax.actors import load_stage
  from exp_jax.heads.trained_head import check_trained_on
  from exp_jax.systems.expportrait.evaluation import actor_benchmark
  from exp_jax.systems.expportrait.generator.loading import load_generator
  from exp_jax.systems.expportrait.generator.sampling_options import NAMES
  from exp_jax.systems.expportrait.transfer.network import Transfer

  if not (args.actors / 'settings.json').is_file():
    raise UserError(f'{str(args.actors)!r} was not made by `python -m exp_jax.actors`')
  if args.count < 2:
    raise UserError('--count must be at least 2: cross-reenactment needs a driver')
  if args.first < 0:
    raise UserError(f'--first must not be negative, got {args.first}')
  stage = load_stage(args.head)
  head = stage.assets.head
  check_trained_on(args.export, head, what='the video model', otherwise='train one on this head')
  generator = load_generator(args.export, vae_path=args.vae and str(args.vae))
  sampling = dataclasses.asdict(
    generator.sampling(streamed=False, **{name: getattr(args, name) for name in NAMES})
  )
  transfer = Transfer(args.transfer, head, stage.assets.dense)
  cases, offsets = actor_benchmark.run_cases(
    generator,
    transfer,
    args.actors,
    list(range(args.first, args.first + args.count)),
    seed=args.seed,
    stage=stage,
    **sampling,
  )
  results = actor_benchmark.score(cases) | {'offset_error_mm': offsets, 'sampling': sampling}
  actor_benchmark.write_results(args.output, cases, results)
  return results


def own_tools(stack: contextlib.ExitStack, landmarks: bool, head_name: str = 'makehuman'):
  """What is set up here: the landmark sidecar (ended by `stack`) and the head model, or why they
  are not there."""
  from exp_jax.fitting.coefficients import HeadFollower, LandmarkFollower
  from exp_jax.heads.head_files import load_head
  from exp_jax.heads.model import head_digest
  from exp_jax.metrics.evaluation.job import Tools
  from exp_jax.observe.landmarks import ESTIMATOR, FaceEstimator

  if not landmarks:
    return Tools(lacking=dict.fromkeys(('landmarks', 'fit'), 'left out by --no_landmarks'))
  try:
    estimator = stack.enter_context(FaceEstimator())
  except UserError as error:
    return Tools(lacking=dict.fromkeys(('landmarks', 'fit'), f'needs landmarks: {error}'))
  look = lambda name: LandmarkFollower(estimator, name)
  try:
    head = load_head(head_name)
  except UserError as error:
    if head_name != 'makehuman':  # asked for, so its absence is no note but a fault
      raise
    return Tools(look=look, lacking={'fit': f'needs a head model: {error}'}, digest=ESTIMATOR)
  return Tools(
    look, lambda name: HeadFollower(head, name), head, digest=f'{ESTIMATOR} {head_digest(head)}'
  )


def evaluate_clips(args) -> int:
  """The `clips` command: status 0, or 2 if a clip failed. Raises UserError for unusable inputs."""
  from exp_jax.metrics.evaluation.job import evaluate
  from exp_jax.metrics.evaluation.protocols import PROTOCOLS

  if args.protocol not in PROTOCOLS:
    raise UserError(f'there is no protocol {args.protocol!r}; choose one of {", ".join(PROTOCOLS)}')
  kind = PROTOCOLS[args.protocol].kind
  needed, others = (
    (('truth',), ('driving', 'reference'))
    if kind == 'self'
    else (('driving', 'reference'), ('truth',))
  )
  for name in needed:
    if getattr(args, name) is None:
      raise UserError(
        f'{args.protocol} needs --{name}; it compares with the {" and the ".join(needed)}'
      )
  for name in others:
    if getattr(args, name) is not None:
      raise UserError(
        f'{args.protocol} has no use for --{name}; it compares with the {" and the ".join(needed)}'
      )
  if args.seam_every < 0 or args.stride is not None and args.stride < 1:
    raise UserError(
      f'--seam_every must not be negative and --stride at least 1, got {args.seam_every} and '
      f'{args.stride}'
    )
  for name, given in (
    ('framing', args.framing != 'record'),
    ('write_truth', args.write_truth is not None),
  ):
    if given and kind == 'cross':
      raise UserError(
        f'{args.protocol} has no use for --{name}: a driver may show another place than the result'
      )
  if args.weights is not None and not args.weights.is_dir():
    raise UserError(
      f'--weights {str(args.weights)!r} is no folder; see `python -m exp_jax.convert.metrics '
      '--help`'
    )
  weights = (args.weights or pathlib.Path('metrics_weights'), metric_weights())
  with contextlib.ExitStack() as stack:
    stack.enter_context(only_one(args.output, folder=True))
    table, failed = evaluate(
      args.result,
      args.truth or args.driving,
      args.reference,
      args.output,
      protocol=args.protocol,
      weights=weights,
      tools=own_tools(stack, not args.no_landmarks, args.head),
      real=args.real,
      seam_every=args.seam_every,
      stride=args.stride,
      face_crop=args.face_crop,
      framing=args.framing,
      clip_list=args.clips,
      truths=args.write_truth,
      again=args.again,
    )
  print(table)
  print(f'{args.output}/: scores.json, clips.json, table.md, sheet.png')
  if failed:
    print(f'{len(failed)} clips failed', file=sys.stderr)
  return 2 if failed else 0


def _clips_parser(commands) -> argparse.ArgumentParser:
  """`evaluate clips`."""
  clips = commands.add_parser('clips', help='videos under a protocol (the default command)')
  clips.add_argument(
    '--protocol',
    required=True,
    help='all-self, all-cross, expportrait-, liveportrait-, loki-self or -cross, '
    'magicportrait-self or -cross',
  )
  clips.add_argument(
    '--result', type=pathlib.Path, required=True, help='generated video, or a folder of them'
  )
  for name, what in (
    ('truth', 'self: true video or folder'),
    ('driving', 'cross: driving video or folder'),
    ('reference', 'cross: portrait or folder'),
    ('real', 'folder of real faces, for FID'),
    (
      'weights',
      'folder of converted weights (default metrics_weights); what it lacks is taken from where '
      'set-up '
      'puts them',
    ),
  ):
    clips.add_argument(f'--{name}', type=pathlib.Path, help=what)
  clips.add_argument(
    '-o', '--output', type=pathlib.Path, required=True, help='folder for the report'
  )
  clips.add_argument(
    '--seam_every',
    type=int,
    default=0,
    help='frames from seam to seam of windows, if the video has any',
  )
  clips.add_argument(
    '--stride',
    type=int,
    metavar='N',
    help='drivers must have been sampled with this stride (default 4 for '
    'expportrait, any for the other protocols)',
  )
  clips.add_argument(
    '--framing',
    choices=FRAMINGS,
    default='record',
    help='record: the truth is cut as the record beside the result '
    'says (default); same: result and truth show the same part of the picture already',
  )
  clips.add_argument(
    '--write_truth',
    type=pathlib.Path,
    metavar='DIR',
    help='self: also write the truths, cut and sampled as the '
    'results are, for other tools; they serve as --truth too',
  )
  clips.add_argument(
    '--clips',
    type=pathlib.Path,
    metavar='FILE',
    help='a clips.json of an earlier run: these clips and frames',
  )
  clips.add_argument(
    '--face_crop', action='store_true', help='compare a square about the head, not whole frames'
  )
  clips.add_argument('--no_landmarks', action='store_true', help='only metrics that need no face')
  clips.add_argument(
    '--again', action='store_true', help='measure clips again that are done already'
  )
  return clips


def _actors_parser(commands) -> argparse.ArgumentParser:
  """`evaluate actors`."""
  actors = commands.add_parser('actors', help='a video model on held-out actors')
  for name in ('--export', '--transfer', '--actors'):
    actors.add_argument(name, type=pathlib.Path, required=True)
  actors.add_argument(
    '--vae', type=pathlib.Path, help="autoencoder export, if not where the model's config says"
  )
  actors.add_argument(
    '-o', '--output', type=pathlib.Path, required=True, help='folder for scores, sheets, videos'
  )
  actors.add_argument('--first', type=int, required=True, help='number of the first held-out actor')
  actors.add_argument('--count', type=int, default=6)
  for name, kind in (
    ('sampler', str),
    ('steps', int),
    ('guidance', float),
    ('reference_guidance', float),
    ('overlap', int),
  ):
    actors.add_argument(
      f'--{name}', type=kind, help="in place of the export's choice, as of exp_jax.animate"
    )
  actors.add_argument('--seed', type=int, default=0)
  return actors


@exits_cleanly
def main(argv=None):
  argv = list(sys.argv[1:] if argv is None else argv)
  if argv and argv[0].startswith('--') and argv[0] not in ('--help', '-h'):
    argv = ['clips', *argv]
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(dest='command', required=True)
  clips = _clips_parser(commands)
  pairs = commands.add_parser('pairs', help='a video against its truth')
  pairs.add_argument('--result', type=pathlib.Path, required=True)
  pairs.add_argument('--truth', type=pathlib.Path, required=True)
  pairs.add_argument('-o', '--output', type=pathlib.Path, help='JSON to write')
  actors = _actors_parser(commands)
  for command in (clips, actors):
    command.add_argument(
      '--head',
      default='makehuman',
      metavar='FILE',
      help='head model that is fitted, or that the actors have (default makehuman)',
    )
  args = parser.parse_args(argv)
  if args.command == 'clips':
    return evaluate_clips(args)
  if args.command == 'pairs':
    from exp_jax.metrics import Score
    from exp_jax.metrics.evaluation.clips import as_json

    table = evaluate_pair(args.result, args.truth)
    print_table(table)
    if args.output:
      args.output.parent.mkdir(parents=True, exist_ok=True)
      write_text(
        args.output,
        json.dumps({name: as_json(Score(**score)) for name, score in table.items()}, indent=1)
        + '\n',
      )
    return 0
  results = evaluate_actors(args)
  print_table(results['scores'])
  print(
    f'control maps of another clip move the result towards it by {results["control_swap_db"]:.2f} '
    'dB'
  )
  print(
    'error of the dynamic offsets, mm: '
    + ', '.join(f'{k} {v:.4f}' for k, v in results['offset_error_mm'].items())
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())
