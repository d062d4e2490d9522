"""LivePortrait's files: every tensor once, every leaf once, and nothing in them runs."""

import fractions
import importlib.util
import json
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from exp_jax.convert import liveportrait as convert
from exp_jax.convert.liveportrait_weights import liveportrait_names as names
from exp_jax.convert.liveportrait_weights.liveportrait_files import open_nested, read_template
from exp_jax.errors import UserError
from exp_jax.files.safetensors import SafetensorsFile, write_safetensors
from exp_jax.systems.liveportrait.models import PARTS, load, networks
from exp_jax.systems.liveportrait.motion.templates import load_template, save_template

spec = importlib.util.spec_from_file_location(
  'random_weights',
  pathlib.Path(__file__).parents[1] / 'systems' / 'liveportrait' / 'random_weights.py',
)
rw = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rw)
TEMPLATES = pathlib.Path(__file__).parents[3] / 'shared' / 'real' / 'templates'


def dicts(variant='tiny'):
  """{part: state dict} in the published names."""
  nets, out = networks(variant), {}
  for i, part in enumerate(PARTS):
    out[part] = rw.state_dict(
      names.expected(names.rules_of(nets, part), convert.leaf_shapes(nets, part)), i
    )
  return out


def write_files(folder, given, write, suffix):
  folder.mkdir()
  for part, stem in convert.FILES.items():
    write(folder / f'{stem}.{suffix}', given[part])
  nested = {
    group: {f'module.{n}': v for n, v in given[part].items()}
    for part, group in convert.GROUPS.items()
  }
  write(
    folder / f'{convert.RETARGETING}.{suffix}',
    nested
    if suffix == 'pth'
    else {f'{g}.{n}': v for g, tensors in nested.items() for n, v in tensors.items()},
  )


@pytest.fixture(scope='module')
def published(tmp_path_factory):
  folder = tmp_path_factory.mktemp('published') / 'base'
  write_files(folder, dicts(), write_safetensors, 'safetensors')
  return folder


@pytest.mark.long
def test_every_tensor_fills_its_leaf_once(published, tmp_path, capsys):
  assert (
    convert.main(['weights', str(published), '-o', str(tmp_path / 'w'), '--variant', 'tiny']) == 0
  )
  assert 'every tensor used once' in capsys.readouterr().out
  report, given = json.loads((tmp_path / 'w' / 'report.json').read_text()), dicts()
  for part in PARTS:
    used = [name for tensors in report[part]['filled'].values() for name in tensors]
    # a batch norm or spectral norm serves the kernel and the bias of its layer
    assert set(used) == {n for n in given[part] if not n.endswith('num_batches_tracked')}
    assert set(report[part]['filled']) == set(convert.leaf_shapes(networks('tiny'), part))
    assert all(report[part]['filled'].values())
  model = load(tmp_path / 'w')
  assert model.nets.variant == 'tiny' and not model.animals
  bias = given['appearance']['second.bias']
  np.testing.assert_array_equal(model.params['appearance']['second']['bias'], bias)


def test_out_and_in_again_is_bit_for_bit(published, tmp_path):
  """8.2: what has no norm to fold comes back as published, and all of it is the same from the first
  folding on."""
  convert.convert(published, tmp_path / 'w', variant='tiny')
  convert.main(['export', str(tmp_path / 'w'), '-o', str(tmp_path / 'out')])
  convert.convert(tmp_path / 'out', tmp_path / 'w2', variant='tiny')
  for name in ('w', 'w2'):
    file = SafetensorsFile(tmp_path / name / 'params.safetensors')
    arrays = {n: file.read(n) for n in file.names}
    if name == 'w':
      first = arrays
  assert set(first) == set(arrays)
  for n in first:
    np.testing.assert_array_equal(first[n], arrays[n], err_msg=n)
  given = dicts()
  with SafetensorsFile(tmp_path / 'out' / 'motion_extractor.safetensors') as file:
    assert set(file.names) == set(given['motion'])
    for n in file.names:
      np.testing.assert_array_equal(file.read(n), given['motion'][n], err_msg=n)


@pytest.mark.parametrize('part', ('appearance', 'generator'))
def test_folding_is_the_norm_applied(part):
  """A kernel of ours against batch norm and spectral norm in their own formulas, in double
  precision."""
  nets, given = networks('tiny'), dicts()[part]
  rules, leaves = names.rules_of(nets, part), convert.leaf_shapes(nets, part)
  arrays, _ = names.read_part(
    rules, leaves, {n: v.shape for n, v in given.items()}, given.__getitem__, part
  )
  g = {n: np.asarray(v, np.float64) for n, v in given.items()}
  if part == 'appearance':
    gain = g['first.norm.weight'] / np.sqrt(g['first.norm.running_var'] + 1e-5)
    np.testing.assert_allclose(
      arrays['first.conv.kernel'][1, 2, 0], g['first.conv.weight'][:, 0, 1, 2] * gain, rtol=1e-6
    )
    bias = (g['first.conv.bias'] - g['first.norm.running_mean']) * gain + g['first.norm.bias']
    np.testing.assert_allclose(arrays['first.conv.bias'], bias, atol=1e-6)
  else:
    weight = g['up_0.conv_0.weight_orig']
    sigma = g['up_0.conv_0.weight_u'] @ weight.reshape(len(weight), -1) @ g['up_0.conv_0.weight_v']
    np.testing.assert_allclose(
      arrays['up0.conv0.kernel'][2, 0, 3], weight[:, 3, 2, 0] / sigma, rtol=1e-5
    )
    hidden = nets.generator.hidden
    np.testing.assert_array_equal(
      arrays['shared.kernel'][0, 1, 2, 3 * hidden : 4 * hidden],
      given['G_middle_1.norm_1.mlp_shared.0.weight'][:, 2, 0, 1],
    )


@pytest.mark.long
@pytest.mark.parametrize(
  'change, words',
  [
    (lambda d: d['warping'].pop('third.conv.bias'), r"missing \['third.conv.bias'\]"),
    (
      lambda d: d['warping'].update({'fifth.weight': np.zeros(3, np.float32)}),
      r"unknown \['fifth.weight'\]",
    ),
    (
      lambda d: d['motion'].update({'detector.fc_t.bias': np.zeros(4, np.float32)}),
      r'detector.fc_t.bias has shape \(4,\)',
    ),
    (lambda d: d['lip']['mlp.0.weight'].__setitem__((0, 0), np.nan), 'not finite'),
  ],
)
def test_what_is_wrong_is_named(tmp_path, change, words):
  given = dicts()
  change(given)
  write_files(tmp_path / 'x', given, write_safetensors, 'safetensors')
  with pytest.raises(UserError, match=words):
    convert.convert(tmp_path / 'x', tmp_path / 'w', variant='tiny')
  assert not (tmp_path / 'w').exists()


def test_torch_files_are_read(published, tmp_path):
  """State dicts as torch saves them: ordered, with notes, counters of batches, dictionaries inside,
  other entries beside."""
  torch = pytest.importorskip('torch')
  module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
  torch.save(module.state_dict(), tmp_path / 'one.pth')
  file = open_nested(tmp_path / 'one.pth')
  assert file.shapes['1.num_batches_tracked'] == () and file.read('1.num_batches_tracked') == 0
  np.testing.assert_array_equal(file.read('0.weight'), module[0].weight.detach().numpy())

  def write(path, tensors):
    turned = lambda d: {
      k: turned(v) if isinstance(v, dict) else torch.from_numpy(v.copy()) for k, v in d.items()
    }
    torch.save(turned(tensors) | ({'epoch': 3} if 'stitching' in path.name else {}), path)

  write_files(tmp_path / 'pth', dicts(), write, 'pth')
  convert.convert(tmp_path / 'pth', tmp_path / 'w', variant='tiny')
  convert.convert(published, tmp_path / 'w2', variant='tiny')
  assert (tmp_path / 'w' / 'params.safetensors').read_bytes() == (
    tmp_path / 'w2' / 'params.safetensors'
  ).read_bytes()


class _Runs:
  def __reduce__(self):
    return (print, ('this must not run',))


def test_files_that_want_to_run_are_refused(tmp_path, capsys):
  with zipfile.ZipFile(tmp_path / 'x.pth', 'w') as file:
    file.writestr('x/data.pkl', pickle.dumps({'a': _Runs()}))
  with pytest.raises(UserError, match='asks for'):
    open_nested(tmp_path / 'x.pth')
  (tmp_path / 'x.pkl').write_bytes(pickle.dumps({'motion': [_Runs()]}))
  with pytest.raises(UserError, match='refused'):
    read_template(tmp_path / 'x.pkl')
  (tmp_path / 'y.pth').write_bytes(b'words')
  with pytest.raises(UserError, match='not a torch checkpoint'):
    open_nested(tmp_path / 'y.pth')
  assert capsys.readouterr().out == ''


def template_dict(old, ratios=True, frames=3):
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  motion = [
    {
      'scale': draw(1, 1),
      'R_d' if old else 'R': draw(1, 3, 3),
      'exp': draw(1, 21, 3),
      't': draw(1, 3),
    }
    for _ in range(frames)
  ]
  if not old:
    motion = [m | {'kp': draw(1, 21, 3), 'x_s': draw(1, 21, 3)} for m in motion]
  out = {'n_frames': frames, 'output_fps': 30, 'motion': motion}
  if ratios:
    out |= {
      'c_d_eyes_lst' if old else 'c_eyes_lst': [draw(1, 2) for _ in range(frames)],
      'c_d_lip_lst' if old else 'c_lip_lst': [draw(1, 1) for _ in range(frames)],
    }
  return out


@pytest.mark.parametrize('old, ratios', [(True, True), (False, True), (False, False)])
def test_templates_of_three_kinds(tmp_path, old, ratios):
  given = template_dict(old, ratios)
  (tmp_path / 'd.pkl').write_bytes(pickle.dumps(given))
  convert.main(['template', str(tmp_path / 'd.pkl'), '-o', str(tmp_path / 'd.npz')])
  found = load_template(tmp_path / 'd.npz')
  assert found.rate == 30 and len(found) == 3 and (found.eyes is not None) == ratios
  row = given['motion'][2]
  np.testing.assert_array_equal(found.motion.rotation[2], row['R_d' if old else 'R'][0])
  np.testing.assert_array_equal(found.motion.expression[2], row['exp'][0])
  assert found.motion.scale[2] == row['scale'][0, 0]
  np.testing.assert_array_equal(found.motion.translation[2], row['t'][0])
  np.testing.assert_array_equal(
    found.motion.canonical[2], np.zeros((21, 3)) if old else row['kp'][0]
  )
  if ratios:
    np.testing.assert_array_equal(
      found.eyes[1], given['c_d_eyes_lst' if old else 'c_eyes_lst'][1][0]
    )
    assert found.lip[1] == given['c_d_lip_lst' if old else 'c_lip_lst'][1][0, 0]


def test_damaged_templates_are_refused(tmp_path):
  given = template_dict(False)
  given['motion'][1]['exp'] = np.zeros((1, 20, 3), np.float32)
  (tmp_path / 'd.pkl').write_bytes(pickle.dumps(given))
  with pytest.raises(UserError, match='exp of frame 1'):
    read_template(tmp_path / 'd.pkl')
  with pytest.raises(UserError, match='make an .npz'):
    load_template(tmp_path / 'd.pkl')
  np.savez(tmp_path / 'x.npz', scale=np.zeros(3))
  with pytest.raises(UserError, match='no motion template'):
    load_template(tmp_path / 'x.npz')


@pytest.mark.skipif(not TEMPLATES.is_dir(), reason='third-party templates, for local testing only')
def test_the_published_templates(tmp_path):
  counts = dict(
    d1=(16, 30),
    d5=(148, 30),
    d8=(275, 30),
    laugh=(54, 25),
    wink=(57, 25),
    open_lip=(77, 25),
    shake_face=(93, 20),
    talking=(100, 20),
  )
  for name, (frames, rate) in counts.items():
    found = read_template(TEMPLATES / f'{name}.pkl')
    assert (len(found), found.rate) == (frames, fractions.Fraction(rate)) and (
      found.eyes is None
    ) == (not name.startswith('d'))
    identity = found.motion.rotation @ found.motion.rotation.transpose(0, 2, 1)
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-5)
    assert 1.0 < found.motion.scale.min() <= found.motion.scale.max() < 1.75
    quiet = np.abs(found.motion.expression[:, [6, 8, 9, 12, 18]]).std(0).sum(-1)
    assert (quiet < 1e-4).all()  # five keypoints carry no expression
    save_template(tmp_path / f'{name}.npz', found)
    np.testing.assert_array_equal(
      load_template(tmp_path / f'{name}.npz').motion.expression, found.motion.expression
    )
