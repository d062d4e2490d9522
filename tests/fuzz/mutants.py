"""Seeds and mutants of files that people bring, by kind: deterministic in a seed number, small,
made here."""

import contextlib
import fractions
import io
import json
import pathlib
import pickle
import zipfile
from collections.abc import Callable

import numpy as np
from PIL import Image

from exp_jax.convert.foreign.pickles import read_pickle
from exp_jax.convert.foreign.torch_files import TorchFile
from exp_jax.convert.wan_weights.wan_files import open_checkpoint
from exp_jax.files.foreign_tensors import read_json
from exp_jax.files.npz import read_npz, write_npz
from exp_jax.files.safetensors import SafetensorsFile, write_safetensors
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import Subject, load_subject, save_subject
from exp_jax.media.images import read_image
from exp_jax.media.video import read_frames, video_rate, write_timed_video
from exp_jax.systems.liveportrait.motion.templates import Template, load_template, save_template
from exp_jax.systems.liveportrait.networks.motion import KEYPOINTS, Motion
from tests.convert import torch_maker
from tests.media.films import write_film

# Containers, each with the sound that it takes; the codec of pictures is libx264 where none is
# named.
FILMS = {
  'mp4': ('aac', 'libx264'),
  'mov': ('aac', 'libx264'),
  'mkv': ('flac', 'libx264'),
  'webm': ('libopus', 'libvpx'),
  'avi': ('mp2', 'mpeg4'),
  'ts': ('aac', 'libx264'),
  'nut': ('pcm_s16le', 'libx264'),
}


def _media(folder: pathlib.Path) -> list[pathlib.Path]:
  noise = np.random.default_rng(0).integers(0, 255, (4, 32, 40, 3), np.uint8)
  for suffix, (sound, codec) in FILMS.items():
    write_film(
      folder / f'a.{suffix}',
      range(4),
      10,
      frames=noise,
      sound=sound,
      seconds=0.4,
      codec=codec,
      rate=10,
      options={'preset': 'ultrafast'} if codec == 'libx264' else {},
    )
  for name in ('a.png', 'a.jpg', 'a.webp', 'a.bmp', 'a.tif'):
    Image.fromarray(noise[0]).save(folder / name)
  frames = [Image.fromarray(frame) for frame in noise]
  for name in ('b.gif', 'b.webp', 'b.png'):
    frames[0].save(folder / name, save_all=True, append_images=frames[1:], duration=80)
  return sorted(folder.iterdir())


class _Calls:
  def __reduce__(self):
    return print, ('a call out of a pickle',)


def _pickles(folder: pathlib.Path) -> list[pathlib.Path]:
  tree = {
    'a': np.arange(6.0).reshape(2, 3),
    'b': [1, 2.5, 'text', None, (True, b'bytes')],
    'c': {'d': {'e': [np.int64(3)]}},
  }
  for protocol in range(6):
    (folder / f'{protocol}.pkl').write_bytes(pickle.dumps(tree, protocol))
    (folder / f'{protocol}_calls.pkl').write_bytes(pickle.dumps({'a': _Calls()}, protocol))
  for name in ('tree', 'calls'):
    with zipfile.ZipFile(folder / f'{name}.pth', 'w') as bundle:
      bundle.writestr('archive/data.pkl', pickle.dumps(tree if name == 'tree' else _Calls(), 2))
      bundle.writestr('archive/version', '3\n')
  kinds = {
    'FloatStorage': np.float32,
    'HalfStorage': np.float16,
    'LongStorage': np.int64,
    'BoolStorage': np.bool_,
  }
  values = {kind: np.arange(6).astype(dtype) for kind, dtype in kinds.items()}
  for suffix, wrap in (
    ('pth', lambda entries: entries),
    ('ckpt', lambda entries: torch_maker.table({'state_dict': entries})),
  ):
    tensors = wrap(
      torch_maker.table(
        {
          f'block.{n}.weight': torch_maker.tensor((2, 3), key=str(n), kind=kind)
          for n, kind in enumerate(kinds)
        }
      )
    )
    storages = {str(n): value for n, value in enumerate(values.values())}
    torch_maker.write_zip(
      folder / f'tensors.{suffix}',
      tensors,
      {key: value.tobytes() for key, value in storages.items()},
    )
    torch_maker.write_old(folder / f'old_tensors.{suffix}', tensors, storages)
  return sorted(folder.iterdir())


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  head, zero = load_head('procedural'), lambda *shape: np.zeros(shape, np.float32)
  save_subject(
    folder / 'subject.npz',
    Subject(
      'a',
      head.name,
      head_digest(head),
      0,
      (48, 64),
      25.0,
      zero(head.shape_basis.shape[-1]),
      zero(3, head.expression_basis.shape[-1]),
      zero(3, len(head.parents), 3),
      np.float32([[0, 0, -1]] * 3),
      np.float32([99, 99]),
      np.float32([32, 24]),
      np.float32([0, 0.1, 0.2]),
      zero(7, 3),
      np.zeros(0, np.int32),
      zero(3, 0, 3),
    ),
  )
  write_npz(folder / 'plain.npz', {'a': np.arange(5), 'b': np.array('text')})
  write_safetensors(
    folder / 'a.safetensors', {'x': zero(3, 4), 'y.z': np.arange(5)}, {'format': 'pt'}
  )
  (folder / 'a.json').write_text(json.dumps({'a': [1, 2.5, {'b': 'text'}], 'c': None}))
  points = zero(3, KEYPOINTS, 3)
  still = Motion(
    points, np.tile(np.eye(3, dtype=np.float32), (3, 1, 1)), points, zero(3) + 1, zero(3, 3)
  )
  save_template(
    folder / 'template.npz',
    Template(still, fractions.Fraction(24000, 1001), zero(3, 2), zero(3), np.arange(3) / 24),
  )
  return sorted(folder.iterdir())


def _read_media(path: pathlib.Path) -> None:
  """A picture is read; a clip is read and written again with its sound."""
  if path.suffix[1:] in FILMS or path.stem == 'b':
    write_timed_video(
      path.with_name('again.mp4'),
      read_frames(path, warn=_silent),
      video_rate(path),
      audio_from=path if path.suffix[1:] in FILMS else None,
      warn=_silent,
    )
  else:
    read_image(path)


def _silent(words: str) -> None:
  if not words.isprintable():
    raise AssertionError(f'an unprintable warning {words!r}')


def _read_pickle(path: pathlib.Path) -> None:
  """Whatever holds tensors is read as weights are, every number of it."""
  if path.suffix == '.pkl':
    read_pickle(path)
  elif 'tensors' in path.stem:
    with contextlib.closing(open_checkpoint(path)) as file:
      for name in file.shapes:
        file.read(name)
  else:
    TorchFile(path).close()


def _read_file(path: pathlib.Path) -> None:
  if path.suffix == '.npz':
    {'template': load_template, 'subject': load_subject}.get(path.stem, read_npz)(path)
  elif path.suffix == '.json':
    read_json(path)
  else:
    with SafetensorsFile(path) as file:
      for name in file.names:
        file.read(name)


KINDS: dict[str, tuple[Callable, Callable]] = {
  'media': (_media, _read_media),
  'pickles': (_pickles, _read_pickle),
  'files': (_files, _read_file),
}


def mutant(content: bytes, rng: np.random.Generator) -> bytes:
  """A damaged copy: bytes changed, a piece cut out, repeated, moved or filled, or the end lost."""
  data, many = bytearray(content), int(rng.integers(1, 9))
  how = int(rng.integers(6))
  at, size = int(rng.integers(len(data))), int(rng.integers(1, 65))
  if how == 0:
    for place in rng.integers(0, len(data), many):
      data[place] = int(rng.integers(256))
  elif how == 1:
    for place in rng.integers(0, len(data), many):
      data[place] ^= 1 << int(rng.integers(8))
  elif how == 2:
    del data[at : at + size]
  elif how == 3:
    data[at:at] = data[at : at + size] * many
  elif how == 4:
    data[at : at + size] = bytes([int(rng.choice([0, 255, 127]))]) * min(size, len(data) - at)
  else:
    del data[at:]
  return io.BytesIO(bytes(data)).getvalue()
