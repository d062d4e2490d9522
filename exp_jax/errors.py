"""The one exception that users meet: a sentence that names the culprit and the remedy.

Entry points wrap their main in `exits_cleanly`: a `UserError` ends the program with that one sentence on
standard error and exit status 2, any other exception keeps its traceback (it is our bug, not theirs).
"""

import argparse
import errno
import functools
import os
import sys

# What the machine and its owner decide: rights, places that are taken, full or read-only disks.
_OF_THE_PLACE = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOSPC, errno.EROFS,
                 errno.EDQUOT, errno.ENAMETOOLONG)


class UserError(ValueError):
  """Bad input. The message is one clear sentence: what is wrong with which thing, and what to do."""


class ArgumentParser(argparse.ArgumentParser):
  """argparse whose complaints are UserErrors: one sentence instead of a usage message and a program's name."""

  def error(self, message):
    raise UserError(f'{message}; see --help')


def one_line(text: object) -> str:
  """Text fit for one line of a terminal: line ends, escape sequences and other control characters are spelled out.

  Names out of a file could otherwise move the cursor, or forge a line of output.
  """
  return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def platform_complaint() -> str:
  """A sentence if JAX cannot start what JAX_PLATFORMS names, else ''; JAX is not imported for it."""
  named, jax = os.environ.get('JAX_PLATFORMS'), sys.modules.get('jax')
  if not named or jax is None:
    return ''
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:  # a platform that was not installed ends in a bare AssertionError
    reason = ' '.join(str(error).split())[:200]
    return (f'JAX cannot start JAX_PLATFORMS={named!r}{f" ({reason})" if reason else ""}: unset it to use what is there (cpu always '
            'is), or install JAX for it, such as pip install "exp_jax[cuda]" or "exp_jax[tpu]"')
  return ''


def exits_cleanly(main):
  """Decorates an entry point: UserError -> message and status 2, Ctrl-C -> status 130.

  A failure of JAX to start the platform that JAX_PLATFORMS names is the user's to cure, too.
  """

  @functools.wraps(main)
  def wrapped(*args, **kwargs):
    try:
      return main(*args, **kwargs)
    except UserError as error:
      print(f'error: {one_line(error)}', file=sys.stderr)
      sys.exit(2)
    except OSError as error:
      if error.errno not in _OF_THE_PLACE or error.filename is None:
        raise
      print(f'error: {str(error.filename)!r}: {error.strerror}', file=sys.stderr)
      sys.exit(2)
    except (RuntimeError, AssertionError):
      if not (words := platform_complaint()):
        raise
      print(f'error: {words}', file=sys.stderr)
      sys.exit(2)
    except KeyboardInterrupt:
      print('interrupted; finished work is kept, run the same command again to go on', file=sys.stderr)
      sys.exit(130)

  return wrapped
