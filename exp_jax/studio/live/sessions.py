"""Sessions of a studio: who has which portrait open, in a worker process that no job of the queue
can hold up.

The process starts with the first session and ends once none has been used for a while, which gives
its memory back. A session ends when it is closed, when it was not used for `IDLE` seconds, or with
the process.
"""

import base64
import contextlib
import dataclasses
import pathlib
import threading
import time

from exp_jax.errors import UserError
from exp_jax.studio.child import WORKER, Child, Died, Silent
from exp_jax.studio.refusals import Refused, TooMany, Unknown, told
from exp_jax.studio.requests import checked_options
from exp_jax.studio.settings import Settings
from exp_jax.studio.uploads import Uploads, is_id, new_id

IDLE = 300.0  # seconds
KINDS = ('edit', 'live')
VIEWS = ('preview', 'normals')
ENGINES = ('proxy', 'liveportrait')  # those that draw one frame at a time
_MOST = 4  # sessions at once
_PATIENCE = 900.0  # seconds for a portrait, which may have to be compiled; a frame has less
_FRAME = 300.0


@dataclasses.dataclass
class Session:
  """An open session.

  Attributes:
    id: its name for clients, which cannot be guessed.
    kind: 'edit' or 'live'.
    engine: what draws.
    used: when it was last used, `time.monotonic`.
    sliders: {name: [low, high]} of kind 'edit'.
    picture: JPEG of the portrait as it is, of kind 'edit'.
  """

  id: str
  kind: str
  engine: str
  used: float
  sliders: dict = dataclasses.field(default_factory=dict)
  picture: bytes = b''


class Sessions:
  """The sessions of a studio; it may be used from several threads.

  Args:
    settings: of the studio.
    loading: {engine: how it is loaded}.
    uploads: whose files are opened.
    command: the worker process.
  """

  def __init__(
    self,
    settings: Settings,
    loading: dict[str, dict],
    uploads: Uploads,
    *,
    command: tuple[str, ...] = WORKER,
  ):
    self._settings, self._loading, self._uploads = settings, loading, uploads
    self._child, self._lock = Child(command), threading.Lock()
    self._sessions: dict[str, Session] = {}

  @property
  def process_id(self) -> int | None:
    """The number of the process that draws, or None where none runs."""
    return self._child.process_id

  @property
  def engines(self) -> tuple[str, ...]:
    """Those that are here and can draw one frame at a time."""
    return tuple(name for name in ENGINES if name in self._loading)

  def open(
    self,
    kind: str,
    *,
    engine: str,
    portrait: str,
    options: dict | None = None,
    view: str = 'preview',
  ) -> Session:
    """Opens a portrait; it is fitted now.

    Args:
      kind: 'edit', by sliders; 'live', after a camera.
      engine: one of `engines`.
      portrait: id of an upload.
      options: {name: JSON value} of the engine's options.
      view: 'preview', or 'normals' of the fitted head, for a camera.

    Raises:
      TooMany: as many sessions as may be are open.
      UserError: what the portrait or an option is refused for.
    """
    if kind not in KINDS or view not in VIEWS:
      raise Refused(
        f'a session is of kind {" or ".join(KINDS)} with a view of {" or ".join(VIEWS)}, '
        f'got {told(kind)[:40]!r} and '
        f'{told(view)[:40]!r}'
      )
    if engine not in self.engines:
      raise Refused(
        f'the engine {told(engine)[:40]!r} draws no single frames here; choose from '
        f'{", ".join(self.engines)}'
      )
    options, used = dict(options or {}), {}
    path = self._uploads.path(portrait)
    checked_options(
      engine, options, lambda upload: used.setdefault(upload, self._uploads.path(upload))
    )
    if used:
      raise Refused('options that are files cannot be had in a session; leave them out')
    with self._lock:
      self._drop_idle()
      if len(self._sessions) >= _MOST:
        raise TooMany(
          f'{len(self._sessions)} sessions are open already, the limit of this server: '
          'close one, or try again later'
        )
      session = Session(new_id(), kind, engine, time.monotonic())
      found = self._ask(
        {
          'do': 'open',
          'session': session.id,
          'kind': kind,
          'engine': engine,
          'loading': self._loading[engine],
          'portrait': str(path),
          'options': options,
          'view': view,
        },
        _PATIENCE,
      )
      session.sliders, session.used = found.get('sliders', {}), time.monotonic()
      session.picture = base64.b64decode(found.get('picture', ''))
      self._sessions[session.id] = session
      return session

  def draw(self, session: str, values: dict) -> bytes:
    """The edited portrait as a JPEG; UserError where a slider is refused, Unknown where there is no
    such session."""
    return base64.b64decode(
      self._used(session, 'edit', {'do': 'draw', 'values': values})['picture']
    )

  def save(self, session: str, values: dict, folder: pathlib.Path) -> None:
    """Writes edited.png and edited.npz into a folder; errors as `draw`."""
    self._used(session, 'edit', {'do': 'save', 'values': values, 'folder': str(folder)})

  def feed(self, session: str, frame: bytes, at: float | None = None) -> tuple[bytes, dict]:
    """The portrait as the driver of a frame.

    Args:
      session: its id.
      frame: a JPEG.
      at: its time in seconds; None: now.

    Returns:
      A JPEG, and {'rate': frames a second, 'seconds': {step: mean}, 'fed', 'seen'}.

    Raises:
      UserError: no face in the first frame, or a frame that is none.
    """
    if len(frame) > self._settings.max_bytes:
      raise Refused('a frame of the camera is larger than a file may be here')
    found = self._used(
      session, 'live', {'do': 'feed', 'picture': base64.b64encode(frame).decode(), 'at': at}
    )
    return base64.b64decode(found['picture']), {
      name: found[name] for name in ('rate', 'seconds', 'fed', 'seen')
    }

  def close(self, session: str) -> None:
    """Ends a session; one that is not there is over already."""
    with self._lock:
      if self._sessions.pop(session, None) is not None:
        self._forget(session)

  def sweep(self) -> None:
    """Ends sessions that nobody uses, and the process with the last of them."""
    if self._lock.acquire(blocking=False):
      try:
        if self._sessions or self._child.process_id is not None:
          self._drop_idle()
          if not self._sessions:
            self._child.end()
      finally:
        self._lock.release()

  def leave(self, seconds: float) -> None:
    """Ends the process, for ever."""
    self._child.close(seconds)

  def _drop_idle(self) -> None:
    now = time.monotonic()
    for each in [each for each in self._sessions.values() if now - each.used > IDLE]:
      del self._sessions[each.id]
      self._forget(each.id)

  def _forget(self, session: str) -> None:
    if self._child.process_id is not None:
      with contextlib.suppress(UserError):  # it died meanwhile
        self._ask({'do': 'close', 'session': session}, _FRAME)

  def _used(self, session: str, kind: str, request: dict) -> dict:
    with self._lock:
      found = self._sessions.get(session) if is_id(session) else None
      if found is None or found.kind != kind:
        raise Unknown(
          'there is no such session; it was closed, or nobody used it for a while: open it again'
        )
      found.used = time.monotonic()
      answer = self._ask(request | {'session': session}, _FRAME)
      found.used = time.monotonic()
      return answer

  def _ask(self, request: dict, seconds: float) -> dict:
    """One request and its answer; after a process that died or hangs all sessions are over."""
    try:
      self._child.send(request)
    except Died as error:
      raise Refused(f'the process that draws {error}') from None
    return self._answered(seconds)

  def _answered(self, seconds: float) -> dict:
    until = time.monotonic() + seconds
    try:
      while True:
        report = self._child.receive(max(until - time.monotonic(), 0.0))
        if report['report'] == 'done':
          return report
        if report['report'] == 'failed':
          raise Refused(report['words'])
    except (Died, Silent) as error:
      self._child.end()
      self._sessions.clear()
      how = f'took longer than {seconds:g} s' if isinstance(error, Silent) else f'was {error}'
      raise Refused(f'the process that draws {how}: open the portrait again') from None
