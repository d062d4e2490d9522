"""Both roads to the dense asset agree; our rasterizer sees what PyTorch3D's sees.

Golden numbers always.
"""

import pathlib
import sys

import jax
import numpy as np
import pytest

from exp_jax.convert import smplx, stand_in
from exp_jax.convert.heads import pytorch3d_check
from exp_jax.errors import UserError
from exp_jax.files.npz import read_npz
from exp_jax.geometry import clip_coordinates, project
from exp_jax.heads import load_head
from exp_jax.rendering import Topology, rasterize

TESTS = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / 'rendering'))
from meshes_for_tests import bumpy_head, front_camera  # noqa: E402

SIZE = 256


@pytest.fixture(scope='module')
def golden():
  return np.load(TESTS / 'golden' / 'pytorch3d.npz')


def agree(found, expected, levels):
  """Order and positions bit for bit; normals and Laplacian to rounding."""
  for key in ('vertices', 'faces', 'edges'):
    if f'{key}_{levels}' in expected:
      np.testing.assert_array_equal(found[key], expected[f'{key}_{levels}'])
  if f'normals_{levels}' in expected:
    np.testing.assert_allclose(found['normals'], expected[f'normals_{levels}'], atol=2e-6)
    # short edges, float32
    np.testing.assert_allclose(found['affinity'], expected[f'affinity_{levels}'], rtol=2e-5)


@pytest.mark.parametrize('levels', [1, 2])
def test_the_sparse_road_equals_the_golden_numbers(levels, golden):
  made = pytorch3d_check.dense_asset(load_head('procedural'), levels, implementation='sparse')
  agree(made, golden, levels)
  lifted = np.einsum(
    'nkc,nk->nc',
    np.asarray(load_head('procedural').template)[made['coarse_ids']],
    made['barycentric'],
  )
  np.testing.assert_allclose(made['vertices'], lifted, atol=1e-7)


def test_the_two_implementations_agree_where_pytorch3d_is_installed(tmp_path):
  if not pytorch3d_check.installed():
    pytest.skip('PyTorch3D is not installed')
  head = load_head('procedural')
  made = [
    pytorch3d_check.dense_asset(head, 1, implementation=implementation)
    for implementation in ('sparse', 'pytorch3d')
  ]
  agree(made[0], {f'{key}_1': value for key, value in made[1].items()}, 1)
  assert str(pytorch3d_check.dense_asset(head, 1)['implementation']) == 'pytorch3d'


@pytest.mark.long
def test_our_face_ids_equal_pytorch3d_outside_the_outline(golden):
  """A pixel may differ where its centre lies within our 1/256 pixel of an edge; then it is a
  neighbour's."""
  vertices, faces = bumpy_head(98, 98)
  camera = front_camera((SIZE, SIZE))
  topology = Topology.from_faces(faces, positions=vertices)
  fragments = jax.jit(lambda v: rasterize(clip_coordinates(v, camera), topology, (SIZE, SIZE)))(
    vertices
  )
  ours, theirs = np.asarray(fragments.face_id), golden['face_id'].astype(int)
  covered = theirs >= 0
  near = np.zeros_like(covered)
  for y, x in np.ndindex(3, 3):
    near |= np.pad(covered, 1)[y : y + SIZE, x : x + SIZE] != covered
  inside, same = covered & ~near, ours == theirs
  assert ((ours >= 0) == covered)[~near].all(), 'coverage differs away from the outline'
  share = same[inside].mean()
  print(f'{inside.sum()} pixels inside the outline, {1e2 * share:.3f} % with the same face')
  assert share > 0.995
  for a, b in zip(ours[inside & ~same], theirs[inside & ~same]):
    assert len(set(faces[a]) & set(faces[b])) >= 1, 'a face that does not even touch the other'
  both = (inside & same)[::4, ::4]
  depth = 1 / np.asarray(fragments.inv_w)[::4, ::4][both]
  # positions are snapped to 1/256 pixel
  np.testing.assert_allclose(depth, golden['depth'][both], rtol=2e-4)


def test_pixels_in_pytorch3d_run_left_and_up():
  corners = np.array([[0, 0], [256, 256], [128, 64.0]])
  expected = [[1, 1, 5], [-1, -1, 6], [0, 0.5, 7]]
  np.testing.assert_allclose(
    pytorch3d_check.to_pytorch3d(corners, np.array([5, 6, 7.0]), (256, 256)), expected
  )
  with pytest.raises(ValueError, match='square'):
    pytorch3d_check.to_pytorch3d(corners, np.zeros(3), (256, 128))
  pixels, depth = project(np.zeros((1, 3), np.float32), front_camera((SIZE, SIZE)))
  np.testing.assert_allclose(
    pytorch3d_check.to_pytorch3d(pixels, depth, (SIZE, SIZE)), [[0, 0, 0.7]], atol=1e-6
  )


@pytest.mark.long
def test_the_smplx_command_writes_the_dense_asset(tmp_path, capsys):
  np.savez(tmp_path / 'm.npz', **stand_in.smplx_model())
  smplx.main(
    [str(tmp_path / 'm.npz'), '-o', str(tmp_path / 'h.npz'), '--shape', '3', '--dense', '1']
  )
  assert 'h_dense.npz' in capsys.readouterr().out
  head, dense = load_head(tmp_path / 'h.npz'), read_npz(tmp_path / 'h_dense.npz')
  assert len(dense['faces']) == 4 * len(head.faces) and len(dense['vertices']) == len(
    dense['barycentric']
  )
  with pytest.raises(UserError, match='no implementation'):
    pytorch3d_check.dense_asset(head, 1, implementation='nvdiffrast')
