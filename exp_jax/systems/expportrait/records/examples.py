"""Where the tasks' examples come from: a record source and a transform that keeps what the batch
needs.

Every setting of `config.data` is honoured or refused. `data.stride` is the largest step between
frames; `data.reference` and `data.reference_degrees` say which frame of the clip is the reference
(`data/transforms.py`); `data.linear_heads` allows clips whose control maps show the linear head
model alone.
"""

import numpy as np

from exp_jax.data.sources import is_window, open_source
from exp_jax.data.transforms import REFERENCES, mirror, take_codes, take_window, valid_cells
from exp_jax.errors import UserError


def held_out(config, keys, *, strides: tuple[int, int, int] = (1, 1, 1)) -> tuple | None:
  """As `examples`, of the records at `data.held_out`; None if the config names none."""
  if not config.data.get('held_out'):
    return None
  return examples(config, keys, path=config.data.held_out, strides=strides)


def examples(
  config, keys, *, path: str | None = None, strides: tuple[int, int, int] = (1, 1, 1)
) -> tuple:
  """(source, transform) for a config's `data` section; the transform yields exactly `keys`.

  `path` replaces its own.

  Args:
    strides: of the autoencoder in time, rows and columns. With a temporal stride stored codes
      belong to windows that were chosen when they were made (`data/transforms.py:take_codes`); else
      windows are drawn here.

  Raises:
    UserError: a setting that cannot be honoured; or, by the transform, a record that lacks what is
      asked for.
  """
  data = config.data
  of_codes = 'latents' in keys and strides[0] > 1
  _check(data, keys, of_codes)
  size = (data.height, data.width)
  source = open_source(
    data.name,
    path=path or data.path,
    num_frames=max(data.num_frames, 8),
    height=size[0],
    width=size[1],
  )
  drawn = dict(
    num_frames=data.num_frames,
    stride=data.stride,
    reference=data.reference,
    degrees=data.get('reference_degrees', 0.0),
  )

  def transform(record, rng):
    _check_record(record, config, keys, size)
    if of_codes:
      example = take_codes(record, rng, time_stride=strides[0], **drawn)
    else:
      example = take_window(record, rng, **drawn)
      example = mirror(example, rng) if data.mirror else example
    if 'extras' in keys:
      example['extras'] = _chosen_extras(example, tuple(config.condition.extras))
    if 'valid' in keys:
      example['valid'] = _valid(example, strides, size)
    missing = [k for k in keys if k not in example]
    if missing:
      raise UserError(f'clip {record["clip_id"]} has no {missing[0]!r}: {_remedy(missing[0])}')
    return {k: example[k] for k in keys}

  return source, transform


def _check(data, keys, of_codes: bool) -> None:
  """UserError for settings that these records cannot honour."""
  if data.reference not in REFERENCES:
    raise UserError(
      f'config.data.reference must be one of {", ".join(REFERENCES)}, got {data.reference!r}'
    )
  if data.stride < 1 or data.num_frames < 1:
    raise UserError(
      f'config.data.stride and num_frames must be at least 1, got {data.stride} and '
      f'{data.num_frames}'
    )
  if data.mirror and any('latents' in key for key in keys):
    raise UserError(
      'config.data.mirror turns pixels, and this run reads stored latents: set it to False, and '
      'let '
      '`python -m exp_jax encode --mirror` store mirror images'
    )
  if data.mirror and 'extras' in keys:
    raise UserError(
      'config.data.mirror cannot turn further control channels: set config.data.mirror=False'
    )
  if of_codes and data.reference == 'preview':
    raise UserError(
      "config.data.reference='preview' is for autoencoders of single frames: set "
      "config.data.reference='random'"
    )
  degrees = data.get('reference_degrees', 0.0)
  if degrees and data.reference != 'random' or degrees < 0:
    raise UserError(
      f"config.data.reference_degrees={degrees:g} belongs to reference='random' and is not "
      'negative; reference is '
      f'{data.reference!r}'
    )


def _check_record(record: dict, config, keys, size) -> None:
  found, data, name = record['normals'].shape[1:3], config.data, record['clip_id']
  if found != size:
    raise UserError(f'clip {name} is {found[0]}x{found[1]}, config.data says {size[0]}x{size[1]}')
  if is_window(record) and 'latents' not in keys and 'video' in keys:
    raise UserError(
      f'clip {name} holds codes without the video: set config.data.latents=True, or name the '
      'records of '
      '`exp_jax.prepare` without --vae'
    )
  if 'latents' in keys and 'latents' not in record:
    raise UserError(f"clip {name} has no 'latents': {_remedy('latents')}")
  if record.get('offsets') == 'none' and not data.get('linear_heads', False):
    raise UserError(
      f'the control maps of clip {name} show the linear head model alone, without a personalized '
      'head: prepare it with '
      '--networks that see normals, or set config.data.linear_heads=True to train on it all the '
      'same'
    )


def _chosen_extras(example: dict, names: tuple[str, ...]) -> np.ndarray:
  """[N, H, W, E] channels of the groups that the config names, in its order."""
  from exp_jax.controls.channels import EXTRAS, extra_channels

  held = tuple(n for n in example.get('extra_names', '').split(',') if n)
  if absent := [name for name in names if name not in held]:
    raise UserError(
      f'clip {example["clip_id"]} has no control channels {absent[0]!r}, but '
      f'{", ".join(held) or "none"}: prepare it '
      f'with --extras {",".join(names)}'
    )
  starts = np.cumsum([0] + [EXTRAS[name] for name in held])
  if extra_channels(held) != example['extras'].shape[-1]:
    raise UserError(
      f'clip {example["clip_id"]} has {example["extras"].shape[-1]} further control channels, its '
      f'names {held} ask for '
      f'{extra_channels(held)}: prepare it again'
    )
  return np.concatenate(
    [example['extras'][..., starts[held.index(n)] : starts[held.index(n) + 1]] for n in names],
    axis=-1,
  )


def _valid(example: dict, strides, size) -> np.ndarray:
  """uint8 [F, h, w], 255 where a code shows what the film shows; all of it where the record does
  not tell."""
  cells = (size[0] // strides[1], size[1] // strides[2])
  if 'valid' not in example:
    frames = (len(example['normals']) - 1) // strides[0] + 1
    return np.full((frames, *cells), 255, np.uint8)
  found = example['valid']
  return found if found.shape[1:] == cells else valid_cells(found, strides)


def _remedy(key: str) -> str:
  if key == 'clip':
    return 'encode the records with --clip FOLDER, the tower that `python -m exp_jax.convert.wan_towers clip` converts'
  if key == 'extras':
    return 'prepare it with --extras'
  return 'prepare it, or set config.data.latents=False to encode while training'
