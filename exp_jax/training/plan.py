"""What a run would need, from shapes alone: memory of every device, FLOPs, time and disk.

Nothing is computed.

State and batch are exact: shapes and shardings say all. What a step needs besides is asked of the
compiler, ahead of
time, for devices that are not there: of a TPU topology the very compiler and program of the run;
for GPUs the CPU's, on as many pretended devices, with the chunked form of attention. The CPU's
compiler keeps some bfloat16 values as float32, so that its figure lies above a GPU's.
"""

import dataclasses
import math
import os
import re
import time

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from exp_jax.errors import UserError
from exp_jax.training.flops import count_flops
from exp_jax.training.loop import abstract_state, jit_step
from exp_jax.training.metrics_log import duration, peak_of
from exp_jax.training.settings import moments_of, settings_of
from exp_jax.training.sharding import WITHIN_EXAMPLES, make_mesh, over_examples
from exp_jax.training.state import merge, split

GB = 1e9
# Moved out of the loop over blocks, the float32 copies that only a CPU makes of all weights would
# count at once.
_PRETEND = (
  '--xla_force_host_platform_device_count={} '
  '--xla_disable_hlo_passes=while-loop-invariant-code-motion,'
  'while-loop-expensive-invariant-code-motion'
)
ROOM = 0.92  # of a device's memory; the rest is the runtime's and lost between buffers
MEMORY = {'v4': 32, 'v5e': 16, 'v5p': 95, 'v6e': 32, 'tpu7x': 192}  # GiB of a chip
# Without them libtpu asks the cloud's metadata server where it is, for minutes; the topology that
# is asked for is not this.
_NO_TPU_HERE = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5p-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_WORKER_ID': '0',
}


def countable(config):
  """The same network in a form whose every product is seen: no recomputation, no kernels."""
  config = config.copy_and_resolve_references()
  model = config.get('model', {})
  if 'remat' in model:
    model.remat = 'none' if isinstance(model.remat, str) else False
  if 'attention' in model:
    model.attention = 'xla'
  return config


def model_flops(task) -> int:
  """FLOPs of one step over the global batch, as MFU counts them.

  Three times the loss where all is trained; where parts are frozen, what the loss and its gradients
  take. The task must be that of a `countable` config.
  """
  params = jax.eval_shape(task.init_fn, jax.random.key(0))
  rng = jax.eval_shape(lambda: jax.random.key(0))
  if task.trainable is None:
    return 3 * count_flops(task.loss_fn, params, task.batch_spec, rng)
  trained, frozen = split(params, task.trainable)
  gradients = jax.value_and_grad(lambda t, f, b, r: task.loss_fn(merge(t, f), b, r)[0])
  return count_flops(gradients, trained, frozen, task.batch_spec, rng)


def bytes_of(tree) -> tuple[int, int]:
  """(in all, on one device) bytes of ShapeDtypeStructs with shardings."""
  leaves = jax.tree.leaves(tree)
  size = lambda shape, dtype: math.prod(shape) * dtype.itemsize
  return (
    sum(size(x.shape, x.dtype) for x in leaves),
    sum(size(x.sharding.shard_shape(x.shape), x.dtype) for x in leaves),
  )


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device: parts of the state, and what the compiler adds."""

  parts: dict[str, int]  # exact
  temporaries: int  # by the compiler; gradients are among them
  compiler: str  # whose
  seconds: float  # it took

  @property
  def total(self) -> int:
    return sum(self.parts.values()) + self.temporaries


def abstract_arguments(settings, task, mesh) -> tuple:
  """(state, frozen, batch, rng, stop) of a step as ShapeDtypeStructs with shardings."""
  state, frozen = abstract_state(settings, task, mesh)
  sharded = lambda spec, sharding: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=sharding)
  batch = jax.tree.map(lambda x: sharded(x, over_examples(mesh)), task.batch_spec)
  rng = sharded(jax.eval_shape(lambda: jax.random.key(0)), NamedSharding(mesh, P()))
  stop = jax.ShapeDtypeStruct(
    (mesh.size,), np.int32, sharding=NamedSharding(mesh, P(mesh.axis_names))
  )
  return state, frozen, batch, rng, stop


def memory_of(settings, task, mesh, *, limit: float = math.inf) -> tuple[Memory, dict[str, int]]:
  """(memory of one device, bytes on disk: a checkpoint, and what is saved once).

  Where state and batch alone are more than `limit` bytes the compiler is not asked.
  """
  given = state, frozen, batch, *_ = abstract_arguments(settings, task, mesh)
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    parts = {
      'parameters': bytes_of(state.params)[1],
      'moments': bytes_of(state.opt_state)[1],
      'average': bytes_of(state.ema)[1],
      'frozen': bytes_of(frozen)[1],
      'batch': bytes_of(batch)[1],
    }
    disk = {'a checkpoint': bytes_of(state)[0], 'saved once': bytes_of(frozen)[0]}
    if sum(parts.values()) > limit:
      return Memory(parts, 0, 'none', 0.0), disk
    began = time.perf_counter()
    lowered = jit_step(settings, task, mesh, state, frozen).lower(*given)
    try:
      analysis = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
      total = too_much(str(error))
      if total is None:
        raise
      temporaries = max(total - sum(parts.values()), 0)
    else:
      temporaries = analysis.temp_size_in_bytes + max(
        analysis.output_size_in_bytes - analysis.alias_size_in_bytes, 0
      )
      # arrays that tiles pad
      temporaries += max(analysis.argument_size_in_bytes - sum(parts.values()), 0)
    seconds = time.perf_counter() - began
  return Memory(parts, temporaries, mesh.devices.flat[0].platform, seconds), disk


def too_much(words: str) -> int | None:
  """Bytes that a TPU's compiler, which ends instead of answering, says it would have used; None for
  another complaint."""
  found = re.search(
    r'Ran out of memory in memory space hbm.*?Used ([\d.]+)([KMGT]?) of', words, re.DOTALL
  )
  return int(float(found[1]) * 1024 ** ' KMGT'.index(found[2] or ' ')) if found else None


def described_devices(devices: str, mesh: tuple) -> tuple[list, float, str]:
  """(devices, GB of one or 0, words) for 'v5p:4x4x4', '32', or '' for as many as the mesh asks for.

  A number becomes so many pretended CPU devices: call this before JAX is used for anything.

  Raises:
    UserError: if libtpu is missing or does not know the topology.
  """
  if ':' in devices:
    from jax.experimental import topologies

    for name, value in _NO_TPU_HERE.items():
      os.environ.setdefault(name, value)
    jax.config.update('jax_platforms', 'cpu')  # what little is computed; no TPU is looked for
    try:
      found = topologies.get_topology_desc(devices, platform='tpu').devices
    except Exception as error:
      raise UserError(
        f'the topology {devices!r} cannot be compiled for: {" ".join(str(error).split())[:200]}; '
        'install libtpu, and name it as in v5p:4x4x4'
      ) from error
    kind, _, shape = devices.partition(':')
    chips = math.prod(map(int, shape.split('x')))
    words = f'TPU {devices}, {chips} chips' + (
      f' of {len(found) // chips} devices' if len(found) > chips else ''
    )
    return found, MEMORY.get(kind, 0) * 2**30 / GB * chips / len(found), words
  if devices and not devices.isdigit():
    raise UserError(f"--devices must be a number or a TPU topology as 'v5p:4x4x4', got {devices!r}")
  count = int(devices) if devices else math.prod(size for _, size in mesh if size > 0)
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_PRETEND.format(count)}'
  jax.config.update('jax_platforms', 'cpu')
  return jax.devices(), 0.0, f'{count} devices'


def why_not(memory: Memory, limit: float, mesh) -> str:
  """One sentence: what is too large, and what would help."""
  parts = memory.parts | {'temporaries': memory.temporaries}
  largest = max(parts, key=parts.get)
  state = sum(memory.parts.values())
  words = (
    f'{memory.total / GB:.1f} GB on a device of which {limit / GB:.1f} GB can be used; the largest '
    'part are '
    f'{largest} ({parts[largest] / GB:.1f} GB)'
  )
  if state > limit:
    times = math.ceil(state / (0.6 * limit))
    return (
      f'{words}: the state alone does not fit, spread it over {times} times as many devices along '
      'fsdp (now '
      f'{dict(mesh.shape).get("fsdp", 1)}), or train fewer parameters (LoRA), or use '
      'config.optimizer.moments'
    )
  if memory.compiler == 'cpu':
    words += " by the CPU's compiler, an upper bound"
  return f'{words}: fewer examples at a time (config.accumulate), fewer tokens, or more devices along context'


def changes(config, mesh, memory: Memory, limit: float) -> list[tuple[str, object]]:
  """(key, value) pairs that spare memory, the one that costs least first: of the state if that is
  too much, else of the step."""
  examples = math.prod(size for name, size in mesh.shape.items() if name not in WITHIN_EXAMPLES)
  shape, model = dict(mesh.shape), config.get('model', {})
  step, state = [], []
  if model.get('remat', 'input') not in ('input', True):
    step.append(('model.remat', 'input'))
  if config.batch_size // examples > config.get('accumulate', 1):
    step.append(('accumulate', config.batch_size // examples))
  if shape.get('data', 1) > 1 and 'fsdp' in shape:
    shape['fsdp'], shape['data'] = shape['fsdp'] * shape['data'], 1
    state.append(('mesh', tuple(shape.items())))
  choices = moments_of(config.optimizer.get('kind', 'adamw'))
  smaller = choices[choices.index(config.optimizer.get('moments', 'float32')) + 1 :]
  state += [('optimizer.moments', choice) for choice in smaller]
  return state + step if sum(memory.parts.values()) > limit else step + state


def what_would_fit(
  config, load_task, memory: Memory, limit: float, devices=None
) -> tuple[str, Memory] | None:
  """(command-line words, memory) of the first few changes of `config` with which the compiler's
  figure is within `limit`.

  Changes add up; what is tried: recomputation, smaller parts of a batch, all devices along fsdp,
  smaller moments. None if that
  is not enough: then only more devices, fewer tokens or fewer trained parameters help.
  """
  words = {}
  config = config.copy_and_resolve_references().unlock()
  for key, value in changes(config, make_mesh(config.mesh, devices), memory, limit):
    *section, name = key.split('.')
    (config[section[0]] if section else config)[name] = value
    words[key] = (
      f'--config.{key}="{value}"' if isinstance(value, tuple) else f'--config.{key}={value}'
    )
    settings = settings_of(config)
    found, _ = memory_of(
      settings, load_task(config)[1], make_mesh(config.mesh, devices), limit=limit
    )
    if found.total <= limit:
      return ' '.join(words.values()), found
  return None


def dry_run(
  config, load_task, ahead_of_time, *, devices: str = '', memory_gb: float = 0.0, mfu: float = 0.4
) -> int:
  """Prints what the run would need on `devices` and returns 0.

  Args:
    config: of the run; printed as resolved.
    load_task: config -> (module, task).
    ahead_of_time: platform -> a context in which kernels of devices that are not there may be
      traced.
    devices: see `described_devices`.
    memory_gb: of one device; 0 takes that of a known TPU, else 80.
    mfu: the utilisation to assume.

  Raises:
    UserError: if it does not fit, with the reason and a remedy.
  """
  settings = settings_of(config)
  found, known, words = described_devices(devices, settings.mesh)
  mesh = make_mesh(settings.mesh, found)
  if found[0].platform == 'cpu' and config.get('model', {}).get('attention') not in (
    None,
    'xla',
    'chunked',
  ):
    config = config.copy_and_resolve_references()
    config.model.attention = 'chunked'
  elif found[0].platform == 'tpu' and config.get('model', {}).get('attention') == 'cudnn':
    raise UserError(
      "config.model.attention is 'cudnn', which is for NVIDIA's GPUs: "
      '--config.model.attention=splash'
    )
  module, task = load_task(config)
  del module
  print(config)
  flops = model_flops(load_task(countable(config))[1])
  peak = settings.peak_tflops or peak_of(found[0].device_kind) or 312.0
  step_seconds = flops / (mesh.size * peak * 1e12 * mfu)
  tokens = task.tokens * settings.batch_size
  print(
    f'devices      {words}; mesh {dict(mesh.shape)}, {settings.batch_size} examples a step in '
    f'{settings.accumulate} parts'
  )
  print(f'work         {flops / 1e12:.4g} TFLOP a step, {flops / 1e12 / mesh.size:.4g} on a device')
  print(
    f'time         {step_seconds:.3g} s a step at {100 * mfu:g} % of {peak:g} TFLOP/s, '
    f'{duration(step_seconds * settings.total_steps)} h '
    f'({step_seconds * settings.total_steps / 86400:.2g} days) for '
    f'{settings.total_steps} steps'
  )
  example = sum(math.prod(x.shape[1:]) * x.dtype.itemsize for x in jax.tree.leaves(task.batch_spec))
  print(
    f'data         {settings.batch_size / step_seconds:.3g} examples and '
    f'{settings.batch_size * example / step_seconds / 1e6:.3g}'
    f' MB a second' + (f', {tokens / step_seconds:.4g} tokens' if tokens else '')
  )
  limit = ROOM * GB * (memory_gb or known or 80.0)
  with ahead_of_time(found[0].platform):
    memory, disk = memory_of(settings, task, mesh, limit=limit)
  print(
    'disk         '
    + ', '.join(f'{name} {size / GB:.3g} GB' for name, size in disk.items() if size)
    + f', {settings.keep} kept'
  )
  print(
    'memory       '
    + ', '.join(f'{name} {size / GB:.3g}' for name, size in memory.parts.items() if size)
    + (
      f', temporaries {memory.temporaries / GB:.3g} '
      f'({"at most, " if memory.compiler == "cpu" else ""}by the '
      f'{memory.compiler} compiler in {memory.seconds:.0f} s)'
      if memory.temporaries
      else ''
    )
    + f': {memory.total / GB:.3g} GB on a device'
  )
  if memory.total > limit:
    raise UserError(f'it does not fit: {why_not(memory, limit, mesh)}')
  print(f'fits         {memory.total / GB:.1f} of {limit / GB:.1f} GB that can be used on each')
  return 0
