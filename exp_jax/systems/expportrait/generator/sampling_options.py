"""How the video model is sampled: what can be chosen, what an export chooses, what cannot be
honoured.

The training config names the choice as `config.sample`, and the export carries it. Exports without
that section, such as the embedded model, are sampled as `Sampling()` says, with an overlap that
fits their windows. A value given by hand overrides both.

Source of the full model's choice: UniAnimate-DiT's template, 50 steps and guidance 1.5.
"""

import dataclasses
import math

from exp_jax.diffusion.choices import LARGEST_GUIDANCE
from exp_jax.diffusion.guidance import Plan, nested
from exp_jax.diffusion.samplers import SAMPLERS
from exp_jax.errors import UserError

# The branches of guidance, and whether each keeps (the pose, the reference). One without pose reads
# the negative prompt.
BRANCHES = (('pose and reference', (1.0, 1.0)), ('reference', (0.0, 1.0)), ('neither', (0.0, 0.0)))


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Settings of a sampler.

  Attributes:
    sampler: a key of `SAMPLERS`.
    steps: of its grid, at least 1.
    guidance: on the pose, 0 to 20; 1 is none and costs half. Where the export has a negative
      prompt, on the text as well.
    reference_guidance: on the reference, 0 to 20; 1 is none.
    overlap: latent frames that neighbouring windows share, 0 to one less than a window has.
  """

  sampler: str = 'euler'
  steps: int = 8
  guidance: float = 1.0
  reference_guidance: float = 1.0
  overlap: int = 2


NAMES = tuple(field.name for field in dataclasses.fields(Sampling))


def sampling_of(config, window: int, *, streamed: bool = True, **given) -> Sampling:
  """The choice of an export, with the values of `given` that are not None in its place.

  Args:
    config: of the export; its sections `sample` (may be missing) and `condition` are read.
    window: latent frames of a window.
    streamed: for `sample.stream`, which hands over velocities step by step; False: for
      `sample.generate`.
    given: fields of `Sampling`.

  Raises:
    UserError: a field or sampler that does not exist, a value out of range, or one that this model
      or `stream` cannot honour.
  """
  named = dict(config.get('sample', None) or {'overlap': min(Sampling.overlap, window - 1)})
  if unknown := sorted(set(named) - set(NAMES)):
    raise UserError(
      f'config.sample.{unknown[0]} is no option of sampling; choose from {", ".join(NAMES)}'
    )
  chosen = Sampling(**(named | {name: value for name, value in given.items() if value is not None}))
  if chosen.sampler not in SAMPLERS:
    raise UserError(f'the sampler must be one of {", ".join(SAMPLERS)}; got {chosen.sampler!r}')
  if streamed and chosen.sampler == 'heun':
    raise UserError(
      "windows are handed over step by step, which sampler='heun' has two of: use euler, unipc or "
      'unipc_wan'
    )
  if chosen.steps < 1:
    raise UserError(f'steps must be at least 1, got {chosen.steps}')
  if not 0 <= chosen.overlap < max(window, 1):
    raise UserError(
      f'overlap={chosen.overlap} does not fit windows of {window} latent frames: choose 0 to '
      f'{window - 1}'
    )
  for name, dropped, what in (
    ('guidance', 'drop_pose', 'pose'),
    ('reference_guidance', 'drop_reference', 'reference'),
  ):
    value = getattr(chosen, name)
    if not (math.isfinite(value) and 0 <= value <= LARGEST_GUIDANCE):
      raise UserError(f'{name} must be in 0..{LARGEST_GUIDANCE:g}, got {value}')
    if value != 1 and not config.condition.get(dropped, 0.0):
      raise UserError(
        f'{name}={value:g} compares with the {what} left out, which this model never saw in '
        'training '
        f'(condition.{dropped} is 0): choose 1'
      )
  return chosen


def guidance_plan(chosen: Sampling) -> Plan:
  """The plan over BRANCHES: guidance on the pose alone compares with the pose dropped and the
  reference kept; guidance on the reference too compares that with both dropped.
  """
  names = tuple(name for name, _ in BRANCHES)
  if chosen.reference_guidance == 1:
    return nested(names[:2], (chosen.guidance,))
  return nested(names, (chosen.guidance, chosen.reference_guidance))
