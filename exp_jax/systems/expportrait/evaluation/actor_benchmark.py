"""Held-out synthetic actors: what the video model and the expression transfer do where the truth is
known.

For each held-out actor i and the next one j:
  self     reference: first frame of i; driven by the normals of i; truth: the clip of i
  cross    reference: first frame of i; driven by the motion of j through the expression transfer; truth: actor i
           rendered with the motion of j, which no real footage can offer
  repeat   the baseline of both: the reference frame, held still
and, for the paper's claims, in one of three variants of what the generator is shown (maps and
previews):
  full     the personalized head, its offsets by the expression transfer
  direct   the personalized head with the driver's dynamic offsets copied (the paper's Fig. 8)
  linear   the linear model alone, neither static nor dynamic offsets (Fig. 7: SMPL-X only)
Scores are inside the head's matte, over the frames in which the face has moved from the reference
by more than 2 % of the picture's width (the others would only flatter the baseline). Besides: the
transferred dynamic offsets against the true ones, and against copying the driver's offsets and
having none.
"""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import tqdm

from exp_jax.actors import Motion, Stage, load_stage, render_actor, sample_actor, sample_motion
from exp_jax.actors.actor import dynamic_offsets
from exp_jax.controls.maps import control_maps, full_offsets, own_motion
from exp_jax.controls.reenact import reenact
from exp_jax.errors import UserError
from exp_jax.files.atomic import write_text
from exp_jax.heads.personalized import Subject
from exp_jax.media.images import contact_sheet, resize, write_image
from exp_jax.media.video import write_video
from exp_jax.metrics import l1, psnr, ssim
from exp_jax.systems.expportrait.generator.loading import Generator
from exp_jax.systems.expportrait.generator.previews import portrait_of
from exp_jax.systems.expportrait.generator.sample import generate
from exp_jax.systems.expportrait.portrait import preview_frames
from exp_jax.systems.expportrait.transfer.network import Transfer

_MOVING = 0.02  # picture widths, mean over landmarks
_WRINKLED = 2.0  # degrees by which true dynamic offsets turn the normal of a pixel
VARIANTS = ('full', 'direct', 'linear')


@dataclasses.dataclass(frozen=True)
class Case:
  """One generated clip beside its truth: all [T, H, W, 3] in 0..1, mask [T, H, W], 0 in frames that
  do not move."""

  kind: str
  reference: np.ndarray
  driver: np.ndarray
  normals: np.ndarray
  preview: np.ndarray
  # degrees between the normals shown and the true ones, where the person wrinkles; nan: nowhere
  wrinkle_error: float
  result: np.ndarray
  truth: np.ndarray
  mask: np.ndarray


def _small(frames: np.ndarray, size: int) -> np.ndarray:
  return np.stack([resize(f, (size, size)) for f in frames]).astype(np.float32) / 255


def recreate(settings: dict, index: int, stage):
  """(actor, motion) of `python -m exp_jax.actors` by its settings.json and number."""
  rng = np.random.default_rng([settings['seed'], index])
  actor = sample_actor(rng, stage)
  return actor, sample_motion(
    rng, stage.assets.head, num_frames=settings['frames'], fps=settings['fps']
  )


def plain(subject: Subject) -> Subject:
  """The subject without offsets: what the linear model alone knows of the person."""
  return dataclasses.replace(
    subject,
    static_offsets=np.zeros_like(subject.static_offsets),
    dynamic_vertices=np.zeros(0, np.int32),
    dynamic_offsets=np.zeros((subject.num_frames, 0, 3), np.float32),
  )


def _degrees(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """[..., H, W] angle between encoded normal maps uint8 [..., H, W, 3]."""
  unit = lambda n: (
    (n := n / 127.5 - 1.0) / np.maximum(np.linalg.norm(n, axis=-1, keepdims=True), 1e-6)
  )
  return np.degrees(
    np.arccos(np.clip((unit(a.astype(np.float32)) * unit(b.astype(np.float32))).sum(-1), -1, 1))
  )


def wrinkle_error(shown: np.ndarray, true: np.ndarray, without: np.ndarray) -> float:
  """Degrees, mean over the pixels where the true map differs from the true one without dynamic
  offsets by `_WRINKLED`.

  All [T, H, W, 3] uint8 encoded normals; pixels that one of them leaves empty do not count. nan if
  there are none.
  """
  seen = shown.any(-1) & true.any(-1) & without.any(-1)
  chosen = seen & (_degrees(true, without) > _WRINKLED)
  return float(_degrees(shown, true)[chosen].mean()) if chosen.any() else float('nan')


def run_cases(
  generator: Generator,
  transfer: Transfer,
  actors: pathlib.Path,
  indices: list[int],
  *,
  seed: int,
  variant: str = 'full',
  stage: Stage | None = None,
  **sampling,
) -> tuple[list[Case], dict]:
  """Generates self and cross clips of the actors with these numbers; also the errors of the
  offsets, in mm.

  Args:
    stage: of the actors' head; None: MakeHuman's.
    sampling: fields of `Sampling` in place of the export's choice.

  Raises:
    UserError: the folder was made with another head, or an unknown variant.
  """
  if variant not in VARIANTS:
    raise UserError(f'the variant must be one of {VARIANTS}, got {variant!r}')
  settings = json.loads((actors / 'settings.json').read_text())
  stage, size = stage or load_stage('makehuman'), generator.size[0]
  _check_made_with(settings, stage.assets.head, actors)
  head, dense = stage.assets.head, stage.assets.dense
  ids = np.asarray(stage.assets.skin_ids)
  cast = [recreate(settings, i, stage) for i in indices]
  clips = [
    render_actor(a, m, stage, size=settings['size'], subject_id=str(i))
    for i, (a, m) in zip(indices, cast)
  ]
  cases, errors = [], {'transfer': [], 'direct copy': [], 'none': []}
  shrink = lambda images: np.stack([resize(f, (size, size)) for f in images])
  for k, (actor, _) in enumerate(tqdm.tqdm(cast, desc=f'benchmark {variant}', unit='actor')):
    other = (k + 1) % len(cast)
    own, driver = clips[k], clips[other]
    known = plain(own.truth) if variant == 'linear' else own.truth
    draw = lambda subject, motion, dynamic: control_maps(
      head, dense, subject, motion, dynamic, size=size
    )
    moved = reenact(own.truth, driver.truth, head)
    seated, times = moved.translation - np.asarray(actor.seat), driver.truth.times
    crossed = Motion(moved.expression, moved.pose, seated, times, driver.truth.fps)
    truth = render_actor(actor, crossed, stage, size=settings['size'])
    predicted = transfer(own.truth, moved.expression, head.joint_turns(moved.pose, 'jaw'))
    true = np.asarray(jax.vmap(lambda e, actor=actor: dynamic_offsets(actor, e))(moved.expression))
    guesses = (predicted[:, ids], driver.truth.dynamic_offsets, 0 * true)
    for values, guess in zip(errors.values(), guesses):
      values.append(1e3 * float(np.sqrt(np.mean(np.sum((guess - true) ** 2, -1)))))
    true_full = np.zeros_like(predicted)
    true_full[:, ids] = true
    own_full = full_offsets(own.truth)
    at_rest, driven = {
      'full': (own_full, predicted),
      'direct': (own_full, full_offsets(driver.truth)),
      'linear': (None, None),
    }[variant]
    reference, played = _small(own.frames[:1], size)[0], own_motion(own.truth)
    picture = {'video': shrink(own.frames[:1]), 'matte': shrink(own.matte[:1])}
    portrait = portrait_of(picture, known, 0, head)
    reference_normals = draw(known, played, at_rest)[0].astype(np.float32) / 255
    parts = (
      ('self', own, own, played, at_rest, own_full),
      ('cross', truth, driver, moved, driven, true_full),
    )
    for kind, target, shown, motion, dynamic, exact in parts:
      maps_ = draw(known, motion, dynamic)
      drawn = np.stack(list(preview_frames(portrait, motion, dynamic, head, dense)))
      preview, maps_seen = drawn.astype(np.float32) / 255, maps_.astype(np.float32) / 255
      given = (generator, reference, reference_normals, maps_seen)
      result = generate(*given, jax.random.key(seed), previews=preview, **sampling)
      wrinkles = wrinkle_error(maps_, draw(own.truth, motion, exact), draw(own.truth, motion, None))
      mask = _mask(target, own, size, settings['size'])
      films = _small(shown.frames, size), maps_seen, preview
      cases.append(
        Case(kind, reference, *films, wrinkles, result, _small(target.frames, size), mask)
      )
  return cases, {name: float(np.mean(values)) for name, values in errors.items()}


def _check_made_with(settings: dict, head, actors: pathlib.Path) -> None:
  if settings['head'] != head.name:
    raise UserError(
      f'{actors} was made with head {settings["head"]!r}, not with {head.name!r}; name it by --head'
    )


def _mask(target, own, size: int, full: int) -> np.ndarray:
  """[T, size, size] matte of the frames in which the face moved; full: pixels of the clips."""
  mask = np.stack([resize(m, (size, size)) for m in target.matte]).astype(np.float32) / 255
  moved_by = np.linalg.norm(target.landmarks - own.landmarks[:1], axis=-1).mean(-1) / full
  mask[moved_by < _MOVING] = 0
  return mask


def score(cases: list[Case]) -> dict:
  """Means over clips, in the matte: model and baseline of each kind, and what the control maps
  change."""
  table = {}
  for kind in ('self', 'cross'):
    chosen = [c for c in cases if c.kind == kind]
    for row, get in (
      ('model', lambda c: c.result),
      ('textured preview', lambda c: c.preview),
      ('repeat the reference', lambda c: np.broadcast_to(c.reference, c.truth.shape)),
    ):
      scores = [
        [metric(get(c), c.truth, mask=c.mask) for metric in (psnr, ssim, l1)] for c in chosen
      ]
      table[f'{kind}, {row}'] = {
        name: float(np.mean([s[i].value for s in scores]))
        for i, name in enumerate(('psnr', 'ssim', 'l1'))
      }
      table[f'{kind}, {row}']['frames'] = int(sum(s[0].count for s in scores))
    table[f'{kind}, model']['wrinkle normals'] = float(
      np.nanmean([c.wrinkle_error for c in chosen])
    )
  pairs = [(cases[i], cases[i + 1]) for i in range(0, len(cases), 2)]
  towards = [
    psnr(cross.result, cross.truth, mask=cross.mask).value
    - psnr(own.result, cross.truth, mask=cross.mask).value
    for own, cross in pairs
  ]
  return {'scores': table, 'control_swap_db': float(np.mean(towards))}


def write_results(
  output: pathlib.Path, cases: list[Case], results: dict, *, rate: float = 12.0
) -> None:
  """scores.json, one sheet and one video a kind: reference, driver, control, preview, model,
  truth."""
  output.mkdir(parents=True, exist_ok=True)
  for kind in ('self', 'cross'):
    chosen = [c for c in cases if c.kind == kind]
    rows = []
    for t in range(len(chosen[0].truth)):
      rows.append(
        np.concatenate(
          [
            np.concatenate(
              [
                c.reference,
                c.driver[t],
                c.normals[t],
                c.preview[t],
                np.clip(c.result[t], 0, 1),
                c.truth[t],
              ],
              axis=1,
            )
            for c in chosen
          ]
        )
      )
    scale = max(1, 128 // chosen[0].truth.shape[1])
    enlarge = lambda frame, scale=scale: np.repeat(
      np.repeat(np.rint(frame * 255).astype(np.uint8), scale, 0), scale, 1
    )
    write_video(output / f'{kind}.mp4', (enlarge(r) for r in rows), rate)
    middle = [rows[t] for t in (len(rows) // 3, 2 * len(rows) // 3)]
    write_image(output / f'{kind}.png', contact_sheet([enlarge(r) for r in middle], columns=2))
  write_text(output / 'scores.json', json.dumps(results, indent=1) + '\n')
