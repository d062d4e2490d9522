"""The networks behind metrics, loaded from a folder of converted weights, and what to do where a
file is missing.

`<folder>/<name>/` is what `python -m exp_jax.convert.metrics` writes, into `metrics_weights`, and
`exp-jax setup --metrics` for the networks of `FETCHED`, into the project's home. Every function
takes and gives plain arrays: uint8 pictures in batches of any length, float32 out; computed at full
float32 precision on every device.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.resources import metric_weights, setup_command
from exp_jax.networks.metric import (
  arcface,
  dlib_face,
  i3d,
  inception,
  perceptual,
  resnet,
  smirk_encoder,
)
from exp_jax.networks.weights import load_weights

BATCH = 16
# name -> (network, the files that it is converted from, and where they are published)
SOURCES = {
  'lpips_alex': (
    'lpips',
    "torchvision's alexnet-owt-7be5be79.pth (download.pytorch.org/models) and "
    'weights/v0.1/alex.pth of the '
    'lpips package',
  ),
  'lpips_vgg': (
    'lpips',
    "torchvision's vgg16-397923af.pth and weights/v0.1/vgg.pth of the lpips package",
  ),
  'identity_dlib': (
    'dlib',
    'dlib_face_recognition_resnet_model_v1.dat of the face_recognition_models package',
  ),
  'inception': (
    'inception',
    'pt_inception-2015-12-05-6726825d.pth (releases of github.com/mseitzer/pytorch-fid)',
  ),
  'i3d': (
    'i3d',
    'i3d_pretrained_400.pt (linked by github.com/JunyaoHu/common_metrics_on_video_quality)',
  ),
  'arcface': (
    'arcface',
    'backbone.pth of an arcface_torch iresnet (model zoo of github.com/deepinsight/insightface; '
    'research only)',
  ),
  'smirk': ('smirk', 'SMIRK_em1.pt (github.com/georgeretsi/smirk; research only)'),
  'l2cs': ('l2cs', 'L2CSNet_gaze360.pkl (github.com/Ahmednull/L2CS-Net; research only)'),
  'deep3d': (
    'deep3d',
    'epoch_20.pth of face_recon_feat0.2_augment (github.com/sicxu/Deep3DFaceRecon_pytorch; '
    'research only)',
  ),
}
# set-up makes these, of weights that everybody may use
FETCHED = 'lpips_alex', 'lpips_vgg', 'identity_dlib'


def _folders(folder) -> tuple[pathlib.Path, ...]:
  """One folder, several, or None."""
  return (
    tuple(map(pathlib.Path, folder))
    if isinstance(folder, (tuple, list))
    else (pathlib.Path(folder),)
    if folder
    else ()
  )


def how_to_get(name: str, folder) -> str:
  """A sentence for the row of a metric whose weights are missing; `folder` as of `load_network`."""
  if name in FETCHED:
    return f'needs the network {name}, which {setup_command("--metrics")} fetches'
  kind, files = SOURCES[name]
  place = (*_folders(folder), 'metrics_weights')[0]
  return f'needs {place}/{name}: get {files}, then python -m exp_jax.convert.metrics {kind} FILE... -o {place}/{name}'


@dataclasses.dataclass(frozen=True)
class Network:
  """run: uint8 or float pictures [N, ...] (one or two arrays) -> arrays [N, ...]; digest: of the
  source files; sizes: variant."""

  name: str
  run: Callable
  digest: str
  sizes: dict


def _batched(function: Callable, params, batch: int) -> Callable:
  """Runs a function of (params, *arrays [B, ...]) over arrays of any length, padded to `batch`: one
  program a shape."""
  compiled = jax.jit(function)

  def run(*arrays):
    arrays = [np.asarray(a) for a in arrays]
    count, parts = len(arrays[0]), []
    for start in range(0, count, batch):
      pieces = [a[start : start + batch] for a in arrays]
      pieces = [np.concatenate([p, np.repeat(p[-1:], batch - len(p), 0)]) for p in pieces]
      pieces = [jnp.asarray(p, jnp.float32) / (255 if p.dtype == np.uint8 else 1) for p in pieces]
      with jax.default_matmul_precision('highest'):
        found = compiled(params, *pieces)
      parts.append(
        jax.tree.map(lambda leaf, n=min(batch, count - start): np.asarray(leaf)[:n], found)
      )
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

  return run


def _function(kind: str, sizes: dict) -> tuple[Callable, int]:
  """(params, *arrays) -> arrays of a network, and pictures at once."""
  if kind == 'lpips':
    return functools.partial(perceptual.lpips_distance, **sizes), 4
  if kind == 'inception':
    return inception.inception_features, BATCH
  if kind == 'i3d':
    return i3d.i3d_logits, 1
  if kind == 'arcface':
    return functools.partial(arcface.embed, **sizes), BATCH
  if kind == 'smirk':
    return functools.partial(smirk_encoder.smirk_parameters, **sizes), BATCH
  if kind == 'dlib':
    return functools.partial(dlib_face.describe, **sizes), BATCH
  return functools.partial(
    {'l2cs': resnet.l2cs_gaze, 'deep3d': resnet.deep3d_coefficients}[kind], **sizes
  ), 4


def load_network(name: str, folder) -> Network | None:
  """A network of `SOURCES`, or None if it is not there.

  Args:
    folder: that has a folder of that name, or several of which the first that does counts, or None.

  Raises:
    UserError: it is there and damaged, or of another network.
  """
  path = next((place / name for place in _folders(folder) if (place / name).is_dir()), None)
  if path is None:
    return None
  kind = SOURCES[name][0]
  try:
    weights = load_weights(path, kind)
  except UserError as error:
    if path.parent == metric_weights():
      raise UserError(f'{error}; {setup_command("--metrics")} makes it again') from None
    raise
  function, batch = _function(kind, {k: v for k, v in weights.sizes.items() if k == 'variant'})
  params = jax.tree.map(jnp.asarray, weights.tree())
  digest = ' '.join(
    f'{file}:{value[:12]}' for file, value in sorted(weights.config['source'].items())
  )
  return Network(name, _batched(function, params, batch), digest, weights.sizes)
