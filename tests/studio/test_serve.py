"""The command: what it refuses, and a server as a process, ended and killed with jobs in its
queue."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from exp_jax.errors import UserError
from exp_jax.studio import serve
from tests.studio.stand_in import SLOW

ROOT = pathlib.Path(__file__).parents[2]
SERVER = """
import sys
from exp_jax.studio import child, manager
from tests.studio.stand_in import COMMAND
manager.Studio.__init__.__kwdefaults__['command'] = COMMAND
from exp_jax.studio.serve import main
sys.exit(main())
"""


@pytest.mark.parametrize(
  'arguments, words',
  [
    (('--port', '70000'), '--port must be in 0..65535'),
    (('--host', '203.0.113.7'), 'cannot listen on 203.0.113.7'),
    (('--max_seconds', '0'), '--max_seconds must be in'),
    (('--export', 'proxy=x'), 'ENGINE=DIR'),
    (('--colour', '3'), 'unrecognized'),
  ],
)
def test_bad_flags_are_one_sentence(arguments, words, tmp_path, capsys):
  pytest.importorskip('fastapi')
  with pytest.raises(SystemExit) as ended:
    serve.main(['--folder', str(tmp_path / 's'), *arguments])
  assert ended.value.code == 2 and words in capsys.readouterr().err
  assert not (tmp_path / 's').exists()


def test_a_missing_package_names_the_extra():
  with pytest.raises(
    UserError, match=r'needs the package no_such_thing, .* pip install "exp_jax\[ui\]"'
  ):
    serve.needed('no_such_thing')


class Server:
  """A server as a process."""

  def __init__(self, folder):
    self.process = subprocess.Popen(
      [sys.executable, '-c', SERVER, '--port', '0', '--folder', folder],
      stdout=subprocess.PIPE,
      text=True,
      cwd=ROOT,
      env=os.environ
      | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'EXP_JAX_COMPILED': 'none'},
    )
    self.address = re.search(r'http://\S+', self.process.stdout.readline())[0]

  def ask(self, path, method='GET', content=None, **headers):
    request = urllib.request.Request(
      f'{self.address}/api/{path}',
      content,
      {k.replace('_', '-'): v for k, v in headers.items()},
      method=method,
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
      return json.load(answer)

  def create(self, files, seed):
    ids = {
      name: self.ask(f'uploads?name={file}', 'POST', (files / file).read_bytes())['id']
      for name, file in (('portrait', 'me.png'), ('driving', 'clip.mp4'))
    }
    return self.ask(
      'jobs',
      'POST',
      json.dumps(ids | {'options': {'seed': seed}}).encode(),
      Content_Type='application/json',
    )['id']

  def wait(self, job, states):
    until = time.monotonic() + 120
    while (found := self.ask(f'jobs/{job}'))['state'] not in states and time.monotonic() < until:
      time.sleep(0.1)
    return found

  def end(self, number):
    self.process.send_signal(number)
    return self.process.wait(60)


@pytest.mark.long
def test_jobs_survive_a_kill_and_an_end_of_the_server(tmp_path, files):
  pytest.importorskip('fastapi')
  pytest.importorskip('uvicorn')
  first = Server(tmp_path / 's')
  try:
    slow, waiting = first.create(files, SLOW), first.create(files, 0)
    assert first.wait(slow, ('running',))['state'] == 'running'
    assert first.end(signal.SIGKILL) == -9
    second = Server(tmp_path / 's')
  finally:
    first.process.kill()
  try:
    assert second.wait(slow, ('running',))['attempts'] == 2
    second.ask(f'jobs/{slow}/cancel', 'POST')
    assert second.wait(waiting, ('done',))['state'] == 'done'
    assert set(second.ask(f'jobs/{waiting}')['results']) >= {'video', 'record'}
    assert second.end(signal.SIGTERM) == 0
    with pytest.raises(urllib.error.URLError):
      second.ask('about')
  finally:
    second.process.kill()
