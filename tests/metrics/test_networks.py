"""The folders that the converter writes, through the door that `evaluate` opens them by."""

import functools
import json
import pathlib

import numpy as np
import pytest

from exp_jax.convert.metrics import convert
from exp_jax.errors import UserError
from exp_jax.files.safetensors import write_safetensors
from exp_jax.metrics.evaluation import job, probes
from exp_jax.metrics.networks import SOURCES, load_network
from tests.golden.named_weights import images, named_weights, shapes_of

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / 'golden' / 'metric_networks.npz')
KEYS = {
  'lpips_alex': ('alexnet', 'lpips_alex'),
  'inception': ('inception',),
  'i3d': ('i3d',),
  'arcface': ('arcface',),
  'smirk': ('smirk',),
  'l2cs': ('l2cs',),
  'deep3d': ('deep3d',),
}


def write(folder, name):
  """Converted weights of random numbers by name; the small depths where there are any."""
  weights = named_weights(
    {
      n: s
      for key in KEYS[name]
      for n, s in shapes_of(GOLDEN, f'{key}.shapes').items()
      if not n.startswith('classifier')
    }
  )
  folder.mkdir(exist_ok=True)
  write_safetensors(
    folder / f'{name}.safetensors',
    {n: v for n, v in weights.items() if v.ndim or v.dtype.kind == 'f'},
  )
  convert(SOURCES[name][0], [folder / f'{name}.safetensors'], folder / name)


@pytest.mark.long
def test_a_folder_is_loaded_runs_in_batches_and_names_its_source(tmp_path):
  write(tmp_path, 'smirk')
  network = load_network('smirk', tmp_path)
  faces = np.rint(255 * images(0, 3, 64, 64, 3)).astype(np.uint8)
  found = network.run(faces)
  assert found['expression'].shape == (3, 50) and network.digest.startswith('smirk.safetensors:')
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
  close(network.run(faces[1:2])['expression'], found['expression'][1:2])
  close(network.run(faces / 255.0)['pose'], found['pose'])
  assert load_network('arcface', tmp_path) is None and load_network('arcface', None) is None
  (tmp_path / 'arcface').symlink_to(tmp_path / 'smirk')
  with pytest.raises(UserError, match="holds 'smirk'"):
    load_network('arcface', tmp_path)
  (tmp_path / 'smirk' / 'config.json').write_text('{}')
  with pytest.raises(UserError, match='config.json is damaged'):
    load_network('smirk', tmp_path)


@pytest.mark.slow
def test_all_networks_under_all_metrics(tmp_path):
  """Every probe with its real network (random weights) on one clip: self and cross."""
  from exp_jax.media.images import write_image
  from exp_jax.media.video import write_video

  for name in KEYS:
    write(tmp_path / 'weights', name)
  clip = images(3, 16, 64, 64, 3)
  write_video(tmp_path / 'truth.mp4', clip, 25, crf=2)
  write_video(
    tmp_path / 'result.mp4', np.clip(clip + 0.02 * images(4, 16, 64, 64, 3), 0, 1), 25, crf=2
  )
  write_image(tmp_path / 'portrait.png', clip[3])
  face = np.random.default_rng(0).uniform(16, 48, (478, 2))
  tools = job.Tools(look=lambda name: lambda frames: np.repeat(face[None], len(frames), 0))
  run = functools.partial(
    job.evaluate,
    tmp_path / 'result.mp4',
    tmp_path / 'truth.mp4',
    tools=tools,
    weights=tmp_path / 'weights',
    framing='same',  # no record of `animate` lies beside the result
  )
  run(None, tmp_path / 'self', protocol='all-self')
  found = json.loads((tmp_path / 'self' / 'scores.json').read_text())
  for name in ('lpips', 'csim', 'aed', 'apd', 'e_rmse', 'p_rmse', 'gaze', 'fid'):
    assert found['metrics'][name]['count'] == 16 and 0 <= found['metrics'][name]['value'] < 1e5, (
      name
    )
  assert 'too few' in found['metrics']['fvd']['variant'] and found['metrics']['csim']['value'] > 0.9
  assert set(found['weights']) == set(KEYS)
  run(tmp_path / 'portrait.png', tmp_path / 'cross', protocol='all-cross')
  found = json.loads((tmp_path / 'cross' / 'scores.json').read_text())
  assert found['metrics']['csim']['count'] == 16 and -1 <= found['metrics']['csim']['value'] <= 1


def test_lpips_of_the_probe_is_that_of_the_network(tmp_path):
  write(tmp_path, 'lpips_alex')
  network = load_network('lpips_alex', tmp_path)
  a, b = (np.rint(255 * images(seed, 2, 64, 72, 3)).astype(np.uint8) for seed in (1, 2))
  found, _ = probes.perceptual(probes.Window('self', a, b), name='lpips', network=network)
  # rounded to bytes
  assert found['lpips'].value == pytest.approx(GOLDEN['lpips_alex'].mean(), rel=2e-3)
  assert found['lpips'].variant == 'LPIPS 0.1, AlexNet'
