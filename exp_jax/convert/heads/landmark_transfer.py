"""Gives a converted head MediaPipe's 478 landmarks, found by shape: the default head is bent onto
it.

  python -m exp_jax convert.landmarks assets/heads/flame.npz -o assets/heads/flame.npz

The converters of SMPL-X, FLAME and ICT do it by themselves where the default head is set up. That
head knows where the landmarks lie. Its own shape directions bring it near (`registration.bend`);
what they cannot say is a smooth displacement u of its skin, solved for again and again against the
nearest points whose normals agree, each time less stiff:

  sum_i w_i |x_i + u_i - p_i|^2  +  stiffness sum_edges |u_i - u_j|^2  +  sum_k w |marks_k(x + u) -
  marks_k(head)|^2

Every landmark of the skin is then carried to the nearest point of the head. The irises lie on the
eyeballs: their directions from the centre of the eye are the default head's, and the point is where
the ray leaves the other eyeball. Nothing of any model but the head's own file is stored.

Source: Amberg et al., Optimal step nonrigid ICP algorithms for surface registration, 2007, with
displacements for affine
maps. Letters: K landmarks, V vertices of the default head.
"""

import argparse
import dataclasses
import sys

import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from exp_jax.convert.heads.registration import (
  Bent,
  bend,
  inside_of,
  nearest_on_triangles,
  normals_of,
)
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly, one_line
from exp_jax.geometry.meshes import unique_edges
from exp_jax.heads.head_files import load_head, save_head
from exp_jax.heads.model import HeadModel

COUNT = 478
IRISES = {'left_eye': range(473, 478), 'right_eye': range(468, 473)}
_STIFFNESS = (30.0, 10.0, 4.0, 1.5, 0.6, 0.3, 0.3, 0.3)
_FARTHEST = (0.02, 0.015, 0.01, 0.008, 0.006, 0.005, 0.005, 0.005)  # metres, of a counterpart
_MARK = 3.0  # weight of a landmark that both have
_LOST = 0.01  # metres; a landmark farther from the head than this after bending was not found


@dataclasses.dataclass(frozen=True)
class Found:
  """Where the landmarks are: faces [478], barycentric [478, 3], and how far [478] metres the bent
  head was from them."""

  faces: np.ndarray
  barycentric: np.ndarray
  distance: np.ndarray


def find_landmarks(head: HeadModel, reference: HeadModel) -> Found:
  """Registers `reference`, which has MediaPipe's landmarks, to `head`.

  Args:
    head: with landmarks of any named set (four or more shared ones), and eyeballs.
    reference: the default head.

  Raises:
    UserError: too few shared landmarks, no eyeballs, or shapes that do not meet.
  """
  if len(reference.landmark_names) != COUNT:
    raise UserError(
      f'the head {reference.name!r}, from which landmarks are carried over, has '
      f'{len(reference.landmark_names)} of '
      f'them, not {COUNT}'
    )
  if 'eyeballs' not in head.regions or not (np.asarray(head.regions['eyeballs']) > 0.5).any():
    raise UserError(f'the head {head.name!r} has no eyeballs, on which MediaPipe marks the irises')
  bent = bend(head, reference)
  vertices = _wrapped(bent, reference)
  corners = np.asarray(reference.faces)[np.asarray(reference.landmark_faces)]
  shares = np.asarray(reference.landmark_barycentric, np.float64)
  normals = normals_of(vertices, np.asarray(reference.faces))
  at = np.einsum('kcd,kc->kd', vertices[corners], shares)
  facing = np.einsum('kcd,kc->kd', normals[corners], shares)
  facing /= np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-12)
  outer = np.flatnonzero(~inside_of(head)[np.asarray(head.faces)].any(1))
  faces, barycentric, distance = nearest_on_triangles(at, facing, bent.moved, bent.open_faces)
  faces = outer[faces]
  for eye, ids in IRISES.items():
    ids = [reference.landmark_names.index(str(k)) for k in ids]
    faces[ids], barycentric[ids], distance[ids] = _on_eyeball(
      head, reference, eye, corners[ids], shares[ids]
    )
  lost = np.flatnonzero(~(distance < _LOST))
  if len(lost) > COUNT // 20:
    raise UserError(
      f'{len(lost)} of {COUNT} landmarks of {reference.name!r} have no counterpart on '
      f'{head.name!r} within '
      f'{1e3 * _LOST:.0f} mm; do its own landmarks lie where their names say?'
    )
  order = [reference.landmark_names.index(str(k)) for k in range(COUNT)]
  return Found(faces[order], barycentric[order], distance[order])


def _wrapped(bent: Bent, reference: HeadModel) -> np.ndarray:
  """[V, 3] the reference laid close upon the head."""
  faces, chosen = np.asarray(reference.faces), bent.chosen
  number = np.full(len(bent.vertices), -1)
  number[chosen] = np.arange(len(chosen))
  edges = number[unique_edges(faces)]
  edges = edges[(edges >= 0).all(1)]
  count = len(chosen)
  row = np.repeat(np.arange(len(edges)), 2)
  difference = scipy.sparse.csr_matrix(
    (np.tile([1.0, -1.0], len(edges)), (row, edges.ravel())), (len(edges), count)
  )
  smooth = difference.T @ difference
  ids, shares = bent.marks[1]
  known = (number[ids] >= 0).all(1)
  marks = scipy.sparse.csr_matrix(
    (shares[known].ravel(), (np.repeat(np.arange(known.sum()), 3), number[ids[known]].ravel())),
    (int(known.sum()), count),
  )
  goal = np.einsum('kcd,kc->kd', bent.moved[bent.marks[0][0][known]], bent.marks[0][1][known])
  rest, vertices = bent.vertices[chosen], bent.vertices.copy()
  for stiffness, farthest in zip(_STIFFNESS, _FARTHEST):
    face, weights, distance = nearest_on_triangles(
      vertices[chosen], normals_of(vertices, faces)[chosen], bent.moved, bent.open_faces
    )
    trust = bent.importance[chosen] * (distance < farthest)
    aim = np.einsum('kcd,kc->kd', bent.moved[bent.open_faces[face]], weights)
    system = (
      scipy.sparse.diags(trust)
      + stiffness * smooth
      + _MARK * marks.T @ marks
      + 1e-6 * scipy.sparse.identity(count)
    )
    right = trust[:, None] * (aim - rest) + _MARK * marks.T @ (goal - marks @ rest)
    vertices[chosen] = rest + scipy.sparse.linalg.splu(system.tocsc()).solve(right)
  return vertices


def _on_eyeball(
  head: HeadModel, reference: HeadModel, eye: str, corners: np.ndarray, shares: np.ndarray
):
  """Faces, weights and distances on the head's eyeball of points [K] that are on the reference's,
  seen from its centre."""
  place = lambda model: np.asarray(model.joint_template, np.float64)[
    model.joint(eye, purpose='for the irises')
  ]
  points = np.einsum('kcd,kc->kd', np.asarray(reference.template, np.float64)[corners], shares)
  direction = points - place(reference)
  template, faces = np.asarray(head.template, np.float64), np.asarray(head.faces)
  centre, own = place(head), np.asarray(head.weights)[:, head.joint(eye)] > 0.5
  ball = np.flatnonzero((own & (np.asarray(head.regions['eyeballs']) > 0.5))[faces].all(1))
  if not len(ball):
    raise UserError(f'no eyeball of the head {head.name!r} turns with its joint {eye!r}')
  radius = np.median(np.linalg.norm(template[np.unique(faces[ball])] - centre, axis=1))
  direction /= np.linalg.norm(direction, axis=1, keepdims=True)
  face, weights, distance = nearest_on_triangles(
    centre + radius * direction, direction, template, faces[ball]
  )
  return ball[face], weights, distance


def with_mediapipe_landmarks(head: HeadModel, reference: HeadModel) -> tuple[HeadModel, Found]:
  """`head` with the 478 landmarks in place of its own, and how they were found; its contour stays.

  Raises:
    UserError: as `find_landmarks`.
  """
  found = find_landmarks(head, reference)
  return head.replace(
    landmark_faces=jnp.asarray(found.faces, jnp.int32),
    landmark_barycentric=jnp.asarray(found.barycentric, head.template.dtype),
    landmark_names=tuple(str(k) for k in range(COUNT)),
  ), found


def add_flag(parser: argparse.ArgumentParser) -> None:
  """Adds --mediapipe to a converter of heads."""
  parser.add_argument(
    '--mediapipe',
    choices=('auto', 'yes', 'no'),
    default='auto',
    help="carry MediaPipe's 478 landmarks, which fitting needs, over from the default head; auto: "
    'where that is '
    'set up and has the same shape',
  )


def carried(head: HeadModel, choice: str) -> HeadModel:
  """The head with MediaPipe's landmarks as the flag says; what became of it is printed.

  Raises:
    UserError: `choice` is 'yes' and they cannot be found.
  """
  if choice == 'no':
    return head
  try:
    head, found = with_mediapipe_landmarks(head, load_head('makehuman'))
  except UserError as error:
    if choice == 'yes':
      raise
    print(
      f"warning: {one_line(head.name)} stays without MediaPipe's landmarks, so it cannot be fitted "
      f'yet ({one_line(error)}); '
      '`exp-jax convert.landmarks` adds them later',
      file=sys.stderr,
    )
    return head
  print(told(found))
  return head


def told(found: Found) -> str:
  """How well the two heads met."""
  millimetres = 1e3 * found.distance[np.isfinite(found.distance)]
  return (
    f"MediaPipe's {COUNT} landmarks carried over from the default head, which lies "
    f'{millimetres.mean():.2f} mm from this one '
    f'there ({millimetres.max():.1f} at worst)'
  )


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('head', help='head npz with landmarks of iBUG or some of MediaPipe')
  parser.add_argument(
    '-o', '--output', required=True, help='head npz to write; it may be the same file'
  )
  parser.add_argument(
    '--from',
    dest='reference',
    default='makehuman',
    help='head that has all 478 (default makehuman)',
  )
  options = parser.parse_args(argv)
  head, found = with_mediapipe_landmarks(load_head(options.head), load_head(options.reference))
  save_head(options.output, head)
  print(f'{options.output}: {told(found)}')


if __name__ == '__main__':
  main()
