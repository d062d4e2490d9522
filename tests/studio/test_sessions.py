"""Sessions: portraits opened once and drawn often, in a process that no job holds up; over HTTP as
well."""

import io
import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from exp_jax.errors import UserError
from exp_jax.studio.live import drawn_sessions, sessions
from exp_jax.studio.refusals import TooMany, Unknown
from tests.studio.conftest import hand_over
from tests.studio.stand_in import KILLED, SLOW


def jpeg(colour):
  made = io.BytesIO()
  Image.fromarray(np.full((24, 32, 3), colour, np.uint8)).save(made, 'JPEG', quality=95)
  return made.getvalue()


def colour_of(content):
  return np.asarray(Image.open(io.BytesIO(content)), float).mean((0, 1))


@pytest.fixture
def portrait(studio, files):
  return hand_over(studio, files / 'me.png').id


def test_sliders_are_drawn_and_saved(studio, portrait, tmp_path):
  session = studio.sessions.open('edit', engine='proxy', portrait=portrait)
  assert session.sliders == {'yaw': [-40.0, 40.0], 'smile': [-1.0, 1.0]}
  np.testing.assert_allclose(colour_of(session.picture), 100, atol=1)
  np.testing.assert_allclose(
    colour_of(studio.sessions.draw(session.id, {'yaw': 30.0})), 130, atol=1
  )
  (tmp_path / 'saved').mkdir()
  studio.sessions.save(session.id, {'yaw': 5.0}, tmp_path / 'saved')
  assert {path.name for path in (tmp_path / 'saved').iterdir()} == {'edited.png', 'edited.npz'}
  with pytest.raises(UserError, match="no slider 'nose'"):
    studio.sessions.draw(session.id, {'nose': 1.0})
  studio.sessions.close(session.id)
  with pytest.raises(Unknown):
    studio.sessions.draw(session.id, {})


def test_frames_of_a_camera(studio, portrait):
  session = studio.sessions.open('live', engine='proxy', portrait=portrait, view='normals')
  with pytest.raises(UserError, match='no face found'):
    studio.sessions.feed(session.id, jpeg(0))
  drawn, found = studio.sessions.feed(session.id, jpeg((200, 40, 90)))
  np.testing.assert_allclose(colour_of(drawn), (200, 40, 90), atol=4)
  assert found == {'rate': 5.0, 'seconds': {'landmarks': 0.05, 'draw': 0.15}, 'fed': 1, 'seen': 1}
  for bad in (b'', b'no jpeg', jpeg(9)[:50]):
    with pytest.raises(UserError, match='no JPEG'):
      studio.sessions.feed(session.id, bad)
  with pytest.raises(Unknown):
    studio.sessions.draw(session.id, {})  # of the other kind


def test_a_job_does_not_hold_it_up(studio, pair):
  job = studio.create('animate', engine='proxy', **pair, options={'seed': SLOW})
  studio.wait(job.id, states=('running',))
  session = studio.sessions.open('edit', engine='proxy', portrait=pair['portrait'])
  studio.sessions.draw(session.id, {'yaw': 1.0})
  assert studio.get(job.id).state == 'running'
  studio.cancel(job.id)


def test_a_process_that_dies_ends_its_sessions_and_the_next_one_works(studio, portrait):
  first = studio.sessions.open('edit', engine='proxy', portrait=portrait, options={'seed': KILLED})
  with pytest.raises(UserError, match='ended by signal 9: open the portrait again'):
    studio.sessions.draw(first.id, {'yaw': 1.0})
  with pytest.raises(Unknown):
    studio.sessions.draw(first.id, {'yaw': 1.0})
  again = studio.sessions.open('edit', engine='proxy', portrait=portrait)
  studio.sessions.close(again.id)


def test_they_end_when_nobody_uses_them_and_there_is_room_for_few(studio, portrait, monkeypatch):
  opened = [studio.sessions.open('edit', engine='proxy', portrait=portrait) for _ in range(4)]
  with pytest.raises(TooMany):
    studio.sessions.open('edit', engine='proxy', portrait=portrait)
  now = time.monotonic()
  monkeypatch.setattr(sessions.time, 'monotonic', lambda: now + sessions.IDLE + 1)
  studio.sessions.sweep()
  with pytest.raises(Unknown):
    studio.sessions.draw(opened[0].id, {})
  monkeypatch.undo()
  studio.sessions.close(studio.sessions.open('edit', engine='proxy', portrait=portrait).id)


@pytest.mark.long
@pytest.mark.parametrize(
  'given, words',
  [
    ({'kind': 'x'}, 'of kind edit or live'),
    ({'view': 'x'}, 'view of preview or normals'),
    ({'engine': 'dit'}, 'no single frames'),
    ({'options': {'sixe': 1}}, "did you mean 'size'"),
    ({'portrait': 'f' * 32}, 'no upload'),
  ],
)
def test_what_is_refused(studio, portrait, given, words):
  asked = {'kind': 'edit', 'engine': 'proxy', 'portrait': portrait} | given
  with pytest.raises(UserError, match=words):
    studio.sessions.open(**asked)


@pytest.mark.parametrize('session', ['', '..', 'f' * 32, '../../etc', 7])
def test_no_id_that_is_none(studio, session):
  for use in (
    lambda: studio.sessions.draw(session, {}),
    lambda: studio.sessions.feed(session, b''),
  ):
    with pytest.raises(Unknown):
      use()


def test_a_frame_may_not_be_huge():
  with pytest.raises(UserError, match='at most 4096'):
    drawn_sessions.from_jpeg(drawn_sessions.as_jpeg(np.zeros((1, 5000, 3), np.uint8)))
  picture = np.random.default_rng(0).integers(90, 110, (16, 16, 3), np.uint8)
  np.testing.assert_allclose(
    drawn_sessions.from_jpeg(drawn_sessions.as_jpeg(picture)), picture, atol=24
  )


def test_over_http(studio, portrait):
  testclient = pytest.importorskip('fastapi.testclient')
  from exp_jax.studio.server import make_app

  client = testclient.TestClient(make_app(studio), base_url='http://127.0.0.1')
  made = client.post('/api/sessions', json={'kind': 'edit', 'portrait': portrait})
  assert made.status_code == 201 and made.json()['sliders']['smile'] == [-1.0, 1.0]
  place = f'/api/sessions/{made.json()["id"]}'
  drawn = client.post(f'{place}/draw', json={'yaw': -20})
  assert drawn.headers['content-type'] == 'image/jpeg'
  np.testing.assert_allclose(colour_of(drawn.content), 80, atol=1)
  assert client.post(f'{place}/motion', json={}).content == b'motion'
  assert client.post(f'{place}/picture', json={}).content.startswith(b'\x89PNG')
  assert (
    client.post(f'{place}/draw', json=[1]).status_code == 400
    and client.post(f'{place}/other', json={}).status_code == 400
  )
  live = client.post('/api/sessions', json={'kind': 'live', 'portrait': portrait}).json()['id']
  fed = client.post(f'/api/sessions/{live}/frames', content=jpeg(90))
  assert fed.status_code == 200 and fed.headers['x-frames-a-second'] == '5.000'
  assert client.post('/api/sessions', json={'kind': 'edit'}).status_code == 400
  assert (
    client.delete(place).status_code == 204
    and client.post(f'{place}/draw', json={}).status_code == 404
  )
  assert not [each for each in studio.settings.place.iterdir() if each.name.startswith('.saved')]
  assert '/api/sessions/{session}/frames' in client.get('/api/openapi.json').json()['paths']


@pytest.mark.long
def test_the_process_ends_with_its_studio(open_studio, files):
  studio = open_studio()
  studio.sessions.open('edit', engine='proxy', portrait=hand_over(studio, files / 'me.png').id)
  number = studio.sessions.process_id
  assert number is not None
  studio.__exit__()
  with pytest.raises(ProcessLookupError):
    for _ in range(100):
      os.kill(number, 0)
      time.sleep(0.1)
    os.kill(number, signal.SIGKILL)
