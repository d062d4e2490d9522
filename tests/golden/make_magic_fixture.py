"""Makes tests/golden/magic_tiny.npz: a small MagicPortrait written anew in torch 2.13.0, CPU,
float64, from its published names.

  PYTHONPATH=. ORACLE/bin/python tests/golden/make_magic_fixture.py         (an environment with torch and numpy alone)

Nothing of exp_jax is imported: layers are functions of a state dictionary that has the names of the
six published files. Weights follow from those names, inputs from seeds (`magic_inputs.py`), so that
outputs alone are stored:

  guidance          [3, 4, 8, 320]    sum of the three encoders, of their published size, on maps of 32 x 64
  bank_<k>          [1, L, C]         what the self-attentions of AppearanceNet see of clean latents at t = 0
  reading, alone    [1, 3, 4, 8, 4]   the denoiser with guidance and motion modules, with the bank and without
  adding            [1, 3, 4, 8, 4]   the paper's form: hidden tokens are added before each block
  film              [13, 8, 8, 4]     13 frames: a loop of windows of 12 that share 1, guidance 3.5, 4 steps of DDIM
  names             JSON {file: {name: shape}}
"""

import json
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

from tests.golden.magic_inputs import (
  FRAMES,
  GUIDANCE,
  HEADS,
  ROWS,
  STEPS,
  TEXT,
  TOTAL,
  WIDTHS,
  WINDOW,
  inputs,
  maps,
  text,
)
from tests.golden.named_weights import named_weight

OUT = pathlib.Path(__file__).parent / 'magic_tiny.npz'
BLOCKS = 2


class Weights:
  """A state dictionary that is made as it is asked for: names and shapes are recorded."""

  def __init__(self, salt):
    self.salt, self.tensors = salt, {}

  def __call__(self, name, *shape):
    if name not in self.tensors:
      value = named_weight(f'{self.salt}:{name}', shape) * (0.5 if len(shape) > 1 else 1)
      self.tensors[name] = torch.from_numpy(np.asarray(value, np.float32)).double()
    assert tuple(self.tensors[name].shape) == shape, name
    return self.tensors[name]


def conv(p, name, x, out, stride=1, size=3):
  weight, bias = p(f'{name}.weight', out, x.shape[1], size, size), p(f'{name}.bias', out)
  return F.conv2d(x, weight, bias, stride=stride, padding=size // 2)


def linear(p, name, x, out, bias=True):
  return F.linear(
    x, p(f'{name}.weight', out, x.shape[-1]), p(f'{name}.bias', out) if bias else None
  )


def group_norm(p, name, x, eps):
  c = x.shape[1]
  return F.group_norm(x, 32, p(f'{name}.weight', c), p(f'{name}.bias', c), eps)


def layer_norm(p, name, x):
  c = x.shape[-1]
  return F.layer_norm(x, (c,), p(f'{name}.weight', c), p(f'{name}.bias', c), 1e-5)


def attention(p, name, x, context=None):
  """x [N, L, C], context [N, M, D]."""
  c, context = x.shape[-1], x if context is None else context
  split = lambda y: y.reshape(y.shape[0], y.shape[1], HEADS, -1).transpose(1, 2)
  q, k, v = (
    split(linear(p, f'{name}.to_{n}', y, c, bias=False))
    for n, y in (('q', x), ('k', context), ('v', context))
  )
  scores = (q @ k.transpose(-1, -2)) / math.sqrt(c / HEADS)
  return linear(p, f'{name}.to_out.0', (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape), c)


def feed_forward(p, name, x):
  c = x.shape[-1]
  value, gate = linear(p, f'{name}.net.0.proj', x, 8 * c).chunk(2, -1)
  return linear(p, f'{name}.net.2', value * F.gelu(gate), c)


def spatial(p, name, x, e=None, reader=None):
  """Spatial transformer; `reader(hidden, normed) -> (hidden, keys)` is told of the tokens."""
  n, c, h, w = x.shape
  y = (
    conv(p, f'{name}.proj_in', group_norm(p, f'{name}.norm', x, 1e-6), c, size=1)
    .reshape(n, c, h * w)
    .transpose(1, 2)
  )
  block = f'{name}.transformer_blocks.0'
  y, keys = (y, None) if reader is None else reader(y, lambda z: layer_norm(p, f'{block}.norm1', z))
  y = y + attention(p, f'{block}.attn1', layer_norm(p, f'{block}.norm1', y), keys)
  if e is not None:
    y = y + attention(p, f'{block}.attn2', layer_norm(p, f'{block}.norm2', y), e.expand(n, -1, -1))
  y = y + feed_forward(p, f'{block}.ff', layer_norm(p, f'{block}.norm3', y))
  return x + conv(p, f'{name}.proj_out', y.transpose(1, 2).reshape(n, c, h, w), c, size=1)


def temporal(p, name, x):
  """Motion module on frames [T, C, h, w] of one clip."""
  if p is None:
    return x
  t, c, h, w = x.shape
  name = f'{name}.temporal_transformer'
  y = group_norm(p, f'{name}.norm', x, 1e-6).permute(2, 3, 0, 1).reshape(h * w, t, c)
  y = linear(p, f'{name}.proj_in', y, c)
  place, rate = (
    torch.arange(t).double()[:, None],
    torch.exp(-math.log(10_000.0) * torch.arange(0, c, 2).double() / c),
  )
  code = torch.zeros(t, c).double()
  code[:, 0::2], code[:, 1::2] = torch.sin(place * rate), torch.cos(place * rate)
  block = f'{name}.transformer_blocks.0'
  for j in (0, 1):
    y = y + attention(
      p, f'{block}.attention_blocks.{j}', layer_norm(p, f'{block}.norms.{j}', y) + code
    )
  y = y + feed_forward(p, f'{block}.ff', layer_norm(p, f'{block}.ff_norm', y))
  y = linear(p, f'{name}.proj_out', y, c)
  return x + y.reshape(h, w, t, c).permute(2, 3, 0, 1)


def resnet(p, name, x, time, out):
  y = conv(p, f'{name}.conv1', F.silu(group_norm(p, f'{name}.norm1', x, 1e-5)), out)
  y = y + linear(p, f'{name}.time_emb_proj', F.silu(time), out)[:, :, None, None]
  y = conv(p, f'{name}.conv2', F.silu(group_norm(p, f'{name}.norm2', y, 1e-5)), out)
  return (conv(p, f'{name}.conv_shortcut', x, out, size=1) if x.shape[1] != out else x) + y


def unet(p, x, t, e, *, motion=None, added=None, reader=None, head=True):
  """x [T, 4, h, w] frames of one clip; e [1, M, D]; added [T, W_0, h, w]."""
  half = WIDTHS[0] // 2
  angles = t * torch.exp(-math.log(10_000.0) * torch.arange(half).double() / half)
  time = torch.cat([torch.cos(angles), torch.sin(angles)])[None]
  time = linear(
    p,
    'time_embedding.linear_2',
    F.silu(linear(p, 'time_embedding.linear_1', time, 4 * WIDTHS[0])),
    4 * WIDTHS[0],
  )
  last = len(WIDTHS) - 1
  x = conv(p, 'conv_in', x, WIDTHS[0])
  x = x if added is None else x + added
  skips = [x]
  for i, width in enumerate(WIDTHS):
    for j in range(BLOCKS):
      x = resnet(p, f'down_blocks.{i}.resnets.{j}', x, time, width)
      x = spatial(p, f'down_blocks.{i}.attentions.{j}', x, e, reader) if i < last else x
      x = temporal(motion, f'down_blocks.{i}.motion_modules.{j}', x)
      skips.append(x)
    if i < last:
      x = conv(p, f'down_blocks.{i}.downsamplers.0.conv', x, width, stride=2)
      skips.append(x)
  x = resnet(p, 'mid_block.resnets.0', x, time, WIDTHS[-1])
  x = temporal(
    motion, 'mid_block.motion_modules.0', spatial(p, 'mid_block.attentions.0', x, e, reader)
  )
  x = resnet(p, 'mid_block.resnets.1', x, time, WIDTHS[-1])
  for i, width in enumerate(reversed(WIDTHS)):
    for j in range(BLOCKS + 1):
      x = resnet(p, f'up_blocks.{i}.resnets.{j}', torch.cat([x, skips.pop()], 1), time, width)
      x = spatial(p, f'up_blocks.{i}.attentions.{j}', x, e, reader) if i > 0 else x
      x = temporal(motion, f'up_blocks.{i}.motion_modules.{j}', x)
    if i < last:
      x = conv(
        p,
        f'up_blocks.{i}.upsamplers.0.conv',
        x.repeat_interleave(2, 2).repeat_interleave(2, 3),
        width,
      )
  return conv(p, 'conv_out', F.silu(group_norm(p, 'conv_norm_out', x, 1e-5)), 4) if head else x


def encoder(p, x):
  """[T, 3, H, W] in 0..1 -> [T, 320, H / 8, W / 8]."""
  x = F.silu(conv(p, 'conv_in', x, 16))
  for i, (out, stride) in enumerate(((16, 1), (32, 2), (32, 1), (96, 2), (96, 1), (256, 2))):
    x = F.silu(conv(p, f'blocks.{i}', x, out, stride))
  return conv(p, 'conv_out', spatial(p, 'attentions.5', x), 320)


class Filling:
  """A reader that keeps the tokens of a reference: normed ones to be joined, hidden ones to be
  added."""

  def __init__(self):
    self.normed, self.hidden = [], []

  def __call__(self, y, norm):
    self.normed.append(norm(y))
    self.hidden.append(y)
    return y, None


def joining(bank):
  tokens = iter(bank)

  def read(y, norm):
    own = norm(y)
    return y, torch.cat([own, next(tokens).expand(len(own), -1, -1)], 1)

  return read


def adding(bank):
  tokens = iter(bank)
  return lambda y, norm: (y + next(tokens), None)


def film(predict, noise, guidance):
  """Windows on a closed loop, guidance, DDIM from the last time on, by the book."""
  betas = np.linspace(0.00085, 0.012, 1000)
  root = np.sqrt(np.cumprod(1 - betas))
  bars = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
  x = noise.clone()
  for k in range(STEPS):
    t = round(1000 - 1000 / STEPS * k) - 1
    before = t - 1000 // STEPS
    bar, following = bars[t], bars[before] if before >= 0 else 1.0
    sums, counts = [torch.zeros_like(x) for _ in range(2)], np.zeros(TOTAL)
    for first in range(0, TOTAL, WINDOW - 1):
      window = [(first + n) % TOTAL for n in range(WINDOW)]
      counts[window] += 1
      for total, kept in zip(sums, (False, True)):
        total[window] += predict(x[window], t, guidance[window], kept)
    without, told = (total / torch.from_numpy(counts)[:, None, None, None] for total in sums)
    v = without + GUIDANCE * (told - without)
    x0, eps = (
      math.sqrt(bar) * x - math.sqrt(1 - bar) * v,
      math.sqrt(bar) * v + math.sqrt(1 - bar) * x,
    )
    x = math.sqrt(following) * x0 + math.sqrt(1 - following) * eps
  return x


first = lambda x: torch.from_numpy(np.asarray(x)).double().movedim(-1, 1)
last = lambda x: x.detach().movedim(1, -1).numpy().astype(np.float32)


def guidance_of(encoders, drawn):
  shown = {name: np.repeat(x[..., None], 3, -1) if x.ndim == 3 else x for name, x in drawn.items()}
  return sum(encoder(encoders[name], first(x / 255.0)) for name, x in shown.items())


def main():
  torch.manual_seed(0)
  p, q, motion = Weights('denoising_unet'), Weights('reference_unet'), Weights('motion_module')
  named = (('depth', 'depth'), ('normals', 'normal'), ('render', 'render'))
  encoders = {name: Weights(f'guidance_encoder_{file}') for name, file in named}
  e = torch.from_numpy(text()).double()[None]
  reference, x = first(inputs(1, 1, 4, 8, 4)), first(inputs(2, FRAMES, 4, 8, 4))
  guidance, filled = guidance_of(encoders, maps(3, FRAMES, ROWS)), Filling()
  unet(q, reference, 0.0, e, reader=filled, head=False)
  found = {'guidance': last(guidance)} | {
    f'bank_{k}': tokens.numpy().astype(np.float32) for k, tokens in enumerate(filled.normed)
  }
  run = lambda x, t, added, reader=None: unet(
    p, x, float(t), e, motion=motion, added=added, reader=reader
  )
  found['reading'] = last(run(x, 801, guidance, joining(filled.normed)))[None]
  found['alone'] = last(run(x, 801, guidance))[None]
  found['adding'] = last(run(x, 801, guidance, adding(filled.hidden)))[None]
  square = Filling()
  unet(q, first(inputs(6, 1, 8, 8, 4)), 0.0, e, reader=square, head=False)
  predict = lambda x, t, added, kept: run(x, t, added, joining(square.normed) if kept else None)
  found['film'] = last(
    film(predict, first(inputs(5, TOTAL, 8, 8, 4)), guidance_of(encoders, maps(4, TOTAL)))
  )
  files = {'denoising_unet': p, 'reference_unet': q, 'motion_module': motion} | {
    w.salt: w for w in encoders.values()
  }
  found['names'] = np.array(
    json.dumps(
      {file: {n: list(t.shape) for n, t in w.tensors.items()} for file, w in files.items()}
    )
  )
  np.savez_compressed(OUT, **found)
  print(
    {k: (v.shape, round(float(np.abs(v).max()), 3)) for k, v in found.items() if k != 'names'},
    OUT.stat().st_size,
    TEXT,
  )


if __name__ == '__main__':
  with torch.no_grad():
    main()
