"""What the buttons of the page do: they ask the studio, as the HTTP interface does."""

import asyncio
import pathlib

import anyio.to_thread
import gradio as gr
import numpy as np
from PIL import Image

from exp_jax.errors import UserError
from exp_jax.studio.jobs import ENDED
from exp_jax.studio.manager import Studio
from exp_jax.studio.page import shown
from exp_jax.studio.page.widgets import has_widget, value_of
from exp_jax.studio.refusals import Refused, told
from exp_jax.studio.requests import options_of
from exp_jax.studio.server import job_record

_LOOK = 0.4  # seconds between two looks at a job
_PICTURE = 1024  # pixels, the longer side of a picture on the page
_CHUNK = 1 << 20
_FIRST = 1.0  # seconds of a preview


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

  @property
  def studio(self) -> Studio:
    """That is asked."""
    return self._studio

  async def take_in(self, path: str):
    """The upload of a file that the browser has sent."""
    return await self._studio.uploads.add(
      pathlib.Path(path).name, _chunks(path), in_thread=anyio.to_thread.run_sync
    )

  async def portrait(self, path: str | None):
    """Takes a portrait in and shows it, then its fitted head: yields (picture, words, upload,
    face)."""
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
    async for step in self._fitted(
      about, picture, ','.join(f'{v * scale:.0f}' for v in event.index)
    ):
      yield step

  async def _fitted(self, upload, picture, face: str):
    words = shown.sentence(described_upload(upload))
    yield picture_update(picture), words, upload.id, face
    if 'proxy' not in self._studio.engines or upload.found['kind'] == 'motion':
      return
    try:
      job = self._studio.create(
        'portrait', engine='proxy', portrait=upload.id, options={'face': face} if face else {}
      )
      async for record in self.followed(job.id):
        yield gr.skip(), words + shown.progress(record), upload.id, face
    except UserError as error:
      yield gr.skip(), words + shown.sentence(told(error), 'error'), upload.id, face
      return
    if (head := self._studio.results(job.id).get('head')) is not None:
      words += shown.sentence(
        'The fitted head lies over the portrait. Click another face to choose it.'
      )
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

  async def animate(
    self, portrait: str, driving: str, face: str, own: list, engine: str, first: bool, *values
  ):
    """Creates a job and follows it: yields (progress, result, gallery, job, own jobs)."""
    try:
      if not portrait or not driving:
        raise Refused(
          'give a portrait first' if not portrait else 'give a clip that drives it first'
        )
      # what is written counts before a click
      options = ({'face': face} if face else {}) | await self._options(engine, values)
      job = self._studio.create(
        'animate',
        engine=engine,
        portrait=portrait,
        driving=driving,
        options=options,
        preview=_FIRST if first else 0.0,
      )
    except UserError as error:
      yield shown.sentence(told(error), 'error'), gr.skip(), gr.skip(), '', own
      return
    own = [job.id, *(own or [])][:200]
    async for step in self.watch(job.id, own):
      yield step

  async def watch(self, job: str, own: list):
    """Follows a job; yields as `animate`."""
    try:
      seen = None
      async for record in self.followed(job):
        ended, what = record['state'] in ENDED, tuple(record['results'])
        # a video that is drawn anew starts anew
        result = gr.skip() if seen == what else shown.result(record)
        seen = what
        yield shown.progress(record), result, self.gallery(own) if ended else gr.skip(), job, own
    except UserError as error:
      yield shown.sentence(told(error), 'error'), '', self.gallery(own), '', own

  async def come_back(self, own: list):
    """What a reader who opens the page again sees: own results, and the job that still runs; yields
    as `animate`."""
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
    names = [
      (name, each) for name in self._studio.engines for each in options_of(name) if has_widget(each)
    ]
    found = {
      each.name: value
      for (name, each), v in zip(names, values)
      if name == engine and (value := value_of(each, v)) is not None
    }
    for each in options_of(engine):
      if each.name in found and each.kind is pathlib.Path:
        found[each.name] = (await self.take_in(found[each.name])).id
    return found

  async def followed(self, job: str):
    """Records of a job until it has ended."""
    while True:
      record = self._record(self._studio.get(job))
      yield record
      if record['state'] in ENDED:
        return
      await asyncio.sleep(_LOOK)
