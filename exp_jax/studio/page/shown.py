"""What the page shows of a job, as HTML.

All text that comes from files, clients or errors is escaped.
"""

import html
import time

from exp_jax.studio.jobs import CANCELLED, DONE, FAILED, QUEUED

STAGES = {
  'load': 'loading the model',
  'read': 'reading',
  'track': 'following the driver',
  'fit': 'fitting',
  'fit the driver': 'fitting the driver',
  'portrait': 'fitting the portrait',
  'draw': 'drawing',
  'picture': 'drawing the fitted head',
  'side by side': 'putting them side by side',
  'full normals': 'drawing the normals',
  'static normals': 'drawing the normals without dynamic offsets',
  'paint': 'painting',
  'compile': 'compiling',
}
_FIRST = '#t=0.01'  # phones show a film that nobody has started as an empty box otherwise
_FILES = (
  ('video', 'video'),
  ('side_by_side', 'side by side'),
  ('sheet', 'sheet'),
  ('record', 'record'),
  ('motion', 'motion template'),
  ('subject', 'subject'),
)


def duration(seconds: float) -> str:
  """Seconds in words that a person reads at a glance."""
  seconds = max(0, round(seconds))
  return (
    f'{seconds} s'
    if seconds < 90
    else f'{seconds // 60} min {seconds % 60} s'
    if seconds < 5400
    else f'{seconds / 3600:.1f} h'
  )


def sentence(words: str, kind: str = 'note') -> str:
  """One sentence in a box; kind: note, error or warning."""
  role = ' role="alert"' if kind == 'error' else ''
  return f'<p class="xj-{kind}"{role}>{html.escape(words)}</p>' if words else ''


def progress(job: dict) -> str:
  """What a job is at, as its record for clients has it."""
  if job['state'] == QUEUED:
    place = job['place']
    return _bar(f'waiting: {place} before it' if place else 'starting', None)
  if job['state'] == FAILED:
    return sentence(job['words'], 'error')
  if job['state'] == CANCELLED:
    return sentence('cancelled; nothing of it is left')
  if job['state'] == DONE:
    taken = duration((job['ended'] or 0) - (job['started'] or 0))
    return sentence(f'done in {taken}') + warnings(job)
  stage = STAGES.get(job['stage'], job['stage']) or 'starting'
  words = 'stopping: ' + stage if job['cancelling'] else stage
  if job['total']:
    words += f', {job["done"]} of {job["total"]}'
  words += f'; running for {duration(time.time() - job["started"])}' if job['started'] else ''
  if job['remaining'] is not None and not job['cancelling']:
    words += f', about {duration(job["remaining"])} left'
  return _bar(words, job['done'] / job['total'] if job['total'] else None)


def warnings(job: dict) -> str:
  """What was used although something is wrong with it."""
  return ''.join(sentence(words, 'warning') for words in job['warnings'])


def _bar(words: str, share: float | None) -> str:
  inside = (
    '<div class="xj-unknown"></div>'
    if share is None
    else f'<div style="width:{100 * min(share, 1):.1f}%"></div>'
  )
  return f'<div class="xj-bar" role="status"><span>{html.escape(words)}</span><div class="xj-track">{inside}</div></div>'


def result(job: dict) -> str:
  """The results of a job: video, side by side, sheet, and what can be downloaded."""
  links = job['results']
  if 'video' not in links and 'preview' not in links:
    return ''
  href = lambda name, more='': html.escape(
    links[name] + (('&' if '?' in links[name] else '?') + more if more else '')
  )
  film = lambda name: (
    f'<figure><video src="{href(name)}{_FIRST}" controls loop playsinline preload="metadata"></video>'
    f'<figcaption>{html.escape(name.replace("_", " "))}</figcaption></figure>'
  )
  if 'video' not in links:
    return f'<div class="xj-result">{film("preview")}</div>' + sentence(
      'The first part of the result; the rest is being drawn.'
    )
  shown = ''.join(film(name) for name in ('video', 'side_by_side') if name in links)
  sheet = (
    (
      f'<details><summary>sheet</summary><a href="{href("sheet")}" target="_blank"><img '
      f'src="{href("sheet")}" '
      'alt="frames of the result in a sheet" loading="lazy"></a></details>'
    )
    if 'sheet' in links
    else ''
  )
  return f'<div class="xj-result">{shown}</div>{sheet}{downloads(job, _FILES)}'


def downloads(job: dict, files: tuple[tuple[str, str], ...]) -> str:
  """Links to results of a job.

  Args:
    job: its record for clients.
    files: (name of the result, words) of those that are offered where they are there.
  """
  links = job['results']
  href = lambda name: html.escape(
    links[name] + ('&' if '?' in links[name] else '?') + 'download=true'
  )
  found = ''.join(
    f'<a class="xj-file" href="{href(name)}" download>{html.escape(words)}</a>'
    for name, words in files
    if name in links
  )
  return f'<p class="xj-files">Download: {found}</p>' if found else ''


def gallery(jobs: list[dict]) -> str:
  """Results of one's own, the newest first."""
  cards = []
  for job in jobs:
    if job['state'] != DONE or 'video' not in job['results']:
      continue
    video = html.escape(job['results']['video'])
    words = html.escape(f'{job["portrait"]} by {job["driving"]}, {job["engine"]}')
    left = duration(job['expires'] - time.time())
    cards.append(
      f'<figure><video src="{video}{_FIRST}" controls loop muted playsinline preload="metadata"></video>'
      f'<figcaption>{words}<br>deleted in {left}</figcaption></figure>'
    )
  return f'<div class="xj-gallery">{"".join(cards)}</div>' if cards else sentence('nothing yet')


CSS = """
.gradio-container {max-width: 1180px !important; margin: 0 auto !important}
.gradio-container label span + div, .gradio-container [data-testid=block-info] + div,
.gradio-container label ~ div {color: #555 !important}
.xj-error {background: #fde8e8; color: #7a1212; border-left: 4px solid #c22; padding: .6em .8em; overflow-wrap: anywhere}
.xj-warning {background: #fff4d6; color: #5c4400; border-left: 4px solid #d9a400; padding: .6em .8em; overflow-wrap: anywhere}
.xj-note {opacity: .85; padding: .2em 0; overflow-wrap: anywhere}
.xj-track {height: 10px; background: #8884; border-radius: 5px; overflow: hidden; margin-top: .4em}
.xj-track > div {height: 100%; background: #2f7d6b; transition: width .3s}
.xj-track > .xj-unknown {width: 30%; animation: xj-go 1.6s ease-in-out infinite alternate}
@keyframes xj-go {from {margin-left: 0} to {margin-left: 70%}}
.xj-result, .xj-gallery {display: flex; flex-wrap: wrap; gap: 12px}
.xj-result figure {flex: 1 1 300px; margin: 0; min-width: 0}
.xj-gallery figure {flex: 0 1 220px; margin: 0; min-width: 0}
.xj-result video, .xj-gallery video, details img {width: 100%; max-height: 560px; background: #111; border-radius: 6px}
.xj-file {display: inline-block; padding: .3em .7em; margin: .2em; border: 1px solid #8888; border-radius: 6px}
.xj-table th {text-align: left; padding-right: 1.2em; font-weight: 500}
.xj-curves {display: grid; grid-template-columns: repeat(auto-fill, minmax(min(280px, 100%), 1fr)); gap: 12px}
.xj-curves figure {margin: 0; min-width: 0}
.xj-curves svg, .xj-curves img {width: 100%}
#picture, #driving_picture, #edit_picture, #fit_picture, #live_picture {padding-top: 30px !important} /* the label's place */
figcaption {font-size: .85em; opacity: .8; overflow-wrap: anywhere}
"""
