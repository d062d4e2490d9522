"""The page in a real browser, by a stand-in worker. Skips where gradio, selenium, chromium or its driver are missing:

  apt install chromium chromium-driver
  pip install gradio selenium
  python -m pytest -n 0 tests/studio/test_page.py        # EXP_JAX_SCREENSHOTS=DIR keeps pictures of the page
"""

import base64
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from exp_jax.media.images import write_image
from exp_jax.media.video import write_video
from tests.studio.stand_in import SLOW

webdriver = pytest.importorskip('selenium.webdriver')
pytest.importorskip('gradio')
BROWSER, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason='`apt install chromium chromium-driver` brings the browser')
ROOT = pathlib.Path(__file__).parents[2]
SERVER = """
import sys
from exp_jax.studio import manager
from tests.studio.stand_in import COMMAND
manager.Studio.__init__.__kwdefaults__['command'] = COMMAND
from exp_jax.studio.app import main
sys.exit(main())
"""
FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync')


@pytest.fixture(scope='module')
def address(tmp_path_factory):
  """Where the page is."""
  with subprocess.Popen(
      [sys.executable, '-c', SERVER, '--port', '0', '--folder', tmp_path_factory.mktemp('studio') / 's', '--load',
       'liveportrait.random_weights=tiny'], stdout=subprocess.PIPE, text=True, cwd=ROOT,
      env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'EXP_JAX_COMPILED': 'none'}) as process:
    yield re.search(r'http://\S+', process.stdout.readline())[0]
    process.terminate()


@pytest.fixture(scope='module')
def media(tmp_path_factory):
  folder = tmp_path_factory.mktemp('media')
  rows, columns = np.mgrid[:240, :320]
  pixels = np.stack([columns * 0.7, rows * 0.9, 80 + 0 * rows], -1).astype(np.uint8)
  write_image(folder / 'me.png', pixels)
  write_video(folder / 'clip.mp4', np.repeat(pixels[None, :, :240], 5, 0), 10)
  (folder / 'postscript.jpg').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n')
  (folder / '<img src=x onerror=alert(1)>.png').write_bytes(b'no picture')
  return folder


class Reader:
  """A person before the page."""

  def __init__(self, address, profile, width=1200, height=1500, more=()):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, *more, f'--user-data-dir={profile}', f'--window-size={width},{height}'):
      options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL'})
    self.browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    if width < 500:      # headless windows are not narrower than 500 pixels
      self.browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride',
                                   {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': True})
    self.browser.get(address)
    self.until(lambda: self.find('#animate'))

  def find(self, place):
    found = self.browser.find_elements('css selector', place)
    return found[0] if found else None

  def text(self, place):
    try:
      element = self.find(place)
      return element.text if element else ''
    except Exception:        # it was drawn anew meanwhile
      return ''

  def give(self, place, path):
    """Drops a file."""
    old = self.find(f'#{place} button[aria-label="Clear"], #{place} button[aria-label="Remove this file"]')
    if old:
      self.click(old)
      self.until(lambda: self.find(f'#{place} input[type=file]'))
    self.find(f'#{place} input[type=file]').send_keys(str(path))

  def click(self, element):
    self.browser.execute_script('arguments[0].scrollIntoView({block: "center"}); arguments[0].click()', element)

  def until(self, answer, seconds=90):
    end = time.monotonic() + seconds
    while not (found := answer()):
      assert time.monotonic() < end, self.browser.find_element('tag name', 'body').text[-2000:]
      time.sleep(0.1)
    return found

  def says(self, place, words):
    self.until(lambda: words in self.text(place))

  def photograph(self, name):
    if folder := os.environ.get('EXP_JAX_SCREENSHOTS'):
      pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
      height = self.browser.execute_script('return document.documentElement.scrollHeight')
      width = self.browser.execute_script('return window.innerWidth')
      shot = self.browser.execute_cdp_cmd('Page.captureScreenshot', {
        'captureBeyondViewport': True, 'clip': {'x': 0, 'y': 0, 'width': width, 'height': min(height, 4000), 'scale': 1}})
      (pathlib.Path(folder) / f'{name}.png').write_bytes(base64.b64decode(shot['data']))

  def asked_for(self):
    """Addresses of all requests of the page so far."""
    return {found for entry in self.browser.get_log('performance')
            for found in re.findall(r'"documentURL":"[^"]*".*?"url":"([^"]+)"', entry['message'])}


@pytest.fixture
def reader(address, tmp_path):
  opened = []

  def open_one(**size):
    opened.append(Reader(address, tmp_path / f'profile{len(opened)}', **size))
    return opened[-1]

  yield open_one
  for each in opened:
    each.browser.quit()


def test_from_the_first_visit_to_a_video(reader, media):
  page = reader()
  page.click(page.find('#animate'))
  page.says('#progress', 'give a portrait first')
  page.give('portrait', media / 'me.png')
  page.says('#portrait_words', 'me.png: a picture of 320 x 240 pixels')
  page.says('#portrait_words', 'The fitted head lies over the portrait')
  page.give('driving', media / 'clip.mp4')
  page.says('#driving_words', 'clip.mp4: a clip of 240 x 240 pixels, 5 frames, 10 a second')
  page.click(page.find('#animate'))
  page.says('#progress', 'done in')
  page.until(lambda: page.browser.execute_script('return document.querySelector("#result video").readyState') >= 1)
  files = {each.text for each in page.browser.find_elements('css selector', '.xj-file')}
  assert files >= {'video', 'sheet', 'record', 'motion template'}
  page.says('#gallery', 'me.png by clip.mp4, proxy')
  page.photograph('desktop')
  page.browser.refresh()
  page.says('#gallery', 'me.png by clip.mp4, proxy')
  server = page.browser.current_url.rstrip('/')
  elsewhere = {url for url in page.asked_for() if not url.startswith((server, 'data:', 'blob:', 'about:', 'chrome'))}
  assert not elsewhere, 'the page calls nobody else'
  page.click(page.find('#forget'))
  page.says('#gallery', 'nothing yet')


def test_bad_files_give_their_sentence_and_no_name_is_html(reader, media):
  page = reader()
  page.give('portrait', media / 'postscript.jpg')
  page.says('#portrait_words', "'postscript.jpg' is not an image that can be read; give a JPEG, PNG or WebP file")
  page.give('driving', media / '<img src=x onerror=alert(1)>.png')
  page.says('#driving_words', 'is not an image that can be read')
  assert not page.browser.find_elements('css selector', '#driving_words img')


def test_options_belong_to_their_engine_and_reach_the_job(reader, media):
  page = reader()
  seen = lambda name: any(each.is_displayed() for each in page.browser.find_elements('css selector', f'#option_{name}'))
  page.click(page.find('#options button'))
  page.until(lambda: seen('expression_strength'))
  assert not seen('steps') and not seen('region')
  page.click(page.find('#engine input[value=liveportrait]'))
  page.until(lambda: seen('region') and not seen('expression_strength'))
  page.click(page.find('#engine input[value=dit]'))
  page.until(lambda: seen('steps') and seen('guidance'))
  page.photograph('options')


def test_a_driver_is_recorded_and_a_portrait_photographed(reader):
  """By the browser's own moving test picture, in place of a camera."""
  page = reader(more=('--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'))
  find = ('const found = [...document.querySelectorAll(arguments[0] + " button")]'
          '.find(each => `${each.innerText} ${each.ariaLabel}`.includes(arguments[1])); ')
  press = lambda place, words: page.until(lambda: page.browser.execute_script(
    f'{find} found?.click(); return Boolean(found)', place, words))
  for tab in page.browser.find_elements('css selector', 'button[role=tab]'):
    if tab.text == 'Camera':
      page.click(tab)
  press('#camera', 'Webcam')
  press('#camera', 'Record')
  page.until(lambda: page.browser.execute_script(f'{find} return Boolean(found)', '#camera', 'Stop'))
  time.sleep(2)
  press('#camera', 'Stop')
  page.says('#driving_words', 'webm: a clip of ')
  press('#shot', 'Webcam')
  page.until(lambda: page.browser.execute_script('return document.querySelector("#shot video")?.currentTime > 0.5'))
  press('#shot', 'apture')
  page.says('#portrait_words', 'png: a picture of ')
  page.photograph('camera')


def test_cancel_from_the_page_and_two_readers_at_once(reader, media):
  first, second = reader(), reader(width=390, height=844)
  for page in (first, second):
    page.give('portrait', media / 'me.png')
    page.says('#portrait_words', 'fitted head')
    page.give('driving', media / 'clip.mp4')
    page.says('#driving_words', 'clip.mp4')
  first.click(first.find('#options button'))
  fields = lambda: [each for each in first.browser.find_elements('css selector', '#option_seed input') if each.is_displayed()]
  seed = first.until(fields)[0]
  seed.clear()
  seed.send_keys(f'{SLOW}\t')
  first.click(first.find('#animate'))
  first.says('#progress', 'following the driver')
  second.click(second.find('#animate'))
  second.says('#progress', 'waiting: 1 before it')
  second.photograph('phone_waiting')
  first.says('#progress', 'left')
  first.photograph('progress')
  first.click(first.find('#cancel'))
  first.says('#progress', 'cancelled; nothing of it is left')
  second.says('#progress', 'done in')
  assert second.browser.execute_script('return document.documentElement.scrollWidth <= window.innerWidth'), 'nothing is cut'
  second.photograph('phone')
  assert first.text('#gallery') == 'nothing yet', 'results of others are not shown'
