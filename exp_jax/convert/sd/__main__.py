"""Stable Diffusion 1.5 and 2.1 weights, in and out: UNets, autoencoders, motion modules.

  python -m exp_jax.convert.sd import SOURCE -o DIR [--network sd_unet|sd_vae|sd_motion] [--dtype keep]
  python -m exp_jax.convert.sd export DIR -o DIR2 [--names diffusers|ldm|animatediff]     back to safetensors
  python -m exp_jax.convert.sd check SOURCE                                               names and shapes only
  python -m exp_jax.convert.sd prompts FOLDER -o prompts.npz --prompt "..."               the embedding of one sentence

SOURCE: a folder of diffusers, whole (unet/, vae/) or one of its parts; a safetensors file or a file
of torch.save with the names of diffusers or of the first release, where all networks may lie in one
file; AnimateDiff's motion modules in either spelling. --network says which network is meant where
there are several. A conversion is accepted only if every tensor is used once and every leaf of the
network is filled once; DIR/report.json lists them. No UNet's file tells what it was trained to
predict (noise or velocity): it is read from scheduler/ of a whole folder, or given
with --prediction. `prompts` needs torch and transformers.
"""

import argparse
import contextlib

from exp_jax.convert.sd import sd_names
from exp_jax.convert.sd.sd_conversion import convert, export, read_plan, sizes_of
from exp_jax.convert.sd.sd_files import find_network
from exp_jax.convert.sd.sd_prompts import write_prompts
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly


def _heads(text: str) -> tuple[int, ...]:
  try:
    return tuple(int(n) for n in text.split(','))
  except ValueError:
    raise UserError(
      f'--heads is {text!r}, one number or one for each level was expected, such as 5,10,20,20'
    ) from None


def _parser() -> ArgumentParser:
  parser = ArgumentParser(
    prog='python -m exp_jax.convert.sd',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest='command', required=True)
  one = commands.add_parser('import', help='others -> ours')
  one.add_argument('source')
  one.add_argument('-o', '--output', required=True, help='the folder to write')
  one.add_argument('--dtype', choices=('keep', 'bfloat16', 'float16', 'float32'), default='keep')
  one.add_argument(
    '--prediction',
    choices=('eps', 'v', 'x0'),
    help='what the UNet predicts, where no scheduler tells',
  )
  two = commands.add_parser('export', help='ours -> safetensors')
  two.add_argument('source')
  two.add_argument('-o', '--output', required=True, help='the folder to write')
  two.add_argument(
    '--names',
    choices=sorted({name for names in sd_names.SCHEMES.values() for name in names}),
    default='diffusers',
  )
  three = commands.add_parser('check', help='names and shapes only')
  three.add_argument('source')
  for sub in (one, three):
    sub.add_argument(
      '--network', choices=tuple(sd_names.SCHEMES), help='which, where the source holds several'
    )
    sub.add_argument(
      '--heads',
      type=_heads,
      help='attention heads, or those of each level (5,10,20,20), where no config.json tells',
    )
    sub.add_argument('--part', help='which dictionary of a torch.save file that holds several')
  four = commands.add_parser('prompts', help='one sentence -> npz')
  four.add_argument('source', help='a folder of diffusers with text_encoder/ and tokenizer/')
  four.add_argument('-o', '--output', required=True, help='the npz file to write')
  four.add_argument('--prompt', required=True, help='the sentence')
  four.add_argument('--negative', default='', help='the sentence of guidance, empty by default')
  return parser


@exits_cleanly
def main(argv=None):
  options = _parser().parse_args(argv)
  if options.command == 'import':
    config = convert(
      options.source,
      options.output,
      network=options.network,
      dtype=options.dtype,
      heads=options.heads,
      prediction=options.prediction,
      part=options.part,
    )
    print(
      f'{options.output}: {config["network"]}, {config["tensors"]} tensors used once, every leaf '
      'filled once'
    )
    if config.get('prediction') == 'unknown':
      print(
        'what it predicts is not known here: say it with --prediction, or to whoever uses the '
        'weights'
      )
  elif options.command == 'export':
    print(f'{export(options.source, options.output, names=options.names)}: {options.names} names')
  elif options.command == 'prompts':
    shapes = write_prompts(
      options.source, options.output, {'positive': options.prompt, 'negative': options.negative}
    )
    print(f'{options.output}: ' + ', '.join(f'{name} {shape}' for name, shape in shapes.items()))
  else:
    found = find_network(options.source, options.network, part=options.part)
    with contextlib.closing(found.source):
      plan = read_plan(found, options.heads, options.source)
    print(
      f'{options.source}: {found.network}, {found.scheme} names, {len(plan.pieces)} tensors, '
      f'{len(plan.left_out)} left out; '
      + ', '.join(f'{name} {value}' for name, value in sizes_of(found.network, plan.model).items())
    )
  return 0


if __name__ == '__main__':
  raise SystemExit(main())
