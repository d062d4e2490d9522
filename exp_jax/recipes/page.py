"""The page that `make demo` ends with: videos, sheets, loss curves, scores, seconds per stage.

Plain HTML, no scripts.
"""

import html
import json
import os
import pathlib
import shlex
import urllib.parse

import matplotlib

from exp_jax.files.atomic import replacing, write_text
from exp_jax.training.goodput import read_records

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402  the backend must be chosen first

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem }
img, video { max-width: 100%; border-radius: 6px; display: block; margin: .5rem 0 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left } code { background: #f3f3f3; padding: .1rem .3rem; border-radius: 4px; font-size: 13px; overflow-wrap: anywhere }
.note { color: #555 }
"""


def loss_curves(out: pathlib.Path) -> pathlib.Path:
  """One PNG of the training curves that were logged."""
  panels = [
    ('transfer', 'error_mm', 'expression transfer: offset error, mm'),
    ('vae', 'psnr', 'autoencoder: PSNR, dB'),
    ('dit', 'x0_error', 'video DiT: error of the denoised latents'),
  ]
  figure, axes = plt.subplots(1, len(panels), figsize=(13, 3.4))
  for axis, (name, key, title) in zip(axes, panels):
    rows = [
      row for row in read_records(out / name / 'metrics.jsonl') if key in row and 'step' in row
    ]
    axis.plot([row['step'] for row in rows], [row[key] for row in rows], lw=1.2)
    axis.set(title=title, xlabel='step')
    axis.grid(alpha=0.3)
    if name == 'dit':
      axis.set_yscale('log')
  figure.tight_layout()
  path = out / 'curves.png'
  with replacing(path) as partial:
    figure.savefig(partial, dpi=110)
  plt.close(figure)
  return path


def _told(argument: str, out: pathlib.Path) -> str:
  """An argument of a command as a page shows it that may be given away: paths from the demo's
  folder on, others by their names."""
  flag, equals, value = argument.rpartition('=')
  path = pathlib.Path(value)
  if not path.is_absolute():
    return argument
  return f'{flag}{equals}{path.relative_to(out.parent) if path.is_relative_to(out) else path.name}'


def write_page(out: pathlib.Path, todo, times: dict[str, float]) -> pathlib.Path:
  """Writes out/index.html from what the stages left and returns its path."""
  at = {stage.name: stage for stage in todo}
  relative = lambda path: html.escape(urllib.parse.quote(os.path.relpath(path, out)))
  image = lambda path: f'<img src="{relative(path)}" alt="">'
  video = lambda path: f'<video src="{relative(path)}" controls loop autoplay muted></video>'
  preview = at['preview'].leaves.with_suffix('.mp4')
  embedded = at['embedded'].leaves.with_suffix('.mp4')
  results = json.loads((out / 'benchmark' / 'scores.json').read_text())
  scores = ''.join(
    f'<tr><td>{html.escape(row)}</td><td>{v["psnr"]:.2f}</td><td>{v["ssim"]:.3f}</td><td>{v["l1"]:.4f}</td>'
    f'<td>{html.escape(str(v["frames"]))}</td></tr>'
    for row, v in results['scores'].items()
  )
  gain = {
    kind: results['scores'][f'{kind}, model']['psnr']
    - results['scores'][f'{kind}, repeat the reference']['psnr']
    for kind in ('self', 'cross')
  }
  offsets = ''.join(
    f'<tr><td>{html.escape(k)}</td><td>{v:.4f}</td></tr>'
    for k, v in results['offset_error_mm'].items()
  )
  command = lambda stage: html.escape(
    shlex.join(_told(argument, out) for argument in stage.arguments)
  )
  seconds = {stage.name: times.get(f'{stage.name} {stage.leaves.name}') for stage in todo}
  rows = ''.join(
    f'<tr><td>{html.escape(stage.name)}<br><code>python -m exp_jax {command(stage)}</code></td>'
    f'<td>{"" if seconds[stage.name] is None else f"{seconds[stage.name]:.0f}"}</td></tr>'
    for stage in todo
  )
  total = sum(s for s in seconds.values() if s)
  fit_preview = at['fit'].leaves.with_name(f'{at["fit"].leaves.stem}_preview.png')
  track_preview = at['track'].leaves.with_name(f'{at["track"].leaves.stem}_preview.mp4')
  page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>exp_jax: every stage</title><style>{_STYLE}</style>
<h1>exp_jax: every stage, once</h1>
<p>A personalized head fitted to a photograph, driven by a clip; an expression transfer and a tiny video DiT trained on
synthetic actors, exported, and scored on people they have never seen. Everything here was computed by this run, in
{total / 60:.1f} minutes of stages, two at a time.</p>

<h2>The photograph, driven</h2>
<p>Left the portrait, middle the driver, right the textured preview: the portrait's own pixels on its fitted head. No
trained network draws here; wrinkles come from the trained expression transfer.</p>
{video(preview.with_name(preview.stem + '_side_by_side.mp4'))}
{image(preview.with_name(preview.stem + '_sheet.png'))}

<p>The same by the embedded video DiT (128 pixels, trained on synthetic people only; see exp_jax/embedded/README.md):</p>
{video(embedded.with_name(embedded.stem + '_side_by_side.mp4'))}
{image(embedded.with_name(embedded.stem + '_sheet.png'))}

<h2>The fit</h2>
<p>Photograph; landmarks seen (green) and fitted (red); head over photograph; its normals. Below: the tracked driver.</p>
{image(fit_preview)}{video(track_preview)}

<h2>The video DiT on held-out actors</h2>
<p>Columns: reference, driver, control map, textured preview, model, truth. The model was trained for minutes on two cores at
128 pixels: read it as proof that every stage works, not as quality.</p>
<h3>Self-reenactment ({gain['self']:+.2f} dB over repeating the reference)</h3>{video(out / 'benchmark' / 'self.mp4')}
{image(out / 'benchmark' / 'self.png')}
<h3>Cross-reenactment ({gain['cross']:+.2f} dB over repeating the reference)</h3>{video(out / 'benchmark' / 'cross.mp4')}
{image(out / 'benchmark' / 'cross.png')}
<table><tr><th>inside the head's matte, moving frames</th><th>PSNR</th><th>SSIM</th><th>L1</th><th>frames</th></tr>{scores}</table>
<p>Control matters: sampling with another clip's normal maps moves the result {results['control_swap_db']:+.2f} dB towards that
clip's truth.</p>

<h2>Expression transfer on held-out actors</h2>
<table><tr><th>dynamic offsets against the truth</th><th>error, mm</th></tr>{offsets}</table>

<h2>Training</h2>{image(loss_curves(out))}
<h2>The people</h2><p>Synthetic actors; the last ones are held out.</p>{image(out / 'actors' / 'sheet.png')}
<h2>Stages</h2><table><tr><th>stage</th><th>seconds</th></tr>{rows}</table>
</html>
"""
  path = out / 'index.html'
  write_text(path, page)
  return path
