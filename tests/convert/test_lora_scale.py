"""What stands beside the tensors of an adapter: scales, settings, biases, names of wrappers; both
ways, against PEFT."""

import json
import math
import pathlib
import re

import numpy as np
import pytest

from exp_jax.commands import verify
from exp_jax.convert import lora, wan
from exp_jax.convert.wan_weights import wan_names
from exp_jax.errors import UserError
from exp_jax.files.safetensors import SafetensorsFile, write_safetensors
from exp_jax.networks.adapters import load_adapters, save_adapters
from exp_jax.networks.wan_dit import wan_dit
from exp_jax.networks.weights import load_weights

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden' / 'peft_adapters.npz'
VARIANTS = ('plain', 'weak', 'rslora', 'patterns', 'patterns_rslora', 'bias', 'header')
MODEL = wan_dit('tiny', width=16, heads=2, ffn=24, depth=2, text_dim=12, freq_dim=8)
PIECES = {p.names[0]: p for p in wan_names.dit_pieces(MODEL)}
RANK = 3


def golden(variant, folder):
  """(file or folder as PEFT or diffusers wrote it, {name of diffusers: change by PEFT's merge});
  make_peft_fixture.py."""
  data = np.load(GOLDEN, allow_pickle=False)
  part = lambda kind: {
    n.split('/', 2)[2]: data[n] for n in data.files if n.startswith(f'{variant}/{kind}/')
  }
  folder.mkdir()
  with_config = f'{variant}/config' in data.files
  path = folder / (
    'adapter_model.safetensors' if with_config else 'pytorch_lora_weights.safetensors'
  )
  write_safetensors(path, part('tensor'), json.loads(str(data[f'{variant}/header'])))
  if with_config:
    (folder / 'adapter_config.json').write_text(str(data[f'{variant}/config']))
  return path, part('change')


def changes(adapters):
  """{name of diffusers: change of the weight or bias}, out of our stacked arrays."""
  out, tree = {}, adapters.tree()
  for name, piece in PIECES.items():
    target, node = piece.ours.removesuffix('.kernel'), tree
    if target in adapters.factors and piece.ours.endswith('.kernel'):
      for key in target.split('.'):
        node = node[key]
      a, b = (node[k] if piece.layer is None else node[k][piece.layer] for k in 'ab')
      if adapters.ranks[target][piece.layer or 0]:
        out[name] = (a @ b).T
    if piece.layer in adapters.diffs.get(piece.ours, {}):
      out[name] = wan_names.from_ours(adapters.diffs[piece.ours][piece.layer], piece.layout)
  return out


def same(found, expected, atol=2e-6):
  assert sorted(found) == sorted(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, atol=atol, err_msg=name)


@pytest.mark.parametrize('variant', VARIANTS)
def test_adapters_of_peft_change_the_weights_as_peft_does(variant, tmp_path):
  """Stored answers of peft 0.21.2. float32 products of up to nine terms near 1: 2e-6."""
  path, expected = golden(variant, tmp_path / 'a')
  for given in (path, path.parent):
    adapters, where = lora.read_file(given, MODEL)
    same(changes(adapters), expected)
  assert ('header' if variant == 'header' else 'adapter_config.json') in where
  save_adapters(adapters, tmp_path / 'ours.safetensors')
  same(changes(load_adapters(tmp_path / 'ours.safetensors')), expected)


def as_peft_reads(tensors, settings, prefix):
  """PEFT's rule written out: tensors named alpha are no part of it; settings tell alpha of each
  module."""
  out = {}
  for name, down in tensors.items():
    if '.lora_A' not in name:
      continue
    module = name.removeprefix(prefix).removesuffix('.lora_A.weight')
    patterns = {
      k: next(
        (v for p, v in settings[f'{k}_pattern'].items() if re.match(rf'(.*\.)?({p})$', module)),
        None,
      )
      for k in ('rank', 'alpha')
    }
    rank = settings['r'] if patterns['rank'] is None else patterns['rank']
    alpha = settings['lora_alpha'] if patterns['alpha'] is None else patterns['alpha']
    assert down.shape[0] == rank
    scale = alpha / (math.sqrt(rank) if settings['use_rslora'] else rank)
    out[f'{module}.weight'] = scale * (
      tensors[name.replace('lora_A', 'lora_B')].astype(np.float64) @ down
    )
    if settings['lora_bias']:
      bias = scale * tensors[name.replace('lora_A.weight', 'lora_B.bias')]
      out |= {f'{module}.bias': bias} if bias.any() else {}
  return out


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('dialect', ['peft', 'peft_folder'])
def test_exports_mean_the_same_to_their_readers(variant, dialect, tmp_path):
  path, expected = golden(variant, tmp_path / 'a')
  adapters, _ = lora.read_file(path, MODEL)
  lora.export(adapters, MODEL, tmp_path / 'out', dialect)
  with SafetensorsFile(
    tmp_path / 'out' / 'adapter_model.safetensors' if dialect == 'peft_folder' else tmp_path / 'out'
  ) as file:
    tensors, metadata = {n: file.read(n) for n in file.names}, file.metadata
  assert not [n for n in tensors if n.endswith('.alpha')]
  if dialect == 'peft_folder':
    settings = json.loads((tmp_path / 'out' / 'adapter_config.json').read_text())
  else:
    settings = {
      k.removeprefix('transformer.'): v
      for k, v in json.loads(metadata['lora_adapter_metadata']).items()
    }
  same(
    as_peft_reads(
      tensors, settings, 'base_model.model.' if dialect == 'peft_folder' else 'transformer.'
    ),
    expected,
  )
  bare = {n: np.asarray(v) for n, v in tensors.items()}  # and without the settings, too
  same(changes(lora.read(bare, MODEL)), expected)


@pytest.mark.parametrize('variant', VARIANTS)
def test_peft_and_diffusers_themselves_read_our_exports(variant, tmp_path):
  """Live, where torch, diffusers and peft are at hand; another base than that of the stored
  answers."""
  torch, peft = pytest.importorskip('torch'), pytest.importorskip('peft')
  transformer = pytest.importorskip('diffusers').WanTransformer3DModel
  path, expected = golden(variant, tmp_path / 'a')
  adapters, _ = lora.read_file(path, MODEL)
  make = lambda: transformer(
    num_attention_heads=2,
    attention_head_dim=8,
    ffn_dim=24,
    num_layers=2,
    text_dim=12,
    freq_dim=8,
    in_channels=16,
    out_channels=16,
    rope_max_seq_len=32,
  )
  state = lambda model: {n: p.detach().numpy().copy() for n, p in model.named_parameters()}
  lora.export(adapters, MODEL, tmp_path / 'folder', 'peft_folder')
  lora.export(adapters, MODEL, tmp_path / 'file.safetensors', 'peft')
  for kind in ('folder', 'file'):
    torch.manual_seed(7)
    model = make()
    before = state(model)
    if kind == 'folder':
      model = peft.PeftModel.from_pretrained(model, tmp_path / 'folder').merge_and_unload()
    else:
      model.load_lora_adapter(tmp_path, weight_name='file.safetensors')
      model.fuse_lora()
      model.unload_lora()
    after = state(model)
    same({n: after[n] - before[n] for n in after if (after[n] != before[n]).any()}, expected)


def pairs(
  name,
  *,
  modules=('blocks.0.attn1.to_q', 'blocks.1.attn2.to_v'),
  spelling=('lora_A', 'lora_B'),
  infix='',
  seed=0,
):
  """{name of a tensor: array}: factors of two modules, spelled by `name` (module of diffusers ->
  module of the file)."""
  rng, out = np.random.default_rng(seed), {}
  for module in modules:
    for factor, shape in zip(spelling, ((RANK, 16), (16, RANK))):
      out[f'{name(module)}.{factor}{infix}.weight'] = rng.normal(size=shape).astype(np.float32)
  return out


def original(module):
  return PIECES[f'{module}.weight'].names[1].removesuffix('.weight')


PLAIN = changes(lora.read(pairs(lambda m: m), MODEL))


@pytest.mark.parametrize(
  'name, spelling, infix',
  [
    (lambda m: m, ('lora_A', 'lora_B'), '.distilled_v2'),
    (lambda m: f'transformer.{m}', ('lora_A', 'lora_B'), '.default'),
    (lambda m: f'module.{m}', ('lora_A', 'lora_B'), ''),
    (lambda m: f'_orig_mod.{m}', ('lora_A', 'lora_B'), ''),
    (lambda m: f'module._orig_mod.transformer.{m}', ('lora_A', 'lora_B'), ''),
    (lambda m: f'base_model.model.diffusion_model.{original(m)}', ('lora_A', 'lora_B'), '.x'),
    (lambda m: m.replace('.attn', '._orig_mod.attn'), ('lora_A', 'lora_B'), ''),
    (lambda m: f'transformer_2.{m}', ('lora_A', 'lora_B'), ''),
    (lambda m: f'model.{original(m)}', ('lora_down', 'lora_up'), ''),
    (lambda m: f'lora_transformer_{m.replace(".", "_")}', ('lora_down', 'lora_up'), ''),
    (lambda m: f'transformer.{m}', ('lora.down', 'lora.up'), ''),
  ],
)
def test_names_of_wrappers_and_adapters(name, spelling, infix):
  adapters = lora.read(pairs(name, spelling=spelling, infix=infix), MODEL)
  same(changes(adapters), PLAIN)
  written = lora.write(adapters, MODEL)
  same(changes(lora.read(written, MODEL)), PLAIN)
  if adapters.style['dialect'] in (
    'peft',
    'peft_folder',
  ):  # as diffusers and PEFT read them, whatever was given
    spelling = (
      r'((transformer(_2)?|base_model\.model)\.)?blocks\.\d\.attn\d\.to_\w\.lora_[AB]\.weight'
    )
    assert all(re.fullmatch(spelling, n) for n in written), sorted(written)


@pytest.mark.parametrize(
  'metadata, factor',
  [
    ({'lora_adapter_metadata': json.dumps({'transformer.r': 3, 'transformer.lora_alpha': 6})}, 2),
    (
      {'lora_adapter_metadata': json.dumps({'r': 3, 'lora_alpha': 12, 'use_rslora': True})},
      12 / math.sqrt(3),
    ),
    ({'lora_config': json.dumps({'lora_alpha': 1.5, 'r': 3})}, 0.5),
    ({'lora_alpha': '6', 'rank': '3'}, 2),
    ({'network_alpha': '9'}, 3),
    ({'ss_network_alpha': '3', 'ss_network_dim': '3'}, 1),
    ({}, 1),
  ],
)
def test_settings_in_a_header(metadata, factor, tmp_path):
  write_safetensors(
    tmp_path / 'a.safetensors', pairs(lambda m: f'transformer.{m}'), {'format': 'pt'} | metadata
  )
  adapters, _ = lora.read_file(tmp_path / 'a.safetensors', MODEL)
  same(changes(adapters), {n: factor * v for n, v in PLAIN.items()}, 1e-5)


@pytest.mark.parametrize(
  'metadata, config, words',
  [
    ({'lora_adapter_metadata': '{'}, None, 'no JSON'),
    ({'lora_adapter_metadata': '[' * 100_000}, None, 'nested too deeply'),
    ({'ss_network_alpha': '8', 'ss_network_dim': '3'}, None, '--alpha 8'),
    ({'lora_alpha': 'nan'}, None, "'nan'"),
    ({'lora_alpha': '6', 'rank': '4'}, None, 'rank 4, its factors have rank 3'),
    ({'lora_alpha': '6'}, {'r': 3, 'lora_alpha': 3}, 'tell different scales'),
    ({}, {'r': 3, 'lora_alpha': 3, 'use_dora': True}, 'use_dora'),
    ({}, {'peft_type': 'LOHA'}, 'LOHA'),
    ({}, {'r': 3, 'lora_alpha': 3, 'init_lora_weights': 'pissa'}, 'pissa'),
    ({}, {'r': '3', 'lora_alpha': 3}, 'positive whole'),
    ({}, {'r': 3, 'lora_alpha': True}, 'a number'),
    ({}, {'r': 3, 'lora_alpha': 3, 'alpha_pattern': {'(a+)+': 1}}, 'too involved'),
    ({}, {'r': 3, 'lora_alpha': 3, 'rank_pattern': {'to_q': 5}}, 'rank 5, its factors'),
    ({}, {'r': 3, 'lora_alpha': 3, 'rank_pattern': ['to_q']}, 'no table'),
  ],
)
def test_settings_that_are_not_understood_are_named(metadata, config, words, tmp_path):
  write_safetensors(
    tmp_path / 'adapter_model.safetensors',
    pairs(lambda m: f'transformer.{m}'),
    {'format': 'pt'} | metadata,
  )
  if config:
    (tmp_path / 'adapter_config.json').write_text(json.dumps(config))
  with pytest.raises(UserError, match=words):
    lora.read_file(tmp_path, MODEL)
  if words in ('--alpha 8', 'tell different scales'):
    adapters, _ = lora.read_file(tmp_path, MODEL, alpha='rank')
    same(changes(adapters), PLAIN)
    adapters, _ = lora.read_file(tmp_path, MODEL, alpha='6')
    same(changes(adapters), {n: 2 * v for n, v in PLAIN.items()})


def test_a_config_among_several_adapters_belongs_to_none(tmp_path):
  for name in ('one', 'two'):
    write_safetensors(tmp_path / f'{name}.safetensors', pairs(lambda m: m))
  (tmp_path / 'adapter_config.json').write_text(json.dumps({'r': 3, 'lora_alpha': 6}))
  with pytest.raises(UserError, match='among several files'):
    lora.read_file(tmp_path / 'one.safetensors', MODEL)
  (tmp_path / 'two.safetensors').unlink()
  same(
    changes(lora.read_file(tmp_path / 'one.safetensors', MODEL)[0]),
    {n: 2 * v for n, v in PLAIN.items()},
  )


def test_differences_of_distilled_adapters(tmp_path):
  """diff, diff_b and diff_m of published step-distilled adapters; a modulation by either name is
  the same."""
  table, bias = np.full((1, 6, 16), 0.25, np.float32), np.full(16, 0.5, np.float32)
  common = pairs(lambda m: f'diffusion_model.{original(m)}', spelling=('lora_down', 'lora_up'))
  more = {
    'diffusion_model.blocks.1.diff_m': table,
    'diffusion_model.head.diff_m': table[:, :2],
    'diffusion_model.blocks.0.self_attn.q.diff_b': bias,
    'diffusion_model.blocks.0.norm3.diff': bias,
  }
  found = changes(lora.read(common | more, MODEL))
  expected = PLAIN | {
    'blocks.1.scale_shift_table': table,
    'scale_shift_table': table[:, :2],
    'blocks.0.attn1.to_q.bias': bias,
    'blocks.0.norm2.weight': bias,
  }
  same(found, expected)
  renamed = {n.replace('diff_m', 'modulation.diff'): v for n, v in more.items()}
  same(changes(lora.read(common | renamed, MODEL)), expected)
  again = lora.write(lora.read(common | more, MODEL), MODEL)
  same(changes(lora.read(again, MODEL)), expected)
  with pytest.raises(UserError, match='blocks.table is made for'):
    lora.check_shapes(
      lora.read(common | {'diffusion_model.blocks.1.diff_m': table[:, :5]}, MODEL),
      wan.abstract_params(MODEL),
      'x',
    )


@pytest.mark.parametrize(
  'extra, words',
  [
    (
      {
        'transformer_2.blocks.1.attn1.to_k.lora_A.weight': (3, 16),
        'transformer_2.blocks.1.attn1.to_k.lora_B.weight': (16, 3),
      },
      'several adapters',
    ),
    (
      {
        'transformer.blocks.1.attn1.to_k.lora_A.b.weight': (3, 16),
        'transformer.blocks.1.attn1.to_k.lora_B.b.weight': (16, 3),
      },
      'several adapters',
    ),
    ({'module.blocks.0.attn1.to_q.lora_A.weight': (3, 16)}, 'the same part'),
    ({'transformer.blocks.0.attn1.to_k.lora_B.bias': (16,)}, 'bias of a factor that is not there'),
    ({'transformer.blocks.0.attn1.to_q.alpha': (2,)}, 'one number was expected'),
    ({'transformer.blocks.0.attn1.to_q.bias': (16,)}, 'base weights are needed'),
    ({'transformer.blocks.0.attn1.to_q.lora_magnitude_vector': (16,)}, 'kind that is not read'),
  ],
)
def test_tensors_that_are_not_understood_are_named(extra, words):
  tensors = pairs(lambda m: f'transformer.{m}') | {
    n: np.ones(shape, np.float32) for n, shape in extra.items()
  }
  with pytest.raises(UserError, match=words):
    lora.read(tensors, MODEL)


def test_weights_that_are_replaced_as_a_whole_become_differences():
  """PEFT's modules_to_save and bias='all': the file holds the new value, the base the old one."""
  base = {p.ours: np.zeros((), np.float32) for p in PIECES.values()}
  base['head.kernel'], base['blocks.self.q.bias'] = (
    np.full((16, 64), 2, np.float32),
    np.full((2, 16), 3, np.float32),
  )
  tensors = pairs(lambda m: f'base_model.model.{m}') | {
    'base_model.model.proj_out.weight': np.full((64, 16), 2.5, np.float32),
    'base_model.model.blocks.1.attn1.to_q.base_layer.bias': np.full(16, 1, np.float32),
  }
  found = changes(lora.read(tensors, MODEL, base=base))
  same(
    found,
    PLAIN
    | {'proj_out.weight': np.full((64, 16), 0.5), 'blocks.1.attn1.to_q.bias': np.full(16, -2)},
  )


def test_a_scale_that_half_precision_cannot_hold_stays_exact():
  narrow = {n: v.astype(np.float16) for n, v in pairs(lambda m: f'transformer.{m}').items()}
  adapters = lora.read(narrow, MODEL)
  for target, ranks in adapters.ranks.items():
    adapters.alphas[target] = [1.1 if rank else None for rank in ranks]
  expected = changes(adapters)
  for dialect in ('peft', 'comfyui', 'kohya'):
    same(changes(lora.read(lora.write(adapters, MODEL, dialect), MODEL)), expected, 1e-6)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  folder = tmp_path_factory.mktemp('base')
  rng, leaves, arrays = np.random.default_rng(1), wan.abstract_params(MODEL), {}
  for name, piece in wan.plan('dit', MODEL, 'diffusers').items():
    shape = leaves[piece.ours].shape[piece.layer is not None :]
    arrays[name] = wan_names.from_ours(rng.normal(size=shape).astype(np.float32), piece.layout)
  write_safetensors(folder / 'a.safetensors', arrays)
  wan.convert(folder / 'a.safetensors', folder / 'w', dtype='keep', heads=2)
  return folder, arrays


def said(capsys, main, *arguments):
  with pytest.raises(SystemExit) as ended:
    main([str(a) for a in arguments])
  text = capsys.readouterr()
  (line,) = [
    line for line in text.err.replace('\r', '\n').splitlines() if line.startswith('error:')
  ]
  assert ended.value.code == 2
  return line, text.out


def test_numbers_that_are_not_finite_are_named_everywhere(base, tmp_path, capsys):
  folder, arrays = base
  broken = arrays['proj_out.weight'].copy()
  broken[3, 2] = np.inf
  write_safetensors(tmp_path / 'base.safetensors', arrays | {'proj_out.weight': broken})
  line, _ = said(
    capsys, wan.main, 'import', tmp_path / 'base.safetensors', '-o', tmp_path / 'w', '--heads', 2
  )
  assert 'proj_out.weight' in line and '(3, 2)' in line and not (tmp_path / 'w').exists()
  tensors = pairs(lambda m: f'transformer.{m}')
  name = 'transformer.blocks.0.attn1.to_q.lora_B.weight'
  bad = tensors[name].copy()
  bad[0, 0] = np.nan
  write_safetensors(tmp_path / 'bad.safetensors', tensors | {name: bad})
  line, _ = said(
    capsys,
    lora.main,
    'import',
    tmp_path / 'bad.safetensors',
    '-o',
    tmp_path / 'o',
    '--base',
    folder / 'w',
  )
  assert name in line and not (tmp_path / 'o').exists()
  line, out = said(capsys, verify.main, tmp_path / 'bad.safetensors')
  assert name in out
  huge = {n: np.full_like(v, 1e25) for n, v in tensors.items()}
  write_safetensors(tmp_path / 'huge.safetensors', huge)
  lora.main(
    [
      'import',
      str(tmp_path / 'huge.safetensors'),
      '-o',
      str(tmp_path / 'h'),
      '--base',
      str(folder / 'w'),
    ]
  )
  line, _ = said(
    capsys, lora.main, 'merge', tmp_path / 'h', '-o', tmp_path / 'm', '--base', folder / 'w'
  )
  assert 'blocks.cross.v.kernel of layer 1' in line or 'blocks.self.q.kernel of layer 0' in line
  assert not (tmp_path / 'm').exists()
  line, _ = said(
    capsys,
    lora.main,
    'merge',
    tmp_path / 'h',
    '-o',
    tmp_path / 'm',
    '--base',
    folder / 'w',
    '--strength',
    'nan',
  )
  assert '--strength' in line


def test_verify_reads_the_numbers_of_converted_weights(base, tmp_path, capsys):
  folder, arrays = base
  assert verify.main([str(folder / 'w')]) == 0
  weights = load_weights(folder / 'w', 'dit')
  bad = {n: np.array(v) for n, v in weights.arrays.items()}
  bad['head.bias'][1] = np.nan
  pieces = [(n, None, v) for n, v in bad.items()]
  wan.write_like(weights, tmp_path / 'w', pieces, note='by hand')
  _, out = said(capsys, verify.main, tmp_path / 'w')
  assert 'head.bias' in out
  assert verify.main([str(tmp_path / 'w'), '--sizes_only']) == 0


@pytest.mark.parametrize(
  'change, words',
  [
    (lambda t: {}, 'holds no tensors'),
    (lambda t: {n: v.astype(np.int8) for n, v in t.items()}, 'int8 numbers, as of a quantized'),
    (
      lambda t: t | {f'{n.rsplit(".", 2)[0]}.alpha': np.float64(1e300) for n in t},
      'alpha of .* is 1e.300',
    ),
  ],
)
def test_what_can_be_no_adapter_is_refused(change, words):
  tensors = {n: np.asarray(v, np.float32) for n, v in pairs(lambda m: m).items()}
  lora.read(tensors, MODEL)
  with pytest.raises(UserError, match=words):
    lora.read(change(tensors), MODEL)
