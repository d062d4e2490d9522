"""What a client is refused, with the status of HTTP that fits; the sentences are those of
`UserError`."""

from exp_jax.errors import UserError, one_line, without_folders


class Refused(UserError):
  """A request that is not done, with the status that HTTP has for the reason."""

  status = 400


class Unknown(Refused):
  """There is no such thing, or not any more."""

  status = 404


class TooLarge(Refused):
  """It exceeds a limit that this server was started with."""

  status = 413


class TooMany(Refused):
  """The queue, or the room for files, is full."""

  status = 503


class NotYet(Refused):
  """The job is in another state than this needs."""

  status = 409


def told(error: object) -> str:
  """The sentence of an error as a client may read it: one printable line, no folder of this machine
  in it."""
  return one_line(without_folders(error))[:2000]
