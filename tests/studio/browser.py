"""A person before the page, in a headless Chromium; and the server that shows it, with a stand-in
worker.

apt install chromium chromium-driver
pip install gradio selenium
"""

import base64
import os
import pathlib
import re
import shutil
import time

BROWSER, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')
ROOT = pathlib.Path(__file__).parents[2]
SERVER = """
import sys
from exp_jax.studio import manager
from tests.studio.stand_in import COMMAND
manager.Studio.__init__.__kwdefaults__['command'] = COMMAND
from exp_jax.studio.app import main
sys.exit(main())
"""
FLAGS = (
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
)


class Reader:
  """A person before the page."""

  def __init__(self, address, profile, width=1200, height=1500, more=()):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, *more, f'--user-data-dir={profile}', f'--window-size={width},{height}'):
      options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL'})
    self.browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    if width < 500:  # headless windows are not narrower than 500 pixels
      self.browser.execute_cdp_cmd(
        'Emulation.setDeviceMetricsOverride',
        {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': True},
      )
    self.browser.get(address)
    self.until(lambda: self.find('#animate'))

  def find(self, place):
    found = self.browser.find_elements('css selector', place)
    return found[0] if found else None

  def text(self, place):
    try:
      element = self.find(place)
      return element.text if element else ''
    except Exception:  # it was drawn anew meanwhile
      return ''

  def give(self, place, path):
    """Drops a file."""
    old = self.find(
      f'#{place} button[aria-label="Clear"], #{place} button[aria-label="Remove this file"]'
    )
    if old:
      self.click(old)
      self.until(lambda: self.find(f'#{place} input[type=file]'))
    self.find(f'#{place} input[type=file]').send_keys(str(path))

  def click(self, element):
    self.browser.execute_script(
      'arguments[0].scrollIntoView({block: "center"}); arguments[0].click()', element
    )

  def until(self, answer, seconds=90):
    end = time.monotonic() + seconds
    while not (found := answer()):
      if time.monotonic() > end:
        self.photograph('failed')
        raise AssertionError(self.browser.find_element('tag name', 'body').text[:4000])
      time.sleep(0.1)
    return found

  def says(self, place, words):
    self.until(lambda: words in self.text(place))

  def photograph(self, name):
    if folder := os.environ.get('EXP_JAX_SCREENSHOTS'):
      pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
      height = self.browser.execute_script('return document.documentElement.scrollHeight')
      width = self.browser.execute_script('return window.innerWidth')
      shot = self.browser.execute_cdp_cmd(
        'Page.captureScreenshot',
        {
          'captureBeyondViewport': True,
          'clip': {'x': 0, 'y': 0, 'width': width, 'height': min(height, 4000), 'scale': 1},
        },
      )
      (pathlib.Path(folder) / f'{name}.png').write_bytes(base64.b64decode(shot['data']))

  def asked_for(self):
    """Addresses of all requests of the page so far."""
    return {
      found
      for entry in self.browser.get_log('performance')
      for found in re.findall(r'"documentURL":"[^"]*".*?"url":"([^"]+)"', entry['message'])
    }
