"""What skin does that a photograph of it cannot show: it comes out of folds and from behind.

A lid that is open in the portrait covers a few pixels; shut, it covers a hundred, and so does the throat under a chin that is raised.
Pixels that are stretched so far are streaks: where a face of the mesh covers much more of the picture than it did in the portrait,
the colour of the skin around is shown in their place, and along a lid's rim the lashes. And a smile presses cheeks into folds whose
dark lines the photograph shows: as far as the skin is no longer pressed together, they are lightened away.
Letters: N vertices, F faces, K points of a rim, H, W image.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from exp_jax.heads.model import HeadModel

# Upper rims of the two eyes from corner to corner, MediaPipe's numbers: the person's right and left.
UPPER_RIMS = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (263, 466, 388, 387, 386, 385, 384, 398, 362))
LOWER_RIMS = ((33, 7, 163, 144, 145, 153, 154, 155, 133), (263, 249, 390, 373, 374, 380, 381, 382, 362))
AROUND = 10.0             # millimetres about the rims in which skin can be stretched by a blink
_STRETCHED = (1.3, 2.6)   # area over that in the portrait: below, the photograph is shown; above, none of it. This is for lids;
_ELSEWHERE = 0.5          # the ratio counts this much elsewhere, where nothing is drawn in the photograph's place but plain skin
_LASHES = (0.9, 0.25)     # millimetres: half the width of the line, and its softness
_PRESSED = (0.04, 0.20)   # share of its area that skin has lost: below, without folds; above, with all of them
_FOLD = 14 / 512          # of the picture's height: what is dark and narrower than this is a fold
_DEEPEST = 0.5            # of a fold, natural logarithm of brightness
_FAR = 9.0                # what is written for vertices away from a rim


def rims_of(head: HeadModel) -> tuple[np.ndarray, np.ndarray] | None:
  """Corners [4, K, 3] int32 and shares [4, K, 3] of the upper rims, then the lower ones; None for a head without such landmarks."""
  ids = np.array(UPPER_RIMS + LOWER_RIMS)
  if len(head.landmark_faces) <= ids.max():
    return None
  return np.asarray(head.faces)[np.asarray(head.landmark_faces)[ids]], np.asarray(head.landmark_barycentric, np.float32)[ids]


def millimetres_to(points: np.ndarray, line: np.ndarray) -> np.ndarray:
  """[N] distance of points [N, 3] metres from a line of straight pieces [K, 3]."""
  start, step = line[:-1], np.diff(line, axis=0)
  along = np.einsum('nkc,kc->nk', points[:, None] - start, step) / np.maximum((step**2).sum(-1), 1e-12)
  nearest = start + np.clip(along, 0, 1)[..., None] * step
  return 1e3 * np.linalg.norm(points[:, None] - nearest, axis=-1).min(-1)


def eye_skin(vertices: np.ndarray, rims: tuple[np.ndarray, np.ndarray] | None, eyeball: np.ndarray
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Where lids may be stretched, and where their lashes are.

  Args:
    vertices: [N, 3] metres, the head's own vertices first; rims: of `rims_of`; eyeball: [N] bool.

  Returns:
    [N] 1 on the skin about the eyes, falling to 0; [N] millimetres from the upper rim,
    `_FAR` away from it; [N] millimetres from both rims, infinite without rims.
  """
  if rims is None:
    return np.zeros(len(vertices), np.float32), np.full(len(vertices), _FAR, np.float32), np.full(len(vertices), np.inf)
  lines = np.einsum('rkcd,rkc->rkd', vertices[rims[0]], rims[1])
  near = np.min([millimetres_to(vertices, line) for line in lines], 0)
  upper = np.min([millimetres_to(vertices, line[2:-2]) for line in lines[:2]], 0)      # lashes end before the corners
  t = np.clip((AROUND - near) / (0.3 * AROUND), 0, 1)
  return (t * t * (3 - 2 * t) * ~eyeball).astype(np.float32), np.minimum(upper, _FAR).astype(np.float32), near


def lash_line(millimetres: jax.Array) -> jax.Array:
  """How much of a lash line there is so far from a lid's rim, 0..1."""
  return jax.nn.sigmoid((_LASHES[0] - millimetres) / _LASHES[1])


def seen_area(vertices: jax.Array, faces: jax.Array) -> jax.Array:
  """[F] area of faces as a camera in the origin sees them, square radians for small ones; 0 for what is turned away."""
  a, b, c = (vertices[faces[:, k]] for k in range(3))
  middle = (a + b + c) / 3
  away = jnp.linalg.norm(middle, axis=-1)
  return jnp.maximum(-jnp.sum(jnp.cross(b - a, c - a) * middle, -1), 0) / (2 * away**3)


def kept_share(vertices: jax.Array, faces: jax.Array, before: jax.Array, lids: jax.Array) -> jax.Array:
  """[N] how far the portrait's pixels can still be shown, 1 where they are not stretched.

  Args:
    vertices: [N, 3] now; faces: [F, 3]; before: [F] `seen_area` in the portrait; lids: [N] 1 on lids, 0 elsewhere.
  """
  spread = lambda per_face: jnp.zeros(len(vertices)).at[faces.ravel()].add(jnp.repeat(per_face, 3))
  count = jnp.maximum(spread(jnp.ones(len(faces))), 1)
  ratio = spread(seen_area(vertices, faces)) / jnp.maximum(spread(before), 1e-12)
  ratio = spread(jnp.minimum(ratio, 10.0)[faces].mean(-1)) / count
  ratio = ratio * (_ELSEWHERE + (1 - _ELSEWHERE) * lids)
  t = jnp.clip((ratio - _STRETCHED[0]) / (_STRETCHED[1] - _STRETCHED[0]), 0, 1)
  return 1 - t * t * (3 - 2 * t)


def areas(vertices: jax.Array, faces: jax.Array) -> jax.Array:
  """[F] square metres."""
  a, b, c = (vertices[faces[:, k]] for k in range(3))
  return jnp.linalg.norm(jnp.cross(b - a, c - a), axis=-1) / 2


def pressed_share(vertices: np.ndarray, rest: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """[N] share of its area that the skin about each vertex has lost against the person at rest, 0 where it has gained."""
  spread = lambda per_face: np.bincount(faces.ravel(), np.repeat(np.asarray(per_face), 3), len(rest))
  return np.clip(1 - spread(areas(vertices, faces)) / np.maximum(spread(areas(rest, faces)), 1e-12), 0, 1)


def folded(pressed: np.ndarray) -> np.ndarray:
  """How much of the folds is there, 0..1, of `pressed_share`."""
  t = np.clip((pressed - _PRESSED[0]) / (_PRESSED[1] - _PRESSED[0]), 0, 1)
  return t * t * (3 - 2 * t)


def pressure(vertices: jax.Array, faces: jax.Array, rest: jax.Array, weights: jax.Array) -> jax.Array:
  """[2] share of its area that skin has lost now, left and right of the face.

  Args:
    vertices: [N, 3] now; faces: [F, 3]; rest: [F] their area in square metres at rest; weights: [2, F] of the two sides.
  """
  lost = jnp.clip(1 - areas(vertices, faces) / jnp.maximum(rest, 1e-12), -1, 1)
  return jnp.maximum(weights @ (lost * rest), 0) / jnp.maximum(weights @ rest, 1e-12)


def fold_depth(photo: np.ndarray) -> np.ndarray:
  """[H, W] natural logarithm of how much brighter the skin beside a narrow dark line of a photo [H, W, 3] is; 0 away from lines."""
  height = photo.shape[0]
  light = np.maximum(scipy.ndimage.gaussian_filter(photo.mean(-1), height / 512), 0.02)
  around = scipy.ndimage.grey_closing(light, max(3, round(_FOLD * height)))
  around = np.maximum(scipy.ndimage.gaussian_filter(around, 3 * height / 512), light)
  return np.clip(np.log(around / light), 0, _DEEPEST).astype(np.float32)
