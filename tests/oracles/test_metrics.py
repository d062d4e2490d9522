"""Image metrics, Frechet distances and LPIPS beside scikit-image, torchmetrics, scipy and the lpips
package, live.

Of SSIM there are two: ours is scikit-image's, as Wang 2004 has it, the mean over the places where
the window lies inside the picture. torchmetrics takes the mean over all places, those at the border
from reflected pixels, and is some percent apart; its map is ours.
"""

import re
import sys
import types

import jax
import numpy as np
import pytest
import scipy.linalg

from exp_jax.convert.metric_weights.metrics_tables import TABLES
from exp_jax.files.safetensors import nested
from exp_jax.metrics import psnr, ssim
from exp_jax.metrics.frechet import fid
from exp_jax.networks.metric import perceptual
from tests.oracles.oracle import oracle


def pictures(*shape):
  """Smooth pictures and the same with noise, [N, H, W, 3] float64."""
  rng, (N, H, W) = np.random.default_rng(0), shape
  y, x = np.mgrid[:H, :W]
  channels = lambda n: np.stack(
    [0.5 + 0.4 * np.sin((c + 2) * x / 17 + n) * np.cos(y / (9 + c)) for c in range(3)], -1
  )
  base = np.stack([channels(n) for n in range(N)])
  return base, np.clip(base + rng.normal(size=base.shape) * 0.05, 0, 1)


@pytest.mark.parametrize('shape', ((1, 33, 61), (3, 120, 47)))
def test_pictures(shape):
  truth, image = pictures(*shape)
  skimage, torch, theirs = (
    oracle('skimage.metrics'),
    oracle('torch'),
    oracle('torchmetrics.functional.image'),
  )
  each = lambda function: np.mean([function(a, b) for a, b in zip(truth, image)])
  assert psnr(image, truth).value == pytest.approx(
    each(lambda a, b: skimage.peak_signal_noise_ratio(a, b, data_range=1)), abs=1e-9
  )
  found = ssim(image, truth).value
  assert found == pytest.approx(
    each(
      lambda a, b: skimage.structural_similarity(
        a,
        b,
        data_range=1,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
      )
    ),
    abs=1e-9,
  )
  tensors = [torch.from_numpy(x).movedim(-1, 1) for x in (image, truth)]
  assert psnr(image, truth).value == pytest.approx(
    each(
      lambda a, b: float(
        theirs.peak_signal_noise_ratio(*(torch.from_numpy(x) for x in (b, a)), data_range=1.0)
      )
    ),
    abs=1e-5,
  )
  _, places = theirs.structural_similarity_index_measure(
    *tensors, data_range=1.0, return_full_image=True
  )
  assert float(places[..., 5:-5, 5:-5].mean()) == pytest.approx(found, abs=1e-6)
  assert abs(float(places.mean()) - found) > 1e-3, 'the border is no part of it'


@pytest.mark.parametrize('count, size', ((400, 48), (30, 64)))
def test_frechet_distances(count, size):
  """scipy's root of the matrix, also where there are fewer samples than features."""
  rng = np.random.default_rng(1)
  a, b = rng.normal(size=(count, size)), rng.normal(size=(count + 7, size)) * 1.3 + 0.2
  root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
  expected = (
    ((a.mean(0) - b.mean(0)) ** 2).sum()
    + np.trace(np.cov(a, rowvar=False))
    + np.trace(np.cov(b, rowvar=False))
  )
  assert fid(a, b).value == pytest.approx(expected - 2 * np.trace(root), rel=1e-6)


def trunks(torch):
  """torchvision.models with the two trunks that lpips asks for; the layers as torchvision lists
  them, in torch alone."""

  def features(variant, numbers):
    layers, channels = [], 3
    for width, kernel, stride, padding, pool, _ in perceptual.TRUNKS[variant]:
      layers += [torch.nn.MaxPool2d(pool, 2)] if pool else []
      layers += [
        torch.nn.Conv2d(channels, width, kernel, stride, padding),
        torch.nn.ReLU(inplace=True),
      ]
      channels = width
    assert (
      tuple(i for i, layer in enumerate(layers) if isinstance(layer, torch.nn.Conv2d)) == numbers
    )
    return layers

  make = lambda variant: (
    lambda **_: types.SimpleNamespace(
      features=torch.nn.Sequential(
        *features(variant, perceptual.TORCHVISION[variant]), torch.nn.MaxPool2d(2, 2)
      )
    )
  )
  models = types.ModuleType('torchvision.models')
  models.alexnet, models.vgg16 = make('alex'), make('vgg16')
  package = types.ModuleType('torchvision')
  package.models = models
  return {'torchvision': package, 'torchvision.models': models}


@pytest.mark.parametrize('net, variant', (('alex', 'alex'), ('vgg', 'vgg16')))
def test_lpips(net, variant, monkeypatch):
  """The package's arithmetic and its heads on a random trunk; torchvision, which it imports, is not
  needed for that."""
  torch = oracle('torch')
  for name, module in trunks(torch).items():
    monkeypatch.setitem(sys.modules, name, module)
  lpips = oracle('lpips')
  torch.manual_seed(1)
  model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
  state = {name: value.numpy() for name, value in model.state_dict().items()}
  convolutions = [
    name.rsplit('.', 1)[0] for name in state if name.startswith('net.') and name.endswith('.weight')
  ]
  given = {}
  for number, name in zip(perceptual.TORCHVISION[variant], convolutions, strict=True):
    given |= {f'features.{number}.{part}': state[f'{name}.{part}'] for part in ('weight', 'bias')}
  given |= {name: value for name, value in state.items() if re.match(r'lin\d.*model', name)}
  sizes, book, _ = TABLES['lpips'](given, 'here')
  rng = np.random.default_rng(2)
  a, b = (rng.uniform(size=(2, 97, 130, 3)).astype(np.float32) for _ in 'ab')
  with torch.no_grad():
    expected = model(*(torch.from_numpy(2 * x - 1).movedim(-1, 1) for x in (a, b))).numpy().ravel()
  found = jax.jit(
    lambda a, b: perceptual.lpips_distance(nested(book.leaves.items()), a, b, **sizes)
  )(a, b)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
