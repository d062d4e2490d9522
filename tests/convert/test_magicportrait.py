"""MagicPortrait's published files: an independent network in torch answers the same, the same names
and bytes back, refusals.

The answers are in tests/golden/magic_tiny.npz, made by make_magic_fixture.py; weights follow from
names.
"""

import dataclasses
import functools
import json
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.convert.magicportrait.magic_conversion import (
  convert,
  export,
  find_files,
  latent_codec,
  leaves_of,
)
from exp_jax.convert.magicportrait.magic_names import FILES, file_names, unused_shapes
from exp_jax.errors import UserError
from exp_jax.files.frame_spool import FrameSpool
from exp_jax.files.resources import top_level_file
from exp_jax.files.safetensors import SafetensorsFile, flattened, write_safetensors
from exp_jax.networks.motion_module import frame_positions
from exp_jax.systems.magicportrait.maps import shown_maps
from exp_jax.systems.magicportrait.model import networks_of
from exp_jax.systems.magicportrait.sample import Generator, sampled_latents
from exp_jax.training.exports import load_export
from tests.golden.magic_inputs import (
  FRAMES,
  GUIDANCE,
  HEADS,
  ROWS,
  STEPS,
  TEXT,
  TOTAL,
  WIDTHS,
  inputs,
  maps,
  text,
)
from tests.golden.named_weights import named_weight

pytestmark = pytest.mark.usefixtures('lightly_compiled')
GOLDEN = np.load(pathlib.Path(__file__).parents[1] / 'golden' / 'magic_tiny.npz')
NAMES = json.loads(str(GOLDEN['names']))
TOLERANCE = 2e-5


def weight(file, name, shape):
  return named_weight(f'{file}:{name}', tuple(shape)) * np.float32(0.5 if len(shape) > 1 else 1)


def config_of(prompt, **model):
  config = runpy.run_path(str(top_level_file('configs') / 'magicportrait.py'))['get_config'](
    'stage2'
  ).copy_and_resolve_references()
  config = config.unlock()
  config.model.update(
    attention='xla',
    dtype='float32',
    remat='none',
    weights='scratch',
    motion_weights='scratch',
    prompt=str(prompt),
    **model,
  )
  config.data.size = 32
  return config.lock()


@pytest.fixture(scope='module')
def published(tmp_path_factory):
  """A folder of six files as they are published, the prompt, and {file: {name: array}} of what is
  read of them."""
  folder = tmp_path_factory.mktemp('published')
  arrays = {
    file: {name: weight(file, name, shape) for name, shape in shapes.items()}
    for file, shapes in NAMES.items()
  }
  np.savez(folder / 'prompt.npz', positive=text())
  networks = networks_of(
    config_of(folder / 'prompt.npz', widths=WIDTHS, heads=(HEADS,) * 3, text_dim=TEXT),
    latent_codec(4),
  )
  more = {
    name: np.ones(shape, np.float32) for name, shape in unused_shapes(networks.encoder).items()
  }
  (folder / 'files').mkdir()
  for file, own in arrays.items():
    extra = more if file.startswith('guidance') else {}
    if file == 'motion_module':
      extra = {
        name: frame_positions(
          32, own[name.split('.temporal_transformer')[0] + '.temporal_transformer.norm.weight'].size
        )[None]
        for stem in sorted({name.rpartition('.to_q')[0] for name in own if '.to_q' in name})
        for name in [f'{stem}.pos_encoder.pe']
      }
    write_safetensors(
      folder / 'files' / f'{file}{"-47360" if file == "motion_module" else ""}.safetensors',
      own | extra,
    )
  return folder, arrays


@pytest.fixture(scope='module')
def model(published):
  """The generator of the converted files, in float32."""
  folder, _ = published
  convert(
    folder / 'files',
    folder / 'ours',
    config_of(folder / 'prompt.npz'),
    prompt=folder / 'prompt.npz',
    vae='',
    dtype='float32',
  )
  config, params = load_export(folder / 'ours')
  config = config.copy_and_resolve_references().unlock()
  config.model.prompt = str(folder / 'ours' / 'prompt.npz')
  networks = networks_of(config.lock(), latent_codec(4))
  return Generator(config, networks, jax.tree.map(jnp.asarray, params), latent_codec(4))


def guidance_of(model, drawn):
  return model.networks.guidance(
    model.params, {k: v[None] for k, v in shown_maps(model.networks.maps, drawn).items()}
  )


@pytest.fixture(scope='module')
def answers(model):
  """Guidance, bank and predictions of our networks for the fixture's inputs."""
  guidance = jax.jit(functools.partial(guidance_of, model))(maps(3, FRAMES, ROWS))
  bank = model.bank(model.params, jnp.asarray(inputs(1, 1, 4, 8, 4)))
  x, t = jnp.asarray(inputs(2, FRAMES, 4, 8, 4))[None], jnp.full(1, 801)
  return (
    guidance,
    bank,
    model.predict(model.params, x, t, guidance, bank),
    model.predict(model.params, x, t, guidance, None),
  )


@pytest.mark.long
def test_every_network_answers_as_the_independent_one(answers):
  guidance, bank, reading, alone = (jax.device_get(found) for found in answers)
  np.testing.assert_allclose(guidance[0], GOLDEN['guidance'], atol=TOLERANCE)
  assert len(bank) == sum(name.startswith('bank_') for name in GOLDEN.files)
  for k, tokens in enumerate(bank):
    np.testing.assert_allclose(tokens, GOLDEN[f'bank_{k}'], atol=TOLERANCE, err_msg=str(k))
  np.testing.assert_allclose(reading, GOLDEN['reading'], atol=TOLERANCE)
  np.testing.assert_allclose(alone, GOLDEN['alone'], atol=TOLERANCE)
  assert np.abs(GOLDEN['reading'] - GOLDEN['alone']).max() > 0.05


@pytest.mark.long
def test_the_papers_fusion_answers_as_the_independent_one(model, answers):
  networks = dataclasses.replace(
    model.networks,
    denoiser=model.networks.denoiser.clone(fusion='add'),
    appearance=model.networks.appearance.clone(fusion='add'),
  )
  bank = jax.jit(networks.bank)(model.params, jnp.asarray(inputs(1, 1, 4, 8, 4)))
  x, t, predict = (
    jnp.asarray(inputs(2, FRAMES, 4, 8, 4))[None],
    jnp.full(1, 801),
    jax.jit(networks.predict),
  )
  np.testing.assert_allclose(
    predict(model.params, x, t, answers[0], bank), GOLDEN['adding'], atol=TOLERANCE
  )
  dropped = predict(model.params, x, t, answers[0], bank, jnp.array([False]))
  np.testing.assert_allclose(dropped, GOLDEN['alone'], atol=TOLERANCE)
  assert np.abs(GOLDEN['adding'] - GOLDEN['reading']).max() > 0.05


@pytest.mark.long
def test_a_film_is_sampled_as_the_independent_loop_does(model):
  """Thirteen frames in windows that wrap, guidance, DDIM; the reference's latents are given."""
  bank, drawn = model.bank(model.params, jnp.asarray(inputs(6, 1, 8, 8, 4))), maps(4, TOTAL)
  chosen = model.sampling(steps=STEPS, guidance=GUIDANCE, overlap=1, windows='loop')
  with FrameSpool((8, 8, 320), np.float32) as spool:
    spool.append(np.asarray(jax.jit(functools.partial(guidance_of, model))(drawn))[0])
    found = sampled_latents(model, spool, bank, inputs(5, TOTAL, 8, 8, 4), chosen)
  # four steps of guidance 3.5 grow what float32 rounds
  np.testing.assert_allclose(found, GOLDEN['film'], atol=1e-4)


@pytest.mark.long
def test_the_same_names_and_bytes_come_back(published, model):
  folder, arrays = published
  export(folder / 'ours', folder / 'back')
  for file, own in arrays.items():
    with SafetensorsFile(folder / 'back' / f'{file}.safetensors') as back:
      (first,) = (folder / 'files').glob(f'{file}*')
      with SafetensorsFile(first) as given:
        assert set(back.names) == set(given.names)
        assert {name: back.read(name).shape for name in back.names} == {
          name: given.read(name).shape for name in given.names
        }
      for name, array in own.items():
        assert back.read(name).tobytes() == array.tobytes(), name
  assert str(folder) not in (folder / 'ours' / 'config.json').read_text()
  with pytest.raises(UserError, match='exists'):
    export(folder / 'ours', folder / 'back')


@pytest.mark.long
def test_the_published_size_is_named_whole(tmp_path):
  """By shapes alone: leaves, numbers, and the 149 tensors of an encoder's file."""
  np.savez(tmp_path / 'prompt.npz', positive=np.zeros((77, 768), np.float32))
  config = config_of(tmp_path / 'prompt.npz')
  networks = networks_of(config, latent_codec(4))
  leaves, tables = leaves_of(networks, 4, 64), file_names(networks)
  size = lambda prefix, motion=False: sum(
    int(np.prod(leaf.shape))
    for name, leaf in leaves.items()
    if name.startswith(prefix) and ('.motion.' in name) == motion
  )
  assert {file: len(table) for file, table in tables.items()} == dict(
    zip(FILES, (686, 682, 35, 35, 35, 546))
  )
  assert (
    len({leaf for table in tables.values() for leaf, _ in table.values()})
    == len(leaves)
    == 686 + 682 + 3 * 35 + 546
  )
  assert (
    size('denoiser') == 859_520_964
    and size('denoiser', True) == 453_209_280
    and size('appearance') == 859_508_800
  )
  assert [size(f'guidance.{name}') for name in networks.maps] == [2_270_736] * 3
  left = unused_shapes(networks.encoder)
  assert (
    len(left) + 35 == 149
    and sum(int(np.prod(shape)) for shape in left.values()) + 2_270_736 == 3_833_136
  )


@pytest.mark.long
@pytest.mark.parametrize(
  'file, change, words',
  [
    ('denoising_unet', lambda a: a.pop('conv_in.bias'), 'is not a whole sd_unet'),
    (
      'reference_unet',
      lambda a: a.update({'more.weight': np.ones(3, np.float32)}),
      'is not a whole sd_unet',
    ),
    (
      'guidance_encoder_depth',
      lambda a: a.pop('conv_out.bias'),
      'is not a guidance encoder of MagicPortrait',
    ),
    (
      'guidance_encoder_normal',
      lambda a: a.update({'blocks.6.weight': np.ones(3, np.float32)}),
      'is not a guidance encoder',
    ),
    (
      'guidance_encoder_render',
      lambda a: a.update({'conv_in.weight': np.ones((16, 3, 5, 5), np.float32)}),
      'which does not fit',
    ),
    (
      'guidance_encoder_render',
      lambda a: a.update({'conv_in.bias': np.full(16, np.nan, np.float32)}),
      'NaN|not finite|infinite',
    ),
    (
      'motion_module-47360',
      lambda a: a.pop('mid_block.motion_modules.0.temporal_transformer.norm.bias'),
      'is not a whole sd_motion',
    ),
  ],
)
def test_files_that_are_not_whole_are_refused(published, tmp_path, file, change, words):
  folder, _ = published
  for path in (folder / 'files').iterdir():
    if path.stem != file:
      (tmp_path / path.name).symlink_to(path)
      continue
    with SafetensorsFile(path) as given:
      arrays = {name: given.read(name) for name in given.names}
    change(arrays)
    write_safetensors(tmp_path / path.name, arrays)
  with pytest.raises(UserError, match=words):
    convert(
      tmp_path,
      tmp_path / 'ours',
      config_of(folder / 'prompt.npz'),
      prompt=folder / 'prompt.npz',
      vae='',
      dtype='float32',
    )
  assert not (tmp_path / 'ours').exists()


def test_a_folder_that_lacks_a_file_is_named(published, tmp_path):
  with pytest.raises(UserError, match='is no folder'):
    find_files(tmp_path / 'none')
  with pytest.raises(UserError, match='has no denoising_unet.pth; six files'):
    find_files(tmp_path)
  for path in (published[0] / 'files').iterdir():
    (tmp_path / path.name).symlink_to(path)
  assert set(find_files(tmp_path)) == set(FILES)
  (tmp_path / 'motion_module.pth').symlink_to(tmp_path / 'motion_module-47360.safetensors')
  with pytest.raises(UserError, match='leave one'):
    find_files(tmp_path)


@pytest.mark.long
def test_ablations_have_no_published_names(tmp_path):
  from tests.systems.magicportrait.small_magic import write_small_export

  with pytest.raises(UserError, match='is an ablation'):
    export(write_small_export(tmp_path / 'one', condition__maps=('depth',)), tmp_path / 'out')
  with pytest.raises(UserError, match='published files are of magicportrait/stage2'):
    export(write_small_export(tmp_path / 'two', mode='smoke'), tmp_path / 'out')
  assert flattened({'a': {'b': 1}}) == {'a.b': 1}
