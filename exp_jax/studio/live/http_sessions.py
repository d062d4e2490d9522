"""Sessions over HTTP: portraits that are edited by sliders, or that follow the frames of a camera.

POST   /api/sessions               {kind, engine, portrait, options, view} -> {id, sliders}
POST   /api/sessions/ID/draw       {slider: value} -> JPEG
POST   /api/sessions/ID/picture    {slider: value} -> edited.png
POST   /api/sessions/ID/motion     {slider: value} -> edited.npz, which drives
POST   /api/sessions/ID/frames     a JPEG as the body -> JPEG; the headers X-Frames-A-Second and
                                   X-Seconds tell how fast
DELETE /api/sessions/ID
"""

import json
import tempfile
from collections.abc import Awaitable, Callable

import anyio.to_thread
import fastapi
import pydantic
from fastapi.responses import Response

from exp_jax.studio.manager import Studio
from exp_jax.studio.refusals import Refused

_FILES = {
  'picture': ('edited.png', 'image/png'),
  'motion': ('edited.npz', 'application/octet-stream'),
}


class Opened(pydantic.BaseModel):
  """A session as a client asks for it."""

  model_config = pydantic.ConfigDict(extra='forbid')
  kind: str = pydantic.Field(description="'edit', by sliders; 'live', after a camera")
  engine: str = pydantic.Field(
    'proxy', description="'proxy', or 'liveportrait' where this server has it"
  )
  portrait: str = pydantic.Field(description='id of an upload')
  view: str = pydantic.Field(
    'preview', description="of a camera's result: 'preview', or 'normals' of the fitted head"
  )
  options: dict = pydantic.Field({}, description='values by the names of GET /api/engines')


def add_sessions(
  app: fastapi.FastAPI,
  studio: Studio,
  json_of: Callable[[fastapi.Request], Awaitable],
  bytes_of: Callable[[fastapi.Request], Awaitable[bytes]],
) -> None:
  """Adds the paths above.

  Args:
    app: that serves.
    studio: whose sessions they are.
    json_of: the JSON body of a request, checked.
    bytes_of: the body of a request, of limited size.
  """
  sessions, in_thread = studio.sessions, anyio.to_thread.run_sync

  async def values_of(request: fastapi.Request) -> dict:
    values = await json_of(request)
    if not isinstance(values, dict):
      raise Refused('sliders come as an object of names and numbers')
    return values

  @app.post('/api/sessions', status_code=201)
  async def open_session(request: fastapi.Request) -> dict:
    """Opens a portrait, which is fitted now; see the schema Opened."""
    try:
      asked = Opened.model_validate(await json_of(request))
    except pydantic.ValidationError as error:
      first = error.errors()[0]
      raise Refused(
        f'the request is not understood: {".".join(map(str, first["loc"]))}: {first["msg"]}'
      ) from None
    made = await in_thread(lambda: sessions.open(asked.kind, **asked.model_dump(exclude={'kind'})))
    return {'id': made.id, 'kind': made.kind, 'engine': made.engine, 'sliders': made.sliders}

  @app.post('/api/sessions/{session}/draw')
  async def draw(session: str, request: fastapi.Request):
    """The edited portrait (JPEG)."""
    values = await values_of(request)
    return Response(
      await in_thread(lambda: sessions.draw(session, values)), media_type='image/jpeg'
    )

  @app.post('/api/sessions/{session}/frames')
  async def feed(session: str, request: fastapi.Request, at: float | None = None):
    """The portrait as the driver of a frame of the camera (JPEG)."""
    frame = await bytes_of(request)
    drawn, found = await in_thread(lambda: sessions.feed(session, frame, at))
    return Response(
      drawn,
      media_type='image/jpeg',
      headers={
        'X-Frames-A-Second': f'{found["rate"]:.3f}',
        'X-Seconds': json.dumps(found['seconds']),
        'X-Frames': f'{found["fed"]} {found["seen"]}',
      },
    )

  @app.post('/api/sessions/{session}/{what}')
  async def save(session: str, what: str, request: fastapi.Request):
    """The edited portrait as a PNG ('picture'), or a motion file that drives to it ('motion')."""
    if what not in _FILES:
      raise Refused(f'a session gives {" or ".join(_FILES)}, nothing else')
    values = await values_of(request)
    name, kind = _FILES[what]
    with tempfile.TemporaryDirectory(dir=studio.settings.place, prefix='.saved') as folder:
      place = studio.settings.place / folder
      await in_thread(lambda: sessions.save(session, values, place))
      content = (place / name).read_bytes()
    return Response(
      content, media_type=kind, headers={'Content-Disposition': f'attachment; filename="{name}"'}
    )

  @app.delete('/api/sessions/{session}', status_code=204)
  async def close(session: str):
    """Ends a session."""
    await in_thread(sessions.close, session)
