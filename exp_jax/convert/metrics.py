"""Published weights of the networks that metrics look through, as folders that `evaluate --weights`
finds.

  python -m exp_jax.convert.metrics lpips alexnet-owt-7be5be79.pth alex.pth -o metrics_weights/lpips_alex
  python -m exp_jax.convert.metrics lpips vgg16-397923af.pth vgg.pth -o metrics_weights/lpips_vgg
  python -m exp_jax.convert.metrics inception pt_inception-2015-12-05-6726825d.pth -o metrics_weights/inception
  python -m exp_jax.convert.metrics i3d i3d_pretrained_400.pt -o metrics_weights/i3d
  python -m exp_jax.convert.metrics arcface backbone.pth -o metrics_weights/arcface
  python -m exp_jax.convert.metrics smirk SMIRK_em1.pt -o metrics_weights/smirk
  python -m exp_jax.convert.metrics l2cs L2CSNet_gaze360.pkl -o metrics_weights/l2cs
  python -m exp_jax.convert.metrics deep3d epoch_20.pth -o metrics_weights/deep3d
  python -m exp_jax.convert.metrics vgg19 vgg19-dcbb9e9d.pth -o metrics_weights/vgg19      for training with a perceptual loss

Nothing in the files is run. Every tensor is used once or named in report.json as left out; anything
else is an error that lists it. The folder appears complete, with SHA-256 digests, or not at all.
Licences are those of the files: several of them (ArcFace, SMIRK, L2CS, Deep3D) allow research only.
"""

import argparse
import json
import pathlib
import sys

from exp_jax.convert.metric_weights.metrics_files import read_tensors
from exp_jax.convert.metric_weights.metrics_tables import TABLES
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files import manifest
from exp_jax.files.digests import file_digest
from exp_jax.files.safetensors import write_safetensors
from exp_jax.networks.weights import FORMAT


def convert(kind: str, files: list, output, **options) -> dict:
  """Writes the weights of `files`, read together, as a folder; returns its config.

  Args:
    kind: a key of `metrics_tables.TABLES`; options: of its function.

  Raises:
    UserError: unreadable or foreign files, two files with one name, or the output exists.
  """
  tensors = {}
  for path in files:
    found = read_tensors(path)
    if twice := sorted(set(found) & set(tensors)):
      raise UserError(f'{path} and another file both hold {twice[0]!r}; give each file once')
    tensors |= found
  where = ' and '.join(pathlib.Path(path).name for path in files)
  sizes, book, report = TABLES[kind](tensors, where, **options)
  config = dict(
    format=FORMAT,
    network=kind,
    sizes=sizes,
    parameters=book.count(),
    source={pathlib.Path(p).name: file_digest(p) for p in files},
  )
  with manifest.new_folder(output) as folder:
    write_safetensors(folder / 'params.safetensors', book.leaves, {'format': FORMAT})
    (folder / 'config.json').write_text(json.dumps(config, indent=1) + '\n')
    (folder / 'report.json').write_text(json.dumps(report, indent=0) + '\n')
  return config


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('kind', choices=sorted(TABLES))
  parser.add_argument(
    'files', nargs='+', help='.pth, .pt, .pkl or .safetensors; lpips takes the trunk and the heads'
  )
  parser.add_argument('-o', '--output', required=True, help='the folder to make')
  parser.add_argument(
    '--eps',
    type=float,
    help="i3d: the batch norms' epsilon (default: 1e-5 for names with .bn., as FVD's "
    'users run that file, 1e-3 for names with .batch3d.; 1e-3 also for rgb_imagenet.pt)',
  )
  options = parser.parse_args(argv)
  more = {}
  if options.eps is not None:
    if options.kind != 'i3d':
      raise UserError('--eps is for i3d only; the other networks have one value')
    more['eps'] = options.eps
  config = convert(options.kind, options.files, options.output, **more)
  print(
    f'{options.output}: {options.kind}, {config["sizes"]}, {config["parameters"] / 1e6:.1f} '
    'million parameters'
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())
