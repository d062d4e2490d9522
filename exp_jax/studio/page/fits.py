"""The page for fits: a subject's normals frame by frame, with and without what moves, and its
file."""

import gradio as gr

from exp_jax.errors import UserError
from exp_jax.studio.fits import frames_in, normals_in
from exp_jax.studio.jobs import ENDED
from exp_jax.studio.page import shown
from exp_jax.studio.page.actions import Actions, described_upload
from exp_jax.studio.refusals import told

_DETAIL = {
  'none': 'It has no offsets: full and static are the same.',
  'static': 'It has static offsets alone: full and static are the same.',
  'full': 'Static offsets belong to the person, dynamic ones to the moment.',
}


class _Fits:
  """What the buttons do.

  Args:
    actions: of the page.
  """

  def __init__(self, actions: Actions):
    self._actions, self._studio = actions, actions.studio

  async def fit(self, path: str | None, limit: float):
    """Fits a file and follows it: yields (progress, download, frame slider, picture, job)."""
    nothing = gr.update(visible=False), gr.update(value=None, visible=False)
    try:
      if path is None:
        yield (
          shown.sentence('give a picture, a clip or a subject file first', 'error'),
          '',
          *nothing,
          '',
        )
        return
      upload = await self._actions.take_in(path)
      words = shown.sentence(described_upload(upload))
      options = {'limit': int(limit)} if upload.found['kind'] == 'clip' else {}
      job = self._studio.create('fit', engine='proxy', portrait=upload.id, options=options)
      async for record in self._actions.followed(job.id):
        if record['state'] not in ENDED:
          yield words + shown.progress(record), '', *nothing, job.id
      results = self._studio.results(job.id)
    except UserError as error:
      yield shown.sentence(told(error), 'error'), '', *nothing, ''
      return
    if 'normals' not in results:
      yield words + shown.progress(record), '', *nothing, ''
      return
    about = frames_in(results['normals'])
    count, every = len(about['frames']), about['all']
    words += shown.progress(record) + shown.sentence(
      f'{every} frames'
      + (f', {count} of them drawn. ' if count < every else '. ')
      + _DETAIL[about['detail']]
    )
    links = shown.downloads(record, (('subject', 'subject file'), ('normals', 'normals')))
    slider = gr.update(maximum=max(count - 1, 1), value=0, visible=count > 1)
    yield (
      words,
      links,
      slider,
      gr.update(value=normals_in(results['normals'], 'full', 0), visible=True),
      job.id,
    )

  def show(self, job: str, frame: float, kind: str):
    """The normals of a frame."""
    try:
      path = self._studio.results(job)['normals'] if job else None
    except (UserError, KeyError):
      path = None
    if path is None:
      return gr.skip()
    number = min(int(frame), len(frames_in(path)['frames']) - 1)
    return gr.update(value=normals_in(path, kind, number), visible=True)


def fits_page(actions: Actions) -> None:
  """Its widgets, in the tab that is open."""
  fits = _Fits(actions)
  gr.Markdown('A picture or a clip is fitted; a subject file is shown as it is.')
  job = gr.State('')
  with gr.Row():
    with gr.Column(min_width=300):
      source = gr.File(
        label='Picture, clip or subject file', type='filepath', height=150, elem_id='fit_source'
      )
      limit = gr.Slider(
        2,
        120,
        value=24,
        step=1,
        label='frames of a clip',
        elem_id='fit_limit',
        info='only so many from its start are fitted',
      )
      with gr.Row():
        go = gr.Button('Fit', variant='primary', elem_id='fit')
        stop = gr.Button('Cancel', elem_id='fit_cancel')
      progress, links = gr.HTML(elem_id='fit_progress'), gr.HTML(elem_id='fit_links')
    with gr.Column(min_width=300):
      kind = gr.Radio(
        [('with dynamic offsets', 'full'), ('static offsets only', 'static')],
        value='full',
        label='normals',
        elem_id='fit_kind',
      )
      frame = gr.Slider(0, 1, value=0, step=1, label='frame', visible=False, elem_id='fit_frame')
      picture = gr.Image(
        label='normals of the fitted head',
        visible=False,
        interactive=False,
        buttons=[],
        elem_id='fit_picture',
      )
  quiet = dict(show_progress='hidden', api_visibility='private')
  go.click(fits.fit, [source, limit], [progress, links, frame, picture, job], **quiet)
  stop.click(actions.cancel, [job], None, **quiet)
  for each in (frame, kind):
    each.change(fits.show, [job, frame, kind], [picture], trigger_mode='always_last', **quiet)
