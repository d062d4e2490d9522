"""Landmarks of a camera without tremor and with little delay, where the future is not known.

A low-pass filter of first order whose cut-off rises with speed: still points are held still, quick
ones are followed. Lengths are in eye distances, so that the size of the face in the picture does
not matter.
Source: Casiez, Roussel and Vogel, 1 Euro Filter, CHI 2012, eqs. 1 to 6. Letters: N points.
"""

import numpy as np

_SLOWEST = 1.0  # hertz, cut-off of points that stand still
_GAIN = 5.0  # hertz for each eye distance a second
_OF_SPEED = 2.0  # hertz, cut-off of the speed itself
_LONGEST = 0.5  # seconds without a frame after which all is forgotten


class SteadyPoints:
  """Filters points [N, 2] that come one set after another."""

  def __init__(self):
    self._points = self._speed = self._time = None

  def __call__(self, points: np.ndarray, time: float, unit: float) -> np.ndarray:
    """The filtered points.

    Args:
      points: [N, 2] pixels.
      time: seconds, later than before.
      unit: pixels of an eye distance.
    """
    step = None if self._time is None else time - self._time
    self._time = time
    if step is None or not 0 < step <= _LONGEST:
      self._points, self._speed = np.array(points, np.float64), np.zeros(len(points))
      return self._points.copy()
    speed = np.linalg.norm(points - self._points, axis=-1) / (unit * step)
    self._speed += _share(_OF_SPEED, step) * (speed - self._speed)
    self._points += _share(_SLOWEST + _GAIN * self._speed, step)[:, None] * (points - self._points)
    return self._points.copy()


def _share(cutoff, step: float):
  """How far a value goes to the new one in a step of so many seconds, cut-off in hertz (eqs. 3 and
  4)."""
  turn = 2 * np.pi * np.asarray(cutoff) * step
  return turn / (turn + 1)
