"""What belongs to the person and what to the expression: over a clip, dynamic offsets have zero
mean.

While a clip is fitted a penalty holds the mean of the dynamic fields near zero. It is the mean over
all frames, although a step sees a few of them. Twice, what is left of the mean moves to the static
field, so that no surface changes:

  mean = sum_t valid_t dynamic_t,   dynamic_t <- dynamic_t - mean,   static <- static + field(mean)

Source: ExpPortrait sec. 3.1.3. Letters: T frames of the clip, B of a step, '...' the axes of a
field.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def mean_over_clip(
  valid: jax.Array, whole: jax.Array, frames: jax.Array, rows: jax.Array
) -> jax.Array:
  """The mean over all frames of a clip while some of them are being changed.

  Args:
    valid: [T] share of each frame in the mean; sums to one, zero for padding.
    whole: [T, ...] the field of every frame as it stood before the step.
    frames: [B] int32, the frames of the step.
    rows: [B, ...] their fields now; derivatives reach the mean through these alone.

  Returns:
    [...] the mean, unit of the field.
  """
  change = jnp.einsum('b,b...->...', valid[frames], rows - whole[frames])
  return jnp.einsum('t,t...->...', valid, whole) + change


def recentred(
  dynamic: dict, static: jax.Array, valid: jax.Array, field: Callable[[dict], jax.Array]
) -> tuple[dict, jax.Array]:
  """The mean over the clip moves from the dynamic fields to the static one, exactly.

  Args:
    dynamic: {name: [T, ...]} the fields of every frame.
    static: [N, 3] metres, what frames have in common.
    valid: [T], as of `mean_over_clip`.
    field: linear, from fields of one frame {name: [...]} to offsets [N, 3], metres.

  Returns:
    the dynamic fields, whose mean is zero, and the static offsets with the mean in them;
    field(dynamic_t) + static is as before.
  """
  mean = {name: jnp.einsum('t,t...->...', valid, values) for name, values in dynamic.items()}
  return {name: values - mean[name] for name, values in dynamic.items()}, static + field(mean)
