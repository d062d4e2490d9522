"""Loki's networks: published sizes, nothing of the map before the first update, ablations as
switches, what training starts from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.files.safetensors import flattened
from exp_jax.networks.codec import Codec, open_codec
from exp_jax.networks.sd_start import without_text
from exp_jax.systems.loki import task as loki_task
from exp_jax.systems.loki.model import MAPS, initial_params, networks_of, shown_maps
from exp_jax.systems.loki.start import start_fn
from exp_jax.training.exports import write_export
from tests.systems.loki.small_loki import config_of, random_params, small

pytestmark = pytest.mark.usefixtures('lightly_compiled')
# of Stable Diffusion, shapes alone
LATENTS = Codec((1, 8, 8), 4, lambda x: x, lambda z: z, lambda: lambda z: z)


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


def maps(rng, B=2, T=2, S=16):
  return dict(
    places=rng.uniform(-1, 1, (B, T, S, S, 3)),
    depth=rng.normal(0, 0.1, (B, T, S, S)),
    deformation=rng.normal(0, 1, (B, T, S, S, 3)),
    mask=np.full((B, T, S, S), 255, np.uint8),
    video=rng.integers(0, 255, (B, T, S, S, 3)).astype(np.uint8),
    vector=rng.normal(0, 1, (B, T, 6)),
  )


@pytest.mark.long
def test_the_published_sizes(tmp_path):
  prompt = tmp_path / 'empty.npz'
  np.savez(prompt, positive=np.zeros((77, 1024), np.float32))
  config = config_of('', model__prompt=str(prompt), model__attention='xla')
  networks = networks_of(config, LATENTS)
  shapes = jax.eval_shape(
    functools.partial(initial_params, networks, size=512, codec=LATENTS), jax.random.key(0)
  )
  assert count(shapes['generator']) == 815_533_444
  assert count(shapes['encoder']) == 7_345_344
  assert count(shapes['reference']) == 865_910_724
  vae = 34_163_664 + 49_490_199
  # the paper's count, both UNets and the autoencoder
  assert round((count(shapes) + vae) / 1e9, 2) == 1.77


@pytest.mark.long
def test_before_the_first_update_the_map_changes_nothing():
  config, networks, params, codec = small()
  made = jax.jit(functools.partial(initial_params, networks, size=16, codec=codec))(
    jax.random.key(3)
  )
  assert {k: v.shape for k, v in flattened(made).items()} == {
    k: v.shape for k, v in flattened(params).items()
  }
  rng = np.random.default_rng(0)
  x, times = rng.normal(0, 1, (2, 2, 4, 4, 48)).astype(np.float32), np.array([[3, 700], [40, 999]])
  predict = jax.jit(networks.predict)
  bank = networks.bank(made, x[:, 0])
  assert len(bank) == networks.generator.transformers == 4
  of = lambda seed: np.asarray(
    predict(
      made,
      x,
      times,
      networks.guidance(made, shown_maps('full', maps(np.random.default_rng(seed)))),
      bank,
    )
  )
  np.testing.assert_array_equal(of(1), of(2))
  trained = made | {'encoder': params['encoder']}
  moved = lambda seed: np.asarray(
    predict(
      trained,
      x,
      times,
      networks.guidance(trained, shown_maps('full', maps(np.random.default_rng(seed)))),
      bank,
    )
  )
  assert np.abs(moved(1) - moved(2)).max() > 1e-3
  dropped = predict(
    made,
    x,
    times,
    networks.guidance(made, shown_maps('full', maps(rng))),
    bank,
    np.array([False, True]),
  )
  alone = predict(made, x, times, networks.guidance(made, shown_maps('full', maps(rng))), None)
  np.testing.assert_allclose(dropped[0], alone[0], atol=1e-5)
  assert np.abs(np.asarray(dropped - alone)[1]).max() > 1e-3


@pytest.mark.parametrize('kind', MAPS)
def test_each_map_reaches_the_encoder(kind):
  shown = shown_maps(kind, maps(np.random.default_rng(0)))
  config = config_of(condition__map=kind, data__vector=6)
  networks = networks_of(config, open_codec(**config.vae), vector=6)
  shapes = jax.eval_shape(networks.encoder.init_with_output, jax.random.key(0), shown)
  assert shapes[0].shape == (2, 2, 4, 4, 32)
  assert shown.shape == ((2, 2, 6) if kind == 'vector' else (2, 2, 16, 16, MAPS[kind]))


@pytest.mark.parametrize(
  'changes, words',
  [
    (dict(condition__map='sketch'), "config.condition.map is 'sketch', choose from full"),
    (dict(model__reference='clip'), "config.model.reference is 'clip', choose from frozen"),
    (dict(model__variant='sd99'), "config.model.variant is 'sd99', choose from"),
    (
      dict(condition__encoder='full'),
      "the map encoder 'full' makes 320 channels a 8th of the size",
    ),
  ],
)
def test_what_does_not_fit_is_refused(changes, words):
  config = config_of(**changes)
  with pytest.raises(UserError, match=words):
    networks_of(config, open_codec(**config.vae))


def test_a_reference_with_text_needs_its_prompt(tmp_path):
  with pytest.raises(UserError, match='read the embedding of the empty prompt: make it by'):
    networks_of(config_of('', model__prompt=''), LATENTS)
  np.savez(tmp_path / 'odd.npz', positive=np.zeros((77, 768), np.float32))
  with pytest.raises(UserError, match='this network reads finite numbers of width 1024'):
    networks_of(config_of('', model__prompt=str(tmp_path / 'odd.npz')), LATENTS)


def test_a_run_is_planned_without_its_prompt_but_not_begun(tmp_path):
  config = config_of('', model__prompt=str(tmp_path / 'nowhere.npz'), model__attention='xla')
  text = networks_of(config, LATENTS, planned=True).text
  assert text.shape == (1, 77, 1024) and not text.any()
  with pytest.raises(UserError, match='nowhere.npz'):
    networks_of(config, LATENTS)
  with pytest.raises(UserError, match='config.model.prompt is not there: make it by'):
    loki_task.examples(config)


def test_no_reference_is_no_network():
  _, networks, params, _ = small(model__reference='none')
  assert (
    networks.reference is None
    and set(params) == {'generator', 'encoder'}
    and networks.bank(params, None) is None
  )


def prior(folder, **changes):
  """An export of the prior with the layout of the smoke config."""
  import runpy

  from tests.systems.loki.small_loki import ROOT

  config = runpy.run_path(str(ROOT / 'configs' / 'sd_tiny.py'))['get_config']('smoke')
  _, networks, params, _ = small(seed=5)
  write_export(folder, config, params['reference'], dtype='float32')
  return params['reference']


@pytest.mark.long
def test_both_networks_start_from_the_prior(tmp_path):
  weights = prior(tmp_path / 'prior')
  config = config_of(model__weights=str(tmp_path / 'prior'))
  codec = open_codec(**config.vae)
  networks = networks_of(config, codec)
  init = functools.partial(initial_params, networks, size=16, codec=codec)
  found = start_fn(config, networks, init)()
  for part in ('generator', 'reference'):
    for name, array in flattened(found[part]).items():
      np.testing.assert_array_equal(array, flattened(weights)[name], err_msg=name)
  assert set(found) == {'generator', 'reference'}
  random_one = config_of(model__weights=str(tmp_path / 'prior'), model__reference='random')
  assert set(start_fn(random_one, networks, init)()) == {'generator'}
  with pytest.raises(UserError, match='config.model.weights is empty'):
    start_fn(config_of(model__weights=''), networks, init)
  assert start_fn(config_of(), networks, init) is None
  other = config_of(model__weights=str(tmp_path / 'prior'), model__widths=(32, 64))
  networks = networks_of(other, codec)
  init = functools.partial(initial_params, networks, size=16, codec=codec)
  with pytest.raises(UserError, match='set config.model.variant to theirs'):
    start_fn(other, networks, init)()
  with pytest.raises(UserError, match='there is no export at'):
    start_fn(config_of(model__weights=str(tmp_path / 'nowhere')), networks, init)()


@pytest.mark.long
def test_of_a_checkpoint_with_text_the_generator_takes_all_but_cross_attention():
  from exp_jax.networks.sd_unet import sd_unet

  of = lambda text: flattened(
    jax.eval_shape(
      sd_unet('tiny21', text_dim=text).init,
      jax.random.key(0),
      jnp.zeros((1, 1, 8, 8, 4)),
      jnp.zeros(1),
      jnp.zeros((1, 2, text)) if text else None,
    )['params']
  )
  assert set(without_text(of(24))) == set(of(0)) < set(of(24))


def test_random_parameters_have_the_shapes_of_initial_ones():
  config, networks, params, codec = small()
  assert all(
    np.abs(x).max() > 0 for x in jax.tree.leaves(random_params(networks, size=16, codec=codec))
  )


def test_the_embedded_prior_fits_the_tiny_model():
  """Both tiny networks start from the weights that ship with the package, all of them."""
  config = config_of('tiny')
  codec = open_codec(**config.vae)
  networks = networks_of(config, codec)
  found = start_fn(
    config, networks, functools.partial(initial_params, networks, size=64, codec=codec)
  )()
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
  assert count(found['generator']) == count(found['reference']) > 3_500_000
