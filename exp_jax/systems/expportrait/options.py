"""What can be chosen of an animation by ExpPortrait: flags, widgets, checks and records follow from
this one declaration."""

import dataclasses
import pathlib

import numpy as np

from exp_jax.controls.driving_options import DEFAULT_SECONDS, ReenactOptions
from exp_jax.diffusion.choices import LARGEST_GUIDANCE, SAMPLER_NAMES
from exp_jax.observe.people import choose_faces
from exp_jax.performance.options import FACES, SEVERAL_FACES, SharedOptions, option


@dataclasses.dataclass(frozen=True)
class LoadOptions:
  """What is chosen when the system is loaded."""

  head: str = option(
    'makehuman',
    "head model: 'makehuman', a name in the folder of heads, or the file of a converted head",
    metavar='FILE',
  )
  transfer: str = option(
    'embedded',
    "exported expression transfer, 'embedded' or 'none': no wrinkles move",
    metavar='DIR',
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
    None, "autoencoder export, if not where the video model's config says", metavar='DIR'
  )


SAMPLING = ('sampler', 'steps', 'guidance', 'reference_guidance', 'overlap')


@dataclasses.dataclass(frozen=True)
class Options(SharedOptions):
  """Options of `animate`.

  Those of the video model are refused where none is loaded; None means the export's own choice.
  """

  face: str = option(
    'largest', f'whose portrait: {SEVERAL_FACES}; of several, the result is the whole picture'
  )
  size: int = option(512, 'side of the fitted square', low=64, high=4096, unit='pixels')
  rotation: str = option(
    'absolute',
    "the driver's head rotation as it is, or its change since the first frame",
    choices=('absolute', 'relative'),
  )
  most_turn: float | None = option(
    None,
    "how far the head may turn from the portrait's own view; by default as far as the portrait "
    'shows the face, and without a limit where a video model draws',
    low=0,
    high=180,
    unit='degrees',
  )
  translation: str = option(
    'relative',
    "follow the driver's change of place since the first frame, or stay",
    choices=('relative', 'none'),
  )
  expression_strength: float = option(1.0, '0 still, 1 as driven, 1.5 more', low=0, high=3)
  drive_torso: bool = option(False, "turn the torso as the driver's too; the head moves the same")
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
  paste_back: bool = option(
    False, 'the whole source picture at its own size, not the fitted square'
  )
  sampler: str | None = option(
    None,
    'sampler of the video model',
    choices=SAMPLER_NAMES,
    needs='generator',
  )
  steps: int | None = option(None, "of the sampler's grid", low=1, high=1000, needs='generator')
  guidance: float | None = option(
    None,
    'on the pose, and on the text where the export has a negative prompt; 1 is none',
    low=0,
    high=LARGEST_GUIDANCE,
    needs='generator',
  )
  reference_guidance: float | None = option(
    None, 'on the portrait; 1 is none', low=0, high=LARGEST_GUIDANCE, needs='generator'
  )
  overlap: int | None = option(
    None, 'latent frames that neighbouring windows share', low=0, needs='generator'
  )

  def __post_init__(self):
    super().__post_init__()
    for choice, name, words in (
      (self.face, 'the portrait', SEVERAL_FACES),
      (self.driving_face, 'the driver', FACES),
    ):
      choose_faces(
        choice, np.zeros((1, 1, 2)), name=name, words=words, several=words == SEVERAL_FACES
      )

  @property
  def several(self) -> bool:
    """Whether more than one face may be driven."""
    return self.face == 'all' or '+' in self.face

  @property
  def whole_picture(self) -> bool:
    """Whether the result is the whole source picture, not a square."""
    return self.paste_back or self.several

  @property
  def reenactment(self) -> ReenactOptions:
    """How the driver's motion is laid onto the portrait's head."""
    return ReenactOptions(
      rotation=self.rotation,
      expression_strength=self.expression_strength,
      drive_torso=self.drive_torso,
      translation=self.translation,
    )

  @property
  def sampling(self) -> dict:
    """Fields of `Sampling` that were chosen."""
    return {name: value for name in SAMPLING if (value := getattr(self, name)) is not None}
