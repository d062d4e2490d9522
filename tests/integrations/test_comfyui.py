"""The nodes of ComfyUI: loaded as its loader loads them, against a server with a stand-in worker.

Where EXP_JAX_COMFYUI names a checkout of ComfyUI and EXP_JAX_COMFYUI_PYTHON its Python, the example
workflow runs in it, too.
"""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
import types
import urllib.request

import numpy as np
import pytest

from exp_jax.media.images import write_image
from exp_jax.media.video import read_frames, write_video
from tests.studio.conftest import open_studio  # noqa: F401
from tests.studio.stand_in import REFUSED, SLOW

NODES = pathlib.Path(__file__).parents[2] / 'integrations' / 'comfyui'
COMFY, PYTHON = (os.environ.get(name, '') for name in ('EXP_JAX_COMFYUI', 'EXP_JAX_COMFYUI_PYTHON'))
TYPES = {'IMAGE', 'AUDIO', 'FLOAT', 'STRING', 'INT'}
DOORS = {  # nodes of ComfyUI itself that the example uses: (inputs, number of outputs)
  'LoadImage': ({'image'}, 2),
  'LoadVideo': ({'file'}, 1),
  'GetVideoComponents': ({'video'}, 3),
  'PreviewImage': ({'images'}, 0),
  'CreateVideo': ({'images', 'audio', 'fps'}, 1),
  'SaveVideo': ({'video', 'filename_prefix', 'format', 'codec'}, 0),
}


class Interrupted(Exception):
  """As ComfyUI's own."""


@pytest.fixture
def comfy(monkeypatch):
  """ComfyUI's modules as the nodes use them; `pressed` is the button that stops, `shown` its
  bar."""
  state = types.SimpleNamespace(pressed=False, shown=[])

  class Bar:
    def __init__(self, total, node_id=None):
      state.shown.append((node_id, total))

    def update_absolute(self, value, total=None, preview=None):
      state.shown.append(value)

  modules = {
    name: types.ModuleType(name)
    for name in ('comfy', 'comfy.utils', 'comfy.model_management', 'torch')
  }
  modules['comfy.utils'].ProgressBar = Bar
  modules['comfy.model_management'].processing_interrupted = lambda: state.pressed
  modules['comfy.model_management'].InterruptProcessingException = Interrupted
  modules['torch'].from_numpy = lambda array: array
  modules['comfy'].utils, modules['comfy'].model_management = (
    modules['comfy.utils'],
    modules['comfy.model_management'],
  )
  for name, module in modules.items():
    monkeypatch.setitem(sys.modules, name, module)
  return state


@pytest.fixture
def nodes(monkeypatch):
  """The package, loaded from its folder as nodes.py of ComfyUI loads it."""
  name = str(NODES).replace('.', '_x_')
  spec = importlib.util.spec_from_file_location(name, NODES / '__init__.py')
  module = importlib.util.module_from_spec(spec)
  monkeypatch.setitem(sys.modules, name, module)
  spec.loader.exec_module(module)
  module.media = sys.modules[f'{name}.media']
  yield module
  for each in [each for each in sys.modules if each.startswith(f'{name}.')]:
    del sys.modules[each]


@pytest.fixture
def server(open_studio, monkeypatch):  # noqa: F811
  """A studio behind HTTP, in a thread."""
  uvicorn = pytest.importorskip('uvicorn')
  pytest.importorskip('fastapi')
  from exp_jax.studio import serve
  from exp_jax.studio.server import make_app

  studio, listening = open_studio(), serve.bound('127.0.0.1', 0)
  running = uvicorn.Server(uvicorn.Config(make_app(studio, token='secret' * 4), log_level='error'))
  thread = threading.Thread(target=running.run, kwargs={'sockets': [listening]}, daemon=True)
  thread.start()
  monkeypatch.setenv('EXP_JAX_SERVER', f'http://127.0.0.1:{listening.getsockname()[1]}')
  monkeypatch.setenv('EXP_JAX_TOKEN', 'secret' * 4)
  yield studio
  running.should_exit = True
  thread.join()


def frames_of(count=4):
  return np.random.default_rng(0).integers(0, 256, (count, 20, 32, 3)).astype(np.float32) / 255


def animate(nodes, seed=0, **more):
  node = nodes.NODE_CLASS_MAPPINGS['ExpJaxAnimatePortrait']()
  return node.animate(
    frames_of(1),
    frames_of(),
    12.5,
    'proxy',
    64,
    'largest',
    seed,
    '{"smoothing": 0.1}',
    node='7',
    **more,
  )


def test_the_nodes_are_what_the_loader_wants(nodes):
  assert set(nodes.NODE_CLASS_MAPPINGS) == set(nodes.NODE_DISPLAY_NAME_MAPPINGS)
  for node in nodes.NODE_CLASS_MAPPINGS.values():
    inputs = node.INPUT_TYPES()
    assert set(inputs) == {'required', 'optional', 'hidden'} and len(node.RETURN_TYPES) == len(
      node.RETURN_NAMES
    )
    assert set(node.RETURN_TYPES) <= TYPES
    for kind, *settings in [*inputs['required'].values(), *inputs['optional'].values()]:
      assert (isinstance(kind, list) or kind in TYPES) and all(
        isinstance(each, dict) for each in settings
      )
    taken = getattr(node, node.FUNCTION).__code__.co_varnames[
      : getattr(node, node.FUNCTION).__code__.co_argcount
    ]
    assert set(taken) == {'self', 'node', *inputs['required'], *inputs['optional']}


def test_frames_and_sound_arrive_as_they_were(nodes, tmp_path):
  frames, time_of = frames_of(), np.arange(22_050) / 22_050
  sound = {
    'waveform': np.stack([np.sin(440 * time_of), np.cos(300 * time_of)])[None].astype(np.float32),
    'sample_rate': 22_050,
  }
  (tmp_path / 'a.mkv').write_bytes(nodes.media.clip(frames, 12.5, sound))
  read = list(read_frames(tmp_path / 'a.mkv'))
  np.testing.assert_array_equal(
    np.stack([frame for frame, _ in read]), nodes.media.as_bytes(frames)
  )
  np.testing.assert_allclose([time for _, time in read], np.arange(4) / 12.5, atol=1e-3)
  again, rate, heard = nodes.media.read((tmp_path / 'a.mkv').read_bytes())
  np.testing.assert_allclose(again, frames, atol=1e-6)
  assert rate == 12.5 and heard['sample_rate'] == 22_050
  np.testing.assert_allclose(heard['waveform'], sound['waveform'], atol=1e-4)


@pytest.mark.long
def test_a_job_from_images_to_images(nodes, comfy, server):
  frames, audio, rate, record = animate(nodes)
  assert frames.shape == (3, 16, 16, 3) and frames.dtype == np.float32 and rate == 10
  assert audio is None and json.loads(record)['engine'] == 'stand_in'
  assert comfy.shown[0] == ('7', 100) and all(0 <= value <= 100 for value in comfy.shown[1:])
  assert server.list() == [] and not list((server.settings.place / 'uploads').iterdir()), (
    'nothing of it stays at the server'
  )
  (picture,) = nodes.NODE_CLASS_MAPPINGS['ExpJaxFittedHead']().fit(frames_of(1), 'largest')
  assert picture.shape == (1, 32, 48, 3)


@pytest.mark.long
def test_the_button_that_stops_cancels_the_job(nodes, comfy, server):
  threading.Timer(3, lambda: setattr(comfy, 'pressed', True)).start()
  with pytest.raises(Interrupted):
    animate(nodes, SLOW)
  assert server.wait(server.list()[0].id).state == 'cancelled'


def test_failures_are_the_servers_sentences(nodes, comfy, server, monkeypatch):
  with pytest.raises(RuntimeError, match="no face found in 'portrait.png'"):
    animate(nodes, REFUSED)
  node = nodes.NODE_CLASS_MAPPINGS['ExpJaxAnimatePortrait']()
  for options, words in (
    ('{"smoothng": 1}', "did you mean 'smoothing'"),
    ('[', 'JSON object'),
    ('[1]', 'JSON object'),
  ):
    with pytest.raises((RuntimeError, ValueError), match=words):
      node.animate(frames_of(1), frames_of(), 12.5, 'proxy', 64, 'largest', 0, options)
  monkeypatch.setenv('EXP_JAX_TOKEN', 'wrong')
  with pytest.raises(RuntimeError, match='a token is needed'):
    animate(nodes)
  monkeypatch.setenv('EXP_JAX_SERVER', 'http://127.0.0.1:1')
  with pytest.raises(RuntimeError, match='start one with `exp-jax serve`'):
    animate(nodes)


def test_the_example_fits_the_nodes(nodes):
  workflow = json.loads((NODES / 'workflows' / 'animate.json').read_text())
  own = {
    name: (
      set(node.INPUT_TYPES()['required']),
      set(node.INPUT_TYPES()['optional']),
      len(node.RETURN_TYPES),
    )
    for name, node in nodes.NODE_CLASS_MAPPINGS.items()
  }
  known = {name: (inputs, set(), count) for name, (inputs, count) in DOORS.items()} | own
  for step in workflow.values():
    required, optional, _ = known[step['class_type']]
    assert required <= set(step['inputs']) <= required | optional
    for value in step['inputs'].values():
      if isinstance(value, list):
        assert value[1] < known[workflow[value[0]]['class_type']][2]


@pytest.mark.skipif(
  not (COMFY and PYTHON),
  reason='EXP_JAX_COMFYUI and EXP_JAX_COMFYUI_PYTHON name a ComfyUI to try the nodes in',
)
def test_the_example_runs_in_comfyui(server, tmp_path):
  for name in ('input', 'output', 'temp', 'user'):
    (tmp_path / name).mkdir()
  write_image(tmp_path / 'input' / 'portrait.png', np.full((64, 64, 3), 90, np.uint8))
  write_video(tmp_path / 'input' / 'clip.mp4', np.full((4, 64, 64, 3), 60, np.uint8), 10)
  port = 8199
  command = [
    PYTHON,
    'main.py',
    '--cpu',
    '--port',
    str(port),
    '--disable-api-nodes',
    '--base-directory',
    str(tmp_path),
  ]
  shutil.copytree(NODES, tmp_path / 'custom_nodes' / 'exp_jax')
  with subprocess.Popen(
    command, cwd=COMFY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  ) as process:
    try:
      ask = lambda path, content=None: json.load(
        urllib.request.urlopen(
          urllib.request.Request(
            f'http://127.0.0.1:{port}/{path}', content, {'Content-Type': 'application/json'}
          ),
          timeout=30,
        )
      )
      spoken = iter(process.stdout.readline, '')
      next(line for line in spoken if re.search('To see the GUI', line))
      threading.Thread(target=lambda: list(spoken), daemon=True).start()
      assert {'ExpJaxAnimatePortrait', 'ExpJaxFittedHead'} <= set(ask('object_info'))
      workflow = json.loads((NODES / 'workflows' / 'animate.json').read_text())
      made, until = (
        ask('prompt', json.dumps({'prompt': workflow}).encode())['prompt_id'],
        time.monotonic() + 180,
      )
      while not (history := ask(f'history/{made}')) and time.monotonic() < until:
        time.sleep(0.5)
      assert history[made]['status']['status_str'] == 'success', history[made]['status']
      frames = [frame for frame, _ in read_frames(next((tmp_path / 'output').rglob('*.mp4')))]
      assert len(frames) == 3 and frames[0].shape == (16, 16, 3)
    finally:
      process.terminate()
