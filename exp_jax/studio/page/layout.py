"""The web page of a studio: a portrait and a driver are dropped, the fitted head is seen, the
result is watched and fetched.

Nothing is computed here: every button asks the studio, as the HTTP interface does. The page loads
nothing from elsewhere.
"""

import atexit
import base64
import os
import pathlib
import secrets
import shutil
import tempfile

import gradio as gr

from exp_jax.commands.animate import ENGINES
from exp_jax.files.atomic import write_text
from exp_jax.studio.manager import Studio
from exp_jax.studio.page import shown
from exp_jax.studio.page.actions import Actions
from exp_jax.studio.page.editing import editing_page
from exp_jax.studio.page.fits import fits_page
from exp_jax.studio.page.live import live_page
from exp_jax.studio.page.training import training_page
from exp_jax.studio.page.widgets import has_widget, widget
from exp_jax.studio.requests import options_of

_LENS = {'video': {'width': {'ideal': 1280}, 'height': {'ideal': 720}}}  # of a camera
_ABOUT = {
  'proxy': 'textured preview: the portrait on its fitted head',
  'dit': 'video model',
  'liveportrait': 'LivePortrait',
  'loki': 'Loki',
  'magicportrait': 'MagicPortrait',
}


def page_secret(place: pathlib.Path) -> str:
  """What seals the list of own jobs that a browser keeps; the same after a restart."""
  path = place / 'page.key'
  if not path.is_file():
    write_text(path, base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    path.chmod(0o600)
  return path.read_text()


def make_page(studio: Studio, token: str | None = None) -> gr.Blocks:
  """The page, to be mounted beside the HTTP interface of the same studio."""
  settings, actions = studio.settings, Actions(studio, token)
  keep = 3600 * settings.keep_hours
  with gr.Blocks(
    title='exp_jax', analytics_enabled=False, delete_cache=(300, max(600, int(keep)))
  ) as page:
    gr.Markdown(
      f'# exp_jax\nA portrait moves as a clip does. Files of at most {settings.max_megabytes:g} '
      'MB, clips of at most '
      f'{settings.max_seconds:g} seconds. Uploads and results are deleted after '
      f'{settings.keep_hours:g} hours. '
      'Animate people only with their consent.'
    )
    with gr.Tabs(elem_id='pages'):
      with gr.Tab('Animate'):
        _animating(page, studio, actions)
      with gr.Tab('Edit'):
        editing_page(actions)
      with gr.Tab('Live'):
        live_page(actions)
      with gr.Tab('Fits'):
        fits_page(actions)
      if studio.runs is not None:
        with gr.Tab('Training'):
          training_page(page, studio.runs)
  page.queue(default_concurrency_limit=32, max_size=200)
  return page


def _animating(page: gr.Blocks, studio: Studio, actions: Actions) -> None:
  """Portrait, driver, engine and options; the result, and those of before."""
  # to mirror a clip, gradio wants a program ffmpeg
  lens = gr.WebcamOptions(mirror=False, constraints=_LENS)
  own = gr.BrowserState([], storage_key='exp_jax_jobs', secret=page_secret(studio.settings.place))
  portrait_id, face, driving_id, job = gr.State(''), gr.State(''), gr.State(''), gr.State('')
  with gr.Row():
    with gr.Column(min_width=300):
      with gr.Tab('File'):
        portrait = gr.File(
          label='1. Portrait: a picture, or a clip', type='filepath', height=170, elem_id='portrait'
        )
      with gr.Tab('Camera'):
        shot = gr.Image(
          label='1. Portrait: photograph yourself',
          sources=['webcam'],
          type='filepath',
          format='png',
          elem_id='shot',
          webcam_options=lens,
        )
      portrait_words = gr.HTML(elem_id='portrait_words')
      picture = gr.Image(
        label='portrait with its fitted head',
        visible=False,
        interactive=False,
        height=360,
        buttons=[],
        elem_id='picture',
      )
    with gr.Column(min_width=300):
      with gr.Tab('File'):
        driving = gr.File(
          label='2. Driver: a clip or picture, or a motion file',
          type='filepath',
          height=170,
          elem_id='driving',
        )
      with gr.Tab('Camera'):
        camera = gr.Video(
          label='2. Driver: record yourself',
          sources=['webcam'],
          include_audio=True,
          elem_id='camera',
          webcam_options=lens,
        )
      driving_words = gr.HTML(elem_id='driving_words')
      driving_picture = gr.Image(
        label='driver, first frame',
        visible=False,
        interactive=False,
        height=360,
        buttons=[],
        elem_id='driving_picture',
      )
  engine, widgets = _option_widgets(studio)
  with gr.Row():
    go = gr.Button('Animate', variant='primary', elem_id='animate')
    stop = gr.Button('Cancel', elem_id='cancel')
    first = gr.Checkbox(
      True, label='show the first second before the rest', elem_id='first', min_width=260
    )
  progress, result = gr.HTML(elem_id='progress'), gr.HTML(elem_id='result')
  with gr.Accordion('My results', open=True):
    gallery = gr.HTML(elem_id='gallery')
    forget = gr.Button('Delete my results', size='sm', elem_id='forget')
  quiet = dict(show_progress='hidden', queue=True, api_visibility='private')
  seen, steps = [picture, portrait_words, portrait_id, face], [progress, result, gallery, job, own]
  for source in (portrait, shot):
    source.change(actions.portrait, [source], seen, trigger_mode='always_last', **quiet)
  picture.select(actions.choose, [portrait_id], seen, **quiet)
  for source in (driving, camera):
    source.change(actions.driver, [source], [driving_picture, driving_words, driving_id], **quiet)
  go.click(
    actions.animate, [portrait_id, driving_id, face, own, engine, first, *widgets], steps, **quiet
  )
  stop.click(actions.cancel, [job], None, **quiet)
  forget.click(actions.delete, [own], [progress, result, gallery, own], **quiet)
  page.load(actions.come_back, [own], steps, **quiet)


def _option_widgets(studio: Studio) -> tuple:
  """The choice of the engine, and the widgets of all engines, of which those of the chosen one are
  seen."""
  engine = gr.Radio(
    [(f'{name}: {_ABOUT[name]}', name) for name in studio.engines],
    value=studio.engines[0],
    label='3. Engine',
    elem_id='engine',
  )
  widgets, groups = [], []
  with gr.Accordion('Options', open=False, elem_id='options'):
    for name in studio.engines:
      with gr.Column(visible=name == studio.engines[0]) as group:
        with gr.Row():
          for each in filter(has_widget, options_of(name)):
            with gr.Column(min_width=260):
              widgets.append(widget(each))
      groups.append(group)
  show = lambda chosen: [gr.update(visible=name == chosen) for name in studio.engines]
  engine.change(show, [engine], groups, show_progress='hidden', api_visibility='private')
  assert set(studio.engines) <= set(ENGINES)
  return engine, widgets


POLICY = '; '.join(
  (
    "default-src 'self'",
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
    "style-src 'self' 'unsafe-inline'",
    "worker-src 'self' blob:",
    "img-src 'self' data: blob:",
    "media-src 'self' data: blob:",
    "font-src 'self' data:",
    "connect-src 'self' data: blob:",
    "frame-ancestors 'none'",
    "base-uri 'self'",
    "form-action 'self'",
  )
)


def mount(app, studio: Studio, token: str | None):
  """The page at / of an application; with a token it asks for that, of the user 'exp_jax'.

  What a browser loads for it comes from this server alone: a policy in every answer forbids
  anything else.
  """
  # what the browser sends, before the studio has it
  os.environ['GRADIO_TEMP_DIR'] = tempfile.mkdtemp(prefix='exp_jax_page_')
  atexit.register(shutil.rmtree, os.environ['GRADIO_TEMP_DIR'], ignore_errors=True)
  app.middleware('http')(_with_policy)
  return gr.mount_gradio_app(
    app,
    make_page(studio, token),
    path='/',
    auth=None if token is None else [('exp_jax', token)],
    auth_message='The user is exp_jax, the password the token that was printed when the server was '
    'started.',
    ssr_mode=False,
    max_file_size=studio.settings.max_bytes,
    show_error=False,
    footer_links=[],
    pwa=False,
    mcp_server=False,
    css=shown.CSS,
    theme=gr.themes.Base(
      font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'], primary_hue='teal'
    ),
  )


async def _with_policy(request, answer_of):
  answer = await answer_of(request)
  if not request.url.path.startswith('/api'):
    answer.headers['Content-Security-Policy'] = POLICY
    answer.headers['Referrer-Policy'] = 'no-referrer'
  return answer
