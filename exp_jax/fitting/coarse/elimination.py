"""Linear algebra of the coarse stage: normal equations that keep their digits in float32.

Letters: P unknowns of one frame, B unknowns or right-hand sides, R residuals.
"""

import jax
import jax.numpy as jnp

from exp_jax.fitting.coarse.unknowns import PLACE


def apart(jacobian: jax.Array, leading: jax.Array) -> tuple[jax.Array, jax.Array]:
  """What unknowns [B, R] do apart from what placing the head [6, R] could do as well, and the
  shares [B, 6] taken away.

  Torso, jaw, the neck's length within the shape and the focal length carry or scale the whole face.
  In the normal equations such columns all but cancel, and float32 has few digits left for the rest:
  unknowns would differ by thousandths with the order of its sums (many clips at once, or one). This
  is a change of unknowns, whose own rounding does no harm; `placed` takes the steps back.
  """
  gram = leading @ leading.T
  shares = (
    jacobian
    @ leading.T
    @ eliminate(gram + 1e-6 * jnp.diag(jnp.diag(gram) + 1), jnp.eye(len(leading)))
  )
  return jacobian - shares @ leading, shares


def frame_apart(jacobian: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`apart` of a frame's [P, R] from the six of its unknowns that place the head, which are left as
  they are."""
  leading = jacobian[PLACE]
  rest, shares = apart(jacobian, leading)
  return rest.at[PLACE].set(leading), shares.at[PLACE].set(0)


def placed(delta: jax.Array, moved: jax.Array, shares: jax.Array) -> jax.Array:
  """Step [P] in a frame's own unknowns, of one with `moved` [B] apart from it as by `apart`, shares
  [B, 6]."""
  return delta.at[PLACE].add(-moved @ shares)


def solve_positive(matrix: jax.Array, right: jax.Array) -> jax.Array:
  """[..., P, P] symmetric and positive definite, [..., P] -> [..., P]."""
  return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), right[..., None])[..., 0]


def eliminate(matrix: jax.Array, right: jax.Array) -> jax.Array:
  """`solve_positive` for many right-hand sides [..., P, B], by Gauss-Jordan elimination.

  LAPACK's triangular solver starts threads for these, which on a busy machine cost a hundred times
  the work.
  """

  def step(i, table):
    row = jax.lax.dynamic_index_in_dim(table, i, -2)
    row = row / jax.lax.dynamic_index_in_dim(row, i, -1)
    column = jax.lax.dynamic_index_in_dim(table, i, -1)
    return table - (column - (jnp.arange(table.shape[-2]) == i)[:, None]) * row

  # metres beside blendshape weights: unit diagonals keep float32 exact enough
  scale = jax.lax.rsqrt(jnp.einsum('...pp->...p', matrix))[..., None]
  table = jnp.concatenate([scale * matrix * scale.swapaxes(-1, -2), scale * right], -1)
  return scale * jax.lax.fori_loop(0, matrix.shape[-1], step, table)[..., matrix.shape[-1] :]
