"""stub"""
import jax

from exp_jax.training.flops import count_flops
from exp_jax.training.state import merge, split


def model_flops(task) -> int:
  params = jax.eval_shape(task.init_fn, jax.random.key(0))
  rng = jax.eval_shape(lambda: jax.random.key(0))
  if task.trainable is None:
    return 3 * count_flops(task.loss_fn, params, task.batch_spec, rng)
  trained, frozen = split(params, task.trainable)
  gradients = jax.value_and_grad(lambda t, f, b, r: task.loss_fn(merge(t, f), b, r)[0])
  return count_flops(gradients, trained, frozen, task.batch_spec, rng)
