"""What can be chosen of an animation by Loki: flags, widgets, checks and records follow from this
one declaration."""

import dataclasses
import pathlib

import numpy as np

from exp_jax.controls.driving_options import DEFAULT_SECONDS, ReenactOptions
from exp_jax.diffusion.choices import LARGEST_GUIDANCE
from exp_jax.observe.people import choose_faces
from exp_jax.performance.options import FACES, SharedOptions, option


@dataclasses.dataclass(frozen=True)
class LoadOptions:
  """What is chosen when the system is loaded."""

  head: str = option(
    'makehuman',
    "head model: 'makehuman', a name in the folder of heads, or the file of a converted head",
    metavar='FILE',
  )
  networks: str = option(
    'embedded',
    "see normals and depth of portrait and driver: 'embedded', 'none', or ONNX files and "
    'exports, separated by commas',
    metavar='NAMES',
  )
  subjects: pathlib.Path | None = option(
    None,
    'folder of `exp_jax.fit`: portrait and clip that are fitted there are not fitted again',
    metavar='DIR',
  )
  vae: pathlib.Path | None = option(
    None, "autoencoder, if not where the model's config says", metavar='DIR'
  )


SAMPLING = ('steps', 'guidance', 'reference_guidance', 'overlap')


@dataclasses.dataclass(frozen=True)
class Options(SharedOptions):
  """Options of `animate`; None means the export's own choice."""

  rotation: str = option(
    'absolute',
    "the driver's head rotation as it is, or its change since the first frame",
    choices=('absolute', 'relative'),
  )
  translation: str = option(
    'relative',
    "follow the driver's change of place since the first frame, stay, or go where the driver's "
    'head is in its own picture',
    choices=('relative', 'none', 'absolute'),
  )
  expression_strength: float = option(1.0, '0 still, 1 as driven, 1.5 more', low=0, high=3)
  smoothing: float = option(
    DEFAULT_SECONDS,
    "take the detector's jitter out of the motion over about so long, without delay; blinks and "
    'quick turns stay; '
    '0 leaves the motion as tracked',
    low=0,
    high=5,
    unit='seconds',
  )
  driving_stride: int = option(
    1,
    'follow every N-th frame of the driver, at its own time; evaluation samples drivers so',
    low=1,
    metavar='N',
  )
  steps: int | None = option(None, "of the sampler's grid", low=1, high=500)
  guidance: float | None = option(
    None, 'on the map and the portrait, 1 is none', low=0, high=LARGEST_GUIDANCE
  )
  reference_guidance: float | None = option(
    None,
    'on the portrait, of models trained with independent dropout; 1 is none',
    low=0,
    high=LARGEST_GUIDANCE,
  )
  overlap: int | None = option(None, 'frames that neighbouring windows share', low=0)

  def __post_init__(self):
    super().__post_init__()
    for choice, name in ((self.face, 'the portrait'), (self.driving_face, 'the driver')):
      choose_faces(choice, np.zeros((1, 1, 2)), name=name, words=FACES)

  @property
  def reenactment(self) -> ReenactOptions:
    """How the driver's motion is laid onto the portrait's head."""
    return ReenactOptions(
      rotation=self.rotation,
      expression_strength=self.expression_strength,
      translation=self.translation,
    )

  @property
  def sampling(self) -> dict:
    """Fields of `Sampling` that were chosen."""
    return {name: value for name in SAMPLING if (value := getattr(self, name)) is not None}
