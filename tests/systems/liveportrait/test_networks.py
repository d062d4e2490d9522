"""The networks against torch: stored outputs of the tiny and the published sizes, and live where
torch is installed."""

import importlib.util
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.convert.liveportrait import leaf_shapes
from exp_jax.convert.liveportrait_weights import liveportrait_names as names
from exp_jax.files.safetensors import nested
from exp_jax.systems.liveportrait.models import PARTS, networks, paint
from exp_jax.systems.liveportrait.motion import spectrum
from exp_jax.systems.liveportrait.networks import convolutions, volumes
from exp_jax.systems.liveportrait.networks.generator import shuffle
from exp_jax.systems.liveportrait.networks.keypoints import (
  degrees_from_rotation,
  rotation_from_degrees,
  transform,
)
from exp_jax.systems.liveportrait.networks.motion import degrees, depthwise, read_motion

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE.parents[1] / 'golden'


def load_beside(name):
  """A module of this folder: pytest imports tests by path, without a package."""
  spec = importlib.util.spec_from_file_location(name, HERE / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  spec.loader.exec_module(module)
  return module


rw = load_beside('random_weights')
SEEDS = dict(appearance=1, motion=2, warping=3, generator=4, stitching=5, eyes=6, lip=7)
TOTALS = dict(
  appearance=(836_224, 107),
  motion=(28_118_728, 212),
  warping=(45_529_829, 97),
  generator=(55_365_388, 182),
  stitching=(45_249, 8),
  eyes=(144_703, 12),
  lip=(37_311, 8),
)


def params_of(variant, parts=PARTS):
  nets, out = networks(variant), {}
  for part in parts:
    rules, leaves = names.rules_of(nets, part), leaf_shapes(nets, part)
    given = rw.state_dict(names.expected(rules, leaves), SEEDS[part])
    arrays, _ = names.read_part(
      rules, leaves, {n: v.shape for n, v in given.items()}, given.__getitem__, part
    )
    out[part] = nested(arrays.items())
  return nets, out


@pytest.fixture(scope='module')
def tiny():
  return params_of('tiny')


def chain(nets, params, size, batch):
  images, source, driving = rw.inputs(size, 11, batch)

  @jax.jit
  def run(params, images, source, driving):
    apply = lambda part, *x, **k: getattr(nets, part).apply({'params': params[part]}, *x, **k)
    volume = apply('appearance', images)
    warped, details = apply('warping', volume, driving, source, details=True)
    return dict(
      volume=volume,
      warped=warped,
      picture=apply('generator', warped),
      deformation=details['deformation'],
      occlusion=details['occlusion'],
      motion=apply('motion', images),
      **{
        n: apply(n, rw.vectors(getattr(nets, n).sizes[0], 20 + i))
        for i, n in enumerate(('stitching', 'eyes', 'lip'))
      },
    )

  found = jax.tree.map(np.asarray, run(params, images, source, driving))
  return found | {f'motion/{n}': v for n, v in found.pop('motion').items()}


def check(found, golden, every=1):
  assert set(found) == set(golden)
  for name in golden:
    ours = found[name]
    ours = ours.reshape(-1)[::every] if ours.size > 10_000 and every > 1 else ours
    assert ours.shape == golden[name].shape, name
    # fp32 sums in another order through the whole chain; the bar
    np.testing.assert_allclose(ours, golden[name], atol=1e-4, rtol=1e-4, err_msg=name)
    assert np.abs(golden[name]).mean() > 1e-3, name


@pytest.mark.long
def test_equals_torch(tiny):
  """Stored outputs of torch 2.13; after a change of sizes or seeds run make_fixture.py."""
  golden = np.load(GOLDEN / 'liveportrait_tiny.npz')
  check(chain(*tiny, 64, 2), {n: golden[n] for n in golden.files})


@pytest.mark.slow
def test_published_sizes_equal_torch():
  """Every 997th number of the published sizes, end to end; make_fixture.py --base."""
  golden = np.load(GOLDEN / 'liveportrait_base.npz')
  check(chain(*params_of('base'), 256, 1), {n: golden[n] for n in golden.files}, every=997)


@pytest.mark.slow
def test_equals_torch_here():
  pytest.importorskip('torch')
  load_beside('torch_networks')
  found = load_beside('make_fixture').outputs(sys.modules['torch_networks'].TINY, 64, 2)
  check(chain(*params_of('tiny'), 64, 2), found)


@pytest.mark.parametrize('part', PARTS)
def test_parameters_and_tensors_as_published(part):
  nets = networks('base')
  tensors = names.expected(names.rules_of(nets, part), leaf_shapes(nets, part))
  assert (names.learned(tensors), len(tensors)) == TOTALS[part]


def test_real_sizes_by_shape():
  nets = networks('base')
  from exp_jax.systems.liveportrait.models import init_params

  params = jax.eval_shape(lambda: init_params(nets, jax.random.key(0)))
  points = jax.ShapeDtypeStruct((2, 21, 3), jnp.float32)
  volume = jax.eval_shape(
    lambda p, x: nets.appearance.apply({'params': p}, x),
    params['appearance'],
    jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32),
  )
  assert volume.shape == (1, 16, 64, 64, 32)
  picture = jax.eval_shape(
    lambda p, v, s, d: paint(nets, p, v, s, d), params, volume, points, points
  )
  assert picture.shape == (2, 512, 512, 3) and picture.dtype == jnp.float32


def test_shifted_sampling_equals_general_sampling():
  rng = np.random.default_rng(0)
  volume = rng.normal(size=(2, 3, 5, 7, 2)).astype(np.float32)
  shifts = rng.uniform(-1.5, 1.5, (2, 4, 3)).astype(np.float32)
  together = volumes.sample_shifted(volume, shifts)
  for k in range(4):
    one = volumes.sample_volume(
      volume, volumes.identity_grid((3, 5, 7)) + shifts[:, k, None, None, None]
    )
    np.testing.assert_allclose(together[..., k, :], one, atol=1e-5)


def test_sampling_against_a_loop():
  rng = np.random.default_rng(1)
  volume, places = (
    rng.normal(size=(1, 3, 4, 5, 2)).astype(np.float32),
    rng.uniform(-1.6, 1.6, (1, 50, 3)).astype(np.float32),
  )
  found = np.asarray(volumes.sample_volume(volume, places))
  for n, place in enumerate(places[0]):
    cell = [((v + 1) * size - 1) / 2 for v, size in zip(place, (5, 4, 3))]
    total = np.zeros(2)
    for z in range(3):
      for y in range(4):
        for x in range(5):
          weight = np.prod([max(0.0, 1 - abs(c - i)) for c, i in zip(cell, (x, y, z))])
          total += weight * volume[0, z, y, x]
    np.testing.assert_allclose(found[0, n], total, atol=1e-5)


def test_the_identity_grid_touches_the_border():
  """8.6: ones stay ones inside, a half for every border axis, an eighth in the corners."""
  for sample in (
    lambda v: volumes.sample_volume(v, volumes.identity_grid((4, 5, 6))[None]),
    lambda v: volumes.sample_shifted(v, jnp.zeros((1, 1, 3)))[..., 0, :],
  ):
    out = np.asarray(sample(jnp.ones((1, 4, 5, 6, 1))))[0, ..., 0]
    border = lambda n: np.where((np.arange(n) == 0) | (np.arange(n) == n - 1), 0.5, 1.0)
    np.testing.assert_allclose(
      out, border(4)[:, None, None] * border(5)[:, None] * border(6), atol=1e-6
    )
    assert abs(out[0, 0, 0] - 0.125) < 1e-6


def test_gaussians_against_the_formula():
  points = np.random.default_rng(2).uniform(-1, 1, (2, 3, 3)).astype(np.float32)
  grid = np.asarray(volumes.identity_grid((3, 5, 7)))
  full = np.exp(-np.square(grid[None, ..., None, :] - points[:, None, None, None]).sum(-1) / 0.02)
  np.testing.assert_allclose(volumes.heatmaps(points, (3, 5, 7), variance=0.01), full, atol=1e-6)


@pytest.mark.parametrize('factor, depth', [(2, 0), (2, 3), (4, 0)])
def test_phases_equal_the_convolution_of_the_repeated(factor, depth):
  rng = np.random.default_rng(3)
  x = rng.normal(size=(2, *(depth,) * bool(depth), 4, 6, 3)).astype(np.float32)
  kernel = rng.normal(size=(*(3,) * bool(depth), 3, 3, 3, 5)).astype(np.float32)
  whole = convolutions.convolution(convolutions.repeat(x, factor), kernel)
  np.testing.assert_allclose(
    convolutions.convolution_of_repeated(x, kernel, factor), whole, atol=2e-5
  )


def test_slices_equal_the_convolution_of_a_volume():
  rng = np.random.default_rng(7)
  for taps, padding in (
    ((3, 3, 3), ((1, 1), (1, 1), (1, 1))),
    ((3, 2, 2), ((1, 1), (1, 0), (0, 1))),
    ((1, 1, 1), ((0, 0),) * 3),
  ):
    x, kernel = (
      rng.normal(size=(2, 4, 5, 7, 3)).astype(np.float32),
      rng.normal(size=(*taps, 3, 2)).astype(np.float32),
    )
    direct = convolutions.direct(x, kernel, padding)
    np.testing.assert_allclose(
      convolutions.by_depth(jnp.asarray(x), jnp.asarray(kernel), padding), direct, atol=2e-5
    )


@pytest.mark.long
@pytest.mark.parametrize(
  'depth, taps, padding',
  [
    (8, (3, 3, 3), ((1, 1),) * 3),
    (9, (3, 2, 2), ((1, 1), (1, 0), (0, 1))),
    (8, (7, 7, 7), ((3, 3),) * 3),
  ],
)
def test_the_spectrum_of_depth_equals_the_convolution_of_a_volume(depth, taps, padding):
  rng = np.random.default_rng(8)
  x = jnp.asarray(rng.normal(size=(2, depth, 16, 17, 3)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(*taps, 3, 4)) / np.sqrt(3 * np.prod(taps)), jnp.float32)
  found, direct = convolutions.on_cpu(x, kernel, padding), convolutions.direct(x, kernel, padding)
  np.testing.assert_allclose(found, direct, atol=1e-5)
  # the other branch was taken
  assert 1e-9 < np.abs(found - convolutions.by_depth(x, kernel, padding)).max()


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='options of CPUs')
def test_the_options_change_no_number_and_an_xla_without_them_is_left_alone(monkeypatch):
  rng = np.random.default_rng(0)
  x, kernel = (
    rng.standard_normal((1, 8, 16, 16, 8)).astype(np.float32),
    rng.standard_normal((3, 3, 3, 8, 8)).astype(np.float32),
  )
  convolutions.compiler_options.cache_clear()
  with_them = jax.jit(convolutions.convolution, compiler_options=convolutions.compiler_options())(
    x, kernel
  )
  np.testing.assert_allclose(with_them, jax.jit(convolutions.convolution)(x, kernel), atol=1e-4)
  monkeypatch.setattr(convolutions, 'EIGEN', {'xla_cpu_no_such_option': '1'})
  convolutions.compiler_options.cache_clear()
  assert convolutions.compiler_options() is None
  convolutions.compiler_options.cache_clear()


def test_depth_takes_the_fewest_convolutions():
  """A real one and three for each wave: 25 for 16 slices and 3 taps, 28 for 7."""
  assert [len(spectrum.tables(16, n)[0]) for n in (3, 7)] == [25, 28]


def test_shifts_equal_the_convolution():
  rng = np.random.default_rng(4)
  x, kernel = (
    rng.normal(size=(1, 3, 5, 8, 4)).astype(np.float32),
    rng.normal(size=(3, 3, 7, 4, 2)).astype(np.float32),
  )
  np.testing.assert_allclose(
    convolutions.convolution_by_shifts(x, kernel), convolutions.convolution(x, kernel), atol=2e-5
  )


def test_depthwise_equals_a_grouped_convolution():
  rng = np.random.default_rng(5)
  x, kernel = (
    rng.normal(size=(2, 5, 9, 6)).astype(np.float32),
    rng.normal(size=(7, 7, 1, 6)).astype(np.float32),
  )
  grouped = jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', feature_group_count=6, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  np.testing.assert_allclose(depthwise(x, kernel), grouped, atol=1e-5)
  plain = lambda x, k: sum(
    jnp.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))[:, i : i + 5, j : j + 9] * k[i, j, 0]
    for i in range(7)
    for j in range(7)
  )
  weight = rng.normal(size=x.shape)
  ours, want = (
    jax.jit(jax.grad(lambda x, k, f=f: (f(x, k) * weight).sum(), (0, 1)))(x, kernel)
    for f in (depthwise, plain)
  )
  for a, b in zip(ours, want):
    np.testing.assert_allclose(a, b, atol=2e-4)  # sums of 90 products of size 3 in float32


def test_channels_of_a_picture_are_channel_times_depth_plus_depth():
  """8.8, with numbers that tell where they were."""
  C, D = 3, 4
  picture = jnp.arange(2 * 5 * 7 * C * D).reshape(2, 5, 7, C * D)
  volume = volumes.volume_of(picture, D)
  assert volume.shape == (2, D, 5, 7, C)
  for c in range(C):
    for d in range(D):
      np.testing.assert_array_equal(volume[:, d, :, :, c], picture[..., c * D + d])
  np.testing.assert_array_equal(volumes.picture_of(volume), picture)
  x = jnp.arange(2 * 3 * 12).reshape(1, 2, 3, 12)
  out = shuffle(x)
  for c in range(3):
    for i in range(2):
      for j in range(2):
        np.testing.assert_array_equal(out[:, i::2, j::2, c], x[..., 4 * c + 2 * i + j])


def test_rotation_and_degrees():
  """8.5."""
  rotation = rotation_from_degrees(jnp.array([10.0, 20.0, 30.0]))
  np.testing.assert_allclose(
    rotation,
    [
      [0.813798, 0.469846, -0.342020],
      [-0.440970, 0.882564, 0.163176],
      [0.378522, 0.018028, 0.925417],
    ],
    atol=2e-6,
  )
  np.testing.assert_allclose(
    np.array([0.1, 0.2, 0.3]) @ rotation, [0.106743, 0.228906, 0.276058], atol=2e-6
  )
  np.testing.assert_allclose(degrees_from_rotation(rotation), [10, 20, 30], atol=1e-4)
  assert abs(float(degrees(jnp.zeros(66)))) < 1e-4
  for i in (0, 40, 65):
    np.testing.assert_allclose(degrees(200.0 * jax.nn.one_hot(i, 66)), 3 * i - 97.5, atol=1e-4)


@pytest.mark.long
def test_transform_adds_expression_after_rotation_and_drops_z(tiny):
  nets, params = tiny
  rng = np.random.default_rng(6)
  kp, exp = rng.normal(size=(2, 21, 3)), rng.normal(size=(2, 21, 3))
  R, s, t = (
    np.asarray(rotation_from_degrees(rng.uniform(-40, 40, (2, 3)))),
    np.array([1.2, 1.5]),
    rng.normal(size=(2, 3)),
  )
  found = transform(kp, R, exp, s, t)
  for b in range(2):
    for k in range(21):
      expected = s[b] * (R[b].T @ kp[b, k] + exp[b, k]) + t[b] * [1, 1, 0]
      np.testing.assert_allclose(found[b, k], expected, atol=1e-5)
  raw = jax.jit(lambda p, x: nets.motion.apply({'params': p}, x))(
    params['motion'], rw.inputs(64, 11)[0]
  )
  motion = read_motion(raw)
  assert (
    motion.rotation.shape == (2, 3, 3)
    and motion.scale.shape == (2,)
    and motion.canonical.shape == (2, 21, 3)
  )
  np.testing.assert_array_equal(motion.expression[1, 2], raw['exp'][1, 6:9])
