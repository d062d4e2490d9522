"""LivePortrait's published files into ours, and back.

  python -m exp_jax.convert.liveportrait weights FOLDER -o DIR       FOLDER has base_models/ and retargeting_models/
  python -m exp_jax.convert.liveportrait weights ANIMALS -o DIR --animals --retargeting HUMAN/retargeting_models
  python -m exp_jax.convert.liveportrait export DIR -o FOLDER        the same names again, as safetensors
  python -m exp_jax.convert.liveportrait template d1.pkl -o d1.npz   a motion template, for `animate -d d1.npz`

Files are .pth (torch's zip format, read without running anything in them) or .safetensors. A
conversion counts only if every tensor is used once and every leaf of the networks is filled once;
DIR/report.json lists them, DIR/manifest.json has digests.
"""

import argparse
import json
import pathlib

import jax
import numpy as np

from exp_jax.convert.liveportrait_weights import liveportrait_names as names
from exp_jax.convert.liveportrait_weights.liveportrait_files import open_nested, read_template
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files import manifest
from exp_jax.files.digests import file_digest
from exp_jax.files.safetensors import flattened, write_safetensors
from exp_jax.networks.weights import FORMAT, load_weights
from exp_jax.systems.liveportrait.models import PARTS, init_params, networks
from exp_jax.systems.liveportrait.motion.templates import save_template
from exp_jax.systems.liveportrait.pipeline_options import INPUT

FILES = {
  'appearance': 'appearance_feature_extractor',
  'motion': 'motion_extractor',
  'warping': 'warping_module',
  'generator': 'spade_generator',
}
RETARGETING = 'stitching_retargeting_module'
GROUPS = {'stitching': 'retarget_shoulder', 'eyes': 'retarget_eye', 'lip': 'retarget_mouth'}


def leaf_shapes(nets, part: str) -> dict[str, tuple[int, ...]]:
  """{path: shape} of one network's parameters; nothing is computed."""
  tree = jax.eval_shape(lambda: init_params(nets, jax.random.key(0), (part,)))[part]
  return {name: tuple(leaf.shape) for name, leaf in flattened(tree).items()}


def _find(folder: pathlib.Path, stem: str) -> pathlib.Path:
  for place in (
    folder,
    folder / 'base_models',
    folder / 'base_models_v1.1',
    folder / 'retargeting_models',
  ):
    for suffix in ('.pth', '.safetensors'):
      if (place / f'{stem}{suffix}').is_file():
        return place / f'{stem}{suffix}'
  raise UserError(
    f'{folder} has no {stem}.pth, neither itself nor in base_models/ or retargeting_models/'
  )


def state_dicts(folder: pathlib.Path, retargeting: pathlib.Path | None):
  """{part: ({name: shape}, read, path)} of the published files in a folder."""
  found = {}
  for part, stem in FILES.items():
    path = _find(folder, stem)
    file = open_nested(path)
    found[part] = (file.shapes, file.read, path)
  path = _find(retargeting or folder, RETARGETING)
  file = open_nested(path)
  for part, group in GROUPS.items():
    own = {}
    for name in file.shapes:
      if name.startswith(f'{group}.'):
        own[name[len(group) + 1 :].removeprefix('module.')] = name
    found[part] = (
      {n: file.shapes[full] for n, full in own.items()},
      lambda n, own=own, file=file: file.read(own[n]),
      path,
    )
  return found


def convert(
  folder, output, *, retargeting=None, animals: bool = False, variant: str = 'base'
) -> dict:
  """Converts the five files to a folder of our weights, which appears complete or not at all;
  returns its report.

  Raises:
    UserError: a file, a tensor or a shape is not as published; or the output exists.
  """
  nets = networks(variant)
  sources = state_dicts(pathlib.Path(folder), retargeting and pathlib.Path(retargeting))
  arrays, report, totals = {}, {}, {}
  for part in PARTS:
    shapes, read, path = sources[part]
    rules, leaves = names.rules_of(nets, part), leaf_shapes(nets, part)
    own, used = names.read_part(rules, leaves, shapes, read, str(path))
    bad = [name for name, value in own.items() if not np.isfinite(value).all()]
    if bad:
      raise UserError(f'{path}: {bad[0]} has values that are not finite')
    arrays |= {f'{part}.{name}': value for name, value in own.items()}
    report[part] = dict(
      file=path.name,
      tensors=len(shapes),
      parameters=names.learned(names.expected(rules, leaves)),
      filled=used,
    )
    totals[str(path)] = path
  config = dict(
    format=FORMAT,
    network='liveportrait',
    sizes=dict(variant=variant, norm='folded'),
    animals=animals,
    source={p.name: file_digest(p) for p in totals.values()},
  )
  with manifest.new_folder(output) as place:
    write_safetensors(place / 'params.safetensors', arrays, {'format': FORMAT})
    (place / 'config.json').write_text(json.dumps(config, indent=1) + '\n')
    (place / 'report.json').write_text(json.dumps(report, indent=1) + '\n')
  return report


def export(path, output) -> None:
  """Our weights as five safetensors files in the published names; see `liveportrait_names` for what
  stays folded."""
  weights = load_weights(path, 'liveportrait')
  if weights.sizes.get('norm', 'folded') != 'folded':
    raise UserError(
      f'{path} was trained with group norms, which the published networks do not have'
    )
  nets = networks(weights.sizes['variant'])
  own = lambda part: {
    n.removeprefix(f'{part}.'): np.asarray(v)
    for n, v in weights.arrays.items()
    if n.startswith(f'{part}.')
  }
  with manifest.new_folder(output) as place:
    for part, stem in FILES.items():
      write_safetensors(
        place / f'{stem}.safetensors',
        names.write_part(names.rules_of(nets, part), own(part)),
        {'format': 'pt'},
      )
    together = {}
    for part, group in GROUPS.items():
      tensors = names.write_part(names.rules_of(nets, part), own(part))
      together |= {f'{group}.module.{name}': value for name, value in tensors.items()}
    write_safetensors(place / f'{RETARGETING}.safetensors', together, {'format': 'pt'})


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(
    prog='python -m exp_jax.convert.liveportrait',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest='command', required=True)
  weights = commands.add_parser('weights', help='published weights into ours')
  weights.add_argument('folder', type=pathlib.Path)
  weights.add_argument(
    '--retargeting',
    type=pathlib.Path,
    help='folder of stitching_retargeting_module.pth, if elsewhere',
  )
  weights.add_argument(
    '--animals', action='store_true', help='weights tuned on animals: absolute motion by default'
  )
  weights.add_argument('--variant', choices=sorted(INPUT), default='base', help=argparse.SUPPRESS)
  out = commands.add_parser('export', help='ours into the published names')
  out.add_argument('folder', type=pathlib.Path)
  template = commands.add_parser('template', help='a motion template (.pkl) as .npz')
  template.add_argument('folder', metavar='file', type=pathlib.Path)
  for command in (weights, out, template):
    command.add_argument('-o', '--output', type=pathlib.Path, required=True)
  args = parser.parse_args(argv)
  if args.command == 'template':
    if args.output.suffix != '.npz':
      raise UserError(f'the output {str(args.output)!r} must end in .npz')
    found = read_template(args.folder)
    save_template(args.output, found)
    print(
      f'{args.output}: {len(found.motion.scale)} frames at {found.rate} a second'
      + ('' if found.eyes is not None else ', without eye and lip ratios')
    )
    return 0
  if not args.folder.is_dir():
    raise UserError(f'there is no folder {str(args.folder)!r}')
  if args.command == 'export':
    export(args.folder, args.output)
    print(f'{args.output}: five files in the published names')
    return 0
  report = convert(
    args.folder,
    args.output,
    retargeting=args.retargeting,
    animals=args.animals,
    variant=args.variant,
  )
  for part, line in report.items():
    print(
      f'{part:11} {line["tensors"]:4} tensors  {line["parameters"]:11,} parameters  {line["file"]}'
    )
  print(f'{args.output}: every tensor used once, every leaf filled once')
  return 0


if __name__ == '__main__':
  raise SystemExit(main())
