"""The page in a real browser before the real worker: the first visit to the first video, and a second
portrait in the warm server, on a desk and on a phone."""

import os
import re
import subprocess
import sys

import pytest

from exp_jax.actors.__main__ import main as make_actors
from exp_jax.errors import UserError
from exp_jax.heads.head_files import load_head
from exp_jax.media.images import write_image
from exp_jax.media.video import read_video, write_video
from exp_jax.observe.landmarks import interpreter
from tests.studio.browser import BROWSER, DRIVER, ROOT, Reader

pytest.importorskip('selenium.webdriver')
pytest.importorskip('gradio')
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not (BROWSER and DRIVER), reason='`apt install chromium chromium-driver` brings the browser'
  ),
]


@pytest.fixture(scope='module')
def people(tmp_path_factory):
  """Two portraits and a clip of six frames."""
  astronaut = pytest.importorskip('skimage.data').astronaut
  try:
    interpreter(), load_head('makehuman')
  except UserError as error:
    pytest.skip(str(error))
  folder = tmp_path_factory.mktemp('people')
  cast = ['--num', '2', '--frames', '6', '--size', '384', '--seed', '359', '--fps', '8']
  make_actors(['-o', str(folder / 'cast'), *cast])
  one, two = (
    read_video(folder / 'cast' / 'clips' / f'actor_0000{number}.mp4').frames for number in (0, 1)
  )
  write_image(folder / 'me.png', astronaut())
  write_image(folder / 'you.png', one[0])
  write_video(folder / 'clip.mp4', two, 8)
  return folder


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """The address of `exp-jax app`."""
  folder = tmp_path_factory.mktemp('app')
  command = [sys.executable, '-m', 'exp_jax', 'app', '--port', '0', '--folder', str(folder / 's')]
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  environment |= {'EXP_JAX_COMPILED': str(folder / 'compiled')}
  with subprocess.Popen(
    command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
  ) as process:
    yield re.search(r'http://\S+', process.stdout.readline())[0]
    process.terminate()


def first_video(page, people, name):
  """From the empty page to a video that plays; what is said at its end."""
  page.give('portrait', people / f'{name}.png')
  page.says('#portrait_words', f'{name}.png: a picture of ')
  page.give('driving', people / 'clip.mp4')
  page.says('#driving_words', 'clip.mp4: a clip of 384 x 384 pixels, 6 frames, 8 a second')
  page.until(lambda: 'The fitted head lies' in page.text('#portrait_words'), 600)
  page.photograph(f'real_{name}_head')
  page.click(page.find('#animate'))
  page.until(lambda: 'done in' in page.text('#progress'), 900)
  run = page.browser.execute_script
  page.until(lambda: run('return document.querySelector("#result video").readyState >= 2'))
  size = run(
    'const video = document.querySelector("#result video"); '
    'return [video.videoWidth, video.videoHeight]'
  )
  assert size == [512, 512]
  assert run('return document.documentElement.scrollWidth <= window.innerWidth'), 'nothing is cut'
  page.photograph(f'real_{name}')


def test_two_portraits_of_two_visitors(people, place, tmp_path):
  """What is seen at each step, without a word read elsewhere."""
  for name, size in (('me', (1200, 1500)), ('you', (390, 844))):
    page = Reader(place, tmp_path / name, *size)
    try:
      first_video(page, people, name)
    finally:
      page.browser.quit()
