"""Makes tests/golden/sd_tiny.npz: small Stable Diffusion networks run by diffusers 0.42.1 on torch
2.13.0, CPU, float32.

  /tmp/oracle/bin/pip install transformers jax flax      (into the environment of make_wan_fixture.py)
  PYTHONPATH=. /tmp/oracle/bin/python tests/golden/make_sd_fixture.py

Weights follow from the names of diffusers, inputs from seeds (`sd_inputs.py`), so that outputs
alone are stored:

  unet15, unet21    [2, 16, 24, 4]      two images at two times
  bank              16 x [1, L, C]      what the self-attentions of unet15 see of a clean image at t = 0
  reading           [2, 3, 16, 24, 4]   unet15 on clips, each self-attention reading the bank by concatenation
  across            [2, 3, 16, 24, 4]   unet21 without text, self-attention over all frames below the finest level, reading its bank
  motion_clip       [1, 5, 16, 24, 4]   UNetMotionModel as it is, frames normalized together
  motion_frame      the same, with the norm of every motion module per frame
  vae_*             moments of [3, 48, 64, 3] images, and [3, 48, 64, 3] decoded from the unscaled means
  names             JSON {network: {name of diffusers: [shape, name of the first release]}}
"""

import json
import pathlib

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNetMotionModel
from diffusers.loaders.single_file_utils import (
  convert_ldm_unet_checkpoint,
  convert_ldm_vae_checkpoint,
)

from exp_jax.convert.sd import sd_names
from exp_jax.networks.sd_unet import sd_unet
from exp_jax.networks.sd_vae import SdVAE
from tests.golden.sd_inputs import TEXT, TIMES, WIDTHS, inputs, weights_of

OUT = pathlib.Path(__file__).parent / 'sd_tiny.npz'


def fill(model):
  shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
  model.load_state_dict(
    {n: torch.from_numpy(np.asarray(v)) for n, v in weights_of(shapes).items()}, strict=False
  )
  return model.eval(), shapes


def unet(heads, linear, text=TEXT):
  model = UNet2DConditionModel(
    block_out_channels=WIDTHS,
    attention_head_dim=heads,
    cross_attention_dim=TEXT,
    use_linear_projection=linear,
    sample_size=16,
  )
  for block in self_attentions(model) if not text else ():
    block.attn2 = block.norm2 = None
  return fill(model)


first = lambda x: torch.from_numpy(x).movedim(-1, 1)
last = lambda x: x.detach().movedim(1, -1).numpy()


def call(model, x, t, text):
  """Channels last in and out: [N, h, w, C], [N], [N, M, D] or None."""
  text = None if text is None else torch.from_numpy(text)
  with torch.no_grad():
    return last(model(first(x), torch.as_tensor(t), encoder_hidden_states=text).sample)


def self_attentions(model):
  """Blocks of transformers in the order in which they are run."""
  parts = [*model.down_blocks, model.mid_block, *model.up_blocks]
  return [t.transformer_blocks[0] for part in parts for t in getattr(part, 'attentions', [])]


def bank_of(model, x, text):
  found, hooks = [], []
  for block in self_attentions(model):
    hooks.append(
      block.norm1.register_forward_hook(
        lambda module, given, out: found.append(out.detach().clone())
      )
    )
  call(model, x, np.zeros(len(x), np.int64), text)
  for hook in hooks:
    hook.remove()
  return found


class Reading:
  """An attention processor that joins the reference's tokens; `across` frames or in each of
  them."""

  def __init__(self, bank, frames, across):
    self.bank, self.frames, self.across = bank, frames, across

  def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
    rows, count, width = hidden_states.shape
    tokens, bank = hidden_states, self.bank
    if self.across:
      tokens = tokens.reshape(rows // self.frames, self.frames * count, width)
    else:
      bank = bank.repeat_interleave(self.frames, dim=0)
    seen = torch.cat([tokens, bank], dim=1)
    split = lambda x: x.reshape(*x.shape[:2], attn.heads, -1).transpose(1, 2)
    q, k, v = split(attn.to_q(tokens)), split(attn.to_k(seen)), split(attn.to_v(seen))
    weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
    out = attn.to_out[0]((weights @ v).transpose(1, 2).reshape(tokens.shape))
    return out.reshape(rows, count, width)


def read_bank(model, bank, frames, across):
  for block, tokens in zip(self_attentions(model), bank, strict=True):
    below = tokens.shape[-1] != WIDTHS[0]
    block.attn1.set_processor(Reading(tokens, frames, across and below))


def names_of(shapes, network):
  """{diffusers: [shape, first release]}, by diffusers' own conversion of marked tensors."""
  if network == 'vae':
    pieces, prefix = sd_names.vae_pieces(SdVAE(32, (1, 2, 2, 3), 1)), 'first_stage_model.'
  else:
    pieces, prefix = (
      sd_names.unet_pieces(sd_unet('tiny15' if network == 'unet15' else 'tiny21'), 'point'),
      'model.diffusion_model.',
    )
  ones = {'point': (1, 1, 1, 1), 'conv': (1, 1, 3, 3), 'linear': (1, 1), 'copy': (1,)}
  marked = {
    prefix + piece.names[1]: torch.full(ones[piece.layouts[1]], float(i))
    for i, piece in enumerate(pieces)
  }
  if network == 'vae':
    found = convert_ldm_vae_checkpoint(
      marked, dict(down_block_types=[0] * 4, up_block_types=[0] * 4)
    )
  else:
    found = convert_ldm_unet_checkpoint(
      marked, dict(layers_per_block=2, class_embed_type=None, addition_embed_type=None)
    )
  assert set(found) == set(shapes), sorted(set(found) ^ set(shapes))[:4]
  order = {name: int(value.flatten()[0]) for name, value in found.items()}
  return {name: [shape, pieces[order[name]].names[1]] for name, shape in shapes.items()}


def with_frame_norms(model):
  """Group norm of motion modules frame by frame, as published weights were trained: [B, C, T, h, w]
  comes in."""
  for name, module in model.named_modules():
    if name.endswith(tuple(f'motion_modules.{j}' for j in range(3))):
      plain = module.norm.forward
      module.norm.forward = lambda x, plain=plain: torch.stack(
        [plain(frame) for frame in x.unbind(2)], dim=2
      )


def main():
  text, clips = inputs(1, 2, 7, TEXT), inputs(2, 2, 3, 16, 24, 4)
  images, reference = inputs(3, 2, 16, 24, 4), inputs(4, 2, 16, 24, 4)
  arrays, names = {}, {}
  for name, heads, linear in (('unet15', 4, False), ('unet21', [2, 4, 6, 6], True)):
    model, shapes = unet(heads, linear)
    arrays[name], names[name] = call(model, images, TIMES, text), names_of(shapes, name)
    if name == 'unet15':
      bank = bank_of(model, reference, text)
      arrays |= {f'bank{i:02}': tokens[:1].numpy() for i, tokens in enumerate(bank)}
      flat, many = clips.reshape(6, 16, 24, 4), np.repeat(text, 3, axis=0)
      plain = call(model, flat, np.repeat(TIMES, 3), many)
      read_bank(model, bank, 3, False)
      arrays['reading'] = call(model, flat, np.repeat(TIMES, 3), many).reshape(clips.shape)
      print('effect of the bank', np.abs(arrays['reading'] - plain.reshape(clips.shape)).max())
  model, shapes = unet([2, 4, 6, 6], True, text=0)
  names['unet_without_text'] = {name: [shape, ''] for name, shape in shapes.items()}
  bank = bank_of(model, reference, None)
  read_bank(model, bank, 3, True)
  arrays['across'] = call(model, clips.reshape(6, 16, 24, 4), np.repeat(TIMES, 3), None).reshape(
    clips.shape
  )

  model, shapes = fill(
    UNetMotionModel(
      block_out_channels=WIDTHS,
      cross_attention_dim=TEXT,
      num_attention_heads=4,
      motion_num_attention_heads=8,
      norm_num_groups=32,
      use_motion_mid_block=True,
    )
  )
  names['motion'] = {
    name: [shape, ''] for name, shape in shapes.items() if 'motion_modules' in name
  }
  video = inputs(5, 1, 5, 16, 24, 4)
  run = lambda: (
    model(
      torch.from_numpy(video).permute(0, 4, 1, 2, 3),
      torch.tensor([400]),
      encoder_hidden_states=torch.from_numpy(text[:1]).repeat_interleave(5, 0),
    ).sample
  )
  with torch.no_grad():
    arrays['motion_clip'] = run().permute(0, 2, 3, 4, 1).numpy()
    with_frame_norms(model)
    arrays['motion_frame'] = run().permute(0, 2, 3, 4, 1).numpy()
  print('the two norms differ by', np.abs(arrays['motion_frame'] - arrays['motion_clip']).max())

  vae, shapes = fill(
    AutoencoderKL(
      block_out_channels=(32, 64, 64, 96),
      layers_per_block=1,
      down_block_types=('DownEncoderBlock2D',) * 4,
      up_block_types=('UpDecoderBlock2D',) * 4,
      latent_channels=4,
      norm_num_groups=32,
    )
  )
  names['vae'] = names_of(shapes, 'vae')
  with torch.no_grad():
    found = vae.encode(first(np.tanh(inputs(6, 3, 48, 64, 3)))).latent_dist
    arrays |= dict(
      vae_mean=last(found.mean),
      vae_log_variance=last(found.logvar),
      vae_decoded=last(vae.decode(found.mean).sample),
    )
  arrays['names'] = np.array(json.dumps(names))
  np.savez_compressed(OUT, **arrays)
  for name, value in arrays.items():
    print(name, value.shape, np.abs(value).max() if value.dtype.kind == 'f' else '')
  print(OUT, OUT.stat().st_size)


if __name__ == '__main__':
  main()
