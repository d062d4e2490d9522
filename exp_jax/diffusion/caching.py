"""Which steps of a sampler run the network's blocks, and which add again what they added last: a
static list.

The list is made once, on the host, from ratios |r_i| / |r_{i-1}| of what the blocks add at
consecutive steps, measured on one clip. Reusing a residual over several steps is off by the product
of their ratios; a step is skipped while the sum of those errors stays small. The first fifth of the
steps always runs. The list is a scanned input (`samplers`' `per_step`, the residual its `memory`),
so that nothing of the program depends on data.

Source: Ma et al., MagCache, 2025, section 3.
"""

import jax
import jax.numpy as jnp
import numpy as np


def steps_to_run(
  ratios, *, threshold: float = 0.12, most: int = 2, always: float = 0.2
) -> np.ndarray:
  """[n] bool, True where the blocks run.

  Args:
    ratios: [n] magnitude of a step's residual over that of the step before; the first is not used.
    threshold: the summed error that may accumulate before the blocks run again.
    most: skipped steps in a row at most.
    always: share of the steps, from the first, that always run.
  """
  run, product, error, skipped = np.ones(len(ratios), bool), 1.0, 0.0, 0
  for i in range(max(1, int(np.ceil(always * len(ratios)))), len(ratios)):
    product *= ratios[i]
    error += abs(1.0 - product)
    if error <= threshold and skipped < most:
      run[i], skipped = False, skipped + 1
    else:
      product, error, skipped = 1.0, 0.0, 0
  return run


def residual_ratios(residuals: jax.Array) -> jax.Array:
  """[n] ratios of mean magnitudes of residuals [n, ...]; the first is 1."""
  size = jnp.abs(residuals.astype(jnp.float32)).mean(range(1, residuals.ndim))
  return jnp.concatenate([jnp.ones(1), size[1:] / size[:-1]])
