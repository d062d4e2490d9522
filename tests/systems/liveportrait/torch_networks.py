"""LivePortrait's networks in torch, written from the layer tables of the specification alone: the
oracle of the parity tests.

Nothing of ours is imported and nothing is reformulated: batch and spectral norms run as layers,
every keypoint's volume goes through torch's own grid_sample, convolutions follow the repeated
pictures. Module names give the published tensor names. Also run by make_fixture.py, which stores
outputs for machines without torch.
"""

import torch
import torch.nn.functional as F
from torch import nn

BASE = dict(
  width=64,
  downs=2,
  channels=32,
  depth=16,
  blocks=6,
  depths=(3, 3, 9, 3),
  widths=(96, 192, 384, 768),
  features=256,
  dense_width=32,
  dense_most=1024,
  levels=5,
  compress=4,
  hidden=128,
  gen_width=512,
  middle=6,
  ups=(256, 64),
)
TINY = dict(
  width=4,
  downs=2,
  channels=4,
  depth=4,
  blocks=2,
  depths=(1, 1, 2, 1),
  widths=(8, 12, 16, 24),
  features=16,
  dense_width=4,
  dense_most=16,
  levels=2,
  compress=2,
  hidden=4,
  gen_width=16,
  middle=2,
  ups=(8, 4),
)
K = 21


class ConvBN(nn.Module):
  def __init__(self, i, o, three=False):
    super().__init__()
    self.conv = (nn.Conv3d if three else nn.Conv2d)(i, o, 3, padding=1)
    self.norm = (nn.BatchNorm3d if three else nn.BatchNorm2d)(o)

  def forward(self, x):
    return F.relu(self.norm(self.conv(x)))


class ResBlock(nn.Module):
  def __init__(self, c):
    super().__init__()
    self.conv1, self.conv2 = nn.Conv3d(c, c, 3, padding=1), nn.Conv3d(c, c, 3, padding=1)
    self.norm1, self.norm2 = nn.BatchNorm3d(c), nn.BatchNorm3d(c)

  def forward(self, x):
    return x + self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))


class Appearance(nn.Module):
  def __init__(self, s):
    super().__init__()
    self.s = s
    self.first = ConvBN(3, s['width'])
    self.down_blocks = nn.ModuleList(
      ConvBN(s['width'] * 2**i, s['width'] * 2 ** (i + 1)) for i in range(s['downs'])
    )
    self.second = nn.Conv2d(s['width'] * 2 ** s['downs'], s['channels'] * s['depth'], 1)
    self.resblocks_3d = nn.Sequential()
    for i in range(s['blocks']):
      self.resblocks_3d.add_module(f'3dr{i}', ResBlock(s['channels']))

  def forward(self, x):
    x = self.first(x)
    for block in self.down_blocks:
      x = F.avg_pool2d(block(x), 2)
    x = self.second(x)
    return self.resblocks_3d(x.view(len(x), self.s['channels'], self.s['depth'], *x.shape[2:]))


class ChannelNorm(nn.Module):
  def __init__(self, c):
    super().__init__()
    self.weight, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))

  def forward(self, x):
    mean = x.mean(1, keepdim=True)
    var = (x - mean).pow(2).mean(1, keepdim=True)
    return (
      self.weight[:, None, None] * ((x - mean) / torch.sqrt(var + 1e-6)) + self.bias[:, None, None]
    )


class GRN(nn.Module):
  def __init__(self, c):
    super().__init__()
    self.gamma, self.beta = (
      nn.Parameter(torch.zeros(1, 1, 1, c)),
      nn.Parameter(torch.zeros(1, 1, 1, c)),
    )

  def forward(self, x):
    g = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
    return self.gamma * (x * (g / (g.mean(-1, keepdim=True) + 1e-6))) + self.beta + x


class NextBlock(nn.Module):
  def __init__(self, c):
    super().__init__()
    self.dwconv = nn.Conv2d(c, c, 7, padding=3, groups=c)
    self.norm = nn.LayerNorm(c, eps=1e-6)
    self.pwconv1, self.grn, self.pwconv2 = nn.Linear(c, 4 * c), GRN(4 * c), nn.Linear(4 * c, c)

  def forward(self, x):
    y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
    return x + self.pwconv2(self.grn(F.gelu(self.pwconv1(y)))).permute(0, 3, 1, 2)


class Detector(nn.Module):
  def __init__(self, s):
    super().__init__()
    w = s['widths']
    self.downsample_layers = nn.ModuleList(
      [nn.Sequential(nn.Conv2d(3, w[0], 4, 4), ChannelNorm(w[0]))]
    )
    for a, b in zip(w, w[1:]):
      self.downsample_layers.append(nn.Sequential(ChannelNorm(a), nn.Conv2d(a, b, 2, 2)))
    self.stages = nn.ModuleList(
      nn.Sequential(*(NextBlock(c) for _ in range(d))) for c, d in zip(w, s['depths'])
    )
    self.norm = nn.LayerNorm(w[-1], eps=1e-6)
    for name, size in dict(kp=63, exp=63, scale=1, t=3, pitch=66, yaw=66, roll=66).items():
      setattr(self, f'fc_{name}', nn.Linear(w[-1], size))

  def forward(self, x):
    for down, stage in zip(self.downsample_layers, self.stages):
      x = stage(down(x))
    x = self.norm(x.mean((2, 3)))
    return {
      n: getattr(self, f'fc_{n}')(x) for n in ('kp', 'exp', 'scale', 't', 'pitch', 'yaw', 'roll')
    }


class MotionNet(nn.Module):
  def __init__(self, s):
    super().__init__()
    self.detector = Detector(s)

  def forward(self, x):
    return self.detector(x)


class Encoder(nn.Module):
  def __init__(self, widths):
    super().__init__()
    self.down_blocks = nn.ModuleList(ConvBN(a, b, True) for a, b in zip(widths, widths[1:]))

  def forward(self, x):
    out = [x]
    for block in self.down_blocks:
      out.append(F.avg_pool3d(block(out[-1]), (1, 2, 2)))
    return out


class Decoder(nn.Module):
  def __init__(self, pairs, last):
    super().__init__()
    self.up_blocks = nn.ModuleList(ConvBN(a, b, True) for a, b in pairs)
    self.conv, self.norm = nn.Conv3d(last, last, 3, padding=1), nn.BatchNorm3d(last)

  def forward(self, kept):
    x = kept.pop()
    for block in self.up_blocks:
      x = torch.cat([block(F.interpolate(x, scale_factor=(1, 2, 2))), kept.pop()], 1)
    return F.relu(self.norm(self.conv(x)))


class Hourglass(nn.Module):
  def __init__(self, s, inputs):
    super().__init__()
    base, most, n = s['dense_width'], s['dense_most'], s['levels']
    self.encoder = Encoder([inputs] + [min(most, base * 2 ** (i + 1)) for i in range(n)])
    pairs = [
      ((1 if i == n - 1 else 2) * min(most, base * 2 ** (i + 1)), min(most, base * 2**i))
      for i in reversed(range(n))
    ]
    self.decoder = Decoder(pairs, base + inputs)

  def forward(self, x):
    return self.decoder(self.encoder(x))


def grid(d, h, w):
  z, y, x = torch.meshgrid(
    *(2 * torch.arange(n, dtype=torch.float32) / (n - 1) - 1 for n in (d, h, w)), indexing='ij'
  )
  return torch.stack([x, y, z], -1)


class Dense(nn.Module):
  def __init__(self, s):
    super().__init__()
    self.s = s
    inputs = (K + 1) * (s['compress'] + 1)
    out = s['dense_width'] + inputs
    self.hourglass = Hourglass(s, inputs)
    self.mask = nn.Conv3d(out, K + 1, 7, padding=3)
    self.compress, self.norm = (
      nn.Conv3d(s['channels'], s['compress'], 1),
      nn.BatchNorm3d(s['compress']),
    )
    self.occlusion = nn.Conv2d(out * s['depth'], 1, 7, padding=3)

  def forward(self, feature, kp_d, kp_s):
    b, _, d, h, w = feature.shape
    few = F.relu(self.norm(self.compress(feature)))
    g = grid(d, h, w)
    moved = torch.stack(
      [g.expand(b, -1, -1, -1, -1)]
      + [g[None] - kp_d[:, k, None, None, None] + kp_s[:, k, None, None, None] for k in range(K)],
      1,
    )
    flat = moved.view(b * (K + 1), d, h, w, 3)
    deformed = F.grid_sample(few.repeat_interleave(K + 1, 0), flat, align_corners=False).view(
      b, K + 1, -1, d, h, w
    )
    bump = lambda kp: torch.exp(-(g[None, None] - kp[:, :, None, None, None]).pow(2).sum(-1) / 0.02)
    heat = torch.cat([torch.zeros(b, 1, d, h, w), bump(kp_d) - bump(kp_s)], 1)
    x = self.hourglass(torch.cat([heat[:, :, None], deformed], 2).view(b, -1, d, h, w))
    m = torch.softmax(self.mask(x), 1)
    deformation = (m[..., None] * moved).sum(1)
    occlusion = torch.sigmoid(self.occlusion(x.reshape(b, -1, h, w)))
    return deformation, occlusion


class PlainConvBN(nn.Module):
  def __init__(self, i, o):
    super().__init__()
    self.conv, self.norm = nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o)

  def forward(self, x):
    return F.leaky_relu(self.norm(self.conv(x)), 0.01)


class Warping(nn.Module):
  def __init__(self, s):
    super().__init__()
    self.dense_motion_network = Dense(s)
    self.third = PlainConvBN(s['channels'] * s['depth'], s['features'])
    self.fourth = nn.Conv2d(s['features'], s['features'], 1)

  def forward(self, feature, kp_driving, kp_source):
    deformation, occlusion = self.dense_motion_network(feature, kp_driving, kp_source)
    w = F.grid_sample(feature, deformation, align_corners=False)
    out = self.fourth(self.third(w.reshape(len(w), -1, *w.shape[3:]))) * occlusion
    return dict(out=out, deformation=deformation, occlusion_map=occlusion)


class SpectralConv(nn.Module):
  def __init__(self, i, o, k, bias=True):
    super().__init__()
    self.k = k
    self.weight_orig = nn.Parameter(torch.randn(o, i, k, k))
    self.bias = nn.Parameter(torch.zeros(o)) if bias else None
    self.register_buffer('weight_u', torch.randn(o))
    self.register_buffer('weight_v', torch.randn(i * k * k))

  def forward(self, x):
    sigma = torch.dot(self.weight_u, self.weight_orig.flatten(1) @ self.weight_v)
    return F.conv2d(x, self.weight_orig / sigma, self.bias, padding=self.k // 2)


class Spade(nn.Module):
  def __init__(self, c, label, hidden):
    super().__init__()
    self.mlp_shared = nn.Sequential(nn.Conv2d(label, hidden, 3, padding=1), nn.ReLU())
    self.mlp_gamma, self.mlp_beta = (
      nn.Conv2d(hidden, c, 3, padding=1),
      nn.Conv2d(hidden, c, 3, padding=1),
    )

  def forward(self, x, seg):
    a = self.mlp_shared(F.interpolate(seg, size=x.shape[2:], mode='nearest'))
    return F.instance_norm(x) * (1 + self.mlp_gamma(a)) + self.mlp_beta(a)


class SpadeBlock(nn.Module):
  def __init__(self, i, o, label, hidden):
    super().__init__()
    mid = min(i, o)
    self.conv_0, self.conv_1 = SpectralConv(i, mid, 3), SpectralConv(mid, o, 3)
    self.norm_0, self.norm_1 = Spade(i, label, hidden), Spade(mid, label, hidden)
    self.learned = i != o
    if self.learned:
      self.conv_s, self.norm_s = SpectralConv(i, o, 1, bias=False), Spade(i, label, hidden)

  def forward(self, x, seg):
    dx = self.conv_0(F.leaky_relu(self.norm_0(x, seg), 0.2))
    dx = self.conv_1(F.leaky_relu(self.norm_1(dx, seg), 0.2))
    return (self.conv_s(self.norm_s(x, seg)) if self.learned else x) + dx


class Generator(nn.Module):
  def __init__(self, s):
    super().__init__()
    self.s = s
    self.fc = nn.Conv2d(s['features'], s['gen_width'], 3, padding=1)
    width = s['gen_width']
    for i in range(s['middle']):
      self.add_module(f'G_middle_{i}', SpadeBlock(width, width, s['features'], s['hidden']))
    for i, out in enumerate(s['ups']):
      self.add_module(f'up_{i}', SpadeBlock(width, out, s['features'], s['hidden']))
      width = out
    self.conv_img = nn.Sequential(nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2))

  def forward(self, seg):
    x = self.fc(seg)
    for i in range(self.s['middle']):
      x = getattr(self, f'G_middle_{i}')(x, seg)
    for i in range(len(self.s['ups'])):
      x = getattr(self, f'up_{i}')(F.interpolate(x, scale_factor=2), seg)
    return torch.sigmoid(self.conv_img(F.leaky_relu(x, 0.2)))


class MLP(nn.Module):
  def __init__(self, *sizes):
    super().__init__()
    layers = []
    for a, b in zip(sizes, sizes[1:]):
      layers += [nn.Linear(a, b), nn.ReLU()]
    self.mlp = nn.Sequential(*layers[:-1])

  def forward(self, x):
    return self.mlp(x)


def build(s):
  """{part: module in eval mode}."""
  parts = dict(
    appearance=Appearance(s),
    motion=MotionNet(s),
    warping=Warping(s),
    generator=Generator(s),
    stitching=MLP(126, 128, 128, 64, 65),
    eyes=MLP(66, 256, 256, 128, 128, 64, 63),
    lip=MLP(65, 128, 128, 64, 63),
  )
  return {name: part.eval() for name, part in parts.items()}
