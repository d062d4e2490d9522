"""The first seconds of a result as a small video of their own, there before the rest is drawn.
Nothing is drawn twice."""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from exp_jax.media.video import write_timed_video
from exp_jax.performance.animation import Animation, as_bytes
from exp_jax.provenance.stamp import Stamp


def with_first_seconds(
  animation: Animation, seconds: float, path: pathlib.Path, made: Callable[[], None]
) -> Animation:
  """The same animation, which writes its first frames to `path` as soon as they are drawn.

  Driver and portrait are fitted by then; what is saved is the drawing of the rest. The preview is
  marked and signed as the result is, and has no sound.

  Args:
    animation: whose frames nobody has taken yet.
    seconds: frames before this time belong to the preview; at least one does.
    path: of the preview (.mp4); it appears whole or not at all.
    made: called when it is there.

  Returns:
    An animation to take in its place; of a result that is no longer than that, `animation` itself.
  """
  count = max(1, int(np.searchsorted(animation.times, seconds - 1e-6)))
  if count >= len(animation):
    return animation

  def write(first: list[np.ndarray]) -> None:
    stamp = Stamp(animation.record) if animation.provenance else None
    frames = iter(first) if stamp is None else stamp.frames(first)
    finish = None if stamp is None else stamp.sign
    write_timed_video(path, zip(frames, animation.times), animation.rate, finish=finish)
    made()

  def drawn():
    first: list[np.ndarray] | None = []
    for frame in animation.drawn:
      if first is not None:
        first.append(as_bytes(frame))
        if len(first) == count:
          write(first)
          first = None
      yield frame

  return dataclasses.replace(animation, drawn=drawn())
