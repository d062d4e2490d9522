"""Motion from speech: its numbers, its causality, that it learns; Whisper's encoder and its front
end; records of footage."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.convert import whisper as convert
from exp_jax.data.sources import DamagedRecord
from exp_jax.errors import UserError
from exp_jax.files.safetensors import write_safetensors
from exp_jax.media.images import write_image
from exp_jax.networks.weights import load_weights
from exp_jax.systems.liveportrait.motion import speech
from exp_jax.systems.liveportrait.motion.driving import compose
from exp_jax.systems.liveportrait.motion.templates import Template, load_template, save_template
from exp_jax.systems.liveportrait.networks import whisper
from exp_jax.systems.liveportrait.networks.keypoints import posed, rotation_from_degrees
from exp_jax.systems.liveportrait.networks.motion import Motion
from exp_jax.systems.liveportrait.pipeline_options import DrivingOptions
from exp_jax.systems.liveportrait.training import prepare, records, speech_task
from exp_jax.training.exports import write_export

ROOT = pathlib.Path(__file__).parents[3]
GOLDEN = ROOT / 'tests' / 'golden' / 'whisper_tiny.npz'


def config():
  return runpy.run_path(str(ROOT / 'configs' / 'liveportrait.py'))['get_config']('smoke3')


def drawn(count, seed):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=(count, *shape)).astype(np.float32)
  return Motion(
    0.3 * draw(21, 3),
    np.asarray(rotation_from_degrees(15 * draw(3))),
    0.01 * draw(21, 3),
    1.3 + 0.05 * draw(),
    0.1 * draw(3),
  )


def test_a_motion_as_numbers_drives_like_the_motion():
  source, driver = drawn(1, 1), drawn(5, 2)
  again = speech.to_motion(speech.to_numbers(driver))
  np.testing.assert_allclose(speech.to_numbers(again), speech.to_numbers(driver), atol=1e-4)
  # of a driver that starts frontal the keypoints are the same; turns are the change since the first
  # frame
  frontal = driver.replace(rotation=driver.rotation[:1].transpose(0, 2, 1) @ driver.rotation)
  found, want = (
    posed(compose(source, m, DrivingOptions()))
    for m in (speech.to_motion(speech.to_numbers(frontal)), frontal)
  )
  np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.fixture(scope='module')
def network():
  c = config()
  net = speech.speech_motion(c)
  shapes = jax.eval_shape(
    lambda: net.init(jax.random.key(0), jnp.zeros((1, 12, 8)), jnp.zeros((1, 12, 69)))['params']
  )
  rng = np.random.default_rng(0)
  return net, jax.tree.map(
    lambda s: jnp.asarray(0.2 * rng.normal(size=s.shape), jnp.float32), shapes
  )


def test_a_frame_sees_motions_before_it_and_two_frames_of_speech_ahead(network):
  net, params = network
  rng = np.random.default_rng(1)
  features, before = (
    rng.normal(size=(1, 12, 8)).astype(np.float32),
    rng.normal(size=(1, 12, 69)).astype(np.float32),
  )
  run = jax.jit(lambda f, b: net.apply({'params': params}, f, b))
  base = run(features, before)
  later, spoken = before.copy(), features.copy()
  later[0, 7] += 1
  spoken[0, 7] += 1
  differs = lambda x: np.abs(np.asarray(x - base)).max((0, 2)) > 1e-6
  np.testing.assert_array_equal(differs(run(features, later)), np.arange(12) >= 7)
  np.testing.assert_array_equal(differs(run(spoken, before)), np.arange(12) >= 5)


@pytest.mark.long
def test_continuing_equals_asking_frame_by_frame(network):
  net, params = network
  features = np.random.default_rng(2).normal(size=(2, 9, 8)).astype(np.float32)
  found = np.asarray(jax.jit(lambda f: speech.continued(net, params, f, window=4))(features))
  padded = np.pad(features, ((0, 0), (3, 2), (0, 0)), mode='edge')
  past, want = np.zeros((2, 4, 69), np.float32), []
  for t in range(9):
    now = np.zeros((2, 69), np.float32)
    if t:
      now = np.asarray(
        net.apply({'params': params}, padded[:, t : t + 6], np.pad(past, ((0, 0), (0, 2), (0, 0))))
      )[:, 3]
    past = np.concatenate([past[:, 1:], now[:, None]], 1)
    want.append(now)
  # 9 steps of feedback through random weights
  np.testing.assert_allclose(found, np.stack(want, 1), atol=1e-3, rtol=1e-4)
  assert not found[:, 0].any() and np.abs(found[:, 1]).max() > 1e-3


def test_features_are_read_off_in_time():
  features = np.arange(20, dtype=np.float32)[:, None] * [1, 2]
  found = speech.aligned(features, rate=25, features_rate=50, frames=12)
  np.testing.assert_allclose(found[:9, 0], np.arange(9) * 2)
  np.testing.assert_allclose(found[10:, 0], 19)
  np.testing.assert_allclose(
    speech.aligned(features, rate=30, features_rate=50, frames=4)[1], [5 / 3, 10 / 3], rtol=1e-6
  )


def test_the_task_is_consistent_and_its_records_are_windows():
  c = config()
  task = speech_task.task(c)
  source, transform = speech_task.examples(c)
  example = transform(source[3], np.random.default_rng(0))
  assert {k: v.shape for k, v in example.items()} == {
    k: s.shape[1:] for k, s in task.batch_spec.items()
  }
  np.testing.assert_array_equal(example['before'][1:], example['motion'][:-1])
  params = jax.eval_shape(task.init_fn, jax.random.key(0))
  loss, _ = jax.eval_shape(task.loss_fn, params, task.batch_spec, jax.random.key(0))
  assert loss.shape == ()
  with pytest.raises(UserError, match='no speech'):
    speech_task.examples(_with(c, 'speech'))


def _with(c, name):
  c = type(c)(c.to_dict())
  c.data.name = name
  return c


def test_records_of_speech(tmp_path):
  save_template(tmp_path / 'a.npz', Template(drawn(30, 3), 30))
  np.savez(tmp_path / 'a_speech.npz', features=np.zeros((50, 8), np.float32))
  np.savez(tmp_path / 'b_speech.npz', features=np.zeros((50, 8), np.float32))
  source = speech_task.SpokenMotions(str(tmp_path), rate=25.0, features_rate=50.0, features=8)
  record = source[0]
  assert record['motion'].shape == (25, 69) and record['features'].shape == (25, 8)
  np.testing.assert_allclose(record['motion'][0], 0, atol=1e-5)
  with pytest.raises(DamagedRecord, match='b.npz'):
    source[1]


@pytest.mark.slow
def test_it_learns_what_speech_says():
  """Toy speech: alone from rest on it follows new clips with less than half of the error of
  standing still."""
  from exp_jax.training.optimizers import make_optimizer

  c = config()
  task = speech_task.task(c)
  source, transform = speech_task.examples(c)
  params = jax.jit(task.init_fn)(jax.random.key(0))
  tx = make_optimizer(learning_rate=3e-3, weight_decay=0.0)
  state = tx.init(params)

  @jax.jit
  def update(params, state, batch, rng):
    gradient = jax.grad(lambda p: task.loss_fn(p, batch, rng)[0])(params)
    updates, state = tx.update(gradient, state, params)
    return jax.tree.map(jnp.add, params, updates), state

  draw = lambda s, i: {
    k: np.stack(
      [transform(s[(8 * i + j) % len(s)], np.random.default_rng([i, j]))[k] for j in range(8)]
    )
    for k in task.batch_spec
  }
  many = speech_task.ToySpeech(256, c.data.frames, c.model.features)
  for i in range(500):
    params, state = update(params, state, draw(many, i), jax.random.key(i))
  fresh = speech_task.ToySpeech(8, c.data.frames, c.model.features, 1)
  batch = {
    k: np.stack([{**fresh[j], 'before': fresh[j]['motion']}[k][: c.data.frames] for j in range(8)])
    for k in task.batch_spec
  }
  scores = jax.jit(lambda p, b: task.eval_fns[0][1](p, b, None))(params, batch)
  print({k: float(v) for k, v in scores.items()})
  assert scores['error'] < 0.5 * scores['still_error']


def test_the_command_makes_a_template(tmp_path, network, capsys):
  write_export(tmp_path / 'e', config(), network[1], dtype='float32')
  np.savez(
    tmp_path / 's.npz', features=np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
  )
  assert (
    speech.main(
      [
        '--export',
        str(tmp_path / 'e'),
        '--features',
        str(tmp_path / 's.npz'),
        '-o',
        str(tmp_path / 'm.npz'),
      ]
    )
    == 0
  )
  found = load_template(tmp_path / 'm.npz')
  assert len(found) == 20 and found.rate == 25
  np.testing.assert_allclose(found.motion.rotation[0], np.eye(3), atol=1e-6)
  np.savez(tmp_path / 'x.npz', features=np.zeros((40, 9)))
  with pytest.raises(UserError, match='wants'):
    speech.template_of(tmp_path / 'e', np.zeros((40, 9)))
  for arguments in (['--features', 'x'], ['--audio', 'x'], []):
    with pytest.raises(SystemExit):
      speech.main(['--export', 'e', '-o', 'm.mp4' if arguments else 'm.npz', *arguments])
  capsys.readouterr()


def whisper_dict(scheme, rng):
  """An encoder's tensors under either names."""
  D, bands, T, layers = 64, 80, 20, 2
  draw = lambda *s: (0.2 * rng.normal(size=s)).astype(np.float32)
  out = {
    'conv1.weight': draw(D, bands, 3),
    'conv1.bias': draw(D),
    'conv2.weight': draw(D, D, 3),
    'conv2.bias': draw(D),
  }
  out[convert.POSITIONS[scheme]] = draw(T, D)
  for row in convert.TABLE[2:]:
    for n in range(layers) if '#' in row[2] else (0,):
      theirs, ours = row[scheme].replace('#', str(n)), row[2]
      shape = (
        (D,)
        if 'norm' in ours
        else {'fc1': (4 * D, D), 'fc2': (D, 4 * D)}.get(ours.split('.')[1], (D, D))
      )
      out[f'{theirs}.weight'] = draw(*shape) + ('norm' in ours)
      if not ours.endswith('.k'):
        out[f'{theirs}.bias'] = draw(shape[0])
  return out


def test_both_namings_of_whisper_give_the_same(tmp_path):
  for scheme, prefix in ((0, 'model_state_dict.encoder.'), (1, 'model.encoder.')):
    tensors = whisper_dict(scheme, np.random.default_rng(0))
    tensors = {prefix + n: v for n, v in tensors.items()} | {
      'model.decoder.x': np.zeros(3, np.float32)
    }
    write_safetensors(tmp_path / f'{scheme}.safetensors', tensors)
    assert (
      convert.main([str(tmp_path / f'{scheme}.safetensors'), '-o', str(tmp_path / f'w{scheme}')])
      == 0
    )
  one, two = (load_weights(tmp_path / f'w{s}', 'whisper') for s in (0, 1))
  assert one.sizes == two.sizes == dict(width=64, heads=1, layers=2, bands=80, positions=20)
  # drawn in the order of the table, which both namings share
  for name in one.arrays:
    np.testing.assert_array_equal(one.arrays[name], two.arrays[name], err_msg=name)
  write_safetensors(
    tmp_path / 'x.safetensors',
    {
      f'encoder.{n}': v
      for n, v in whisper_dict(0, np.random.default_rng(0)).items()
      if 'blocks.1.mlp.0' not in n
    },
  )
  with pytest.raises(UserError, match='blocks.1.mlp.0'):
    convert.convert(tmp_path / 'x.safetensors', tmp_path / 'w')
  with pytest.raises(UserError, match='no Whisper encoder'):
    write_safetensors(tmp_path / 'y.safetensors', {'a': np.zeros(3, np.float32)})
    convert.convert(tmp_path / 'y.safetensors', tmp_path / 'w')


def test_mel_filters_have_their_areas():
  filters = whisper.mel_filters(80)
  assert filters.shape == (80, 201) and (filters >= 0).all() and (filters.sum(1) > 0).all()
  tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
  mel = whisper.log_mel(tone)
  assert mel.shape == (100, 80)
  center = np.argmax(mel[50])
  assert np.argmax(filters[center]) == 25  # 1000 Hz is bin 25 of 40 Hz
  assert mel.max() - mel.min() == pytest.approx(2.0, abs=1e-5)


@pytest.mark.skipif(not GOLDEN.is_file(), reason='stored outputs are missing')
def test_whisper_equals_transformers():
  """Stored outputs; make_whisper_fixture.py."""
  golden = np.load(GOLDEN)
  # their window is float32
  np.testing.assert_allclose(whisper.log_mel(golden['sound']), golden['mel'], atol=1e-4)
  network = whisper.WhisperEncoder(width=64, heads=1, layers=2, positions=20)
  tensors, params = whisper_dict(1, np.random.default_rng(0)), {}
  for row in convert.TABLE:
    for n in range(2) if '#' in row[2] else (0,):
      theirs, node = row[1].replace('#', str(n)), params
      for part in row[2].replace('#', str(n)).split('.'):
        node = node.setdefault(part, {})
      for end in ('weight', 'bias'):
        if f'{theirs}.{end}' in tensors:
          value = tensors[f'{theirs}.{end}']
          leaf = (
            'scale' if 'norm' in row[2] and end == 'weight' else {'weight': 'kernel'}.get(end, end)
          )
          node[leaf] = (
            value.transpose(2, 1, 0) if value.ndim == 3 else value.T if leaf == 'kernel' else value
          )
  params['positions'] = tensors['embed_positions.weight']
  found = network.apply({'params': params}, golden['input'])
  # float32 sums through exact gelu, values of size 4
  np.testing.assert_allclose(found, golden['output'], atol=2e-4)


class Finder:
  """One face of three dimensions where there is red."""

  def __call__(self, image):
    red = image[..., 0] > 200
    if not red.any():
      return np.zeros((0, 478, 3)), np.zeros(0), None
    rows, columns = np.nonzero(red)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (478, 3))
    for index, place in {
      33: (-0.3, -0.2, 0),
      263: (0.3, -0.2, 0),
      152: (0, 0.5, 0),
      10: (0, -0.5, 0),
      168: (0, -0.2, 0),
    }.items():
      points[index] = place
    center = np.array([columns.mean() + 0.5, rows.mean() + 0.5, 0])
    return (points * np.ptp(columns) + center)[None].astype(np.float32), np.ones(1), None


def test_footage_becomes_records(tmp_path):
  from exp_jax.media.video import write_video

  clip = np.full((7, 120, 160, 3), 90, np.uint8)
  for t in range(7):
    clip[t, 40:80, 50 + t : 90 + t] = (250, 0, 0)
  clip[3] = 90
  write_video(tmp_path / 'a.mp4', clip, 25)
  write_image(tmp_path / 'b.png', clip[0])
  write_image(tmp_path / 'c.png', clip[3])
  count, complaints = prepare.write_face_records(
    [tmp_path / n for n in ('a.mp4', 'b.png', 'c.png')],
    tmp_path / 'x.array_record',
    Finder(),
    size=128,
    frames=4,
    stride=1,
  )
  assert count == 3 and len(complaints) == 1 and 'c.png' in complaints[0]
  source = records.FaceClips(str(tmp_path))
  lengths = [len(source[i]['video']) for i in range(3)]
  assert sorted(lengths) == [1, 2, 4]
  record = source[lengths.index(4)]
  np.testing.assert_allclose(record['angles'], 0, atol=0.5)
  # the middle of the red square is where the landmarks' middle is
  red = record['video'][0][..., 0] > 170
  rows, columns = np.nonzero(red)
  middle = (np.array([columns.mean(), rows.mean()]) + 0.5) / 64 - 1
  np.testing.assert_allclose(
    record['landmarks'][0, [33, 263, 10, 152]].mean(0) * [1, 1],
    middle + [0, -0.1 * np.ptp(columns) / 64],
    atol=0.06,
  )
  with pytest.raises(UserError, match='none of 1 files'):
    prepare.write_face_records(
      [tmp_path / 'c.png'], tmp_path / 'y.array_record', Finder(), size=128, frames=4, stride=1
    )
  assert not (tmp_path / 'y.array_record').exists()
