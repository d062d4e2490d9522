"""Loki's noise schedule and what its networks predict.

Stable Diffusion's betas -> zero terminal SNR -> betas of at most 0.99 -> SNR times 1 / sqrt(15):
alpha_bar falls from 0.9967 to 5e-10. Noise is predicted, which says nothing at the last time, and
the sampler's times 981, 961 ... 1 never visit it.

Source: Loki's published code (as CAP4D's); Lin et al., 2024, algorithm 1; Hoogeboom et al., Simple
diffusion, 2023, eq. 4. The 15 is a clip of 16 frames less a reference.
"""

import numpy as np

from exp_jax.diffusion import ddpm
from exp_jax.errors import UserError


def loki_bars(schedule) -> np.ndarray:
  """[1000] alpha_bar of a config's `diffusion` section.

  Its keys: `zero_snr`, `most_beta` (0: not clipped), `shift` (factor of the SNR).

  Raises:
    UserError: a shift that is not positive.
  """
  bars = ddpm.alpha_bars()
  if schedule.zero_snr:
    bars = ddpm.zero_terminal_snr(bars)
  if schedule.most_beta:
    bars = ddpm.clip_betas(bars, schedule.most_beta)
  if not schedule.shift > 0:
    raise UserError(f'config.diffusion.shift must be above 0, got {schedule.shift}')
  return ddpm.shift_snr(bars, schedule.shift)


def loki_times(steps: int, prediction: str) -> np.ndarray:
  """[n] the sampler's times: 981 ... 1 in 50 steps where noise is predicted, else from the last
  time on.

  Raises:
    UserError: more steps than there are times.
  """
  if not 1 <= steps <= 500:
    raise UserError(f'the sampler takes 1 to 500 steps, got {steps}')
  if prediction == 'eps':
    return ddpm.sampling_times(steps, spacing='leading', offset=1)
  return ddpm.sampling_times(steps)
