"""Names in two Unicode forms are one name."""

import unicodedata

import pytest

from exp_jax.files.names import existing, normal
from exp_jax.metrics.evaluation.pairs import find_pairs

NAMES = 'Ren\u00e9', 'Rene\u0301', 'plain', '\uac00'


@pytest.mark.parametrize('name', NAMES)
def test_a_file_is_found_in_the_other_form(tmp_path, name):
  for form in ('NFC', 'NFD'):
    folder = tmp_path / form
    folder.mkdir()
    written = folder / unicodedata.normalize(form, f'{name}.npz')
    written.touch()
    for asked in ('NFC', 'NFD'):
      assert existing(folder / unicodedata.normalize(asked, f'{name}.npz')) == written
  missing = tmp_path / 'nowhere' / f'{name}.npz'
  assert existing(missing) == missing and normal(NAMES[0]) == normal(NAMES[1])


def test_results_and_truths_are_paired_across_forms(tmp_path):
  for folder, form in (('results', 'NFC'), ('truths', 'NFD')):
    (tmp_path / folder).mkdir()
    for name in NAMES[::2]:
      (tmp_path / folder / unicodedata.normalize(form, f'{name}.mp4')).touch()
  assert [pair.name for pair in find_pairs(tmp_path / 'results', tmp_path / 'truths')] == sorted(
    map(normal, NAMES[::2])
  )
  (tmp_path / 'results' / unicodedata.normalize('NFD', f'{NAMES[0]}.mp4')).touch()
  with pytest.raises(ValueError, match='which generated video is meant'):
    find_pairs(tmp_path / 'results', tmp_path / 'truths')
