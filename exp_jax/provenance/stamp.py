"""What every video of a result carries: the invisible mark in its frames, and content credentials
in the file.

The mark's identity is taken from the digests of settings and portrait, so that a clip and the
motion that was kept of it give the
same video. The record beside a video names its mark: a copy that lost its credentials can still be
traced to those records.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from exp_jax.files.digests import key_of
from exp_jax.provenance import mark
from exp_jax.provenance.credentials import OFF, Certificate, certificate, sign

# what a fit ends with, which no two processors agree on to the last digit
_NOT_SETTINGS = (
  'portrait_fit',
  'driving_fit',
  'tremble_pixels_at_512',
  'square',
  'driving',
  'seconds',
  'frames',
  'rate',
  'provenance',
)

UNSIGNED = (
  f'{OFF}: the video carries no content credentials and no mark; say yourself that it is synthetic'
)


def about(record: dict) -> dict:
  """What the credentials tell of a result.

  Args:
    record: of an animation: engine, options, digests.

  Returns:
    engine, settings_sha256, portrait_sha256 and driving_sha256 (where they are files or arrays that
    were digested), mark.
  """
  settings = {
    name: value
    for name, value in record.items()
    if name not in _NOT_SETTINGS and not name.endswith('_sha256')
  }
  told = {
    'engine': record.get('engine', 'unknown'),
    'settings_sha256': hashlib.sha256(
      json.dumps(settings, sort_keys=True, default=str).encode()
    ).hexdigest(),
  }
  told |= {
    f'{name}_sha256': record[key]
    for name, key in (('portrait', 'source_sha256'), ('driving', 'driving_sha256'))
    if isinstance(record.get(key), str)
  }
  whose = {name: value for name, value in told.items() if name != 'driving_sha256'}
  return told | {'mark': key_of(whose)[:6]}


class Stamp:
  """Marks the frames of one result and signs the videos made of them.

  Attributes:
    record: what it adds to the record of the result: `mark`, and whose `certificate` signed.

  Raises:
    UserError: there is no certificate and none can be made; raised before anything is drawn.
  """

  def __init__(self, record: dict):
    self._certificate: Certificate = certificate()
    self._about = about(record)
    self._square = mark.tile(self._about['mark'])
    self.record = {
      'mark': self._about['mark'],
      'certificate': 'self-made' if self._certificate.self_made else 'named',
    }

  def frames(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames, uint8 [H, W, 3], marked."""
    for frame in frames:
      yield mark.marked(frame, self._square)

  def sign(self, path: pathlib.Path) -> None:
    """Signs a finished video in its place."""
    sign(path, self._certificate, self._about)
