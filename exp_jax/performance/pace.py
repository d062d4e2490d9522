"""How fast frames of a live session are drawn."""

import collections

_RECENT = 20  # frames that the rate is of
_COMPILING = 2  # frames at the start, whose programs are compiled


class Pace:
  """Counts frames; the first two, whose programs are compiled, are left out.

  Attributes:
    rate: frames a second over the last twenty, 0 before there are two.
    seconds: {step: mean seconds of it in a frame}.
  """

  def __init__(self):
    self._ends: collections.deque[float] = collections.deque(maxlen=_RECENT)
    self._sums: collections.Counter = collections.Counter()

  @property
  def rate(self) -> float:
    ends = self._ends
    return (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 1 and ends[-1] > ends[0] else 0.0

  @property
  def seconds(self) -> dict[str, float]:
    steps = {name: value for name, value in self._sums.items() if name != 'frames'}
    return {name: value / self._sums['frames'] for name, value in steps.items()}

  def ended(self, count: int, now: float, steps: dict[str, float] | None = None) -> None:
    """A frame has been shown.

    Args:
      count: frames so far that went through every step, with this one.
      now: seconds.
      steps: {step: seconds} of this frame; None: it shows the one before again.
    """
    if count > _COMPILING:
      self._ends.append(now)
      if steps is not None:
        self._sums.update({**steps, 'frames': 1})
