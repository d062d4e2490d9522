"""Files in dlib's format: what is read is what was written, and what is damaged is one sentence."""

import numpy as np
import pytest

from exp_jax.convert import metrics
from exp_jax.convert.metric_weights.dlib_files import read_dlib_face
from exp_jax.convert.metric_weights.metrics_tables import TABLES
from exp_jax.errors import UserError
from tests.golden.dlib_writer import dlib_bytes, floats, integer, integers, number, shapes, text
from tests.golden.named_weights import named_weights

WEIGHTS = named_weights(shapes('tiny'))
FILE = dlib_bytes(WEIGHTS, 'tiny')


def read(content):
  return read_dlib_face(content, 'face.dat', variant='tiny')


def refused(content, words):
  with pytest.raises(UserError, match=words) as caught:
    read(content)
  said = str(caught.value)
  assert (
    said.startswith('face.dat') and 'get it again' in said and '\n' not in said and len(said) < 300
  )


def test_what_is_read_is_what_was_written():
  found = read(FILE)
  assert set(found) == set(WEIGHTS)
  for name, value in WEIGHTS.items():
    np.testing.assert_array_equal(found[name], value)


def test_folding_the_affine_layers_leaves_the_function_as_it_was():
  sizes, book, _ = TABLES['dlib'](read(FILE), 'face.dat')
  assert sizes == {'variant': 'tiny'}
  x = np.random.default_rng(0).normal(size=(3, 3, 32))
  parts = {
    part: WEIGHTS[f'stage0_0.conv1.{part}'].astype(np.float64)
    for part in ('weight', 'bias', 'scale', 'shift')
  }
  plain = np.einsum('oihw,hwi->o', parts['weight'], x) + parts['bias']
  folded = (
    np.einsum('hwio,hwi->o', book.leaves['stage0_0.conv1.kernel'], x)
    + book.leaves['stage0_0.conv1.bias']
  )
  np.testing.assert_allclose(folded, parts['scale'] * plain + parts['shift'], atol=1e-5)


def test_truncated_files_are_one_sentence():
  steps = [*range(0, 400, 7), *np.linspace(400, len(FILE) - 1, 60).astype(int)]
  for length in steps:
    refused(FILE[:length], 'bytes? ')
  refused(FILE + b'0', '1 bytes are left over')


def test_changed_bytes_never_do_more_than_change_a_weight():
  """Every byte about the structure and a hundred of the weights, each changed in one bit and
  to 255."""
  begin = FILE.index(floats(WEIGHTS['conv.weight'][0, 0, 0]))
  rng, seen = np.random.default_rng(0), 0
  for at in [*range(begin), *rng.integers(begin, len(FILE), 100)]:
    for value in (FILE[at] ^ 1 << rng.integers(8), 255):
      content = bytearray(FILE)
      content[at] = value
      try:
        found = read(bytes(content))
        assert all(
          np.isfinite(found[name]).all() and found[name].shape == WEIGHTS[name].shape
          for name in WEIGHTS
        )
      except UserError:
        seen += 1
  assert seen > begin  # most of the structure is compared


@pytest.mark.parametrize(
  'old, new, words',
  [
    (text('con_4'), text('con_9'), 'con_9 where con_4 or con_5'),
    (text('fc_2'), text('fc_3'), 'fc_3 where fc_2'),
    (text('affine_'), text('bn_con2'), 'bn_con2 where affine_'),
    (text('loss_metric_2'), integer(2**40), 'a text of 1099511627776 bytes'),
    (
      integers(2, 32 * 3 * 49 + 32, 1, 1, 1),
      integers(2, 2**50, 1, 1, 1),
      'a length of conv is 1125899906842624, not 4736',
    ),
    (
      integers(2, 32 * 3 * 49 + 32, 1, 1, 1),
      integers(2, -4736, 1, 1, 1),
      'a length of conv is -4736',
    ),
    (
      text('input_rgb_image_sized') + number(122.782),
      text('input_rgb_image_sized') + number(100),
      'the mean of red is 100.0',
    ),
    (number(122.782), integer(1) + integer(32002), 'no finite number'),
    (b'110', b'1x0', 'neither 0 nor 1'),
    (number(0.04), b'\0' + integer(-28), 'an integer of 0 bytes'),
    (number(0.04), b'\x09' + bytes(9) + integer(0), 'of 9 bytes'),
  ],
  ids=lambda value: value if isinstance(value, str) else '',
)
def test_other_networks_and_impossible_sizes_are_named(old, new, words):
  assert old in FILE
  refused(FILE.replace(old, new, 1), words)


def test_numbers_that_are_none_and_files_that_are_too_large_are_refused():
  weights = WEIGHTS | {'fc.weight': np.full_like(WEIGHTS['fc.weight'], np.nan)}
  refused(dlib_bytes(weights, 'tiny'), 'fc holds numbers that are not finite')
  refused(bytes(2**26 + 1), '67108865 bytes')
  refused(b'', 'version of the loss')


def test_the_command_says_one_sentence(tmp_path, capsys):
  (tmp_path / 'face.dat').write_bytes(FILE)  # not of the published sizes
  for name, words in (('face.dat', 'not dlib'), ('nowhere.dat', 'no such file')):
    with pytest.raises(SystemExit) as ended:
      metrics.main(['dlib', str(tmp_path / name), '-o', str(tmp_path / 'out')])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and words in error and error.count('\n') == 1
  assert not (tmp_path / 'out').exists()
