"""The web page of a studio: a portrait and a driver are dropped, the fitted head is seen, the result is watched and fetched.

Nothing is computed here: every button asks the studio, as the HTTP interface does. The page loads nothing from elsewhere.
"""

import asyncio
import atexit
import base64
import os
import pathlib
import secrets
import shutil
import tempfile

os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'       # read when gradio is imported
os.environ.setdefault('HF_HUB_OFFLINE', '1')
import anyio.to_thread  # noqa: E402
import gradio as gr  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from exp_jax.commands.animate import ENGINES  # noqa: E402
from exp_jax.errors import UserError  # noqa: E402
from exp_jax.files.atomic import write_text  # noqa: E402
from exp_jax.studio.jobs import ENDED  # noqa: E402
from exp_jax.studio.manager import Studio  # noqa: E402
from exp_jax.studio.page import shown  # noqa: E402
from exp_jax.studio.page.widgets import has_widget, value_of, widget  # noqa: E402
from exp_jax.studio.refusals import Refused, told  # noqa: E402
from exp_jax.studio.requests import options_of  # noqa: E402
from exp_jax.studio.server import job_record  # noqa: E402

_LOOK = 0.4           # seconds between two looks at a job
_PICTURE = 1024       # pixels, the longer side of a picture on the page
_CHUNK = 1 << 20
_LENS = {'video': {'width': {'ideal': 1280}, 'height': {'ideal': 720}}}   # of a camera
_ABOUT = {'proxy': 'textured preview: the portrait on its fitted head', 'dit': 'video model', 'liveportrait': 'LivePortrait',
          'loki': 'Loki', 'magicportrait': 'MagicPortrait'}


async def _chunks(path: str):
  with open(path, 'rb') as stream:
    while content := stream.read(_CHUNK):
      yield content


def small_picture(path: pathlib.Path | None) -> np.ndarray | None:
  """A PNG of ours as uint8 [H, W, 3], at most 1024 pixels wide or high."""
  if path is None:
    return None
  with Image.open(path, formats=('PNG',)) as image:
    image.thumbnail((_PICTURE, _PICTURE))
    return np.asarray(image.convert('RGB'))


def picture_update(picture: np.ndarray | None):
  """What shows a picture, or hides its place where there is none."""
  return gr.update(value=picture, visible=picture is not None)


def described_upload(upload) -> str:
  """An upload in a sentence."""
  found = upload.found
  if found['kind'] == 'motion':
    return f'{upload.name}: a motion file'
  size = f'{found["width"]} x {found["height"]} pixels'
  if found['kind'] == 'picture':
    return f'{upload.name}: a picture of {size}'
  frames = '' if found['frames'] is None else f'{found["frames"]} frames, '
  return f'{upload.name}: a clip of {size}, {frames}{found["rate"]:.4g} a second'


class Actions:
  """What the page's buttons do.

  Args:
    studio: that is asked.
    token: for links to results, or None.
  """

  def __init__(self, studio: Studio, token: str | None):
    self._studio, self._record = studio, lambda job: job_record(studio, job, token)

  async def take_in(self, path: str):
    """The upload of a file that the browser has sent."""
    return await self._studio.uploads.add(pathlib.Path(path).name, _chunks(path), in_thread=anyio.to_thread.run_sync)

  async def portrait(self, path: str | None):
    """Takes a portrait in and shows it, then its fitted head: yields (picture, words, upload, face)."""
    if path is None:
      yield picture_update(None), '', '', ''
      return
    try:
      upload = await self.take_in(path)
    except UserError as error:
      yield picture_update(None), shown.sentence(told(error), 'error'), '', ''
      return
    picture = small_picture(self._studio.uploads.preview(upload.id))
    async for step in self._fitted(upload, picture, ''):
      yield step

  async def choose(self, upload: str, event: gr.SelectData):
    """Another face of the portrait, by a click into its picture; yields as `portrait`."""
    try:
      about = self._studio.uploads.get(upload)
    except UserError as error:
      yield picture_update(None), shown.sentence(told(error), 'error'), '', ''
      return
    picture = small_picture(self._studio.uploads.preview(upload))
    scale = max(about.found['width'], about.found['height']) / max(picture.shape[:2])
    async for step in self._fitted(about, picture, ','.join(f'{v * scale:.0f}' for v in event.index)):
      yield step

  async def _fitted(self, upload, picture, face: str):
    words = shown.sentence(described_upload(upload))
    yield picture_update(picture), words, upload.id, face
    if 'proxy' not in self._studio.engines or upload.found['kind'] == 'motion':
      return
    try:
      job = self._studio.create('portrait', engine='proxy', portrait=upload.id, options={'face': face} if face else {})
      async for record in self._followed(job.id):
        yield gr.skip(), words + shown.progress(record), upload.id, face
    except UserError as error:
      yield gr.skip(), words + shown.sentence(told(error), 'error'), upload.id, face
      return
    if (head := self._studio.results(job.id).get('head')) is not None:
      words += shown.sentence('The fitted head lies over the portrait. Click another face to choose it.')
      yield picture_update(small_picture(head)), words + shown.warnings(record), upload.id, face

  async def driver(self, path: str | None):
    """Takes a driver in: (picture, words, upload)."""
    if path is None:
      return picture_update(None), '', ''
    try:
      upload = await self.take_in(path)
    except UserError as error:
      return picture_update(None), shown.sentence(told(error), 'error'), ''
    picture = small_picture(self._studio.uploads.preview(upload.id))
    return picture_update(picture), shown.sentence(described_upload(upload)), upload.id

  async def animate(self, portrait: str, driving: str, face: str, own: list, engine: str, *values):
    """Creates a job and follows it: yields (progress, result, gallery, job, own jobs)."""
    try:
      if not portrait or not driving:
        raise Refused('give a portrait first' if not portrait else 'give a clip that drives it first')
      options = ({'face': face} if face else {}) | await self._options(engine, values)   # what is written counts before a click
      job = self._studio.create('animate', engine=engine, portrait=portrait, driving=driving, options=options)
    except UserError as error:
      yield shown.sentence(told(error), 'error'), gr.skip(), gr.skip(), '', own
      return
    own = [job.id, *(own or [])][:200]
    async for step in self.watch(job.id, own):
      yield step

  async def watch(self, job: str, own: list):
    """Follows a job; yields as `animate`."""
    try:
      async for record in self._followed(job):
        ended = record['state'] in ENDED
        yield (shown.progress(record), shown.result(record) if ended else '', self.gallery(own) if ended else gr.skip(), job, own)
    except UserError as error:
      yield shown.sentence(told(error), 'error'), '', self.gallery(own), '', own

  async def come_back(self, own: list):
    """What a reader who opens the page again sees: own results, and the job that still runs; yields as `animate`."""
    own = [job for job in own or [] if self._found(job)]
    yield '', '', self.gallery(own), '', own
    going = next((job for job in own if self._found(job).state not in ENDED), None)
    if going is not None:
      async for step in self.watch(going, own):
        yield step

  def cancel(self, job: str) -> None:
    """Stops a job."""
    if self._found(job):
      self._studio.cancel(job)

  def delete(self, own: list):
    """Deletes one's own results: (progress, result, gallery, own jobs)."""
    for job in own or []:
      if (found := self._found(job)) and found.state in ENDED:
        self._studio.delete(job)
    own = [job for job in own or [] if self._found(job)]
    return shown.sentence('deleted'), '', self.gallery(own), own

  def gallery(self, own: list) -> str:
    """One's own results."""
    return shown.gallery([self._record(found) for job in own or [] if (found := self._found(job))])

  def _found(self, job: str):
    try:
      return self._studio.get(job)
    except UserError:
      return None

  async def _options(self, engine: str, values: tuple) -> dict:
    """The options of an engine, of all that the page's widgets show; files are taken in."""
    names = [(name, each) for name in self._studio.engines for each in options_of(name) if has_widget(each)]
    found = {each.name: value for (name, each), v in zip(names, values)
             if name == engine and (value := value_of(each, v)) is not None}
    for each in options_of(engine):
      if each.name in found and each.kind is pathlib.Path:
        found[each.name] = (await self.take_in(found[each.name])).id
    return found

  async def _followed(self, job: str):
    """Records of a job until it has ended."""
    while True:
      record = self._record(self._studio.get(job))
      yield record
      if record['state'] in ENDED:
        return
      await asyncio.sleep(_LOOK)


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
  with gr.Blocks(title='exp_jax', analytics_enabled=False, delete_cache=(300, max(600, int(keep)))) as page:
    gr.Markdown(f'# exp_jax\nA portrait moves as a clip does. Files of at most {settings.max_megabytes:g} MB, clips of at most '
                f'{settings.max_seconds:g} seconds. Uploads and results are deleted after {settings.keep_hours:g} hours. '
                'Animate people only with their consent.')
    lens = gr.WebcamOptions(mirror=False, constraints=_LENS)   # to mirror a clip, gradio wants a program ffmpeg
    own = gr.BrowserState([], storage_key='exp_jax_jobs', secret=page_secret(settings.place))
    portrait_id, face, driving_id, job = gr.State(''), gr.State(''), gr.State(''), gr.State('')
    with gr.Row():
      with gr.Column(min_width=300):
        with gr.Tab('File'):
          portrait = gr.File(label='1. Portrait: a picture, or a clip', type='filepath', height=170, elem_id='portrait')
        with gr.Tab('Camera'):
          shot = gr.Image(label='1. Portrait: photograph yourself', sources=['webcam'], type='filepath', format='png', elem_id='shot',
                          webcam_options=lens)
        portrait_words = gr.HTML(elem_id='portrait_words')
        picture = gr.Image(label='portrait with its fitted head', visible=False, interactive=False, height=360, buttons=[],
                           elem_id='picture')
      with gr.Column(min_width=300):
        with gr.Tab('File'):
          driving = gr.File(label='2. Driver: a clip or picture, or a motion file', type='filepath', height=170, elem_id='driving')
        with gr.Tab('Camera'):
          camera = gr.Video(label='2. Driver: record yourself', sources=['webcam'], include_audio=True, elem_id='camera',
                            webcam_options=lens)
        driving_words = gr.HTML(elem_id='driving_words')
        driving_picture = gr.Image(label='driver, first frame', visible=False, interactive=False, height=360, buttons=[],
                                   elem_id='driving_picture')
    engine, widgets = _option_widgets(studio)
    with gr.Row():
      go = gr.Button('Animate', variant='primary', elem_id='animate')
      stop = gr.Button('Cancel', elem_id='cancel')
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
    go.click(actions.animate, [portrait_id, driving_id, face, own, engine, *widgets], steps, **quiet)
    stop.click(actions.cancel, [job], None, **quiet)
    forget.click(actions.delete, [own], [progress, result, gallery, own], **quiet)
    page.load(actions.come_back, [own], steps, **quiet)
  page.queue(default_concurrency_limit=32, max_size=200)
  return page


def _option_widgets(studio: Studio) -> tuple:
  """The choice of the engine, and the widgets of all engines, of which those of the chosen one are seen."""
  engine = gr.Radio([(f'{name}: {_ABOUT[name]}', name) for name in studio.engines], value=studio.engines[0], label='3. Engine',
                    elem_id='engine')
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


POLICY = '; '.join((
  "default-src 'self'", "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:", "style-src 'self' 'unsafe-inline'",
  "worker-src 'self' blob:", "img-src 'self' data: blob:", "media-src 'self' data: blob:", "font-src 'self' data:",
  "connect-src 'self' data: blob:", "frame-ancestors 'none'", "base-uri 'self'", "form-action 'self'"))


def mount(app, studio: Studio, token: str | None):
  """The page at / of an application; with a token it asks for that, of the user 'exp_jax'.

  What a browser loads for it comes from this server alone: a policy in every answer forbids anything else.
  """
  os.environ['GRADIO_TEMP_DIR'] = tempfile.mkdtemp(prefix='exp_jax_page_')   # what the browser sends, before the studio has it
  atexit.register(shutil.rmtree, os.environ['GRADIO_TEMP_DIR'], ignore_errors=True)
  app.middleware('http')(_with_policy)
  return gr.mount_gradio_app(
    app, make_page(studio, token), path='/', auth=None if token is None else [('exp_jax', token)],
    auth_message='The user is exp_jax, the password the token that was printed when the server was started.', ssr_mode=False,
    max_file_size=studio.settings.max_bytes, show_error=False, footer_links=[], pwa=False, mcp_server=False, css=shown.CSS,
    theme=gr.themes.Base(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'], primary_hue='teal'))


async def _with_policy(request, answer_of):
  answer = await answer_of(request)
  if not request.url.path.startswith('/api'):
    answer.headers['Content-Security-Policy'] = POLICY
    answer.headers['Referrer-Policy'] = 'no-referrer'
  return answer
