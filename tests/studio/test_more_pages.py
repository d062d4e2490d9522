"""The pages for editing, a camera, fits and training runs in a real browser, by a stand-in worker;
see test_page.py for its needs."""

import pytest

from tests.studio.browser import BROWSER, DRIVER
from tests.studio.stand_in import DRAWS

pytest.importorskip('selenium.webdriver')
pytest.importorskip('gradio')
pytestmark = pytest.mark.skipif(
  not (BROWSER and DRIVER), reason='`apt install chromium chromium-driver` brings the browser'
)


def turn_to(page, name):
  """Opens a tab of the page."""
  tab = lambda: next(
    (
      each
      for each in page.browser.find_elements('css selector', 'button[role=tab]')
      if each.text == name
    ),
    None,
  )
  found = tab()
  if found is None:  # on a phone, tabs that do not fit lie in a menu
    page.click(page.find('.overflow-menu > button'))
    found = page.until(
      lambda: next(
        (
          each
          for each in page.browser.find_elements('css selector', '.overflow-dropdown button')
          if each.text == name
        ),
        None,
      )
    )
  page.click(found)


def set_slider(page, place, value):
  """Types a number beside a slider."""
  field = page.until(lambda: page.find(f'#{place} input[type=number]'))
  page.browser.execute_script('arguments[0].scrollIntoView({block: "center"})', field)
  field.clear()
  field.send_keys(f'{value}\t')


def colour(page, place):
  """[r, g, b] of the middle of a picture on the page, or None while there is none."""
  return page.browser.execute_script(
    """
    const image = document.querySelector(arguments[0] + ' img');
    if (!image || !image.complete || !image.naturalWidth) return null;
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 1;
    const context = canvas.getContext('2d');
    context.drawImage(image, image.naturalWidth / 2, image.naturalHeight / 2, 1, 1, 0, 0, 1, 1);
    return Array.from(context.getImageData(0, 0, 1, 1).data.slice(0, 3));""",
    f'#{place}',
  )


def near(found, wanted):
  return found is not None and all(abs(a - b) < 8 for a, b in zip(found, wanted))


def test_the_first_second_is_seen_while_the_rest_is_drawn(reader, media):
  page = reader()
  page.give('portrait', media / 'me.png')
  page.says('#portrait_words', 'fitted head')
  page.give('driving', media / 'clip.mp4')
  page.says('#driving_words', 'clip.mp4')
  page.click(page.find('#options button'))
  seed = page.until(
    lambda: next(
      (
        each
        for each in page.browser.find_elements('css selector', '#option_seed input')
        if each.is_displayed()
      ),
      None,
    )
  )
  seed.clear()
  seed.send_keys(f'{DRAWS}\t')
  page.click(page.find('#animate'))
  page.says('#progress', 'drawing')
  page.says('#result', 'The first part of the result')
  page.until(
    lambda: (
      page.browser.execute_script('return document.querySelector("#result video").readyState') >= 1
    )
  )
  page.photograph('preview')
  page.click(page.find('#cancel'))  # the stand-in hangs after its first frame
  page.says('#progress', 'cancelled')


@pytest.mark.parametrize('size', [{}, {'width': 390, 'height': 844}])
def test_sliders_change_the_picture_and_are_saved(reader, media, size):
  page = reader(**size)
  turn_to(page, 'Edit')
  page.click(page.until(lambda: page.find('#edit_open')))
  page.says('#edit_words', 'give a portrait first')
  page.give('edit_source', media / 'me.png')
  page.until(lambda: '⇣' in page.text('#edit_source'))
  page.click(page.find('#edit_open'))
  page.says('#edit_words', 'Move the sliders')
  page.until(lambda: near(colour(page, 'edit_picture'), (100,) * 3))
  set_slider(page, 'edit_proxy_yaw', 30)
  page.until(lambda: near(colour(page, 'edit_picture'), (130,) * 3))
  page.photograph(f'edit_{size.get("width", "desktop")}')
  page.click(page.find('#edit_save'))
  page.until(lambda: '.npz' in page.text('#edit_files'))
  page.click(page.find('#edit_reset'))
  page.until(lambda: near(colour(page, 'edit_picture'), (100,) * 3))
  assert page.browser.execute_script(
    'return document.documentElement.scrollWidth <= window.innerWidth'
  ), 'nothing is cut'


def test_a_bad_portrait_and_a_bad_action_are_refused(reader, media):
  page = reader()
  turn_to(page, 'Edit')
  page.give('edit_source', media / 'postscript.jpg')
  page.until(lambda: '⇣' in page.text('#edit_source'))
  page.click(page.find('#edit_open'))
  page.says('#edit_words', 'is not an image that can be read')
  page.give('edit_source', media / 'me.png')
  page.until(lambda: '⇣' in page.text('#edit_source'))
  page.click(page.find('#edit_open'))
  page.says('#edit_words', 'Move the sliders')
  page.find('#edit_more input, #edit_more textarea').send_keys('nose')
  page.says('#edit_words', 'actions takes NAME=VALUE')


def test_a_camera_drives_a_portrait(reader, media):
  page = reader(more=('--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'))
  turn_to(page, 'Live')
  page.give('live_source', media / 'me.png')
  page.until(lambda: '⇣' in page.text('#live_source'))
  page.click(page.find('#live_open'))
  page.says('#live_words', 'Ready')
  press = lambda words: page.until(
    lambda: page.browser.execute_script(
      'const found = [...document.querySelectorAll("#live_camera button")]'
      '.find(each => `${each.innerText} ${each.ariaLabel}`.includes(arguments[0])); '
      'found?.click(); return Boolean(found)',
      words,
    )
  )
  press('Webcam')
  press('Record')
  page.says('#live_rate', '5.0 frames a second: landmarks 50 ms, drawing 150 ms')
  page.until(lambda: colour(page, 'live_picture'))
  page.photograph('live')
  press('Stop')
  page.click(page.find('#live_close'))
  page.says('#live_words', 'closed')


@pytest.mark.parametrize('size', [{}, {'width': 390, 'height': 844}])
def test_normals_frame_by_frame_with_and_without_what_moves(reader, media, size):
  page = reader(**size)
  turn_to(page, 'Fits')
  page.give('fit_source', media / 'clip.mp4')
  page.until(lambda: '⇣' in page.text('#fit_source'))
  page.click(page.find('#fit'))
  page.says('#fit_progress', '10 frames, 3 of them drawn')
  page.until(lambda: near(colour(page, 'fit_picture'), (200, 0, 40)))
  set_slider(page, 'fit_frame', 2)
  page.until(lambda: near(colour(page, 'fit_picture'), (200, 160, 40)))
  page.click(page.find('#fit_kind input[value=static]'))
  page.until(lambda: near(colour(page, 'fit_picture'), (20, 160, 40)))
  assert {each.text for each in page.browser.find_elements('css selector', '#fit_links a')} == {
    'subject file',
    'normals',
  }
  page.photograph(f'fits_{size.get("width", "desktop")}')


@pytest.mark.parametrize('size', [{}, {'width': 390, 'height': 844}])
def test_a_training_run_is_shown(reader, size):
  page = reader(**size)
  turn_to(page, 'Training')
  page.says('#run_page', 'goodput')
  assert len(page.browser.find_elements('css selector', '#run_page svg')) >= 3
  page.until(
    lambda: (
      page.browser.execute_script('return document.querySelector("#run_page img")?.naturalWidth')
      == 64
    )
  )
  page.photograph(f'training_{size.get("width", "desktop")}')
  assert page.browser.execute_script(
    'return document.documentElement.scrollWidth <= window.innerWidth'
  ), 'nothing is cut'
