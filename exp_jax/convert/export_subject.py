"""Writes a subject as a mesh that other programs open: OBJ or PLY of one frame, glTF of one or all.

  python -m exp_jax.convert.export_subject subjects/anna.npz -o anna.ply --frame 12
  python -m exp_jax.convert.export_subject subjects/anna.npz -o anna.glb --animated

The dense mesh, metres, y up, z out of the face; the camera that saw it stands at the origin and
looks along -z, as glTF's does. Albedo becomes vertex colours where the subject has it. The
animation is a set of morph targets and their weights over time, played at the subject's frame rate:
the principal motions of the clip, as many as keep every vertex within 0.02 mm in every frame.
"""

import argparse
import pathlib

import numpy as np
import trimesh

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files.atomic import replacing
from exp_jax.heads.densify import Dense, densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject, check_head, load_subject, subject_vertices

SUFFIXES = ('.obj', '.ply', '.glb')
_TOLERANCE = 2e-5  # metres; morph targets are dropped as long as no vertex moves further
_FLOAT = 5126  # glTF's code of float32


def frame_mesh(
  head: HeadModel, dense: Dense, subject: Subject, frame: int, *, linear: bool = False
):
  """One frame as a trimesh, vertex order kept.

  Colours are sRGB, or linear light (glTF's) if `linear`.
  """
  mesh = trimesh.Trimesh(
    np.asarray(subject_vertices(head, dense, subject, frame)),
    np.asarray(dense.faces),
    process=False,
  )
  if subject.albedo is not None:
    light = np.clip(np.asarray(subject.albedo, np.float64), 0, 1)
    curved = np.where(
      light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-6) ** (1 / 2.4) - 0.055
    )
    mesh.visual.vertex_colors = np.round(255 * (light if linear else curved)).astype(np.uint8)
  return mesh


def principal_motions(vertices: np.ndarray, *, tolerance: float = _TOLERANCE):
  """Few displacement fields whose mixes are all frames.

  Args:
    vertices: [T, N, 3] metres. tolerance: metres, of any coordinate of any vertex in any frame.

  Returns:
    mean [N, 3], targets [K, N, 3], weights [T, K] in -1..1: vertices = mean + weights targets.
  """
  mean = vertices.mean(0)
  residual = (vertices - mean).reshape(len(vertices), -1).astype(np.float64)
  targets, weights = [], []
  if len(vertices) > 1:
    _, motions = np.linalg.eigh(residual @ residual.T)
    for motion in motions.T[::-1]:  # the largest first
      if np.abs(residual).max() <= tolerance:
        break
      size = np.abs(motion).max()
      target = (motion @ residual) * size
      residual -= (motion / size)[:, None] * target
      targets.append(target.reshape(mean.shape))
      weights.append(motion / size)
  return (
    mean,
    np.array(targets).reshape(-1, *mean.shape),
    np.array(weights).T.reshape(len(vertices), -1),
  )


def animated_glb(head: HeadModel, dense: Dense, subject: Subject) -> bytes:
  """A .glb of all frames: mean mesh, morph targets, weights over time."""
  vertices = np.stack(
    [np.asarray(subject_vertices(head, dense, subject, t)) for t in range(subject.num_frames)]
  )
  mean, targets, weights = principal_motions(vertices)
  mesh = frame_mesh(head, dense, subject, 0, linear=True)
  mesh.vertices = mean
  times = np.arange(subject.num_frames) / subject.fps

  def add_animation(buffers, tree):
    """trimesh's hook: buffers and accessors are dictionaries whose order is their number."""

    def add(name, values, kind):
      values = np.ascontiguousarray(values, '<f4')
      buffers[name] = values.tobytes()
      rows = values.reshape(-1, values.shape[-1] if kind == 'VEC3' else 1)
      tree['accessors'][name] = {
        'bufferView': len(buffers) - 1,
        'componentType': _FLOAT,
        'type': kind,
        'count': len(rows),
        'byteOffset': 0,
        'min': rows.min(0).tolist(),
        'max': rows.max(0).tolist(),
      }
      return len(tree['accessors']) - 1

    primitive = tree['meshes'][0]['primitives'][0]
    primitive['targets'] = [
      {'POSITION': add(f'motion {k}', target, 'VEC3')} for k, target in enumerate(targets)
    ]
    tree['meshes'][0]['weights'] = weights[0].tolist()
    node = next(k for k, node in enumerate(tree['nodes']) if node.get('mesh') == 0)
    tree['animations'] = [
      {
        'name': subject.subject_id,
        'samplers': [
          {
            'input': add('times', times, 'SCALAR'),
            'output': add('weights', weights, 'SCALAR'),
            'interpolation': 'LINEAR',
          }
        ],
        'channels': [{'sampler': 0, 'target': {'node': node, 'path': 'weights'}}],
      }
    ]

  hook = add_animation if len(targets) else None
  return trimesh.exchange.gltf.export_glb(
    trimesh.Scene(mesh), include_normals=True, buffer_postprocessor=hook
  )


def export_subject(
  subject: Subject, head: HeadModel, output: pathlib.Path, *, frame: int = 0, animated: bool = False
) -> None:
  """Writes `output` (.obj, .ply, .glb), whole or not at all.

  Raises:
    UserError: another suffix, no such frame, an animation that is not .glb, or another head.
  """
  suffix = output.suffix.lower()
  if suffix not in SUFFIXES:
    raise UserError(f'{output} must end in {", ".join(SUFFIXES)}')
  if animated and suffix != '.glb':
    raise UserError(f'{output}: only .glb can hold an animation; choose that, or one --frame')
  if not 0 <= frame < subject.num_frames:
    raise UserError(
      f'{subject.subject_id} has frames 0..{subject.num_frames - 1}, there is no frame {frame}'
    )
  dense = densify(head, subject.levels)
  check_head(subject, head, dense)
  if animated:
    content = animated_glb(head, dense, subject)
  else:
    content = frame_mesh(head, dense, subject, frame, linear=suffix == '.glb').export(
      file_type=suffix[1:]
    )
  content = content.encode() if isinstance(content, str) else content
  with replacing(output) as partial:
    partial.write_bytes(content)


@exits_cleanly
def main(argv=None):
  """See the top of this file."""
  parser = ArgumentParser(
    prog='python -m exp_jax.convert.export_subject',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('subject', type=pathlib.Path, help='subject file, .npz')
  parser.add_argument('-o', '--output', required=True, type=pathlib.Path, help='.obj, .ply or .glb')
  parser.add_argument('--head', help='head file, where it is not the one that the subject names')
  which = parser.add_mutually_exclusive_group()
  which.add_argument('--frame', type=int, default=0, help='which frame (default 0)')
  which.add_argument('--animated', action='store_true', help='all frames; .glb only')
  options = parser.parse_args(argv)
  subject = load_subject(options.subject)
  if options.head is None and subject.head_name not in ('procedural', 'makehuman'):
    raise UserError(
      f'{options.subject} was made with the head {subject.head_name!r}; give its file by --head'
    )
  head = load_head(options.head or subject.head_name)
  export_subject(subject, head, options.output, frame=options.frame, animated=options.animated)
  frames = (
    f'{subject.num_frames} frames at {subject.fps:g} a second'
    if options.animated
    else f'frame {options.frame}'
  )
  print(f'{options.output}: {frames}, {options.output.stat().st_size / 1e6:.1f} MB')


if __name__ == '__main__':
  main()
