"""Light on the actor and the place behind: second-order spherical harmonics, one highlight,
backgrounds.

Irradiance on a normal n = (x, y, z) of the camera frame (x right, y down, z away from the camera)
is
sum_i light_i Y_i(n), with the real basis Y in the order 1, y, z, x, xy, yz, 3z^2-1, xz, x^2-y^2.

Source: Ramamoorthi & Hanrahan, An Efficient Representation for Irradiance Environment Maps, 2001.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from exp_jax.actors.noise import value_noise

BACKGROUND_SIZE = 96
# of a direction's radiance that the clamped cosine keeps, per coefficient
BAND_SHARE = np.array([np.pi] + [2 * np.pi / 3] * 3 + [np.pi / 4] * 5)


def linear(srgb) -> np.ndarray:
  """sRGB in 0..1 to linear light."""
  srgb = np.clip(srgb, 0, 1)
  return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def sh_basis(normals):
  """[..., 3] unit normals -> [..., 9]."""
  x, y, z = normals[..., 0], normals[..., 1], normals[..., 2]
  terms = [
    0.282095 + 0 * x,
    0.488603 * y,
    0.488603 * z,
    0.488603 * x,
    1.092548 * x * y,
    1.092548 * y * z,
    0.315392 * (3 * z * z - 1),
    1.092548 * x * z,
    0.546274 * (x * x - y * y),
  ]
  return (jnp if isinstance(normals, jax.Array) else np).stack(terms, -1)


def lamp(direction: np.ndarray, colour: np.ndarray) -> np.ndarray:
  """[9, 3] light whose irradiance is about `colour` * max(0, n . direction)."""
  return (
    (BAND_SHARE / np.pi * sh_basis(direction / np.linalg.norm(direction)))[:, None] * np.pi * colour
  )


def sample_light(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """Light [9, 3] (a key lamp, a fill, perhaps a rim, ambient) and the direction [3] to the key
  lamp."""
  warmth = rng.normal(0, 0.5)
  tint = lambda w: np.array([1 + 0.10 * w, 1.0, 1 - 0.14 * w])
  side = rng.uniform(-1.2, 1.2)
  key = np.array([np.sin(side), -rng.uniform(0.1, 0.9), -np.cos(side)])  # above and before the face
  light = lamp(key, rng.uniform(0.55, 0.95) * tint(warmth))
  fill = np.array([-np.sin(side) * rng.uniform(0.5, 1.5), rng.uniform(-0.5, 0.3), -1.0])
  light = light + lamp(fill, rng.uniform(0.05, 0.35) * tint(warmth - rng.normal(0.6, 0.5)))
  if rng.random() < 0.4:
    light = light + lamp(
      np.array([-np.sign(side) * 1.0, -0.3, 0.6]), rng.uniform(0.2, 0.6) * tint(rng.normal(0, 1.0))
    )
  ambient = np.zeros((9, 3))
  ambient[0] = rng.uniform(0.18, 0.45) * tint(rng.normal(0, 0.6)) / 0.282095
  ambient[1] = -0.25 * ambient[0] * 0.282095 / 0.488603  # more from the sky than from the floor
  return (light + ambient).astype(np.float32), (key / np.linalg.norm(key)).astype(np.float32)


def sample_background(rng: np.random.Generator) -> np.ndarray:
  """[96, 96, 3] linear: a wall, a gradient, blurred lights, shelves, a window, trees under a
  sky."""
  size = BACKGROUND_SIZE
  v, u = np.mgrid[0:size, 0:size] / (size - 1.0)
  points = np.stack([u, v], -1).reshape(-1, 2)
  noise = lambda scale: value_noise(points, rng, size=scale).reshape(size, size)
  colours = np.clip(rng.uniform(0.08, 0.9, (4, 1)) + rng.normal(0, 0.13, (4, 3)), 0.03, 0.97)
  mix = lambda a, b, t: a + (b - a) * np.clip(t, 0, 1)[..., None]
  soft = lambda t, width: 1 / (1 + np.exp(-np.clip(t / width, -30, 30)))
  kind = rng.choice(('wall', 'gradient', 'lights', 'shelves', 'window', 'trees'))
  if kind == 'wall':
    turn = rng.uniform(-1, 1)
    image = mix(colours[0], colours[0] * 0.6, 0.5 + turn * (u - 0.5) + 0.15 * noise(0.5))
    image = image * (1 + 0.03 * noise(0.02))[..., None]
    if rng.random() < 0.6:  # a picture hangs there
      left, top = (
        rng.choice([rng.uniform(-0.1, 0.1), rng.uniform(0.75, 0.9)]),
        rng.uniform(0.05, 0.4),
      )
      inside = (
        soft(u - left, 0.004)
        * soft(left + 0.25 - u, 0.004)
        * soft(v - top, 0.004)
        * soft(top + 0.3 - v, 0.004)
      )
      image = mix(image, mix(colours[1], colours[2], 0.5 + 0.8 * noise(0.1)), inside)
  elif kind == 'gradient':
    angle = rng.uniform(0, 2 * np.pi)
    image = mix(colours[0], colours[1], 0.5 + np.cos(angle) * (u - 0.5) + np.sin(angle) * (v - 0.5))
  elif kind == 'lights':
    image = mix(colours[0] * 0.25, colours[1] * 0.3, v + 0.2 * noise(0.3))
    for _ in range(rng.integers(8, 22)):
      centre, radius = rng.uniform(0, 1, 2), rng.uniform(0.02, 0.08)
      disc = soft(radius - np.hypot(u - centre[0], v - centre[1]), 0.006)
      image = image + disc[..., None] * rng.uniform(0.1, 0.55) * np.array(
        [1, rng.uniform(0.5, 1), rng.uniform(0.2, 1)]
      )
  elif kind == 'shelves':
    image = np.broadcast_to(colours[0] * 0.4, (size, size, 3)).copy()
    rows = rng.integers(3, 6)
    for row in range(rows):
      left = 0.0
      while left < 1:
        width, tall = rng.uniform(0.015, 0.05), rng.uniform(0.6, 0.95) / rows
        box = (
          soft(u - left, 0.004)
          * soft(left + width - u, 0.004)
          * soft(v - (row + 1) / rows + tall + 0.02, 0.006)
          * soft((row + 1) / rows - 0.02 - v, 0.006)
        )
        image = mix(image, np.clip(rng.uniform(0.08, 0.6) + rng.normal(0, 0.09, 3), 0, 1), box)
        left += width + rng.choice([0.0, 0.0, 0.05])
  elif kind == 'window':
    image = mix(colours[0] * 0.7, colours[0] * 0.4, v)
    left, right = np.sort(rng.uniform(-0.1, 1.1, 2))
    right = max(right, left + 0.3)
    pane = soft(u - left, 0.008) * soft(right - u, 0.008) * soft(0.75 - v, 0.008)
    sky = mix(np.array([0.75, 0.86, 0.97]), np.array([0.95, 0.95, 0.9]), v)
    image = mix(image, sky, pane * (1 - 0.8 * np.exp(-(((u - (left + right) / 2) / 0.012) ** 2))))
  else:
    horizon = rng.uniform(0.35, 0.7) + 0.05 * noise(0.2)
    sky = mix(
      np.array([0.45, 0.65, 0.92]), np.array([0.92, 0.93, 0.93]), v / 0.6 + 0.2 * noise(0.3)
    )
    leaves = np.array([0.18, 0.33, 0.12]) * (1 + 0.5 * noise(0.06) + 0.35 * noise(0.15))[..., None]
    image = mix(sky, mix(leaves, colours[1] * [0.7, 0.9, 0.6], v - 0.6), soft(v - horizon, 0.02))
  image = linear(image * rng.uniform(0.7, 1.0))
  focus = rng.uniform(0.6, 3.0)  # the depth of field, pixels of 96
  return scipy.ndimage.gaussian_filter(image, (focus, focus, 0), mode='nearest').astype(np.float32)
