"""Makes tests/golden/liveportrait_tiny.npz: outputs of torch_networks.py (torch 2.13) on the
weights of random_weights.py.

  python tests/systems/liveportrait/make_fixture.py        (torch from requirements-oracles.txt)

With --base the published sizes, of which every 997th number is kept, go to
tests/golden/liveportrait_base.npz.
"""

import pathlib
import sys

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
import random_weights as rw  # noqa: E402
import torch_networks as tn  # noqa: E402

SEEDS = dict(appearance=1, motion=2, warping=3, generator=4, stitching=5, eyes=6, lip=7)


def load(part, name):
  shapes = {n: tuple(t.shape) for n, t in part.state_dict().items()}
  part.load_state_dict(
    {n: torch.from_numpy(v.copy()) for n, v in rw.state_dict(shapes, SEEDS[name]).items()}
  )
  return part


def outputs(sizes, size, batch):
  """{name: array, channels last} of the whole chain, each network fed by the one before."""
  parts = {name: load(part, name) for name, part in tn.build(sizes).items()}
  images, source, driving = rw.inputs(size, 11, batch)
  first = lambda x: torch.from_numpy(x).permute(0, 3, 1, 2)
  last = lambda x: x.movedim(1, -1).numpy()
  with torch.no_grad():
    volume = parts['appearance'](first(images))
    warped = parts['warping'](volume, torch.from_numpy(driving), torch.from_numpy(source))
    picture = parts['generator'](warped['out'])
    motion = parts['motion'](first(images))
    out = dict(
      volume=last(volume),
      warped=last(warped['out']),
      occlusion=last(warped['occlusion_map']),
      deformation=warped['deformation'].numpy(),
      picture=last(picture),
    )
    out |= {f'motion/{n}': v.numpy() for n, v in motion.items()}
    for i, name in enumerate(('stitching', 'eyes', 'lip')):
      width = parts[name].mlp[0].in_features
      out[name] = parts[name](torch.from_numpy(rw.vectors(width, 20 + i))).numpy()
  return out


def main():
  base = '--base' in sys.argv
  found = outputs(tn.BASE, 256, 1) if base else outputs(tn.TINY, 64, 2)
  if base:
    found = {n: v.reshape(-1)[::997] if v.size > 10_000 else v for n, v in found.items()}
  path = HERE.parents[1] / 'golden' / f'liveportrait_{"base" if base else "tiny"}.npz'
  np.savez_compressed(path, **found)
  print(
    path, path.stat().st_size, {n: (v.shape, float(np.abs(v).mean())) for n, v in found.items()}
  )


if __name__ == '__main__':
  main()
