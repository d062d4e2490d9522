"""The page for training runs: curves, samples and goodput of one run at a time, looked at again
every few seconds."""

import base64
import html
import io

import gradio as gr
from PIL import Image

from exp_jax.errors import UserError
from exp_jax.studio.page import shown
from exp_jax.studio.refusals import told
from exp_jax.studio.runs import PICTURES, Run, Runs, chart, described

_AGAIN = 15  # seconds
_SAMPLE = 480  # pixels, the longer side
_MOST_SAMPLES, _MOST_CURVES = 8, 40


def _sample(runs: Runs, run: Run, name: str) -> str:
  """A sample as HTML; a clip by its name alone."""
  words = f'<figcaption>{html.escape(name)}</figcaption>'
  if not name.endswith(PICTURES):
    return f'<figure>{words}</figure>'
  made = io.BytesIO()
  with Image.open(runs.sample(run.name, name), formats=('PNG',)) as image:
    image.thumbnail((_SAMPLE, _SAMPLE))
    image.convert('RGB').save(made, 'JPEG', quality=88)
  source = f'data:image/jpeg;base64,{base64.b64encode(made.getvalue()).decode()}'
  return f'<figure><img src="{source}" alt="{html.escape(name)}">{words}</figure>'


def run_page(runs: Runs, name: str | None) -> str:
  """A run as HTML."""
  if not name:
    return shown.sentence('no training run lies in the folder of this server yet')
  try:
    run = runs.run(name)
    samples = ''.join(_sample(runs, run, each) for each in run.samples[:_MOST_SAMPLES])
  except (UserError, OSError) as error:
    return shown.sentence(told(error), 'error')
  curves = ''.join(
    f'<figure>{chart(each, points)}</figure>'
    for each, points in list(run.curves.items())[:_MOST_CURVES]
  )
  left = len(run.curves) - _MOST_CURVES
  more = shown.sentence(f'{left} more curves are not shown') if left > 0 else ''
  return f'{described(run)}<div class="xj-curves">{curves}</div>{more}' + (
    f'<h3>Samples, the newest first</h3><div class="xj-curves">{samples}</div>' if samples else ''
  )


def training_page(blocks: gr.Blocks, runs: Runs) -> None:
  """Its widgets, in the tab that is open."""

  def look(name: str | None):
    names = runs.names()
    chosen = name if name in names else names[0] if names else None
    return gr.update(choices=names, value=chosen), run_page(runs, chosen)

  choice = gr.Dropdown([], label='Training run', elem_id='run')
  page = gr.HTML(elem_id='run_page')
  quiet = dict(show_progress='hidden', api_visibility='private')
  choice.input(look, [choice], [choice, page], **quiet)
  gr.Timer(_AGAIN).tick(look, [choice], [choice, page], **quiet)
  blocks.load(look, [choice], [choice, page], **quiet)
