"""Draws a head: turntable, wireframe, normals, depth and shading, as PNG files, a contact sheet and
an mp4.

  python -m exp_jax.render assets/heads/makehuman.npz -o out/head      # any head npz
  python -m exp_jax.render procedural --expression cheekPuff=1 -o out/head
  python -m exp_jax.render makehuman --params subjects/ann.npz --frame 10 -o out/ann

Leaves <view>.png for each view from the front, contact_sheet.png (views by angles) and
turntable.mp4 (shaded, normals and wireframe side by side). Exit status: 0 done, 2 bad command line
or head file.
"""

import argparse
import math
import pathlib

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly, one_line


def _arguments(argv):
  raw = argparse.RawDescriptionHelpFormatter
  parser = ArgumentParser('python -m exp_jax.render', description=__doc__, formatter_class=raw)
  add = parser.add_argument
  add('head', help="a head npz, or the name 'procedural' or 'makehuman'")
  add('-o', '--output', required=True, type=pathlib.Path, help='folder to fill')
  add('--size', type=int, default=512, help='pixels of a side (default 512)')
  add('--frames', type=int, default=48, help='frames of the turn, 0 = no video (default 48)')
  add('--params', metavar='SUBJECT', help='a subject npz of this head: shape, pose, offsets')
  add('--frame', type=int, default=0, help='which frame of the subject (default 0)')
  named = 'an expression by its name in the head file; repeat for more'
  add('--expression', action='append', default=[], metavar='NAME=VALUE', help=named)
  arguments = parser.parse_args(argv)
  if arguments.params and arguments.expression:
    raise UserError('--params brings the expression of its frame: give it or --expression')
  if not 16 <= arguments.size <= 4096 or arguments.frames < 0:
    raise UserError(
      f'--size lies in 16..4096 and --frames from 0, got {arguments.size}, {arguments.frames}'
    )
  return arguments


def _posed(head, expressions):
  """Vertices [V, 3] of the head at rest with the named expressions, its faces, rest positions."""
  from exp_jax.heads import head_vertices, neutral_params

  params = neutral_params(head)
  for item in expressions:
    name, _, value = item.partition('=')
    if name not in head.expression_names:
      known = ', '.join(head.expression_names) or 'none'
      raise UserError(f'{head.name} has no expression {name!r}; it has: {known}')
    try:
      amount = float(value)
    except ValueError:
      raise UserError(f'--expression {item!r} is not NAME=VALUE with a number') from None
    at = head.expression_names.index(name)
    params = params.replace(expression=params.expression.at[at].set(amount))
  return head_vertices(head, params), head.faces, head.template


def _personal(head, path, frame):
  """Vertices [N, 3] of one frame of a subject file, the dense faces, rest positions."""
  import jax.numpy as jnp

  from exp_jax.heads.densify import densify
  from exp_jax.heads.personalized import check_head, load_subject, subject_vertices

  subject = load_subject(path)
  if not 0 <= frame < subject.num_frames:
    raise UserError(f'{path} has frames 0 to {subject.num_frames - 1}, got --frame {frame}')
  dense = densify(head, subject.levels)
  check_head(subject, head, dense)
  rest = jnp.einsum('nkc,nk->nc', head.template[dense.coarse_ids], dense.barycentric)
  return subject_vertices(head, dense, subject, frame), dense.faces, rest


@exits_cleanly
def main(argv=None):
  arguments = _arguments(argv)
  import numpy as np
  from tqdm import tqdm

  from exp_jax.heads import load_head
  from exp_jax.media.images import contact_sheet, write_image
  from exp_jax.media.video import write_video
  from exp_jax.rendering.topology import Topology
  from exp_jax.rendering.views import VIEWS, views

  head = load_head(arguments.head)
  if arguments.params:
    vertices, faces, rest = _personal(head, arguments.params, arguments.frame)
  else:
    vertices, faces, rest = _posed(head, arguments.expression)
  topology = Topology.from_faces(np.asarray(faces), positions=np.asarray(rest))
  size = (arguments.size, arguments.size)

  def seen_from(yaw):
    pictures = views(vertices, topology, yaw, size)
    return {k: np.rint(np.asarray(pictures[k]) * 255).astype(np.uint8) for k in VIEWS}

  front = seen_from(0.0)
  for name, picture in front.items():
    write_image(arguments.output / f'{name}.png', picture)
  turned = [front, *(seen_from(math.radians(angle)) for angle in (35, 90, 180))]
  sheet = [pictures[name] for pictures in turned for name in VIEWS]
  write_image(arguments.output / 'contact_sheet.png', contact_sheet(sheet, columns=len(VIEWS)))
  if arguments.frames:
    angles = 2 * math.pi * np.arange(arguments.frames) / arguments.frames
    frames = (
      np.concatenate([pictures[k] for k in ('shaded', 'normals', 'wireframe')], 1)
      for pictures in map(seen_from, tqdm(angles, desc='turntable', unit='frame'))
    )
    write_video(arguments.output / 'turntable.mp4', frames, 24)
  print(
    f'{one_line(head.name)}: {len(vertices):,} vertices, {len(faces):,} faces -> {arguments.output}'
  )


if __name__ == '__main__':
  main()
