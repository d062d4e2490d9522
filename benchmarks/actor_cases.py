"""Cases of benchmarks on synthetic people: a model that draws from maps of a head, held against the
truth.

For each person i and the next one j, with true heads:
  self     first frame of i, the motion of i; truth: the clip of i
  cross    first frame of i, the motion of j put on the head of i; truth: the actor i rendered with that motion

PSNR inside the head's matte, over frames in which the face moved by more than 2 % of the picture's
width.
"""

import json
import pathlib

import numpy as np

from exp_jax.actors import Motion, load_stage, render_actor
from exp_jax.controls.maps import own_motion
from exp_jax.controls.reenact import reenact
from exp_jax.media.images import contact_sheet, resize, write_image
from exp_jax.metrics import psnr
from exp_jax.systems.expportrait.evaluation.actor_benchmark import recreate

_MOVING = 0.02  # picture widths, mean over landmarks


def small(frames, size):
  """uint8 [T, H, W(, 3)] -> float [T, size, size(, 3)] in 0..1."""
  return np.stack([resize(f, (size, size)) for f in frames]).astype(np.float32) / 255


def _mask(target, own, size, pixels):
  mask = small(target.matte, size)
  mask[
    np.linalg.norm(target.landmarks - own.landmarks[:1], axis=-1).mean(-1) / pixels < _MOVING
  ] = 0
  return mask


def run(model, folder: pathlib.Path, indices: list[int], options) -> list[dict]:
  """Self and cross cases of the actors with these numbers.

  Args:
    model: has `head`, `generator` with `size` and `codec`, `as_moved` and `drawn`.
    options: of its `drawn`.
  """
  settings, stage = json.loads((folder / 'settings.json').read_text()), load_stage('makehuman')
  size, pixels = model.generator.size, settings['size']
  cast = [recreate(settings, i, stage) for i in indices]
  clips = [
    render_actor(a, m, stage, size=pixels, subject_id=str(i)) for i, (a, m) in zip(indices, cast)
  ]
  codec, cases = model.generator.codec, []
  for k, (actor, _) in enumerate(cast):
    own, other = clips[k], clips[(k + 1) % len(cast)]
    moved = reenact(own.truth, other.truth, model.head)
    seated = Motion(
      moved.expression,
      moved.pose,
      moved.translation - np.asarray(actor.seat),
      other.truth.times,
      other.truth.fps,
    )
    crossed = render_actor(actor, seated, stage, size=pixels)
    for kind, target, shown, motion in (
      ('self', own, own, own_motion(own.truth)),
      ('cross', crossed, other, moved),
    ):
      result = np.stack(
        list(model.drawn(model.as_moved(own.frames[0], own.truth, motion), options))
      )
      truth = small(target.frames, size)
      cases.append(
        dict(
          kind=kind,
          reference=small(own.frames[:1], size)[0],
          driver=small(shown.frames, size),
          result=result,
          truth=truth,
          mask=_mask(target, own, size, pixels),
          picture=own.frames[0],
          subject=own.truth,
          driving=shown.truth,
          codec=np.clip(
            np.asarray(codec.decode(codec.encode(truth[None] * 2 - 1)))[0] * 0.5 + 0.5, 0, 1
          ),
        )
      )
  return cases


def score(cases: list[dict]) -> dict:
  """PSNR of each row, and what the swap of maps does, each with its standard error over people."""
  table = {}
  get = {
    'model': lambda c: c['result'],
    'repeat': lambda c: np.broadcast_to(c['reference'], c['truth'].shape),
    'codec': lambda c: c['codec'],
  }
  for kind in ('self', 'cross'):
    chosen = [c for c in cases if c['kind'] == kind and c['mask'].any()]
    for row, of in get.items():
      values = [psnr(of(c), c['truth'], mask=c['mask']).value for c in chosen]
      table[f'{kind}, {row}'] = {
        'psnr': float(np.mean(values)),
        'error': float(np.std(values) / len(values) ** 0.5),
      }
  pairs = [(cases[i], cases[i + 1]) for i in range(0, len(cases), 2) if cases[i + 1]['mask'].any()]
  towards = [
    psnr(cross['result'], cross['truth'], mask=cross['mask']).value
    - psnr(own['result'], cross['truth'], mask=cross['mask']).value
    for own, cross in pairs
  ]
  return {'scores': table, 'swap': float(np.mean(towards)), 'people': len(pairs)}


def sheet(path: pathlib.Path, cases: list[dict]) -> None:
  """Rows: reference, driver, model, truth; two moments of each case."""
  rows = []
  for c in cases:
    for t in (len(c['truth']) // 3, 2 * len(c['truth']) // 3):
      row = np.concatenate(
        [c['reference'], c['driver'][t], c['result'][t], c['codec'][t], c['truth'][t]], 1
      )
      rows.append(
        np.repeat(np.repeat(np.rint(np.clip(row, 0, 1) * 255).astype(np.uint8), 2, 0), 2, 1)
      )
  write_image(path, contact_sheet(rows, columns=2))
