"""Where the tasks' examples come from: a record source and a transform that keeps what the batch
needs."""

from exp_jax.data.sources import open_source
from exp_jax.data.transforms import mirror, take_window
from exp_jax.errors import UserError


def held_out(config, keys, *, time_stride: int = 1) -> tuple | None:
  """As `examples`, of the records at `data.held_out`; None if the config names none."""
  if not config.data.get('held_out'):
    return None
  return examples(config, keys, path=config.data.held_out, time_stride=time_stride)


def examples(config, keys, *, path: str | None = None, time_stride: int = 1) -> tuple:
  """(source, transform) for a config's `data` section; the transform yields exactly `keys`. `path` replaces its own.

  With a temporal `time_stride` of the autoencoder stored latents belong to the clip from its first frame on: records are
  then used from there, one frame after the other, with their own reference.
  """
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
    if time_stride > 1 and 'latents' in keys:
      return _from_the_start(record, keys, data.num_frames, time_stride)
    example = take_window(used, rng, num_frames=data.num_frames, stride=data.stride,
                          reference=data.reference)
    example = mirror(example, rng) if data.mirror else example
    return {k: example[k] for k in keys}

  return source, transform


def _from_the_start(record, keys, frames, time_stride):
  """The first `frames` frames with their latents."""
  codes = (frames - 1) // time_stride + 1
  if len(record['normals']) < frames or len(record['latents']) < codes or record['reference_latents'].ndim != 4:
    raise UserError(f'clip {record["clip_id"]} holds {len(record["normals"])} frames and {len(record["latents"])} latents, '
                    f'training asks for {frames} and {codes}, with latents of the reference followed by blank video: '
                    'encode it with --codec wan')
  cut = {'normals': frames, 'extras': frames, 'latents': codes, 'reference_latents': codes}
  return {k: record[k][: cut[k]] if k in cut else record[k] for k in keys}
