"""Animated glTF for artists: a subject or motion file as a rigged head with textures, named
expressions and their curves.

  python -m exp_jax convert.export_gltf subjects/ann.npz -o ann.glb
  python -m exp_jax convert.export_gltf motion.npz -o ann.glb --mesh head --all

One skinned mesh in metres, +Y up, +Z out of the face, +X to the person's left (glTF's own frame;
Blender's importer turns it to its +Z up). The head joint of the first frame stands at the origin;
what the head moves afterwards is in the curves.

  skin          the joints of the head model, four weights a vertex; rotations and translations with the clip's times
  targets       expressions by the head's own names, those that the clip uses (--all: every one), with weight curves in 0..1,
                which Blender holds them in; NAME_reverse where an expression also goes the other
                way. detail0, detail1, ... carry pose correctives and dynamic offsets by their
                principal components
  materials     skin, eyes, teeth, mouth, by the head's regions
  textures      albedo of the subject, if it has one, baked over the head's uv. With --mesh head a normal map shows the
                static offsets that the coarse triangles cannot; with --mesh dense they are in the
                geometry
  uv            the head's; for a head without, skin is rolled off a cylinder (exp_jax/convert/gltf/unwrap.py)

What the format cannot carry is counted and printed, and stands in the file's extras: the largest
distance from our own vertices. The result falls under the licence of the head, which is in the
file's copyright.
"""

import argparse
import io
import pathlib

import numpy as np
from PIL import Image

from exp_jax.convert.gltf.glb import Buffer
from exp_jax.convert.gltf.rig import Rig, make_rig
from exp_jax.convert.gltf.textures import baked, normal_map, srgb, tangents, unit_normals
from exp_jax.convert.gltf.unwrap import Unwrapped, keep, unwrap
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files.atomic import replacing
from exp_jax.heads.densify import Dense, densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject, check_head, load_subject

MATERIALS = {  # name -> regions, colour where no albedo is known, roughness
  'skin': ((), (0.75, 0.55, 0.47), 0.5),
  'eyes': (('eyeballs',), (0.85, 0.85, 0.85), 0.05),
  'teeth': (('teeth',), (0.85, 0.8, 0.72), 0.2),
  'mouth': (('inner_mouth', 'tongue'), (0.5, 0.2, 0.2), 0.35),
}


def parts_of(head: HeadModel, faces: np.ndarray, regions: dict) -> np.ndarray:
  """[G] the number of each face's material."""
  parts = np.zeros(len(faces), int)
  for number, (names, _, _) in enumerate(MATERIALS.values()):
    for name in names:
      if name in regions:
        parts[(np.asarray(regions[name])[faces] > 0.5).sum(1) >= 2] = number
  return parts


def export_gltf(
  subject: Subject,
  head: HeadModel,
  *,
  whole: bool = True,
  all_expressions: bool = False,
  texture: int = 1024,
  most_detail: int = 16,
) -> tuple[bytes, Rig]:
  """The file's bytes and what it carries.

  Args:
    subject: person and frames.
    head: of the subject.
    whole: all dense vertices, or the head model's own with a normal map for what they leave out.
    all_expressions: every expression as a target.
    texture: pixels of a side.
    most_detail: components of pose correctives and dynamic offsets at most.

  Raises:
    UserError: another head.
  """
  dense = densify(head, subject.levels)
  check_head(subject, head, dense)
  rig = make_rig(
    head, dense, subject, all_expressions=all_expressions, whole=whole, most_detail=most_detail
  )
  regions = {name: np.asarray(mask)[: len(rig.vertices)] for name, mask in dense.regions.items()}
  parts = parts_of(head, rig.faces, regions)
  if head.uv is not None:
    layout = keep(np.asarray(dense.uv)[: len(rig.vertices)], rig.faces)
  else:
    layout = unwrap(rig.vertices - rig.places[rig.joint_names.index('head')], rig.faces, parts)
  buffer = Buffer()
  tree = {
    'asset': {
      'version': '2.0',
      'generator': 'exp_jax',
      'copyright': head.license,
      'extras': _extras(subject, head, rig),
    },
    'scene': 0,
  }
  tree |= _materials(buffer, head, dense, subject, rig, layout, texture=texture, whole=whole)
  tree |= _mesh(buffer, rig, layout, parts)
  tree |= _skeleton(buffer, rig)
  tree |= _animation(buffer, rig)
  return buffer.finish(tree), rig


def _extras(subject: Subject, head: HeadModel, rig: Rig) -> dict:
  return {
    'subject': subject.subject_id,
    'head': head.name,
    'head_digest': subject.head_digest,
    'unit': 'metre',
    'up': '+Y',
    'forward': '+Z, out of the face',
    'left': "+X, the person's",
    'frames_per_second': subject.fps,
    'origin_in_head_frame': rig.origin.tolist(),
    'detail_targets': rig.detail,
    'target_units': list(rig.target_units),
    'largest_error_metres': round(rig.error, 8),
  }


def _png(pixels: np.ndarray) -> bytes:
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, format='PNG')
  return stream.getvalue()


def _materials(
  buffer: Buffer,
  head: HeadModel,
  dense: Dense,
  subject: Subject,
  rig: Rig,
  layout: Unwrapped,
  *,
  texture: int,
  whole: bool,
) -> dict:
  """Images, textures and materials."""
  images = {}
  if subject.albedo is not None:
    colours = subject.albedo[: len(rig.vertices)][layout.source]
    drawn = (colours, layout.uv, layout.faces)
    if not whole and head.uv is not None:  # the dense mesh knows more of the colours
      drawn = (subject.albedo, np.asarray(dense.uv), np.asarray(dense.faces))
    images['albedo'] = srgb(baked(*drawn, texture))
  if not whole and head.uv is not None:
    images['normals'] = _normals_of(head, dense, subject, rig, texture)
  numbers = {name: buffer.add_image(_png(pixels), name) for name, pixels in images.items()}
  order = {name: k for k, name in enumerate(numbers)}
  materials = []
  for name, (_, colour, roughness) in MATERIALS.items():
    surface = {'metallicFactor': 0.0, 'roughnessFactor': roughness}
    if 'albedo' in order:
      surface['baseColorTexture'] = {'index': order['albedo']}
    else:
      surface['baseColorFactor'] = [*colour, 1.0]
    material = {'name': name, 'pbrMetallicRoughness': surface, 'doubleSided': name != 'eyes'}
    if name == 'skin' and 'normals' in order:
      material['normalTexture'] = {'index': order['normals']}
    materials.append(material)
  made = {'materials': materials}
  if numbers:
    made |= {
      'textures': [{'source': k, 'sampler': 0} for k in numbers.values()],
      'samplers': [{'magFilter': 9729, 'minFilter': 9987, 'wrapS': 33071, 'wrapT': 33071}],
    }
  return made


def _normals_of(head: HeadModel, dense: Dense, subject: Subject, rig: Rig, size: int) -> np.ndarray:
  """The normal map of the offsets, seen from the head model's own triangles."""
  ids, shares = np.asarray(dense.coarse_ids), np.asarray(dense.barycentric, np.float64)
  raised = lambda values: np.einsum('nkc,nk->nc', values[ids], shares)
  # the coarse shape without offsets: what the offsets add to it is the detail
  shape = np.asarray(head.template) + np.asarray(head.shape_basis) @ subject.shape
  fine = raised(shape.astype(np.float64)) + subject.static_offsets
  coarse = unit_normals(rig.vertices, rig.faces)
  along = tangents(rig.vertices, coarse, np.asarray(head.uv), rig.faces)
  return normal_map(
    unit_normals(fine, np.asarray(dense.faces)),
    raised(coarse),
    raised(along.astype(np.float64)),
    np.asarray(dense.uv),
    np.asarray(dense.faces),
    size,
  )


def _mesh(buffer: Buffer, rig: Rig, layout: Unwrapped, parts: np.ndarray) -> dict:
  """The mesh: one piece for each material that has faces; all share their vertices."""
  source = layout.source
  base = unit_normals(rig.vertices, rig.faces)
  along = tangents(rig.vertices[source], base[source], layout.uv, layout.faces)
  attributes = {
    'POSITION': buffer.add(rig.vertices[source], bounds=True, vertices=True),
    'NORMAL': buffer.add(base[source].astype(np.float32), vertices=True),
    'TANGENT': buffer.add(along, vertices=True),
    'TEXCOORD_0': buffer.add((layout.uv * [1, -1] + [0, 1]).astype(np.float32), vertices=True),
    'JOINTS_0': buffer.add(rig.joints[source], vertices=True),
    'WEIGHTS_0': buffer.add(rig.weights[source], vertices=True),
  }
  targets = []
  for field in rig.targets:
    turned = unit_normals(rig.vertices + field, rig.faces) - base
    targets.append(
      {
        'POSITION': buffer.add(field[source], bounds=True, vertices=True),
        'NORMAL': buffer.add(turned[source].astype(np.float32), vertices=True),
      }
    )
  primitives = []
  for number in np.unique(parts):
    indices = buffer.add(layout.faces[parts == number].reshape(-1).astype(np.uint32), indices=True)
    piece = {'attributes': attributes, 'indices': indices, 'material': int(number)}
    primitives.append(piece | ({'targets': targets} if targets else {}))
  mesh = {'name': 'head', 'primitives': primitives}
  if targets:
    mesh |= {'weights': rig.curves[0].tolist(), 'extras': {'targetNames': list(rig.target_names)}}
  return {'meshes': [mesh]}


def _skeleton(buffer: Buffer, rig: Rig) -> dict:
  """Nodes: the joints, then the mesh; the skin."""
  nodes = []
  for joint, name in enumerate(rig.joint_names):
    children = [k for k, parent in enumerate(rig.parents) if parent == joint]
    node = {
      'name': name,
      'translation': rig.translations[0, joint].tolist(),
      'rotation': rig.rotations[0, joint].tolist(),
    }
    nodes.append(node | ({'children': children} if children else {}))
  inverse = np.tile(np.eye(4, dtype=np.float32), (len(rig.places), 1, 1))
  inverse[:, 3, :3] = -rig.places  # columns come first
  skin = {
    'name': 'head',
    'joints': list(range(len(rig.places))),
    'skeleton': 0,
    'inverseBindMatrices': buffer.add(inverse),
  }
  nodes.append({'name': 'head', 'mesh': 0, 'skin': 0})
  return {'nodes': nodes, 'skins': [skin], 'scenes': [{'nodes': [0, len(rig.places)]}]}


def _animation(buffer: Buffer, rig: Rig) -> dict:
  """Curves of every joint and of the targets; none of a single frame."""
  if len(rig.times) < 2:
    return {}
  times = buffer.add(rig.times, bounds=True)
  samplers, channels = [], []

  def curve(node, path, values):
    samplers.append(
      {'input': times, 'output': buffer.add(values.astype(np.float32)), 'interpolation': 'LINEAR'}
    )
    channels.append({'sampler': len(samplers) - 1, 'target': {'node': node, 'path': path}})

  for joint in range(len(rig.places)):
    curve(joint, 'rotation', rig.rotations[:, joint])
    if np.ptp(rig.translations[:, joint], axis=0).max() > 0:
      curve(joint, 'translation', rig.translations[:, joint])
  if len(rig.targets):
    curve(len(rig.places), 'weights', rig.curves.reshape(-1))
  return {'animations': [{'name': 'clip', 'samplers': samplers, 'channels': channels}]}


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(
    prog='exp-jax convert.export_gltf',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('subject', type=pathlib.Path, help='subject or motion file, .npz')
  parser.add_argument('-o', '--output', required=True, type=pathlib.Path, help='.glb')
  parser.add_argument('--head', help='head file, where it is not the one that the subject names')
  parser.add_argument(
    '--mesh',
    choices=('head', 'dense'),
    default='dense',
    help="the head model's own triangles and a normal map, or all triangles (default dense)",
  )
  parser.add_argument(
    '--all',
    action='store_true',
    help='a target for every expression, not only for those that are used',
  )
  parser.add_argument(
    '--texture', type=int, default=1024, help='pixels of a side of the textures (default 1024)'
  )
  parser.add_argument(
    '--detail',
    type=int,
    default=16,
    metavar='N',
    help='targets for pose correctives and dynamic offsets at most; 0 leaves them out (default 16)',
  )
  options = parser.parse_args(argv)
  if options.output.suffix.lower() != '.glb':
    raise UserError(f'the output {str(options.output)!r} must end in .glb')
  if not 16 <= options.texture <= 8192 or not 0 <= options.detail <= 256:
    raise UserError(
      f'--texture must be in 16..8192 and --detail in 0..256, got {options.texture} and '
      f'{options.detail}'
    )
  subject = load_subject(options.subject)
  head = load_head(options.head or subject.head_name)
  content, rig = export_gltf(
    subject,
    head,
    whole=options.mesh == 'dense',
    all_expressions=options.all,
    texture=options.texture,
    most_detail=options.detail,
  )
  with replacing(options.output) as partial:
    partial.write_bytes(content)
  print(
    f'{options.output}: {len(rig.times)} frames, {len(rig.vertices)} vertices, '
    f'{len(rig.target_names)} targets ({rig.detail} of '
    f'detail), {len(content) / 1e6:.1f} MB; its vertices lie at most {1e3 * rig.error:.4f} mm '
    'beside ours'
  )
  return 0


if __name__ == '__main__':
  main()
