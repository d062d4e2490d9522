"""Files in, files out: one person's head with another's expressions, as geometry, control maps and
previews.

What comes from whom: shape, static offsets, camera and torso from the target; expression, jaw, gaze
and the head's motion in the camera from the driver (`controls.reenact`), without its detector's
jitter; the dynamic offsets from the target's own geometry.
Letters: T frames, N dense vertices.
"""

import contextlib
import fractions
import json

import numpy as np
import tqdm

from exp_jax.controls.channels import control_channels
from exp_jax.controls.driving_options import DEFAULT_SECONDS, ReenactOptions
from exp_jax.controls.maps import control_maps, full_offsets, own_motion
from exp_jax.controls.same_picture import driven_motion
from exp_jax.controls.smoothing import smoothed
from exp_jax.errors import UserError
from exp_jax.files.atomic import write_text
from exp_jax.fitting.preview import textured_heads
from exp_jax.fitting.tracked_driver import frames_of, track
from exp_jax.geometry.second_differences import jitter_of, second_differences
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.personalized import check_head, load_subject, save_subject
from exp_jax.media.images import contact_sheet, read_image, resize, write_image
from exp_jax.media.video import video_rate, write_video
from exp_jax.observe.landmarks import FaceEstimator
from exp_jax.observe.maps.map_sources import EMBEDDED, open_map_estimators
from exp_jax.systems.expportrait.portrait import (
  open_portrait,
  preview_frames,
  to_subject,
  tremble,
)
from exp_jax.systems.expportrait.transfer.network import Transfer


def jitter(offsets: np.ndarray) -> float:
  """Root mean square second difference over time of what moves, in the unit of `offsets` [T, N, 3];
  0 for T < 3."""
  return jitter_of(offsets[:, np.abs(offsets).max((0, 2)) > 0])


def flicker(maps: np.ndarray) -> float:
  """Mean second difference over time of uint8 maps [T, H, W, C] where a surface is seen in all
  three frames, of 255."""
  if len(maps) < 3:
    return 0.0
  seen, values = maps.any(-1), maps.astype(np.float32)
  change = np.abs(second_differences(values)).mean(-1)
  inside = seen[2:] & seen[1:-1] & seen[:-2]
  return float(change[inside].mean()) if inside.any() else 0.0


def _captioned(frames: np.ndarray, words: str) -> np.ndarray:
  from PIL import Image, ImageDraw

  strip = Image.new('RGB', (frames.shape[2], 18))
  ImageDraw.Draw(strip).text((4, 3), words, fill=(230, 230, 230))
  return np.concatenate(
    [np.broadcast_to(np.array(strip), (len(frames), *np.array(strip).shape)), frames], 1
  )


_NOT_COPIED = 'not shown: the driver has no dynamic offsets on this mesh'


def transfer_files(args) -> dict:
  """Runs `python -m exp_jax.transfer` with its parsed arguments; returns the report.

  Raises:
    UserError: bad files, another head, or a folder that holds something already.
  """
  if args.output.exists() and any(args.output.iterdir()):
    raise UserError(f'{str(args.output)!r} is not empty; choose a new folder')
  target = load_subject(args.target)
  if not 0 <= args.frame < target.num_frames:
    raise UserError(
      f'--frame {args.frame} is not in {args.target}, which has {target.num_frames} frames'
    )
  head = load_head(args.head or target.head_name)
  dense = densify(head, target.levels)
  check_head(target, head, dense)
  target = frames_of(target, slice(args.frame, args.frame + 1))
  transfer = Transfer(args.transfer, head, dense)
  driving, portrait, networks = _seen(args, head, dense, target)
  options = ReenactOptions(
    rotation=args.rotation,
    expression_strength=args.expression_strength,
    drive_torso=args.drive_torso,
  )
  smooth = smoothed(driving, head, DEFAULT_SECONDS if args.smoothing is None else args.smoothing)
  motion = driven_motion(target, smooth, head, options)
  own = transfer(target, motion.expression, head.joint_turns(motion.pose, 'jaw'))
  copied = None
  if driving.dynamic_vertices.size and driving.levels == target.levels:
    copied = full_offsets(driving) * min(args.expression_strength, 1.0)
  rate = (
    video_rate(args.driving)
    if args.driving.suffix.lower() != '.npz'
    else fractions.Fraction(driving.fps).limit_denominator(1001)
  )
  driven = to_subject(target, motion, own, driving)
  args.output.mkdir(parents=True, exist_ok=True)
  save_subject(args.output / 'subject.npz', driven)

  channels = control_channels(head, dense, target, motion, own, size=args.size)
  for name, frames in channels.items():
    write_video(
      args.output / f'{name}.mp4', (np.repeat(f, 3 // f.shape[-1], -1) for f in frames), rate
    )
  frames = _drawn(portrait, target, driven, motion, own, channels, head, dense)
  frames = tqdm.tqdm(frames, desc='draw', unit='frame', total=len(motion.pose), leave=False)
  preview = np.stack([np.uint8(np.rint(frame)) for frame in frames])
  write_video(args.output / 'preview.mp4', preview, rate)

  linear = control_maps(head, dense, target, motion, None, size=args.size)
  columns = [('linear model alone', linear)]
  if copied is not None:
    maps = control_maps(head, dense, target, motion, copied, size=args.size)
    columns.append(("driver's offsets copied", maps))
  columns.append(('transferred', channels['normals']))
  _write_columns(args.output, columns, rate)
  report = {
    'target': target.subject_id,
    'driver': driving.subject_id,
    'maps': [each.digest for each in networks],
    'frames': len(motion.pose),
    'rate': str(rate),
    'largest_offset_mm': round(1e3 * float(np.linalg.norm(own, axis=-1).max()), 4),
    'offset_jitter_mm': round(1e3 * jitter(own), 5),
    'normal_flicker_of_255': round(flicker(channels['normals']), 3),
    'flicker_without_offsets_of_255': round(flicker(linear), 3),
    'tremble_pixels_at_512': {
      'driver': _rounded(tremble(head, driving, own_motion(driving))),
      'result': _rounded(tremble(head, target, motion)),
    },
    'direct_transfer': _NOT_COPIED if copied is None else 'shown',
    'preview': 'photograph' if portrait is not None else _colours_of(target),
    'settings': {k: str(v) for k, v in vars(args).items()},
  }
  write_text(args.output / 'report.json', json.dumps(report, indent=1) + '\n')
  return report


def _seen(args, head, dense, target):
  """The driver's subject, the portrait's picture opened or None, and the networks that saw them."""
  fitted = args.driving.suffix.lower() == '.npz'
  networks = () if fitted else open_map_estimators(args.networks or EMBEDDED)
  with contextlib.ExitStack() as stack:
    looks = not fitted or args.portrait is not None
    how = dict(head=head, dense=dense)
    how['estimator'] = stack.enter_context(FaceEstimator()) if looks else None
    driving = track(args.driving, size=512, limit=args.limit, map_estimators=networks, **how)
    portrait = args.portrait and open_portrait(
      read_image(args.portrait), name=args.portrait.stem, subject=target, **how
    )
  return driving.subject, portrait, networks


def _rounded(value: float | None) -> float | None:
  return None if value is None else round(value, 3)


def _colours_of(target) -> str:
  return 'grey' if target.albedo is None else 'albedo of the subject file'


def _drawn(portrait, target, driven, motion, own, channels, head, dense):
  """The preview's frames: the photograph, else the subject file's own colours, else grey."""
  if portrait is not None:
    return preview_frames(portrait, motion, own, head, dense)
  if target.albedo is None or target.light is None:
    return iter(channels['shaded'])
  discs = (resize(iris[..., 0], target.image_size)[..., None] / 255 for iris in channels['iris'])
  shaded = textured_heads(head, dense, driven)
  return ((1 - 0.8 * disc) * frame for frame, disc in zip(shaded, discs))


def _write_columns(folder, columns: list[tuple[str, np.ndarray]], rate) -> None:
  """side_by_side.mp4, and .png of eight moments."""
  rows = np.concatenate([_captioned(frames, words) for words, frames in columns], 2)
  write_video(folder / 'side_by_side.mp4', rows, rate)
  moments = np.unique(np.linspace(0, len(rows) - 1, 8).round().astype(int))
  sheet = contact_sheet([rows[i] for i in moments], columns=2)
  write_image(folder / 'side_by_side.png', sheet)
