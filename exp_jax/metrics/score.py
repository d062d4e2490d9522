"""What every metric returns: a value that says what it is, over how many frames, and what share of
them could be measured."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Score:
  """value: mean over the measured frames; variant: what exactly; count: frames measured; coverage:
  their share."""

  value: float
  variant: str
  count: int
  coverage: float


def mean_score(per_frame: np.ndarray, variant: str) -> Score:
  """Mean of [N] values; NaN marks frames that could not be measured, which lower coverage."""
  per_frame = np.asarray(per_frame, np.float64)
  measured = np.isfinite(per_frame) | np.isinf(per_frame)
  value = float(per_frame[measured].mean()) if measured.any() else float('nan')
  return Score(
    value, variant, int(measured.sum()), float(measured.mean()) if len(per_frame) else 0.0
  )


def root_score(squares: np.ndarray, variant: str) -> Score:
  """Root of the mean of [N] squares; NaN as in `mean_score`."""
  found = mean_score(squares, variant)
  return dataclasses.replace(
    found, value=math.sqrt(found.value) if found.value >= 0 else float('nan')
  )


def pooled(scores: list[Score], *, root: bool = False, asked: list[int] | None = None) -> Score:
  """Scores of windows or clips as one over all their frames: every frame counts the same.

  Args:
    scores: of one variant.
    root: the values are root mean squares, so their squares are averaged.
    asked: frames of each; needed where a score without a measured frame (coverage 0) is among them.

  Raises:
    ValueError: none, of several variants, or frames missing.
  """
  variants = {score.variant for score in scores}
  if len(variants) != 1:
    raise ValueError(f'scores of one variant can be pooled, got {sorted(variants) or "none"}')
  if asked is None:
    if not all(score.coverage for score in scores):
      raise ValueError('a score without a measured frame does not know its length; give `asked`')
    asked = [score.count / score.coverage for score in scores]
  total = sum(
    score.count / score.coverage if score.coverage else frames
    for score, frames in zip(scores, asked, strict=True)
  )
  measured = [score for score in scores if score.count]
  count = sum(score.count for score in measured)
  power = 2 if root else 1
  value = (
    sum(score.value**power * score.count for score in measured) / count if count else float('nan')
  )
  value = math.sqrt(value) if root and value >= 0 else value
  return Score(value, variants.pop(), count, count / total if total else 0.0)
