"""Turns a training folder into an inference export: averaged parameters in bfloat16 and their
config.

  python -m exp_jax.export --workdir out/smoke -o out/smoke_export [--safetensors]

The newest checkpoint that verifies is taken. Every file of the export is digested; `load_export`
checks.
"""

import logging
import pathlib

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files.locks import only_one


def export(workdir: pathlib.Path, output: pathlib.Path) -> int:
  """Writes the export and returns the step it holds."""
  from exp_jax.catalog.tasks import load_task
  from exp_jax.training import checkpoints, exports, loop, sharding
  from exp_jax.training.state import merge

  saved = checkpoints.Checkpoints(workdir / 'checkpoints')
  step = saved.latest_verified()
  if step is None:
    raise UserError(f'{workdir} has no finished checkpoint to export')
  if not (workdir / 'config.json').is_file():
    raise UserError(
      f'{workdir} has lost its config.json; run the training command again, it writes it anew'
    )
  config = exports.config_from_json((workdir / 'config.json').read_text())
  module, task = load_task(config)
  mesh = sharding.make_mesh(config.mesh)
  like, frozen = loop.abstract_state(config, task, mesh)
  state, _ = saved.restore(step, like)
  files = getattr(module, 'export_files', lambda config: {})(config)
  texts = getattr(module, 'export_texts', lambda config: {})(config)
  config = exports.without_places(config, output)
  exports.write_export(
    output,
    config,
    merge(state.ema, saved.restore_frozen(frozen) if frozen else {}),
    files=files,
    texts=texts,
  )
  return step


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__.partition('\n\n')[0])
  parser.add_argument(
    '--workdir', type=pathlib.Path, required=True, help='a folder of exp_jax.train'
  )
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True, help='a new folder')
  parser.add_argument('--safetensors', action='store_true', help='also write params.safetensors')
  args = parser.parse_args(argv)
  for name in ('absl', 'asyncio'):  # Orbax logs tracebacks of what it raises as well
    logging.getLogger(name).setLevel(logging.CRITICAL)
  with only_one(args.output, folder=False):
    step = export(args.workdir, args.output)
    if args.safetensors:
      from exp_jax.training.exports import write_safetensors

      write_safetensors(args.output)
  print(f'{args.output}: parameters of step {step}')


if __name__ == '__main__':
  main()
