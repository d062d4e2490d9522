"""Serves portrait animation over HTTP, with a queue and one warm worker.

  exp-jax serve                                            # http://127.0.0.1:8770/api, this machine alone
  exp-jax serve --host 0.0.0.0                             # others too; prints the token that they need (or EXP_JAX_TOKEN)
  exp-jax serve --export liveportrait=weights/liveportrait # engines with weights of your own

Clients upload a portrait and a clip, create a job, watch it and fetch its results;
/api/openapi.json describes it. Models stay loaded between jobs. Uploads and results lie
in --folder, which no other server may use meanwhile, and are deleted after --keep_hours; jobs that
wait when the server is ended go on when it is started again. Needs the extra `ui`: pip install
"exp_jax[ui]".
Exit status: 0 ended by Ctrl-C or SIGTERM, 2 bad input.
"""

import argparse
import contextlib
import importlib
import ipaddress
import os
import secrets
import signal
import socket
import sys

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly

PORT, TOKEN = 8770, 'EXP_JAX_TOKEN'
_SHORTEST = 16  # characters of a token


def parser(description: str, port: int = PORT) -> ArgumentParser:
  """The flags of a server."""
  from exp_jax.performance.options import add_flags
  from exp_jax.studio.settings import Settings

  p = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
  p.add_argument(
    '--host',
    default='127.0.0.1',
    help='address to listen on (default 127.0.0.1: this machine alone)',
  )
  p.add_argument(
    '--port', type=int, default=port, help=f'port, 0 for any that is free (default {port})'
  )
  p.add_argument(
    '--export',
    nargs='+',
    default=[],
    metavar='ENGINE=DIR',
    help='weights of an engine, as animate takes them by --export',
  )
  p.add_argument(
    '--load',
    nargs='+',
    default=[],
    metavar='ENGINE.OPTION=VALUE',
    help='how an engine is loaded, such as liveportrait.random_weights=tiny',
  )
  add_flags(p.add_argument_group('limits'), Settings)
  return p


def needed(*packages: str) -> None:
  """Raises UserError where a package of the extra `ui` is missing."""
  for name in packages:
    try:
      importlib.import_module(name)
    except ModuleNotFoundError as error:
      if error.name != name:
        raise
      raise UserError(
        f'this needs the package {name}, which the extra `ui` has: pip install "exp_jax[ui]"'
      ) from None


def is_loopback(host: str) -> bool:
  """Whether an address is of this machine alone."""
  try:
    return ipaddress.ip_address(host.strip('[]')).is_loopback
  except ValueError:
    return host == 'localhost'


def token_for(host: str) -> str | None:
  """The token that a server needs: none on this machine alone; else the environment's, or a new
  one.

  Raises:
    UserError: the environment's is too short.
  """
  given = os.environ.get(TOKEN, '')
  if given and (len(given) < _SHORTEST or not given.isascii() or not given.isprintable()):
    raise UserError(f'{TOKEN} must have at least {_SHORTEST} plain characters')
  return given or (None if is_loopback(host) else secrets.token_urlsafe(24))


def hosts_of(host: str) -> frozenset[str]:
  """Names by which a server on this machine alone may be called; none for others: any."""
  return (
    frozenset(('127.0.0.1', 'localhost', '[::1]', host, f'[{host}]'))
    if is_loopback(host)
    else frozenset()
  )


def bound(host: str, port: int) -> socket.socket:
  """A socket that listens.

  Raises:
    UserError: the address is not of this machine, or the port is taken.
  """
  if not 0 <= port <= 65535:
    raise UserError(f'--port must be in 0..65535, got {port}')
  try:
    kind = socket.AF_INET6 if ':' in host else socket.AF_INET
    return socket.create_server((host.strip('[]'), port), family=kind)
  except OSError as error:
    raise UserError(
      f'cannot listen on {host} port {port} ({error.strerror or error}): choose another --host or '
      '--port'
    ) from None


def run(args, make_app, words: str) -> None:
  """Serves until it is ended.

  Args:
    args: of `parser`.
    make_app: (studio, token, hosts) -> application.
    words: what is offered, for the line that says where.
  """
  import uvicorn

  from exp_jax.performance.options import from_flags
  from exp_jax.studio.manager import Studio
  from exp_jax.studio.settings import Settings, loading_of

  settings, loading, token = (
    from_flags(Settings, args),
    loading_of(args.export, args.load),
    token_for(args.host),
  )
  with (
    contextlib.closing(bound(args.host, args.port)) as listening,
    Studio(settings, loading) as studio,
  ):
    shown = f'[{args.host}]' if ':' in args.host else args.host
    app = make_app(studio, token, hosts_of(args.host))
    print(f'{words}: http://{shown}:{listening.getsockname()[1]}', flush=True)
    print(f'uploads and results are deleted after {settings.keep_hours:g} hours', flush=True)
    if token is not None:
      print(f'token: {token if TOKEN not in os.environ else f"that of {TOKEN}"}', flush=True)
    server = uvicorn.Server(
      uvicorn.Config(
        app, log_level='warning', access_log=False, timeout_graceful_shutdown=3, server_header=False
      )
    )
    # uvicorn raises it again at its end, and the studio is to be closed
    signal.signal(signal.SIGTERM, _interrupt)
    server.run(sockets=[listening])


def _interrupt(*_):
  raise KeyboardInterrupt


@exits_cleanly
def main(argv=None):
  args = parser(__doc__).parse_args(argv)
  needed('fastapi', 'uvicorn')
  from exp_jax.studio.server import make_app

  with contextlib.suppress(KeyboardInterrupt):
    run(
      args,
      lambda studio, token, hosts: make_app(studio, token=token, hosts=hosts),
      'exp_jax serves its API (/api) at',
    )
  return 0


if __name__ == '__main__':
  sys.exit(main())
