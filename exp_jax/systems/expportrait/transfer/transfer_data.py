"""People for training and scoring the expression transfer: subject files, and synthetic actors
drawn without pictures.

Both know a head, its dense mesh and the skin that moves, and give for a person number i what is
seen of them at rest (`neutral`) and some of their frames (`frames`). People, not frames, are held
out: files by their order, actors by seed.
Letters: T frames, E expressions, P moving vertices, N those asked for.
"""

import dataclasses
import os
import pathlib
import threading
from collections.abc import Callable

import numpy as np

from exp_jax.actors import make_stage, sample_actor, sample_motion
from exp_jax.actors.wrinkles import wrinkle_depths
from exp_jax.errors import UserError
from exp_jax.heads.densify import Dense, densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import check_head, load_subject
from exp_jax.systems.expportrait.transfer.transfer_features import (
  Neutral,
  Surface,
  neutral_of,
  relief_of,
  surface_of,
)

ACTOR = 'actor_'  # and five digits: names of clips of `exp_jax.actors`


class FitNoise:
  """What a fit does to a neutral head: smooth bumps along the normals, of which no line is free.

  A bank of random fields of 3, 6 and 12 mm on the template, of root mean square 1, with the relief
  that each of them makes; a draw adds a few of them with random weights.
  """

  def __init__(self, surface: Surface, normals: np.ndarray, *, count: int = 48):
    """`normals` [P, 3] of the template; `count` fields."""
    rng = np.random.default_rng(0)
    self._fields, self._relief = [], []
    for i in range(count):
      field = surface.smooth[i % len(surface.smooth)](rng.normal(size=(len(surface.ids), 1)))[:, 0]
      field /= np.sqrt(np.mean(field**2))
      detail = field[:, None] * normals
      self._fields.append(field.astype(np.float32))
      self._relief.append(relief_of(surface, normals, detail))

  def __call__(
    self, seen: Neutral, rng: np.random.Generator, size: float, *, mixed: int = 3
  ) -> Neutral:
    """The same person as a fit with errors of `size` metres (root mean square) would see them."""
    chosen = rng.choice(len(self._fields), mixed, replace=False)
    weights = size * rng.normal(size=mixed) / np.sqrt(mixed)
    field = sum(w * self._fields[k] for w, k in zip(weights, chosen))
    relief = sum(w * self._relief[k] for w, k in zip(weights, chosen))
    return dataclasses.replace(
      seen,
      neutral=(seen.neutral + field[:, None] * seen.normals).astype(np.float32),
      relief=(seen.relief + relief).astype(np.float32),
    )


class FittedHeads:
  """What fits of pictures make of synthetic people: their subject files, and the errors of those
  for people who have none.

  A fit of a picture has forms of its own and hardly a line of the person's. So a person without a
  file is seen as the truth less all that is finer than 12 mm, plus the difference between
  somebody's fit and that person's truth treated alike.
  """

  def __init__(self, path: str | os.PathLike, head: HeadModel, dense: Dense, surface: Surface):
    """Reads a folder of `<clip>.npz` that `exp_jax.fit` made of clips of `exp_jax.actors`.

    Raises:
      UserError: there are none, or they are of another head or mesh, or not named as actors are.
    """
    self._surface, self._seen, self._errors = surface, {}, {}
    self.path = os.fspath(path)
    for file in sorted(pathlib.Path(path).glob('*.npz')):
      number = file.stem.removeprefix(ACTOR)
      if not number.isdigit():
        raise UserError(
          f'{file} is not named as the clips of `python -m exp_jax.actors` are ({ACTOR}00000 ...), '
          'so whose fit it is '
          'is not known: name a folder of their fits alone'
        )
      subject = load_subject(file)
      check_head(subject, head, dense)
      self._seen[int(number)] = neutral_of(
        head, dense, surface, subject.shape, subject.static_offsets
      )
    if not self._seen:
      raise UserError(
        f'no fits (*.npz) in {self.path!r}: make them by `python -m exp_jax.fit` of the clips of '
        '`python -m exp_jax.actors`'
      )

  def learn(self, truth: Callable[[int], tuple[Neutral, np.ndarray]], count: int) -> None:
    """Measures the errors of all fits. truth: number -> the person's true `Neutral` and static
    offsets [P, 3]; count: of people.

    Raises:
      UserError: a fit of a number that is not there, or fits of other people.
    """
    strange = 0
    for number, seen in self._seen.items():
      if number >= count:
        raise UserError(
          f'{self.path!r} has a fit of person {number}, but config.data.count is {count}'
        )
      true, static = truth(number)
      other, _ = truth((number + 1) % count)
      away = lambda one, seen=seen: np.std(seen.neutral - one.neutral, axis=0).sum()
      strange += away(other) < away(true)
      plain = self.without_lines(true, static)
      self._errors[number] = Neutral(
        seen.neutral - plain.neutral, seen.normals - plain.normals, seen.relief - plain.relief
      )
    if 2 * strange > len(self._seen) > 2:
      raise UserError(
        f'the fits in {self.path!r} are not of the people of config.data.seed: {strange} of '
        f'{len(self._seen)} are '
        'nearer to somebody else'
      )

  def without_lines(self, seen: Neutral, static: np.ndarray) -> Neutral:
    """A person's true head less the part of its static offsets [P, 3] that is finer than the
    coarsest scale of relief."""
    smooth = self._surface.smooth[-1](np.asarray(static, np.float64)) - static
    return dataclasses.replace(
      seen,
      neutral=(seen.neutral + smooth).astype(np.float32),
      relief=(seen.relief + relief_of(self._surface, seen.normals, smooth)).astype(np.float32),
    )

  def __call__(
    self, i: int, seen: Neutral, static: np.ndarray, rng: np.random.Generator
  ) -> Neutral:
    """Person i as a fit sees it: its own where there is one, else with the errors of a fit drawn by
    `rng`."""
    if i in self._seen:
      return self._seen[i]
    wrong = self._errors[list(self._errors)[rng.integers(len(self._errors))]]
    plain = self.without_lines(seen, static)
    normals = plain.normals + wrong.normals
    return Neutral(
      plain.neutral + wrong.neutral,
      normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-6),
      plain.relief + wrong.relief,
    )


class SubjectFaces:
  """The subject files of a folder.

  `part` is 'train' or 'held_out': the last `holdout` in sorted order.

  The static field of a fitted clip is the mean of its frames (spec, 2.1.9), so a frame without
  expression has offsets of its own; `frames` gives the files' offsets as they are.
  """

  def __init__(self, path: str, head_name: str, *, part: str, holdout: int):
    files = sorted(pathlib.Path(path).glob('*.npz'))
    if not files:
      raise UserError(
        f'no subject files (*.npz) in {path!r}: make them with `python -m exp_jax.fit` or '
        "`python -m exp_jax.actors` and set config.data.path, or set config.data.source='actors'"
      )
    if part not in ('train', 'held_out'):
      raise UserError(f"part must be 'train' or 'held_out', got {part!r}")
    chosen = files[: len(files) - holdout] if part == 'train' else files[len(files) - holdout :]
    if not chosen:
      raise UserError(
        f'{path!r} has {len(files)} subjects, {holdout} of them held out: none is left'
      )
    self.head = load_head(head_name)
    self.subjects = [load_subject(file) for file in chosen]
    self.dense = densify(self.head, self.subjects[0].levels)
    for subject in self.subjects:
      check_head(subject, self.head, self.dense)
    self.surface = surface_of(self.head, self.dense)
    self._neutral = [
      neutral_of(self.head, self.dense, self.surface, s.shape, s.static_offsets)
      for s in self.subjects
    ]
    # dense vertex -> row of dynamic_offsets
    self._place = [np.full(self.surface.count, -1) for _ in self.subjects]
    for place, subject in zip(self._place, self.subjects):
      place[subject.dynamic_vertices] = np.arange(len(subject.dynamic_vertices))

  def __len__(self) -> int:
    return len(self.subjects)

  def neutral(self, i: int) -> Neutral:
    return self._neutral[i]

  def frames(self, i: int, rng: np.random.Generator, count: int, at: np.ndarray | None = None):
    """(expression [T, E], jaw [T, 3], offsets [T, N, 3]) of `count` consecutive frames, at the
    moving vertices `at` [N].

    A clip that is too short is played to and fro.
    """
    subject, total = self.subjects[i], self.subjects[i].num_frames
    to_and_fro = np.concatenate([np.arange(total), np.arange(total - 2, 0, -1)])
    start = rng.integers(0, max(total - count, 0) + 1)
    pick = to_and_fro[(start + np.arange(count)) % len(to_and_fro)]
    rows = self._place[i][self.surface.ids if at is None else self.surface.ids[at]]
    offsets = np.where(
      (rows >= 0)[None, :, None],
      subject.dynamic_offsets[pick][:, rows] if rows.max() >= 0 else 0,
      0,
    )
    return (
      subject.expression[pick],
      self.head.joint_turns(subject.pose[pick], 'jaw'),
      np.asarray(offsets, np.float32),
    )


class ActorFaces:
  """Synthetic people `(seed, 0)` to `(seed, count - 1)`, drawn when first asked for and kept: half
  a megabyte each.

  The same people as `python -m exp_jax.actors --seed SEED`, so train with a seed that is scored
  nowhere. `frames_per_second`
  is that of the motions: few make frames unlike, many make a sequence that the temporal encoder can
  learn from. `fits` is a folder of fits of these people, see `FittedHeads`.
  """

  def __init__(
    self,
    head_name: str,
    *,
    count: int,
    seed: int,
    frames_per_second: float,
    levels: int = 1,
    fits: str = '',
  ):
    self.stage = make_stage(load_head(head_name), levels)
    self.head, self.dense = self.stage.assets.head, self.stage.assets.dense
    self.surface = surface_of(self.head, self.dense)
    self._skin = np.full(self.surface.count, -1)
    self._skin[np.asarray(self.stage.assets.skin_ids)] = np.arange(len(self.stage.assets.skin_ids))
    self._count, self._seed, self._rate = count, seed, frames_per_second
    self._people, self._lock = {}, threading.Lock()
    self._fits = FittedHeads(fits, self.head, self.dense, self.surface) if fits else None
    if self._fits is not None:
      self._fits.learn(self._truth, count)

  def __len__(self) -> int:
    return self._count

  def _truth(self, i: int) -> tuple[Neutral, np.ndarray]:
    person = self.person(i)
    return person[0], person[4]

  def fitted(self, i: int, rng: np.random.Generator) -> Neutral:
    """Person i as a fit of a picture would see it; of people with `fits` only."""
    return self._fits(i, *self._truth(i), rng)

  def person(self, i: int):
    """(neutral, wrinkles [P, K] float16 millimetres, gains [K, E], age, static offsets [P, 3]
    metres) of a person."""
    if not 0 <= i < self._count:
      raise IndexError(i)
    with self._lock:
      found = self._people.get(i)
    if found is None:
      actor = sample_actor(np.random.default_rng([self._seed, i]), self.stage)
      neutral = neutral_of(
        self.head,
        self.dense,
        self.surface,
        np.asarray(actor.shape),
        np.asarray(actor.static_offsets),
      )
      rows = self._skin[self.surface.ids]
      wrinkles = np.where((rows >= 0)[:, None], 1e3 * np.asarray(actor.wrinkles)[rows], 0).astype(
        np.float16
      )
      static = np.asarray(actor.static_offsets, np.float32)[self.surface.ids]
      found = neutral, wrinkles, np.asarray(actor.gains), float(actor.traits['age']), static
      with self._lock:
        self._people[i] = found
    return found

  def neutral(self, i: int) -> Neutral:
    return self.person(i)[0]

  def frames(self, i: int, rng: np.random.Generator, count: int, at: np.ndarray | None = None):
    """As `SubjectFaces.frames`, of a motion drawn anew: any person may make any face."""
    motion = sample_motion(rng, self.head, num_frames=count, fps=self._rate)
    return (
      motion.expression,
      self.head.joint_turns(motion.pose, 'jaw'),
      self.offsets(i, motion.expression, at),
    )

  def offsets(self, i: int, expression: np.ndarray, at: np.ndarray | None = None) -> np.ndarray:
    """[T, N, 3] metres: the true dynamic offsets of person i making `expression` [T, E]."""
    neutral, wrinkles, gains, *_ = self.person(i)
    wrinkles, normals = (
      (wrinkles, neutral.normals) if at is None else (wrinkles[at], neutral.normals[at])
    )
    depths = np.stack([wrinkle_depths(gains, e) for e in expression]).astype(np.float32)
    return 1e-3 * (depths @ wrinkles.astype(np.float32).T)[..., None] * normals
