"""Losses of both stages of training, as functions of arrays.

  keypoints   equivariance, prior, head pose, deformation (face vid2vid); landmark guidance (Eq. 3, Wing)
  pictures    perceptual and adversarial, each on the whole picture, the face and the lips ("cascaded"); identity
  stage two   consistency outside of what may change, openness asked for, size of the moves (Eqs. 5 and 6)

What looks at pictures is given as functions, so that any networks can be used; the defaults here
need no weights and have no
licence but ours: features of a Laplacian pyramid and its slopes, and for identity the coarse
colours of the aligned face.

Letters: B batch, K keypoints, H, W, C. Source: LivePortrait (arXiv 2407.03168), Eqs. 3 to 6; Wang
et al., face vid2vid, 2021; Feng et al., Wing loss, 2018; Lim & Ye, Geometric GAN, 2017 (hinge).
"""

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.systems.liveportrait.networks.convolutions import halve
from exp_jax.systems.liveportrait.networks.landmarks import MEDIAPIPE
from exp_jax.systems.liveportrait.networks.volumes import axis_weights, sample_volume

# MediaPipe's points that guide keypoints: corners and an upper lid of both eyes, corners and
# middles of the lips
GUIDES = (33, 133, 160, 362, 263, 385, 61, 291, 0, 17)
_EYES = (33, 133, 159, 145, 362, 263, 386, 374)
_LIPS = (61, 291, 0, 17)


def wing(x: jax.Array, *, omega: float, epsilon: float) -> jax.Array:
  """omega ln(1 + |x| / epsilon) below omega, |x| less a constant above, so that both meet."""
  size = jnp.abs(x)
  rest = omega - omega * np.log1p(omega / epsilon)
  return jnp.where(size < omega, omega * jnp.log1p(size / epsilon), size - rest)


def guidance_loss(
  landmarks: jax.Array,
  source: jax.Array,
  driving: jax.Array,
  driving_landmarks: jax.Array,
  *,
  keypoints: tuple[int, ...],
  guides: tuple[int, ...] = GUIDES,
  omega: float,
  epsilon: float,
) -> jax.Array:
  """Eq. 3: guided keypoints lie on landmarks of eyes and lips, in the source and in the driver.

  Args:
    landmarks, driving_landmarks: [B, 478, 2] from -1 to 1 over the crop.
    source, driving: [B, K, 3] keypoints.
  """
  chosen, points = list(keypoints), list(guides)
  distance = lambda x, l: (
    wing(x[:, chosen, :2] - l[:, points], omega=omega, epsilon=epsilon).sum(-1).mean()
  )
  return 0.5 * (distance(source, landmarks) + distance(driving, driving_landmarks))


def prior_loss(
  points: jax.Array, *, distance: float, depth: float, free: tuple[int, ...] = ()
) -> jax.Array:
  """Keypoints keep apart and their mean depth is given: sum over pairs max(0, D - |x_i -
  x_j|^2) + |mean z - depth|.

  Args:
    points: [B, K, 3]. free: keypoints that may come near each other, since landmarks say where they
      are.
  """
  squared = jnp.square(points[:, :, None] - points[:, None]).sum(-1)
  K = points.shape[1]
  count = 1.0 - np.eye(K)
  if free:
    count[np.ix_(list(free), list(free))] = 0
  near = (jnp.maximum(0.0, distance - squared) * count).sum((1, 2)).mean()
  return near + jnp.abs(points[..., 2].mean(1) - depth).mean()


def random_affine(rng: jax.Array, batch: int, *, strength: float) -> tuple[jax.Array, jax.Array]:
  """A small turn, scale, shear and shift for each example: matrices [B, 2, 2] and shifts [B, 2]."""
  first, second = jax.random.split(rng)
  matrix = jnp.eye(2) + strength * jax.random.uniform(first, (batch, 2, 2), minval=-1.0, maxval=1.0)
  return matrix, strength * jax.random.uniform(second, (batch, 2), minval=-1.0, maxval=1.0)


def warped(
  images: jax.Array, matrix: jax.Array, shift: jax.Array, size: int | None = None
) -> jax.Array:
  """I'(g) = I(A g + b) of [B, H, W, C], as large or `size` x `size`; places from -1 to 1, zeros
  outside."""
  H, W = (size, size) if size else images.shape[1:3]
  axis = lambda n: (2 * jnp.arange(n) + 1) / n - 1
  grid = jnp.stack(jnp.meshgrid(axis(W), axis(H)), -1)
  places = jnp.einsum('bij,hwj->bhwi', matrix, grid) + shift[:, None, None]
  return sample_volume(
    images[:, None], jnp.concatenate([places, jnp.zeros_like(places[..., :1])], -1)
  )


def aligned_faces(images: jax.Array, landmarks: jax.Array, size: int = 112) -> jax.Array:
  """Faces turned upright, eyes and mouth where ArcFace's template has them: [B, H, W, C], [B, 478,
  2] -> [B, size, size, C]."""
  eyes, mouth = landmarks[:, list(_EYES)].mean(1), landmarks[:, list(_LIPS[:2])].mean(1)
  high, low = 51.65 * 2 / 112 - 1, 92.3 * 2 / 112 - 1  # rows of the template, from -1 to 1
  down = (mouth - eyes) / (low - high)
  matrix = jnp.stack([jnp.stack([down[:, 1], -down[:, 0]], -1), down], -1)  # columns: right, down
  return warped(images, matrix, eyes - high * down, size)


def equivariance_loss(
  points: jax.Array, of_warped: jax.Array, matrix: jax.Array, shift: jax.Array
) -> jax.Array:
  """|x - (A x' + b)|, x [B, K, 3] of the picture and x' of the picture warped by A, b; in the
  plane."""
  back = jnp.einsum('bij,bkj->bki', matrix, of_warped[..., :2]) + shift[:, None]
  return jnp.abs(points[..., :2] - back).mean()


def region(landmarks: jax.Array, indices, *, scale: float) -> tuple[jax.Array, jax.Array]:
  """A square about some landmarks [B, N, 2]: centres [B, 2] and half sides [B], from -1 to 1 over
  the picture."""
  points = landmarks[:, list(indices)]
  low, high = points.min(1), points.max(1)
  return (low + high) / 2, scale * jnp.maximum((high - low).max(-1) / 2, 0.05)


def crops(images: jax.Array, center: jax.Array, half: jax.Array, size: int) -> jax.Array:
  """Squares of pictures [B, H, W, C], resampled to [B, size, size, C]; zeros outside.

  Separable: two matrix products.
  """
  axis = (2 * jnp.arange(size) + 1) / size - 1
  x, y = (
    axis_weights(center[:, i, None] + half[:, None] * axis, images.shape[2 - i]) for i in (0, 1)
  )
  return jnp.einsum('byh,bhwc,bxw->byxc', y, images, x)


def face_region(landmarks: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The square about the face."""
  return region(landmarks, MEDIAPIPE, scale=1.1)


def lip_region(landmarks: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The square about the lips."""
  return region(landmarks, _LIPS, scale=1.6)


def pyramid_features(images: jax.Array) -> list[jax.Array]:
  """Without any network: what each octave of a picture [B, H, W, C] adds, and its slopes."""
  out, x = [], images
  while min(x.shape[1:3]) >= 8:
    small = halve(x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2])
    back = jnp.repeat(jnp.repeat(small, 2, 1), 2, 2)
    out += [
      x[:, : back.shape[1], : back.shape[2]] - back,
      x[:, 1:] - x[:, :-1],
      x[:, :, 1:] - x[:, :, :-1],
    ]
    x = small
  return [*out, x]


def coarse_identity(faces: jax.Array) -> jax.Array:
  """Without any network: unit vectors [B, D] of the colours of an aligned face, 8 x 8, less their
  mean."""
  B, H, W, C = faces.shape
  x = faces.reshape(B, 8, H // 8, 8, W // 8, C).mean((2, 4)).reshape(B, -1)
  x = x - x.mean(-1, keepdims=True)
  squared = jnp.square(x).sum(-1, keepdims=True)
  some = squared > 1e-12
  return jnp.where(some, x / jnp.sqrt(jnp.where(some, squared, 1.0)), 0.0)


def feature_loss(features, found: jax.Array, wanted: jax.Array) -> jax.Array:
  """Mean |difference| of every map that `features` makes of two batches of pictures, summed over
  the maps."""
  ours, theirs = features(found), jax.lax.stop_gradient(features(wanted))
  return sum(jnp.abs(a - b).mean() for a, b in zip(ours, theirs))


def identity_loss(embed, found: jax.Array, wanted: jax.Array) -> jax.Array:
  """1 - cosine of embeddings of aligned faces."""
  return 1.0 - (embed(found) * jax.lax.stop_gradient(embed(wanted))).sum(-1).mean()


def hinge_real_fake(real: jax.Array, fake: jax.Array) -> jax.Array:
  """What a discriminator minimizes: scores above 1 for real pictures, below -1 for painted ones."""
  return jax.nn.relu(1.0 - real).mean() + jax.nn.relu(1.0 + fake).mean()


def shoulders(landmarks: jax.Array, size: int) -> jax.Array:
  """[B, size, size, 1]: 1 below the chin, where stitching must change nothing."""
  rows = (2 * jnp.arange(size) + 1) / size - 1
  chin = landmarks[:, 152, 1][:, None]
  return jnp.broadcast_to(
    (rows > chin).astype(jnp.float32)[:, :, None, None], (len(landmarks), size, size, 1)
  )


def outside(landmarks: jax.Array, part: str, size: int) -> jax.Array:
  """[B, size, size, 1]: 1 outside of the eyes or the lips, where their retargeting must change
  nothing."""
  axis = (2 * jnp.arange(size) + 1) / size - 1
  inside = 0.0
  for indices in (_EYES[:4], _EYES[4:]) if part == 'eyes' else (_LIPS,):
    center, half = region(landmarks, indices, scale=1.8)
    near = lambda i, center=center, half=half: (
      jnp.abs(axis - center[:, i, None]) < half[:, None]
    ).astype(jnp.float32)
    inside = jnp.maximum(inside, near(1)[:, :, None] * near(0)[:, None])
  return (1.0 - inside)[..., None]


def openness_of(landmarks: jax.Array) -> jax.Array:
  """[B, 478, 2] -> [B, 3]: left eye, right eye, lips; as `landmarks.openness`, differentiable."""
  apart = lambda i, j: jnp.sqrt(jnp.square(landmarks[:, i] - landmarks[:, j]).sum(-1) + 1e-12)
  return jnp.stack(
    [
      apart(a, b) / (apart(c, d) + 1e-6)
      for a, b, c, d in ((159, 145, 33, 133), (386, 374, 362, 263), (13, 14, 61, 291))
    ],
    -1,
  )
