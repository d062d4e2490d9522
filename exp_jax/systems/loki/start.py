"""What Loki's training starts from: one prior in the generator, which has no text, and in the
reference network."""

import jax

from exp_jax.networks.sd_start import checked_start, named_start, read_prior, without_text
from exp_jax.systems.loki.model import Networks


def start_fn(config, networks: Networks, init_fn):
  """What `Task.start` wants: None from scratch, else a function that reads the weights.

  Raises:
    UserError: the config does not say what it starts from.
  """
  name = named_start(config)
  if name is None:
    return None

  def start():
    like, arrays = jax.eval_shape(init_fn, jax.random.key(0)), read_prior(name)
    found = {'generator': checked_start(without_text(arrays), like['generator'], 'generator', name)}
    if networks.reference is not None and config.model.reference != 'random':
      found['reference'] = checked_start(arrays, like['reference'], 'reference network', name)
    return found

  return start
