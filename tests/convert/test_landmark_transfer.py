"""MediaPipe's landmarks found by shape, against where they are known to be: the same surface on
other triangles."""

import dataclasses

import numpy as np
import pytest

from exp_jax.convert import flame, smplx, stand_in
from exp_jax.convert.heads import landmark_transfer, stand_in_face
from exp_jax.convert.heads.landmark_transfer import find_landmarks, with_mediapipe_landmarks
from exp_jax.errors import UserError
from exp_jax.fitting.coarse.fit import fit_coarse_many
from exp_jax.fitting.landmark_head import IRISES, LIDS, LIPS, OVAL
from exp_jax.heads import head_landmarks, load_head, neutral_params, save_head
from exp_jax.observe.observation import make_observation


@pytest.fixture(scope='module')
def flame_file(tmp_path_factory):
  """A folder with FLAME's files of a person, and who it is."""
  folder = tmp_path_factory.mktemp('flame')
  return folder, stand_in.write_flame_person(folder)


def convert(folder):
  return flame.convert(
    folder / 'FLAME_NEUTRAL.pkl',
    landmarks=folder / 'flame_static_embedding.pkl',
    masks=folder / 'FLAME_masks.pkl',
  )


def millimetres(head, truth):
  return 1e3 * np.linalg.norm(
    np.asarray(head_landmarks(head, neutral_params(head))) - truth, axis=-1
  )


@pytest.mark.long
def test_a_person_on_other_triangles_has_the_size_of_the_model(flame_file):
  folder, who = flame_file
  head = convert(folder)
  assert head.template.shape == (5023, 3) and head.faces.shape == (9976, 3)
  edges = np.sort(np.concatenate([np.asarray(head.faces)[:, [k, k - 1]] for k in range(3)]), 1)
  # a surface: no edge has three faces
  assert np.unique(edges, axis=0, return_counts=True)[1].max() == 2
  joints = np.asarray(head.joint_template)
  np.testing.assert_allclose(
    joints, who.joints[[load_head('makehuman').joint(n) for n in head.joint_names]], atol=1e-5
  )
  assert np.asarray(head.regions['eyeballs']).sum() == 2 * 546


@pytest.mark.long
def test_landmarks_lie_where_they_are_known_to(flame_file):
  folder, who = flame_file
  head, found = with_mediapipe_landmarks(convert(folder), load_head('makehuman'))
  assert head.landmark_names == tuple(map(str, range(478)))
  wrong = millimetres(head, who.landmarks)
  # FLAME's triangles are 5 mm: their chords alone lie half a millimetre beside the surface
  assert wrong.mean() < 0.9 and np.percentile(wrong, 95) < 2.2 and wrong.max() < 5
  assert wrong[list(LIPS)].mean() < 0.8 and wrong[list(LIDS)].mean() < 0.8
  assert wrong[list(IRISES)].mean() < 1.3 and wrong[list(OVAL)].mean() < 2
  assert np.isfinite(found.distance).all()


@pytest.mark.long
def test_a_shape_that_the_default_head_cannot_make(flame_file, tmp_path):
  """Bumps of a millimetre and a half, three centimetres wide, that no direction of the default head
  has."""
  folder, who = flame_file
  head = convert(folder)
  waves = np.random.default_rng(0).normal(size=(3, 3)) * 2 * np.pi / 0.03 / np.sqrt(3)
  bumps = lambda points: 1.5e-3 * np.sin(points @ waves)
  bumped = head.replace(template=head.template + bumps(np.asarray(head.template)))
  marked, _ = with_mediapipe_landmarks(bumped, load_head('makehuman'))
  wrong = millimetres(marked, who.landmarks + bumps(who.landmarks))
  # the bumps are of 1.8 mm (root mean square), two thirds of it along the skin, where no shape
  # tells of it
  assert wrong.mean() < 1.5 and np.percentile(wrong, 95) < 3.5


@pytest.mark.long
def test_where_the_head_stands_and_its_size_do_not_matter(flame_file):
  head, reference = convert(flame_file[0]), load_head('makehuman')
  moved = head.replace(
    template=1.2 * head.template + np.array([0.3, 1.5, -0.2]),
    joint_template=1.2 * head.joint_template + np.array([0.3, 1.5, -0.2]),
  )
  one, other = find_landmarks(head, reference), find_landmarks(moved, reference)
  place = lambda found: np.einsum(
    'kcd,kc->kd', np.asarray(head.template)[np.asarray(head.faces)[found.faces]], found.barycentric
  )
  # skin in the units of the smaller head; the eyeball is met along a ray from its centre
  assert 1e3 * np.linalg.norm(place(one) - place(other), axis=-1).max() < 0.3


@pytest.mark.slow
def test_smplx_of_full_size(tmp_path, capsys):
  who = stand_in.write_smplx_person(tmp_path)
  smplx.main([str(tmp_path / 'SMPLX_NEUTRAL.npz'), '-o', str(tmp_path / 'head.npz')])
  assert "MediaPipe's 478 landmarks" in capsys.readouterr().out
  head = load_head(tmp_path / 'head.npz')
  wrong = millimetres(head, who.landmarks)
  assert wrong.mean() < 0.9 and np.percentile(wrong, 95) < 2.2 and wrong.max() < 5
  assert len(head.contour_faces) == 79


@pytest.mark.long
def test_the_command_and_what_it_refuses(flame_file, tmp_path, capsys):
  head = convert(flame_file[0])
  save_head(tmp_path / 'few.npz', head)
  seen = make_observation(np.zeros((1, 478, 2)), name='x', image_size=(64, 64), estimator='none')
  with pytest.raises(UserError, match='51 landmarks.*convert.landmarks'):
    fit_coarse_many(head, [seen])
  landmark_transfer.main([str(tmp_path / 'few.npz'), '-o', str(tmp_path / 'all.npz')])
  assert (
    len(load_head(tmp_path / 'all.npz').landmark_names) == 478 and 'mm' in capsys.readouterr().out
  )
  reference = load_head('makehuman')
  with pytest.raises(UserError, match='no eyeballs'):
    find_landmarks(
      head.replace(regions={k: v for k, v in head.regions.items() if k != 'eyeballs'}), reference
    )
  with pytest.raises(UserError, match='51'):
    find_landmarks(reference, head)
  shuffled = head.replace(
    landmark_faces=head.landmark_faces[::-1], landmark_barycentric=head.landmark_barycentric[::-1]
  )
  with pytest.raises(UserError, match='landmarks'):
    find_landmarks(shuffled, reference)


@pytest.mark.long
def test_the_no_jaw_head_opens_its_mouth_by_expressions():
  """The opening of the jaw is a mix of the directions: some mix of a few of them drops the chin and
  not the brow."""
  head = load_head('makehuman')
  mesh = stand_in_face.resampled(head, skin=1500, ball=72, without=('clothing',))
  who = stand_in_face.person(head, mesh, seed=3, with_jaw=False)
  assert dataclasses.is_dataclass(who) and who.shapedirs.shape == (1644, 3, 400)
  basis = who.shapedirs[..., 300:350]
  jaw = mesh.mix @ np.asarray(head.weights)[:, head.joint('jaw')]
  turned = np.cross([0.35, 0, 0], who.template - who.joints[head.joint('jaw')]) * jaw[:, None]
  mix = np.linalg.lstsq(basis.reshape(-1, basis.shape[-1]), turned.reshape(-1), rcond=None)[0]
  assert np.abs(basis @ mix - turned).max() < 2e-3 < np.abs(turned).max() / 10
