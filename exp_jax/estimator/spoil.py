"""What happens to a picture before a camera's file is made: crop, light, things before the face,
background, lens, sensor, codec.

On the host, one picture at a time, in the loader's threads or processes (numpy, scipy and Pillow;
as a program of XLA it took four minutes to compile and twice the time of the network). Truth moves
with the picture. Letters: H, W pixels of a stored picture, S of a trained one, P points.
"""

import io

import numpy as np
import scipy.ndimage
from PIL import Image

# MediaPipe's corners of the lids, the person's right eye and left eye
_RIMS = (33, 133), (362, 263)


def value_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
  """[size, size] float32 smooth noise in about -1..1, with `cells` cells along a side."""
  grid = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
  return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


def _sigmoid(x):
  return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def crop(example: dict, rng: np.random.Generator, size: int, *, wild: bool = True) -> dict:
  """Cuts a turned, shifted, perhaps mirrored square out of a picture and its truth.

  Args:
    example: image uint8 [H, W, 3]; normals uint8 [H, W, 3]; matte uint8 [H, W]; depth [H, W]; parts
      uint8 [H, W]; landmarks [P, 2].
    rng: of the picture.
    size: pixels of the result's side.
    wild: False cuts the whole picture as it stands.

  Returns:
    image [S, S, 3] in 0..1; normals unit where `known`; matte in 0..1; depth in sides of the
    square; parts; landmarks; known and inside [S, S] in 0..1, float32 all but parts (int32).
  """
  H = example['image'].shape[0]
  scale = rng.uniform(0.72, 1.06) if wild else 1.0
  roll = (rng.uniform(-0.45, 0.45) * (0.2 if rng.random() < 0.5 else 1.0)) if wild else 0.0
  shift = rng.uniform(-0.5, 0.5, 2) * max(1.1 - scale, 0.05) * H if wild else np.zeros(2)
  flip = -1.0 if wild and rng.random() < 0.5 else 1.0
  grid = ((np.arange(size) + 0.5) / size - 0.5) * H * scale
  cos, sin = np.cos(roll), np.sin(roll)
  x = H / 2 + shift[0] + cos * flip * grid[None, :] - sin * grid[:, None]
  y = H / 2 + shift[1] + sin * flip * grid[None, :] + cos * grid[:, None]
  seen = example['parts'] > 0
  fields = np.empty((H, H, 9), np.float32)
  fields[..., :3] = example['image']
  fields[..., 3] = example['matte']
  fields[..., 4:7] = (example['normals'] / np.float32(127.5) - 1) * seen[..., None]
  fields[..., 7], fields[..., 8] = example['depth'] * seen, seen
  found = _sampled(fields, x.astype(np.float32), y.astype(np.float32))
  nx, ny, nz = found[..., 4], found[..., 5], found[..., 6]
  normals = np.stack([flip * (cos * nx + sin * ny), -sin * nx + cos * ny, nz], -1)
  inside = (x > 0) & (x < H) & (y > 0) & (y < H)
  length = np.linalg.norm(normals, axis=-1)
  parts = example['parts'][np.clip(y.astype(int), 0, H - 1), np.clip(x.astype(int), 0, H - 1)]
  away = example['landmarks'] - H / 2 - shift
  points = np.stack(
    [flip * (cos * away[:, 0] + sin * away[:, 1]), -sin * away[:, 0] + cos * away[:, 1]], -1
  )
  as32 = lambda value: np.asarray(value, np.float32)
  return {
    'image': found[..., :3] / 255,
    'matte': as32(found[..., 3] / 255 * inside),
    'normals': as32(normals / np.maximum(length, 1e-4)[..., None]),
    'depth': as32(found[..., 7] / np.maximum(found[..., 8], 1e-3) / scale),
    'parts': parts.astype(np.int32),
    'landmarks': as32((points / (H * scale) + 0.5) * size),
    'known': as32((found[..., 8] > 0.9) & (length > 0.7) & inside),
    'inside': as32(inside),
  }


def _sampled(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """float32 [H, W, C] at [S, S] pixel places, linear; the border repeats."""
  height, width = image.shape[:2]
  x, y = np.clip(x - 0.5, 0, width - 1.001), np.clip(y - 0.5, 0, height - 1.001)
  left, top = x.astype(np.int32), y.astype(np.int32)
  fx, fy = (x - left)[..., None], (y - top)[..., None]
  flat, place = image.reshape(height * width, -1), top * width + left
  upper = flat[place] * (1 - fx) + flat[place + 1] * fx
  return upper * (1 - fy) + (flat[place + width] * (1 - fx) + flat[place + width + 1] * fx) * fy


def background(example: dict, rng: np.random.Generator) -> np.ndarray:
  """The picture before noise of any frequency, hard patterns, bars or one colour."""
  size = len(example['image'])
  first, second = rng.uniform(0, 1, (2, 3)).astype(np.float32)
  if (kind := rng.random()) < 0.15:
    other = np.broadcast_to(first, example['image'].shape)
  else:
    mixed = value_noise(rng, size, int(rng.integers(2, 30)))
    mixed = mixed + rng.uniform(0, 0.6) * value_noise(rng, size, int(rng.integers(8, size // 2)))
    if kind < 0.4:  # straight edges: rooms, frames, shelves
      angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
      place = (np.arange(size) / size * (np.cos(angle))) + (np.arange(size) / size * np.sin(angle))[
        :, None
      ]
      bars = np.interp(place, np.sort(rng.uniform(-1.5, 1.5, 12)), rng.uniform(-1, 1, 12))
      steps = rng.uniform(-1, 1, 64)[
        np.clip(((place + 1.5) * rng.uniform(3, 21)).astype(int), 0, 63)
      ]
      mixed = 0.3 * mixed + (bars if rng.random() < 0.4 else steps)
    mixed = 0.6 * np.sign(mixed) if rng.random() < 0.35 else mixed
    other = first + (second - first) * np.clip(0.5 + 0.6 * mixed, 0, 1)[..., None]
    if rng.random() < 0.4:
      other = scipy.ndimage.gaussian_filter(other, (*([rng.uniform(0.3, 3)] * 2), 0))
  return other + (example['image'] - other) * example['matte'][..., None]


def paint(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Blotches, make-up and printed patterns: the colour changes, the shape does not."""
  size = len(image)
  pattern = value_noise(rng, size, int(rng.integers(3, size // 4)))
  tint = 1 + 0.35 * rng.uniform(-1, 1, 3)
  return image * (1 + 0.35 * rng.random() ** 2 * pattern[..., None] * tint)


def shade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """A cast shadow with a hard or soft edge."""
  size = len(image)
  place = (np.arange(size) + 0.5) / size - 0.5
  angle = rng.uniform(0, 2 * np.pi)
  if rng.random() < 0.6:
    level = (
      np.cos(angle) * place[None]
      + np.sin(angle) * place[:, None]
      - rng.uniform(-0.35, 0.35)
      + 0.10 * value_noise(rng, size, 5)
    )
  else:
    level = 0.35 * (value_noise(rng, size, 4) + 0.2 * value_noise(rng, size, 16))
  inside = _sigmoid(level / np.exp(rng.uniform(np.log(0.004), np.log(0.15))))
  dark = rng.uniform(0.25, 0.9) * (1 + 0.15 * rng.uniform(-1, 1, 3))
  return image * (1 - inside[..., None] * (1 - dark))


def glare(image: np.ndarray, rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
  """A shining patch on what `mask` [S, S] covers."""
  size = len(image)
  level = (
    _sigmoid(
      (value_noise(rng, size, int(rng.integers(4, 12))) - rng.uniform(0.3, 0.8))
      / rng.uniform(0.03, 0.2)
    )
    * mask
  )
  return image + rng.uniform(0.1, 0.6) * level[..., None] * (1 + 0.1 * rng.uniform(-1, 1, 3))


def glasses(image: np.ndarray, rng: np.random.Generator, points: np.ndarray) -> np.ndarray:
  """Rims and bridge about the eyes, with clear, tinted or shining lenses; the skin behind keeps its
  truth. `points` [P, 2] pixels."""
  size = len(image)
  place = np.arange(size) + 0.5
  x, y = place[None], place[:, None]
  middles = [points[list(rim)].mean(0) for rim in _RIMS]
  apart = middles[1] - middles[0]
  reach = max(float(np.linalg.norm(apart)), 1.0)
  along = apart / reach
  across = np.array([-along[1], along[0]])
  width = reach * rng.uniform(0.30, 0.42)
  tall, power = width * rng.uniform(0.6, 1.05), rng.uniform(2.0, 4.0)
  thick = max(reach * rng.uniform(0.012, 0.05), 0.7)
  frames = lambda middle: (
    (x - middle[0]) * along[0] + (y - middle[1]) * along[1],
    (x - middle[0]) * across[0] + (y - middle[1]) * across[1],
  )
  rim, lens = np.zeros((size, size)), np.zeros((size, size))
  for middle in middles:
    u, v = frames(middle)
    radius = (np.abs(u / width) ** power + np.abs((v - 0.15 * tall) / tall) ** power) ** (1 / power)
    rim = np.maximum(rim, _sigmoid((thick / 2 - np.abs(radius - 1) * min(width, tall)) / 0.4))
    lens = np.maximum(lens, _sigmoid((1 - radius) * tall / 0.5))
  u, v = frames((middles[0] + middles[1]) / 2)
  bridge = _sigmoid((thick / 2 - np.abs(v)) / 0.4) * _sigmoid(
    (max(reach / 2 - width, 1.0) - np.abs(u)) / 0.5
  )
  kind = rng.random()
  image = image * (1 - lens[..., None] * (rng.random() * 0.8 if kind < 0.3 else 0.08))
  if kind > 0.7:
    image = (
      image
      + 0.35
      * (_sigmoid((0.25 - np.abs((x + y) / size - 0.5 - rng.random())) / 0.02) * lens)[..., None]
    )
  return image + np.maximum(rim, bridge)[..., None] * (rng.uniform(0, 0.7, 3) - image)


def cover(example: dict, rng: np.random.Generator) -> dict:
  """A thing before the head, a blob or a bar with a texture; there is no truth behind it."""
  size = len(example['image'])
  place = (np.arange(size) + 0.5) / size - 0.5
  centre, angle = rng.uniform(-0.45, 0.45, 2), rng.uniform(0, np.pi)
  x, y = place[None] - centre[0], place[:, None] - centre[1]
  u, v = np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y
  long, wide, power = rng.uniform(0.06, 0.5), rng.uniform(0.03, 0.16), rng.choice([2.0, 8.0])
  radius = (np.abs(u / long) ** power + np.abs(v / wide) ** power) ** (
    1 / power
  ) + 0.25 * value_noise(rng, size, 8)
  inside = _sigmoid((1 - radius) * wide * size / 0.8)
  skin = np.array([0.75, 0.55, 0.45]) * rng.uniform(0.35, 1.2)
  colour = skin if rng.random() < 0.4 else rng.uniform(0, 1, 3)
  thing = np.clip(
    colour
    * (1 + rng.uniform(0, 0.4) * value_noise(rng, size, int(rng.integers(4, 40)))[..., None]),
    0,
    1,
  )
  covered = inside > 0.5
  return example | {
    'image': example['image'] + inside[..., None] * (thing - example['image']),
    'matte': (example['matte'] * (1 - inside)).astype(np.float32),
    'parts': np.where(covered, 0, example['parts']),
    'known': example['known'] * ~covered,
  }


def photograph(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """[S, S, 3] in 0..1 as cameras see it: exposure, white balance, contrast, grey, blur, few pixels,
  noise, JPEG."""
  size = len(image)
  image = (
    image * np.exp(rng.uniform(-0.6, 0.4)) * (1 + rng.choice([0.05, 0.15]) * rng.normal(size=3))
  )
  image = np.clip(image, 0, 4) ** np.exp(rng.uniform(-0.35, 0.35))
  image = image * rng.uniform(0.75, 1.2) + rng.uniform(-0.06, 0.08)
  grey = image.mean(-1, keepdims=True)
  image = grey + (image - grey) * (0.0 if rng.random() < 0.1 else rng.uniform(0.4, 1.4))
  if rng.random() < 0.4:
    image = scipy.ndimage.gaussian_filter(
      image, (*([rng.uniform(0.2, 1.5) * size / 160] * 2), 0), truncate=3
    )
  image = np.clip(image, 0, 1)
  if rng.random() < 0.15:
    few = int(size * rng.uniform(0.35, 0.8))
    small = Image.fromarray(np.uint8(np.round(255 * image))).resize(
      (few, few), Image.Resampling.BOX
    )
    image = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC)) / 255.0
  if rng.random() < 0.7:
    strength = 0.006 if rng.random() < 0.5 else rng.uniform(0, 0.05)
    image = image + strength * rng.standard_normal(image.shape, np.float32) * (0.4 + np.sqrt(image))
  if rng.random() < 0.5:
    file = io.BytesIO()
    Image.fromarray(np.uint8(np.round(255 * np.clip(image, 0, 1)))).save(
      file, 'JPEG', quality=int(rng.integers(15, 96))
    )
    image = np.asarray(Image.open(file)) / 255.0
  return image


def spoil(
  example: dict, rng: np.random.Generator, size: int, *, wild: bool = True
) -> dict[str, np.ndarray]:
  """A stored picture (see `crop`) as it is trained on; without `wild` it is only resized.

  Returns:
    image uint8 [S, S, 3]; normals float16 [S, S, 3] unit where `known`; depth float16 [S, S];
    parts, known and inside uint8 [S, S].
  """
  found = crop(example, rng, size, wild=wild)
  if wild:
    found['image'] = background(found, rng) if rng.random() < 0.6 else found['image']
    found['image'] = paint(found['image'], rng) if rng.random() < 0.5 else found['image']
    found['image'] = shade(found['image'], rng) if rng.random() < 0.4 else found['image']
    found['image'] = (
      glare(found['image'], rng, found['matte']) if rng.random() < 0.2 else found['image']
    )
    found['image'] = (
      glasses(found['image'], rng, found['landmarks']) if rng.random() < 0.15 else found['image']
    )
    found = cover(found, rng) if rng.random() < 0.25 else found
    found['image'] = photograph(found['image'], rng) if rng.random() < 0.85 else found['image']
  return {
    'image': np.uint8(np.round(255 * np.clip(found['image'], 0, 1))),
    'normals': found['normals'].astype(np.float16),
    'depth': found['depth'].astype(np.float16),
    'parts': found['parts'].astype(np.uint8),
    'known': found['known'].astype(np.uint8),
    'inside': found['inside'].astype(np.uint8),
  }
