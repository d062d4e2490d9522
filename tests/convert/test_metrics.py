import json
import pathlib
import pickle

import numpy as np
import pytest

from exp_jax.convert import metrics
from exp_jax.convert.metric_weights.metrics_files import Conversion, read_tensors
from exp_jax.convert.metric_weights.metrics_tables import TABLES
from exp_jax.errors import UserError
from exp_jax.files.safetensors import write_safetensors
from exp_jax.networks.metric import inception
from exp_jax.networks.weights import load_weights
from tests.golden.named_weights import named_weights, shapes_of

FOLDER = pathlib.Path(__file__).parents[1] / 'golden'
GOLDEN = np.load(FOLDER / 'metric_networks.npz')
SMALL = {
  '0.weight': (3, 2, 3, 3),
  '0.bias': (3,),
  '1.weight': (3,),
  '1.bias': (3,),
  '1.running_mean': (3,),
  '1.running_var': (3,),
  '1.num_batches_tracked': (),
}


@pytest.fixture
def heads(tmp_path):
  """A trunk and heads of LPIPS as two safetensors files."""
  # the rest is not looked at
  cut = lambda name, shape: shape if name.startswith('features') or name.startswith('lin') else (3,)
  trunk, small = (
    named_weights({n: cut(n, s) for n, s in shapes_of(GOLDEN, f'{key}.shapes').items()})
    for key in ('alexnet', 'lpips_alex')
  )
  write_safetensors(tmp_path / 'trunk.safetensors', trunk)
  write_safetensors(tmp_path / 'alex.safetensors', small)
  return tmp_path


def run(*arguments):
  with pytest.raises(SystemExit) as ended:
    metrics.main([str(a) for a in arguments])
  return ended.value.code


@pytest.mark.parametrize('name', ['state_dict.pth', 'state_dict_old.pth'])
def test_what_torch_saves_is_read_without_torch(name):
  found, expected = read_tensors(FOLDER / name), named_weights(SMALL)
  assert set(found) == set(SMALL)
  for key, value in expected.items():
    np.testing.assert_array_equal(found[key], value)


def test_nested_checkpoints_keep_the_names_of_their_parts():
  found = read_tensors(FOLDER / 'state_dict_nested.pth')
  np.testing.assert_array_equal(found['net.0.weight'], named_weights(SMALL)['0.weight'])
  assert any(name.startswith('opt_00.') for name in found)


def test_a_file_that_wants_to_run_something_is_refused(tmp_path):
  class Evil:
    def __reduce__(self):
      return pathlib.Path.touch, (tmp_path / 'ran',)

  (tmp_path / 'evil.pth').write_bytes(pickle.dumps({'a': Evil()}, 2))
  with pytest.raises(UserError, match='refused'):
    read_tensors(tmp_path / 'evil.pth')
  assert not (tmp_path / 'ran').exists()


def test_programs_are_refused_with_the_remedy(tmp_path):
  import zipfile

  with zipfile.ZipFile(tmp_path / 'i3d.pt', 'w') as archive:
    archive.writestr('i3d/code/__torch__.py', '')
  (tmp_path / 'arcface.onnx').touch()
  for name in ('i3d.pt', 'arcface.onnx'):
    with pytest.raises(UserError, match='program.*weights of the same network'):
      read_tensors(tmp_path / name)


def test_folding_a_norm_leaves_the_function_as_it_was():
  rng = np.random.default_rng(0)
  book = Conversion(named_weights(SMALL), 'small')
  book.conv('layer', '0', norm='1', eps=0.1)
  w, x = named_weights(SMALL), rng.normal(size=18)
  plain = np.einsum('oi,i->o', w['0.weight'].reshape(3, -1), x) + w['0.bias']
  normed = (plain - w['1.running_mean']) / np.sqrt(w['1.running_var'] + 0.1) * w['1.weight'] + w[
    '1.bias'
  ]
  kernel = book.leaves['layer.kernel'].transpose(3, 2, 0, 1).reshape(3, -1)
  np.testing.assert_allclose(kernel @ x + book.leaves['layer.bias'], normed, atol=1e-5)
  assert not book.names and book.report['layer.bias'] == list(SMALL)[:-1]


def test_the_command_writes_a_folder_that_loads_with_its_digests(heads, capsys):
  metrics.main(
    [
      'lpips',
      str(heads / 'trunk.safetensors'),
      str(heads / 'alex.safetensors'),
      '-o',
      str(heads / 'out'),
    ]
  )
  assert 'alex' in capsys.readouterr().out
  weights = load_weights(heads / 'out', 'lpips')
  assert weights.sizes == {'variant': 'alex'} and weights.tree()['trunk']['conv0'][
    'kernel'
  ].shape == (11, 11, 3, 64)
  report = json.loads((heads / 'out' / 'report.json').read_text())
  assert set(report['leaves']) == set(weights.arrays)
  assert len(report['left_out']) == 6 and all(
    n.startswith('classifier.') for n in report['left_out']
  )
  used = [name for names in report['leaves'].values() for name in names]
  assert set(used) | set(report['left_out']) == set(shapes_of(GOLDEN, 'alexnet.shapes')) | set(
    shapes_of(GOLDEN, 'lpips_alex.shapes')
  )
  assert (
    run('lpips', heads / 'trunk.safetensors', heads / 'alex.safetensors', '-o', heads / 'out') == 2
  )
  assert 'exists already' in capsys.readouterr().err
  data = bytearray((heads / 'out' / 'params.safetensors').read_bytes())
  data[-1] ^= 1
  (heads / 'out' / 'params.safetensors').write_bytes(data)
  with pytest.raises(UserError, match='SHA-256'):
    load_weights(heads / 'out', 'lpips')


def test_help_and_bad_options(tmp_path, capsys):
  assert run('--help') in (0, None)
  assert 'alexnet-owt' in capsys.readouterr().out
  for arguments, words in (
    (('sort', 'a.pth'), "'sort'"),
    (('arcface', 'a.pth', '--eps', '1'), '--eps is for i3d'),
  ):
    assert run(*arguments, '-o', tmp_path / 'out') == 2
    error = capsys.readouterr().err
    assert words in error and error.count('\n') == 1


@pytest.mark.parametrize(
  'files, words',
  [
    (('trunk',), 'lacks the heads'),
    (('alex',), 'lacks the trunk'),
    (('trunk', 'trunk'), 'give each file once'),
    (('nowhere',), 'nowhere'),
  ],
)
def test_wrong_files_are_one_sentence_and_leave_nothing(heads, capsys, files, words):
  assert run('lpips', *(heads / f'{name}.safetensors' for name in files), '-o', heads / 'out') == 2
  error = capsys.readouterr().err
  assert words in error and error.count('\n') == 1
  assert not (heads / 'out').exists()


def test_leftovers_and_gaps_are_listed():
  tensors = named_weights({n: s for n, s in shapes_of(GOLDEN, 'inception.shapes').items()})
  tensors['surplus.weight'] = np.ones(3, np.float32)
  with pytest.raises(UserError, match='left over: surplus.weight'):
    TABLES['inception'](tensors, 'file')
  del tensors['surplus.weight'], tensors['Mixed_7c.branch_pool.bn.bias']
  with pytest.raises(UserError, match="no tensor 'Mixed_7c.branch_pool.bn.bias'"):
    TABLES['inception'](tensors, 'file')
  book = Conversion({}, 'file')
  book.put('Conv2d_1a_3x3.kernel', np.ones((1, 2)))
  with pytest.raises(
    UserError, match='missing: .*Conv2d_1a_3x3.bias.*misshapen: Conv2d_1a_3x3.kernel'
  ):
    book.finish(inception.Inception(), (1, 299, 299, 3))
  with pytest.raises(ValueError, match='twice'):
    book.put('Conv2d_1a_3x3.kernel', np.ones((1, 2)))


@pytest.mark.parametrize(
  'kind, key, drop, words',
  [
    ('arcface', 'arcface50', 'layer3.13.', 'blocks a stage'),
    ('l2cs', 'l2cs50', 'layer3.5.', 'blocks a stage'),
    ('l2cs', 'l2cs', 'fc_yaw_gaze', "no tensor 'fc_yaw_gaze.weight'"),
    ('smirk', 'smirk', 'shape_encoder.encoder.conv_stem', 'conv_stem'),
  ],
)
def test_other_networks_are_refused(kind, key, drop, words):
  shapes = {n: s for n, s in shapes_of(GOLDEN, f'{key}.shapes').items() if not n.startswith(drop)}
  ones = {n: np.broadcast_to(np.float32(1), s) for n, s in shapes.items()}
  with pytest.raises(UserError, match=words):
    TABLES[kind](ones, 'file')


@pytest.mark.parametrize('dtype', [np.int64, np.float32])
def test_numbers_that_are_none_are_refused(dtype):
  bad = {
    'a.weight': np.ones((2, 2), np.int64)
    if dtype == np.int64
    else np.full((2, 2), np.nan, np.float32)
  }
  with pytest.raises(UserError, match='a.weight holds'):
    Conversion(bad, 'file').take('a.weight')
