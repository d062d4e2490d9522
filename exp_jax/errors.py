"""The one exception that users meet: a sentence that names the culprit and the remedy.

Entry points wrap their main in `exits_cleanly`: a `UserError` ends the program with that one
sentence on standard error and exit status 2, any other exception keeps its traceback (it is our
bug, not theirs). What is printed reaches any
terminal: characters that its encoding lacks are spelled out, and a reader that has gone (`| head`)
ends the program quietly.
"""

import argparse
import contextlib
import errno
import functools
import os
import re
import select
import sys

# What the machine and its owner decide: rights, places that are taken, full or read-only disks.
_OF_THE_PLACE = (
  errno.EACCES,
  errno.EPERM,
  errno.ENOTDIR,
  errno.EISDIR,
  errno.EEXIST,
  errno.ENOSPC,
  errno.EROFS,
  errno.EDQUOT,
  errno.ENAMETOOLONG,
  errno.ELOOP,
  errno.ETXTBSY,
  errno.EBUSY,
  errno.ENXIO,
  errno.ESTALE,
)
# nothing can be made there, and the system says that it is not there
_NOT_OF_DISKS = '/proc/', '/sys/'
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# of libraries that keep no errno
_NO_ROOM_IN_WORDS = 'No space left on device', 'ENOSPC', 'EDQUOT', 'Disk quota exceeded'
# pathlib halves the slashes
_PLACE = re.compile(r'(?!file:)(?:[a-z][a-z0-9+.-]+:/{1,2}[^\s/]\S*)$', re.IGNORECASE)
_READER_GONE = 141  # what a shell says of a program that SIGPIPE ended
_FOLDERS = re.compile(
  r"""(?<=['"])/[^'"\n]*/|(?<![\w.:/~-])/(?:[^/\s'"]+/)+"""
)  # in quotes they may hold spaces


class UserError(ValueError):
  """Bad input.

  The message is one clear sentence: what is wrong with which thing, and what to do.
  """


class ArgumentParser(argparse.ArgumentParser):
  """argparse whose complaints are UserErrors: one sentence instead of a usage message and a
  program's name."""

  def error(self, message):
    raise UserError(f'{message}; see --help')

  def parse_args(self, args=None, namespace=None):
    """As argparse's; a path that is no path of this machine is a UserError."""
    found = super().parse_args(args, namespace)
    for value in vars(found).values():
      for each in value if isinstance(value, (list, tuple)) else (value,):
        check_place(each)
    return found


def check_place(value: object) -> None:
  """Raises UserError for an address such as gs://bucket/run, which a path would take for a local
  folder of that name.

  Args:
    value: of an option; what is neither text nor a path is let through, as is text that only
      contains an address.
  """
  found = (
    _PLACE.match(os.fspath(value))
    if isinstance(value, (str, os.PathLike)) and isinstance(os.fspath(value), str)
    else None
  )
  if found:
    raise UserError(
      f'{os.fspath(value)!r} is an address and not a path of this machine: mount the bucket (for '
      'gs:// by gcsfuse), or '
      'copy it, and give the path'
    )


def one_line(text: object) -> str:
  """Text fit for one line of a terminal: line ends, escape sequences and other control characters
  are spelled out.

  Names out of a file could otherwise move the cursor, or forge a line of output.
  """
  return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def without_folders(text: object, *known: object) -> str:
  """Text fit for a file that is given away: of absolute paths only the last part stays, so that it
  tells nothing of the machine.

  Args:
    known: folders that may stand in it outside of quotes; a space in their names would hide their
      end.
  """
  text = str(text)
  for folder in map(str, known):
    text = text.replace(f'{folder}/', '')
  return _FOLDERS.sub('', text)


def _causes(error: BaseException | None):
  """An exception and those that it came from, the outermost first."""
  for _ in range(20):
    if error is None:
      return
    yield error
    error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def is_full_disk(error: BaseException) -> bool:
  """Whether an exception, or one that it came from, says that a disk or a quota is full."""
  return any(
    isinstance(each, OSError)
    and each.errno in _NO_ROOM
    or not isinstance(each, UserError)
    and any(words in str(each) for words in _NO_ROOM_IN_WORDS)
    for each in _causes(error)
  )


def room_complaint(error: BaseException) -> str:
  """A sentence if a full disk, or too little memory of this machine or its device, is behind an
  exception; else ''."""
  if isinstance(error, UserError):
    return ''
  if is_full_disk(error):
    named = next(
      (name for each in _causes(error) if (name := getattr(each, 'filename', None))), None
    )
    return (
      f'the disk is full{f" at {str(named)!r}" if named else ""}: make room or choose another '
      'output, then run the same '
      'command again'
    )
  advice = 'use smaller pictures or shorter clips, or let it take fewer at once (see --help for size, limit, batch, together)'
  for each in _causes(error):
    if isinstance(each, MemoryError):
      return f'the memory of this machine does not suffice{f" ({one_line(each)[:200]})" if str(each) else ""}: {advice}'
    if isinstance(each, RuntimeError) and 'RESOURCE_EXHAUSTED' in str(each):
      found = re.search(r'allocat\w* (\d[^.;,]*)', str(each))
      return f'the memory of the device does not suffice{f" ({one_line(found[0])[:80]})" if found else ""}: {advice}'
  return ''


def item_failure(name: object, error: Exception) -> str:
  """What became of one item of a list, in one line of printable text, whatever library raised
  `error`; the others can go on.

  Raises:
    Exception: `error` itself where the disk is full, for every other item would end in the same
      way.
  """
  if is_full_disk(error):
    raise error
  if isinstance(error, UserError):
    return one_line(error)
  words = room_complaint(error) or f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
  return one_line(f'{str(name)!r}: {words}')


def platform_complaint() -> str:
  """A sentence if JAX cannot start what JAX_PLATFORMS names, else ''; JAX is not imported for
  it."""
  named, jax = os.environ.get('JAX_PLATFORMS'), sys.modules.get('jax')
  if not named or jax is None:
    return ''
  try:
    jax.devices()
  except (
    RuntimeError,
    AssertionError,
  ) as error:  # a platform that was not installed ends in a bare AssertionError
    reason = ' '.join(str(error).split())[:200]
    return (
      f'JAX cannot start JAX_PLATFORMS={named!r}{f" ({reason})" if reason else ""}: unset it to '
      'use what is there (cpu always '
      'is), or install JAX for it, such as pip install "exp_jax[cuda]" or "exp_jax[tpu]"'
    )
  return ''


def _of_the_machine(error: Exception) -> str:
  """A sentence if the machine and not the program is to blame, else ''."""
  if words := room_complaint(error):
    return words
  if isinstance(error, FileNotFoundError) and not _current_folder_is_there():
    return (
      'the current folder has been deleted: change to another one, then run the same command again'
    )
  if (
    isinstance(error, OSError)
    and error.filename is not None
    and (
      error.errno in _OF_THE_PLACE
      or error.errno == errno.ENOENT
      and str(error.filename).startswith(_NOT_OF_DISKS)
    )
  ):
    if isinstance(error, FileExistsError) and not os.path.isdir(error.filename):
      return f'{one_line(repr(str(error.filename)))} is there and is no folder: choose another output, or move it away'
    return f'{one_line(repr(str(error.filename)))}: {error.strerror}'
  return platform_complaint() if isinstance(error, (RuntimeError, AssertionError)) else ''


def _current_folder_is_there() -> bool:
  try:
    return bool(os.getcwd())
  except OSError:
    return False


def _prepare_streams() -> None:
  """Standard streams that everything can be printed to.

  One that was closed is opened as the null device: the next file that is opened would get its
  number, and what a library writes to standard error would end up inside that file.
  """
  for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
    try:
      os.fstat(number)
    except OSError:
      opened = os.open(os.devnull, flags)  # the lowest free number, which is this one
      if opened != number:
        os.dup2(opened, number)
        os.close(opened)
  for name, number in (('stdout', 1), ('stderr', 2)):
    if getattr(sys, name) is None:  # bars and libraries write there without asking
      setattr(
        sys, name, open(number, 'w', encoding='utf8', errors='backslashreplace', closefd=False)
      )
  if getattr(sys.stdout, 'errors', None) == 'strict' and hasattr(sys.stdout, 'reconfigure'):
    sys.stdout.reconfigure(errors='backslashreplace')


def _are_read() -> bool:
  """Writes out what is printed; False if a reader has gone, to whom nothing is written any more.

  Raises:
    OSError: it cannot be written for another reason, such as a full disk.
  """
  read = True
  for number, stream in ((1, sys.stdout), (2, sys.stderr)):
    try:
      if stream is not None and not stream.closed:
        stream.flush()
    except BrokenPipeError:
      read = False
      _silence(number)
  return read


def _reader_has_gone() -> bool:
  """Whether a BrokenPipeError was that of standard output or error, and not of another pipe; then
  nothing more is written there."""
  waits = select.poll() if hasattr(select, 'poll') else None
  gone = False
  for number in (1, 2):
    if waits is not None:
      waits.register(number, 0)
      broken = bool(waits.poll(0))
      waits.unregister(number)
      if broken:
        _silence(number)
      gone = gone or broken
  return not _are_read() or gone


def _silence(number: int) -> None:
  """Sends what is still written to a standard stream nowhere; else the interpreter complains at its
  end."""
  with contextlib.suppress(OSError):
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def _end(words: str, status: int) -> None:
  """Prints a sentence to standard error and ends the program."""
  with contextlib.suppress(OSError):
    print(words, file=sys.stderr)
  with contextlib.suppress(OSError):
    _are_read()
  sys.exit(status)


def exits_cleanly(main):
  """Decorates an entry point: UserError -> message and status 2, Ctrl-C -> status 130, a reader
  that has gone -> status 141.

  What JAX compiles meanwhile is kept for the next start, see `files.programs.compiled`.

  A failure of JAX to start the platform that JAX_PLATFORMS names, a full disk and too little memory
  are the user's to cure, too.
  """

  @functools.wraps(main)
  def wrapped(*args, **kwargs):
    from exp_jax.files.programs.compiled import keep_compiled  # which needs this module

    _prepare_streams()
    keep_compiled()
    try:
      try:
        result = main(*args, **kwargs)
      except SystemExit as ended:
        if not _are_read() and not ended.code:
          sys.exit(_READER_GONE)
        raise
      if not _are_read():
        sys.exit(_READER_GONE)
      return result
    except UserError as error:
      _end(f'error: {one_line(error)}', 2)
    except Exception as error:
      if isinstance(error, BrokenPipeError) and _reader_has_gone():
        sys.exit(_READER_GONE)
      if not (words := _of_the_machine(error)):
        raise
      _end(f'error: {one_line(words)}', 2)
    except KeyboardInterrupt:
      _end('interrupted; finished work is kept, run the same command again to go on', 130)

  return wrapped
