"""A client of `exp-jax serve` with nothing but Python's own library.

client = Client('http://127.0.0.1:8770')
portrait, driving = client.upload('me.png', content), client.upload('clip.mkv', other)
job = client.create(portrait=portrait, driving=driving, engine='proxy', options={'size': 256})
job = client.follow(job, progress=print, cancelled=lambda: False)
client.fetch(job['results']['video'])
"""

import contextlib
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request

ADDRESS, TOKEN = 'EXP_JAX_SERVER', 'EXP_JAX_TOKEN'
_HERE = 'http://127.0.0.1:8770'
_LOOK = 0.3  # seconds between two looks at a job
_ANSWER = 300  # seconds


class ServerError(RuntimeError):
  """The server's sentence, or why it could not be asked."""


class Stopped(Exception):
  """The caller wanted no more; the job was cancelled."""


class Client:
  """Asks one server.

  Args:
    address: of the server; '': $EXP_JAX_SERVER, else this machine's usual one.
    token: that it needs; '': $EXP_JAX_TOKEN.
  """

  def __init__(self, address: str = '', token: str = ''):
    self._address = (address or os.environ.get(ADDRESS, '') or _HERE).rstrip('/')
    self._token = token or os.environ.get(TOKEN, '')

  def upload(self, name: str, content: bytes) -> str:
    """The id of a file that was handed over.

    Raises:
      ServerError: it is refused, or the server is not there.
    """
    return self._asked(
      f'/api/uploads?{urllib.parse.urlencode({"name": name})}', content, 'application/octet-stream'
    )['id']

  def create(self, **asked) -> dict:
    """The record of a new job; keywords as of POST /api/jobs."""
    return self._asked('/api/jobs', json.dumps(asked).encode(), 'application/json')

  def follow(self, job: dict, *, progress, cancelled) -> dict:
    """The record of a job that is done.

    Args:
      job: its record.
      progress: called with a record at every change.
      cancelled: a true answer cancels the job.

    Raises:
      Stopped: by `cancelled`, or by somebody else.
      ServerError: it failed; the server's sentence.
    """
    place, last = f'/api/jobs/{job["id"]}', None
    try:
      while job['state'] in ('queued', 'running'):
        if cancelled():
          raise Stopped
        if job != last:
          progress(job)
        last = job
        time.sleep(_LOOK)
        job = self._asked(place)
    except BaseException:  # also an interruption: the job is of no use to anybody
      with contextlib.suppress(ServerError):
        self._asked(f'{place}/cancel', b'', 'application/json')
      raise
    if job['state'] == 'cancelled':
      raise Stopped
    if job['state'] != 'done':
      raise ServerError(job['words'])
    return job

  def fetch(self, link: str) -> bytes:
    """A result."""
    return self._bytes(link)

  def delete(self, kind: str, name: str) -> None:
    """Deletes an upload or a job, if it is still there."""
    with contextlib.suppress(ServerError):
      self._bytes(f'/api/{kind}/{name}', method='DELETE')

  def _asked(self, place: str, content: bytes | None = None, kind: str = '') -> dict:
    return json.loads(self._bytes(place, content, kind))

  def _bytes(
    self, place: str, content: bytes | None = None, kind: str = '', method: str | None = None
  ) -> bytes:
    headers = {'Content-Type': kind} if kind else {}
    if self._token:
      headers['Authorization'] = f'Bearer {self._token}'
    request = urllib.request.Request(self._address + place, content, headers, method=method)
    try:
      with urllib.request.urlopen(request, timeout=_ANSWER) as answer:
        return answer.read()
    except urllib.error.HTTPError as error:
      try:
        words = json.loads(error.read())['error']
      except (ValueError, KeyError, TypeError):
        words = f'the server answers {error.code}'
      raise ServerError(words) from None
    except (urllib.error.URLError, OSError) as error:
      reason = getattr(error, 'reason', error)
      raise ServerError(
        f'no exp_jax server answers at {self._address} ({reason}): start one with `exp-jax serve`, '
        f'or set {ADDRESS} '
        'to its address'
      ) from None
