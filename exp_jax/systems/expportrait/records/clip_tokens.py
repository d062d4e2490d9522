"""What CLIP sees in a portrait: the tokens that image-to-video networks are conditioned on."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from exp_jax.networks.clip_vision import ClipVision, prepare
from exp_jax.networks.weights import load_weights


def open_clip(path: str) -> Callable[[jax.Array], jax.Array]:
  """A function: image [H, W, 3] float in [0, 1] -> CLIP tokens [1, 257, 1280].

  Args:
    path: folder by `python -m exp_jax.convert.wan_towers clip`.

  Raises:
    UserError: the folder is missing, damaged or of another network.
  """
  weights = load_weights(path, 'clip')
  model, params = ClipVision(**weights.sizes), jax.tree.map(jnp.asarray, weights.tree())
  run = jax.jit(
    lambda params, image: model.apply({'params': params}, prepare(image[None], model.image))
  )
  return lambda reference: run(params, jnp.asarray(reference, jnp.float32))
