"""The page in a real browser, by a stand-in worker.

Skips where gradio, selenium, chromium or its driver are missing:

apt install chromium chromium-driver
pip install gradio selenium
python -m pytest -n 0 tests/studio/test_page.py        # EXP_JAX_SCREENSHOTS=DIR keeps pictures of the page
"""

import time

import pytest

from tests.studio.browser import BROWSER, DRIVER
from tests.studio.stand_in import SLOW

pytest.importorskip('selenium.webdriver')
pytest.importorskip('gradio')
pytestmark = pytest.mark.skipif(
  not (BROWSER and DRIVER), reason='`apt install chromium chromium-driver` brings the browser'
)


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
  page.until(
    lambda: (
      page.browser.execute_script('return document.querySelector("#result video").readyState') >= 1
    )
  )
  files = {each.text for each in page.browser.find_elements('css selector', '.xj-file')}
  assert files >= {'video', 'sheet', 'record', 'motion template'}
  page.says('#gallery', 'me.png by clip.mp4, proxy')
  page.photograph('desktop')
  for name in ('picture', 'driving_picture'):
    assert page.browser.execute_script(
      'const at = place => document.querySelector(place).getBoundingClientRect(); '
      'const [label, shown] = [at(arguments[0] + " label"), at(arguments[0] + " img")]; '
      'return label.height > 0 && shown.height > 100 && label.bottom <= shown.top + 1',
      f'#{name}',
    ), 'the words lie above the picture and not on it'
  first = 'return document.querySelector("#gallery video").currentTime > 0'
  page.until(lambda: page.browser.execute_script(first))
  page.browser.refresh()
  page.says('#gallery', 'me.png by clip.mp4, proxy')
  server = page.browser.current_url.rstrip('/')
  elsewhere = {
    url
    for url in page.asked_for()
    if not url.startswith((server, 'data:', 'blob:', 'about:', 'chrome'))
  }
  assert not elsewhere, 'the page calls nobody else'
  page.click(page.find('#forget'))
  page.says('#gallery', 'nothing yet')


def test_bad_files_give_their_sentence_and_no_name_is_html(reader, media):
  page = reader()
  page.give('portrait', media / 'postscript.jpg')
  page.says(
    '#portrait_words',
    "'postscript.jpg' is not an image that can be read; give a JPEG, PNG or WebP file",
  )
  page.give('driving', media / '<img src=x onerror=alert(1)>.png')
  page.says('#driving_words', 'is not an image that can be read')
  assert not page.browser.find_elements('css selector', '#driving_words img')


def test_options_belong_to_their_engine_and_reach_the_job(reader, media):
  page = reader()
  seen = lambda name: any(
    each.is_displayed() for each in page.browser.find_elements('css selector', f'#option_{name}')
  )
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
  find = (
    'const found = [...document.querySelectorAll(arguments[0] + " button")]'
    '.find(each => `${each.innerText} ${each.ariaLabel}`.includes(arguments[1])); '
  )
  press = lambda place, words: page.until(
    lambda: page.browser.execute_script(
      f'{find} found?.click(); return Boolean(found)', place, words
    )
  )
  for tab in page.browser.find_elements('css selector', 'button[role=tab]'):
    if tab.text == 'Camera':
      page.click(tab)
  press('#camera', 'Webcam')
  press('#camera', 'Record')
  page.until(
    lambda: page.browser.execute_script(f'{find} return Boolean(found)', '#camera', 'Stop')
  )
  time.sleep(2)
  press('#camera', 'Stop')
  page.says('#driving_words', 'webm: a clip of ')
  press('#shot', 'Webcam')
  page.until(
    lambda: page.browser.execute_script(
      'return document.querySelector("#shot video")?.currentTime > 0.5'
    )
  )
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
  fields = lambda: [
    each
    for each in first.browser.find_elements('css selector', '#option_seed input')
    if each.is_displayed()
  ]
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
  assert second.browser.execute_script(
    'return document.documentElement.scrollWidth <= window.innerWidth'
  ), 'nothing is cut'
  second.photograph('phone')
  assert first.text('#gallery') == 'nothing yet', 'results of others are not shown'
