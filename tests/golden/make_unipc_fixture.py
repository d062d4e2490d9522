"""Makes tests/golden/unipc.npz: trajectories of diffusers 0.42.1's UniPC and DDIM on a small
nonlinear network.

  /tmp/oracle/bin/python tests/golden/make_unipc_fixture.py         (environment: see make_wan_fixture.py)

UniPC on both published grids: diffusers' own, and that of the original Wan code (1 to 0.001 and
0.999 to 0). In float64 where the scheduler lets it, so that the bound of the test is not eaten by
its rounding.
"""

import pathlib

import numpy as np
import torch
from diffusers import DDIMScheduler, UniPCMultistepScheduler

OUT = pathlib.Path(__file__).parent / 'unipc.npz'
SHIFT, STEPS = 5.0, (2, 3, 4, 12, 25, 50)


def velocity(x, t, weight):
  return torch.tanh(x @ weight) + float(t) / 1000 * x


def unipc(noise, weight, steps, grid):
  scheduler = UniPCMultistepScheduler(
    prediction_type='flow_prediction', use_flow_sigmas=True, flow_shift=SHIFT
  )
  if grid == 'wan':
    u = np.linspace(0.999, 0.0, steps + 1)[:-1]
    scheduler.set_timesteps(
      sigmas=SHIFT * u / (1 + (SHIFT - 1) * u) if not shifts(scheduler) else u
    )
  else:
    scheduler.set_timesteps(steps)
  x = noise.clone()
  for t in scheduler.timesteps:
    x = scheduler.step(velocity(x, t, weight), t, x, return_dict=False)[0]
  return x.numpy(), scheduler.sigmas.numpy(), scheduler.timesteps.numpy()


def shifts(scheduler):
  """Whether set_timesteps shifts given sigmas itself."""
  scheduler.set_timesteps(sigmas=np.array([0.5, 0.25]))
  return abs(float(scheduler.sigmas[0]) - 0.5) > 1e-3


def ddim(noise, weight, prediction, **options):
  scheduler = DDIMScheduler(
    beta_schedule='scaled_linear',
    beta_start=0.00085,
    beta_end=0.012,
    clip_sample=False,
    prediction_type=prediction,
    **options,
  )
  # divides 1000: DDIMScheduler steps by 1000 // n, not to the next of its times
  scheduler.set_timesteps(10)
  x = noise.clone()
  for t in scheduler.timesteps:
    x = scheduler.step(velocity(x, t, weight), t, x, return_dict=False)[0]
  return x.numpy()


def main():
  torch.manual_seed(0)
  noise, weight = (
    torch.randn(2, 7, dtype=torch.float64),
    torch.randn(7, 7, dtype=torch.float64) * 0.4,
  )
  arrays = dict(noise=noise.numpy(), weight=weight.numpy(), shift=SHIFT, steps=np.array(STEPS))
  for grid in ('diffusers', 'wan'):
    for steps in STEPS:
      x, sigmas, times = unipc(noise, weight, steps, grid)
      arrays |= {
        f'{grid}_{steps}': x,
        f'{grid}_{steps}_sigmas': sigmas,
        f'{grid}_{steps}_times': times,
      }
  arrays['ddim_v_zero_snr'] = ddim(
    noise, weight, 'v_prediction', rescale_betas_zero_snr=True, timestep_spacing='trailing'
  )
  arrays['ddim_eps'] = ddim(
    noise, weight, 'epsilon', timestep_spacing='leading', steps_offset=1, set_alpha_to_one=False
  )
  np.savez_compressed(OUT, **arrays)
  print(OUT, OUT.stat().st_size, {k: v.dtype for k, v in arrays.items() if k.endswith('_50')})


if __name__ == '__main__':
  main()
