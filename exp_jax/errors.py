"""The one exception that users meet: a sentence that names the culprit and the remedy.

Entry points wrap their main in `exits_cleanly`: a `UserError` ends the program with that one sentence on
standard error and exit status 2, any other exception keeps its traceback (it is our bug, not theirs).
"""

import functools
import sys


class UserError(ValueError):
  """Bad input. The message is one clear sentence: what is wrong with which thing, and what to do."""


def exits_cleanly(main):
  """Decorates an entry point: UserError -> message and status 2, Ctrl-C -> status 130."""

  @functools.wraps(main)
  def wrapped(*args, **kwargs):
    try:
      return main(*args, **kwargs)
    except UserError as error:
      print(f'error: {error}', file=sys.stderr)
      sys.exit(2)
    except KeyboardInterrupt:
      print('interrupted; finished work is kept, run the same command again to go on', file=sys.stderr)
      sys.exit(130)

  return wrapped
