"""Figures about runs: FLOPs against the compiler and the paper's arithmetic, goodput, logs, plans,
the doctor."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from exp_jax.commands import doctor
from exp_jax.errors import UserError
from exp_jax.layers.attention import ahead_of_time
from exp_jax.networks.wan_dit import VARIANTS, wan_dit
from exp_jax.training import plan
from exp_jax.training.flops import count_flops
from exp_jax.training.goodput import goodput
from exp_jax.training.metrics_log import MetricsLog, duration, peak_of
from exp_jax.training.settings import settings_of
from exp_jax.training.sharding import make_mesh
from tests.training import runs

tiny_config, tiny_task = runs.tiny('tiny_config'), runs.tiny('tiny_task')
ONE = (('data', 1), ('fsdp', 1))


def test_flops_of_a_scan_equal_the_compilers_of_the_loop_written_out():
  def unrolled(w, x):
    for layer in w:
      x = x @ layer
    return jax.lax.conv_general_dilated(
      x[None, :, :, None],
      jnp.ones((3, 3, 1, 4)),
      (1, 1),
      'VALID',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )

  def scanned(w, x):
    x = jax.lax.scan(jax.checkpoint(lambda x, layer: (x @ layer, None)), x, w)[0]
    return unrolled(w[:0], x)

  w, x = jnp.ones((6, 40, 40)), jnp.ones((24, 40))
  expected = 6 * 2 * 24 * 40 * 40 + 2 * 22 * 38 * 9 * 4
  compiled = jax.jit(unrolled).lower(w, x).compile().cost_analysis()['flops']
  assert count_flops(unrolled, w, x) == count_flops(scanned, w, x) == expected
  assert abs(compiled / expected - 1) < 0.01  # the compiler counts additions apart
  gradients = jax.grad(
    lambda w: (jax.lax.scan(lambda x, layer: (x @ layer, None), x, w)[0] ** 2).sum()
  )
  assert count_flops(gradients, w) == 6 * 2 * 24 * 40 * 40 * 3


def test_flops_of_wan_14b_are_those_of_the_arithmetic():
  """Linear layers 2 x parameters x tokens, attention 4 S^2 D L; 512 x 512 x 81, S = 21,504, L = 40,
  D = 5,120."""
  model = wan_dit('wan_14b_t2v', remat=False)
  shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
  args = shape(1, 21, 64, 64, 16), shape(1), shape(1, 512, 4096)
  params = jax.eval_shape(model.init, jax.random.key(0), *args)
  found = count_flops(model.apply, params, *args)
  D, L, ffn, S, T = 5120, 40, VARIANTS['wan_14b_t2v']['ffn'], 21504, 512
  block = 2 * S * D * (4 * D + 2 * D + 2 * ffn) + 2 * T * D * 2 * D + 4 * S * S * D + 4 * S * T * D
  # patches, head, time and text embeddings are left out
  assert abs(found / (L * block) - 1) < 0.005
  assert 880e12 < found < 920e12


def test_peaks_and_durations():
  assert (
    peak_of('NVIDIA H200') == 989
    and peak_of('NVIDIA A800-SXM4-80GB') == 312
    and peak_of('TPU v5p') == 459
  )
  assert peak_of('cpu') == 0 and duration(59.6) == '1:00' and duration(7262) == '2:01:02'


def test_goodput_counts_what_was_done_again_as_lost():
  start = lambda time, step: dict(kind='start', time=time, step=step)
  train = lambda step, seconds=2.0: dict(
    kind='train', time=0, step=step, step_seconds=seconds, data_seconds=0.5
  )
  records = [
    start(100, 0),
    train(5),
    train(10),
    train(15),
    start(150, 10),
    train(15),
    dict(kind='eval', step=15, time=0),
    train(20),
  ]
  found = goodput(records, 200)
  assert found == dict(
    total=100, productive=20 * 1.5, data=20 * 0.5, lost=10.0, restarts=1, goodput=0.3
  )
  assert goodput([], 5)['goodput'] == 0


def test_a_log_survives_a_cut_line_and_knows_the_speed(tmp_path, capsys):
  (tmp_path / 'metrics.jsonl').write_text('{"kind": "train", "st')
  log = MetricsLog(
    tmp_path,
    100,
    flops=4e12,
    devices=2,
    peak=10.0,
    draw={'picture': lambda path, x: np.save(path, x), 'clip': lambda path, x: np.save(path, x)},
  )
  log.start(0)
  log.write(5, {'loss': np.float32(0.5), 'skipped': 0, 'step_seconds': 0.5, 'data_seconds': 0.1})
  log.write(5, {'a': np.ones((2, 3, 3)), 'b': np.ones((4, 2, 3, 3)) * 2, 'c': 1.0}, kind='eval')
  log.close()
  cut, _, line, evaluated = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  record = json.loads(line)
  assert (
    record['tflops_per_device'] == 4.0
    and record['mfu'] == 0.4
    and json.loads(evaluated)['c'] == 1.0
  )
  said = capsys.readouterr().err.splitlines()
  assert (
    said[0].startswith('step 5/100 (5%) loss 0.5')
    and 'eta 0:48' in said[0]
    and 'skipped' not in said[0]
  )
  assert np.load(tmp_path / 'samples' / '00000005_eval_b.npy').max() == 1.0


def test_events_are_written_and_a_missing_package_is_named(tmp_path, monkeypatch):
  with monkeypatch.context() as m:
    m.setitem(sys.modules, 'tensorboardX', None)
    with pytest.raises(UserError, match='tensorboardX'):
      MetricsLog(tmp_path / 'a', 1, tensorboard=True)
    m.setitem(sys.modules, 'wandb', None)
    with pytest.raises(UserError, match='wandb'):
      MetricsLog(tmp_path / 'a', 1, wandb='project')
  pytest.importorskip('tensorboardX')
  log = MetricsLog(tmp_path / 'b', 10, tensorboard=True)
  log.write(3, {'loss': 0.25, 'step_seconds': 1.0, 'data_seconds': 0.0})
  log.write(3, {'clip': np.zeros((2, 4, 4, 3))}, kind='eval')
  log.close()
  (events,) = (tmp_path / 'b' / 'tensorboard').glob('events*')
  data = events.read_bytes()
  assert b'train/loss' in data and b'eval_clip' in data and b'PNG' in data


def _tiny(**changes):
  config = tiny_config.get_config()
  with config.unlocked():
    config.update(changes)
  return config


def test_a_plan_knows_the_bytes_of_the_state():
  config = _tiny(mesh=ONE)
  memory, disk = plan.memory_of(
    settings_of(config), tiny_task.task(config), make_mesh(config.mesh, jax.devices()[:1])
  )
  count = 16 * 32 + 32 + 32 * 16
  assert memory.parts == {
    'parameters': 4 * count,
    'moments': 8 * count + 8,
    'average': 4 * count,
    'frozen': 0,
    'batch': 8 * 17 * 4,
  }
  assert disk['a checkpoint'] == 16 * count + 8 + 4 + 8 and memory.temporaries > 4 * 16 * 32
  frozen = _tiny(mesh=ONE, frozen='two', frozen_dtype='bfloat16')
  memory, disk = plan.memory_of(
    settings_of(frozen), tiny_task.task(frozen), make_mesh(config.mesh, jax.devices()[:1])
  )
  assert disk['saved once'] == memory.parts['frozen'] == 2 * 32 * 16


def test_a_dry_run_tells_what_fits_and_why_not(capsys, monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '')
  config = _tiny(mesh=(('data', -1), ('fsdp', 1)))
  load = lambda config: (tiny_task, tiny_task.task(config))
  arguments = dict(devices='', memory_gb=1.0)
  assert plan.dry_run(config, load, ahead_of_time, **arguments) == 0
  said = capsys.readouterr().out
  assert all(
    word in said
    for word in ('total_steps: 60', 'mesh', 'TFLOP a step', 'days', 'a checkpoint', 'fits')
  )
  with pytest.raises(UserError, match='does not fit: .* the state alone .* fsdp'):
    plan.dry_run(config, load, ahead_of_time, devices='', memory_gb=1e-6)
  with pytest.raises(UserError, match='more devices along context|accumulate'):
    memory = plan.Memory({'parameters': 10}, 2000, 'cpu', 0.0)
    raise UserError(plan.why_not(memory, 1000, make_mesh(config.mesh)))
  with pytest.raises(UserError, match='--devices'):
    plan.dry_run(config, load, ahead_of_time, devices='many')


@pytest.mark.long
def test_a_plan_that_does_not_fit_finds_changes_that_do():
  """Of the step first where that is too much, of the state where that is; and what it says of them
  is what they take."""
  config = _tiny(mesh=(('data', 1), ('fsdp', 1)), batch_size=4096)
  load = lambda config: (tiny_task, tiny_task.task(config))
  needed = lambda config: plan.memory_of(
    settings_of(config), tiny_task.task(config), make_mesh(config.mesh, jax.devices()[:1])
  )[0]
  better = lambda limit: plan.what_would_fit(config, load, needed(config), limit, jax.devices()[:1])
  whole, parts = needed(config), needed(_tiny(mesh=config.mesh, batch_size=4096, accumulate=4096))
  state = sum(whole.parts.values())
  assert parts.total < 0.9 * whole.total
  words, found = better(0.5 * (whole.total + parts.total))
  assert words == '--config.accumulate=4096' and found == dataclasses.replace(
    parts, seconds=found.seconds
  )
  assert better(state) is None
  of_state = plan.changes(config, AbstractMesh((4, 2), ('data', 'fsdp')), whole, state - 1)
  assert of_state == [
    ('mesh', (('data', 1), ('fsdp', 8))),
    ('optimizer.moments', 'bfloat16'),
    ('optimizer.moments', 'factored'),
    ('accumulate', 512),
  ]
  config.unlock().optimizer.kind = 'muon'
  of_muon = plan.changes(config, AbstractMesh((4, 2), ('data', 'fsdp')), whole, state - 1)
  assert of_muon == [each for each in of_state if each[1] != 'factored']


@pytest.mark.long
def test_the_doctor_speaks_of_everything(tmp_path, capsys, monkeypatch):
  smoke = f'{pathlib.Path(runs.ROOT) / "configs" / "dit_a800.py"}:smoke'
  fetched = [('ok', 'the head and the estimator, which are not what this is about')]
  monkeypatch.setattr(doctor, 'head', lambda: fetched[0])
  monkeypatch.setattr(doctor, 'estimator', lambda: fetched[0])
  status = doctor.main(['-o', str(tmp_path / 'out'), '--config', smoke])
  said = capsys.readouterr().out
  assert status == 0 and not (tmp_path / 'out').exists()
  assert 'embedded models are sound' in said and 'packages are what is asked for' in said
  assert all(
    word in said for word in ('Python', 'jax', 'CPU cores', 'MB/s', 'a step takes', 'compiler in')
  )
  with monkeypatch.context() as m:
    m.setattr(plan, 'ROOM', 1e-6)
    verdict, words = doctor.fit(smoke)
  assert (
    verdict == 'problem' and 'the state alone does not fit' in words and 'are enough here' in words
  )
  assert doctor.fit(smoke.replace(':smoke', ':one_gpu')) == (
    'problem',
    smoke.replace(':smoke', ':one_gpu')
    + (": attention 'cudnn' needs a gpu, this is a cpu: choose 'xla' or 'chunked'"),
  )


@pytest.mark.slow
@pytest.mark.skipif(
  not os.path.exists('/proc/self/clear_refs'),
  reason="the most memory that was resident is Linux's to tell",
)
@pytest.mark.parametrize('size', ['state', 'activations', 'recomputed'])
def test_a_step_takes_the_memory_that_the_plan_says(size):
  """Where the state is most of it, where activations are, and with recomputation: within a fifth of
  what the process grew by."""
  done = subprocess.run(
    [sys.executable, runs.TINY / 'measured_memory.py', size],
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(runs.ROOT), 'XLA_FLAGS': ''},
  )
  assert done.returncode == 0, done.stderr
  said, measured, state = map(int, done.stdout.split())
  print(
    f'{size}: {said / 1e6:.0f} MB said, {measured / 1e6:.0f} MB taken, state {state / 1e6:.0f} MB'
  )
  assert abs(said / measured - 1) < 0.2 and measured > 200e6


def _dry_run(mode, *arguments):
  """(status, standard output, standard error) of a dry run of configs/dit_a800.py."""
  program = [
    sys.executable,
    '-m',
    'exp_jax.train',
    f'--config={runs.ROOT / "configs/dit_a800.py"}:{mode}',
    '--dry_run',
    *arguments,
  ]
  path = os.pathsep.join(filter(None, (str(runs.ROOT), os.environ.get('PYTHONPATH', ''))))
  done = subprocess.run(
    program, cwd=runs.ROOT, env=os.environ | {'PYTHONPATH': path}, capture_output=True, text=True
  )
  return done.returncode, done.stdout, done.stderr


# Upper bounds in GB, by the CPU's compiler of jaxlib 0.10.2; lower them when a layout becomes
# better, never raise them.
LAYOUTS_14B = [
  (('--devices=32', '--memory_gb=80'), 45.0, ''),  # 42.4
  (
    ('--devices=32', '--memory_gb=80', "--config.mesh=(('data',32),('fsdp',1))"),
    None,
    'the state alone does not fit',
  ),
  (
    (
      '--devices=64',
      '--memory_gb=95',
      '--config.batch_size=64',
      "--config.mesh=(('data',1),('fsdp',64))",
    ),
    60.0,
    '',
  ),
]


@pytest.mark.slow
@pytest.mark.parametrize('arguments, bound, words', LAYOUTS_14B)
def test_layouts_of_14b_that_fit_and_that_do_not(arguments, bound, words):
  status, out, err = _dry_run('pod', *arguments)
  assert (status == 0) == (bound is not None) and words in err, err
  if bound:
    assert float(re.search(r'([\d.]+) GB on a device', out)[1]) < bound


with_libtpu = pytest.mark.skipif(
  not importlib.util.find_spec('libtpu'), reason='needs libtpu: pip install "libtpu==0.0.42.*"'
)
# GB by the TPU's own compiler, libtpu 0.0.42.1 with jax 0.10.2.
LAYOUTS_ON_TPU = [
  (('--devices=v5p:4x4x4',), 40.0, ''),  # 37.8
  (
    ('--devices=v5p:4x4x4', "--config.mesh=(('data',64),('fsdp',1))"),
    None,
    'the state alone does not fit',
  ),
]


@pytest.mark.slow
@with_libtpu
@pytest.mark.parametrize('arguments, bound, words', LAYOUTS_ON_TPU)
def test_layouts_of_14b_on_64_chips(arguments, bound, words):
  status, out, err = _dry_run('tpu', *arguments)
  assert (status == 0) == (bound is not None) and words in err, err
  if bound:
    assert float(re.search(r'([\d.]+) GB on a device', out)[1]) < bound


@pytest.mark.slow
@with_libtpu
def test_a_step_with_splash_compiles_for_a_tpu():
  """Examples over four chips, and tokens over two of them by Ulysses: the kernels are in the
  program, and it is compiled."""
  done = subprocess.run(
    [sys.executable, runs.TINY / 'tpu_step.py', 'v5p:2x2x1'],
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
    env=os.environ
    | {'PYTHONPATH': os.pathsep.join((str(runs.ROOT), os.environ.get('PYTHONPATH', '')))},
  )
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  print(*lines, sep='\n')
  # forward and the two of the backward pass, for two shapes: self-attention and the image have the
  # same; 8 and 9 in all
  kernels = [int(re.search(r'(?:input|attention) (\d+) ', line)[1]) for line in lines]
  assert len(kernels) == 2 and min(kernels) >= 6


@with_libtpu
def test_topologies_are_described_and_wrong_ones_are_a_sentence():
  import jax.experimental.topologies  # noqa: F401

  for name, count, gigabytes, words in (
    ('v5p:4x4x4', 64, 102.0, '64 chips'),
    ('v4:2x2x1', 8, 17.2, '4 chips of 2 devices'),
  ):
    found, memory, said = plan.described_devices(name, ())
    assert len(found) == count and round(memory, 1) == gigabytes and words in said
  with pytest.raises(UserError, match='v5p:3x5.* name it as in'):
    plan.described_devices('v5p:3x5', ())


def test_what_a_tpu_compiler_says_when_memory_is_out_is_read():
  said = 'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 36.46G of 15.75G hbm. Exceeded hbm capacity by 20.71G.'
  assert (
    plan.too_much(said) == int(36.46 * 2**30) and plan.too_much('INTERNAL: Mosaic failed') is None
  )
