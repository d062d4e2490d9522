"""MagicPortrait's published weights, in and out.

  python -m exp_jax.convert.magicportrait import FOLDER -o DIR --prompt prompt.npz --vae weights/sd_vae_ft_mse
  python -m exp_jax.convert.magicportrait export DIR -o FOLDER2

FOLDER holds six files: denoising_unet.pth, reference_unet.pth, guidance_encoder_depth.pth,
_normal.pth, _render.pth and motion_module-*.pth, of torch.save or safetensors. Their publisher
names no licence, so that all rights are reserved: use is your own responsibility, and nothing of
them is here. DIR is an export for `exp_jax.animate --engine magicportrait --export DIR`. --prompt
is the embedding of the one sentence
(`exp_jax.convert.sd prompts FOLDER -o prompt.npz --prompt "A close up of a person."`), --vae the
converted autoencoder. The weights were trained on maps of FLAME heads: name a converted one when
animating, by --head.
"""

import argparse
import runpy

from exp_jax.convert.magicportrait.magic_conversion import convert, export
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files.resources import top_level_file


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(
    prog='python -m exp_jax.convert.magicportrait',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest='command', required=True)
  one = commands.add_parser('import', help='theirs -> ours')
  one.add_argument('source', help='the folder of six files')
  one.add_argument('-o', '--output', required=True, help='the folder to write')
  one.add_argument('--prompt', required=True, help='npz with the embedding of the sentence')
  one.add_argument('--vae', required=True, help='folder of the converted autoencoder')
  one.add_argument('--dtype', choices=('bfloat16', 'float32'), default='bfloat16')
  two = commands.add_parser('export', help='ours -> safetensors')
  two.add_argument('source')
  two.add_argument('-o', '--output', required=True, help='the folder to write')
  options = parser.parse_args(argv)
  if options.command == 'export':
    for file in export(options.source, options.output):
      print(file)
    return 0
  get_config = runpy.run_path(str(top_level_file('configs') / 'magicportrait.py'))['get_config']
  config = get_config('stage2').copy_and_resolve_references().unlock()
  # what any machine computes; the bytes are the same
  config.model.attention, config.model.dtype = 'xla', 'float32'
  # weights and motion modules are here, and nothing is left to be started from
  config.model.weights = config.model.motion_weights = 'scratch'
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
