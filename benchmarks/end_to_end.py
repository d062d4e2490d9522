"""What a user gets, from the picture on, where the truth is known: synthetic people that nothing
was trained on.

  exp-jax setup --metrics
  python benchmarks/end_to_end.py -o out/end_to_end [--people 8] [--frames 12] [--seed 40] [--export exp_jax/embedded/retouch]

Each person is drawn as those of `exp-jax retouch.records`, but filmed by no odd camera: their
picture is the first frame of their clip, and drivers are tracked from their frames.

  fitted   picture -> landmarks -> maps -> fit -> tracked driver -> transfer -> preview -> generator
  true     the same with the true heads and motions of actor and driver
  self     driven by their own clip; truth: the clip
  cross    driven by the next person's clip; truth: the actor filmed with that motion, by the transfer of the true heads

Rows: the reference held still, the textured preview, the video model of 128 pixels that ships with
the package, and the export. Scores are means over people, in the head's matte, over frames in which
the face has moved by more than 2 % of the picture's width:

  psnr, ssim   in the matte
  lpips        AlexNet, of the result with the truth's own background
  mouth        mean absolute error about the mouth
  flicker      mean absolute error of the change between two frames, in the matte
  identity     cosine of dlib's descriptors of result and picture, landmarks by the estimator

Leaves scores.json, a sheet for each person, and docs/results/figures/end_to_end.json.
"""

import argparse
import dataclasses
import json
import os
import pathlib

import numpy as np
from record import Column, write_record

from exp_jax.actors import render_actor, sample_motion
from exp_jax.actors.render import Clip
from exp_jax.controls import maps
from exp_jax.controls.driving_options import DEFAULT_SECONDS
from exp_jax.controls.reenact import Motion, reenact
from exp_jax.controls.same_picture import driven_motion
from exp_jax.controls.smoothing import smoothed
from exp_jax.errors import UserError, exits_cleanly
from exp_jax.files.atomic import write_text
from exp_jax.files.resources import metric_weights
from exp_jax.fitting.tracked_driver import track
from exp_jax.heads.personalized import Subject
from exp_jax.media.images import contact_sheet, resize, write_image
from exp_jax.media.squares import Crop
from exp_jax.metrics import lpips, psnr, ssim
from exp_jax.metrics.faces import dlib_cut
from exp_jax.metrics.motion import cosines
from exp_jax.metrics.networks import load_network
from exp_jax.recipes.retouch_records import Pipeline, film, focus
from exp_jax.systems.expportrait.drawing import TransferredOffsets, dit_frames
from exp_jax.systems.expportrait.embedded import embedded
from exp_jax.systems.expportrait.generator.loading import load_generator
from exp_jax.systems.expportrait.generator.previews import portrait_of
from exp_jax.systems.expportrait.portrait import (
  Portrait,
  crop_of_subject,
  known_frames,
)
from exp_jax.systems.expportrait.retouch.retoucher import Retoucher, carried_out, load_retoucher

COLUMNS = [
  Column('kind', 'heads and driver'),
  Column('row', 'frames'),
  Column('psnr', 'PSNR', 'dB', 2),
  Column('ssim', 'SSIM', '', 3),
  Column('lpips', 'LPIPS', '', 3),
  Column('mouth', 'mouth', '', 3),
  Column('flicker', 'flicker', '', 3),
  Column('identity', 'identity', '', 3),
]
_MOVING = 0.02  # picture widths, mean over landmarks, from which on a frame counts
_FILMED = 1.5  # pixels of a film's side over those of the square
_RATE = 12.5
ROWS = ('repeat', 'preview', 'tiny dit', 'retouch')


@dataclasses.dataclass(frozen=True)
class Person:
  """An actor on the pipeline: their film, their portrait by the fit and by the truth, their motion
  by the tracker."""

  actor: object
  clip: Clip
  portrait: Portrait
  crop: Crop
  exact: Portrait
  tracked: Subject


@dataclasses.dataclass(frozen=True)
class Case:
  """Results of one pipeline beside the truth: uint8 [T, S, S, 3], matte and mouth [T, S, S] in
  0..1, moving [T] bool."""

  rows: dict[str, np.ndarray]
  truth: np.ndarray
  matte: np.ndarray
  mouth: np.ndarray
  moving: np.ndarray
  driver: np.ndarray


def meet(pipeline: Pipeline, number: int, frames: int) -> Person:
  """Films person `number` and takes them along the pipeline."""
  actor, rng = pipeline.cast(number)
  assets, size = pipeline.stage.assets, round(_FILMED * pipeline.size)
  clip = render_actor(
    actor, sample_motion(rng, assets.head, num_frames=frames, fps=_RATE), pipeline.stage, size=size
  )
  portrait = pipeline.open(clip.frames[0], f'person {number}')
  tracked = track(
    clip.frames,
    head=assets.head,
    dense=assets.dense,
    size=pipeline.size,
    estimator=pipeline.estimator,
    map_estimators=pipeline.networks,
  ).subject
  tracked = dataclasses.replace(tracked, times=clip.truth.times, fps=_RATE)
  shrink = lambda pictures: np.stack([resize(p, (pipeline.size,) * 2) for p in pictures])
  exact = portrait_of(
    {'video': shrink(clip.frames[:1]), 'matte': shrink(clip.matte[:1])}, clip.truth, 0, assets.head
  )
  crop = crop_of_subject(portrait.subject, clip.frames[0], 'the picture')
  return Person(actor, clip, portrait, crop, exact, smoothed(tracked, assets.head, DEFAULT_SECONDS))


def drawn(
  pipeline: Pipeline, portrait: Portrait, motion: Motion, retoucher: Retoucher, dit
) -> dict[str, np.ndarray]:
  """The rows of one motion, all but the truth."""
  head, dense = pipeline.stage.assets.head, pipeline.stage.assets.dense
  previews, known = pipeline.drawn(portrait, motion)
  _, rest = next(
    known_frames(
      portrait, maps.own_motion(portrait.subject), maps.full_offsets(portrait.subject), head, dense
    )
  )
  dynamic = TransferredOffsets(
    pipeline.transfer, portrait.subject, motion, head.joint_turns(motion.pose, 'jaw')
  )
  repair = lambda preview, known: carried_out(
    preview, retoucher.repair(preview, known, portrait.photo, rest[..., :3])
  )
  small = dit_frames(dit, portrait, motion, dynamic, head, dense, seed=0)
  return {
    'repeat': np.repeat(portrait.photo[None], len(previews), 0),
    'preview': previews,
    'tiny dit': np.stack([resize(np.uint8(np.rint(255 * f)), (pipeline.size,) * 2) for f in small]),
    'retouch': np.stack([repair(p, k) for p, k in zip(previews, known)]),
  }


def case(
  pipeline: Pipeline,
  person: Person,
  truth: Clip,
  driver: Clip,
  rows: dict[str, np.ndarray],
  crop: Crop | None,
) -> Case:
  """What the truth is in the square of the rows; crop None: the whole picture."""
  size, whole = pipeline.size, len(truth.frames[0])
  cut = crop.cut if crop else lambda picture: resize(picture, (size, size))
  place = crop.to_crop if crop else lambda points: points * (size / whole)
  moved = np.linalg.norm(truth.landmarks - person.clip.landmarks[:1], axis=-1).mean(-1) / whole
  small = lambda picture: resize(picture, (size, size))
  return Case(
    rows,
    np.stack([cut(f) for f in truth.frames]),
    np.stack([cut(m) for m in truth.matte]) / 255.0,
    np.stack([focus(place(p), size) == 255 for p in truth.landmarks]).astype(np.float32),
    moved > _MOVING,
    np.stack([small(f) for f in driver.frames]),
  )


def cases(
  pipeline: Pipeline, person: Person, other: Person, retoucher: Retoucher, dit
) -> dict[str, Case]:
  """{'fitted, self': ..., 'fitted, cross': ..., 'true, self': ..., 'true, cross': ...} of one
  person driven by another."""
  head = pipeline.stage.assets.head
  crossed = reenact(person.clip.truth, other.clip.truth, head)
  truth = film(person.actor, crossed, pipeline.stage, len(person.clip.frames[0]))
  draw = lambda portrait, motion: drawn(pipeline, portrait, motion, retoucher, dit)
  fitted = lambda tracked: draw(
    person.portrait, driven_motion(person.portrait.subject, tracked, head)
  )
  return {
    'fitted, self': case(
      pipeline, person, person.clip, person.clip, fitted(person.tracked), person.crop
    ),
    'fitted, cross': case(pipeline, person, truth, other.clip, fitted(other.tracked), person.crop),
    'true, self': case(
      pipeline,
      person,
      person.clip,
      person.clip,
      draw(person.exact, maps.own_motion(person.clip.truth)),
      None,
    ),
    'true, cross': case(pipeline, person, truth, other.clip, draw(person.exact, crossed), None),
  }


def _identity(frames: np.ndarray, picture: np.ndarray, estimator, network) -> float:
  """Mean cosine of the faces of every third frame and the picture's; nan where none is found."""
  found = [(f, estimator(f)[0]) for f in (picture, *frames[::3])]
  if not len(found[0][1]):
    return float('nan')
  cuts = [dlib_cut(f, faces[0][:, :2]) for f, faces in found if len(faces)]
  rows = network.run(np.stack(cuts))
  return (
    float(cosines(rows[1:], np.repeat(rows[:1], len(rows) - 1, 0)).mean())
    if len(rows) > 1
    else float('nan')
  )


def scores(found: Case, estimator, networks: dict) -> dict[str, dict[str, float]]:
  """{row: {metric: value}} of a case; nan where the face never moved."""
  mask = found.matte * found.moving[:, None, None]
  unit = lambda pictures: pictures.astype(np.float32) / 255
  truth, table = unit(found.truth), {}
  mouth = found.mouth * found.moving[:, None, None]
  for row, pictures in found.rows.items():
    result = unit(pictures)
    inside = found.matte[..., None] * result + (1 - found.matte[..., None]) * truth
    error, change = (
      np.abs(result - truth).mean(-1),
      np.abs(np.diff(result - truth, axis=0)).mean(-1),
    )
    table[row] = {
      'psnr': psnr(result, truth, mask=mask).value,
      'ssim': ssim(result, truth, mask=mask).value,
      'mouth': float((error * mouth).sum() / max(mouth.sum(), 1)),
      'flicker': float((change * found.matte[1:]).sum() / found.matte[1:].sum()),
      'lpips': lpips(
        np.float32(inside)[found.moving], truth[found.moving], distance=networks['lpips_alex'].run
      ).value
      if networks['lpips_alex'] and found.moving.any()
      else float('nan'),
      'identity': _identity(pictures, found.rows['repeat'][0], estimator, networks['identity_dlib'])
      if networks['identity_dlib']
      else float('nan'),
    }
  return table


def summed_up(people: list[dict[str, dict[str, dict[str, float]]]]) -> dict:
  """Means over people of {kind: {row: {metric: value}}}."""
  return {
    kind: {
      row: {
        name: float(np.nanmean([p[kind][row][name] for p in people]))
        for name in people[0][kind][row]
      }
      for row in ROWS
    }
    for kind in people[0]
  }


def bars(table: dict) -> dict[str, float]:
  """What the generator gains over the preview and over repeating the picture, on the fitted
  pipeline."""
  found = {}
  for kind in ('fitted, self', 'fitted, cross'):
    rows = table[kind]
    new, old = rows['retouch'], rows['preview']
    found |= {
      f'{kind}: dB over the preview': new['psnr'] - old['psnr'],
      f'{kind}: dB over repeating': new['psnr'] - rows['repeat']['psnr'],
      f"{kind}: LPIPS of the preview's": new['lpips'] / old['lpips'],
      f"{kind}: mouth error of the preview's": new['mouth'] / old['mouth'],
      f"{kind}: flicker of the preview's": new['flicker'] / old['flicker'],
    }
  return found


def sheet(found: dict[str, Case]) -> np.ndarray:
  """For each kind one moved frame: picture, driver, preview, tiny DiT, retouch, truth."""
  shown = []
  for each in found.values():
    t = int(np.flatnonzero(each.moving)[-1]) if each.moving.any() else len(each.truth) - 1
    shown += [
      each.rows['repeat'][t],
      each.driver[t],
      *(each.rows[name][t] for name in ROWS[1:]),
      each.truth[t],
    ]
  return contact_sheet(shown, columns=6)


@exits_cleanly
def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True)
  parser.add_argument(
    '--export', type=pathlib.Path, help='of task expportrait/retouch (default: the embedded one)'
  )
  parser.add_argument('--people', type=int, default=8)
  parser.add_argument('--frames', type=int, default=12)
  parser.add_argument(
    '--seed',
    type=int,
    default=40,
    help='of people; training has 31, its records held out the last of them',
  )
  options = parser.parse_args()
  if options.people < 2 or options.frames < 4:
    raise UserError('--people must be at least 2 and --frames at least 4')
  retoucher, dit = (
    load_retoucher(options.export or embedded('retouch')),
    load_generator(embedded('dit')),
  )
  networks = {
    name: load_network(name, metric_weights()) for name in ('lpips_alex', 'identity_dlib')
  }
  options.output.mkdir(parents=True, exist_ok=True)
  before, rows = os.getloadavg()[0], []
  with Pipeline(size=retoucher.side, seed=options.seed) as pipeline:
    cast = []
    for number in range(options.people):
      cast.append(meet(pipeline, number, options.frames))
      print(f'met person {number}', flush=True)
    for number, person in enumerate(cast):
      found = cases(pipeline, person, cast[(number + 1) % len(cast)], retoucher, dit)
      rows.append(
        {kind: scores(each, pipeline.estimator, networks) for kind, each in found.items()}
      )
      write_image(options.output / f'person_{number:02d}.png', sheet(found))
      print(
        number,
        {k: {r: round(v['psnr'], 2) for r, v in table.items()} for k, table in rows[-1].items()},
        flush=True,
      )
  table = summed_up(rows)
  told = {
    'people': options.people,
    'frames': options.frames,
    'table': table,
    'bars': bars(table),
    'of_each': rows,
  }
  write_text(options.output / 'scores.json', json.dumps(told, indent=1) + '\n')
  known = lambda values: {k: None if np.isnan(v) else v for k, v in values.items()}
  figures = [
    {'kind': kind, 'row': row} | known(values)
    for kind, part in table.items()
    for row, values in part.items()
  ]
  for each in figures:
    print(each)
  print(write_record('end_to_end', COLUMNS, figures, load=(before, os.getloadavg()[0])))
  print('\n'.join(f'{name:45s} {value:.3f}' for name, value in told['bars'].items()))


if __name__ == '__main__':
  main()
