"""The border between our readers and the libraries that decode: whatever those raise becomes one
sentence with the path.

Pillow and PyAV raise ValueError, OSError, SyntaxError, AssertionError, struct.error, MemoryError,
RecursionError and others on damaged files. A folder run survives a UserError of one file; so
nothing else may leave a reader.
"""

import collections.abc
import contextlib
import os

from exp_jax.errors import UserError


def reason(error: BaseException) -> str:
  """What an exception says, in one short line of printable text."""
  if isinstance(error, MemoryError):
    return 'the memory does not suffice'
  text = getattr(error, 'strerror', None) or str(error).strip() or type(error).__name__
  line = ' '.join(str(text).split())
  return ''.join(c if c.isprintable() else '?' for c in line)[:200]


@contextlib.contextmanager
def one_sentence(path: str | os.PathLike, what: str) -> collections.abc.Iterator[None]:
  """Turns every exception of the block into a UserError that names `what` (such as 'image') and the
  path.

  A UserError passes as it is. Interrupts are no exceptions of this kind.
  """
  try:
    yield
  except UserError:
    raise
  except PermissionError as error:
    raise UserError(
      f'{what} {str(path)!r} may not be read ({reason(error)}); change its rights'
    ) from None
  except Exception as error:
    raise UserError(
      f'{what} {str(path)!r} is damaged ({reason(error)}); export it again'
    ) from error
