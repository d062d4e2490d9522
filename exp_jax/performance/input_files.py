"""The files that an argument of the command line stands for: one, those of a folder or of a zip
archive, or those that a list names.
"""

import collections
import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterator

from exp_jax.errors import UserError, check_place
from exp_jax.files.atomic import remove_folder
from exp_jax.files.names import normal
from exp_jax.files.text_lists import listed_lines, listed_path, listed_rows
from exp_jax.media.archives import Packed, packed_files, unpack
from exp_jax.media.formats import CLIP_SUFFIXES, PICTURE_SUFFIXES

PORTRAITS = (*PICTURE_SUFFIXES, *CLIP_SUFFIXES)
DRIVERS = (*CLIP_SUFFIXES, '.npz')
PAIRS = ('portrait', 'driving')  # the columns of a list of pairs


@dataclasses.dataclass(frozen=True)
class InputFile:
  """One file among several.

  Attributes:
    path: where it lies.
    name: as the folder, the archive or the list has it, '/' between folders.
    shown: for messages, in place of `path`.
    wrong: why it cannot be used, or ''.
  """

  path: pathlib.Path
  name: str
  shown: str = ''
  wrong: str = ''

  def checked(self) -> pathlib.Path:
    """The path; UserError where something is wrong with it."""
    if self.wrong:
      raise UserError(self.wrong)
    if self.path.is_dir():
      raise UserError(f'{str(self.path)!r} is a folder; a list names files')
    return self.path

  def named_in(self, words: str) -> str:
    """The words with the name that the user knows in place of the path."""
    return words.replace(str(self.path), self.shown) if self.shown else words


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What an argument stands for, before anything is unpacked.

  Attributes:
    path: the argument.
    files: of a folder or of a list.
    packed: of an archive.
    passed_over: how many files of an archive are of another kind.
    also: whether a file whose name does not tell belongs to them; for those of an archive.
    sure: endings of names that do tell.
  """

  path: pathlib.Path
  files: tuple[InputFile, ...] = ()
  packed: tuple[Packed, ...] = ()
  passed_over: int = 0
  also: Callable[[pathlib.Path], bool] = lambda path: False
  sure: tuple[str, ...] = ()

  def unpacked(self, folder: pathlib.Path) -> 'Inputs':
    """The same with the files of an archive, which now lie in `folder`.

    Raises:
      UserError: the archive holds none that fits, or the disk has no room.
    """
    if not self.packed:
      return self
    files = []
    for each, found in zip(self.packed, unpack(self.path, list(self.packed), folder)):
      shown = f'{self.path}/{each.name}'
      if isinstance(found, str):
        files.append(InputFile(folder / each.name, each.name, shown, f'{self.path}: {found}'))
      elif found.suffix.lower() in self.sure or self.also(found):
        files.append(InputFile(found, each.name, shown))
      else:
        found.unlink()
    if not files:
      raise UserError(f'nothing in {str(self.path)!r} can be used; it takes {", ".join(self.sure)}')
    passed = self.passed_over + len(self.packed) - len(files)
    return dataclasses.replace(self, files=tuple(files), passed_over=passed)


def stands_for_several(path: pathlib.Path) -> bool:
  """Whether a path is a folder, an archive or a list, by its name."""
  return path.is_dir() or path.suffix.lower() in ('.zip', '.txt', '.csv')


def inputs_of(
  path: pathlib.Path,
  kinds: tuple[str, ...],
  what: str,
  also: Callable[[pathlib.Path], bool] = lambda path: False,
) -> Inputs:
  """The files that a path stands for.

  Args:
    path: a file; a folder; a zip archive; or a list (.txt), a path a line, relative to its folder.
    kinds: endings of names, of folders and archives.
    what: they are, for messages.
    also: whether a file of another ending belongs to them.

  Raises:
    UserError: there is no such file, there is nothing in it, or it is refused (see
      `media.archives.packed_files` and `files.text_lists`).
  """
  if path.is_dir():
    found = sorted(
      p
      for p in path.iterdir()
      if p.is_file() and not p.name.startswith('.') and (p.suffix.lower() in kinds or also(p))
    )
    if not found:
      raise UserError(f'no {what} in the folder {str(path)!r}; it takes {", ".join(kinds)}')
    return Inputs(path, tuple(InputFile(p, p.name) for p in found))
  if not path.is_file():
    raise UserError(f'{str(path)!r} does not exist')
  suffix = path.suffix.lower()
  if suffix == '.zip':
    # what is an animation shows after it is unpacked
    packed, passed = packed_files(path, (*kinds, *PICTURE_SUFFIXES))
    if not packed:
      raise UserError(f'no {what} in the archive {str(path)!r}; it takes {", ".join(kinds)}')
    return Inputs(path, (), tuple(packed), len(passed), also, kinds)
  if suffix == '.csv':
    raise UserError(
      f'{str(path)!r} is a list of pairs: give it as --source alone, without --driving; a list of '
      f'{what} is a .txt, a path a line'
    )
  if suffix == '.txt':
    lines = list(dict.fromkeys(listed_lines(path)))
    if not lines:
      raise UserError(f'no {what} in the list {str(path)!r}; it takes a path a line')
    return Inputs(path, tuple(_listed(path, line) for line in lines))
  return Inputs(path, (InputFile(path, path.name),))


def pairs_of(path: pathlib.Path) -> list[tuple[InputFile, InputFile]]:
  """The pairs of a list with the columns portrait and driving, each once.

  Raises:
    UserError: there is no such list, it is empty, or it cannot be read.
  """
  if not path.is_file():
    raise UserError(f'{str(path)!r} does not exist')
  rows = list(dict.fromkeys(map(tuple, listed_rows(path, PAIRS))))
  if not rows:
    raise UserError(f'no pairs in the list {str(path)!r}; it takes a portrait and a driver a line')
  whole = lambda row: len(row) == 2 and all(row)

  def wrong(row):
    text = ','.join(row)
    name = f'no pair {text}'.replace('/', '_')  # not that of a file
    return InputFile(path.parent / 'none', name, wrong=f'{path.name}: {text[:100]!r} is no pair')

  return [
    tuple(_listed(path, cell) for cell in row) if whole(row) else (wrong(row),) * 2 for row in rows
  ]


def _listed(path: pathlib.Path, entry: str) -> InputFile:
  try:
    check_place(entry)
  except UserError as error:
    return InputFile(path.parent / 'none', entry, wrong=str(error))
  return InputFile(listed_path(path, entry), entry.replace('\\', '/'))


@contextlib.contextmanager
def unpacked(folder: pathlib.Path, inputs: tuple[Inputs, ...]) -> Iterator[tuple[Inputs, ...]]:
  """The inputs with their files; those of archives lie in `folder`, which goes with the block.

  What a kill left there is taken away first.
  """
  remove_folder(folder)
  try:
    yield tuple(each.unpacked(folder / str(n)) for n, each in enumerate(inputs))
  finally:
    remove_folder(folder)


def names_of(files: list[InputFile]) -> dict[InputFile, str]:
  """A name for each file among several: its stem, with its suffix where two have one stem, with its
  folders where two have one name, and with a digest of them where these do not tell them apart.

  No two are equal, also where a disk takes capitals and small letters for one.
  """

  def kinds(file):
    plain = pathlib.PurePosixPath(normal(file.name))
    stem, suffix = plain.stem[:100], plain.suffix[1:]
    folders = '_'.join(part for part in plain.parts[:-1] if part.strip('/.'))
    digest = hashlib.sha256(file.name.encode(errors='replace')).hexdigest()[:12]
    tail = f'_{suffix}' if suffix else ''
    yield stem
    yield f'{stem[:90]}{tail}'
    yield f'{folders[:60]}_{stem[:30]}{tail}'
    yield f'{stem[:70]}_{digest}'

  choices = {file: [_plain(name) for name in kinds(file)] for file in files}
  chosen = {file: 0 for file in files}
  while True:
    count = collections.Counter(choices[f][chosen[f]].casefold() for f in files)
    clash = [f for f in files if count[choices[f][chosen[f]].casefold()] > 1 and chosen[f] < 3]
    if not clash:
      break
    chosen |= {file: chosen[file] + 1 for file in clash}
  return {file: choices[file][chosen[file]] for file in files}


def _plain(name: str) -> str:
  """A name without what leads into another folder or moves a terminal's cursor."""
  return ''.join(c if c.isprintable() and c not in '/\\' else '_' for c in name)
