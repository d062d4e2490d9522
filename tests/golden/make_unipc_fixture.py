"""Makes tests/golden/unipc.npz: trajectories of diffusers 0.42.1's UniPC on a small nonlinear velocity.

  /tmp/oracle/bin/python tests/golden/make_unipc_fixture.py         (environment: see make_wan_fixture.py)
"""

import pathlib

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler

OUT = pathlib.Path(__file__).parent / 'unipc.npz'
SHIFT = 5.0


def main():
  torch.manual_seed(0)
  noise, weight = torch.randn(2, 7), torch.randn(7, 7) * 0.4
  arrays = dict(noise=noise.numpy(), weight=weight.numpy(), shift=SHIFT, steps=np.array([2, 3, 12, 50]))
  for steps in arrays['steps']:
    scheduler = UniPCMultistepScheduler(prediction_type='flow_prediction', use_flow_sigmas=True,
                                        flow_shift=SHIFT)
    scheduler.set_timesteps(int(steps))
    x = noise.clone()
    for t in scheduler.timesteps:
      velocity = torch.tanh(x @ weight) + float(t) / 1000 * x
      x = scheduler.step(velocity, t, x, return_dict=False)[0]
    arrays[f'out_{steps}'] = x.numpy()
  np.savez_compressed(OUT, **arrays)
  print(OUT, OUT.stat().st_size)


if __name__ == '__main__':
  main()
