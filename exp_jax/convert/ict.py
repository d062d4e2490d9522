"""ICT-FaceKit's light face model (MIT), read from its folder of OBJ files, as a head of this
program.

  python -m exp_jax.convert.ict ICT-FaceKit/FaceXModel -o assets/heads/ict.npz

100 identity directions (principal components of scans; one unit is one standard deviation), 53
expressions under ARKit's names, the iBUG 68 landmarks. Eyeballs, teeth, tongue, sockets and mouth
cavity are kept; lashes and the sheets of fluid over the eyes are left out. The model has no bones.
They are derived: the eyes turn about the centres of their scleras, the jaw about the axis of the
rigid motion that `jawOpen` makes of the lower teeth, everything else with head and neck as in
MakeHuman's proportions. `jawOpen` and its siblings stay among the expressions as well.

Source: Li et al., Learning Formation of Physically-Based Face Attributes, CVPR 2020; layout of the
mesh: the README of github.com/ICT-VGL/ICT-FaceKit.
"""

import argparse
import json
import pathlib
import time
import warnings

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components

from exp_jax.convert.heads import landmark_transfer
from exp_jax.convert.heads.body_models import guess_regions, summary
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files.digests import file_digest
from exp_jax.geometry import rigid_motion
from exp_jax.heads.head_files import save_head
from exp_jax.heads.model import HeadModel, make_head
from exp_jax.heads.regions import feather, smooth_step

LICENSE = 'MIT licence, Copyright (c) 2020 USC Institute for Creative Technologies (ICT-FaceKit)'
METRES = 0.01
JOINTS = ('neck', 'head', 'jaw', 'left_eye', 'right_eye')
_PARENTS = (-1, 0, 1, 1, 1)
# half-open ranges of vertices in the published layout; what follows the eyeballs is left out
PARTS = {
  'face': (0, 9409),
  'narrow_face': (0, 6706),
  'head': (9409, 11248),
  'mouth': (11248, 13294),
  'sockets': (13294, 14062),
  'gums': (14062, 17039),
  'teeth': (17039, 21451),
  'lower_teeth': (19247, 21451),
  'left_eye': (21451, 23021),
  'left_sclera': (21451, 22221),
  'right_eye': (23021, 24591),
  'right_sclera': (23021, 23791),
}
_VERTICES = 26719
_KEPT = 24591
_STEP = 2.0**-17  # metres, 8 micrometres: directions are rounded to it, which halves the file
_MOST_BYTES = 2**26  # of one OBJ; the real ones have 2.6 MB


def read_obj(path: pathlib.Path, *, faces: bool = False):
  """Vertices [V, 3] of an OBJ file in its own unit; with `faces`, also polygons and their texture
  corners.

  Raises:
    UserError: missing, too large, or lines that are not numbers.
  """
  try:
    if path.stat().st_size > _MOST_BYTES:
      raise UserError(
        f'{path} has {path.stat().st_size >> 20} MB, too many for an OBJ file of this model'
      )
    content = b'\n' + path.read_bytes()
  except FileNotFoundError:
    raise UserError(
      f'no such file: {path}; the folder FaceXModel of ICT-FaceKit is needed'
    ) from None
  try:
    start = content.index(b'\nv ')
    end = content.index(b'\n', content.rindex(b'\nv ') + 1)
    count = content.count(b'\nv ', start, end)
    with warnings.catch_warnings():
      warnings.simplefilter('error')  # numpy only warns of text that is no number
      vertices = np.fromstring(content[start:end].replace(b'\nv ', b' '), sep=' ').reshape(count, 3)
    if not np.isfinite(vertices).all():
      raise ValueError('vertices')
    if not faces:
      return vertices
    lines = content.split(b'\n')
    uv = np.array([line.split()[1:3] for line in lines if line.startswith(b'vt ')], np.float64)
    corners = [
      [c.split(b'/')[:2] for c in line.split()[1:]] for line in lines if line.startswith(b'f ')
    ]
    polygons = [[(int(v) - 1, int(t) - 1) for v, t in corner] for corner in corners]
  except (ValueError, IndexError, DeprecationWarning):
    raise UserError(f'{path} is not an OBJ file of one mesh with numbers only') from None
  if not all(
    len(p) in (3, 4) and all(0 <= v < len(vertices) and 0 <= t < len(uv) for v, t in p)
    for p in polygons
  ):
    raise UserError(
      f'{path} has faces that are no triangles or quads, or corners that do not exist'
    )
  return vertices, uv, polygons


def read_table(path: pathlib.Path) -> tuple[list[str], np.ndarray]:
  """Expression names and the vertex ids [68] of the landmarks, from vertex_indices.json."""
  try:
    table = json.loads(path.read_text())
    names, ids = table['expressions'], np.array(table['idx_to_landmark_verts'])
    plain = all(isinstance(n, str) and n.replace('_', '').isalnum() and n.isascii() for n in names)
  except FileNotFoundError:
    raise UserError(
      f'no such file: {path}; the folder FaceXModel of ICT-FaceKit is needed'
    ) from None
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise UserError(
      f'{path} is not the table of ICT-FaceKit ({type(error).__name__}: {error})'
    ) from None
  if (
    not plain
    or ids.shape != (68,)
    or ids.dtype.kind != 'i'
    or not 0 <= ids.min() <= ids.max() < _KEPT
  ):
    raise UserError(
      f'{path}: expressions are not names, or idx_to_landmark_verts not 68 vertex ids'
    )
  return names, ids


def arkit_name(name: str) -> str:
  """eyeBlink_L -> eyeBlinkLeft."""
  return name.replace('_L', 'Left').replace('_R', 'Right')


def sphere_centre(points: np.ndarray) -> np.ndarray:
  """[3]: centre of the sphere through [N, 3] points in the least-squares sense, without the 20 % in
  front."""
  back = points[points[:, 2] < np.quantile(points[:, 2], 0.8)]
  system = np.concatenate([2 * back, np.ones((len(back), 1))], 1)
  return np.linalg.lstsq(system, (back**2).sum(1), rcond=None)[0][:3]


def jaw(template: np.ndarray, opened: np.ndarray, teeth: slice) -> tuple[np.ndarray, np.ndarray]:
  """Joint [3] in the plane of symmetry and weights [V]: how far each vertex goes along with the
  lower teeth."""
  rotation, shift = rigid_motion(template[teeth], (template + opened)[teeth])
  # a point that stays where it is
  joint = np.linalg.lstsq(np.eye(3) - rotation, shift, rcond=None)[0]
  joint[0] = 0
  whole = template @ rotation.T + shift - template
  # metres; near the axis nothing can be told
  share = (whole * opened).sum(1) / ((whole**2).sum(1) + 0.004**2)
  return joint, np.clip(share, 0, 1)


def _triangles(polygons, texture) -> tuple[np.ndarray, np.ndarray]:
  """(texture coordinates [V, 2], faces [F, 3]) of the polygons that are kept, as fans."""
  uv, faces = np.zeros((_KEPT, 2)), []
  for polygon in polygons:
    ids = [v for v, _ in polygon]
    if max(ids) < _KEPT:
      faces += [[ids[0], ids[k], ids[k + 1]] for k in range(1, len(ids) - 1)]
      uv[ids] = texture[[t for _, t in polygon]]
  return uv, np.array(faces)


def _weights(
  part: dict, on_head: np.ndarray, open_share: np.ndarray, faces: np.ndarray
) -> np.ndarray:
  """[V, J] skinning weights: skin between neck, head and jaw, what is inside the mouth by the jaw,
  eyes and teeth rigid."""
  weights = np.zeros((_KEPT, len(JOINTS)))
  weights[:, 2] = on_head * feather(open_share, faces, rounds=2)
  weights[:, 1] = on_head - weights[:, 2]
  weights[:, 0] = 1 - on_head
  for mask, joint in (
    (part['teeth'] | part['sockets'], 1),
    (part['lower_teeth'], 2),
    (part['left_eye'], 3),
    (part['right_eye'], 4),
  ):
    weights[mask] = np.eye(len(JOINTS))[joint]
  inside, none = part['gums'] | part['mouth'], 0 * open_share
  weights[inside] = np.stack([none, 1 - open_share, open_share, none, none], 1)[inside]
  return weights


def convert(folder) -> HeadModel:
  """Reads the folder FaceXModel, returns a HeadModel (float32) in metres with the head joint at the
  origin."""
  folder = pathlib.Path(folder)
  folder = folder / 'FaceXModel' if (folder / 'FaceXModel').is_dir() else folder
  expressions, landmark_ids = read_table(folder / 'vertex_indices.json')
  whole, texture, polygons = read_obj(folder / 'generic_neutral_mesh.obj', faces=True)
  if len(whole) != _VERTICES:
    raise UserError(
      f'{folder}: the neutral mesh has {len(whole)} vertices, ICT-FaceKit light has {_VERTICES}'
    )

  def direction(name):
    moved = read_obj(folder / f'{name}.obj')
    if moved.shape != whole.shape:
      raise UserError(
        f'{folder}/{name}.obj has {len(moved)} vertices, the neutral mesh {len(whole)}'
      )
    return np.round(METRES * (moved - whole)[:_KEPT] / _STEP) * _STEP

  identities = sorted(path.stem for path in folder.glob('identity[0-9][0-9][0-9].obj'))
  if not identities:
    raise UserError(f'{folder} holds no identity000.obj and following')
  shapes = np.stack([direction(name) for name in identities], -1)
  actions = {arkit_name(name): direction(name) for name in expressions}
  template = METRES * whole[:_KEPT]
  order = np.arange(_KEPT)
  part = {name: (order >= first) & (order < last) for name, (first, last) in PARTS.items()}
  # the eye joints turn the eyeballs; the actions keep what the lids do
  for field in actions.values():
    field[part['left_eye'] | part['right_eye']] = 0

  eyes = [sphere_centre(template[part[f'{side}_sclera']]) for side in ('left', 'right')]
  scale = (eyes[0][0] - eyes[1][0]) / 0.058  # MakeHuman's proportions between eyes, head and neck
  head = np.mean(eyes, 0) - scale * np.array([0, 0.039, 0.074])
  hinge, open_share = jaw(template, actions['jawOpen'], slice(*PARTS['lower_teeth']))
  joints = np.stack([head + scale * np.array([0, -0.101, -0.039]), head, hinge, *eyes]) - head
  template = template - head
  uv, faces = _triangles(polygons, texture)

  y, z = template[:, 1:].T
  on_head = smooth_step(y + 0.058 + 0.4 * (z + 0.06), -0.035, 0.035)
  tongue = _tongue(polygons, template)
  weights = _weights(part, on_head, open_share, faces)

  joint_shape = _joint_shape(part, shapes)
  regions = _regions(part, tongue, template, faces, weights, joints, landmark_ids)
  found = [np.argwhere(faces == vertex)[0] for vertex in landmark_ids]
  return make_head(
    {
      'template': template,
      'faces': faces,
      'uv': uv,
      'weights': weights,
      'shape_basis': shapes,
      'expression_basis': np.stack(list(actions.values()), -1),
      'joint_template': joints,
      'joint_shape': joint_shape,
      'joint_expression': np.zeros((len(JOINTS), 3, len(actions))),
      'landmark_faces': np.array([face for face, _ in found]),
      'landmark_barycentric': np.eye(3)[[corner for _, corner in found]],
    },
    {name: np.asarray(mask, np.float64) for name, mask in regions.items()},
    parents=_PARENTS,
    name='ict',
    license=LICENSE,
    where=str(folder),
    source=f'ICT-FaceKit {folder.name} sha256:{file_digest(folder)}',
    joint_names=JOINTS,
    shape_names=tuple(identities),
    expression_names=tuple(actions),
    landmark_names=tuple(str(k) for k in range(68)),
  )


def _joint_shape(part: dict[str, np.ndarray], shapes: np.ndarray) -> np.ndarray:
  """[J, 3, S] how the joints follow the identities: as what they carry does."""
  carried = (
    part['narrow_face'] | part['head'],
    part['head'],
    part['lower_teeth'],
    part['left_sclera'],
    part['right_sclera'],
  )
  joint_shape = np.zeros((len(JOINTS), 3, shapes.shape[-1]))
  for k, mask in enumerate(carried):
    joint_shape[k] = shapes[mask].mean(0) if k > 1 else 0
  return joint_shape


def _regions(part, tongue, template, faces, weights, joints, landmark_ids) -> dict:
  """{region: [V] in 0..1}."""
  ibug = {str(k): template[v] for k, v in enumerate(landmark_ids)}
  numbers = {name: k for k, name in enumerate(JOINTS)}
  regions = guess_regions(template, faces, weights, joints, numbers, ibug)
  outside, y = part['face'] | part['head'], template[:, 1]
  regions = {name: mask * outside for name, mask in regions.items()}
  brow = max(template[landmark_ids[17:27], 1]) + 0.045
  regions['face'] = np.clip(
    feather(part['narrow_face'] * smooth_step(y, brow, brow - 0.01), faces, rounds=2), 0, 1
  )
  return regions | {
    'eyeballs': part['left_eye'] | part['right_eye'],
    'teeth': part['teeth'],
    'tongue': tongue,
    'inner_mouth': part['mouth'] | (part['gums'] & ~tongue),
  }


def _tongue(polygons, template) -> np.ndarray:
  """[V] bool.

  Tongue and gums are one surface; the tongue is the islands of the texture that stay in the middle.
  """
  first, last = PARTS['gums']
  mine = [p for p in polygons if all(first <= v < last for v, _ in p)]
  vertex_of = {t: v for p in mine for v, t in p}
  sides = np.array([(a[1], b[1]) for p in mine for a, b in zip(p, p[1:] + p[:1])])
  graph = scipy.sparse.coo_matrix((np.ones(len(sides)), sides.T), shape=(max(vertex_of) + 1,) * 2)
  _, label = connected_components(graph, directed=False)
  tongue = np.zeros(len(template), bool)
  for island in np.unique(label[list(vertex_of)]):
    ids = [v for t, v in vertex_of.items() if label[t] == island]
    if len(ids) > 200 and np.abs(template[ids, 0]).max() < 0.0215:
      tongue[ids] = True
  return tongue


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('folder', help='FaceXModel of a checkout of ICT-FaceKit')
  parser.add_argument('-o', '--output', required=True, help='the head to write, .npz')
  landmark_transfer.add_flag(parser)
  options = parser.parse_args(argv)
  started = time.perf_counter()
  head = landmark_transfer.carried(convert(options.folder), options.mediapipe)
  save_head(options.output, head, dtype=np.float16)
  print(summary(options.output, head))
  print(
    f'{pathlib.Path(options.output).stat().st_size / 1e6:.1f} MB, '
    f'{time.perf_counter() - started:.1f} s'
  )


if __name__ == '__main__':
  main()
