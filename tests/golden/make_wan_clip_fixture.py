"""Makes tests/golden/wan_clip.npz: a tiny random CLIP visual tower run by transformers 5.23.0,
under its own names.

/tmp/oracle/bin/python tests/golden/make_wan_clip_fixture.py       (environment: see make_wan_fixture.py)
"""

import pathlib

import numpy as np
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

OUT = pathlib.Path(__file__).parent / 'wan_clip.npz'


def main():
  torch.manual_seed(0)
  config = CLIPVisionConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=12,
    patch_size=4,
    hidden_act='gelu',
    projection_dim=8,
  )
  model = CLIPVisionModel(config).eval()
  with torch.no_grad():
    for name, p in model.named_parameters():
      p.copy_(
        torch.randn_like(p) * 0.3 + (1.0 if 'norm' in name and name.endswith('weight') else 0.0)
      )
    images = torch.randn(2, 3, 12, 12)
    hidden = model(images, output_hidden_states=True).hidden_states[-2]
  names = {
    k if k.startswith('vision_model.') else f'vision_model.{k}': v
    for k, v in model.state_dict().items()
  }
  arrays = {f'params/{k}': v.numpy() for k, v in names.items() if 'position_ids' not in k}
  photo = torch.rand(1, 3, 30, 47)
  resized = torch.nn.functional.interpolate(photo, (20, 20), mode='bicubic', align_corners=False)
  arrays |= {'photo': photo.movedim(1, -1).numpy(), 'resized': resized.movedim(1, -1).numpy()}
  np.savez_compressed(OUT, images=images.movedim(1, -1).numpy(), hidden=hidden.numpy(), **arrays)
  print(OUT, OUT.stat().st_size, hidden.abs().max())


if __name__ == '__main__':
  main()
