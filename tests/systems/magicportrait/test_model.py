"""MagicPortrait's networks: sizes, nothing of maps before the first update, ablations as switches,
what training starts from."""

import functools
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.files.safetensors import flattened
from exp_jax.networks.codec import open_codec
from exp_jax.networks.sd_start import without_head
from exp_jax.systems.magicportrait.guidance_encoder import guidance_encoder
from exp_jax.systems.magicportrait.maps import shown_maps
from exp_jax.systems.magicportrait.model import initial_params, is_motion, is_read, networks_of
from exp_jax.systems.magicportrait.start import start_fn
from exp_jax.training.exports import write_export
from tests.systems.magicportrait.small_magic import ROOT, config_of, drawn, small

pytestmark = pytest.mark.usefixtures('lightly_compiled')


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


def paths(tree):
  return {name.replace('.', '/'): leaf for name, leaf in flattened(tree).items()}


@pytest.mark.long
def test_the_published_encoder_by_shapes_and_nothing_at_creation():
  full = guidance_encoder('full')
  shapes = jax.eval_shape(full.init, jax.random.key(0), jnp.zeros((1, 1, 64, 64, 3)))
  assert count(shapes) == 2_270_736 and len(jax.tree.leaves(shapes)) == 35 and full.stride == 8
  out = jax.eval_shape(full.apply, shapes, jnp.zeros((1, 12, 512, 512, 3)))
  assert out.shape == (1, 12, 64, 64, 320)
  net, x = (
    guidance_encoder('smoke'),
    jnp.asarray(np.random.default_rng(0).uniform(0, 1, (2, 3, 8, 12, 3)), jnp.float32),
  )
  variables = jax.jit(net.init)(jax.random.key(0), x)
  assert (
    net.apply(variables, x).shape == (2, 3, 2, 3, 32)
    and not np.asarray(net.apply(variables, x)).any()
  )
  gradient = jax.jit(jax.grad(lambda v: net.apply(v, x).sum()))(variables)['params']
  assert (
    np.abs(gradient['conv_out']['kernel']).max() > 0
    and not np.asarray(gradient['stem']['conv_in']['kernel']).any()
  )
  without = guidance_encoder('smoke', attend=False)
  assert 'conv' in jax.eval_shape(without.init, jax.random.key(0), x)['params']
  with pytest.raises(ValueError, match="unknown variant 'huge'"):
    guidance_encoder('huge')


@pytest.mark.long
def test_before_the_first_update_neither_maps_nor_motion_modules_matter():
  config = config_of()
  codec = open_codec(**config.vae)
  networks = networks_of(config, codec)
  params = jax.jit(functools.partial(initial_params, networks, size=16, codec=codec))(
    jax.random.key(1)
  )
  maps = {k: v.reshape(2, 3, *v.shape[1:]) for k, v in drawn(6).items()}
  rng = np.random.default_rng(0)
  x, z = (jnp.asarray(rng.normal(0, 1, (2, *more, 4, 4, 48)), jnp.float32) for more in ((3,), ()))
  guidance, bank, t = (
    networks.guidance(params, shown_maps(networks.maps, maps)),
    networks.bank(params, z),
    jnp.array([999, 3]),
  )
  assert not np.asarray(guidance).any()
  clip = networks.predict(params, x, t, guidance, bank)
  still = networks_of(config_of('smoke'), codec)
  alone = {path: leaf for path, leaf in flattened(params).items() if '.motion.' not in path}
  from exp_jax.files.safetensors import nested

  for k in range(3):
    one = still.predict(nested(alone.items()), x[:, k : k + 1], t, None, bank)
    np.testing.assert_allclose(clip[:, k : k + 1], one, atol=2e-5)


@pytest.mark.long
@pytest.mark.parametrize('fusion', ('concat', 'add'))
def test_a_dropped_reference_is_none_and_a_kept_one_matters(fusion):
  _, networks, params, _ = small(model__fusion=fusion)
  rng = np.random.default_rng(0)
  x, z = (jnp.asarray(rng.normal(0, 1, (2, *more, 4, 4, 48)), jnp.float32) for more in ((3,), ()))
  predict, t = jax.jit(networks.predict), jnp.array([500, 20])
  bank = jax.jit(networks.bank)(params, z)
  dropped, none = (
    predict(params, x, t, None, bank, jnp.array([False, True])),
    predict(params, x, t, None, None),
  )
  np.testing.assert_allclose(dropped[0], none[0], atol=2e-5)
  assert np.abs(dropped[1] - none[1]).max() > 1e-2


@pytest.mark.long
@pytest.mark.parametrize('fusion', ('concat', 'add'))
def test_what_is_read_of_appearancenet_is_what_gets_a_gradient(fusion):
  """Every leaf but those behind the last tokens, found by the gradient of a prediction."""
  _, networks, params, _ = small('smoke', model__fusion=fusion)
  z = jnp.asarray(np.random.default_rng(1).normal(0, 1, (1, 4, 4, 48)), jnp.float32)
  loss = lambda params: jnp.square(
    networks.predict(params, z[:, None], jnp.array([700]), None, networks.bank(params, z))
  ).sum()
  gradient = paths(jax.jit(jax.grad(loss))(params))
  silent = {
    path
    for path, leaf in gradient.items()
    if path.startswith('appearance/') and not np.asarray(leaf).any()
  }
  assert silent == {path for path in gradient if not is_read(networks, path)} and silent


@pytest.mark.long
def test_by_size_what_is_never_read_is_what_the_published_network_holds(tmp_path):
  np.savez(tmp_path / 'p.npz', positive=np.zeros((77, 768), np.float32))
  from exp_jax.networks.codec import Codec

  codec = Codec((1, 8, 8), 4, lambda x: x, lambda z: z, lambda: lambda z: z)
  networks = networks_of(
    config_of('stage2', model__prompt=str(tmp_path / 'p.npz'), model__attention='xla'), codec
  )
  shapes = paths(
    jax.eval_shape(
      functools.partial(initial_params, networks, size=64, codec=codec), jax.random.key(0)
    )
  )
  assert sum(x.size for path, x in shapes.items() if not is_read(networks, path)) == 2_442_240
  assert sum(x.size for path, x in shapes.items() if is_motion(path)) == 453_209_280


@pytest.mark.long
def test_each_ablation_is_a_network_of_its_own():
  parts = lambda **changes: small(**changes)[2]
  assert set(parts(condition__maps=('depth',))['guidance']) == {
    'depth'
  } and 'guidance' not in parts(condition__maps=())
  assert 'appearance' not in parts(model__fusion='none')
  _, networks, params, _ = small(condition__maps=('landmarks', 'depth'))
  maps = {k: v[None] for k, v in drawn(2).items()}
  assert networks.guidance(params, shown_maps(networks.maps, maps)).shape == (1, 2, 4, 4, 32)
  apply = lambda name: networks.encoder.apply(
    {'params': params['guidance'][name]}, shown_maps((name,), maps)[name]
  )
  own = {name: apply(name) for name in networks.maps}
  np.testing.assert_allclose(
    networks.guidance(params, shown_maps(networks.maps, maps)), sum(own.values()), atol=1e-5
  )


@pytest.mark.parametrize(
  'changes, words',
  [
    (dict(condition__maps=('sketch',)), "config.condition.maps names 'sketch', choose from depth"),
    (dict(condition__maps=('depth', 'depth')), 'names a map twice'),
    (dict(model__fusion='mix'), "config.model.fusion is 'mix', choose from 'concat'"),
    (dict(model__motion='yes'), "config.model.motion is 'yes'"),
    (dict(model__variant='sd99'), "config.model.variant is 'sd99', choose from"),
    (
      dict(condition__encoder='full'),
      "the guidance encoder 'full' makes 320 channels a 8th of the size",
    ),
    (
      dict(model__text_dim=24),
      "read the embedding of the prompt 'A close up of a person.': make it by",
    ),
  ],
)
def test_what_does_not_fit_is_refused(changes, words):
  config = config_of(**changes)
  with pytest.raises(UserError, match=words):
    networks_of(config, open_codec(**config.vae))


def init_of(config):
  codec = open_codec(**config.vae)
  networks = networks_of(config, codec)
  return networks, functools.partial(initial_params, networks, size=config.data.size, codec=codec)


@pytest.mark.long
def test_both_networks_start_from_the_prior_and_the_second_stage_from_the_first(tmp_path):
  prior = runpy.run_path(str(ROOT / 'configs' / 'sd_tiny.py'))['get_config']('smoke')
  _, _, params, _ = small('smoke', seed=5)
  write_export(tmp_path / 'prior', prior, params['denoiser'], dtype='float32')
  config = config_of('smoke', model__weights=str(tmp_path / 'prior'))
  found = start_fn(config, *init_of(config))()
  weights = flattened(params['denoiser'])
  assert set(found) == {'denoiser', 'appearance'}
  for part, wanted in (('denoiser', weights), ('appearance', without_head(weights))):
    own = flattened(found[part])
    assert set(own) == set(wanted) and all((own[name] == wanted[name]).all() for name in wanted)
  assert len(without_head(weights)) == len(weights) - 4

  write_export(tmp_path / 'one', config_of('smoke'), params, dtype='float32')
  config = config_of(model__weights=str(tmp_path / 'one'))
  found = flattened(start_fn(config, *init_of(config))())
  assert set(found) == set(flattened(params)) and all(
    (found[name] == leaf).all() for name, leaf in flattened(params).items()
  )
  for changes, words in (
    (
      dict(model__fusion='add'),
      "was trained with model.fusion 'concat', config.model.fusion says 'add'",
    ),
    (dict(diffusion__betas='scaled_linear'), "was trained with diffusion.betas 'linear'"),
    (dict(condition__maps=('depth',)), 'was trained with condition.maps'),
  ):
    config = config_of(model__weights=str(tmp_path / 'one'), **changes)
    with pytest.raises(UserError, match=words):
      start_fn(config, *init_of(config))()
  config = config_of(model__weights=str(tmp_path / 'prior'))
  with pytest.raises(
    UserError,
    match="is an export of 'sd/prior'; the second stage starts from one of 'magicportrait/stage1'",
  ):
    start_fn(config, *init_of(config))()
  config = config_of(model__motion_weights='weights/motion')
  with pytest.raises(UserError, match='config.model.weights says scratch'):
    start_fn(config, *init_of(config))


@pytest.mark.long
def test_the_embedded_prior_fits_the_tiny_model():
  config = config_of('tiny')
  found = start_fn(config, *init_of(config))()
  assert count(found['denoiser']) > 3_500_000 and count(found['denoiser']) > count(
    found['appearance']
  )
