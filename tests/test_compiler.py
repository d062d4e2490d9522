"""XLA's reductions on CPUs: the package keeps them from a library that returns wrong sums."""

import importlib.metadata
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exp_jax
from exp_jax.commands import doctor
from exp_jax.estimator.losses import losses
from exp_jax.networks.face_maps import FaceMaps

FLAG = '--xla_cpu_experimental_ynn_fusion_type'
SAYS = 'import exp_jax, os; from exp_jax.commands import doctor; print(doctor.compiler()[0], "|", os.environ.get("XLA_FLAGS", ""))'


def test_this_process_sums_right():
  assert doctor.compiler() == ('ok', 'compiled sums are right')


@pytest.mark.long
@pytest.mark.parametrize(
  'flags, verdict, after',
  [
    ('', 'ok', f'{FLAG}='),
    (
      '--xla_force_host_platform_device_count=2',
      'ok',
      f'--xla_force_host_platform_device_count=2 {FLAG}=',
    ),
    (f'{FLAG}=-reduce', 'ok', f'{FLAG}=-reduce'),
    (f'{FLAG}=reduce', 'problem', f'{FLAG}=reduce'),
  ],
  ids=['none', 'others', 'a choice that helps', 'a choice that harms'],
)
def test_flags_of_a_user_stand(flags, verdict, after):
  if importlib.metadata.version('jaxlib') != '0.10.2' and verdict == 'problem':
    pytest.skip('what a choice does is known of jaxlib 0.10.2')
  done = subprocess.run(
    [sys.executable, '-c', SAYS],
    env=os.environ | {'XLA_FLAGS': flags},
    capture_output=True,
    text=True,
  )
  assert done.stdout.strip().split(' | ') == [verdict, after], done.stderr


@pytest.mark.parametrize(
  'version, wanted',
  [('0.10.1', False), ('0.10.2', True), ('0.11.0', True), ('0.11.1.dev2', True), ('0.12.0', False)],
)
def test_a_flag_is_given_to_compilers_that_know_it(version, wanted, monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '')
  monkeypatch.setattr(importlib.metadata, 'version', {'jaxlib': version}.get)
  exp_jax._compile_soundly()
  assert (FLAG in os.environ['XLA_FLAGS']) == wanted


@pytest.mark.long
def test_a_compiled_gradient_is_the_gradient():
  """Of the loss that found it: differences over four distances and two axes beside another term,
  wrong by 1e12 from call to call."""
  rng = np.random.default_rng(0)
  drawn = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  unit = lambda x: x * jax.lax.rsqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + 1e-6)
  whole = lambda count: jnp.asarray(rng.integers(0, count, (2, 64, 64)))
  truth = {
    'normals': unit(drawn(2, 64, 64, 3)),
    'depth': drawn(2, 64, 64),
    'parts': whole(8),
    'known': whole(2).astype(jnp.float32),
    'inside': jnp.ones((2, 64, 64)),
  }

  def loss(found):
    maps = FaceMaps(
      unit(found[..., :3] - jnp.array([0, 0, 0.5])),
      1 + jax.nn.softplus(found[..., 3]),
      found[..., 4],
      found[..., 5:],
    )
    terms = losses(maps, truth)
    return sum(terms[name] for name in ('normals', 'fine', 'sureness', 'depth', 'parts'))

  found = drawn(2, 64, 64, 13) * 0.1
  expected, compiled = jax.grad(loss)(found), jax.jit(jax.grad(loss))
  for _ in range(3):
    np.testing.assert_allclose(
      compiled(found), expected, rtol=0, atol=1e-5 * float(jnp.abs(expected).max())
    )
