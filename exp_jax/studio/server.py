"""The HTTP interface of a studio, described by its own OpenAPI document at /api/openapi.json.

Errors are {"error": one sentence}. A server that listens on this machine alone needs no token, and
answers no page of another site: the names in `Host` and `Origin` must be its own. Any other server
needs `Authorization: Bearer TOKEN`; the results of a job can also be had with the job's own key,
which stands in the links of its record.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import hmac
import json
import time
import urllib.parse

import anyio.to_thread
import fastapi
import pydantic
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

import exp_jax
from exp_jax.errors import UserError
from exp_jax.studio.jobs import ENDED, RESULTS, Job
from exp_jax.studio.live.http_sessions import add_sessions
from exp_jax.studio.manager import Studio
from exp_jax.studio.refusals import Refused, TooLarge, Unknown, told
from exp_jax.studio.requests import as_json, options_of

_LOOK = 0.25  # seconds between two looks at a job whose events are sent
_MOST_JSON = 1 << 20  # bytes of a request
_HEADERS = {
  'X-Content-Type-Options': 'nosniff',
  'Cache-Control': 'no-store',
  'Referrer-Policy': 'no-referrer',
  'Content-Security-Policy': "default-src 'none'; media-src 'self'; img-src 'self'; "
  "frame-ancestors 'none'",
}


class Asked(pydantic.BaseModel):
  """A job as a client asks for it."""

  model_config = pydantic.ConfigDict(extra='forbid')
  kind: str = pydantic.Field(
    'animate',
    description="'animate'; 'portrait': the fitted head drawn over the portrait; 'fit': a "
    'subject of a picture, a clip or a subject file, with its normals',
  )
  engine: str = pydantic.Field('proxy', description='one of GET /api/engines')
  portrait: str = pydantic.Field(description='id of an upload')
  driving: str | None = pydantic.Field(None, description='id of an upload; not for a portrait')
  preview: float = pydantic.Field(
    0.0, description='seconds of the result that are shown before the rest is drawn; 0: none'
  )
  options: dict = pydantic.Field(
    {},
    description='values by the names of GET /api/engines; an option that is a file takes an upload',
  )


class Door:
  """Who may ask: an ASGI middleware in front of everything.

  Args:
    app: what is behind it.
    hosts: names by which this server may be called; none: any.
    token: that is needed, or None.
    open_paths: beginnings of paths that look after themselves.
  """

  def __init__(
    self, app, *, hosts: frozenset[str], token: str | None, open_paths: tuple[str, ...] = ()
  ):
    self._app, self._hosts, self._token, self._open = app, hosts, token, open_paths

  async def __call__(self, scope, receive, send):
    if scope['type'] in ('http', 'websocket') and (refusal := self._refusal(scope)):
      if scope['type'] == 'websocket':
        return await send({'type': 'websocket.close', 'code': 1008})
      status, words = refusal
      return await JSONResponse({'error': words}, status)(scope, receive, send)
    await self._app(scope, receive, send)

  def _refusal(self, scope) -> tuple[int, str] | None:
    headers = {name.lower(): value.decode('latin1') for name, value in scope['headers']}
    host = _name_of(headers.get(b'host', ''))
    if self._hosts and host not in self._hosts:
      return 403, 'this server is not called by that name; it answers to this machine alone'
    origin = headers.get(b'origin')
    if origin is not None and urllib.parse.urlsplit(origin).netloc != headers.get(b'host'):
      return 403, 'requests from pages of other sites are not answered'
    path = scope['path']
    if (
      self._token is None
      or not path.startswith('/api')
      and any(path.startswith(each) for each in self._open)
    ):
      return None
    given = headers.get(b'authorization', '').removeprefix('Bearer ')
    if hmac.compare_digest(given.encode(), self._token.encode()) or self._has_key(scope):
      return None
    return (
      401,
      'a token is needed: Authorization: Bearer TOKEN, as exp-jax printed it when the server was '
      'started',
    )

  def _has_key(self, scope) -> bool:
    parts = scope['path'].split('/')
    key = urllib.parse.parse_qs(scope.get('query_string', b'').decode('latin1')).get('key', [''])[0]
    return (
      scope.get('method') == 'GET'
      and len(parts) == 6
      and parts[1:3] == ['api', 'jobs']
      and parts[4] == 'results'
      and hmac.compare_digest(key.encode(), key_of(self._token, parts[3]).encode())
    )


def _name_of(host: str) -> str:
  """The name in a Host header without its port."""
  return host.rsplit(':', 1)[0] if not host.endswith(']') and ':' in host else host


def key_of(token: str, job: str) -> str:
  """The key to the results of one job."""
  return hmac.new(token.encode(), job.encode(), hashlib.sha256).hexdigest()[:32]


def job_record(studio: Studio, job: Job, token: str | None = None) -> dict:
  """A job as clients see it."""
  values = dataclasses.asdict(job)
  key = '' if token is None else f'?key={key_of(token, job.id)}'
  return values | {
    'place': studio.place_in_queue(job.id),
    'results': {name: f'/api/jobs/{job.id}/results/{name}{key}' for name in studio.results(job.id)},
  }


def make_app(
  studio: Studio,
  *,
  token: str | None = None,
  hosts: frozenset[str] = frozenset(),
  open_paths: tuple[str, ...] = (),
) -> fastapi.FastAPI:
  """The application; `studio` must be open.

  Args:
    studio: whose jobs it offers.
    token: that clients need, or None.
    hosts: names by which it may be called; none: any.
    open_paths: beginnings of paths outside of /api that look after themselves.
  """
  app = fastapi.FastAPI(
    title='exp_jax',
    version=exp_jax.__version__,
    openapi_url='/api/openapi.json',
    docs_url=None,
    redoc_url=None,
    description='Portrait animation: upload a portrait and a clip, create a job, fetch its '
    'results.',
  )
  app.add_middleware(Door, hosts=hosts, token=token, open_paths=open_paths)
  record = lambda job: job_record(studio, job, token)
  _add_errors(app)
  _add_uploads(app, studio)
  _add_jobs(app, studio, record)
  add_sessions(app, studio, _json_of, lambda request: _bytes_of(request, studio.settings.max_bytes))

  @app.get('/api/about')
  def about() -> dict:
    """Limits, and how long things are kept."""
    settings = studio.settings
    return {
      'exp_jax': exp_jax.__version__,
      'max_megabytes': settings.max_megabytes,
      'max_seconds': settings.max_seconds,
      'queue': settings.queue,
      'uploads': settings.uploads,
      'keep_hours': settings.keep_hours,
      'engines': list(studio.engines),
    }

  @app.get('/api/engines')
  def engines() -> dict:
    """The engines with their options: range, unit, choices, help."""
    return {name: [as_json(each) for each in options_of(name)] for name in studio.engines}

  return app


def _add_errors(app: fastapi.FastAPI) -> None:
  @app.exception_handler(UserError)
  def refused(_, error: UserError):
    return JSONResponse({'error': told(error)}, getattr(error, 'status', 400))

  @app.exception_handler(fastapi.exceptions.RequestValidationError)
  def malformed(_, error):
    first = error.errors()[0]
    place = '.'.join(str(part) for part in first['loc'][1:])
    return JSONResponse(
      {'error': told(f'the request is not understood: {place}: {first["msg"]}')}, 422
    )

  @app.exception_handler(Exception)
  def broken(_, error):
    return JSONResponse({'error': 'an error of the server; its log has more'}, 500)

  @app.middleware('http')
  async def headers(request, answer_of):
    answer = await answer_of(request)
    if request.url.path.startswith('/api'):
      answer.headers.update(
        {name: value for name, value in _HEADERS.items() if name not in answer.headers}
      )
    return answer


def _add_uploads(app: fastapi.FastAPI, studio: Studio) -> None:
  binary = {'application/octet-stream': {'schema': {'type': 'string', 'format': 'binary'}}}
  body = {'requestBody': {'required': True, 'content': binary}}

  @app.post('/api/uploads', status_code=201, openapi_extra=body)
  async def upload(request: fastapi.Request, name: str) -> dict:
    """A portrait, clip or motion file as the body of the request, and its name; says what it is."""
    length = request.headers.get('content-length', '')
    made = await studio.uploads.add(
      name,
      request.stream(),
      declared=int(length) if length.isdecimal() else None,
      in_thread=anyio.to_thread.run_sync,
    )
    return dataclasses.asdict(made)

  @app.get('/api/uploads/{upload}')
  def about_upload(upload: str) -> dict:
    """What an upload is."""
    return dataclasses.asdict(studio.uploads.get(upload))

  @app.get('/api/uploads/{upload}/preview')
  def preview(upload: str):
    """A small picture of an upload (PNG)."""
    if (path := studio.uploads.preview(upload)) is None:
      raise Unknown('a motion file has no picture')
    return FileResponse(path, media_type='image/png')

  @app.delete('/api/uploads/{upload}', status_code=204)
  def delete_upload(upload: str):
    """Deletes an upload."""
    studio.delete_upload(upload)


def _add_jobs(app: fastapi.FastAPI, studio: Studio, record) -> None:
  @app.post('/api/jobs', status_code=201)
  async def create(request: fastapi.Request) -> dict:
    """Creates a job; see the schema Asked."""
    try:
      asked = Asked.model_validate(await _json_of(request))
    except pydantic.ValidationError as error:
      first = error.errors()[0]
      raise Refused(
        f'the request is not understood: {".".join(map(str, first["loc"]))}: {first["msg"]}'
      ) from None
    make = lambda: studio.create(asked.kind, **asked.model_dump(exclude={'kind'}))
    return record(await anyio.to_thread.run_sync(make))

  @app.get('/api/jobs')
  def jobs() -> list[dict]:
    """All jobs, the newest first."""
    return [record(job) for job in studio.list()]

  @app.get('/api/jobs/{job}')
  def one_job(job: str) -> dict:
    """State, stage, steps done and in all, seconds that remain, links to results."""
    return record(studio.get(job))

  @app.get('/api/jobs/{job}/events')
  async def events(job: str):
    """The same as server-sent events, one at every change, until the job has ended."""
    studio.get(job)
    return StreamingResponse(_events(studio, job, record), media_type='text/event-stream')

  @app.post('/api/jobs/{job}/cancel')
  def cancel(job: str) -> dict:
    """Stops a job."""
    return record(studio.cancel(job))

  @app.delete('/api/jobs/{job}', status_code=204)
  def delete(job: str):
    """Deletes a job that has ended, with its results."""
    studio.delete(job)

  @app.get('/api/jobs/{job}/results/{name}')
  def result(job: str, name: str, download: bool = False):
    """A result: video, preview (also while the job runs), side_by_side, sheet, record, motion,
    head, faces, subject or normals."""
    found = studio.results(job)
    if name not in found:
      raise Unknown(
        f'the job has no result {told(name)[:40]!r}; it has {", ".join(found) or "none yet"}'
      )
    path = found[name]
    return FileResponse(
      path,
      media_type=RESULTS[name][1],
      filename=path.name,
      content_disposition_type='attachment' if download else 'inline',
    )


async def _bytes_of(request: fastapi.Request, most: int) -> bytes:
  """The body of a request; TooLarge beyond so many bytes."""
  content = b''
  async for chunk in request.stream():
    content += chunk
    if len(content) > most:
      raise TooLarge('the request is too long')
  return content


async def _json_of(request: fastapi.Request):
  """The JSON body of a request.

  Raises:
    Refused: it is none, or of another type, which pages of other sites could send.
  """
  if request.headers.get('content-type', '').partition(';')[0].strip() != 'application/json':
    raise Refused('a job is created by JSON: send it with Content-Type: application/json')
  text = await _bytes_of(request, _MOST_JSON)
  try:
    return json.loads(text)
  except (ValueError, RecursionError):
    raise Refused('the request is no JSON') from None


async def _events(studio: Studio, job: str, record):
  last, sent = None, time.monotonic()
  while True:
    with contextlib.suppress(UserError):
      found = record(studio.get(job))
      if (text := json.dumps(found)) != last:
        last, sent = text, time.monotonic()
        yield f'data: {text}\n\n'
      elif time.monotonic() - sent > 15:
        sent = time.monotonic()
        yield ': still there\n\n'
      if found['state'] in ENDED:
        return
      await asyncio.sleep(_LOOK)
      continue
    return  # deleted meanwhile
