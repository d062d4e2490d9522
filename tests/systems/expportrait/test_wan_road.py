"""What somebody with Wan weights does, command by command, at toy size: in, train, sample, out
again."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from exp_jax.commands.export import main as export_main
from exp_jax.convert import wan
from exp_jax.convert.wan_weights import wan_names
from exp_jax.data.sources import write_records
from exp_jax.data.synthetic import synthetic_clip
from exp_jax.files import manifest
from exp_jax.files.npz import write_npz
from exp_jax.files.safetensors import SafetensorsFile, flattened, write_safetensors
from exp_jax.networks.adapters import load_adapters
from exp_jax.networks.wan_dit import wan_dit
from exp_jax.networks.wan_vae import wan_vae
from exp_jax.networks.weights import load_weights
from exp_jax.systems.expportrait.generator import dit_task
from exp_jax.systems.expportrait.generator.loading import load_generator
from exp_jax.systems.expportrait.generator.sample import stream
from exp_jax.training.exports import load_export

ROOT = pathlib.Path(__file__).parents[3]
BASE = wan_dit('tiny', width=32, heads=2, ffn=64, depth=2, text_dim=12, freq_dim=16)
RANK = 3
RUN = (
  '--config.data.num_frames=5',
  '--config.data.stride=1',
  '--config.data.height=32',
  '--config.data.width=48',
  '--config.data_threads=2',
  '--config.model.variant=tiny',
  '--config.model.dtype=float32',
  '--config.model.residual_dtype=float32',
  '--config.model.attention=xla',
  '--config.model.remat=none',
  '--config.model.train=lora',
  f'--config.model.lora_rank={RANK}',
  f'--config.model.lora_alpha={RANK}',
  '--config.flow.text_tokens=4',
  '--config.batch_size=2',
  "--config.mesh=(('data',1),)",
  "--config.param_sharding=(('.*',None),)",
  '--config.tensorboard=False',
  '--config.log_every=1',
  '--config.save_every=2',
  '--config.eval_batches=1',
  '--config.optimizer.warmup_steps=1',
  '--config.optimizer.weight_decay=0.5',
)


def command(module, *arguments, **environment):
  done = subprocess.run(
    [sys.executable, '-m', 'exp_jax', module, *map(str, arguments)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)} | environment,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def write_folder(folder, network, model, rng):
  """Random weights in bfloat16 under the names of diffusers, with its config.json; {name:
  array}."""
  leaves, arrays = wan.abstract_params(model), {}
  for name, piece in wan.plan(network, model, 'diffusers').items():
    shape = leaves[piece.ours].shape[piece.layer is not None :]
    value = rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]) or 9)
    arrays[name] = wan_names.from_ours(value, piece.layout).astype(ml_dtypes.bfloat16)
  folder.mkdir()
  write_safetensors(folder / 'diffusion_pytorch_model.safetensors', arrays)
  (folder / 'config.json').write_text(
    json.dumps({'num_attention_heads': getattr(model, 'heads', 0)})
  )
  return arrays


def write_tower(folder, tower, form):
  """Random weights of a CLIP tower, converted already."""
  tree = jax.eval_shape(
    lambda: tower.init(jax.random.key(0), np.zeros((1, tower.image, tower.image, 3)))
  )['params']
  rng = np.random.default_rng(0)
  folder.mkdir(parents=True)
  values = {
    name: np.asarray(0.2 * rng.normal(size=leaf.shape), np.float32)
    for name, leaf in flattened(tree).items()
  }
  write_safetensors(folder / 'params.safetensors', values)
  sizes = {k: getattr(tower, k) for k in ('width', 'heads', 'ffn', 'layers', 'patch', 'image')}
  (folder / 'config.json').write_text(json.dumps(dict(format=form, network='clip', sizes=sizes)))
  manifest.write_manifest(folder)


def peft_file(path, rng):
  """Adapters of every linear layer of the blocks, as PEFT names them; {name: array}."""
  leaves, tensors = wan.abstract_params(BASE), {}
  for name, piece in wan.plan('dit', BASE, 'diffusers').items():
    if piece.layer is not None and piece.ours.endswith('kernel'):
      i, o = leaves[piece.ours].shape[1:]
      stem = f'transformer.{name.removesuffix(".weight")}'
      tensors |= {
        f'{stem}.lora_A.weight': rng.normal(size=(RANK, i)).astype(np.float32),
        f'{stem}.lora_B.weight': 0.1 * rng.normal(size=(o, RANK)).astype(np.float32),
      }
  write_safetensors(path, tensors)
  return tensors


def test_weights_in_diffusers_names_are_trained_and_go_out_under_the_same_names(tmp_path):
  """Import, two steps of all parameters on latents from records, export, load, release, export:
  small moves, no name lost."""
  rate, rng = 0.02, np.random.default_rng(0)
  given = write_folder(tmp_path / 'wan', 'dit', BASE, rng)
  wan.main(['import', str(tmp_path / 'wan'), '-o', str(tmp_path / 'w')])

  def records():  # what `encode` writes, without an autoencoder
    for i in range(4):
      codes, clip = (
        rng.normal(size=(2, 2, 4, 6, 16)).astype(np.float16),
        synthetic_clip(i, num_frames=5, height=32, width=48),
      )
      yield {k: clip[k] for k in ('clip_id', 'subject_id', 'normals', 'turns', 'offsets')} | dict(
        window=np.array([0, 1, 1, 0], np.int32),
        latents=codes[0],
        valid=np.full((2, 4, 6), 255, np.uint8),
        references=clip['reference'][None],
        references_normals=clip['reference_normals'][None],
        references_latents=codes[1][None],
        references_turns=clip['turns'][:1],
      )

  write_records(tmp_path / 'clips' / 'clips.array_record', records())
  whole = tuple(flag for flag in RUN if 'lora' not in flag and 'decay' not in flag)
  # two steps only: compiled in half the time
  command(
    'train',
    f'--config={ROOT / "configs" / "dit_a800.py"}',
    f'--workdir={tmp_path / "run"}',
    *whole,
    f'--config.data.path={tmp_path / "clips"}',
    f'--config.model.weights={tmp_path / "w"}',
    '--config.model.train=all',
    '--config.flow.prompt=zeros',
    '--config.total_steps=2',
    '--config.eval_every=9',
    '--config.optimizer.weight_decay=0.0',
    f'--config.optimizer.learning_rate={rate}',
    '--config.optimizer.ema_decay=0.0',
    JAX_DISABLE_MOST_OPTIMIZATIONS='1',
  )
  export_main(['--workdir', str(tmp_path / 'run'), '-o', str(tmp_path / 'e')])
  params = load_generator(tmp_path / 'e').params
  assert params['backbone']['patch']['kernel'].shape == (36 * 4, 32) and {
    'pose',
    'reference',
  } <= set(params)
  wan.main(['release', str(tmp_path / 'e'), '-o', str(tmp_path / 'released')])
  wan.main(['export', str(tmp_path / 'released'), '-o', str(tmp_path / 'out')])
  with SafetensorsFile(tmp_path / 'out' / 'diffusion_pytorch_model.safetensors') as file:
    assert sorted(file.names) == sorted(given)
    moved = {}
    for name, value in given.items():
      found, value = file.read(name).astype(np.float32), value.astype(np.float32)
      found = found[:, :16] if name == 'patch_embedding.weight' else found
      # a step of Adam moves a number by at most its rate; 8 bits of mantissa are stored
      moved[name] = np.abs(found - value)
      assert (moved[name] <= 2.02 * rate + 2**-8 * (np.abs(value) + 2 * rate)).all(), name
  still = {name for name, change in moved.items() if np.median(change) < 0.25 * rate}
  # the text is all zeros, so nothing tells the kernels that read it what to do
  assert not {
    name
    for name in still
    if name.endswith('.weight') and not any(part in name for part in ('text', 'attn2', 'norm'))
  }


@pytest.fixture(scope='module')
def road(tmp_path_factory):
  """(folder, tensors of the base, tensors of the adapters): both converted, and records with Wan's
  latents."""
  at, rng = tmp_path_factory.mktemp('road'), np.random.default_rng(0)
  given = write_folder(at / 'wan', 'dit', BASE, rng)
  write_folder(at / 'vae', 'vae', wan_vae('tiny'), rng)
  adapters = peft_file(at / 'peft.safetensors', rng)
  command('convert.wan', 'import', at / 'wan', '-o', at / 'w')
  command('convert.wan', 'import', at / 'vae', '-o', at / 'v')
  command(
    'convert.lora',
    'import',
    at / 'peft.safetensors',
    '-o',
    at / 'start.safetensors',
    '--base',
    at / 'w',
  )
  write_records(
    at / 'clips' / 'clips.array_record',
    (synthetic_clip(i, num_frames=6, height=32, width=48) for i in range(4)),
  )
  words = {
    name: rng.normal(size=(4, 12)).astype(np.float32) for name in ('positive', 'negative', 'empty')
  }
  write_npz(at / 'words.npz', words)
  command(
    'encode',
    '-i',
    at / 'clips',
    '-o',
    at / 'latents',
    '--vae',
    at / 'v',
    '--codec',
    'wan',
    '--frames',
    5,
    '--largest_stride',
    1,
    '--references',
    2,
    '--prompt',
    at / 'words.npz',
  )
  return at, given, adapters


def trained(at, name, *more):
  """The export of a short run on that base."""
  paths = (
    f'--config.data.path={at / "latents"}',
    f'--config.model.weights={at / "w"}',
    f'--config.vae.path={at / "v"}',
  )
  command(
    'train',
    f'--config={ROOT / "configs" / "dit_a800.py"}',
    f'--workdir={at / name}',
    *RUN,
    *paths,
    *more,
  )
  command('export', '--workdir', at / name, '-o', at / f'{name}_export')
  return at / f'{name}_export'


@pytest.mark.slow
def test_a_run_of_no_rate_is_the_unmodified_backbone(road):
  """Fresh adapters, zero-init encoders, 20 more input channels: after steps at learning rate 0 the
  network is the given one."""
  at, given, _ = road
  model = load_generator(
    trained(at, 'still', '--config.total_steps=2', '--config.optimizer.learning_rate=0.0')
  )
  rng = np.random.default_rng(5)
  clip = synthetic_clip(3, num_frames=5, height=32, width=48)
  unit = lambda name: jnp.asarray(clip[name][None], jnp.float32) / 255
  z, sigma, text = (
    rng.normal(size=(1, 2, 4, 6, 16)).astype(np.float32),
    jnp.array([0.7]),
    jnp.ones((1, 4, 12)),
  )
  velocity = dit_task.velocity_fn(model.model, 'velocity', dit_task.lora_scale(model.config))
  found = jax.jit(velocity)(
    model.params,
    z,
    sigma,
    text=text,
    reference=unit('reference'),
    normals=unit('normals'),
    reference_normals=unit('reference_normals'),
    reference_latents=model.codec.reference_code(unit('reference')[0], 2),
  )
  weights = jax.tree.map(lambda x: np.asarray(x, np.float32), load_weights(at / 'w', 'dit').tree())
  alone = jax.jit(BASE.apply)({'params': weights}, z, 1000 * sigma, text)
  np.testing.assert_allclose(found, alone, atol=2e-5 * np.abs(alone).max())
  assert np.abs(alone).max() > 0.3


@pytest.mark.slow
def test_adapters_are_trained_sampled_and_released(road):
  at, given, adapters = road
  export = trained(
    at,
    'run',
    '--config.total_steps=4',
    '--config.optimizer.learning_rate=0.01',
    f'--config.model.adapters={at / "start.safetensors"}',
  )
  _, params = load_export(export)

  model, clip = load_generator(export), synthetic_clip(9, num_frames=12, height=32, width=48)
  unit = lambda name: clip[name].astype(np.float32) / 255
  frames = np.concatenate(
    list(
      stream(
        model,
        unit('reference'),
        unit('reference_normals'),
        unit('normals'),
        jax.random.key(0),
        steps=2,
        sampler='unipc',
        overlap=1,
      )
    )
  )
  assert frames.shape == (12, 32, 48, 3) and np.isfinite(frames).all() and frames.std() > 0.01

  command('convert.wan', 'release', export, '-o', at / 'released')
  command('convert.wan', 'export', at / 'released', '-o', at / 'out')
  with SafetensorsFile(at / 'out' / 'diffusion_pytorch_model.safetensors') as file:
    assert sorted(file.names) == sorted(given)
    for name, value in given.items():
      found = file.read(name).astype(np.float32)
      if name == 'patch_embedding.weight':
        assert not found[:, 16:].any() and found.shape == (32, 36, 1, 2, 2)
        found = found[:, :16]
      # nothing of the base has moved
      np.testing.assert_array_equal(found, value.astype(np.float32), err_msg=name)

  command('convert.lora', 'release', export, '-o', at / 'own.safetensors')
  command(
    'convert.lora',
    'export',
    at / 'own.safetensors',
    '-o',
    at / 'others.safetensors',
    '--base',
    at / 'w',
  )
  command(
    'convert.lora',
    'import',
    at / 'others.safetensors',
    '-o',
    at / 'again.safetensors',
    '--base',
    at / 'w',
  )
  again = load_adapters(at / 'again.safetensors')
  assert all(alpha == RANK for alphas in again.alphas.values() for alpha in alphas)
  expected = flattened(params['lora']['backbone'])
  assert {f'{t}.{k}' for t in again.factors for k in 'ab'} == set(expected)
  for target, pair in again.factors.items():
    for k in 'ab':
      np.testing.assert_array_equal(pair[k], expected[f'{target}.{k}'])
  encoders = flattened({k: params[k] for k in ('pose', 'reference')})
  assert set(again.encoders) == set(encoders)
  for leaf, value in encoders.items():
    np.testing.assert_array_equal(again.encoders[leaf], value)
  start = adapters['transformer.blocks.1.attn1.to_q.lora_B.weight']
  moved = np.abs(again.factors['blocks.self.q']['b'][1].T - start).max()
  # trained from the given ones, not from fresh ones
  assert 1e-3 < moved < 0.2 and np.abs(start).max() > 0.1
