"""What skin does that a photograph of it cannot show: it comes out of folds and from behind.

A lid that is open in the portrait covers a few pixels; shut, it covers a hundred, and so does the
throat under a chin that is raised.
Pixels that are stretched so far are streaks: where a face of the mesh covers much more of the
picture than it did in the portrait, the colour of the skin around is shown in their place, and
along a lid's rim the lashes. And a smile presses cheeks into folds whose
dark lines the photograph shows: as far as the skin is no longer pressed together, they are
lightened away.
Letters: N vertices, F faces, K points of a rim, H, W image.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
import scipy.spatial

from exp_jax.heads.model import HeadModel

# Upper rims of the two eyes from corner to corner, MediaPipe's numbers: the person's right and
# left.
UPPER_RIMS = (
  (33, 246, 161, 160, 159, 158, 157, 173, 133),
  (263, 466, 388, 387, 386, 385, 384, 398, 362),
)
LOWER_RIMS = (
  (33, 7, 163, 144, 145, 153, 154, 155, 133),
  (263, 249, 390, 373, 374, 380, 381, 382, 362),
)
AROUND = 10.0  # millimetres about the rims in which skin can be stretched by a blink
# area over that in the portrait: below, the photograph is shown; above, none of it. This is for
# lids;
_STRETCHED = (
  1.3,
  2.6,
)
_SOFTENED = 2  # rounds of averaging over faces
# the ratio counts this much elsewhere, where nothing is drawn in the photograph's place but plain
# skin
_ELSEWHERE = 0.5
_BESIDE = 18.0  # millimetres about the rims from which skin goes on over a shut lid
# millimetres about the rims where lashes, tears and, a fit being what it is, eyeballs are seen
_WET = 2.5
# millimetres from the rims: beyond, the portrait's pixels are shown of shut lids; within, none
_RIM = 2.2, 1.0
_WIDER = 1.5  # millimetres about what comes out where the portrait's pixels are not trusted either
_AROUND_SKIN = 6.0  # millimetres over which skin is compared
_TINT = (0.16, 0.08)  # difference of colours over their brightness: above, not skin; below, skin
# brightness over that of the skin around: below, a lash or a crease; above, skin
_HAIR = 0.78, 0.92
# half the line's width, its softness above and below, in widths of the eye
_LASHES = 0.016, 0.016, 0.045
_LASHED = 0.8  # how dark the line is, of the lashes' colour
# gap between the lids over the portrait's: the line comes in between these
_SHUTTING = 0.75, 0.30
_NARROW = 0.10  # gap over the eye's width below which the portrait's own lids count as shut
_ALONG = 25  # points of a line of lashes
# share of its area that skin has lost: below, without folds; above, with all of them
_PRESSED = 0.04, 0.20
_FOLD = 14 / 512  # of the picture's height: what is dark and narrower than this is a fold
_DEEPEST = 0.5  # of a fold, natural logarithm of brightness


def rims_of(head: HeadModel) -> tuple[np.ndarray, np.ndarray] | None:
  """Corners [4, K, 3] int32 and shares [4, K, 3] of the upper rims, then the lower ones; None for a
  head without such landmarks."""
  ids = np.array(UPPER_RIMS + LOWER_RIMS)
  if len(head.landmark_faces) <= ids.max():
    return None
  return np.asarray(head.faces)[np.asarray(head.landmark_faces)[ids]], np.asarray(
    head.landmark_barycentric, np.float32
  )[ids]


def rim_lines(vertices: jax.Array, rims: tuple[jax.Array, jax.Array]) -> jax.Array:
  """[4, K, 3] where the rims of `rims_of` are on vertices [N, 3]."""
  return (jnp if isinstance(vertices, jax.Array) else np).einsum(
    'rkcd,rkc->rkd', vertices[rims[0]], rims[1]
  )


def millimetres_to(points: np.ndarray, line: np.ndarray) -> np.ndarray:
  """[N] distance of points [N, 3] metres from a line of straight pieces [K, 3]."""
  start, step = line[:-1], np.diff(line, axis=0)
  along = np.einsum('nkc,kc->nk', points[:, None] - start, step) / np.maximum(
    (step**2).sum(-1), 1e-12
  )
  nearest = start + np.clip(along, 0, 1)[..., None] * step
  return 1e3 * np.linalg.norm(points[:, None] - nearest, axis=-1).min(-1)


def eye_skin(
  vertices: np.ndarray, rims: tuple[np.ndarray, np.ndarray] | None, eyeball: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Where lids may be stretched.

  Args:
    vertices: [N, 3] metres, the head's own vertices first; rims: of `rims_of`; eyeball: [N] bool.

  Returns:
    [N] 1 on the skin about the eyes, falling to 0; [N] millimetres from the rims, infinite
    without rims; [N] the same as seen from the front, where the back of a lid lies at its rim.
  """
  if rims is None:
    far = np.full(len(vertices), np.inf)
    return np.zeros(len(vertices), np.float32), far, far
  lines = np.einsum('rkcd,rkc->rkd', vertices[rims[0]], rims[1])
  near, flat = (
    np.min([millimetres_to(vertices * axes, line * axes) for line in lines], 0)
    for axes in (np.ones(3), np.array([1.0, 1, 0]))
  )
  t = np.clip((AROUND - near) / (0.3 * AROUND), 0, 1)
  return (t * t * (3 - 2 * t) * ~eyeball).astype(np.float32), near, flat


def rim_weights(
  template: np.ndarray,
  rims: tuple[np.ndarray, np.ndarray] | None,
  flat: np.ndarray,
  eyeball: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Weights [2, N] of the person's right and left eye: 1 along its rims, falling to 0; and 1 along
  the lashes of its upper lid.

  What the portrait shows along the rims is lashes and a wet line that lie elsewhere when the eye is
  shut.

  Args:
    template: [N, 3] metres; rims: of `rims_of`; flat: [N] of `eye_skin`; eyeball: [N] bool.
  """
  sides = np.stack([template[:, 0] < 0, template[:, 0] >= 0]) * ~eyeball
  if rims is None:
    return 0.0 * sides, 0.0 * sides
  # not in the corners
  upper = np.min(
    [millimetres_to(template, line[2:-2]) for line in rim_lines(template, rims)[:2]], 0
  )
  return sides * np.clip((_RIM[0] - flat) / (_RIM[0] - _RIM[1]), 0, 1), sides * np.clip(
    1.5 - upper, 0, 1
  )


def lid_colours(
  colours: np.ndarray,
  trust: np.ndarray,
  near: tuple[np.ndarray, np.ndarray],
  *,
  kept: np.ndarray,
  points: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """The skin that comes out when an eye is shut: colours of the skin around go on over it.

  Each vertex takes the mean of the skin around, weighted by area over the third power of distance:
  no step is left between the lid and the skin beside it. Lashes, creases, shadows in the corners
  and
  the wet rim are not skin: they are darker than what is around, or of another tint.

  Args:
    colours: [N, 3]; trust: [N] how far they are the person's, 0 on brows and eyeballs.
    near: [N] millimetres from the rims, and as seen from the front; kept: [N] `kept_share` of the
      shut eye, 1 where pixels hold; points: [N, 3] metres at rest.

  Returns:
    ids [U] of the vertices that are filled, and their colours [U, 3].

  Source of the weights: Shepard, A two-dimensional interpolation function, 1968.
  """
  here = np.flatnonzero((near[0] < _BESIDE) & ((trust > 0.05) | (kept < 0.98)))
  squares = scipy.spatial.distance.cdist(1e3 * points[here], 1e3 * points[here], 'sqeuclidean')
  own, opened = colours[here], kept[here] < 0.98
  opened = opened | (squares[:, opened] < _WIDER**2).any(-1)
  area = 1 / (squares < 4).sum(-1)  # vertices lie closer in the corners of an eye
  known = trust[here] * (near[1][here] > _WET) * ~opened * area
  blur, skin = np.exp(-squares / (2 * _AROUND_SKIN**2)), known
  for _ in range(2):
    around = blur @ (skin[:, None] * own) / np.maximum(blur @ skin, 1e-9)[:, None]
    bright = own.mean(-1) / np.maximum(around.mean(-1), 1e-6)
    tint = [values / np.maximum(values.mean(-1, keepdims=True), 1e-6) for values in (own, around)]
    other = np.abs(tint[0] - tint[1]).max(-1)
    lit = np.clip((bright - _HAIR[0]) / (_HAIR[1] - _HAIR[0]), 0, 1)
    skin = known * lit * np.clip((other - _TINT[0]) / (_TINT[1] - _TINT[0]), 0, 1)
  held = skin > 0.3 * area
  if not opened.any() or not held.any():
    return np.zeros(0, int), np.zeros((0, 3))
  weights = skin[held] / (squares[~held][:, held] + 0.05) ** 1.5
  return here[~held], weights @ own[held] / weights.sum(-1, keepdims=True)


_CUBIC = np.linspace(-1, 1, _ALONG)[:, None] ** np.arange(4) @ np.linalg.pinv(
  np.linspace(-1, 1, len(UPPER_RIMS[0]))[:, None] ** np.arange(4)
)


@functools.partial(jax.jit, inline=True)
def openness(lines: jax.Array) -> jax.Array:
  """[2] gap between the lids over the eye's width, of rims [4, K, 3]."""
  gap = jnp.linalg.norm(lines[:2, 2:-2] - lines[2:, 2:-2], axis=-1).mean(-1)
  return gap / jnp.linalg.norm(lines[2:, 0] - lines[2:, -1], axis=-1)


def shut_share(openness: jax.Array, before: jax.Array) -> jax.Array:
  """[2] how far eyes are shut, 0..1; openness: [2] now, before: in the portrait; 0 if it shows them
  shut."""
  share = openness / jnp.maximum(before, 1e-6)
  t = jnp.clip((_SHUTTING[0] - share) / (_SHUTTING[0] - _SHUTTING[1]), 0, 1)
  return t * t * (3 - 2 * t) * jnp.clip(before / _NARROW - 1, 0, 1)


def lash_lines(pixels: jax.Array, shut: jax.Array) -> jax.Array:
  """Where lashes of eyes that shut are drawn, [2, L, 2]: along each upper lid, which comes to lie
  on the lower one.

  Args:
    pixels: [4, K, 2] of the rims, as `rims_of` lists them; shut: [2] of `shut_share`.
  """
  curves = jnp.einsum('lk,rkc->rlc', jnp.asarray(_CUBIC, jnp.float32), pixels)
  return curves[:2] + shut[:, None, None] * (curves[2:] - curves[:2])


def lash_share(places: jax.Array, line: jax.Array) -> jax.Array:
  """How much of the lashes of a line [L, 2] there is at places [..., 2], 0..1; y grows downwards.

  The line is thickest at two thirds of its way from the nose and ends in points; lashes hang down,
  so it is softer below.
  """
  width = jnp.linalg.norm(line[-1] - line[0])
  start, step = line[:-1], jnp.diff(line, axis=0)
  from_start = places[..., None, :] - start
  part = jnp.sum(from_start * step, -1) / jnp.maximum(jnp.sum(step**2, -1), 1e-12)
  part = jnp.clip(part, 0, 1)
  away = from_start - part[..., None] * step
  distance = jnp.linalg.norm(away, axis=-1)
  nearest = jnp.argmin(distance, -1, keepdims=True)
  pick = lambda values: jnp.take_along_axis(values, nearest, -1)[..., 0]
  t = (pick(part) + nearest[..., 0]) / (len(line) - 1)  # 0 at the outer corner
  thick = jnp.clip(4 * t, 0, 1) * jnp.clip(1.5 * (1 - t), 0, 1)
  soft = jnp.where(pick(away[..., 1]) > 0, _LASHES[2], _LASHES[1])
  soft = jnp.maximum(soft * width * (0.3 + 0.7 * thick), 0.5)  # half a pixel at least
  edge = pick(distance) - _LASHES[0] * width * thick
  return _LASHED * jnp.clip(thick * 3, 0, 1) * jnp.exp(-((jnp.maximum(edge, 0) / soft) ** 2))


@functools.partial(jax.jit, inline=True)
def seen_area(vertices: jax.Array, faces: jax.Array) -> jax.Array:
  """[F] area of faces as a camera in the origin sees them, square radians for small ones; 0 for
  what is turned away."""
  a, b, c = (vertices[faces[:, k]] for k in range(3))
  middle = (a + b + c) / 3
  away = jnp.linalg.norm(middle, axis=-1)
  return jnp.maximum(-jnp.sum(jnp.cross(b - a, c - a) * middle, -1), 0) / (2 * away**3)


@functools.partial(jax.jit, inline=True)
def kept_share(
  vertices: jax.Array, faces: jax.Array, before: jax.Array, lids: jax.Array
) -> jax.Array:
  """[N] how far the portrait's pixels can still be shown, 1 where they are not stretched.

  Args:
    vertices: [N, 3] now; faces: [F, 3]; before: [F] `seen_area` in the portrait; lids: [N] 1 on
      lids, 0 elsewhere.
  """
  spread = lambda per_face: jnp.zeros(len(vertices)).at[faces.ravel()].add(jnp.repeat(per_face, 3))
  count = jnp.maximum(spread(jnp.ones(len(faces))), 1)
  ratio = spread(seen_area(vertices, faces)) / jnp.maximum(spread(before), 1e-12)
  ratio = spread(jnp.minimum(ratio, 10.0)[faces].mean(-1)) / count
  ratio = ratio * (_ELSEWHERE + (1 - _ELSEWHERE) * lids)
  t = jnp.clip((ratio - _STRETCHED[0]) / (_STRETCHED[1] - _STRETCHED[0]), 0, 1)
  kept = 1 - t * t * (3 - 2 * t)
  smooth = kept
  for _ in range(_SOFTENED):  # what is stretched fades out into what is not
    smooth = jnp.where(count > 1, spread(smooth[faces].mean(-1)) / count, smooth)
  return jnp.minimum(kept, smooth)


@functools.partial(jax.jit, inline=True)
def areas(vertices: jax.Array, faces: jax.Array) -> jax.Array:
  """[F] square metres."""
  a, b, c = (vertices[faces[:, k]] for k in range(3))
  return jnp.linalg.norm(jnp.cross(b - a, c - a), axis=-1) / 2


def pressed_share(vertices: np.ndarray, rest: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """[N] share of its area that the skin about each vertex has lost against the person at rest, 0
  where it has gained."""

  def around(points):
    a, b, c = (points[faces[:, k]] for k in range(3))
    per_face = np.linalg.norm(np.cross(b - a, c - a), axis=-1) / 2
    return np.bincount(faces.ravel(), np.repeat(per_face, 3), len(rest))

  return np.clip(1 - around(vertices) / np.maximum(around(rest), 1e-12), 0, 1)


def folded(pressed: np.ndarray) -> np.ndarray:
  """How much of the folds is there, 0..1, of `pressed_share`."""
  t = np.clip((pressed - _PRESSED[0]) / (_PRESSED[1] - _PRESSED[0]), 0, 1)
  return t * t * (3 - 2 * t)


@functools.partial(jax.jit, inline=True)
def pressure(
  vertices: jax.Array, faces: jax.Array, rest: jax.Array, weights: jax.Array
) -> jax.Array:
  """[2] share of its area that skin has lost now, left and right of the face.

  Args:
    vertices: [N, 3] now; faces: [F, 3]; rest: [F] their area in square metres at rest; weights: [2,
      F] of the two sides.
  """
  lost = jnp.clip(1 - areas(vertices, faces) / jnp.maximum(rest, 1e-12), -1, 1)
  return jnp.maximum(weights @ (lost * rest), 0) / jnp.maximum(weights @ rest, 1e-12)


def fold_depth(photo: np.ndarray) -> np.ndarray:
  """[H, W] natural logarithm of how much brighter the skin beside a narrow dark line of a photo [H,
  W, 3] is; 0 away from lines."""
  height = photo.shape[0]
  light = np.maximum(scipy.ndimage.gaussian_filter(photo.mean(-1), height / 512), 0.02)
  around = scipy.ndimage.grey_closing(light, max(3, round(_FOLD * height)))
  around = np.maximum(scipy.ndimage.gaussian_filter(around, 3 * height / 512), light)
  return np.clip(np.log(around / light), 0, _DEEPEST).astype(np.float32)
