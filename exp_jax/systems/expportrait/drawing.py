"""Frames of a driven portrait, drawn when they are asked for: by the textured preview, or by the
video model window by window.

Letters: T frames.
"""

import dataclasses
import functools

import jax
import numpy as np

from exp_jax.controls import maps
from exp_jax.controls.channels import extra_channels, extra_maps
from exp_jax.controls.reenact import Motion
from exp_jax.heads.densify import Dense
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject
from exp_jax.media.paste import feathered_box, open_patch, paste
from exp_jax.media.squares import Cut
from exp_jax.systems.expportrait.generator.sample import stream
from exp_jax.systems.expportrait.portrait import Portrait, preview_frames, scaled
from exp_jax.systems.expportrait.transfer.network import Transfer

_PART = 32  # frames whose offsets are transferred at a time


class TransferredOffsets:
  """Dynamic offsets [T, N, 3] of a motion and its jaw [T, 3], made part by part when asked for,
  frame after frame."""

  def __init__(self, transfer: Transfer, subject: Subject, motion: Motion, jaw: np.ndarray):
    self._make = lambda start: transfer(
      subject, motion.expression[start : start + _PART], jaw[start : start + _PART]
    )
    self._count, self._part = len(motion.expression), functools.lru_cache(maxsize=2)(self._make)

  def __len__(self):
    return self._count

  def __getitem__(self, frame: int) -> np.ndarray:
    return self._part(int(frame) // _PART * _PART)[int(frame) % _PART]


class DrawnFrames:
  """Frames or maps [T, H, W, channels] float32 in 0..1, drawn when a slice of them is asked for."""

  def __init__(self, count: int, size: int, draw, channels: int = 3):
    self._count, self._draw, self.shape = count, draw, (count, size, size, channels)

  def __len__(self):
    return self._count

  def __getitem__(self, part: slice) -> np.ndarray:
    start, stop, _ = part.indices(self._count)
    return self._draw(start, stop).astype(np.float32) / 255


def part_of(motion: Motion, dynamic, start: int, stop: int) -> tuple[Motion, np.ndarray | None]:
  """Frames start..stop of a motion and its offsets."""
  cut = Motion(*(getattr(motion, f.name)[start:stop] for f in dataclasses.fields(Motion)))
  return cut, None if dynamic is None else np.stack([dynamic[i] for i in range(start, stop)])


def dit_frames(
  generator,
  portrait: Portrait,
  motion: Motion,
  dynamic,
  head: HeadModel,
  dense: Dense,
  *,
  seed: int,
  **sampling,
):
  """Yields [H, W, 3] float frames in 0..1 by the video model, at the size it was trained at; a
  window is in memory at a time.

  sampling: fields of `Sampling` in place of the export's choice.
  """
  size, count = generator.size[0], len(motion.pose)
  portrait = scaled(portrait, size)
  subject = portrait.subject
  unit = lambda images: images.astype(np.float32) / 255
  extras = tuple(generator.config.condition.get('extras', ()))

  def controls(start, stop):
    part = part_of(motion, dynamic, start, stop)
    drawn = maps.control_maps(head, dense, subject, *part, size=size)
    return (
      np.concatenate([drawn, extra_maps(head, dense, subject, *part, extras, size=size)], axis=-1)
      if extras
      else drawn
    )

  def previews(start, stop):
    return np.stack(
      list(preview_frames(portrait, *part_of(motion, dynamic, start, stop), head, dense))
    )

  own = maps.control_maps(
    head, dense, subject, maps.own_motion(subject), maps.full_offsets(subject), size=size
  )
  driving = DrawnFrames(count, size, controls, 3 + extra_channels(extras))
  parts = stream(
    generator,
    unit(portrait.photo),
    unit(own[0]),
    driving,
    jax.random.key(seed),
    previews=DrawnFrames(count, size, previews) if generator.model.preview else None,
    **sampling,
  )
  for part in parts:
    yield from part


def square_of(portrait: Portrait, image: np.ndarray) -> Cut:
  """Where the portrait's square lies in its picture; a subject file that does not tell is of the
  whole picture."""
  crops, size = portrait.subject.source_crop, tuple(portrait.subject.image_size)
  if crops is None:
    return Cut(np.eye(3)[:2], image.shape[:2]).resized(size)
  return Cut(np.asarray(crops[0][:2], np.float64), size)


def pasted(frames, portrait: Portrait, image: np.ndarray):
  """The whole source picture with each frame in the place of its crop, at the picture's own
  resolution."""
  cut, patch = square_of(portrait, image), None
  for frame in frames:
    if patch is None:
      patch = open_patch(cut, feathered_box(cut.size), image.shape[:2], kernel='cubic')
    yield paste(patch, image, np.asarray(frame))
