"""Map networks: pre- and post-processing against slow references, signatures, signs; stand-ins of 1
KB."""

import sys
import types

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.observe.maps import onnx_networks as maps
from exp_jax.observe.maps.map_sources import observe_maps
from exp_jax.observe.maps.resample import halved, resize_cubic, resize_linear
from exp_jax.observe.observation import make_observation


def describe(named):
  return [types.SimpleNamespace(name=k, shape=v) for k, v in named.items()]


class FakeSession:
  """Answers as a network would: outputs are fixed functions of the input."""

  def __init__(self, inputs, outputs, run):
    self._inputs, self._outputs, self._run, self.calls = inputs, outputs, run, []

  def get_inputs(self):
    return describe(self._inputs)

  def get_outputs(self):
    return describe(self._outputs)

  def run(self, names, feed):
    assert names is None and set(feed) == set(self._inputs)
    self.calls.append(feed)
    return self._run(feed)


def david_session(**outputs):
  shapes = {
    'depth': [1, 512, 512],
    'normal': [1, 3, 512, 512],
    'foreground': [1, 1, 512, 512],
  } | outputs

  def run(feed):
    # depth is the red channel, normals a mix, foreground the blue one
    image = next(iter(feed.values()))
    normals = np.stack([image[:, 0] - 0.5, image[:, 1] - 0.5, 0.1 + image[:, 2]], 1)
    answers = {'depth': image[:, 2], 'normal': normals, 'foreground': image[:, :1] * 2 - 0.5}
    return [answers[k] for k in shapes if shapes[k]]

  return FakeSession({'input': [1, 3, 512, 512]}, {k: v for k, v in shapes.items() if v}, run)


def moge_session(static=False):
  def run(feed):
    assert static or (feed['num_tokens'].dtype == np.int64 and feed['num_tokens'].shape == ())
    image = feed['image'].transpose(0, 2, 3, 1)
    return [image * 3, 2 * (image - 0.5) + [0, 0, -1], image[..., 0], np.ones(1)]

  inputs = {'image': [1, 3, 20, 28] if static else ['batch_size', 3, 'height', 'width']}
  inputs |= {} if static else {'num_tokens': []}
  shape = ['batch_size', 'height', 'width']
  outputs = {
    'points': [*shape, 3],
    'normal': [*shape, 3],
    'mask': shape,
    'metric_scale': ['batch_size'],
  }
  return FakeSession(inputs, outputs, run)


@pytest.fixture
def network(tmp_path):
  path = tmp_path / 'net.onnx'
  path.write_bytes(b'weights')
  return path


def smooth_picture(height, width):
  """uint8 RGB, smooth enough for a round trip through 512 x 512."""
  x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
  return np.round(255 * np.stack([x, 0.2 + 0.6 * y, 0.5 + 0.4 * x * y], -1)).astype(np.uint8)


def test_resizing_equals_a_loop_over_pixels():
  rng = np.random.default_rng(0)
  image = rng.random((5, 9)).astype(np.float32)
  for size in ((7, 4), (11, 20)):
    for function, taps in ((resize_linear, 2), (resize_cubic, 4)):
      slow = np.zeros(size)
      for i in range(size[0]):
        for j in range(size[1]):
          y, x = (i + 0.5) * 5 / size[0] - 0.5, (j + 0.5) * 9 / size[1] - 0.5
          for a in range(int(np.floor(y)) - 3, int(np.floor(y)) + 5):
            for b in range(int(np.floor(x)) - 3, int(np.floor(x)) + 5):
              share = 1
              for d in (abs(y - a), abs(x - b)):
                if taps == 2:
                  share *= max(1 - d, 0)
                elif d <= 1:
                  share *= 1.25 * d**3 - 2.25 * d**2 + 1
                else:
                  share *= -0.75 * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0
              slow[i, j] += share * image[np.clip(a, 0, 4), np.clip(b, 0, 8)]
      np.testing.assert_allclose(function(image, size), slow, atol=1e-5)


def test_halving_mirrors_at_the_border():
  row = np.float32([1, 2, 4, 8, 16])
  mirrored = np.float32([4, 2, 1, 2, 4, 8, 16, 8, 4])
  expected = [np.dot(mirrored[k : k + 5], [1, 4, 6, 4, 1]) / 16 for k in (0, 2, 4)]
  found = halved(np.tile(row[None, :, None], (6, 1, 1)))
  assert found.shape == (3, 3, 1)
  np.testing.assert_allclose(found[..., 0], np.tile(expected, (3, 1)), rtol=1e-6)


@pytest.mark.parametrize('size', [(40, 64), (65, 30), (33, 33), (20, 1700)])
def test_david_pads_to_a_square_and_back(size, network):
  """The stand-in answers with the input's own channels: they must come back in place."""
  image = smooth_picture(*size)
  session = david_session()
  found = maps.load_map_estimator(network, session=session)(image)
  blue, green, red = (image[..., c] / 255 for c in (2, 1, 0))
  tensor = session.calls[0]['input']
  assert (
    tensor.dtype == np.float32
    and tensor.shape == (1, 3, 512, 512)
    and 0 <= tensor.min() <= tensor.max() <= 1
  )
  middle = size[0] // 2, size[1] // 2  # the padding is the same on both sides
  np.testing.assert_allclose(tensor[0, 1, 256, 256], green[middle], atol=0.03)
  # shrinking 1700 to 512 columns and back loses what one part in 255 rounds away, and 1 % at
  # borders
  atol = 0.02 if max(size) > 512 else 0.005
  np.testing.assert_allclose(found['depth'], red, atol=atol)
  np.testing.assert_allclose(found['foreground'], np.clip(2 * blue - 0.5, 0, 1), atol=2 * atol)
  expected = np.stack([blue - 0.5, green - 0.5, 0.1 + red], -1)
  length = np.linalg.norm(expected, axis=-1, keepdims=True)
  away = length[..., 0] > 0.2  # where the length is small the direction is noise
  np.testing.assert_allclose((found['normals'] * length)[away], expected[away], atol=2 * atol)
  np.testing.assert_allclose(np.linalg.norm(found['normals'], axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize('static', [True, False])
def test_moge_outputs_come_back_in_place(static, network):
  image = smooth_picture(25, 35)
  found = maps.load_map_estimator(network, session=moge_session(static))(image)
  # a static export shrinks the picture, borders move by half a pixel
  atol = 0.05 if static else 1e-6
  np.testing.assert_allclose(found['depth'], image[..., 2] / 255 * 3, atol=3 * atol)
  np.testing.assert_allclose(found['weights'], image[..., 0] / 255, atol=atol)
  expected = 2 * (image / 255 - 0.5) + [0, 0, -1]
  expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
  np.testing.assert_allclose(found['normals'], expected, atol=4 * atol)


@pytest.mark.parametrize(
  'outputs, name, kind',
  [
    ({}, 'x.onnx', 'david-multi'),
    ({'depth': None, 'foreground': None}, 'x.onnx', 'david-normal'),
    ({'normal': None, 'foreground': None}, 'depth-model.onnx', 'david-depth'),
    ({'depth': None, 'normal': None}, 'foreground-segmentation-model.onnx', 'david-foreground'),
  ],
)
def test_the_kind_is_told_by_the_outputs(outputs, name, kind, tmp_path):
  (tmp_path / name).write_bytes(b'w')
  assert maps.load_map_estimator(tmp_path / name, session=david_session(**outputs)).kind == kind


@pytest.mark.parametrize(
  'session, words',
  [
    (FakeSession({'x': [1, 3, 224, 224]}, {'logits': [1, 1000]}, None), 'logits'),
    (FakeSession({'x': [1, 3, 512, 512]}, {'a': [1, 2, 512, 512]}, None), 'neither a DAViD'),
    (FakeSession({'image': [1, 3, 8, 8]}, {'points': [1, 8, 8, 3]}, None), 'neither a DAViD'),
  ],
)
def test_another_network_is_refused_and_described(session, words, network):
  with pytest.raises(UserError, match=words):
    maps.load_map_estimator(network, session=session)


def test_asking_for_another_kind_is_refused(network):
  with pytest.raises(UserError, match='looks like david-multi'):
    maps.load_map_estimator(network, session=david_session(), kind='moge')


def test_a_missing_file_is_one_sentence(tmp_path):
  with pytest.raises(UserError, match='nothing.onnx'):
    maps.load_map_estimator(tmp_path / 'nothing.onnx')


def test_without_onnxruntime_the_remedy_is_named(network, monkeypatch):
  monkeypatch.setitem(sys.modules, 'onnxruntime', None)
  with pytest.raises(UserError, match='pip install onnxruntime'):
    maps.load_map_estimator(network)


def ball(height=31, width=45):
  """[1, H, W, 3] normals of a ball seen from the front, and its mask."""
  x, y = np.meshgrid(np.linspace(-1.3, 1.3, width), np.linspace(1.1, -1.1, height))
  inside = x**2 + y**2 < 1
  z = np.sqrt(np.where(inside, 1 - x**2 - y**2, 0))
  return np.where(inside[..., None], np.stack([x, y, z], -1), 0)[None], inside[None].astype(float)


@pytest.mark.parametrize('signs', [(1, 1, 1), (1, -1, -1), (-1, 1, 1), (-1, -1, -1)])
def test_signs_are_found_by_roundness_and_by_rendered_normals(signs):
  normals, inside = ball()
  rng = np.random.default_rng(0)
  estimated = normals * signs + 0.3 * rng.normal(size=normals.shape)
  corners = np.float64([[[9, 5], [36, 26]]])  # of the face, in which the ball is round
  found, sure = maps.guess_signs(estimated, inside, corners)
  assert found == signs and sure > 0.3
  estimated[:, 26:] = np.float64([0.1, 0.95, 0.3]) * signs  # shoulders lean up at the bottom
  assert maps.guess_signs(estimated, np.ones_like(inside), corners)[0] == signs
  estimated[:, 26:] = 0
  assert maps.calibrate_signs(estimated, normals, inside) == signs
  assert maps.guess_signs(np.zeros_like(normals), inside, corners)[1] == 0


class BallEstimator(maps.MapEstimator):
  """A DAViD whose normals are a ball in OpenCV axes, with one NaN."""

  def __call__(self, image, points=None):
    normals, inside = ball(*image.shape[:2])
    normals = normals[0] * [1, -1, -1]
    normals[15, 22] = np.nan
    self.session.append(1)
    return {'normals': normals, 'foreground': inside[0], 'depth': inside[0]}


def test_maps_join_the_observation_and_are_cached(tmp_path):
  frames = np.zeros((2, 31, 45, 3), np.uint8)
  frames[1] = 7
  points = np.random.default_rng(0).uniform((9, 5), (36, 26), (2, 478, 2))
  seen = make_observation(points, image_size=(31, 45), estimator='e', name='clip')
  calls = []
  estimator = BallEstimator('david-multi', calls, 'abc', 'ball')
  found = observe_maps(frames, seen, [estimator], name='clip', cache=tmp_path)
  normals, inside = ball()
  solid = inside[0] > 0
  solid[15, 22] = False
  np.testing.assert_allclose(found.normals[1][solid], normals[0][solid], atol=2e-3)  # float16
  np.testing.assert_array_equal(found.normal_weights[0] > 0, solid)
  np.testing.assert_array_equal(found.matte[0] > 0, inside[0] > 0)
  assert found.depth is not None and found.provenance['normals']['digest'] == 'abc'
  assert found.provenance['matte']['licence'] == 'MIT' and len(calls) == 2
  assert '2 pixels of the normals hold NaN' in found.warnings[0]
  again = observe_maps(frames, seen, [estimator], name='clip', cache=tmp_path)
  np.testing.assert_array_equal(found.normals, again.normals)
  assert len(calls) == 2
  other = BallEstimator('david-multi', calls, 'other weights', 'ball')
  observe_maps(frames, seen, [other], name='clip', cache=tmp_path)
  assert len(calls) == 4
  for stored in tmp_path.glob('*.npz'):
    stored.write_bytes(stored.read_bytes()[:100])
  observe_maps(frames, seen, [estimator], name='clip', cache=tmp_path)  # damaged: computed again
  assert len(calls) == 6


def test_frames_and_observation_must_go_together():
  seen = make_observation(
    np.full((2, 478, 2), 9.0), image_size=(31, 45), estimator='e', name='clip'
  )
  with pytest.raises(UserError, match='do not go with'):
    observe_maps(np.zeros((2, 45, 31, 3), np.uint8), seen, [], name='clip')


def stand_in(path):
  """A network of DAViD's signature: one 1 x 1 convolution for each output."""
  onnx = pytest.importorskip('onnx')
  helper, floats = onnx.helper, onnx.TensorProto.FLOAT
  weights = {
    'depth': np.float32([[0, 0, 1]]),
    'normal': np.eye(3, dtype=np.float32),
    'foreground': np.float32([[1, 0, 0]]),
  }
  nodes = [
    helper.make_node('Conv', ['input', f'w_{k}'], [k if k != 'depth' else 'depth4'])
    for k in weights
  ]
  nodes.append(helper.make_node('Squeeze', ['depth4', 'axes'], ['depth']))
  tensors = [
    onnx.numpy_helper.from_array(w[:, :, None, None], f'w_{k}') for k, w in weights.items()
  ]
  tensors.append(onnx.numpy_helper.from_array(np.int64([1]), 'axes'))
  info = helper.make_tensor_value_info
  outputs = [
    info('depth', floats, [1, 512, 512]),
    info('normal', floats, [1, 3, 512, 512]),
    info('foreground', floats, [1, 1, 512, 512]),
  ]
  graph = helper.make_graph(
    nodes, 'stand_in', [info('input', floats, [1, 3, 512, 512])], outputs, tensors
  )
  model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 14)])
  model.ir_version = 8
  onnx.save(model, path)


def test_a_generated_network_runs(tmp_path):
  pytest.importorskip('onnxruntime')
  stand_in(tmp_path / 'multi.onnx')
  estimator = maps.load_map_estimator(tmp_path / 'multi.onnx')
  image = smooth_picture(40, 64)
  found = estimator(image)
  assert estimator.kind == 'david-multi' and len(estimator.digest) == 64
  np.testing.assert_allclose(found['depth'], image[..., 0] / 255, atol=0.005)
  np.testing.assert_allclose(found['foreground'], image[..., 2] / 255, atol=0.005)
  (tmp_path / 'broken.onnx').write_bytes(b'no network')
  with pytest.raises(UserError, match='broken.onnx cannot be opened'):
    maps.load_map_estimator(tmp_path / 'broken.onnx')
