"""What the worker does for a session: a portrait is opened once, then drawn for each request.

Requests, one JSON object each, by 'do'; all have 'session', an id:

  open    'kind': 'edit' or 'live', 'engine', 'loading', 'portrait': path, 'options', 'view'
  draw    'values': {slider: value}
  save    'values', 'folder': path; edited.png and edited.npz are written there
  feed    'picture': JPEG in base64, 'at': seconds or null
  close

The answer is {'report': 'done'} with, of open, 'sliders' {name: [low, high]} where they edit; of
draw 'picture', a JPEG in base64; of feed 'picture', 'rate', 'seconds', 'fed' and 'seen'.
"""

import base64
import binascii
import io
import pathlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from exp_jax.errors import UserError
from exp_jax.media.images import write_image

DOES = ('open', 'draw', 'save', 'feed', 'close')
_QUALITY = 90
_LARGEST = 4096  # pixels of a side of a frame
_NO_JPEG = 'a frame of the camera is no JPEG that can be read'


def as_jpeg(picture: np.ndarray) -> str:
  """uint8 [H, W, 3] as a JPEG in base64."""
  made = io.BytesIO()
  Image.fromarray(picture).save(made, 'JPEG', quality=_QUALITY)
  return base64.b64encode(made.getvalue()).decode()


def from_jpeg(text: str) -> np.ndarray:
  """uint8 [H, W, 3] of a JPEG in base64.

  Raises:
    UserError: it is none, or wider or higher than 4096 pixels.
  """
  try:
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=('JPEG',))
  except (binascii.Error, OSError, ValueError, TypeError, Image.DecompressionBombError):
    raise UserError(_NO_JPEG) from None
  with image:
    if max(image.size) > _LARGEST:
      raise UserError(
        f'a frame of the camera is {image.size[0]} x {image.size[1]} pixels: at most '
        f'{_LARGEST} a side are taken'
      )
    try:
      return np.asarray(image.convert('RGB'))
    except (OSError, ValueError, SyntaxError):
      raise UserError(_NO_JPEG) from None


class DrawnSessions:
  """The open sessions of a worker.

  Args:
    model_of: (engine, how it is loaded) -> model.
    options_of: (engine, {name: value}) -> its options.
  """

  def __init__(self, model_of: Callable, options_of: Callable):
    self._model_of, self._options_of, self._sessions = model_of, options_of, {}
    self._steps = {
      'open': self._start,
      'draw': self._draw,
      'save': self._save,
      'feed': self._feed,
      'close': self._close,
    }

  def answer(self, request: dict) -> dict:
    """Does one request.

    Raises:
      UserError: there is no such session, or what its portrait, its sliders or its frame are
        refused for.
    """
    return self._steps[request['do']](request)

  def _start(self, request: dict) -> dict:
    model = self._model_of(request['engine'], request['loading'])
    options, portrait = (
      self._options_of(request['engine'], request['options']),
      pathlib.Path(request['portrait']),
    )
    if request['kind'] == 'live':
      self._sessions[request['session']] = model.live(
        portrait, options=options, view=request['view']
      )
      return {}
    editor = model.editor(portrait, options=options)
    self._sessions[request['session']] = editor
    return {
      'sliders': {name: list(bounds) for name, bounds in editor.sliders.items()},
      'picture': as_jpeg(editor.draw({})),
    }

  def _draw(self, request: dict) -> dict:
    return {'picture': as_jpeg(self._of(request).draw(request['values']))}

  def _save(self, request: dict) -> dict:
    editor, folder = self._of(request), pathlib.Path(request['folder'])
    write_image(folder / 'edited.png', editor.draw(request['values']))
    editor.save_motion(folder / 'edited.npz', request['values'])
    return {}

  def _feed(self, request: dict) -> dict:
    session = self._of(request)
    shown = session.feed(from_jpeg(request['picture']), at=request['at'])
    return {
      'picture': as_jpeg(shown),
      'rate': session.rate,
      'seconds': session.seconds,
      'fed': session.fed,
      'seen': session.seen,
    }

  def _close(self, request: dict) -> dict:
    self._sessions.pop(request['session'], None)
    return {}

  def _of(self, request: dict):
    found = self._sessions.get(request['session'])
    if found is None:
      raise UserError('the session is over: open it again')
    return found
