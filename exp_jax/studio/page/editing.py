"""The page for editing: sliders on a portrait's fitted head, or on LivePortrait's keypoints, with
the picture beside them."""

import io
import os
import pathlib
import tempfile

import anyio.to_thread
import gradio as gr
import numpy as np
from PIL import Image

from exp_jax.errors import UserError
from exp_jax.studio.live.sessions import Session
from exp_jax.studio.page import shown
from exp_jax.studio.page.actions import Actions
from exp_jax.studio.page.widgets import numbers_by_name
from exp_jax.studio.refusals import Refused, told
from exp_jax.systems.expportrait.live.sliders import ACTIONS, TURNS
from exp_jax.systems.liveportrait.pipeline_options import RANGES

_ABOUT = {'proxy': 'the fitted head', 'liveportrait': "LivePortrait's keypoints"}
_REST = {'move_z': 1.0}
SLIDERS = {'proxy': TURNS | dict.fromkeys(ACTIONS, (-1.0, 1.0)), 'liveportrait': RANGES}


def from_jpeg(content: bytes) -> np.ndarray:
  """uint8 [H, W, 3] of a JPEG of ours."""
  with Image.open(io.BytesIO(content), formats=('JPEG',)) as image:
    return np.asarray(image.convert('RGB'))


class _Editing:
  """What the widgets do.

  Args:
    actions: of the page.
    engines: that can edit here.
  """

  def __init__(self, actions: Actions, engines: tuple[str, ...]):
    self._actions, self._sessions, self._engines = actions, actions.studio.sessions, engines

  async def open(self, path: str | None, engine: str, old: str):
    """Opens a portrait: yields (words, picture, session, engine, a value for each slider)."""
    same = [gr.skip()] * sum(len(SLIDERS[name]) for name in self._engines)
    try:
      if path is None:
        raise Refused('give a portrait first')
      yield (
        shown.sentence('the portrait is being fitted; the first time this takes minutes'),
        gr.skip(),
        '',
        engine,
        *same,
      )
      if old:
        await anyio.to_thread.run_sync(self._sessions.close, old)
      upload = await self._actions.take_in(path)
      session = await anyio.to_thread.run_sync(
        lambda: self._sessions.open('edit', engine=engine, portrait=upload.id)
      )
    except UserError as error:
      yield shown.sentence(told(error), 'error'), gr.skip(), '', engine, *same
      return
    picture = gr.update(value=from_jpeg(session.picture), visible=True)
    yield shown.sentence('Move the sliders.'), picture, session.id, engine, *self._at_rest(session)

  def _at_rest(self, session: Session) -> list:
    """Updates of all sliders: those of the session at rest, those that its head lacks hidden."""
    return [
      gr.update(value=_REST.get(name, 0.0), visible=name in session.sliders)
      if engine == session.engine
      else gr.skip()
      for engine in self._engines
      for name in SLIDERS[engine]
    ]

  def _values(self, engine: str, more: str, values: tuple) -> dict:
    names = [(owner, name) for owner in self._engines for name in SLIDERS[owner]]
    found = {
      name: value
      for (owner, name), value in zip(names, values)
      if owner == engine and value != _REST.get(name, 0.0)
    }
    return found | (numbers_by_name(more, 'actions') if engine == 'proxy' else {})

  def draw(self, session: str, engine: str, more: str, *values):
    """(words, picture) of what the sliders say."""
    if not session:
      return gr.skip(), gr.skip()
    try:
      drawn = self._sessions.draw(session, self._values(engine, more, values))
    except UserError as error:
      return shown.sentence(told(error), 'error'), gr.skip()
    return '', gr.update(value=from_jpeg(drawn), visible=True)

  def save(self, session: str, engine: str, more: str, *values):
    """(words, files): the picture, and the motion that drives to it."""
    try:
      if not session:
        raise Refused('open a portrait first')
      folder = pathlib.Path(tempfile.mkdtemp(dir=os.environ.get('GRADIO_TEMP_DIR')))
      self._sessions.save(session, self._values(engine, more, values), folder)
    except UserError as error:
      return shown.sentence(told(error), 'error'), gr.update(value=None, visible=False)
    return '', gr.update(
      value=[str(folder / name) for name in ('edited.png', 'edited.npz')], visible=True
    )

  def reset(self, engine: str):
    """All sliders of an engine at rest, and the text of other actions empty."""
    return [
      '',
      *(
        gr.update(value=_REST.get(name, 0.0)) if owner == engine else gr.skip()
        for owner in self._engines
        for name in SLIDERS[owner]
      ),
    ]


def editing_page(actions: Actions) -> None:
  """Its widgets, in the tab that is open."""
  engines = actions.studio.sessions.engines
  if not engines:
    gr.Markdown('This server has no engine that draws single pictures.')
    return
  editing = _Editing(actions, engines)
  session, opened = gr.State(''), gr.State(engines[0])
  sliders, groups = [], []
  with gr.Row():
    with gr.Column(min_width=300):
      source = gr.File(label='Portrait', type='filepath', height=130, elem_id='edit_source')
      engine = gr.Radio(
        [(_ABOUT[name], name) for name in engines],
        value=engines[0],
        label='what is moved',
        elem_id='edit_engine',
        visible=len(engines) > 1,
      )
      go = gr.Button('Open', variant='primary', elem_id='edit_open')
      words = gr.HTML(elem_id='edit_words')
      shown = dict(visible=False, interactive=False)
      picture = gr.Image(label='edited portrait', buttons=[], elem_id='edit_picture', **shown)
      with gr.Row():
        keep = gr.Button('Save', elem_id='edit_save')
        clear = gr.Button('Reset', elem_id='edit_reset')
      files = gr.File(
        label='picture, and motion file that drives to it', elem_id='edit_files', **shown
      )
    with gr.Column(min_width=300):
      for name in engines:
        with gr.Column(visible=name == engines[0], elem_id=f'edit_sliders_{name}') as group:
          for slider, (low, high) in SLIDERS[name].items():
            unit = ' (degrees)' if name == 'proxy' and slider in TURNS else ''
            sliders.append(
              gr.Slider(
                low,
                high,
                value=_REST.get(slider, 0.0),
                step=(high - low) / 100,
                label=slider.replace('_', ' ') + unit,
                elem_id=f'edit_{name}_{slider}',
              )
            )
        groups.append(group)
      more = gr.Textbox(
        '',
        label='single actions of the head model',
        placeholder='mouthSmileLeft=0.5 browDownRight=0.3',
        elem_id='edit_more',
        visible='proxy' in engines,
      )
  quiet = dict(show_progress='hidden', api_visibility='private')
  show = lambda chosen: [
    *(gr.update(visible=name == chosen) for name in engines),
    gr.update(visible=chosen == 'proxy'),
  ]
  engine.change(show, [engine], [*groups, more], **quiet)
  go.click(
    editing.open, [source, engine, session], [words, picture, session, opened, *sliders], **quiet
  )
  given = [session, opened, more, *sliders]
  for each in (*sliders, more):
    each.change(
      editing.draw,
      given,
      [words, picture],
      trigger_mode='always_last',
      concurrency_limit=8,
      concurrency_id='edit_draw',
      **quiet,
    )
  keep.click(editing.save, given, [words, files], **quiet)
  clear.click(editing.reset, [opened], [more, *sliders], **quiet)
