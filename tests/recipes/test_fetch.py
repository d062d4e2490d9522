"""Weights from a stand-in hub: what is shown, what is checked, what an offline machine gets."""

import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading
import urllib.parse

import pytest

from exp_jax.errors import UserError
from exp_jax.recipes import fetch

pytest.importorskip('huggingface_hub')
ROOT = pathlib.Path(__file__).parents[2]
COMMIT, NAME = 'c' * 40, 'somebody/portraits'
FILES = {
  'README.md': b'---\nlicense: apache-2.0\n---\nWeights.\n',
  'deep/model.safetensors': b'weights' * 5000,
}


def git(content):
  return hashlib.sha1(f'blob {len(content)}\0'.encode() + content).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
  """Answers as the hub does: the model's record, and its files."""

  protocol_version = 'HTTP/1.1'
  spoiled, more = False, ()

  def log_message(self, *_):
    pass

  def do_HEAD(self):
    self.answer(False)

  def do_GET(self):
    self.answer(True)

  def answer(self, with_body):
    path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
    if path in (f'/api/models/{NAME}', f'/api/models/{NAME}/revision/{COMMIT}'):
      files = [
        {'rfilename': name, 'size': len(content), 'blobId': git(content)}
        for name, content in FILES.items()
      ]
      files[1]['lfs'] = {
        'sha256': hashlib.sha256(FILES['deep/model.safetensors']).hexdigest(),
        'size': 35000,
        'pointerSize': 130,
      }
      files += [{'rfilename': name, 'size': 1, 'blobId': 'a' * 40} for name in self.more]
      return self.send(
        200,
        json.dumps(
          {
            'id': NAME,
            'modelId': NAME,
            'sha': COMMIT,
            'siblings': files,
            'cardData': {'license': 'apache-2.0'},
          }
        ).encode(),
        with_body,
      )
    start = f'/{NAME}/resolve/{COMMIT}/'
    if path.startswith(start) and (content := FILES.get(path.removeprefix(start))) is not None:
      large = path.endswith('safetensors')
      tag = hashlib.sha256(content).hexdigest() if large else git(content)
      return self.send(
        200,
        content[::-1] if self.spoiled and large else content,
        with_body,
        **{
          'ETag': f'"{tag}"',
          'X-Repo-Commit': COMMIT,
          'X-Linked-Size': str(len(content)),
          'X-Linked-Etag': f'"{tag}"',
        },
      )
    self.send(404, b'{}', with_body, **{'X-Error-Code': 'RepoNotFound'})

  def send(self, status, content, with_body, **headers):
    self.send_response(status)
    for name, value in (
      headers | {'Content-Length': str(len(content)), 'Content-Type': 'application/json'}
    ).items():
      self.send_header(name, value)
    self.end_headers()
    if with_body:
      self.wfile.write(content)


@pytest.fixture
def hub(tmp_path):
  """Runs `exp-jax fetch` against a stand-in; keywords are more of its environment."""
  handler = type('Handler', (Hub,), {})
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = os.environ | {
      'HF_ENDPOINT': f'http://127.0.0.1:{server.server_port}',
      'HF_HOME': str(tmp_path / 'hf'),
      'HF_HUB_DISABLE_XET': '1',
      'HF_HUB_DISABLE_PROGRESS_BARS': '1',
      'PYTHONPATH': str(ROOT),
      'HF_HUB_OFFLINE': '0',
    }

    def run(*arguments, **more):
      return subprocess.run(
        [sys.executable, '-m', 'exp_jax', 'fetch', *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment | more,
        timeout=120,
      )

    run.handler = handler
    yield run
    with contextlib.suppress(OSError):
      server.shutdown()


def test_it_shows_first_and_takes_when_told(hub, tmp_path):
  digest = hashlib.sha256(FILES['deep/model.safetensors']).hexdigest()
  shown = hub(NAME, '-o', 'weights')
  assert shown.returncode == 0, shown.stderr
  for words in (
    f'revision {COMMIT}',
    'licence: apache-2.0',
    f'deep/model.safetensors  35,000 bytes  sha256 {digest}',
    'nothing was downloaded',
  ):
    assert words in shown.stdout
  assert not (tmp_path / 'weights').exists() and not list((tmp_path / 'hf').rglob('*.safetensors'))
  taken = hub(NAME, '-o', 'weights', '--yes')
  assert taken.returncode == 0, taken.stderr
  for name, content in FILES.items():
    assert (tmp_path / 'weights' / name).read_bytes() == content
  about = json.loads((tmp_path / 'weights' / 'SOURCE.json').read_text())
  assert (
    about['revision'] == COMMIT
    and about['licence'] == 'apache-2.0'
    and about['sha256']['deep/model.safetensors'] == digest
  )
  again = hub(NAME, '-o', 'weights', '--yes')
  assert again.returncode == 2 and 'exists already' in again.stderr
  # without a network, from the cache
  offline = hub(
    NAME,
    '-o',
    'offline',
    '--yes',
    '--revision',
    COMMIT,
    HF_HUB_OFFLINE='1',
    HF_ENDPOINT='http://127.0.0.1:1',
  )
  assert offline.returncode == 0 and 'licence: apache-2.0' in offline.stdout, offline.stderr
  assert (tmp_path / 'offline' / 'deep' / 'model.safetensors').read_bytes() == FILES[
    'deep/model.safetensors'
  ]
  blob = next(path for path in (tmp_path / 'hf').rglob(digest))
  blob.write_bytes(b'changed')
  changed = hub(NAME, '-o', 'changed', '--yes', '--revision', COMMIT, HF_HUB_OFFLINE='1')
  assert (
    changed.returncode == 2
    and 'it was damaged or changed' in changed.stderr
    and not (tmp_path / 'changed').exists()
  )


def test_what_differs_from_its_digest_is_not_taken(hub, tmp_path):
  hub.handler.spoiled = True
  done = hub(NAME, '-o', 'weights', '--include', '*.safetensors', '--yes')
  assert done.returncode == 2 and 'it was damaged or changed' in done.stderr
  assert not (tmp_path / 'weights').exists() and not list(tmp_path.glob('.*.partial'))


def test_names_that_are_none_and_places_outside(hub):
  for arguments, words in (
    (('nobody/nothing',), 'no such repository'),
    (('nothing',), 'give OWNER/NAME'),
    ((NAME, '--include', '*.onnx'), 'has no file like *.onnx; it has README.md'),
  ):
    done = hub(*arguments)
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and words in done.stderr, (
      done.stderr
    )
  done = hub(NAME, HF_HUB_OFFLINE='1')
  assert done.returncode == 2 and 'is not in the cache of the hub' in done.stderr
  hub.handler.more = ('../../etc/cron.d/x',)
  done = hub(NAME)
  assert done.returncode == 2 and 'leads out of its folder' in done.stderr


def test_a_digest_that_is_not_stated_is_no_digest(tmp_path):
  (tmp_path / 'a').write_bytes(b'a')
  with pytest.raises(UserError, match='no digest that could be checked'):
    fetch.check_digest(tmp_path / 'a', '', 'a')
  assert fetch.check_digest(tmp_path / 'a', git(b'a'), 'a') == hashlib.sha256(b'a').hexdigest()
