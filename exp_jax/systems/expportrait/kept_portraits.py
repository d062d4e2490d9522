"""Fitted portraits, and motions laid onto them, in a folder: an animation that was interrupted goes
on with the same numbers.

A fit that is made again may differ in its last bits where programs were compiled meanwhile, and
frames of two fits do not belong into one film.

DIR/<key>.portrait.npz   image, frame, photo, matte, mouth, and the subject's arrays as they are (a subject file rounds some)
DIR/<key>.motion.npz     motions of a result, one or several
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable

import numpy as np

from exp_jax.controls.reenact import Motion
from exp_jax.errors import UserError
from exp_jax.files.npz import read_npz, write_npz
from exp_jax.heads.personalized import Subject
from exp_jax.systems.expportrait.portrait import Portrait

_FIELDS = tuple(field.name for field in dataclasses.fields(Motion))
_PIXELS = ('photo', 'matte', 'mouth')
_DAMAGED = (UserError, KeyError, ValueError, TypeError)


@dataclasses.dataclass(frozen=True)
class OpenedPortrait:
  """A portrait that was opened.

  Attributes:
    image: uint8 [H, W, 3], the whole picture.
    frame: its number in a clip, 0 of a picture.
    portrait: its fit.
  """

  image: np.ndarray
  frame: int
  portrait: Portrait


def kept_portrait(
  folder: pathlib.Path, key: str, make: Callable[[], OpenedPortrait]
) -> OpenedPortrait:
  """The portrait of that key out of the folder, the same bits; or made now and put there."""
  path = folder / f'{key}.portrait.npz'
  if path.is_file():
    with contextlib.suppress(*_DAMAGED):  # counts as absent
      return _opened(read_npz(path))
  opened = make()
  portrait, plain, arrays = opened.portrait, {}, {}
  for field in dataclasses.fields(Subject):
    value = getattr(portrait.subject, field.name)
    if hasattr(value, 'dtype'):
      arrays[f'subject.{field.name}'] = np.asarray(value)
    else:
      plain[field.name] = value
  arrays |= {name: getattr(portrait, name) for name in _PIXELS} | {'image': opened.image}
  write_npz(path, arrays | {'frame': np.array(opened.frame), 'plain': np.array(json.dumps(plain))})
  return opened


def _opened(found: dict[str, np.ndarray]) -> OpenedPortrait:
  plain = json.loads(str(found['plain']))
  plain['image_size'] = tuple(plain['image_size'])
  start = 'subject.'
  arrays = {name[len(start) :]: found[name] for name in found if name.startswith(start)}
  portrait = Portrait(Subject(**plain, **arrays), *(found[name] for name in _PIXELS))
  return OpenedPortrait(found['image'], int(found['frame']), portrait)


def kept_motions(folder: pathlib.Path, key: str, make: Callable[[], list[Motion]]) -> list[Motion]:
  """The motions of that key out of the folder, the same bits; or made now and put there."""
  path = folder / f'{key}.motion.npz'
  if path.is_file():
    with contextlib.suppress(*_DAMAGED):
      found = read_npz(path)
      return [
        Motion(*(found[f'{number}.{name}'] for name in _FIELDS))
        for number in range(int(found['count']))
      ]
  motions = make()
  arrays = {
    f'{number}.{name}': np.asarray(getattr(motion, name))
    for number, motion in enumerate(motions)
    for name in _FIELDS
  }
  write_npz(path, arrays | {'count': np.array(len(motions))})
  return motions
