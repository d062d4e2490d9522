"""How far a portrait's head may turn before it shows a face that the portrait does not.

One picture shows one side of a head. Where a driver turns it far enough to bring the hidden side of
the face to view, there is nothing to draw it from, so the turn is held back: smoothly, in that
direction only, while the eyes go on to where the driver looks, as far as eyes turn.

A view of a head is the unit direction d from the head to the camera in the head's own frame. Letters:
T frames, N dense vertices, A directions.
"""

import dataclasses

import numpy as np
from scipy.spatial.transform import Rotation

from exp_jax.controls.head_motion import head_motion
from exp_jax.heads.densify import Dense
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject

_DIRECTIONS, _ANGLES = 24, np.deg2rad(np.arange(0, 91, 3.0))
_SEEN = (0.12, 0.40)  # cosine between normal and view: below it shows nothing, above it all
_HIDDEN = 0.10  # share of the face in view that may come to view beyond what the portrait shows
_LEAST = np.deg2rad(12)  # that every portrait may turn
_FREE = 0.5  # share of the limit up to which turns stay as they are
_EYES = np.deg2rad(30)  # that eyes turn at most


@dataclasses.dataclass(frozen=True)
class Reach:
  """How far a view may depart from the portrait's own.

  Attributes:
    view: [3] the portrait's own view, unit.
    across: [2, 3] unit vectors at right angles to it and to each other.
    angles: [A] radians, for A directions of the departure, evenly spaced from across[0] over
      across[1].
  """

  view: np.ndarray
  across: np.ndarray
  angles: np.ndarray


def reach_of(
  head: HeadModel,
  dense: Dense,
  subject: Subject,
  vertices: np.ndarray,
  *,
  most: float | None = None,
) -> Reach:
  """How far the head of a one-frame subject may turn.

  Args:
    head: of the subject.
    dense: of the head.
    subject: the fitted portrait.
    vertices: [N, 3] its dense head as in the portrait, metres in the camera's frame.
    most: radians in every direction; None: as far as the portrait shows the face.
  """
  own = head_motion(head, subject)
  rotation, place = own.rotation[0], own.place[0]
  view = _unit(rotation.T @ -place)
  across = _across(view)
  if most is not None:
    return Reach(view, across, np.full(_DIRECTIONS, most))
  normals, areas = _normals_and_areas(np.asarray(vertices, np.float64), np.asarray(dense.faces))
  towards = -_unit(np.asarray(vertices, np.float64))
  shown = np.clip((np.sum(normals * towards, -1) - _SEEN[0]) / (_SEEN[1] - _SEEN[0]), 0, 1)
  face = areas * (np.asarray(dense.regions['face']) > 0.5)
  own_normals = normals @ rotation
  limits = []
  for turn in 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS:
    sideways = np.cos(turn) * across[0] + np.sin(turn) * across[1]
    views = np.cos(_ANGLES)[:, None] * view + np.sin(_ANGLES)[:, None] * sideways
    weights = face * np.maximum(views @ own_normals.T, 0)
    hidden = (weights @ (1 - shown)) / np.maximum(weights.sum(-1), 1e-12)
    over = np.flatnonzero(hidden - hidden[0] > _HIDDEN)
    limits.append(_ANGLES[over[0]] if len(over) else np.pi)
  return Reach(view, across, np.maximum(limits, _LEAST))


def limited(rotation: np.ndarray, reach: Reach, place: np.ndarray) -> np.ndarray:
  """Head rotations [T, 3, 3] whose views stay within reach; roll about the view stays as it is.

  Args:
    rotation: [T, 3, 3] of the head in the camera.
    reach: of the portrait.
    place: [3] of the portrait's head in the camera.
  """
  view = _unit(np.einsum('tji,j->ti', rotation, -place))
  along = view @ reach.view
  sideways = view @ reach.across.T
  angle = np.arctan2(np.linalg.norm(sideways, axis=-1), along)
  most = np.interp(
    np.mod(np.arctan2(sideways[:, 1], sideways[:, 0]), 2 * np.pi),
    np.linspace(0, 2 * np.pi, len(reach.angles) + 1),
    np.append(reach.angles, reach.angles[0]),
  )
  free = _FREE * most
  span = np.maximum(most - free, 1e-9)
  held = np.where(angle > free, free + span * np.tanh((angle - free) / span), angle)
  # about the axis that turns the held view onto the wanted one
  axis = np.cross(reach.view, view)
  axis = axis / np.maximum(np.linalg.norm(axis, axis=-1, keepdims=True), 1e-12)
  back = Rotation.from_rotvec((angle - held)[:, None] * axis).as_matrix()
  return rotation @ back


def eyes_towards(eyes: np.ndarray, wanted: np.ndarray, got: np.ndarray) -> np.ndarray:
  """Axis-angle [T, 3] of an eye in a head of rotation `got` [T, 3, 3] that looks where `eyes` [T, 3]
  looked in one of rotation `wanted`, as far as eyes turn."""
  turned = Rotation.from_matrix(np.swapaxes(got, -1, -2) @ wanted) * Rotation.from_rotvec(eyes)
  vectors = turned.as_rotvec()
  length = np.linalg.norm(vectors, axis=-1, keepdims=True)
  most = np.maximum(_EYES, np.linalg.norm(eyes, axis=-1, keepdims=True))
  return vectors * np.minimum(1, most / np.maximum(length, 1e-12))


def _unit(vectors: np.ndarray) -> np.ndarray:
  return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _across(view: np.ndarray) -> np.ndarray:
  """Two unit vectors at right angles to a view; the first is level for a head that is upright."""
  level = np.cross([0.0, 1.0, 0.0], view)
  if np.linalg.norm(level) < 1e-6:  # seen from above or below
    level = np.array([1.0, 0.0, 0.0])
  level = _unit(level)
  return np.stack([level, np.cross(view, level)])


def _normals_and_areas(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Unit normals [N, 3] of vertices, and the area [N] that is each one's."""
  corner = vertices[faces]
  double = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
  summed, areas = np.zeros_like(vertices), np.zeros(len(vertices))
  for column in faces.T:
    np.add.at(summed, column, double)
    np.add.at(areas, column, np.linalg.norm(double, axis=-1) / 6)
  return _unit(summed), areas
