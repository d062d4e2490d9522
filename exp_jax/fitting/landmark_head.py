"""A head cut down to its landmarks, and how much each MediaPipe point is trusted.

The coarse stage only looks at landmarks: the 3 K corners of their faces are all the vertices it
needs, which makes a residual and its Jacobian cost microseconds instead of milliseconds.
"""

import jax
import numpy as np

from exp_jax.heads.model import HeadModel
from exp_jax.heads.skinning import points_on_faces

# MediaPipe's face mesh numbering (canonical_face_model of the Apache-2.0 project).
OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176,
        149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)  # fmt: skip
LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409, 78, 95, 88,
        178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415)  # fmt: skip
LIDS = (263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398, 33, 7, 163, 144, 145,
        153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173)  # fmt: skip
BROWS = (276, 283, 282, 295, 285, 300, 293, 334, 296, 336, 46, 53, 52, 65, 55, 70, 63, 105, 66, 107)
IRISES = tuple(range(468, 478))


def landmark_weights() -> np.ndarray:
  """[478] float32: lips, lids, brows and irises count more, the outline (which slides on turning)
  less."""
  weights = np.ones(478, np.float32)
  for indices, weight in ((LIPS, 2.0), (LIDS, 3.0), (BROWS, 1.5), (IRISES, 2.0), (OVAL, 0.4)):
    weights[list(indices)] = weight
  return weights


def inter_ocular(points: np.ndarray) -> np.ndarray:
  """[..., 478, 2 or 3] -> [...]: distance between the outer corners of the eyes, the field's unit
  of error."""
  return np.linalg.norm(points[..., 263, :] - points[..., 33, :], axis=-1)


def landmark_head(head: HeadModel) -> HeadModel:
  """The same model with only the corners of its landmark faces; `head_landmarks` gives equal
  results."""
  corners = np.asarray(head.faces)[np.asarray(head.landmark_faces)]  # [K, 3]
  kept, local = np.unique(corners, return_inverse=True)
  rows = lambda values: None if values is None else np.asarray(values)[kept]
  vertices = dict(
    template=rows(head.template),
    shape_basis=rows(head.shape_basis),
    expression_basis=rows(head.expression_basis),
    weights=rows(head.weights),
    pose_basis=rows(head.pose_basis),
    uv=rows(head.uv),
    regions={name: rows(mask) for name, mask in head.regions.items()},
    faces=local.reshape(-1, 3).astype(np.int32),
    landmark_faces=np.arange(len(corners), dtype=np.int32),
  )
  # its faces are gone
  return head.replace(
    **jax.device_put(vertices),
    contour_faces=None,
    contour_barycentric=None,
  )


def landmark_template(head: HeadModel) -> jax.Array:
  """[K, 3] metres, the landmarks of the mean head at rest; of a head cut down by `landmark_head`,
  or any other."""
  return points_on_faces(head.template, head.faces, head.landmark_faces, head.landmark_barycentric)
