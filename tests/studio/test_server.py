"""The HTTP interface: a whole job, refusals in the command line's sentences, tokens, other sites'
pages, what leaves the server."""

import json

import pytest

from exp_jax.commands import animate
from exp_jax.errors import UserError
from tests.studio.stand_in import BROKEN, SLOW, WARNED

pytest.importorskip('fastapi')
testclient = pytest.importorskip('fastapi.testclient')
from exp_jax.studio import serve, server  # noqa: E402

JSON = {'Content-Type': 'application/json'}


def client_of(studio, host='localhost', **settings):
  settings = {'hosts': serve.hosts_of('127.0.0.1')} | settings
  return testclient.TestClient(
    server.make_app(studio, **settings), base_url=f'http://{host}', raise_server_exceptions=False
  )


@pytest.fixture
def client(studio):
  return client_of(studio)


def upload(client, path, name=None, **more):
  return client.post(
    '/api/uploads', params={'name': name or path.name}, content=path.read_bytes(), **more
  )


@pytest.fixture
def asked(client, files):
  """What a job is asked for with."""
  return {
    name: upload(client, files / file).json()['id']
    for name, file in (('portrait', 'me.png'), ('driving', 'clip.mp4'))
  }


def events_of(client, job):
  with client.stream('GET', f'/api/jobs/{job}/events') as stream:
    return [
      json.loads(line.removeprefix('data: '))
      for line in stream.iter_lines()
      if line.startswith('data: ')
    ]


@pytest.mark.long
def test_from_files_to_a_video(client, asked, studio):
  made = client.post(
    '/api/jobs', json=asked | {'engine': 'proxy', 'options': {'size': 64, 'seed': WARNED}}
  )
  assert made.status_code == 201 and made.json()['state'] in ('queued', 'running')
  job = made.json()['id']
  last = events_of(client, job)[-1]
  assert last['state'] == 'done' and last['warnings'] == ['me.png: looks to the side']
  video = client.get(last['results']['video'])
  assert (
    video.headers['content-type'] == 'video/mp4'
    and video.content == studio.results(job)['video'].read_bytes()
  )
  assert client.get(last['results']['video'], headers={'Range': 'bytes=0-3'}).status_code == 206, (
    'players seek'
  )
  assert (
    client.get(last['results']['motion'], params={'download': 'true'})
    .headers['content-disposition']
    .startswith('attachment')
  )
  assert [each['id'] for each in client.get('/api/jobs').json()] == [job]
  assert (
    client.delete(f'/api/jobs/{job}').status_code == 204
    and client.get(f'/api/jobs/{job}').status_code == 404
  )
  assert client.delete(f'/api/uploads/{asked["portrait"]}').status_code == 204
  assert client.post('/api/jobs', json=asked).status_code == 404


@pytest.mark.long
def test_progress_and_cancel_of_two_clients(client, studio, asked):
  other = client_of(studio)
  slow, waiting = (
    who.post('/api/jobs', json=asked | {'options': {'seed': SLOW}}).json()['id']
    for who in (client, other)
  )
  with client.stream('GET', f'/api/jobs/{slow}/events') as stream:
    for line in stream.iter_lines():
      found = json.loads(line.removeprefix('data: ')) if line else {}
      if found.get('stage') == 'track' and found['done'] > 3:
        break
    assert found['total'] == 400 and found['remaining'] is not None and found['state'] == 'running'
    assert other.get(f'/api/jobs/{waiting}').json()['place'] == 1
    other.post(f'/api/jobs/{waiting}/cancel')
    assert client.post(f'/api/jobs/{slow}/cancel').json()['cancelling']
  assert (
    events_of(client, slow)[-1]['state'] == 'cancelled'
    and client.get(f'/api/jobs/{slow}').json()['results'] == {}
  )


@pytest.mark.long
@pytest.mark.parametrize(
  'options, arguments',
  [
    ({'size': 3}, ['--size', '3']),
    ({'steps': 4}, ['--steps', '4']),
    ({'region': 'lip'}, ['--region', 'lip']),
    ({'face': 'tall'}, ['--face', 'tall']),
    ({'rotation': 'upside'}, None),
    ({'smoothing': 'much'}, None),
  ],
)
def test_options_are_refused_in_the_sentences_of_the_command_line(
  client, asked, options, arguments
):
  answer = client.post('/api/jobs', json=asked | {'options': options})
  assert answer.status_code == 400, answer.text
  if arguments is None:
    assert answer.json()['error'].startswith(f'--{next(iter(options))} must be ')
    return
  args = animate.parser().parse_args(['-s', 'a', '-d', 'b', '-o', 'c', *arguments])
  with pytest.raises(UserError) as own:
    animate.check_engine(args)
    animate.options_of(args)
  assert answer.json()['error'] == str(own.value)


@pytest.mark.long
@pytest.mark.parametrize(
  'change, words',
  [
    ({'options': {'smoothng': 1}}, "there is no option 'smoothng'; did you mean 'smoothing'?"),
    ({'options': {'head': '/etc/passwd'}}, '--head is chosen when the server is started'),
    ({'options': {'export': '/etc'}}, '--export is chosen when the server is started'),
    ({'options': {'size': [1]}}, '--size must be one value'),
    ({'options': [1]}, 'not understood: options'),
    ({'engine': 'loki'}, 'no engine'),
    ({'kind': 'dance'}, "no job of kind 'dance'"),
    ({'colour': 1}, 'not understood: colour'),
    ({'portrait': '../../etc/passwd'}, 'no upload'),
    ({'driving': None}, 'no upload'),
  ],
)
def test_what_is_not_there_is_refused_by_name(client, asked, change, words):
  answer = client.post('/api/jobs', json=asked | change)
  assert 400 <= answer.status_code < 500 and words in answer.json()['error'], answer.text


@pytest.mark.parametrize(
  'content, headers, status',
  [
    (b'{', JSON, 400),
    (b'[' * 100_000, JSON, 400),
    (b'{"a": "' + b'x' * 2_000_000 + b'"}', JSON, 413),
    (b'{}', {}, 400),
    (b'{}', {'Content-Type': 'text/plain'}, 400),
  ],
)
def test_requests_that_are_none(client, content, headers, status):
  answer = client.post('/api/jobs', content=content, headers=headers)
  assert answer.status_code == status and set(answer.json()) == {'error'}


@pytest.mark.parametrize(
  'path',
  [
    '/api/jobs/..%2f..%2fetc',
    '/api/jobs/%2e%2e/results/video',
    '/api/uploads/..%2fjobs',
    '/api/nothing',
    '/api/jobs/' + 'a' * 32 + '/results/..%2fjob.json',
  ],
)
def test_no_path_leads_out(client, path):
  assert client.get(path).status_code == 404


def test_results_are_those_of_the_table(client, asked, studio):
  job = client.post('/api/jobs', json=asked).json()['id']
  studio.wait(job)
  for name in ('job.json', 'job', 'result.mp4', 'head'):
    assert client.get(f'/api/jobs/{job}/results/{name}').status_code == 404


def test_too_large_by_word_and_by_deed(open_studio):
  studio = open_studio(max_megabytes=0.01)
  client = client_of(studio)
  for headers in ({}, {'Transfer-Encoding': 'chunked'}):
    content = iter([b'x' * 6000] * 2) if headers else b'x' * 12_000
    answer = client.post('/api/uploads', params={'name': 'a.jpg'}, content=content)
    assert answer.status_code == 413 and answer.json()['error'].startswith(
      'the file is larger than 0.01 MB'
    )
  assert not list((studio.settings.place / 'uploads').iterdir())


def test_the_queue_is_full(open_studio, files):
  client = client_of(open_studio(queue=1))
  asked = {
    'portrait': upload(client, files / 'me.png').json()['id'],
    'driving': upload(client, files / 'clip.mp4').json()['id'],
    'options': {'seed': SLOW},
  }
  answers = [client.post('/api/jobs', json=asked) for _ in range(3)]
  assert answers[-1].status_code == 503 and 'wait already' in answers[-1].json()['error']


def test_a_token_is_needed_where_there_is_one(studio, files):
  client = client_of(studio, 'studio.example', token='secret' * 4, hosts=frozenset())
  right = {'Authorization': f'Bearer {"secret" * 4}'}
  for given in (None, 'Bearer secre', 'secret', 'Bearer \xff'.encode('latin1')):
    headers = {} if given is None else {'Authorization': given}
    for path in ('/api/about', '/api/jobs', '/api/openapi.json', '/'):
      answer = client.get(path, headers=headers)
      assert answer.status_code == 401 and 'token' in answer.json()['error']
  ids = {
    name: upload(client, files / file, headers=right).json()['id']
    for name, file in (('portrait', 'me.png'), ('driving', 'clip.mp4'))
  }
  job = client.post('/api/jobs', json=ids, headers=right).json()['id']
  studio.wait(job)
  results = client.get(f'/api/jobs/{job}', headers=right).json()['results']
  assert client.get(results['video']).status_code == 200, 'a link has the key of its job'
  assert client.get(results['video'].partition('?')[0]).status_code == 401
  assert client.get(results['video'].replace(job, 'a' * 32)).status_code == 401
  assert client.delete(f'/api/jobs/{job}?{results["video"].partition("?")[2]}').status_code == 401


def test_pages_of_other_sites_are_not_answered(studio):
  client = client_of(studio)
  assert client.get('/api/about', headers={'Origin': 'http://localhost'}).status_code == 200
  assert client.get('/api/about', headers={'Origin': 'http://evil.example'}).status_code == 403
  assert client.get('/api/about', headers={'Origin': 'null'}).status_code == 403
  assert client_of(studio, 'evil.example').get('/api/about').status_code == 403, (
    'a name that was pointed at this machine'
  )
  assert client_of(studio, '[::1]:8770').get('/api/about').status_code == 200


def test_nothing_of_the_machine_leaves(client, studio, asked, files, tmp_path):
  upload(client, files / 'me.png', '<img src=x onerror=alert(1)>.png')
  texts = [
    client.post('/api/jobs', json=asked | {'options': {'seed': seed}}).text
    for seed in (BROKEN, WARNED, 0)
  ]
  for job in studio.list():
    studio.wait(job.id)
  (tmp_path / 'bad.jpg').write_bytes(b'%!PS-Adobe-3.0')
  texts += [
    client.get(path).text
    for path in ('/api/jobs', '/api/about', '/api/engines', '/api/openapi.json')
  ]
  texts += [upload(client, tmp_path / 'bad.jpg').text]
  texts += [client.get(f'/api/jobs/{job.id}/results/record').text for job in studio.list()]
  for text in texts:
    assert str(tmp_path) not in text and '/home' not in text and '<img' not in text, text


def test_engines_say_what_can_be_chosen(client):
  options = {each['name']: each for each in client.get('/api/engines').json()['proxy']}
  assert options['size'] == {
    'name': 'size',
    'kind': 'int',
    'form': 'one',
    'optional': False,
    'default': 512,
    'low': 64,
    'high': 4096,
    'unit': 'pixels',
    'choices': [],
    'names': [],
    'help': 'side of the fitted square',
  }
  assert 'steps' not in options and 'head' not in options


@pytest.mark.parametrize(
  'host, loopback',
  [
    ('127.0.0.1', True),
    ('127.0.0.9', True),
    ('localhost', True),
    ('::1', True),
    ('0.0.0.0', False),
    ('::', False),
    ('studio.example', False),
    ('192.168.0.3', False),
  ],
)
def test_a_token_is_made_where_others_can_reach_it(host, loopback, monkeypatch):
  monkeypatch.delenv(serve.TOKEN, raising=False)
  token = serve.token_for(host)
  assert (token is None) == loopback == bool(serve.hosts_of(host))
  assert loopback or len(token) == 32 and token != serve.token_for(host)
  monkeypatch.setenv(serve.TOKEN, 'short')
  with pytest.raises(UserError, match='at least 16'):
    serve.token_for(host)
