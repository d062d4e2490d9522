"""The command: files of a synthetic pair in, a subject, maps, previews and honest figures out."""

import contextlib
import dataclasses
import json
import pathlib
import runpy
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.actors import make_stage, sample_actor, sample_motion
from exp_jax.actors.actor import truth
from exp_jax.commands import transfer as command
from exp_jax.errors import UserError
from exp_jax.heads.head_files import load_head
from exp_jax.heads.personalized import load_subject, save_subject
from exp_jax.media.video import read_video, write_video
from exp_jax.systems.expportrait import portrait
from exp_jax.systems.expportrait.transfer import transfer_command, transfer_probe, transfer_scores
from exp_jax.systems.expportrait.transfer.network import Transfer, build
from exp_jax.systems.expportrait.transfer.transfer_command import flicker, jitter
from exp_jax.systems.expportrait.transfer.transfer_data import ActorFaces
from exp_jax.systems.expportrait.transfer.transfer_features import surface_of
from exp_jax.training.exports import write_export

CONFIG = pathlib.Path(__file__).parents[3] / 'configs' / 'expression_transfer.py'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """target.npz, driver.npz (4 frames) and an export that does something, on the procedural head."""
  path = tmp_path_factory.mktemp('pair')
  stage = make_stage(load_head('procedural'), 0)
  for name, seed, frames in (('target', 1, 2), ('driver', 2, 4)):
    rng = np.random.default_rng(seed)
    actor = sample_actor(rng, stage, age=0.9)
    motion = sample_motion(rng, stage.assets.head, num_frames=frames, fps=5.0)
    save_subject(path / f'{name}.npz', truth(actor, motion, stage, size=64, subject_id=name))
  config = runpy.run_path(str(CONFIG))['get_config']('smoke')
  surface = surface_of(stage.assets.head, stage.assets.dense)
  shape = lambda *axes: jnp.zeros((1, *axes))
  P = len(surface.ids)
  params = jax.jit(build(config).init)(
    jax.random.key(0),
    shape(2, 10),
    shape(2, 3),
    shape(P, 3),
    shape(P, 3),
    shape(P, 3),
    surface.place,
    surface.area,
    surface.mask,
    jnp.arange(P)[None],
  )['params']
  rng = np.random.default_rng(0)
  write_export(
    path / 'export',
    config,
    jax.tree.map(lambda a: a + 0.1 * jnp.asarray(rng.normal(size=a.shape), jnp.float32), params),
  )
  return path


def arguments(folder, output, *more):
  return [
    '--target',
    str(folder / 'target.npz'),
    '--driving',
    str(folder / 'driver.npz'),
    '--transfer',
    str(folder / 'export'),
    '-o',
    str(output),
    '--size',
    '32',
    *more,
  ]


@pytest.mark.long
def test_a_pair_of_subjects_becomes_maps_previews_and_a_subject(folder, tmp_path, capsys):
  assert command.main(arguments(folder, tmp_path / 'out')) == 0
  assert 'jitter' in capsys.readouterr().out
  target, driver, found = (
    load_subject(p)
    for p in (folder / 'target.npz', folder / 'driver.npz', tmp_path / 'out' / 'subject.npz')
  )
  np.testing.assert_array_equal(found.shape, target.shape)
  np.testing.assert_allclose(found.expression, driver.expression, atol=1e-6)
  np.testing.assert_array_equal(found.focal, target.focal)
  assert np.abs(found.dynamic_offsets).max() > 1e-5
  for name, width in dict(
    normals=32, depth=32, shaded=32, iris=32, mouth=32, mouth_depth=32, preview=64, side_by_side=96
  ).items():
    clip = read_video(tmp_path / 'out' / f'{name}.mp4')
    assert len(clip.frames) == 4 and clip.frames.shape[2] == width and clip.rate == 5, name
  report = json.loads((tmp_path / 'out' / 'report.json').read_text())
  assert (
    report['direct_transfer'] == 'shown'
    and report['offset_jitter_mm'] > 0
    and report['driver'] == 'driver'
  )
  with pytest.raises(SystemExit) as stop:
    command.main(arguments(folder, tmp_path / 'out'))
  assert stop.value.code == 2 and 'not empty' in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize(
  'more, words',
  [
    (('--frame', '2'), 'has 2 frames'),
    (('--size', '33'), 'even'),
    (('--expression_strength', '4'), '0..3'),
    (('--driving', 'nobody.mp4'), "'nobody.mp4' does not exist"),
    (('--transfer', 'nowhere'), 'no export at nowhere'),
    (('--networks', 'none'), 'fitted already'),
  ],
)
def test_wrong_input_gets_a_sentence_and_leaves_nothing(folder, tmp_path, capsys, more, words):
  with pytest.raises(SystemExit) as stop:
    command.main(arguments(folder, tmp_path / 'out', *more))
  assert (
    stop.value.code == 2 and words in capsys.readouterr().err and not (tmp_path / 'out').exists()
  )


@pytest.mark.long
def test_networks_see_a_driving_clip_and_the_report_names_them(folder, tmp_path, monkeypatch):
  write_video(tmp_path / 'clip.mp4', np.zeros((4, 16, 16, 3), np.uint8), 5)
  network, given = types.SimpleNamespace(digest='stand-in'), []

  def track(source, *, map_estimators, **_):
    given.append((source.name, map_estimators))
    return types.SimpleNamespace(subject=load_subject(folder / 'driver.npz'))

  asked = {'embedded': (network,), 'none': ()}
  monkeypatch.setattr(transfer_command, 'open_map_estimators', asked.__getitem__)
  monkeypatch.setattr(transfer_command, 'FaceEstimator', contextlib.nullcontext)
  monkeypatch.setattr(transfer_command, 'track', track)
  clip = ('--driving', str(tmp_path / 'clip.mp4'))
  for output, more, digests in (('a', (), ['stand-in']), ('b', ('--networks', 'none'), [])):
    assert command.main(arguments(folder, tmp_path / output, *clip, *more)) == 0
    report = json.loads((tmp_path / output / 'report.json').read_text())
    assert report['maps'] == digests
  assert given == [('clip.mp4', (network,)), ('clip.mp4', ())]


def test_jitter_and_flicker_by_hand():
  ramp = np.zeros((5, 3, 3)) + np.arange(5)[:, None, None]
  assert jitter(ramp) == 0 and jitter(ramp[:2]) == 0
  ramp[2, 0, 0] += 1
  squares = [1, 4, 1]  # second differences 1, -2, 1 of one of three vertices
  assert jitter(ramp) == pytest.approx(np.sqrt(sum(squares) / 9))
  maps = np.full((4, 2, 2, 3), 100, np.uint8)
  maps[:, 0] = 0
  assert flicker(maps) == 0
  maps[2, 1] = 103
  assert flicker(maps) == pytest.approx((3 + 6) / 2)


@pytest.mark.long
def test_a_subject_that_does_not_tell_its_crop_is_the_whole_square_or_refused(folder):
  subject = dataclasses.replace(load_subject(folder / 'target.npz'), source_crop=None)
  crop = portrait.crop_of_subject(subject, np.zeros((128, 128, 3), np.uint8), 'x.png')
  assert (crop.left, crop.top, crop.side, crop.size) == (0, 0, 128, 64)
  with pytest.raises(UserError, match='no source_crop.*fit it again'):
    portrait.crop_of_subject(subject, np.zeros((100, 128, 3), np.uint8), 'x.png')


class Perfect:
  """A transfer that knows the truth: the scores of a method without error."""

  def __init__(self, faces):
    self.faces, self.asked = faces, 0

  def on_surface(self, seen, expression, jaw):
    person = next(i for i in range(len(self.faces)) if self.faces.neutral(i) is seen)
    return self.faces.offsets(person, expression)


@pytest.mark.long
def test_scores_of_the_truth_are_zero_and_the_baselines_are_what_they_say(tmp_path):
  faces = ActorFaces('procedural', count=3, seed=8, frames_per_second=1.5, levels=2)
  pairs = transfer_scores.score_pairs(Perfect(faces), faces, drivers=2, frames=4)
  assert len(pairs) == 6 and {(p.target, p.driver) for p in pairs} == {
    (i, j) for i in range(3) for j in range(3) if i != j
  }
  table = transfer_scores.summary(pairs)
  assert table['transfer, mm'] == 0 and table['transfer, degrees'] < 0.05  # arccos near one
  pair = pairs[0]
  expression, _, copied = faces.frames(1, np.random.default_rng([3, 0, 1]), 4)
  true = faces.offsets(0, expression)
  assert pair.offsets['none'] == pytest.approx(1e3 * np.sqrt((true**2).sum(-1).mean()), rel=1e-4)
  assert pair.offsets['direct copy'] == pytest.approx(
    1e3 * np.sqrt(((copied - true) ** 2).sum(-1).mean()), rel=1e-4
  )
  assert table['normals of copy'] < 0.2 and pair.normals['none'] > 0.01
  rows = transfer_scores.by_age_gap(pairs)
  assert sum(row['pairs'] for row in rows.values()) == 6
  transfer_scores.plot_age_gap(pairs, tmp_path / 'gap.png')
  assert (tmp_path / 'gap.png').stat().st_size > 10_000


def test_the_probe_names_who_can_be_named():
  rng = np.random.default_rng(0)
  labels = np.tile(np.arange(4), 30)
  train = np.repeat([True, False], 60)
  noise = rng.normal(size=(120, 50))
  signature = rng.normal(size=(4, 50))
  assert transfer_probe.accuracy(noise + 3 * signature[labels], labels, train) > 0.95
  assert transfer_probe.accuracy(noise, labels, train) < 0.45


@pytest.mark.slow
def test_by_construction_the_driver_cannot_leak_but_a_copy_does():
  faces = ActorFaces('procedural', count=3, seed=8, frames_per_second=1.5, levels=1)
  config = runpy.run_path(str(CONFIG))['get_config']('smoke')
  P = len(faces.surface.ids)
  shape = lambda *axes: jnp.zeros((1, *axes))
  params = jax.jit(build(config).init)(
    jax.random.key(0),
    shape(2, 10),
    shape(2, 3),
    shape(P, 3),
    shape(P, 3),
    shape(P, 3),
    faces.surface.place,
    faces.surface.area,
    faces.surface.mask,
    jnp.arange(P)[None],
  )['params']
  transfer = Transfer.of(build(config), params, faces.head, faces.dense, faces.surface)
  scores = transfer_probe.probe(transfer, faces, seed=8, people=3, frames=8, size=32)
  assert scores['chance'] == pytest.approx(1 / 3) and scores['transfer: target named'] > 0.9
