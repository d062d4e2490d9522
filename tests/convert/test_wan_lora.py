"""LoRA dialects: read, written, merged; names checked against diffusers' own converters where it is
installed."""

import pathlib

import numpy as np
import pytest

from exp_jax.convert import lora as files
from exp_jax.convert import wan
from exp_jax.convert.wan_weights import wan_names
from exp_jax.errors import UserError
from exp_jax.files.safetensors import SafetensorsFile, flattened, nested, write_safetensors
from exp_jax.layers import lora
from exp_jax.networks.adapters import load_adapters, save_adapters
from exp_jax.networks.wan_dit import wan_dit
from exp_jax.networks.weights import load_weights
from exp_jax.systems.expportrait.generator.conditions import PoseEncoder, ReferenceEncoder

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden' / 'wan_tiny.npz'

MODEL = wan_dit(
  'tiny', width=16, heads=2, ffn=24, depth=3, text_dim=12, freq_dim=8, in_channels=36, image_dim=20
)
MODULES = [
  p
  for p in wan_names.dit_pieces(MODEL)
  if p.ours.endswith('.kernel') and p.layer is not None and p.ours[-8] in 'qkvo12'
]


def module(piece, column):
  return piece.names[column].removesuffix('.weight')


def shapes(piece):
  leaf = wan.abstract_params(MODEL)[piece.ours].shape
  return leaf[-2:]


def tensors(kind, rank=3):
  """A file of random adapters in a dialect, as its makers spell it."""
  rng, out = np.random.default_rng(0), {}
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  for piece in MODULES:
    i, o = shapes(piece)
    original, diffusers = module(piece, 1), module(piece, 0)
    n, tail = original.split('.', 2)[1:]
    stem, down, up, alpha = {
      'peft': (f'transformer.{diffusers}', 'lora_A.weight', 'lora_B.weight', False),
      'comfyui': (f'diffusion_model.{original}', 'lora_A.weight', 'lora_B.weight', False),
      'comfyui_down_up': (
        f'diffusion_model.{original}',
        'lora_down.weight',
        'lora_up.weight',
        True,
      ),
      'kohya': (
        f'lora_unet_{original.replace(".", "_")}',
        'lora_down.weight',
        'lora_up.weight',
        True,
      ),
      'kohya_dotted': (f'lora_unet_blocks_{n}.{tail}', 'lora_down.weight', 'lora_up.weight', True),
      'unianimate': (
        f'pipe.dit.{original}',
        'lora_A.default.weight',
        'lora_B.default.weight',
        False,
      ),
    }[kind]
    out |= {f'{stem}.{down}': draw(rank, i), f'{stem}.{up}': draw(o, rank)}
    if alpha:
      out[f'{stem}.alpha'] = np.float32(1.5)
  if kind == 'comfyui_down_up':
    out |= {
      'diffusion_model.blocks.1.norm3.diff': draw(16),
      'diffusion_model.blocks.2.ffn.0.diff_b': draw(24),
      'diffusion_model.blocks.0.self_attn.norm_q.diff': draw(16),
      'diffusion_model.patch_embedding.diff': draw(16, 36, 1, 2, 2),
    }
  if kind == 'unianimate':
    widths = (3, 16, 16, 16, 16, 16, 16, 16)
    for i in range(7):
      kernel = (1, 2, 2) if i == 6 else (3, 3, 3)
      out |= {
        f'dwpose_embedding.{2 * i}.weight': draw(widths[i + 1], widths[i], *kernel),
        f'dwpose_embedding.{2 * i}.bias': draw(16),
      }
    for i in range(6):
      o = 20 if i == 5 else 16
      stem = f'randomref_embedding_pose.{2 * i}'
      out |= {f'{stem}.weight': draw(o, 3 if i == 0 else 16, 3, 3), f'{stem}.bias': draw(o)}
  return out


KINDS = ('peft', 'comfyui', 'comfyui_down_up', 'kohya', 'kohya_dotted', 'unianimate')


def equal(a, b):
  assert sorted(a) == sorted(b)
  for name in a:
    assert np.asarray(a[name]).tobytes() == np.asarray(b[name]).tobytes() and np.shape(
      a[name]
    ) == np.shape(b[name]), name


@pytest.mark.parametrize('kind', KINDS)
def test_a_file_comes_back_as_it_was(tmp_path, kind):
  given = tensors(kind)
  adapters = files.read(given, MODEL)
  equal(files.write(adapters, MODEL), given)
  save_adapters(adapters, tmp_path / 'a.safetensors')
  equal(files.write(load_adapters(tmp_path / 'a.safetensors'), MODEL), given)


@pytest.mark.parametrize('kind', KINDS)
def test_every_dialect_says_the_same(kind):
  adapters = files.read(tensors(kind), MODEL)
  for dialect in files.DIALECTS:
    cannot = kind == 'comfyui_down_up' and dialect in ('peft', 'peft_folder', 'kohya')
    if cannot or (kind == 'unianimate' and dialect != 'unianimate'):
      with pytest.raises(UserError, match='hold'):
        files.write(adapters, MODEL, dialect)
      continue
    other = files.read(files.write(adapters, MODEL, dialect), MODEL)
    ours, theirs = flattened(adapters.tree()), flattened(other.tree())
    assert sorted(ours) == sorted(theirs)
    for leaf, value in ours.items():  # B with its scale: alpha tensors or multiplied in
      np.testing.assert_array_equal(theirs[leaf], value)
    if dialect in ('comfyui', 'kohya'):
      assert other.alphas == adapters.alphas
  scale = 0.5 if adapters.alphas['blocks.self.q'][0] else 1.0
  q = adapters.tree()['blocks']['self']['q']
  source = tensors(kind)
  places = (
    'blocks.1.self_attn.q.',
    'blocks_1_self_attn_q.',
    'blocks_1.self_attn.q.',
    'blocks.1.attn1.to_q.',
  )
  found = lambda *keys: next(
    v for n, v in source.items() if any(p in n for p in places) and any(k in n for k in keys)
  )
  down, up = found('lora_A', 'down'), found('lora_B', 'up')
  np.testing.assert_allclose(q['a'][1] @ q['b'][1], scale * (up @ down).T, atol=1e-5)


def test_layers_without_a_target_and_unequal_ranks():
  given = {
    n: v for n, v in tensors('comfyui').items() if not n.startswith('diffusion_model.blocks.1.')
  }
  more = {
    n: v for n, v in tensors('comfyui', rank=5).items() if n.startswith('diffusion_model.blocks.2.')
  }
  adapters = files.read(given | more, MODEL)
  assert adapters.ranks['blocks.ffn.fc1'] == [3, 0, 5] and adapters.factors['blocks.ffn.fc1'][
    'a'
  ].shape == (3, 16, 5)
  assert not adapters.factors['blocks.ffn.fc1']['a'][1].any()
  equal(files.write(adapters, MODEL), given | more)


def test_merged_weights_equal_the_adapters_applied(tmp_path):
  rng, leaves = np.random.default_rng(1), wan.abstract_params(MODEL)
  arrays = {}
  for name, piece in wan.plan('dit', MODEL, 'original').items():
    value = rng.normal(size=leaves[piece.ours].shape[piece.layer is not None :]).astype(np.float32)
    arrays[name] = wan_names.from_ours(value, piece.layout)
  write_safetensors(tmp_path / 'a.safetensors', arrays)
  wan.convert(tmp_path / 'a.safetensors', tmp_path / 'w', dtype='keep', heads=2)
  write_safetensors(tmp_path / 'l.safetensors', tensors('comfyui_down_up'))
  base = ['--base', str(tmp_path / 'w')]
  files.main(
    ['import', str(tmp_path / 'l.safetensors'), '-o', str(tmp_path / 'ours.safetensors'), *base]
  )
  files.main(
    [
      'merge',
      str(tmp_path / 'ours.safetensors'),
      '-o',
      str(tmp_path / 'm'),
      '--strength',
      '0.7',
      *base,
    ]
  )
  files.main(
    ['export', str(tmp_path / 'ours.safetensors'), '-o', str(tmp_path / 'back.safetensors'), *base]
  )
  with SafetensorsFile(tmp_path / 'back.safetensors') as back:
    equal({n: back.read(n) for n in back.names}, tensors('comfyui_down_up'))
  adapters, params = (
    load_adapters(tmp_path / 'ours.safetensors'),
    load_weights(tmp_path / 'w', 'dit').tree(),
  )
  expected = lora.merge(params, adapters.tree(0.7), 1.0)
  found = load_weights(tmp_path / 'm', 'dit').tree()
  np.testing.assert_allclose(
    found['blocks']['cross']['o']['kernel'], expected['blocks']['cross']['o']['kernel'], atol=1e-5
  )
  given = tensors('comfyui_down_up')
  scale = (
    params['blocks']['cross_norm']['scale'][1] + 0.7 * given['diffusion_model.blocks.1.norm3.diff']
  )
  np.testing.assert_allclose(found['blocks']['cross_norm']['scale'][1], scale, atol=1e-6)
  np.testing.assert_array_equal(
    found['blocks']['cross_norm']['scale'][0], params['blocks']['cross_norm']['scale'][0]
  )
  np.testing.assert_array_equal(found['time']['fc1']['kernel'], params['time']['fc1']['kernel'])


@pytest.mark.parametrize(
  'change, sentence',
  [
    (
      {'diffusion_model.blocks.0.self_attn.q.dora_scale': np.ones(3)},
      'dora_scale is not an adapter',
    ),
    (
      {'diffusion_model.blocks.9.self_attn.q.lora_A.weight': np.ones((3, 16))},
      r'blocks.9.self_attn.q.lora_A.weight is not',
    ),
    (
      {'diffusion_model.blocks.0.self_attn.q.lora_B.weight': np.ones((16, 4))},
      'two of different ranks',
    ),
    ({'diffusion_model.text_embedding.0.lora_A.weight': np.ones((3, 12))}, 'only one factor'),
    ({'diffusion_model.text_embedding.0.alpha': np.ones(())}, 'alpha but no adapter for text.fc1'),
  ],
)
def test_what_is_not_understood_is_named(change, sentence):
  with pytest.raises(UserError, match=sentence):
    files.read(tensors('comfyui') | change, MODEL)


def test_an_adapter_of_another_size_is_refused():
  adapters = files.read(tensors('peft'), MODEL)
  other = wan_dit(
    'tiny',
    width=16,
    heads=2,
    ffn=48,
    depth=3,
    text_dim=12,
    freq_dim=8,
    in_channels=36,
    image_dim=20,
  )
  with pytest.raises(
    UserError, match=r'blocks.ffn.fc1 is made for \(3, 16, 24\), this network has \(3, 16, 48\)'
  ):
    files.check_shapes(adapters, wan.abstract_params(other), 'x')


@pytest.mark.parametrize('kind', ['comfyui', 'comfyui_down_up', 'kohya'])
def test_diffusers_reads_the_same_out_of_a_file(kind):
  torch = pytest.importorskip('torch')
  conversion = pytest.importorskip('diffusers.loaders.lora_conversion_utils')
  given = {
    n: v for n, v in tensors(kind).items() if '_img' not in n and 'diff' not in n.split('.')[-1]
  }
  name = (
    '_convert_musubi_wan_lora_to_diffusers'
    if kind == 'kohya'
    else '_convert_non_diffusers_wan_lora_to_diffusers'
  )
  convert = getattr(conversion, name)
  theirs = convert({n: torch.from_numpy(np.array(v)) for n, v in given.items()})
  ours = files.write(files.read(given, MODEL), MODEL, 'peft')
  scale = {n: v for n, v in ours.items() if n.endswith('.alpha')}
  for name in (n for n in ours if n.endswith('lora_A.weight')):
    other = name.replace('lora_A', 'lora_B')
    alpha = float(scale.get(name.replace('lora_A.weight', 'alpha'), 3.0)) / 3.0
    product = theirs[other].float().numpy() @ theirs[name].float().numpy()
    np.testing.assert_allclose(product, alpha * ours[other] @ ours[name], atol=1e-5)


def test_encoders_of_unianimate_equal_torch():
  """Stored outputs of torch 2.13; see make_wan_fixture.py."""
  golden = np.load(GOLDEN, allow_pickle=False)
  prefix = 'encoders/params/'
  tree = nested(
    files.read(
      {n[len(prefix) :]: golden[n] for n in golden.files if n.startswith(prefix)}, MODEL
    ).encoders.items()
  )
  tokens = PoseEncoder(24).apply({'params': tree['pose']}, golden['encoders/clip'])
  np.testing.assert_allclose(tokens, golden['encoders/tokens'], atol=1e-5)
  added = ReferenceEncoder(20).apply({'params': tree['reference']}, golden['encoders/image'])
  np.testing.assert_allclose(added, golden['encoders/added'], atol=1e-5)
  assert tokens.shape == (1, 2, 2, 3, 24) and np.abs(tokens).max() > 0.05
