"""The page's door: a token where others can reach it, and a policy that keeps a browser from asking
anybody else."""

import re

import pytest

pytest.importorskip('gradio')
testclient = pytest.importorskip('fastapi.testclient')
from exp_jax.performance.options import described  # noqa: E402
from exp_jax.studio import serve  # noqa: E402
from exp_jax.studio.page import shown  # noqa: E402
from exp_jax.studio.page.layout import mount, page_secret  # noqa: E402
from exp_jax.studio.page.widgets import has_widget, value_of, widget  # noqa: E402
from exp_jax.studio.refusals import Refused  # noqa: E402
from exp_jax.studio.requests import checked_options, options_of  # noqa: E402
from exp_jax.studio.server import make_app  # noqa: E402
from exp_jax.systems.liveportrait.options import Options  # noqa: E402


def client_of(studio, token, host):
  app = mount(
    make_app(studio, token=token, hosts=serve.hosts_of(host), open_paths=('/',)), studio, token
  )
  return testclient.TestClient(app, base_url=f'http://{host}')


def test_the_page_asks_for_the_token(studio):
  client = client_of(studio, 'secret' * 4, '192.0.2.1')
  assert client.get('/api/jobs').status_code == 401 and client.get('/config').status_code == 401
  assert 'my results' not in client.get('/').text.lower()
  assert client.post('/login', data={'username': 'exp_jax', 'password': 'wrong'}).status_code == 400
  assert (
    client.post('/login', data={'username': 'exp_jax', 'password': 'secret' * 4}).status_code == 200
  )
  assert client.get('/config').status_code == 200 and client.get('/api/jobs').status_code == 401


def test_the_page_may_load_nothing_from_elsewhere(studio):
  client = client_of(studio, None, '127.0.0.1')
  policy = client.get('/').headers['content-security-policy']
  assert "default-src 'self'" in policy and not re.search(r'https?:|\*', policy)
  assert client.get('/', headers={'Origin': 'http://evil.example'}).status_code == 403
  assert (
    client.get('/api/about').headers['content-security-policy'].startswith("default-src 'none'")
  )
  assert page_secret(studio.settings.place) == page_secret(studio.settings.place)


def test_text_of_others_is_text():
  harm = '<img src=x onerror=alert(1)>'
  job = {
    'state': 'failed',
    'words': harm,
    'warnings': [harm],
    'portrait': harm,
    'driving': harm,
    'engine': 'proxy',
    'stage': harm,
    'place': 0,
    'started': 1.0,
    'ended': 2.0,
    'expires': 3.0,
    'cancelling': False,
    'done': 1,
    'total': 2,
    'remaining': 3.0,
    'results': {'video': f'/"{harm}'},
  }
  pages = [
    shown.progress(job | {'state': state})
    for state in ('failed', 'running', 'done', 'queued', 'cancelled')
  ]
  for text in (*pages, shown.result(job), shown.gallery([job | {'state': 'done'}])):
    assert '<img src=x' not in text and 'src="/"' not in text
  assert sum('&lt;img' in text for text in pages) == 3


@pytest.mark.parametrize('engine', ['proxy', 'dit', 'liveportrait', 'loki', 'magicportrait'])
def test_every_option_has_a_widget_that_shows_what_is_declared(engine):
  for each in options_of(engine):
    if has_widget(each):
      shown = widget(each)
      assert value_of(each, shown.value) is None, each.name
      assert each.help[:40] in (shown.info if getattr(shown, 'info', None) else shown.label)
  assert [each.name for each in options_of(engine) if not has_widget(each)] == (
    ['face_driver'] if engine == 'liveportrait' else []
  )


@pytest.mark.parametrize(
  'name, shown, value',
  [
    ('source_crop', '2 0.5 -0.1', (2.0, 0.5, -0.1)),
    ('part_weights', 'eyes=0.5, lips=1', {'eyes': 0.5, 'lips': 1.0}),
    ('stitching', 'no', False),
    ('stitching', 'default', None),
    ('multiplier', 2, 2),
    ('limit', '7', 7),
    ('region', 'lip', 'lip'),
    ('absolute', True, True),
  ],
)
def test_what_a_widget_shows_becomes_the_option(name, shown, value):
  each = {each.name: each for each in described(Options)}[name]
  assert value_of(each, shown) == value
  if value is not None:
    assert (
      getattr(checked_options('liveportrait', {name: value}, lambda upload: None), name) == value
    )


@pytest.mark.parametrize(
  'name, shown',
  [('source_crop', '2 x'), ('part_weights', 'eyes'), ('part_weights', 'eyes=x'), ('limit', 'many')],
)
def test_text_that_is_no_number_is_refused(name, shown):
  with pytest.raises(Refused):
    value_of({each.name: each for each in described(Options)}[name], shown)


def test_the_page_asks_for_consent(studio):
  assert 'only with their consent' in client_of(studio, None, '127.0.0.1').get('/config').text
