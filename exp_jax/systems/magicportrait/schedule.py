"""MagicPortrait's noise schedule: betas of Stable Diffusion -> zero terminal SNR; velocity is
predicted; the last time comes first.

The published sampler takes betas that are linear; the trainer that it derives from takes betas that
are linear in their roots ('scaled_linear'), which is another schedule at the same times. Here
training and sampling read the same section of the config.

Source: MagicPortrait's published code; Lin et al., Common diffusion noise schedules are flawed,
2024, algorithm 1.
"""

import numpy as np

from exp_jax.diffusion import ddpm
from exp_jax.errors import UserError

BETAS = ('linear', 'scaled_linear')
MOST_STEPS = 500


def schedule_bars(schedule) -> np.ndarray:
  """[1000] alpha_bar of a config's `diffusion` section: `betas` and `zero_snr`.

  Raises:
    UserError: an unknown schedule, or noise predicted where the last time is pure noise.
  """
  if schedule.betas not in BETAS:
    raise UserError(f'config.diffusion.betas is {schedule.betas!r}, choose from {", ".join(BETAS)}')
  if schedule.prediction not in ddpm.PREDICTIONS:
    raise UserError(
      f'config.diffusion.prediction is {schedule.prediction!r}, choose from '
      f'{", ".join(ddpm.PREDICTIONS)}'
    )
  if schedule.zero_snr and schedule.prediction == 'eps':
    raise UserError(
      'config.diffusion.prediction is eps, which says nothing of the picture where all is noise: '
      'set zero_snr=False, '
      'or predict v'
    )
  bars = ddpm.alpha_bars(how=schedule.betas)
  return ddpm.zero_terminal_snr(bars) if schedule.zero_snr else bars


def schedule_times(steps: int) -> np.ndarray:
  """[n] the sampler's times, 999 first: 999, 949 ... 49 in 20 steps.

  Raises:
    UserError: more steps than are of use.
  """
  if not 1 <= steps <= MOST_STEPS:
    raise UserError(f'the sampler takes 1 to {MOST_STEPS} steps, got {steps}')
  return ddpm.sampling_times(steps)
