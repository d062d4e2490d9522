"""Conversion of Stable Diffusion: names as diffusers has them, three spellings give the same bytes,
both ways, refusals."""

import json
import types

import ml_dtypes
import numpy as np
import pytest
from torch_maker import named, number, table, tensor, text, write_zip

from exp_jax.convert.sd import sd_names
from exp_jax.convert.sd.__main__ import main
from exp_jax.convert.sd.sd_conversion import abstract_leaves, convert, export, model_of, plan_of
from exp_jax.convert.sd.sd_prompts import encode_prompts
from exp_jax.errors import UserError
from exp_jax.files.safetensors import SafetensorsFile, write_safetensors
from exp_jax.networks.motion_module import frame_positions
from exp_jax.networks.sd_unet import SdUNet, sd_unet
from exp_jax.networks.sd_vae import SdVAE, sd_vae
from exp_jax.networks.weights import load_weights, with_motion
from tests.networks.sd_tiny import MODELS, NAMES

UNET = SdUNet((32, 64, 96), (8, 8, 8), 24)
OTHER_UNET = SdUNet((32, 64, 128), (2, 4, 4), 24)
MOTION = SdUNet((32, 64, 96), (1, 1, 1), 0, motion='frame')
VAE = SdVAE(32, (1, 2), 1)
PROJECTIONS = {UNET: 'point', OTHER_UNET: 'linear'}


def shapes_of(network, model, scheme, projection=''):
  """{name: shape} of a whole file, from our abstract parameters."""
  leaves = abstract_leaves(network, model)
  return {
    name: sd_names.from_ours(
      np.broadcast_to(np.zeros((), np.uint8), leaves[leaf].shape), layout
    ).shape
    for name, (leaf, layout) in plan_of(network, model, scheme, projection).items()
  }


def random_leaves(network, model, dtype=np.float32):
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=leaf.shape).astype(dtype)
    for name, leaf in abstract_leaves(network, model).items()
  }


def spelled(network, model, scheme, *, dtype=np.float32, prefix=''):
  """The same random weights under the names of a scheme."""
  leaves, projection = random_leaves(network, model, dtype), PROJECTIONS.get(model, '')
  found = {
    prefix + name: np.ascontiguousarray(sd_names.from_ours(leaves[leaf], layout))
    for name, (leaf, layout) in plan_of(network, model, scheme, projection).items()
  }
  if network == 'sd_motion':
    found |= {
      prefix + name: frame_positions(24, width)[None]
      for name, width in sd_names.position_buffers(model, scheme).items()
    }
  return found


def write_ckpt(path, arrays, *, wrapped=True):
  """As trainers leave it: a dictionary in a dictionary, with classes, counters and moments beside
  it."""
  one = lambda i, a: tensor(a.shape, key=str(i), count=a.size)
  inside = table({name: one(i, a) for i, (name, a) in enumerate(arrays.items())})
  moments = table({'0': table({'exp_avg': one(0, next(iter(arrays.values())))})})
  beside = {
    'epoch': number(3),
    'optimizer_states': moments,
    'callbacks': table({'checkpoint': named('pytorch_lightning.callbacks', 'ModelCheckpoint')}),
    'note': text('x'),
  }
  operations = table({'state_dict': inside} | beside) if wrapped else inside
  return write_zip(path, operations, {str(i): a.tobytes() for i, a in enumerate(arrays.values())})


def whole_file(unet=UNET):
  """What a file of the first release holds: both networks, and the rest that is left out."""
  rest = {
    'betas': np.ones(3),
    'alphas_cumprod': np.ones(3),
    'sqrt_recipm1_alphas_cumprod': np.ones(3),
    'model_ema.decay': np.ones(1),
    'posterior_mean_coef1': np.ones(3),
    'log_one_minus_alphas_cumprod': np.ones(3),
    'scale_factor': np.ones(()),
    'cond_stage_model.transformer.text_model.final_layer_norm.bias': np.ones(4),
  }
  parts = (('sd_unet', unet), ('sd_vae', VAE))
  found = [
    spelled(network, model, 'ldm', prefix=sd_names.PREFIXES[network]) for network, model in parts
  ]
  return found[0] | found[1] | {name: np.asarray(value, np.float32) for name, value in rest.items()}


def unet_config(unet=UNET, **more):
  """As in a release; heads stand under the name of their width."""
  return dict(
    _class_name='UNet2DConditionModel',
    attention_head_dim=list(unet.heads),
    norm_eps=1e-05,
    freq_shift=0,
    use_linear_projection=PROJECTIONS[unet] == 'linear',
    **more,
  )


def write_folder(folder, unet=UNET):
  """A release in the layout of diffusers."""
  for name in ('unet', 'vae', 'scheduler'):
    (folder / name).mkdir(parents=True)
  write_safetensors(
    folder / 'unet' / 'diffusion_pytorch_model.safetensors', spelled('sd_unet', unet, 'diffusers')
  )
  write_safetensors(
    folder / 'vae' / 'diffusion_pytorch_model.safetensors', spelled('sd_vae', VAE, 'diffusers')
  )
  halves = spelled('sd_unet', unet, 'diffusers', dtype=np.float16)
  write_safetensors(folder / 'unet' / 'diffusion_pytorch_model.fp16.safetensors', halves)
  (folder / 'unet' / 'config.json').write_text(json.dumps(unet_config(unet)))
  (folder / 'scheduler' / 'scheduler_config.json').write_text(
    json.dumps({'prediction_type': 'v_prediction'})
  )
  return folder


def same(path, network, model):
  expected, found = random_leaves(network, model), load_weights(path, network)
  assert model_of(network, found.sizes) == model
  assert sorted(found.arrays) == sorted(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(found.arrays[name], value, err_msg=name, strict=True)


@pytest.mark.long
@pytest.mark.parametrize('network', MODELS)
def test_names_and_shapes_are_those_of_diffusers(network):
  """Of diffusers 0.42.1, and of its own conversion of the first release's names; see
  make_sd_fixture.py."""
  kind, model, projection = MODELS[network]
  shapes = shapes_of(kind, model, 'diffusers', projection)
  assert shapes == {name: tuple(shape) for name, (shape, _) in NAMES[network].items()}
  if NAMES[network][next(iter(shapes))][1]:
    pieces = (
      sd_names.vae_pieces(model) if kind == 'sd_vae' else sd_names.unet_pieces(model, projection)
    )
    assert {piece.names[0]: piece.names[1] for piece in pieces} == {
      name: other for name, (_, other) in NAMES[network].items()
    }
    assert {n: np.prod(s) for n, s in shapes_of(kind, model, 'ldm', projection).items()} == {
      piece.names[1]: np.prod(shapes[piece.names[0]]) for piece in pieces
    }


@pytest.mark.long
@pytest.mark.parametrize(
  'network, model, projection, count',
  [
    ('sd_unet', sd_unet('sd15'), 'point', 686),
    ('sd_unet', sd_unet('sd21'), 'linear', 686),
    ('sd_vae', sd_vae('kl_f8'), '', 248),
    ('sd_motion', sd_unet('sd15', motion='frame'), '', 546),
  ],
)
def test_every_tensor_of_the_published_sizes_has_its_place(network, model, projection, count):
  for scheme in sd_names.SCHEMES[network]:
    assert len(plan_of(network, model, scheme, projection)) == count


@pytest.mark.long
@pytest.mark.parametrize('unet', [UNET, OTHER_UNET])
def test_three_spellings_of_the_same_weights_are_the_same_folder(tmp_path, unet):
  write_folder(tmp_path / 'release', unet)
  write_ckpt(tmp_path / 'sd.ckpt', whole_file(unet))
  write_safetensors(tmp_path / 'sd.safetensors', whole_file(unet))
  write_safetensors(tmp_path / 'bare.safetensors', spelled('sd_unet', unet, 'ldm'))
  for i, (source, network) in enumerate(
    [
      ('release', 'sd_unet'),
      ('release/unet', None),
      ('sd.ckpt', 'sd_unet'),
      ('sd.safetensors', 'sd_unet'),
      ('bare.safetensors', None),
    ]
  ):
    heads = None if 'release' in source else unet.heads if unet is OTHER_UNET else None
    config = convert(tmp_path / source, tmp_path / f'unet{i}', network=network, heads=heads)
    assert config['prediction'] == ('v' if 'release' in source else 'unknown')
    same(tmp_path / f'unet{i}', 'sd_unet', unet)
  for source in ('release', 'sd.ckpt', 'sd.safetensors'):
    convert(tmp_path / source, tmp_path / f'vae of {source}', network='sd_vae')
    same(tmp_path / f'vae of {source}', 'sd_vae', VAE)
  report = json.loads((tmp_path / 'vae of sd.ckpt' / 'report.json').read_text())
  assert set(report['used']) | set(report['left_out']) >= {
    'encoder.mid.attn_1.q.weight',
    'betas',
    'model.diffusion_model.out.2.bias',
  }


@pytest.mark.long
@pytest.mark.parametrize('scheme', sd_names.SCHEMES['sd_motion'])
@pytest.mark.parametrize('middle', [True, False])
def test_motion_modules_in_both_spellings(tmp_path, scheme, middle):
  model = MOTION.clone(motion_middle=middle)
  arrays = spelled('sd_motion', model, scheme)
  write_safetensors(tmp_path / 'plain.safetensors', arrays)
  write_ckpt(tmp_path / 'nested.ckpt', {f'module.{name}': value for name, value in arrays.items()})
  for name in ('plain.safetensors', 'nested.ckpt'):
    assert convert(tmp_path / name, tmp_path / f'w {name}')['positions'] == 24
    same(tmp_path / f'w {name}', 'sd_motion', model)


@pytest.mark.long
@pytest.mark.parametrize(
  'network, model',
  [('sd_unet', UNET), ('sd_unet', OTHER_UNET), ('sd_vae', VAE), ('sd_motion', MOTION)],
)
def test_there_and_back(tmp_path, network, model):
  """Every tensor byte for byte under the same names; heads go through config.json."""
  for scheme in sd_names.SCHEMES[network]:
    before = spelled(
      network, model, scheme, prefix=sd_names.PREFIXES[network] if scheme == 'ldm' else ''
    )
    write_safetensors(tmp_path / f'{scheme}.safetensors', before)
    heads = model.heads if network == 'sd_unet' else None
    main(
      [
        'import',
        str(tmp_path / f'{scheme}.safetensors'),
        '-o',
        str(tmp_path / scheme),
        *(['--heads', ','.join(map(str, heads))] if heads else []),
      ]
    )
    main(
      ['export', str(tmp_path / scheme), '-o', str(tmp_path / f'{scheme} out'), '--names', scheme]
    )
    (file,) = (tmp_path / f'{scheme} out').glob('*.safetensors')
    with SafetensorsFile(file) as after:
      assert sorted(after.names) == sorted(before)
      for name, value in before.items():
        np.testing.assert_array_equal(after.read(name), value)
  convert(tmp_path / 'diffusers out', tmp_path / 'again')  # by the config.json that was written
  same(tmp_path / 'again', network, model)
  config = json.loads((tmp_path / 'diffusers out' / 'config.json').read_text())
  # as MotionAdapter counts them, on the way down
  assert config.get('motion_layers_per_block', 2) == 2


@pytest.mark.long
def test_a_unet_with_motion_is_both_folders(tmp_path):
  for network, model in (
    ('sd_unet', UNET),
    ('sd_motion', MOTION),
    ('sd_motion', MOTION.clone(widths=(32, 64, 64))),
  ):
    path = tmp_path / f'{network}{model.widths[-1]}'
    write_safetensors(tmp_path / 'file', spelled(network, model, 'diffusers'))
    convert(tmp_path / 'file', path)
  unet, motion = (
    load_weights(tmp_path / 'sd_unet96', 'sd_unet'),
    load_weights(tmp_path / 'sd_motion96', 'sd_motion'),
  )
  both = with_motion(unet, motion)
  model = model_of('sd_unet', both.sizes)
  assert model == UNET.clone(motion='frame')
  assert {n: a.shape for n, a in both.arrays.items()} == {
    n: x.shape for n, x in abstract_leaves('sd_unet', model).items()
  }
  assert both.config['motion_positions'] == 24
  with pytest.raises(UserError, match='take others'):
    with_motion(unet, load_weights(tmp_path / 'sd_motion64', 'sd_motion'))
  write_safetensors(
    tmp_path / 'both',
    spelled('sd_unet', UNET, 'diffusers') | spelled('sd_motion', MOTION, 'diffusers'),
  )
  for network, expected in (
    ('sd_unet', UNET),
    ('sd_motion', MOTION),
  ):  # diffusers keeps them in one file where it trained them
    convert(tmp_path / 'both', tmp_path / f'of both {network}', network=network)
    same(tmp_path / f'of both {network}', network, expected)


def test_old_names_of_an_autoencoders_attention(tmp_path):
  old = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
  arrays = spelled('sd_vae', VAE, 'diffusers')
  for new, name in old.items():
    arrays = {n.replace(f'.{new}.', f'.{name}.'): v for n, v in arrays.items()}
  assert 'encoder.mid_block.attentions.0.proj_attn.weight' in arrays
  write_safetensors(tmp_path / 'a.safetensors', arrays)
  convert(tmp_path / 'a.safetensors', tmp_path / 'w')
  same(tmp_path / 'w', 'sd_vae', VAE)


def test_half_precision_is_kept_or_widened(tmp_path):
  write_safetensors(tmp_path / 'a.safetensors', spelled('sd_vae', VAE, 'ldm', dtype=np.float16))
  for dtype, kind in (
    ('keep', np.float16),
    ('float32', np.float32),
    ('bfloat16', ml_dtypes.bfloat16),
  ):
    convert(tmp_path / 'a.safetensors', tmp_path / dtype, dtype=dtype)
    found = load_weights(tmp_path / dtype, 'sd_vae').arrays['quant.kernel']
    assert found.dtype == kind
    np.testing.assert_array_equal(
      found, random_leaves('sd_vae', VAE, np.float16)['quant.kernel'].astype(kind)
    )


MISSING, EXTRA = 'up_blocks.1.resnets.2.conv_shortcut.bias', 'up_blocks.0.attentions.0.norm.weight'


@pytest.mark.parametrize(
  'change, words',
  [
    ({MISSING: None}, f"missing .'{MISSING}'"),
    ({EXTRA: np.ones(3, np.float32)}, f"unknown .'{EXTRA}'"),
    ({'conv_in.bias': np.ones(3, np.float32)}, r'conv_in.bias has shape \(3,\)'),
    (
      {'down_blocks.1.downsamplers.0.conv.weight': np.ones((64, 64, 1, 1), np.float32)},
      'does not fit down1_half.kernel',
    ),
    ({'time_embedding.linear_1.bias': np.ones(128, np.int32)}, 'numbers with a fraction'),
    ({'time_embedding.linear_1.bias': np.full(128, np.nan, np.float32)}, 'linear_1.bias holds NaN'),
    ({'conv_in.weight': None}, 'conv_in.weight. is missing'),
    (
      {'down_blocks.0.resnets.0.time_emb_proj.weight': None},
      'holds no network of Stable Diffusion',
    ),
  ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, change, words, capsys):
  arrays = {
    n: v for n, v in (spelled('sd_unet', UNET, 'diffusers') | change).items() if v is not None
  }
  write_safetensors(tmp_path / 'a.safetensors', arrays)
  with pytest.raises(UserError, match=words):
    convert(tmp_path / 'a.safetensors', tmp_path / 'w')
  assert not (tmp_path / 'w').exists()
  with pytest.raises(SystemExit) as end:
    main(['import', str(tmp_path / 'a.safetensors'), '-o', str(tmp_path / 'w')])
  assert end.value.code == 2 and capsys.readouterr().err.splitlines()[-1].startswith('error: ')


def test_something_of_another_network_in_a_whole_file_is_named(tmp_path):
  write_safetensors(
    tmp_path / 'a.safetensors',
    whole_file() | {'control_model.input_blocks.0.0.weight': np.ones(3, np.float32)},
  )
  with pytest.raises(UserError, match='unknown .*control_model'):
    convert(tmp_path / 'a.safetensors', tmp_path / 'w', network='sd_unet')
  with pytest.raises(UserError, match='say with --network'):
    convert(tmp_path / 'a.safetensors', tmp_path / 'w')
  with pytest.raises(UserError, match='no sd_motion'):
    convert(tmp_path / 'a.safetensors', tmp_path / 'w', network='sd_motion')
  with pytest.raises(UserError, match='say with --network'):
    convert(write_folder(tmp_path / 'release'), tmp_path / 'w')
  with pytest.raises(UserError, match='does not exist'):
    convert(tmp_path / 'nothing', tmp_path / 'w')


@pytest.mark.parametrize(
  'config, words',
  [
    (dict(act_fn='gelu'), 'act_fn'),
    (dict(downsample_padding=0), 'downsample_padding'),
    (dict(norm_num_groups=16), 'norm_num_groups'),
    (dict(attention_head_dim=7), 'cannot have .7,'),
    (dict(attention_head_dim=[8, 8]), 'cannot have'),
    (dict(use_linear_projection=True), 'use_linear_projection'),
  ],
)
def test_settings_that_are_not_computed_are_refused(tmp_path, config, words):
  write_safetensors(tmp_path / 'a.safetensors', spelled('sd_unet', UNET, 'diffusers'))
  (tmp_path / 'config.json').write_text(json.dumps(unet_config() | config))
  with pytest.raises(UserError, match=words):
    convert(tmp_path / 'a.safetensors', tmp_path / 'w')
  (tmp_path / 'config.json').write_text(
    json.dumps(unet_config() | config | {'_class_name': 'AnotherModel'})
  )
  # a config.json of something else in a crowded folder
  convert(tmp_path / 'a.safetensors', tmp_path / 'w')


def test_positions_are_compared_with_their_formula(tmp_path):
  arrays = spelled('sd_motion', MOTION, 'animatediff')
  name = next(iter(sd_names.position_buffers(MOTION, 'animatediff')))
  # sines, then cosines
  halves = frame_positions(24, 32)[None][..., [*range(0, 32, 2), *range(1, 32, 2)]]
  for value, words in (
    (halves, 'other positions'),
    (frame_positions(32, 32)[None], 'positions for .24, 32. frames'),
    (frame_positions(24, 32), 'were expected'),
  ):
    write_safetensors(tmp_path / 'a.safetensors', arrays | {name: np.ascontiguousarray(value)})
    with pytest.raises(UserError, match=words):
      convert(tmp_path / 'a.safetensors', tmp_path / 'w')
  half = {n: v.astype(np.float16) for n, v in arrays.items()}
  write_safetensors(tmp_path / 'a.safetensors', half)
  assert convert(tmp_path / 'a.safetensors', tmp_path / 'w')['positions'] == 24


def test_the_way_out_says_what_it_cannot(tmp_path):
  write_safetensors(tmp_path / 'a.safetensors', spelled('sd_vae', VAE, 'ldm'))
  convert(tmp_path / 'a.safetensors', tmp_path / 'w')
  with pytest.raises(UserError, match='no animatediff names'):
    export(tmp_path / 'w', tmp_path / 'x', names='animatediff')
  with pytest.raises(UserError, match='no converted weights'):
    export(tmp_path, tmp_path / 'x')
  with pytest.raises(UserError, match='convert.sd'):
    load_weights(tmp_path, 'sd_unet')
  from exp_jax.convert import wan

  with pytest.raises(UserError, match='none of Wan'):
    wan.export(tmp_path / 'w', tmp_path / 'x')


def test_check_only_looks(tmp_path, capsys):
  write_safetensors(tmp_path / 'a.safetensors', whole_file())
  main(['check', str(tmp_path / 'a.safetensors'), '--network', 'sd_vae'])
  out = capsys.readouterr().out
  assert (
    'sd_vae, ldm names, 124 tensors' in out and 'multipliers (1, 2)' in out and out.count('\n') == 1
  ), out
  assert [p.name for p in tmp_path.iterdir()] == ['a.safetensors']
  with pytest.raises(SystemExit):
    main(['check', str(tmp_path / 'a.safetensors'), '--heads', 'five'])
  assert '--heads' in capsys.readouterr().err


def test_prompts_keep_their_padding():
  torch = pytest.importorskip('torch')

  class Tokenizer:
    model_max_length = 6

    def __call__(self, texts, padding='', return_tensors='', **_):
      ids = [1, *map(len, texts[0].split()), 2]
      ids += [2] * (6 - len(ids)) if padding else []
      return {'input_ids': torch.tensor([ids]) if return_tensors else [ids]}

  encoder = lambda ids: types.SimpleNamespace(last_hidden_state=ids[..., None] * torch.ones(3))
  found = encode_prompts(Tokenizer(), encoder, {'positive': 'a bb', 'negative': ''})
  np.testing.assert_array_equal(found['positive'][:, 0], [1, 1, 2, 2, 2, 2])
  assert found['negative'].shape == (6, 3) and found['negative'].dtype == np.float32
  with pytest.raises(UserError, match='has 7 tokens'):
    encode_prompts(Tokenizer(), encoder, {'positive': 'a b c d e'})
