"""What the estimator of face maps is trained to see, pixel by pixel.

  normals   weighted mean of (1 - cos) + length of the chord, and of differences of neighbours 1, 2, 4 and 8 pixels apart,
            where the fine forms are: lids, nostrils, folds
  sureness  negative logarithm of the angular density, of the angle alone: it moves the
  concentration, not the normals
  depth     mean of |depth - truth| less its mean, and of differences of neighbours
  parts     cross entropy

Source of the angular density: Bae, Budvytis & Cipolla, Estimating and Exploiting the Aleatoric
Uncertainty in Surface Normal
Estimation, ICCV 2021, equation 6. Letters: B pictures, S pixels a side.
"""

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.networks.face_maps import PARTS, FaceMaps

WEIGHTS = {
  'background': 0.0,
  'skin': 1.0,
  'hair': 0.35,
  'cloth': 0.2,
  'eyes': 1.0,
  'lids': 2.0,
  'lips': 2.0,
  'mouth': 0.5,
}
_STEPS = (1, 2, 4, 8)


def pixel_weights(truth: dict) -> jax.Array:
  """[B, S, S] how much each pixel's normal counts."""
  return (
    jnp.asarray([WEIGHTS[part] for part in PARTS], jnp.float32)[truth['parts']] * truth['known']
  )


def _mean(values, weights):
  return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def _differences(x, step, axis):
  size = x.shape[axis]
  return jax.lax.slice_in_dim(x, step, size, axis=axis) - jax.lax.slice_in_dim(
    x, 0, size - step, axis=axis
  )


def _both(w, step, axis):
  size = w.shape[axis]
  return jnp.minimum(
    jax.lax.slice_in_dim(w, step, size, axis=axis),
    jax.lax.slice_in_dim(w, 0, size - step, axis=axis),
  )


def difference_loss(found: jax.Array, truth: jax.Array, weights: jax.Array) -> jax.Array:
  """Mean length of the errors of differences [B, S, S, C] between neighbours, over both axes and
  all distances; scalar."""
  total = 0.0
  for step in _STEPS:
    for axis in (1, 2):
      error = _differences(found - truth, step, axis)
      total = total + _mean(jnp.sqrt(jnp.sum(error**2, -1) + 1e-6), _both(weights, step, axis))
  return total / (2 * len(_STEPS))


def angles(normals: jax.Array, truth: jax.Array) -> jax.Array:
  """[..., 3] unit vectors -> [...] radians between them; the gradient stays finite where they are
  equal."""
  cosine = jnp.sum(normals * truth, -1)
  sine = jnp.sqrt(jnp.sum(jnp.cross(normals, truth) ** 2, -1) + 1e-12)
  return jnp.arctan2(sine, cosine)


def sureness_loss(concentration: jax.Array, angle: jax.Array, weights: jax.Array) -> jax.Array:
  """Negative log likelihood of angles [...] under concentrations [...], less constants; scalar."""
  k = concentration
  return _mean(
    -jnp.log(k * k + 1) + jnp.log1p(jnp.exp(-k * np.pi)) + k * angle,
    (weights > 0).astype(jnp.float32),
  )


def losses(maps: FaceMaps, truth: dict) -> dict[str, jax.Array]:
  """The terms of the loss, each a scalar, for a batch of `spoil`; `degrees` is the mean angle on
  skin, lids and lips, for the log."""
  weights = pixel_weights(truth)
  cosine = jnp.sum(maps.normals * truth['normals'], -1)
  chord = jnp.sqrt(jnp.maximum(2 - 2 * cosine, 0) + 1e-5)
  angle = jax.lax.stop_gradient(angles(maps.normals, truth['normals']))
  there = truth['known'] * (truth['parts'] > 0)
  off = maps.depth - truth['depth']
  off = off - jnp.sum(off * there, (1, 2), keepdims=True) / jnp.maximum(
    jnp.sum(there, (1, 2), keepdims=True), 1.0
  )
  logs = jax.nn.log_softmax(maps.logits)
  chosen = -jnp.take_along_axis(logs, truth['parts'][..., None], -1)[..., 0]
  skin = there * jnp.isin(
    truth['parts'], jnp.array([PARTS.index(p) for p in ('skin', 'lids', 'lips')])
  )
  return {
    'normals': _mean(1 - cosine + chord, weights),
    'fine': difference_loss(maps.normals, truth['normals'], weights),
    'sureness': sureness_loss(maps.concentration, angle, weights),
    'depth': _mean(jnp.abs(off), there)
    + difference_loss(maps.depth[..., None], truth['depth'][..., None], there),
    'parts': _mean(chosen, truth['inside']),
    'degrees': jnp.rad2deg(_mean(angle, skin)),
  }
