"""uv for heads that have none: skin rolled off a cylinder, everything inside the head in tiles
above it.

A vertex on the seam needs two places in the picture, so the result lists for each of its vertices
which one of the head it is.
Letters: N vertices of the mesh, M of the unwrapped one, G faces.
"""

import dataclasses

import numpy as np

_STRIP = 0.85  # share of the picture's height that is skin
_MARGIN = 0.01


@dataclasses.dataclass(frozen=True)
class Unwrapped:
  """source: [M] int of the N vertices; faces: [G, 3] among the M; uv: [M, 2] in 0..1, y up."""

  source: np.ndarray
  faces: np.ndarray
  uv: np.ndarray


def keep(uv: np.ndarray, faces: np.ndarray) -> Unwrapped:
  """The uv [N, 2] that the head has."""
  return Unwrapped(np.arange(len(uv)), faces, np.asarray(uv, np.float32))


def unwrap(vertices: np.ndarray, faces: np.ndarray, parts: np.ndarray) -> Unwrapped:
  """Skin by angle about the vertical and height; other parts as seen from the front, the person's
  left and right apart.

  Args:
    vertices: [N, 3] at rest, about the head.
    faces: [G, 3].
    parts: [G] 0 skin, 1, 2, ... other parts.
  """
  skin = np.unique(faces[parts == 0])
  middle = vertices[skin].mean(0)
  angle = np.arctan2(vertices[:, 0] - middle[0], vertices[:, 2] - middle[2]) / (2 * np.pi) + 0.5
  height = vertices[:, 1]
  low, high = height[skin].min(), height[skin].max()
  v = _MARGIN + (_STRIP - 2 * _MARGIN) * (height - low) / max(high - low, 1e-9)
  kinds = int(parts.max(initial=0))
  corners, sources = np.zeros((len(faces), 3, 2)), faces.copy()
  corners[..., 0], corners[..., 1] = angle[faces], v[faces]
  across = np.ptp(corners[..., 0], 1) > 0.5  # a face over the seam at the back of the head
  corners[across, :, 0] += corners[across, :, 0] < 0.5
  # the second copies of the seam lie right of 1
  corners[parts == 0, :, 0] *= 1 / (1 + 2 * _MARGIN + 0.1)
  corners[parts == 0, :, 0] += _MARGIN
  for kind in range(1, kinds + 1):
    for side in (0, 1):
      chosen = (parts == kind) & ((vertices[faces][..., 0].mean(1) > middle[0]) == bool(side))
      if chosen.any():
        place = vertices[faces[chosen]][..., :2]
        span = np.ptp(place.reshape(-1, 2), axis=0)
        local = (place - place.reshape(-1, 2).min(0)) / max(span.max(), 1e-9)
        width = 1 / (2 * kinds)
        tile = min(width, 1 - _STRIP) - 2 * _MARGIN
        corners[chosen] = [
          (2 * (kind - 1) + side) * width + _MARGIN,
          _STRIP + _MARGIN,
        ] + tile * local
  key = np.concatenate([sources.reshape(-1, 1), np.rint(1e6 * corners.reshape(-1, 2))], 1).astype(
    np.int64
  )
  _, first, number = np.unique(key, axis=0, return_index=True, return_inverse=True)
  return Unwrapped(
    sources.reshape(-1)[first],
    number.reshape(-1, 3).astype(np.int32),
    np.clip(corners.reshape(-1, 2)[first], 0, 1).astype(np.float32),
  )
