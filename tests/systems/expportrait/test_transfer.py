"""Expression transfer: nothing at rest, nothing of the mesh's numbering, nobody held out is trained
on."""

import dataclasses
import functools
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from exp_jax.actors import sample_actor
from exp_jax.errors import UserError
from exp_jax.geometry.meshes import subdivide
from exp_jax.heads.densify import densify, lift
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import Subject, load_subject, save_subject
from exp_jax.systems.expportrait.embedded import embedded
from exp_jax.systems.expportrait.transfer import transfer_task
from exp_jax.systems.expportrait.transfer.network import (
  DrivingEncoder,
  ExpressionTransfer,
  Transfer,
  build,
  fourier,
  mirrored_expressions,
)
from exp_jax.systems.expportrait.transfer.transfer_data import (
  ActorFaces,
  FitNoise,
  FittedHeads,
  SubjectFaces,
)
from exp_jax.systems.expportrait.transfer.transfer_features import neutral_of, relief_of, surface_of
from exp_jax.training.exports import write_export

CONFIG = pathlib.Path(__file__).parents[3] / 'configs' / 'expression_transfer.py'


@pytest.fixture(scope='module')
def head():
  return load_head('procedural')


@pytest.fixture(scope='module')
def dense(head):
  return densify(head, 0)


@pytest.fixture(scope='module')
def surface(head, dense):
  return surface_of(head, dense)


def person(head, dense, seed, *, frames=3):
  """A subject whose brow moves outward with the first expression."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  face = np.flatnonzero(np.asarray(dense.regions['face']) > 0.5).astype(np.int32)
  expression = rng.uniform(0, 1, (frames, 10)).astype(np.float32)
  return Subject(
    f'person_{seed}',
    head.name,
    head_digest(head),
    dense.levels,
    (64, 64),
    12.0,
    0.5 * draw(10),
    expression,
    0.1 * draw(frames, 6, 3),
    0.01 * draw(frames, 3) - np.float32([0, 0, 0.7]),
    np.full(2, 150, np.float32),
    np.full(2, 32, np.float32),
    np.arange(frames, dtype=np.float32) / 12,
    2e-4 * draw(len(dense.coarse_ids), 3),
    face,
    0.004 * expression[:, :1, None] * np.ones((1, len(face), 3), np.float32),
  )


@pytest.fixture
def people(head, dense, tmp_path):
  for seed in range(3):
    save_subject(tmp_path / f'person_{seed}.npz', person(head, dense, seed))
  return tmp_path


def smoke(path=None, **data):
  config = runpy.run_path(str(CONFIG))['get_config']('smoke').copy_and_resolve_references().unlock()
  if path is not None:
    config.data.update(source='subjects', path=str(path), holdout=1)
  config.data.update(**data)
  return config


MODEL = ExpressionTransfer(width=16, depth=2, code_dim=8, vertex_dim=6, integrals=5, octaves=3)


def disturbed(params, seed=0):
  """Parameters that do something: an untrained module is silent."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda a: a + 0.1 * jnp.asarray(rng.normal(size=a.shape), jnp.float32), params
  )


def arguments(surface, seen, expression, jaw, at=None):
  at = np.arange(len(surface.ids)) if at is None else at
  return (
    jnp.asarray(expression)[None],
    jnp.asarray(jaw)[None],
    seen.neutral[None],
    seen.normals[None],
    seen.relief[None],
    jnp.asarray(surface.place),
    jnp.asarray(surface.area),
    jnp.asarray(surface.mask),
    jnp.asarray(at)[None],
  )


@pytest.fixture(scope='module')
def made(head, dense, surface):
  """(parameters that do something, a person, what is seen of them, five frames of expression and
  jaw)."""
  subject = person(head, dense, 7, frames=5)
  seen = neutral_of(head, dense, surface, subject.shape, subject.static_offsets)
  params = init(MODEL, arguments(surface, seen, subject.expression, subject.pose[:, 3]))
  return params, disturbed(params), subject, seen


@functools.partial(jax.jit, static_argnums=0)
def apply(module, params, *args):
  return module.apply({'params': params}, *args)


def predict(module, params, *args):
  return np.asarray(apply(module, params, *args))[0]


@functools.partial(jax.jit, static_argnums=0)
def init(module, given):
  return module.init(jax.random.key(0), *given)['params']


@pytest.mark.long
def test_an_untrained_module_changes_nothing(made, surface):
  params, _, subject, seen = made
  offsets = predict(
    MODEL, params, *arguments(surface, seen, subject.expression, subject.pose[:, 3])
  )
  assert offsets.shape == (5, len(surface.ids), 3) and not offsets.any()


def test_an_expression_of_0_3_counts_as_much_as_a_jaw_of_0_15_radians():
  """These are the units that shipped modules were trained in. Where every input has the same
  weights, the code tells only their sum, each in its unit."""
  encoder = DrivingEncoder(width=4, code_dim=5)
  zeros = jnp.zeros((1, 1, 6)), jnp.zeros((1, 1, 3))
  params = disturbed(encoder.init(jax.random.key(0), *zeros)['params'])
  alike = jnp.broadcast_to(jnp.arange(1.0, 5.0), (9, 4)) / 4
  params['hidden_0'] = params['hidden_0'] | {'kernel': alike}
  code = lambda expression, jaw: np.asarray(
    apply(encoder, params, zeros[0].at[..., 2].set(expression), zeros[1].at[..., 0].set(jaw))
  )
  np.testing.assert_allclose(code(0.3, 0), code(0, 0.15), rtol=1e-5)
  np.testing.assert_allclose(code(0.6, -0.15), code(0.3, 0), rtol=1e-5)
  assert np.abs(code(0.3, 0) - code(0, 0)).max() > 1e-3


@pytest.mark.parametrize('temporal', [False, True])
def test_no_expression_means_no_offset_whatever_the_parameters(made, surface, temporal):
  _, _, subject, seen = made
  module = MODEL.copy(temporal=temporal)
  given = arguments(surface, seen, subject.expression, subject.pose[:, 3])
  params = disturbed(init(module, given))
  assert np.abs(predict(module, params, *given)).max() > 1e-4
  still = arguments(surface, seen, 0 * subject.expression, np.zeros((5, 3), np.float32))
  assert np.abs(predict(module, params, *still)).max() < 1e-8, 'rounding of metres; the bar is 5e-5'


def test_vertices_are_treated_alike_whatever_their_order_and_number(made, surface):
  _, params, subject, seen = made
  given = subject.expression, subject.pose[:, 3]
  whole = predict(MODEL, params, *arguments(surface, seen, *given))
  at = np.random.default_rng(0).permutation(len(surface.ids))[:7]
  part = predict(MODEL, params, *arguments(surface, seen, *given, at=at))
  np.testing.assert_allclose(part, whole[:, at], atol=1e-7)


def test_offsets_are_scaled_by_the_mask_of_the_skin(made, surface):
  """What the layers say of a vertex counts by how much of it is skin that moves: nothing at 0, half
  at a half."""
  _, params, subject, seen = made
  step = lambda name, *args: MODEL.apply({'params': params}, *args, method=name)
  driven = step('drive', subject.expression[None], subject.pose[None, :, 3])
  codes = np.random.default_rng(0).normal(size=(1, 7, 6)).astype(np.float32)
  offsets = lambda mask: step(
    'offsets',
    driven[:, :-1],
    driven[:, -1:],
    codes,
    seen.normals[None, :7],
    seen.relief[None, :7],
    jnp.asarray(mask)[None],
  )
  share, whole = np.float32([0, 0.5, 1, 0, 0.25, 1, 1]), offsets(np.ones(7, np.float32))
  assert np.abs(whole).min(1).max() > 1e-6
  np.testing.assert_allclose(offsets(share), share[:, None] * whole, atol=1e-9)


def test_a_person_is_the_same_on_a_finer_mesh(made, surface):
  """Integrals go by area: where one vertex stands for two of half its area the code of the person
  does not change."""
  _, params, _, seen = made
  code = lambda neutral, relief, place, area: MODEL.apply(
    {'params': params}, neutral[None], relief[None], place, area, method='identity'
  )
  twice = np.concatenate([np.arange(len(surface.ids)), [3, 3, 11]])
  area = surface.area[twice] / np.bincount(twice)[twice]
  whole = code(seen.neutral, seen.relief, surface.place, surface.area)
  np.testing.assert_allclose(
    code(seen.neutral[twice], seen.relief[twice], surface.place[twice], area), whole, atol=1e-4
  )
  assert (
    np.abs(
      code(seen.neutral[twice], seen.relief[twice], surface.place[twice], surface.area[twice])
      - whole
    ).max()
    > 1e-3
  )


def test_a_deeper_line_counts_where_it_is_and_in_the_code_of_the_person(made, surface):
  _, params, subject, seen = made
  step = lambda name, *args: MODEL.apply({'params': params}, *args, method=name)
  relief, at = np.array(seen.relief), 11
  relief[at] += 1e-4
  here = surface.place, surface.area
  z, other = (step('identity', seen.neutral[None], r[None], *here) for r in (seen.relief, relief))
  assert np.abs(z - other).max() > 1e-4
  codes = [
    step(
      'vertices',
      seen.neutral[None],
      seen.normals[None],
      r[None],
      surface.place[None],
      surface.mask[None],
      z,
    )[0]
    for r in (seen.relief, relief)
  ]
  changed = np.abs(codes[1] - codes[0]).max(1) > 1e-6
  assert changed[at] and changed.sum() == 1


def test_frames_know_of_each_other_only_by_the_temporal_option(made, surface):
  _, _, subject, seen = made
  later = np.array(subject.expression)
  later[4] += 0.5
  for temporal in (False, True):
    module = MODEL.copy(temporal=temporal)
    given = arguments(surface, seen, subject.expression, subject.pose[:, 3])
    params = disturbed(init(module, given))
    one, other = (
      predict(module, params, *arguments(surface, seen, e, subject.pose[:, 3]))
      for e in (subject.expression, later)
    )
    change = np.abs(one - other).max((1, 2))
    assert change[4] > 1e-6 and (change[:2] == 0).all() and (change[2:4] > 1e-7).all() == temporal


def test_fourier_features_by_hand():
  x = jnp.array([[0.25, -0.5]])
  got = np.asarray(fourier(x, 2))[0]
  wanted = [0.25, -0.5]
  for value in (0.25, -0.5):
    wanted += [
      np.sin(np.pi * value),
      np.sin(2 * np.pi * value),
      np.cos(np.pi * value),
      np.cos(2 * np.pi * value),
    ]
  np.testing.assert_allclose(got, wanted, atol=1e-6)


def rounded_off(head, surface):
  """[N, 3] static offsets of a face that is the linear model of mean shape, but smooth."""
  static = np.zeros((surface.count, 3), np.float32)
  static[surface.ids] = surface.rounding @ np.asarray(head.template)
  return static


def test_relief_is_what_stands_out_of_its_surroundings(head):
  """A bump of 4 mm standard deviation: raised in the middle, less at a finer scale; a smooth face
  has none."""
  dense = densify(head, 2)
  surface = surface_of(head, dense)
  middle = np.argmin(np.linalg.norm(surface.place - [0, 0.07, 0.09], axis=1))
  height = np.zeros(surface.count, np.float32)
  height[surface.ids] = 1e-3 * np.exp(
    -0.5 * (np.linalg.norm(surface.place - surface.place[middle], axis=1) / 0.004) ** 2
  )
  smooth = rounded_off(head, surface)
  flat = neutral_of(head, dense, surface, np.zeros(10), smooth)
  np.testing.assert_allclose(flat.relief, 0, atol=1e-8)
  # which flat triangles would have made
  assert np.abs(relief_of(surface, flat.normals, smooth[surface.ids])).max() > 1e-5
  # a fit without detail shows no lines
  assert not neutral_of(head, dense, surface, np.zeros(10), 0 * smooth).relief.any()
  normals = np.zeros((surface.count, 3), np.float32)
  normals[surface.ids] = flat.normals
  bump = neutral_of(head, dense, surface, np.zeros(10), smooth + height[:, None] * normals)
  fine, middling, coarse = bump.relief[middle]
  assert 1e-4 < fine < middling < coarse < 1e-3
  # smoothing keeps the volume
  np.testing.assert_allclose(bump.relief.T @ surface.area, 0, atol=3e-6)


def test_noise_of_a_fit_moves_vertices_by_its_size_and_relief_with_them(head):
  """On average over draws; and what is added to the relief is the relief of what is added to the
  vertices."""
  dense = densify(head, 2)
  surface = surface_of(head, dense)
  static = rounded_off(head, surface)
  seen = neutral_of(head, dense, surface, np.zeros(10), static)
  noise, rng = FitNoise(surface, seen.normals, count=12), np.random.default_rng(0)
  drawn = [noise(seen, rng, 1e-4) for _ in range(60)]
  size = np.sqrt(np.mean([np.sum((one.neutral - seen.neutral) ** 2, -1) for one in drawn]))
  assert size == pytest.approx(1e-4, rel=0.15)
  moved = (drawn[0].neutral - seen.neutral).astype(np.float64)
  np.testing.assert_allclose(
    relief_of(surface, seen.normals, moved), drawn[0].relief - seen.relief, atol=1e-7
  )


@pytest.mark.long
def test_another_densification_of_the_same_head_agrees(head, made):
  """A module of level 2 asked on four times and on a quarter of the vertices: 5 % is the bar,
  rounding is what is left."""
  _, params, subject, _ = made
  meshes = {levels: densify(head, levels) for levels in (1, 2, 3)}
  template = np.asarray(lift(meshes[1], head.template))
  static = {
    1: 3e-4 * np.stack([np.sin(template @ w / 0.006) for w in ([1, 2, 0], [0, 1, 2], [2, 0, 1])], 1)
  }
  for levels in (1, 2):  # the same surface
    step = subdivide(np.asarray(meshes[levels].faces), len(static[levels]))
    static[levels + 1] = np.einsum(
      'nk,nkc->nc', np.asarray(step.weights), static[levels][np.asarray(step.sources)]
    )
  found = {}
  for levels, dense in meshes.items():
    own = surface_of(head, dense)
    transfer = Transfer.of(MODEL, params, head, dense, own, levels=2)
    full = np.zeros((5, own.count, 3))
    full[:, own.ids] = transfer.of_person(
      subject.shape, static[levels].astype(np.float32), subject.expression, subject.pose[:, 3]
    )
    found[levels] = full
  for levels in (1, 3):
    shared = min(found[levels].shape[1], found[2].shape[1])  # vertices of a mesh lead the finer one
    difference = found[levels][:, :shared] - found[2][:, :shared]
    assert np.linalg.norm(difference) < 1e-3 * np.linalg.norm(found[2][:, :shared])


def test_relief_hardly_depends_on_triangles_much_smaller_than_its_scale(head):
  found = {}
  for levels in (2, 3):  # edges of 2.8 and 1.4 mm
    dense = densify(head, levels)
    own = surface_of(head, dense)
    template = np.asarray(lift(dense, head.template))
    static = 3e-4 * np.stack(
      [np.sin(template @ w / 0.006) for w in ([1, 2, 0], [0, 1, 2], [2, 0, 1])], 1
    )
    found[levels] = np.zeros((own.count, 3))
    found[levels][own.ids] = neutral_of(
      head, dense, own, np.zeros(10), rounded_off(head, own) + static.astype(np.float32)
    ).relief
  a, b = found[2], found[3][: len(found[2])]
  difference = np.linalg.norm(a - b, axis=0) / np.linalg.norm(a, axis=0)
  assert (difference < [0.13, 0.07, 0.035]).all(), difference  # falls with the scale: 3, 6, 12 mm


def exported(head, dense, surface, folder, task='expportrait/transfer', **model):
  config = smoke()
  config.task = task
  config.model.update(**model)
  subject = person(head, dense, 0)
  seen = neutral_of(head, dense, surface, subject.shape, subject.static_offsets)
  expression = np.zeros((3, config.model.expression), np.float32)
  given = arguments(surface, seen, expression, subject.pose[:, 3])
  write_export(folder, config, disturbed(init(build(config), given)))
  return folder


@pytest.mark.long
def test_chunks_do_not_matter_and_offsets_stay_on_the_face(head, dense, surface, tmp_path):
  path = exported(head, dense, surface, tmp_path / 'export', temporal=True)
  subject = person(head, dense, 7, frames=5)
  jaw = subject.pose[:, 3]
  whole, parts = (
    Transfer(path, head, dense, chunk=c)(subject, subject.expression, jaw)
    for c in ((500, 5), (37, 2))
  )
  assert whole.shape == (5, len(dense.coarse_ids), 3) and np.abs(whole).max() > 1e-4
  np.testing.assert_allclose(parts, whole, atol=1e-7)
  inside = np.zeros(len(dense.coarse_ids), bool)
  inside[surface.ids] = True
  assert (
    not whole[:, ~inside].any() and not whole[:, np.asarray(dense.regions['eyeballs']) > 0.5].any()
  )


@pytest.mark.long
def test_foreign_exports_are_refused(head, dense, surface, tmp_path):
  other = exported(head, dense, surface, tmp_path / 'wide', expression=49)
  with pytest.raises(
    UserError, match="trained on 49 expression parameters, the head 'procedural' has 10"
  ):
    Transfer(other, head, dense)
  with pytest.raises(
    UserError, match="an export of 'expportrait/vae', not of expportrait/transfer"
  ):
    Transfer(exported(head, dense, surface, tmp_path / 'vae', task='expportrait/vae'), head, dense)
  with pytest.raises(UserError, match='no export'):
    Transfer(tmp_path / 'nowhere', head, dense)


def batch_of(source, transform, config, seed):
  rng = np.random.default_rng(seed)
  drawn = [transform(source[i], rng) for i in rng.integers(0, len(source), config.batch_size)]
  return {k: np.stack([d[k] for d in drawn]) for k in drawn[0]}


@pytest.mark.long
def test_one_subject_is_learnt_to_a_tenth_of_a_millimetre(people):
  config = smoke(people, holdout=2, triangles=64, mirror=False)
  config.model.update(width=48, vertex_dim=24)
  source, transform = transfer_task.examples(config)
  task = transfer_task.task(config)
  batch = batch_of(source, transform, config, 0)
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
    k: (v.shape, v.dtype) for k, v in task.batch_spec.items()
  }
  params, tx = task.init_fn(jax.random.key(0)), optax.adam(optax.cosine_decay_schedule(6e-3, 300))
  state = tx.init(params)

  @jax.jit
  def step(params, state, batch, rng):
    (_, metrics), grads = jax.value_and_grad(task.loss_fn, has_aux=True)(params, batch, rng)
    updates, state = tx.update(grads, state)
    return optax.apply_updates(params, updates), state, metrics

  errors = []
  for i in range(300):
    params, state, metrics = step(
      params, state, batch_of(source, transform, config, i), jax.random.key(i)
    )
    errors.append(float(metrics['error_mm']))
  assert errors[0] > 1 and errors[-1] < 0.1, (errors[0], errors[-1])


def test_the_target_is_what_the_subject_file_says(head, dense, people):
  config = smoke(people, holdout=0)
  source, transform = transfer_task.examples(config)
  faces = SubjectFaces(str(people), 'procedural', part='train', holdout=0)
  example = transform(1, np.random.default_rng(0))  # three frames: all of them
  np.testing.assert_array_equal(example['expression'], faces.subjects[1].expression)
  moving = np.isin(faces.surface.ids[example['at']], faces.subjects[1].dynamic_vertices)
  assert 0.3 < moving.mean() < 1
  expected = 0.004 * example['expression'][:, :1, None]
  np.testing.assert_allclose(
    example['target'][:, moving], np.broadcast_to(expected, (3, moving.sum(), 3)), rtol=2e-3
  )
  assert not example['target'][:, ~moving].any()


def test_weights_undo_the_preference_for_what_moves(people):
  """Any mean over the sample estimates the mean over all triangles."""
  config = smoke(people, triangles=4000)
  source, transform = transfer_task.examples(config)
  faces = SubjectFaces(str(people), 'procedural', part='train', holdout=1)
  example = transform(0, np.random.default_rng(0))
  value = np.isin(faces.surface.ids, faces.subjects[0].dynamic_vertices)
  everywhere = value[faces.surface.faces[:, 0]].mean()
  sampled = np.mean(value[example['at'][::3]] * example['weight'])
  assert abs(sampled - everywhere) < 0.04 and abs(example['weight'].mean() - 1) < 0.05
  assert abs(value[example['at'][::3]].mean() - everywhere) > 0.04, 'without weights it would not'


def test_a_mirrored_batch_is_the_mirrored_person(head):
  """Wrinkles of the left eye belong to the right one, of a symmetric person in the mirror."""
  order = mirrored_expressions(head.expression_names)
  names = head.expression_names
  assert (
    names[order[names.index('eyeBlinkLeft')]] == 'eyeBlinkRight'
    and (order[order] == np.arange(len(order))).all()
  )
  assert mirrored_expressions(('a', 'b')) is None
  rng = np.random.default_rng(0)
  batch = {
    k: jnp.asarray(rng.normal(size=s), jnp.float32)
    for k, s in dict(
      expression=(1, 2, 10),
      jaw=(1, 2, 3),
      neutral=(1, 4, 3),
      normals=(1, 4, 3),
      target=(1, 2, 4, 3),
    ).items()
  }
  place, turned = transfer_task.mirror(jnp.ones((4, 3)), batch, order)
  np.testing.assert_array_equal(place, [[-1, 1, 1]] * 4)
  # a turn about x stays
  np.testing.assert_array_equal(turned['jaw'], batch['jaw'] * jnp.array([1, -1, -1.0]))
  back = transfer_task.mirror(place, turned, order)
  jax.tree.map(np.testing.assert_array_equal, back, (jnp.ones((4, 3)), batch))


def test_mirrored_driving_of_the_mirrored_person_is_the_mirrored_result(head, dense, made, surface):
  """Whatever the parameters, when the module is asked in the mirror too; otherwise not."""
  _, params, subject, seen = made
  order, across = mirrored_expressions(head.expression_names), np.array([-1, 1, 1], np.float32)
  mirrored = dataclasses.replace(surface, place=surface.place * across)
  turned = dataclasses.replace(seen, neutral=seen.neutral * across, normals=seen.normals * across)
  jaw, difference = subject.pose[:, 3], {}
  for name, asked in (('once', None), ('twice', order)):
    plain = Transfer.of(MODEL, params, head, dense, surface, order=asked).on_surface(
      seen, subject.expression, jaw
    )
    there = Transfer.of(MODEL, params, head, dense, mirrored, order=asked)
    other = there.on_surface(turned, subject.expression[:, order], jaw * -across)
    difference[name] = np.linalg.norm(other * across - plain) / np.linalg.norm(plain)
  assert difference['twice'] < 1e-5 < 0.01 < difference['once'], difference


@pytest.mark.long
def test_held_out_people_are_never_trained_on(people):
  parts = {
    part: SubjectFaces(str(people), 'procedural', part=part, holdout=1)
    for part in ('train', 'held_out')
  }
  names = {part: {s.subject_id for s in source.subjects} for part, source in parts.items()}
  assert names == {'train': {'person_0', 'person_1'}, 'held_out': {'person_2'}}
  config = smoke()
  drawn = [transfer_task.faces_of(config.data, part=part) for part in ('train', 'held_out')]
  shapes = [faces.neutral(i).neutral for faces in drawn for i in range(len(faces))]
  assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(shapes) for b in shapes[:i]), (
    'five different people'
  )


@pytest.mark.long
def test_actors_are_the_people_of_the_actors_command():
  from exp_jax.actors import make_stage, sample_actor
  from exp_jax.actors.actor import dynamic_offsets

  faces = ActorFaces('procedural', count=2, seed=5, frames_per_second=3.0, levels=0)
  expression, jaw, offsets = faces.frames(1, np.random.default_rng(0), 4)
  stage = make_stage(load_head('procedural'), 0)
  actor = sample_actor(np.random.default_rng([5, 1]), stage)
  assert offsets.shape == (4, len(faces.surface.ids), 3) and jaw.shape == (4, 3)
  full = np.zeros((faces.surface.count, 3), np.float32)
  for t in range(4):
    full[np.asarray(stage.assets.skin_ids)] = dynamic_offsets(actor, expression[t])
    # kept as float16 millimetres
    np.testing.assert_allclose(offsets[t], full[faces.surface.ids], rtol=2e-3, atol=1e-7)
  assert np.abs(offsets).max() > 5e-6


@pytest.mark.long
def test_the_transfer_that_ships_knows_wrinkles_of_people_it_has_not_seen():
  """Two actors of another seed than its own, from their true neutral heads: far nearer to their
  true offsets than none."""
  try:
    head = load_head('makehuman')
  except UserError as error:
    pytest.skip(str(error))
  faces = ActorFaces('makehuman', count=2, seed=4242, frames_per_second=3.0, levels=1)
  transfer = Transfer(embedded('transfer'), head, faces.dense)
  errors, truths = [], []
  for i in range(2):
    expression, jaw, offsets = faces.frames(i, np.random.default_rng(i), 3)
    errors.append(transfer.on_surface(faces.neutral(i), expression, jaw) - offsets)
    truths.append(offsets)
  share = np.sqrt(np.mean(np.square(errors)) / np.mean(np.square(truths)))
  assert share < 0.7, f'{share:.2f} of the error without any offsets; 0.53 was measured'


@pytest.mark.long
def test_evaluation_shows_both_baselines():
  config = smoke()
  task = transfer_task.task(config)
  ((name, evaluate),) = task.eval_fns
  params = jax.jit(task.init_fn)(jax.random.key(0))
  scores = jax.jit(evaluate)(params, None, None)
  assert name == 'held_out' and scores['of_none'] == pytest.approx(1, abs=1e-4), (
    'untrained: as good as nothing'
  )
  pairs = transfer_task.held_out_pairs(config)
  rms = lambda x: 1e3 * np.sqrt((x**2).sum(-1).mean((1, 2))).mean()
  assert scores['none_mm'] == pytest.approx(rms(pairs['target']), rel=1e-3)
  assert scores['copy_mm'] == pytest.approx(rms(pairs['copy'] - pairs['target']), rel=1e-3)


def test_of_fitted_clips_the_nearest_expression_of_another_is_the_direct_copy(people):
  config = smoke(people, holdout=2)
  pairs, faces = (
    transfer_task.held_out_pairs(config),
    transfer_task.faces_of(config.data, part='held_out'),
  )
  first, second = faces.subjects
  at = np.isin(faces.surface.ids, first.dynamic_vertices)
  for t in range(3):
    frame = np.flatnonzero((first.expression == pairs['expression'][0, t]).all(1))
    np.testing.assert_allclose(
      pairs['target'][0, t][at], first.dynamic_offsets[frame[0]][:1].repeat(at.sum(), 0), rtol=1e-5
    )
    nearest = np.linalg.norm(second.expression - pairs['expression'][0, t], axis=1).argmin()
    np.testing.assert_allclose(
      pairs['copy'][0, t][at], second.dynamic_offsets[nearest][:1].repeat(at.sum(), 0), rtol=1e-5
    )


def test_wrong_settings_are_named(people, tmp_path_factory):
  config = smoke(people)
  config.model.expression = 12
  with pytest.raises(UserError, match='has 10 expressions'):
    transfer_task.examples(config)
  with pytest.raises(UserError, match='3 of them held out'):
    transfer_task.examples(smoke(people, holdout=3))
  with pytest.raises(UserError, match='no subject files'):
    transfer_task.examples(smoke(tmp_path_factory.mktemp('none')))
  with pytest.raises(UserError, match="'films'"):
    transfer_task.examples(smoke(source='films'))
  with pytest.raises(UserError, match='level 0; set config.data.levels'):
    transfer_task.examples(smoke(people, levels=1))


def fit_of(faces, i, error):
  """A subject as if fitted to a picture of actor i: no fine detail, and `error` [3] metres
  everywhere."""
  actor = sample_actor(np.random.default_rng([7, i]), faces.stage)
  static = np.asarray(actor.static_offsets).copy()
  ids = faces.surface.ids
  static[ids] = faces.surface.smooth[-1](np.asarray(static[ids], np.float64)) + error
  base = person(faces.head, faces.dense, i)
  return dataclasses.replace(
    base, shape=np.asarray(actor.shape), static_offsets=static.astype(np.float32)
  )


@pytest.fixture(scope='module')
def fits(tmp_path_factory):
  """Fits of actors 0 and 1 of seed 7, of which there are four; the second is 2 mm too far
  forwards."""
  folder = tmp_path_factory.mktemp('fits')
  faces = ActorFaces('procedural', count=4, seed=7, frames_per_second=2, levels=0)
  for i, error in ((0, 0.0), (1, np.array([0, 0, 2e-3]))):
    save_subject(folder / f'actor_{i:05d}.npz', fit_of(faces, i, error))
  return folder


def test_people_with_a_fit_are_seen_by_it_and_others_with_somebodys_errors(fits):
  faces = ActorFaces('procedural', count=4, seed=7, frames_per_second=2, levels=0, fits=str(fits))
  rng = np.random.default_rng(0)
  subject = load_subject(fits / 'actor_00001.npz')
  own = neutral_of(faces.head, faces.dense, faces.surface, subject.shape, subject.static_offsets)
  np.testing.assert_array_equal(faces.fitted(1, rng).neutral, own.neutral)
  heads = FittedHeads(fits, faces.head, faces.dense, faces.surface)
  heads.learn(lambda i: (faces.person(i)[0], faces.person(i)[4]), 4)
  plain = heads.without_lines(faces.neutral(3), faces.person(3)[4])
  moved = {
    round(1e3 * float((faces.fitted(3, rng).neutral - plain.neutral)[:, 2].mean()), 2)
    for _ in range(20)
  }
  assert moved == {0.0, 2.0}, 'errors of either fit, and nothing else'
  wrong = [
    faces.fitted(k, rng).relief - heads.without_lines(faces.neutral(k), faces.person(k)[4]).relief
    for k in (0, 1)
  ]
  assert min(np.abs(each).max() for each in wrong) > 1e-6
  for _ in range(5):
    found = faces.fitted(3, rng).relief - plain.relief
    assert min(np.abs(found - each).max() for each in wrong) < 1e-9, (
      'relief is as wrong as in one of the fits'
    )
  right, flat = faces.fitted(0, rng), heads.without_lines(faces.neutral(0), faces.person(0)[4])
  np.testing.assert_allclose(right.neutral, flat.neutral, atol=1e-6)
  # along normals of their own
  np.testing.assert_allclose(right.relief, flat.relief, rtol=0.1, atol=5e-6)
  assert np.abs(faces.neutral(0).relief - flat.relief).mean() > 5e-6, 'and lines were there'
  for _ in range(5):
    assert np.abs(np.linalg.norm(faces.fitted(2, rng).normals, axis=-1) - 1).max() < 1e-5


def test_training_draws_fits_by_their_share(fits):
  config = smoke(fits=str(fits), fits_share=1.0, count=4, seed=7)
  _, transform = transfer_task.examples(config)
  faces = ActorFaces('procedural', count=4, seed=7, frames_per_second=2, levels=0, fits=str(fits))
  seen = lambda config, i: transfer_task.examples(config)[1](i, np.random.default_rng(1))['neutral']
  np.testing.assert_array_equal(
    transform(1, np.random.default_rng(1))['neutral'], faces.fitted(1, None).neutral
  )
  source, others = transfer_task.held_out(config)
  assert (
    others(source[0], np.random.default_rng(1))['neutral'].shape == faces.neutral(0).neutral.shape
  ), 'they have no fits'
  config.data.update(fits_share=0.0)
  config.data.noise.share = 0.0
  np.testing.assert_array_equal(seen(config, 1), faces.neutral(1).neutral)


@pytest.mark.long
def test_fits_that_do_not_go_with_the_actors_are_refused(fits, tmp_path):
  with pytest.raises(UserError, match='no fits'):
    ActorFaces('procedural', count=4, seed=7, frames_per_second=2, levels=0, fits=str(tmp_path))
  with pytest.raises(UserError, match='fit of person 1, but config.data.count is 1'):
    ActorFaces('procedural', count=1, seed=7, frames_per_second=2, levels=0, fits=str(fits))
  with pytest.raises(UserError, match='subjects are fits themselves'):
    transfer_task.examples(smoke(fits, fits=str(fits)))
  faces = ActorFaces('procedural', count=4, seed=7, frames_per_second=2, levels=0)
  for i in range(3):
    save_subject(tmp_path / f'actor_{i:05d}.npz', fit_of(faces, (i + 1) % 4, 0.0))
  with pytest.raises(UserError, match='not of the people of config.data.seed'):
    ActorFaces('procedural', count=4, seed=7, frames_per_second=2, levels=0, fits=str(tmp_path))
  save_subject(tmp_path / 'ann.npz', fit_of(faces, 0, 0.0))
  with pytest.raises(UserError, match='not named as the clips'):
    ActorFaces('procedural', count=4, seed=7, frames_per_second=2, levels=0, fits=str(tmp_path))
