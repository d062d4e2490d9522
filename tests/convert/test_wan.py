"""Conversion of Wan checkpoints: coverage on abstract arrays, both ways byte for byte, refusals."""

import json
import pathlib
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest
import torch_maker

from exp_jax.convert import wan
from exp_jax.convert.wan_weights import wan_names
from exp_jax.convert.wan_weights.wan_files import open_checkpoint
from exp_jax.errors import UserError
from exp_jax.files.safetensors import SafetensorsFile, SafetensorsWriter, write_safetensors
from exp_jax.networks.wan_dit import wan_dit
from exp_jax.networks.wan_vae import wan_vae
from exp_jax.networks.weights import load_weights, place

NAMES = json.loads((pathlib.Path(__file__).parent.parent / 'golden' / 'wan_names.json').read_text())
COUNTS = {
  'wan_1_3b': 825,
  'wan_14b_t2v': 1095,
  'wan_14b_i2v': 1303,
  'wan_14b_flf2v': 1304,
  'vae': 194,
}
TINY = {
  't2v': dict(width=16, heads=2, ffn=24, depth=3, text_dim=12, freq_dim=8),
  'i2v': dict(
    width=16, heads=2, ffn=24, depth=2, text_dim=12, freq_dim=8, in_channels=36, image_dim=20
  ),
  'flf2v': dict(
    width=16,
    heads=2,
    ffn=24,
    depth=2,
    text_dim=12,
    freq_dim=8,
    in_channels=36,
    image_dim=20,
    image_positions=14,
  ),
}


def shapes_of(network, model, scheme):
  """{name: shape} of a whole checkpoint, from our abstract parameters."""
  leaves = wan.abstract_params(model)
  shapes = {}
  for name, piece in wan.plan(network, model, scheme).items():
    leaf = np.broadcast_to(
      np.zeros((), np.uint8), leaves[piece.ours].shape[piece.layer is not None :]
    )
    shapes[name] = wan_names.from_ours(leaf, piece.layout).shape
  return shapes


def write_checkpoint(path, network, model, scheme, dtype=np.float32, seed=0, drop=(), **extra):
  rng = np.random.default_rng(seed)
  arrays = {
    n: rng.normal(size=s).astype(dtype)
    for n, s in shapes_of(network, model, scheme).items()
    if n not in drop
  }
  write_safetensors(path, arrays | extra)
  return arrays


@pytest.mark.long
@pytest.mark.parametrize('size', COUNTS)
def test_every_tensor_of_the_published_sizes_has_its_place(size):
  """Names and shapes of diffusers 0.42.1; see make_wan_names_fixture.py."""
  network, model = ('vae', wan_vae('wan')) if size == 'vae' else ('dit', wan_dit(size))
  ours = shapes_of(network, model, 'diffusers')
  original = list(wan.plan(network, model, 'original'))
  assert len(ours) == len(original) == NAMES[size]['count'] == COUNTS[size]
  for name, (shape, other) in NAMES[size]['tensors'].items():
    assert ours[name] == tuple(shape), name
    assert original[list(ours).index(name)] == other
  if network == 'dit':
    for scheme in wan_names.SCHEMES:
      sizes = wan_names.dit_sizes(shapes_of('dit', model, scheme), scheme, None, size)
      assert wan_dit('tiny', **sizes) == wan_dit(size)


@pytest.mark.parametrize('kind', TINY)
@pytest.mark.parametrize('scheme', wan_names.SCHEMES)
def test_there_and_back_byte_for_byte(tmp_path, kind, scheme):
  model = wan_dit('tiny', **TINY[kind])
  before = write_checkpoint(tmp_path / 'a.safetensors', 'dit', model, scheme)
  wan.main(
    [
      'import',
      str(tmp_path / 'a.safetensors'),
      '-o',
      str(tmp_path / 'w'),
      '--dtype',
      'keep',
      '--heads',
      '2',
    ]
  )
  wan.main(['export', str(tmp_path / 'w'), '-o', str(tmp_path / 'b'), '--names', scheme])
  (file,) = (tmp_path / 'b').glob('*.safetensors')
  with SafetensorsFile(file) as after:
    assert sorted(after.names) == sorted(before)
    for name, value in before.items():
      assert after.read(name).tobytes() == value.tobytes(), name
  report = json.loads((tmp_path / 'w' / 'report.json').read_text())
  assert sorted(report['used']) == sorted(before)
  weights = load_weights(tmp_path / 'w', 'dit')
  assert wan_dit('tiny', **weights.sizes) == model
  stacked = weights.tree()['blocks']['self']['q']['kernel']
  name = 'blocks.1.attn1.to_q.weight' if scheme == 'diffusers' else 'blocks.1.self_attn.q.weight'
  np.testing.assert_array_equal(stacked[1], before[name].T)


@pytest.mark.parametrize('scheme', wan_names.SCHEMES)
def test_the_autoencoder_both_ways_and_through_the_other_names(tmp_path, scheme):
  model = wan_vae('tiny')
  before = write_checkpoint(tmp_path / 'a.safetensors', 'vae', model, scheme)
  wan.convert(tmp_path / 'a.safetensors', tmp_path / 'w')
  other = wan_names.SCHEMES[1 - wan_names.SCHEMES.index(scheme)]
  (file,) = wan.export(tmp_path / 'w', tmp_path / 'o', names=other)
  wan.convert(file, tmp_path / 'w2')
  (file,) = wan.export(tmp_path / 'w2', tmp_path / 'b', names=scheme)
  with SafetensorsFile(file) as after:
    assert {n: after.read(n).tobytes() for n in after.names} == {
      n: v.tobytes() for n, v in before.items()
    }
  assert wan_vae('wan', **load_weights(tmp_path / 'w2', 'vae').sizes) == model


def test_shards_prefixes_and_half_precision(tmp_path):
  model = wan_dit('tiny', **TINY['t2v'])
  before = write_checkpoint(tmp_path / 'a.safetensors', 'dit', model, 'diffusers', np.float32)
  wan.convert(tmp_path / 'a.safetensors', tmp_path / 'w', dtype='keep', heads=2)
  files = wan.export(tmp_path / 'w', tmp_path / 'shards', shard_bytes=20_000)
  assert len(files) == 3
  wan.convert(tmp_path / 'shards', tmp_path / 'w2')  # heads come from its config.json
  half, whole = (
    load_weights(tmp_path / 'w2', 'dit').arrays,
    load_weights(tmp_path / 'w', 'dit').arrays,
  )
  kinds = {name: half[name].dtype for name in half}
  assert (
    kinds['blocks.self.q.kernel'] == ml_dtypes.bfloat16
    and kinds['patch.kernel'] == ml_dtypes.bfloat16
  )
  assert (
    kinds['blocks.self.q_norm'] == kinds['time.fc1.kernel'] == kinds['head.kernel'] == np.float32
  )
  for name, value in whole.items():
    np.testing.assert_array_equal(half[name], value.astype(kinds[name]))
  prefixed = {f'model.diffusion_model.{n}': v for n, v in before.items()}
  write_safetensors(
    tmp_path / 'p.safetensors',
    prefixed | {'model.diffusion_model.blocks.0.attn2.norm_added_q.weight': np.ones(16)},
  )
  config = wan.convert(tmp_path / 'p.safetensors', tmp_path / 'w3', heads=2)
  assert config['prefix'] == 'model.diffusion_model.'
  assert json.loads((tmp_path / 'w3' / 'report.json').read_text())['ignored'] == [
    'blocks.0.attn2.norm_added_q.weight'
  ]
  files[1].unlink()
  with pytest.raises(UserError, match='shards that are not there'):
    open_checkpoint(tmp_path / 'shards')


def test_a_torch_file_of_the_original_release_is_read_without_running_it(tmp_path):
  torch = pytest.importorskip('torch')
  model = wan_vae('tiny')
  before = write_checkpoint(tmp_path / 'a.safetensors', 'vae', model, 'original')
  torch.save({k: torch.from_numpy(v.copy()) for k, v in before.items()}, tmp_path / 'vae.pth')
  wan.convert(tmp_path / 'a.safetensors', tmp_path / 'w')
  wan.convert(tmp_path / 'vae.pth', tmp_path / 'w2')
  a, b = (load_weights(tmp_path / n, 'vae').arrays for n in ('w', 'w2'))
  assert all(np.array_equal(a[n], b[n]) for n in a)


def test_a_torch_file_that_wants_to_run_is_refused(tmp_path):
  with zipfile.ZipFile(tmp_path / 'x.pth', 'w') as file:
    file.writestr('x/data.pkl', b"cos\nsystem\n(S'true'\ntR.")
  with pytest.raises(UserError, match='os.system'):
    open_checkpoint(tmp_path / 'x.pth')


def damaged(path, kind):
  model = wan_dit('tiny', **TINY['t2v'])
  if kind == 'fp8':
    write_checkpoint(
      path,
      'dit',
      model,
      'original',
      **{'blocks.0.self_attn.q.scale_weight': np.ones(1, np.float32)},
    )
  elif kind == 'missing':
    write_checkpoint(path, 'dit', model, 'original', drop=('blocks.1.ffn.2.bias',))
  elif kind == 'extra':
    write_checkpoint(
      path, 'dit', model, 'original', **{'blocks.0.ffn.4.bias': np.ones(1, np.float32)}
    )
  elif kind == 'shape':
    write_checkpoint(
      path,
      'dit',
      model,
      'original',
      drop=('head.head.bias',),
      **{'head.head.bias': np.ones(3, np.float32)},
    )
  elif kind == 'other':
    write_safetensors(path, {'unet.weight': np.ones(3)})
  elif kind == 'gguf':
    path.write_bytes(b'GGUF' + bytes(100))
  elif kind == 'fp8 type':
    header = json.dumps(
      {'patch_embedding.weight': {'dtype': 'F8_E4M3', 'shape': [4], 'data_offsets': [0, 4]}}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(4))
  else:
    write_checkpoint(path, 'dit', model, 'original')
    content = path.read_bytes()
    if kind == 'truncated':
      path.write_bytes(content[:-100])
    else:
      path.write_bytes(content[:40] + b'}' + content[41:])


@pytest.mark.parametrize(
  'kind, sentence',
  [
    ('fp8', 'fp8 file'),
    ('fp8 type', 'quantized type F8_E4M3'),
    ('gguf', 'quantized GGUF'),
    ('other', 'neither'),
    ('missing', r'missing \[.blocks.1.ffn.2.bias'),
    ('extra', r'unknown \[.blocks.0.ffn.4.bias'),
    ('shape', 'does not fit head.bias'),
    ('truncated', 'truncated'),
    ('header', 'damaged'),
  ],
)
def test_refusals_are_one_sentence_and_leave_nothing(tmp_path, kind, sentence, capsys):
  path = tmp_path / 'a.safetensors'
  damaged(path, kind)
  with pytest.raises(UserError, match=sentence):
    wan.convert(path, tmp_path / 'w', heads=2)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['a.safetensors']
  with pytest.raises(SystemExit) as end:
    wan.main(['import', str(path), '-o', str(tmp_path / 'w')])
  assert end.value.code == 2 and capsys.readouterr().err.count('\n') == 1


def test_weights_are_verified_and_placed_by_shape(tmp_path):
  model = wan_dit('tiny', **TINY['t2v'])
  write_checkpoint(tmp_path / 'a.safetensors', 'dit', model, 'original')
  wan.convert(tmp_path / 'a.safetensors', tmp_path / 'w', heads=2)
  weights = load_weights(tmp_path / 'w', 'dit').arrays
  mesh = jax.make_mesh((1,), ('fsdp',), axis_types=(jax.sharding.AxisType.Auto,))
  like = lambda m: jax.eval_shape(lambda: m.init(jax.random.key(0), *arguments(m))['params'])
  wide = like(wan_dit('tiny', **TINY['t2v'] | dict(in_channels=36)))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), wide)
  placed = place(weights, wide)
  kernel = placed['patch']['kernel']
  assert kernel.shape == (36 * 4, 16) and not kernel[64:].any() and kernel.dtype == np.float32
  np.testing.assert_array_equal(kernel[:64], weights['patch.kernel'].astype(np.float32))
  with pytest.raises(UserError, match='another variant'):
    place(weights, like(wan_dit('tiny', **TINY['t2v'] | dict(ffn=32))))
  with pytest.raises(UserError, match='missing'):
    place(weights, like(wan_dit('tiny', **TINY['i2v'])))
  raw = bytearray((tmp_path / 'w' / 'params.safetensors').read_bytes())
  raw[-5] ^= 1
  (tmp_path / 'w' / 'params.safetensors').write_bytes(raw)
  with pytest.raises(UserError, match='params.safetensors is damaged'):
    load_weights(tmp_path / 'w', 'dit')
  with pytest.raises(UserError, match='holds .dit'):
    load_weights(tmp_path / 'w', 'vae', verify=False)


def arguments(model):
  x = np.zeros((1, 1, 2, 2, model.in_channels))
  return (
    x,
    np.zeros(1),
    np.zeros((1, 1, model.text_dim)),
    np.zeros((1, 7, model.image_dim)) if model.image_dim else None,
  )


def test_files_equal_those_of_the_reference_implementation(tmp_path):
  from safetensors.numpy import load_file, save_file

  arrays = {
    'b': np.arange(6, dtype=np.float16).reshape(2, 3),
    'a': np.ones((), np.float64),
    'c': np.zeros((0, 2), np.float32),
  }
  write_safetensors(tmp_path / 'ours', arrays, {'format': 'np'})
  save_file(arrays, tmp_path / 'theirs', {'format': 'np'})
  assert (tmp_path / 'ours').read_bytes() == (tmp_path / 'theirs').read_bytes()
  assert {k: v.tolist() for k, v in load_file(tmp_path / 'ours').items()} == {
    k: v.tolist() for k, v in arrays.items()
  }
  with SafetensorsFile(tmp_path / 'theirs') as file:
    assert file.metadata == {'format': 'np'}
    np.testing.assert_array_equal(file.read_row('b', 1), arrays['b'][1])
    np.testing.assert_array_equal(file.mapped('b'), arrays['b'])
    assert file.mapped('c').shape == (0, 2)
  with (
    pytest.raises(ValueError, match='never filled'),
    SafetensorsWriter(tmp_path / 'x', {'a': ((2, 3), np.float32)}) as writer,
  ):
    writer.write('a', np.zeros(3), 1)


@pytest.mark.parametrize('scheme', wan_names.SCHEMES)
def test_eps_goes_through_config_json_both_ways(tmp_path, scheme):
  """Norms of another eps than the usual 1e-6: read, used, kept in our folder, written for
  others."""
  model = wan_dit('tiny', **TINY['t2v'])
  write_checkpoint(tmp_path / 'a.safetensors', 'dit', model, scheme)
  (tmp_path / 'config.json').write_text(
    json.dumps({'_class_name': 'WanModel', 'eps': 0.003, 'num_heads': 2, 'num_layers': 3})
  )
  wan.convert(tmp_path / 'a.safetensors', tmp_path / 'w', dtype='keep')
  weights = load_weights(tmp_path / 'w', 'dit')
  assert wan_dit('tiny', **weights.sizes) == wan_dit('tiny', **TINY['t2v'], eps=0.003)
  for names in wan_names.SCHEMES:
    wan.export(tmp_path / 'w', tmp_path / names, names=names)
    assert json.loads((tmp_path / names / 'config.json').read_text())['eps'] == 0.003
    again = wan.convert(tmp_path / names, tmp_path / f'{names}2', dtype='keep')
    assert again['sizes']['eps'] == 0.003


@pytest.mark.parametrize(
  'config, words',
  [
    ({'eps': 0}, 'eps to 0'),
    ({'eps': '1e-6'}, 'eps to'),
    ({'num_layers': 4}, 'has depth 3, .* says num_layers 4'),
    ({'qk_norm': 'rms_norm'}, 'qk_norm'),
    ({'window_size': [5, 5]}, 'window_size'),
    ({'num_heads': 'two'}, 'heads'),
  ],
)
def test_settings_that_are_not_computed_are_refused(tmp_path, config, words):
  write_checkpoint(tmp_path / 'a.safetensors', 'dit', wan_dit('tiny', **TINY['t2v']), 'original')
  (tmp_path / 'config.json').write_text(
    json.dumps({'_class_name': 'WanModel', 'num_heads': 2} | config)
  )
  with pytest.raises(UserError, match=words):
    wan.convert(tmp_path / 'a.safetensors', tmp_path / 'w')
  (tmp_path / 'config.json').write_text(json.dumps({'_class_name': 'AnotherModel'} | config))
  if 'num_heads' not in config:
    # a config.json of something else in a crowded folder
    wan.convert(tmp_path / 'a.safetensors', tmp_path / 'w', heads=2)


@pytest.mark.parametrize(
  'wrap',
  [
    lambda n: f'module.{n}',
    lambda n: f'_orig_mod.{n}',
    lambda n: f'module._orig_mod.model.{n}',
    lambda n: f'transformer_2.{n}',
    lambda n: f'student.core.{n}',
    lambda n: n.replace('.attn1.', '._orig_mod.attn1.'),
  ],
)
def test_names_of_wrappers_are_taken_off(tmp_path, wrap):
  before = write_checkpoint(
    tmp_path / 'a.safetensors', 'dit', wan_dit('tiny', **TINY['t2v']), 'diffusers'
  )
  write_safetensors(tmp_path / 'b.safetensors', {wrap(n): v for n, v in before.items()})
  for name in 'ab':
    wan.convert(tmp_path / f'{name}.safetensors', tmp_path / name, heads=2)
  a, b = (load_weights(tmp_path / name, 'dit').arrays for name in 'ab')
  assert all(np.array_equal(a[n], b[n]) for n in a)


def test_one_tensor_behind_two_wrappers_is_refused(tmp_path):
  before = write_checkpoint(
    tmp_path / 'a.safetensors', 'dit', wan_dit('tiny', **TINY['t2v']), 'diffusers'
  )
  name = 'blocks.1.attn1.to_q.weight'
  write_safetensors(
    tmp_path / 'b.safetensors', before | {name.replace('attn1', '_orig_mod.attn1'): before[name]}
  )
  with pytest.raises(UserError, match=f'{name}.* are the same tensor'):
    wan.convert(tmp_path / 'b.safetensors', tmp_path / 'w', heads=2)


def test_several_networks_in_one_file_are_named(tmp_path):
  before = write_checkpoint(
    tmp_path / 'a.safetensors', 'dit', wan_dit('tiny', **TINY['t2v']), 'diffusers'
  )
  for first, second in (('transformer.', 'transformer_2.'), ('', 'ema.')):
    write_safetensors(
      tmp_path / 'b.safetensors', {f'{w}{n}': v for w in (first, second) for n, v in before.items()}
    )
    with pytest.raises(UserError, match=f"several networks.*'{first}', '{second}'"):
      wan.convert(tmp_path / 'b.safetensors', tmp_path / 'w', heads=2)


def test_counters_beside_the_weights_of_a_torch_file_are_no_weights(tmp_path):
  table = {
    'ema': torch_maker.table({'a': torch_maker.tensor((2, 3))}),
    'step': torch_maker.tensor((), count=1, key='1'),
  }
  path = torch_maker.write_zip(
    tmp_path / 'a.pth', torch_maker.table(table), {'0': bytes(24), '1': bytes(4)}
  )
  assert open_checkpoint(path).names == ['a']


@pytest.mark.parametrize(
  'name',
  ['../a.safetensors', '/a.safetensors', 'b/a.safetensors', 'a\n.safetensors', 'b\\a.safetensors'],
)
def test_an_index_names_files_of_its_own_folder(tmp_path, name):
  (tmp_path / 'm').mkdir()
  write_safetensors(tmp_path / 'a.safetensors', {'a': np.ones(3, np.float32)})
  (tmp_path / 'm' / 'x.safetensors.index.json').write_text(json.dumps({'weight_map': {'a': name}}))
  with pytest.raises(UserError, match='in its own folder'):
    open_checkpoint(tmp_path / 'm')
