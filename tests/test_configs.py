"""Every config in every mode builds; smoke and demo modes make their task; nothing ordered is a
dict."""

import pathlib
import re
import runpy

import jax
import ml_collections
import numpy as np
import pytest

from exp_jax.catalog import tasks

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted((ROOT / 'configs').glob('*.py'))


def modes(path):
  """The names that `mode` is compared with, alone or in a tuple."""
  asked = re.findall(r"mode (?:==|in|not in) ('\w+'|\([^)]*\))", path.read_text())
  return list(
    dict.fromkeys(['', *(name for each in asked for name in re.findall(r"'(\w+)'", each))])
  )


ALL = [(path, mode) for path in FILES for mode in modes(path)]


@pytest.mark.parametrize('path, mode', ALL, ids=lambda x: getattr(x, 'stem', x))
def test_builds_is_locked_and_serious(path, mode):
  get_config = runpy.run_path(str(path))['get_config']
  config = get_config(mode)
  assert isinstance(config, ml_collections.ConfigDict) and config.is_locked
  with pytest.raises((KeyError, AttributeError)):
    config.no_such_key = 1
  for name in ('mesh', 'param_sharding'):
    if name in config:
      assert isinstance(config[name], tuple)
      assert all(isinstance(pair, tuple) for pair in config[name])
  with pytest.raises(ValueError, match='unknown mode'):
    get_config('no_such_mode')


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_has_a_smoke_mode_and_tells_its_command(path):
  assert 'smoke' in modes(path)
  text = path.read_text()
  assert ':smoke' in text and f'configs/{path.name}' in text


OWN = [path for path in FILES if path.stem in ('dit_a800', 'vae')]


@pytest.mark.parametrize('path', OWN, ids=lambda path: path.stem)
def test_smoke_tasks_are_consistent_by_shape(path):
  config = runpy.run_path(str(path))['get_config']('smoke')
  module = tasks.TASKS[config.task]
  task = module.task(config)
  params = jax.eval_shape(task.init_fn, jax.random.key(0))
  loss, metrics = jax.eval_shape(task.loss_fn, params, task.batch_spec, jax.random.key(0))
  assert loss.shape == () and loss.dtype == 'float32'
  assert all(m.shape == () for m in metrics.values())
  source, transform = module.examples(config)
  example = transform(source[0], np.random.default_rng(0))
  shapes = {k: s.shape[1:] for k, s in task.batch_spec.items()}
  assert {k: v.shape for k, v in example.items()} == shapes


def test_the_full_run_traces_at_its_real_size():
  config = runpy.run_path(str(ROOT / 'configs' / 'dit_a800.py'))['get_config']()
  config.model.attention = 'xla'  # the kernel of the real run needs its GPU
  task = tasks.TASKS[config.task].task(config)
  params = jax.eval_shape(task.init_fn, jax.random.key(0))
  count = sum(x.size for x in jax.tree.leaves(params))
  assert 1_418_996_800 < count < 1_421_000_000  # Wan 1.3B, conditions and encoders
  assert task.batch_spec['latents'].shape == (4, 13, 64, 64, 16)
  loss, _ = jax.eval_shape(task.loss_fn, params, task.batch_spec, jax.random.key(0))
  assert loss.shape == () and loss.dtype == 'float32'
