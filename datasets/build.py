"""Builds a dataset from files that you have placed in a folder, as ArrayRecords; neither here nor
later is TensorFlow needed.

  python datasets/build.py hdtf --manual_dir ~/footage/hdtf --data_dir out/tfds
  python datasets/build.py vfhq --manual_dir ~/footage/vfhq --data_dir out/tfds --beam DirectRunner \\
      --beam_options direct_num_workers=8
  python -m exp_jax.prepare --dataset out/tfds/hdtf/1.0.0 --split train -o out/shards

What belongs in --manual_dir is told by datasets/NAME/README.md. Clips that cannot be used are left
out and named in <data_dir>/NAME/build_report.jsonl. Exit status: 0 built, 2 nothing to build from.
"""

import argparse
import importlib
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly  # noqa: E402

NAMES = tuple(sorted(path.parent.name for path in HERE.glob('*/*_dataset_builder.py')))


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('name', choices=NAMES)
  parser.add_argument('--manual_dir', type=pathlib.Path, required=True, help='where the files are')
  parser.add_argument('--data_dir', type=pathlib.Path, required=True, help='where the records go')
  parser.add_argument(
    '--beam', metavar='RUNNER', help="share the work out by Apache Beam, such as 'DirectRunner'"
  )
  parser.add_argument('--beam_options', default='', help='of Beam, key=value separated by commas')
  args = parser.parse_args(argv)
  if not args.manual_dir.is_dir():
    raise UserError(
      f'there is no folder {str(args.manual_dir)!r}; datasets/{args.name}/README.md tells what '
      'belongs there'
    )
  import tensorflow_datasets as tfds

  module = importlib.import_module(f'{args.name}.{args.name}_dataset_builder')
  builder = module.Builder(data_dir=str(args.data_dir), file_format='array_record')
  config = tfds.download.DownloadConfig(manual_dir=str(args.manual_dir))
  if args.beam:
    try:
      from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
      raise UserError('--beam needs Apache Beam; run `pip install apache-beam`') from None
    builder.use_beam = True
    config.beam_runner = args.beam
    config.beam_options = PipelineOptions(
      [f'--{option}' for option in args.beam_options.split(',') if option]
    )
  try:
    builder.download_and_prepare(download_config=config)
  except AssertionError as error:  # how TFDS says that files are missing
    raise UserError(' '.join(str(error).split())) from None
  for split, info in builder.info.splits.items():
    print(f'{split}: {info.num_examples} clips')
  report = args.data_dir / args.name / 'build_report.jsonl'
  if report.is_file():
    print(f'{len(report.read_text().splitlines())} clips left out, see {report}', file=sys.stderr)
  print(f'{builder.data_dir}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
