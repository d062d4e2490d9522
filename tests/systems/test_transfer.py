"""Expression transfer: nothing at the start, nothing of the mesh's numbering, nobody held out is trained on."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from exp_jax.errors import UserError
from exp_jax.heads.densify import densify
from exp_jax.heads.model import head_digest, load_head
from exp_jax.heads.personalized import Subject, save_subject
from exp_jax.systems.expportrait import transfer_task
from exp_jax.systems.expportrait.transfer import (
  ExpressionTransfer,
  Transfer,
  build,
  fourier,
  neutral_of,
)
from exp_jax.training.exports import write_export

CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'expression_transfer.py'


@pytest.fixture(scope='module')
def head():
  return load_head('procedural')


@pytest.fixture(scope='module')
def dense(head):
  return densify(head, 0)


def person(head, dense, seed, *, frames=3):
  """A subject whose brow moves outward with the first expression."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  face = np.flatnonzero(np.asarray(dense.regions['face']) > 0.5).astype(np.int32)
  expression = rng.uniform(0, 1, (frames, 10)).astype(np.float32)
  return Subject(
    f'person_{seed}', head.name, head_digest(head), 0, (64, 64), 12.0, 0.5 * draw(10), expression,
    0.1 * draw(frames, 6, 3), 0.01 * draw(frames, 3) - np.float32([0, 0, 0.7]), np.full(2, 150, np.float32),
    np.full(2, 32, np.float32), np.arange(frames, dtype=np.float32) / 12,
    1e-3 * draw(len(dense.coarse_ids), 3), face,
    0.004 * expression[:, :1, None] * np.ones((1, len(face), 3), np.float32))


@pytest.fixture
def people(head, dense, tmp_path):
  for seed in range(3):
    save_subject(tmp_path / f'person_{seed}.npz', person(head, dense, seed))
  return tmp_path


def smoke(path, **data):
  config = runpy.run_path(str(CONFIG))['get_config']('smoke').copy_and_resolve_references().unlock()
  config.data.update(path=str(path), points=64, **data)
  config.model.update(width=24, depth=2, code_dim=16)
  return config


def inputs(rng, *, batch=2, vertices=11):
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return [normal(batch, 10), normal(batch, 3), 0.1 * normal(batch, vertices, 3), normal(batch, vertices, 3),
          0.1 * normal(batch, vertices, 3), jnp.asarray(rng.uniform(size=(batch, vertices)), jnp.float32),
          0.1 * normal(batch, 5, 6)]


def disturbed(params, rng):
  return jax.tree.map(lambda a: a + 0.1 * jnp.asarray(rng.normal(size=a.shape), jnp.float32), params)


TINY = ExpressionTransfer(code_dim=8, width=16, depth=2, octaves=3, identity_dim=4)


@pytest.fixture(scope='module')
def tiny():
  return TINY.init(jax.random.key(0), *inputs(np.random.default_rng(0)))['params']


def test_an_untrained_module_changes_nothing(tiny):
  offsets = TINY.apply({'params': tiny}, *inputs(np.random.default_rng(1)))
  assert offsets.shape == (2, 11, 3) and not np.asarray(offsets).any()


def test_vertices_are_treated_alike_whatever_their_order_and_number(tiny):
  rng = np.random.default_rng(2)
  params, given = disturbed(tiny, rng), inputs(rng)
  whole = TINY.apply({'params': params}, *given)
  assert np.abs(whole).max() > 1e-4
  order = rng.permutation(11)[:7]
  part = TINY.apply({'params': params}, *given[:2], *(a[:, order] for a in given[2:6]), given[6])
  np.testing.assert_allclose(part, whole[:, order], atol=1e-7)
  silent = TINY.apply({'params': params}, *given[:5], jnp.zeros_like(given[5]), given[6])
  assert not np.asarray(silent).any(), 'outside the mask nothing moves'


def test_the_pooled_code_is_a_mean(tiny):
  rng = np.random.default_rng(3)
  params, given = disturbed(tiny, rng), inputs(rng)
  turned = TINY.apply({'params': params}, *given[:6], given[6][:, ::-1])
  np.testing.assert_allclose(turned, TINY.apply({'params': params}, *given), atol=1e-7)
  other = TINY.apply({'params': params}, *given[:6], given[6] + 0.1)
  assert np.abs(other - turned).max() > 1e-6, 'another identity wrinkles differently'


def test_fourier_features_by_hand():
  x = jnp.array([[0.25, -0.5]])
  got = np.asarray(fourier(x, 2))[0]
  wanted = [0.25, -0.5]
  for value in (0.25, -0.5):
    wanted += [np.sin(np.pi * value), np.sin(2 * np.pi * value), np.cos(np.pi * value), np.cos(2 * np.pi * value)]
  np.testing.assert_allclose(got, wanted, atol=1e-6)


def exported(head, dense, people, folder, **model):
  """An export of a module that was never trained but disturbed, so that it does something."""
  config = smoke(people)
  config.model.update(**model)
  seen = neutral_of(head, dense, person(head, dense, 0))
  pool = seen.pool
  few = [a[None, :4] for a in (seen.neutral, seen.normals, seen.template, seen.mask)]
  params = build(config).init(jax.random.key(0), jnp.zeros((1, config.model.expression)), jnp.zeros((1, 3)), *few, pool[None])
  write_export(folder, config, disturbed(params['params'], np.random.default_rng(0)))
  return folder


def test_chunks_do_not_matter_and_offsets_stay_on_the_face(head, dense, people, tmp_path):
  path = exported(head, dense, people, tmp_path / 'export')
  subject = person(head, dense, 7, frames=5)
  jaw = subject.pose[:, 3]
  whole, parts = (Transfer(path, head, dense, chunk=c)(subject, subject.expression, jaw) for c in (5, 2))
  assert whole.shape == (5, len(dense.coarse_ids), 3) and np.abs(whole).max() > 1e-4
  np.testing.assert_allclose(parts, whole, atol=1e-7)
  mask = np.asarray(dense.regions['face'] * (1 - dense.regions['eyeballs']))
  assert not whole[:, mask == 0].any()


def test_foreign_exports_are_refused(head, dense, people, tmp_path):
  other = exported(head, dense, people, tmp_path / 'wide', expression=49)
  with pytest.raises(UserError, match="trained on 49 expression parameters, the head 'procedural' has 10"):
    Transfer(other, head, dense)
  config = smoke(people)
  config.task = 'expportrait/vae'
  write_export(tmp_path / 'vae', config, {'a': jnp.zeros(2)})
  with pytest.raises(UserError, match="an export of 'expportrait/vae', not of expportrait/transfer"):
    Transfer(tmp_path / 'vae', head, dense)
  with pytest.raises(UserError, match='no export'):
    Transfer(tmp_path / 'nowhere', head, dense)


def batch_of(source, transform, config, seed):
  rng = np.random.default_rng(seed)
  drawn = [transform(source[i], rng) for i in rng.integers(0, len(source), config.batch_size)]
  return {k: np.stack([d[k] for d in drawn]) for k in drawn[0]}


def test_the_smoke_config_learns(people):
  config = smoke(people)
  source, transform = transfer_task.examples(config)
  task = transfer_task.task(config)
  batch = batch_of(source, transform, config, 0)
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
    k: (v.shape, v.dtype) for k, v in task.batch_spec.items()}
  params = task.init_fn(jax.random.key(0))
  tx = optax.adam(2e-3)
  state, losses = tx.init(params), []
  step = jax.jit(jax.value_and_grad(lambda p: task.loss_fn(p, batch, jax.random.key(0))[0]))
  for _ in range(6):
    loss, grads = step(params)
    updates, state = tx.update(grads, state)
    params = optax.apply_updates(params, updates)
    losses.append(float(loss))
  assert losses[2] < losses[0] and losses[-1] < 0.97 * losses[0], losses
  _, metrics = task.loss_fn(params, batch, jax.random.key(0))
  assert 0 < float(metrics['error_mm']) < float(metrics['zero_mm'])


def test_the_target_is_what_the_subject_file_says(head, dense, people):
  config = smoke(people, holdout=0)
  source, transform = transfer_task.examples(config)
  example = transform(4, np.random.default_rng(0))                # second person, second frame
  expected = 0.004 * source.subjects[1].expression[1, 0]
  inside = example['mask'] > 0.999
  on_face = np.abs(example['target'][inside]).max(-1) > 0
  assert on_face.mean() > 0.5
  np.testing.assert_allclose(example['target'][inside][on_face], expected, rtol=2e-3)  # float16 in the file
  # The second half are neighbours of the first.
  distance = np.linalg.norm(np.subtract(*np.split(example['neutral'], 2)), axis=-1)
  assert 0 < distance.max() < 0.08


def test_held_out_people_are_never_trained_on(head, dense, people):
  parts = {part: transfer_task.SubjectFrames(str(people), 'procedural', part=part, holdout=1) for part in ('train', 'held_out')}
  names = {part: {source.subjects[s].subject_id for s, _ in source.index} for part, source in parts.items()}
  assert names == {'train': {'person_0', 'person_1'}, 'held_out': {'person_2'}}
  assert len(parts['train']) == 6 and len(parts['held_out']) == 3
  source, _ = transfer_task.examples(smoke(people))
  assert {s.subject_id for s in source.subjects} == names['train'], 'the config holds one out'


def test_wrong_settings_are_named(people, tmp_path_factory):
  with pytest.raises(UserError, match='10 expressions and 41 pooled vertices'):
    transfer_task.examples(smoke(people, pool=40))
  with pytest.raises(UserError, match='3 of them held out'):
    transfer_task.examples(smoke(people, holdout=3))
  with pytest.raises(UserError, match='no subject files'):
    transfer_task.examples(smoke(tmp_path_factory.mktemp('none')))
