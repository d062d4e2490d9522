"""Eight fake devices live in a process of their own, since the number is fixed when JAX starts."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from exp_jax.layers.context_parallel import parallel_attention

START = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, PartitionSpec as P
from exp_jax.layers.attention import attention
from exp_jax.layers.context_parallel import parallel_attention
from exp_jax.networks.wan_dit import wan_dit

def mesh(**axes):
  return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))

def close(a, b, bound):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert np.abs(np.asarray(x) - np.asarray(y)).max() < bound * max(1.0, np.abs(y).max()), np.abs(x - y).max()

def run(attend, *args):
  def loss(args):
    out = attend(*args)
    return jnp.sin(out).sum(), out
  return jax.jit(jax.value_and_grad(loss, has_aux=True))(args)

keys = jax.random.split(jax.random.key(0), 3)
q, k, v = (2 * jax.random.normal(x, (2, 24, 8, 4)) for x in keys)
"""
DOORS = """
for real in (None, 19):
  (_, expected), expected_gradient = run(lambda q, k, v: attention(q, k, v, keys=real), q, k, v)
  for axes, way, door in ((dict(context=8), 'ring', 'chunked'), (dict(data=2, tensor=2, context=2), 'ulysses', 'xla')):
    with jax.set_mesh(mesh(**axes)):
      (_, out), gradient = run(lambda q, k, v: parallel_attention(q, k, v, way=way, implementation=door, keys=real), q, k, v)
    close(out, expected, 2e-5)
    close(gradient, expected_gradient, 2e-5)
(_, expected), expected_gradient = run(attention, q, k[:, :7], v[:, :7])
with jax.set_mesh(mesh(context=8)):
  (_, out), gradient = run(lambda q, k, v: parallel_attention(q, k, v, way='ring', implementation='xla', shared_keys=True),
                           q, k[:, :7], v[:, :7])
close(out, expected, 2e-5)
close(gradient, expected_gradient, 2e-5)
print('equal')
"""
MODEL = """
sizes = dict(width=32, heads=4, ffn=24, depth=2, text_dim=6, freq_dim=8, image_dim=5)
args = (jax.random.normal(keys[0], (2, 3, 4, 6, 16)), jnp.array([5.0, 900.0]), jax.random.normal(keys[1], (2, 5, 6)),
        jax.random.normal(keys[2], (2, 7, 5)))                                  # 18 tokens: padded to 20 and to 24
shapes = jax.eval_shape(lambda: wan_dit('tiny', **sizes).init(jax.random.key(0), *args)['params'])
rng = np.random.default_rng(0)
params = jax.tree.map(lambda s: np.asarray(rng.normal(size=s.shape) / np.sqrt(s.shape[-2] if s.ndim > 1 else 4), np.float32), shapes)

def model(way, remat):
  net = wan_dit('tiny', **sizes, context=way, remat=remat, attention='chunked')
  return jax.jit(jax.value_and_grad(lambda p: jnp.sin(net.apply({'params': p}, *args)).sum()))(params)

expected = model('ulysses', 'none')
for axes, way, remat in ((dict(context=4, data=2), 'ulysses', 'attention'), (dict(context=8), 'ring', 'input')):
  with jax.set_mesh(mesh(**axes)):
    close(model(way, remat), expected, 2e-5)
print('equal')
"""


KERNEL = """
import functools
from exp_jax.layers import attention as doors
inside, splash = [], doors.IMPLEMENTATIONS['splash']
def kernel(q, k, v, keys, **options):                      # the kernel in its interpreter, told by what it is given
  inside.append(q.shape)
  return splash(q, k, v, keys, interpret=True)
doors.IMPLEMENTATIONS['splash'] = kernel
q, k, v = (jax.random.normal(x, (4, 130, 2, 128)) for x in keys)
(_, expected), expected_gradient = run(lambda q, k, v: attention(q, k, v, keys=101), q, k, v)
with jax.set_mesh(mesh(data=2, fsdp=2, tensor=2)):
  (_, out), gradient = run(lambda q, k, v: parallel_attention(q, k, v, way='', implementation='splash', keys=101), q, k, v)
  assert set(inside) == {(1, 130, 1, 128)}, inside
  parallel_attention(q[:1], k[:1], v[:1], way='', implementation='splash')
close(out, expected, 2e-4)
close(gradient, expected_gradient, 2e-4)
print('equal')
"""


def run(program):
  done = subprocess.run(
    [sys.executable, '-c', program],
    capture_output=True,
    text=True,
    timeout=600,
    env=os.environ
    | {'XLA_FLAGS': '--xla_force_host_platform_device_count=8', 'JAX_PLATFORMS': 'cpu'},
  )
  assert done.stdout.endswith('equal\n'), done.stderr[-3000:]


@pytest.mark.long
def test_ulysses_and_ring_equal_one_device_with_gradients():
  run(START + DOORS)


@pytest.mark.slow
def test_a_kernel_that_the_compiler_cannot_split_is_given_its_part_on_every_device():
  run(START + KERNEL)


@pytest.mark.slow
def test_the_transformer_over_eight_devices_equals_one_with_gradients():
  run(START + MODEL)


def test_without_a_context_axis_it_is_the_plain_door_and_mistakes_are_named():
  q = jax.random.normal(jax.random.key(0), (1, 5, 2, 4))
  assert parallel_attention(q, q, q, way='ring', implementation='xla').shape == q.shape
  with pytest.raises(ValueError, match='unknown way'):
    parallel_attention(q, q, q, way='star', implementation='xla')
  mesh = jax.make_mesh((1, 1), ('data', 'context'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  with jax.set_mesh(mesh):
    assert jnp.isfinite(
      jax.jit(lambda q: parallel_attention(q, q, q, way='ring', implementation='xla'))(q)
    ).all()
