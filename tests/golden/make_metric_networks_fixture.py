"""Writes tests/golden/metric_networks.npz and state_dict*.pth: what independent torch networks
answer.

Their weights follow from their names (`named_weights`), so that only answers are stored.

  python tests/golden/make_metric_networks_fixture.py --published DIR

Needs torch, torchvision, timm, lpips and pytorch-fid; DIR holds the published definitions
iresnet.py (insightface, arcface_torch), pytorch_i3d.py (piergiaj), l2cs_model.py (L2CS-Net),
smirk_encoder.py (SMIRK) and deep3d_networks.py (Deep3DFaceRecon_pytorch, models/networks.py). Made
with torch 2.13, torchvision 0.28, timm 1.0.31, lpips 0.1.4, pytorch-fid 0.3.0. Make it again only
when a network is added.
"""

import argparse
import importlib.util
import json
import pathlib
import sys
import types

import numpy as np
import torch

_LIBRARY = torch.library.Library('torchvision', 'FRAGMENT')
for _name in ('nms', 'qnms'):  # a torchvision for CUDA beside a torch for CPU misses these
  if not hasattr(torch.ops.torchvision, _name):
    _LIBRARY.define(f'{_name}(Tensor dets, Tensor scores, float t) -> Tensor')

import lpips  # noqa: E402
import timm  # noqa: E402
import torchvision  # noqa: E402
from pytorch_fid import inception as fid  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from tests.golden.named_weights import images, named_weights  # noqa: E402

FOUND = {}


def module_of(folder, name):
  """A published definition, with stand-ins for what it imports and we do not run."""
  for missing in (
    'kornia',
    'kornia.geometry',
    'published',
    'published.arcface_torch',
    'published.arcface_torch.backbones',
  ):
    stub = sys.modules.setdefault(missing, types.ModuleType(missing))
    stub.warp_affine = stub.get_model = None
    stub.__path__ = []
  spec = importlib.util.spec_from_file_location(f'published.{name}', folder / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def filled(key, model):
  """Gives a model weights by name; notes names and shapes below `key`."""
  shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
  FOUND[f'{key}.shapes'] = json.dumps(shapes)
  model.load_state_dict(
    {name: torch.from_numpy(np.asarray(value)) for name, value in named_weights(shapes).items()}
  )
  return model.eval()


def planar(array):
  """[..., H, W, 3] -> a tensor with channels second."""
  array = torch.from_numpy(array)
  return array.movedim(-1, 1)


def keep(key, value):
  FOUND[key] = np.asarray(value.detach() if hasattr(value, 'detach') else value, np.float32)


def perceptual():
  for variant, name in (('alex', 'alexnet'), ('vgg', 'vgg16')):
    trunk = filled(name, getattr(torchvision.models, name)(weights=None))
    metric = lpips.LPIPS(net=variant, pnet_rand=True, pretrained=False, verbose=False).eval()
    ours = [m for m in metric.net.modules() if isinstance(m, torch.nn.Conv2d)]
    for target, source in zip(
      ours, (m for m in trunk.features if isinstance(m, torch.nn.Conv2d)), strict=True
    ):
      target.load_state_dict(source.state_dict())
    heads = {
      f'lin{i}.model.1.weight': tuple(getattr(metric, f'lin{i}').model[1].weight.shape)
      for i in range(5)
    }
    FOUND[f'lpips_{variant}.shapes'] = json.dumps(heads)
    for name_, value in named_weights(heads).items():
      getattr(metric, name_.split('.')[0]).model[1].weight.data = torch.from_numpy(value)
    a, b = images(1, 2, 64, 72, 3), images(2, 2, 64, 72, 3)
    keep(f'lpips_{variant}', metric(planar(a), planar(b), normalize=True).reshape(-1))
  trunk = filled('vgg19', torchvision.models.vgg19(weights=None))
  x = (
    planar(images(1, 1, 64, 72, 3)) - torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
  ) / torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
  for i, layer in enumerate(trunk.features):
    layer.inplace = False
    x = layer(x)
    if i in (1, 6, 11, 20, 29):
      keep(f'vgg19.{i}', x[0, ::16, ::3, ::3])


def inception():
  fid.load_state_dict_from_url = lambda *_, **__: filled('inception', make()).state_dict()

  def make():
    model = torchvision.models.inception_v3(
      num_classes=1008, aux_logits=False, weights=None, init_weights=False
    )
    return model

  plain, resized = fid.InceptionV3(resize_input=False), fid.InceptionV3()
  keep('inception', plain.eval()(planar(images(3, 2, 139, 155, 3)))[0][:, :, 0, 0])
  keep('inception.resized', resized.eval()(planar(images(4, 1, 120, 96, 3)))[0][:, :, 0, 0])
  small = torch.nn.functional.interpolate(
    planar(images(4, 1, 512, 384, 3)), (299, 299), mode='bilinear'
  )
  keep('resize.299', small[0, 1, ::13, ::13])


def i3d(folder):
  model = filled('i3d', module_of(folder, 'pytorch_i3d').InceptionI3d(400))
  x = 2 * planar(images(5, 1, 10, 36, 44, 3).reshape(1, 10, 36, 44, 3)) - 1  # [1, 3, 10, 36, 44]
  for name in model.VALID_ENDPOINTS:
    x = model._modules[name](x) if name in model.end_points else x
  keep('i3d', model.logits(x.mean((2, 3, 4), keepdim=True)).reshape(1, -1))
  clip = images(6, 1, 16, 224, 224, 3)
  keep('i3d.full', model(2 * planar(clip) - 1).mean(2))
  frames = planar(images(7, 2, 250, 333, 3))
  small = torch.nn.functional.interpolate(
    frames, (224, int(np.ceil(333 * 224 / 250))), mode='bilinear'
  )
  left = (small.shape[-1] - 224) // 2
  keep('i3d.prepared', (2 * small[..., left : left + 224] - 1)[0, :, ::17, ::17])


def faces(folder):
  iresnet = module_of(folder, 'iresnet')
  for key, layers in (
    ('arcface', [1, 1, 2, 1]),
    ('arcface50', [3, 4, 14, 3]),
    ('arcface100', [3, 13, 30, 3]),
  ):
    model = filled(key, iresnet.IResNet(iresnet.IBasicBlock, layers))
    keep(key, model(2 * planar(images(8, 2, 112, 112, 3)) - 1))
  smirk = module_of(folder, 'smirk_encoder')
  create = timm.create_model
  smirk.timm.create_model = lambda *args, **kwargs: create(
    *args, **(kwargs | {'pretrained': False})
  )
  model = filled('smirk', smirk.SmirkEncoder())
  for name, value in model(planar(images(9, 2, 64, 80, 3))).items():
    keep(f'smirk.{name}', value)
  bottleneck = torchvision.models.resnet.Bottleneck
  l2cs = module_of(folder, 'l2cs_model').L2CS
  mean, std = (
    torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1),
    torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1),
  )
  for key, layers in (('l2cs', [1, 1, 1, 1]), ('l2cs50', [3, 4, 6, 3])):
    yaw, pitch = filled(key, l2cs(bottleneck, layers, 90))(
      (planar(images(10, 2, 64, 80, 3)) - mean) / std
    )
    keep(f'{key}.yaw', yaw), keep(f'{key}.pitch', pitch)
    bins = torch.arange(90, dtype=torch.float32)
    keep(
      f'{key}.gaze',
      torch.deg2rad(
        torch.stack([(torch.softmax(v, 1) * bins).sum(1) * 4 - 180 for v in (yaw, pitch)], 1)
      ),
    )
  deep = module_of(folder, 'deep3d_networks')
  for key, layers in (('deep3d', [1, 1, 1, 1]), ('deep3d50', [3, 4, 6, 3])):
    deep.func_dict['ours'] = (
      lambda layers=layers, **kwargs: deep.ResNet(deep.Bottleneck, layers, **kwargs),
      2048,
    )
    keep(key, filled(key, deep.ReconNetWrapper('ours'))(planar(images(11, 2, 64, 80, 3))))


def state_dicts():
  """As torch writes them: with the notes (_metadata) that every state_dict carries, in both
  formats, and with an optimizer."""
  model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
  weights = named_weights({name: value.shape for name, value in model.state_dict().items()})
  model.load_state_dict(
    {name: torch.from_numpy(np.asarray(value)) for name, value in weights.items()}
  )
  here = pathlib.Path(__file__)
  torch.save(model.state_dict(), here.with_name('state_dict.pth'))
  torch.save(
    model.state_dict(), here.with_name('state_dict_old.pth'), _use_new_zipfile_serialization=False
  )
  optimizer = torch.optim.Adam(model.parameters())
  model(torch.ones(1, 2, 4, 4)).sum().backward()
  optimizer.step()
  torch.save(
    {'net': model.state_dict(), 'opt_00': optimizer.state_dict()},
    here.with_name('state_dict_nested.pth'),
  )


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--published', type=pathlib.Path, required=True)
  folder = parser.parse_args().published
  state_dicts()
  with torch.no_grad():
    perceptual(), inception(), i3d(folder), faces(folder)
  np.savez_compressed(pathlib.Path(__file__).with_name('metric_networks.npz'), **FOUND)
  print({name: value.shape for name, value in FOUND.items() if not isinstance(value, str)})


if __name__ == '__main__':
  main()
