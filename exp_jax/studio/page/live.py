"""The page for a camera: what it sees drives a portrait, as fast as the machine can."""

import io

import anyio.to_thread
import gradio as gr
import numpy as np
from PIL import Image

from exp_jax.errors import UserError
from exp_jax.studio.page import shown
from exp_jax.studio.page.actions import Actions
from exp_jax.studio.page.editing import from_jpeg
from exp_jax.studio.refusals import Refused, told

_EVERY = 0.1  # seconds between two frames that the browser sends; while one is drawn, none is
_WIDEST = 640  # pixels of a frame's longer side
_VIEWS = [("the head's normals: faster", 'normals'), ('the portrait', 'preview')]
_ABOUT = {'proxy': 'the fitted head', 'liveportrait': 'LivePortrait'}
_STEPS = {'landmarks': 'landmarks', 'fit': 'fit', 'read': 'motion', 'draw': 'drawing'}


def _as_jpeg(frame: np.ndarray) -> bytes:
  made, image = io.BytesIO(), Image.fromarray(frame)
  image.thumbnail((_WIDEST, _WIDEST))
  image.convert('RGB').save(made, 'JPEG', quality=90)
  return made.getvalue()


def told_rate(found: dict) -> str:
  """'2.8 frames a second: landmarks 45 ms, ...' of what a frame's answer says."""
  if not found['rate']:
    return 'the first frames are slow'
  steps = ', '.join(
    f'{_STEPS[name]} {1000 * seconds:.0f} ms' for name, seconds in found['seconds'].items()
  )
  lost = found['fed'] - found['seen']
  words = f'{found["rate"]:.1f} frames a second: {steps}'
  return words + (f'; {lost} frames without a face' if lost else '')


class _Live:
  """What the widgets do.

  Args:
    actions: of the page.
  """

  def __init__(self, actions: Actions):
    self._actions, self._sessions = actions, actions.studio.sessions

  async def open(self, path: str | None, engine: str, view: str, size: float, old: str):
    """Opens a portrait: yields (words, session)."""
    try:
      if path is None:
        raise Refused('give a portrait first')
      yield shown.sentence('the portrait is being fitted; the first time this takes minutes'), ''
      if old:
        await anyio.to_thread.run_sync(self._sessions.close, old)
      upload = await self._actions.take_in(path)
      proxy = engine == 'proxy'
      make = lambda: self._sessions.open(
        'live',
        engine=engine,
        portrait=upload.id,
        view=view if proxy else 'preview',
        options={'size': int(size)} if proxy else {},
      )
      session = await anyio.to_thread.run_sync(make)
    except UserError as error:
      yield shown.sentence(told(error), 'error'), ''
      return
    yield (
      shown.sentence(
        'Ready: start the camera, and look straight into it first. Its first two frames are slow.'
      ),
      session.id,
    )

  def feed(self, frame: np.ndarray | None, session: str):
    """(picture, words) for a frame of the camera."""
    if frame is None or not session:
      return gr.skip(), gr.skip()
    try:
      drawn, found = self._sessions.feed(session, _as_jpeg(frame))
    except UserError as error:
      return gr.skip(), shown.sentence(told(error), 'error')
    return from_jpeg(drawn), shown.sentence(told_rate(found))

  def close(self, session: str) -> tuple[str, str]:
    """Ends a session."""
    if session:
      self._sessions.close(session)
    return '', shown.sentence('closed')


def live_page(actions: Actions) -> None:
  """Its widgets, in the tab that is open."""
  engines = actions.studio.sessions.engines
  if not engines:
    gr.Markdown('This server has no engine that draws single frames.')
    return
  live = _Live(actions)
  gr.Markdown(
    'The camera drives the portrait. The rate is what this machine manages. Cameras need '
    '127.0.0.1 or https.'
  )
  session = gr.State('')
  with gr.Row():
    with gr.Column(min_width=300):
      source = gr.File(label='Portrait', type='filepath', height=130, elem_id='live_source')
      engine = gr.Radio(
        [(_ABOUT[name], name) for name in engines],
        value=engines[0],
        label='what is driven',
        elem_id='live_engine',
        visible=len(engines) > 1,
      )
      view = gr.Radio(
        _VIEWS, value='normals', label='what is shown of the fitted head', elem_id='live_view'
      )
      size = gr.Slider(128, 512, value=256, step=64, label='size (pixels)', elem_id='live_size')
      with gr.Row():
        go = gr.Button('Open', variant='primary', elem_id='live_open')
        stop = gr.Button('Close', elem_id='live_close')
      words = gr.HTML(elem_id='live_words')
      camera = gr.Image(
        label='camera',
        sources=['webcam'],
        streaming=True,
        type='numpy',
        format='jpeg',
        elem_id='live_camera',
        webcam_options=gr.WebcamOptions(mirror=False),
      )
    with gr.Column(min_width=300):
      picture = gr.Image(
        label='result', interactive=False, buttons=[], format='jpeg', elem_id='live_picture'
      )
      rate = gr.HTML(elem_id='live_rate')
  quiet = dict(show_progress='hidden', api_visibility='private')
  go.click(live.open, [source, engine, view, size, session], [words, session], **quiet)
  stop.click(live.close, [session], [session, words], **quiet)
  camera.stream(
    live.feed,
    [camera, session],
    [picture, rate],
    stream_every=_EVERY,
    time_limit=None,
    concurrency_limit=8,
    **quiet,
  )
