"""Checkpoints of Loki's published code, in and out.

  python -m exp_jax.convert.loki import SOURCE.ckpt -o DIR --prompt empty_prompt.npz --vae weights/sd21_vae
  python -m exp_jax.convert.loki export DIR -o FILE.safetensors

No weights are published; this reads what that code's training leaves. DIR is an export for
`exp_jax.animate --engine loki --export DIR`. --prompt is the embedding of the empty sentence
(`exp_jax.convert.sd prompts FOLDER -o empty_prompt.npz --prompt ""`), --vae the converted
autoencoder of Stable Diffusion 2.1. Name the FLAME model that the checkpoint was trained on when
animating, by --head.
"""

import argparse
import runpy

from exp_jax.convert.loki.loki_conversion import convert, export
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files.resources import top_level_file


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(
    prog='python -m exp_jax.convert.loki',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest='command', required=True)
  one = commands.add_parser('import', help='theirs -> ours')
  one.add_argument('source')
  one.add_argument('-o', '--output', required=True, help='the folder to write')
  one.add_argument('--prompt', required=True, help='npz with the embedding of the empty sentence')
  one.add_argument('--vae', required=True, help='folder of the converted autoencoder')
  one.add_argument('--dtype', choices=('bfloat16', 'float32'), default='bfloat16')
  two = commands.add_parser('export', help='ours -> safetensors')
  two.add_argument('source')
  two.add_argument('-o', '--output', required=True, help='the file to write')
  options = parser.parse_args(argv)
  if options.command == 'export':
    print(f'{export(options.source, options.output)}: the names of the published code')
    return 0
  config = (
    runpy.run_path(str(top_level_file('configs') / 'loki.py'))['get_config']()
    .copy_and_resolve_references()
    .unlock()
  )
  # what any machine computes; the bytes are the same
  config.model.attention, config.model.dtype = 'xla', 'float32'
  if not options.vae:
    raise UserError('--vae names the converted autoencoder')
  convert(
    options.source,
    options.output,
    config.lock(),
    prompt=options.prompt,
    vae=options.vae,
    dtype=options.dtype,
  )
  print(f'{options.output}: every tensor used once, every leaf filled once')
  return 0


if __name__ == '__main__':
  raise SystemExit(main())
