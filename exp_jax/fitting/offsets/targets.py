"""Maps that a fit is compared with, scaled to one size and stored in few bytes.

Letters: T frames, h, w maps, H x W pictures.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

_ERODE = 2  # pixels of the maps that are left out inside the matte's edge
_CHIN = 152  # MediaPipe's landmark of the chin


@flax.struct.dataclass
class Targets:
  """Maps of T frames, stored in the fewest bytes that lose nothing; `take_frame` gives numbers to
  compute with.

  What was not estimated is None and its term is not compiled. As `take_frame` returns it, all is
  float32.
  """

  matte: jax.Array | None  # [T, h, w] uint8; in 0..1 when taken
  matte_weights: jax.Array | None  # [T, h, w] uint8; in 0..1 when taken
  normals: jax.Array | None  # [T, h, w, 3] int8; unit, x right, y up, z to the viewer when taken
  # [T, h, w] float16, spread 1; known up to scale (of either sign) and shift
  depth: jax.Array | None
  image: jax.Array | None  # [T, h, w, 3] uint8 sRGB; linear in 0..1 when taken
  # [T, h, w] uint8; 0..1 how far normals, depth and colours are believed, when taken
  inside: jax.Array | None


def make_targets(
  points: np.ndarray,
  size: int,
  *,
  matte: np.ndarray | None = None,
  normals: np.ndarray | None = None,
  depth: np.ndarray | None = None,
  frames: np.ndarray | None = None,
  weights: np.ndarray | None = None,
  shown: np.ndarray | None = None,
) -> Targets:
  """Scales what was observed to maps of size x size.

  Args:
    points: [T, 478, 2] landmarks in pixels of the square H x H frames.
    size: pixels of the maps.
    matte: [T, H, H] uint8 or None. Below the chin it speaks of clothes, not of the head, and is not
      compared with the outline.
    normals: [T, H', H', 3], depth: [T, H', H'], frames: [T, H, H, 3] uint8 sRGB; each may be None.
    weights: [T, H', H'] how far normals, depth and frames are believed; NaN ones never are.
    shown: [H, H] 1 where the frames show the source, 0 beyond its border, of which nothing is
      believed; None: all 1.

  Raises:
    ValueError: maps of another number of frames.
  """
  count = len(points)
  given = {'matte': matte, 'normals': normals, 'depth': depth, 'frames': frames, 'weights': weights}
  for name, value in given.items():
    if value is not None and len(value) != count:
      raise ValueError(f'{name} has {len(value)} frames, the landmarks have {count}')
  scaled = {k: None if v is None else _scale(v, size) for k, v in given.items()}
  cover = None if matte is None else scaled['matte'] / 255
  part = 1.0 if shown is None else _scale(shown[None], size)[0] > 0.99
  inside = None
  if any(given[k] is not None for k in ('normals', 'depth', 'frames')):
    inside = np.ones((count, size, size), np.float32) * part
    if cover is not None:
      solid = scipy.ndimage.minimum_filter(cover, (1, 2 * _ERODE + 1, 2 * _ERODE + 1))
      inside = inside * (solid > 0.9)
    if weights is not None:
      inside = inside * np.clip(np.nan_to_num(scaled['weights']), 0, 1)
    for name in ('normals', 'depth'):
      if scaled[name] is not None:
        finite = np.isfinite(scaled[name])
        inside = inside * (finite.all(-1) if name == 'normals' else finite)
        scaled[name] = np.nan_to_num(scaled[name])
  if normals is not None:
    length = np.linalg.norm(scaled['normals'], axis=-1, keepdims=True)
    inside = inside * (length[..., 0] > 0.3)
    scaled['normals'] = scaled['normals'] / np.maximum(length, 1e-6)
  matte_weights = None
  if cover is not None:
    chin = points[:, _CHIN, 1][:, None, None] * size / matte.shape[1]
    above = np.clip((chin - np.arange(size)[:, None]) / 6, 0, 1)
    matte_weights = np.broadcast_to(above * part, cover.shape)
  depth = scaled['depth']
  if depth is not None:
    known = depth[inside > 0] if (inside > 0).any() else depth
    depth = np.clip((depth - known.mean()) / max(float(known.std()), 1e-9), -100, 100)
  bytes_ = lambda share: None if share is None else jnp.asarray(np.round(255 * share), jnp.uint8)
  return Targets(
    matte=bytes_(cover),
    matte_weights=bytes_(matte_weights),
    normals=None if normals is None else jnp.asarray(np.round(127 * scaled['normals']), jnp.int8),
    depth=None if depth is None else jnp.asarray(depth, jnp.float16),
    image=None if frames is None else jnp.asarray(np.round(scaled['frames']), jnp.uint8),
    inside=bytes_(inside),
  )


def _scale(maps: np.ndarray, size: int) -> np.ndarray:
  """[T, H, H, ...] -> [T, size, size, ...] float32; whole factors average, others take the
  nearest."""
  height, width = maps.shape[1:3]
  if height % size == 0 and height == width:
    factor = height // size
    split = maps.reshape(len(maps), size, factor, size, factor, *maps.shape[3:])
    return split.astype(np.float32).mean((2, 4))
  step = np.arange(size) + 0.5
  rows, columns = (step * height / size).astype(int), (step * width / size).astype(int)
  return maps[:, rows][:, :, columns].astype(np.float32)


def take_frame(targets: Targets, frame) -> Targets:
  """The maps of one frame (or of several: an index array), float32."""
  taken = jax.tree.map(lambda a: a[frame].astype(jnp.float32), targets)
  share = lambda a: None if a is None else a / 255
  normals, image = taken.normals, share(taken.image)
  if normals is not None:
    length = jnp.sqrt(jnp.maximum(jnp.sum(normals**2, -1, keepdims=True), 1.0))
    normals = normals / length
  if image is not None:
    image = jnp.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
  return taken.replace(
    matte=share(taken.matte),
    matte_weights=share(taken.matte_weights),
    inside=share(taken.inside),
    normals=normals,
    image=image,
  )
