"""Where the tasks' examples come from: a record source and a transform that keeps what the batch
needs."""

from exp_jax.data.sources import open_source
from exp_jax.data.transforms import mirror, take_window
from exp_jax.errors import UserError


def held_out(config, keys) -> tuple | None:
  """As `examples`, of the records at `data.held_out`; None if the config names none."""
  return examples(config, keys, path=config.data.held_out) if config.data.get('held_out') else None


def examples(config, keys, *, path: str | None = None) -> tuple:
  """(source, transform) for a config's `data` section; the transform yields exactly `keys`. `path` replaces its own."""
  data = config.data
  size = (data.height, data.width)
  source = open_source(data.name, path=path or data.path, num_frames=max(data.num_frames, 8),
                       height=size[0], width=size[1])

  def transform(record, rng):
    found = record['video'].shape[1:3]
    if found != size:
      raise UserError(f'clip {record["clip_id"]} is {found[0]}x{found[1]}, '
                      f'config.data says {size[0]}x{size[1]}')
    missing = [k for k in keys if k not in record]
    if missing:
      raise UserError(f'clip {record["clip_id"]} has no {missing[0]!r}: prepare it, or set '
                      'config.data.latents=False to encode while training')
    used = {k: v for k, v in record.items() if 'latents' not in k or k in keys}
    example = take_window(used, rng, num_frames=data.num_frames, stride=data.stride,
                          reference=data.reference)
    example = mirror(example, rng) if data.mirror else example
    return {k: example[k] for k in keys}

  return source, transform
