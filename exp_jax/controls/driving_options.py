"""What can be chosen of how a driver is followed, declared apart from the computation, so that a
command's help does not load it."""

import dataclasses

DEFAULT_SECONDS = 0.08  # of smoothing: standard deviation of its weights in time


@dataclasses.dataclass(frozen=True)
class ReenactOptions:
  """What is taken from the driver.

  Attributes:
    rotation: 'absolute', the head turns as the driver's in the camera; 'relative', by the driver's
      change since frame 0.
    expression_strength: factor of expression and jaw.
    drive_torso: the torso turns as the driver's as well, absolutely or relatively as the head.
    translation: 'relative', the head changes its place as the driver's; 'none', the torso stays and
      the head turns on it; 'absolute', the head is where the driver's is in its own camera.
  """

  rotation: str = 'absolute'
  expression_strength: float = 1.0
  drive_torso: bool = False
  translation: str = 'relative'
