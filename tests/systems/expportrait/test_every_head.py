"""A converted head goes through every stage: a photograph is fitted, a record prepared, a portrait
driven, the transfer trained."""

import dataclasses
import json
import pathlib
import runpy

import jax
import numpy as np
import pytest

from exp_jax.actors import load_stage, render_actor, sample_actor, sample_motion
from exp_jax.commands import animate as command
from exp_jax.convert import flame, smplx, stand_in
from exp_jax.convert.heads.landmark_transfer import with_mediapipe_landmarks
from exp_jax.errors import UserError
from exp_jax.fitting.subject import fit_frames
from exp_jax.geometry import similarity
from exp_jax.heads import head_landmarks, load_head, save_head, save_subject
from exp_jax.heads.densify import densify
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import check_head, frame_params
from exp_jax.heads.trained_head import trained_on
from exp_jax.media.images import write_image
from exp_jax.media.video import Clip, read_video
from exp_jax.observe import shared_estimator
from exp_jax.systems.expportrait import animate
from exp_jax.systems.expportrait.records.clip_record import make_record
from exp_jax.systems.expportrait.transfer import transfer_task
from exp_jax.systems.expportrait.transfer.network import Transfer
from exp_jax.training.exports import write_export
from tests.converted_head import converted_head
from tests.small_portrait import Truth, make_small_portrait

CONFIG = pathlib.Path(__file__).parents[3] / 'configs' / 'expression_transfer.py'


@pytest.mark.long
@pytest.mark.parametrize('jaw', [True, False])
def test_a_portrait_on_a_converted_head_is_driven(jaw, tmp_path, monkeypatch):
  head = converted_head(jaw=jaw)
  save_head(tmp_path / 'head.npz', head)
  picture, points, matte = make_small_portrait(tmp_path, load_head(tmp_path / 'head.npz'))
  monkeypatch.setattr(shared_estimator, 'FaceEstimator', lambda: Truth(points, matte))
  arguments = [
    '-s',
    f'{tmp_path / "me.png"}',
    '-d',
    f'{tmp_path / "motion.npz"}',
    '-o',
    f'{tmp_path / "out.mp4"}',
    '--size',
    '64',
    '--head',
    f'{tmp_path / "head.npz"}',
    '--subjects',
    f'{tmp_path / "fits"}',
    '--smoothing',
    '0',
  ]
  with pytest.raises(SystemExit):
    command.main(arguments)  # the embedded transfer knows another head
  command.main([*arguments, '--transfer', 'none'])
  frames = read_video(tmp_path / 'out.mp4').frames
  assert frames.shape == (3, 64, 64, 3)
  face = lambda frame: frame[matte > 0].astype(float).mean()
  assert abs(face(frames[0]) - face(picture)) < 12, 'the first frame is the photograph'
  assert (
    np.abs(frames[1].astype(float) - frames[0]).mean()
    > 2 * np.abs(frames[2].astype(float) - frames[0]).mean()
  )
  assert json.loads((tmp_path / 'out.json').read_text())['head'] == {
    'name': 'converted',
    'digest': head_digest(head),
  }


def transfer_config(head_file, head, **data):
  config = runpy.run_path(str(CONFIG))['get_config']('smoke').copy_and_resolve_references().unlock()
  config.model.expression = head.expression_basis.shape[-1]
  config.data.update(head=str(head_file), mirror=False, **data)
  return config.lock()


def two_steps(config):
  """Parameters before and after two steps of plain descent."""
  task = transfer_task.task(config)
  source, transform = transfer_task.examples(config)
  batch = [transform(i, np.random.default_rng(i)) for i in list(source)[: config.batch_size]]
  batch = {k: np.stack([one[k] for one in batch]) for k in batch[0]}
  params = start = task.init_fn(jax.random.key(0))
  for step in range(2):
    slope, _ = jax.grad(task.loss_fn, has_aux=True)(params, batch, jax.random.key(step))
    params = jax.tree.map(lambda p, g: p - 1e-2 * g, params, slope)
  return start, params


@pytest.mark.long
def test_an_export_knows_its_head_and_refuses_another(tmp_path):
  head = converted_head()
  save_head(tmp_path / 'head.npz', head)
  config = transfer_config(tmp_path / 'head.npz', head, levels=0, count=2, holdout=1)
  start, params = two_steps(config)
  change = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), start, params)
  assert np.isfinite(jax.tree.leaves(change)).all() and max(jax.tree.leaves(change)) > 0
  write_export(tmp_path / 'export', config, params, texts=transfer_task.export_texts(config))
  assert trained_on(tmp_path / 'export') == {'name': 'converted', 'digest': head_digest(head)}
  Transfer(tmp_path / 'export', head, densify(head, 0))
  other = head.replace(template=head.template * 1.01, name='somebody')
  with pytest.raises(
    UserError, match="trained on the head 'converted'.*not on 'somebody'.*--head.*--transfer none"
  ):
    Transfer(tmp_path / 'export', other, densify(other, 0))
  write_export(tmp_path / 'old', config, params)  # of a version that recorded no head
  assert trained_on(tmp_path / 'old') is None
  Transfer(tmp_path / 'old', other, densify(other, 0))
  with pytest.raises(
    UserError, match="video model .* trained on the head 'makehuman'.*not on 'converted'"
  ):
    animate.load(generator='embedded', transfer='none', head=tmp_path / 'head.npz')


@pytest.fixture(scope='module')
def clip():
  """Three frames of an actor, 256 pixels, and what a perfect estimator says of them."""
  stage = load_stage()
  rng = np.random.default_rng([5, 0])
  return render_actor(
    sample_actor(rng, stage),
    sample_motion(rng, stage.assets.head, num_frames=3, fps=5),
    stage,
    size=256,
  )


class Perfect:
  """An estimator that knows the actor's landmarks and matte."""

  def __init__(self, clip):
    self._clip = clip

  def __exit__(self, *_):
    pass

  def __call__(self, image):
    k = next(k for k, frame in enumerate(self._clip.frames) if np.array_equal(frame, image))
    points = np.concatenate([self._clip.landmarks[k], np.zeros((478, 1))], 1)
    return points[None].astype(np.float32), np.ones(1, np.float32), self._clip.matte[k]


def stand_in_head(kind, folder):
  """A converted stand-in of full size, with MediaPipe's landmarks, in a file."""
  if kind == 'smplx':
    stand_in.write_smplx_person(folder)
    head = smplx.convert(folder / 'SMPLX_NEUTRAL.npz', num_shape=60, num_expression=50)
  else:
    stand_in.write_flame_person(folder, with_jaw=kind == 'flame')
    model = 'FLAME_NEUTRAL.pkl' if kind == 'flame' else 'FLAME_NO_JAW.pkl'
    head = flame.convert(
      folder / model,
      landmarks=folder / 'flame_static_embedding.pkl',
      masks=folder / 'FLAME_masks.pkl',
      num_shape=60,
      num_expression=50,
    )
  head, _ = with_mediapipe_landmarks(head, load_head('makehuman'))
  save_head(folder / f'{kind}.npz', head)
  return head


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['smplx', 'flame', 'flame_without_jaw'])
def test_stand_ins_of_full_size_walk_the_road(kind, clip, tmp_path, monkeypatch, lightly_compiled):
  monkeypatch.setattr(shared_estimator, 'FaceEstimator', lambda: Perfect(clip))
  head = stand_in_head(kind, tmp_path)
  dense = densify(head, 0)
  photograph = fit_frames(
    clip.frames[:1],
    name='me',
    rate=25.0,
    head=head,
    dense=dense,
    size=256,
    offsets=False,
    estimator=Perfect(clip),
  )
  subject, truth = photograph.subject, clip.truth
  assert json.loads(subject.report)['landmark_error_share_of_eye_distance'] < 0.02
  known = load_head('makehuman')
  found, true = (
    np.asarray(head_landmarks(h, frame_params(s, 0))) for h, s in ((head, subject), (known, truth))
  )
  scale, rotation, shift = similarity(found, true, np.ones(478))
  # millimetres
  assert 1e3 * np.linalg.norm(scale * found @ rotation.T + shift - true, axis=-1).mean() < 4
  check_head(subject, head, dense)

  # the clip, as a record for training
  moving = fit_frames(
    clip.frames,
    name='clip',
    rate=5.0,
    head=head,
    dense=dense,
    size=256,
    offsets=False,
    estimator=Perfect(clip),
  ).subject
  film = Clip(clip.frames, np.arange(3) / 5, 5)
  record = make_record(film, moving, head, dense, size=64, matte=clip.matte)
  assert record['normals'].shape == (3, 64, 64, 3) and record['normals'].any(-1).mean() > 0.2

  # driven by the clip, drawn by the textured preview
  (tmp_path / 'fits').mkdir()
  save_subject(tmp_path / 'fits' / 'me.npz', dataclasses.replace(subject))
  save_subject(tmp_path / 'motion.npz', moving)
  with animate.load(
    head=tmp_path / f'{kind}.npz', transfer='none', subjects=tmp_path / 'fits'
  ) as model:
    driver = model.motion(tmp_path / 'motion.npz')
    assert driver.subject.num_frames == 3
    write_image(tmp_path / 'me.png', clip.frames[0])
    frames = np.stack(
      list(
        model.animate(
          tmp_path / 'me.png', tmp_path / 'motion.npz', options=animate.Options(size=256)
        )
      )
    )
  assert frames.shape == (3, 256, 256, 3)
  face = record['matte'][0] > 0
  small = frames[0][2::4, 2::4].astype(float)[face]
  assert np.abs(small - clip.frames[0][2::4, 2::4].astype(float)[face]).mean() < 25
