"""The TFDS builder: encoded bytes in, the same bytes out, subjects never in two splits."""

import pathlib
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def builder_class():
  tfds = pytest.importorskip('tensorflow_datasets')
  sys.path.insert(0, str(ROOT / 'datasets'))
  try:
    from actors.actors_dataset_builder import Builder
  finally:
    sys.path.remove(str(ROOT / 'datasets'))
  return Builder, tfds


def test_build_and_read_back(builder_class, tmp_path):
  Builder, tfds = builder_class
  names = [f'actor_{k:05d}' for k in range(14)]
  for kind, ending in (('clips', 'mp4'), ('truth', 'npz'), ('mattes', 'npz')):
    (tmp_path / 'made' / kind).mkdir(parents=True)
    for name in names:
      (tmp_path / 'made' / kind / f'{name}.{ending}').write_bytes(f'{kind} of {name}\0'.encode())
  builder = Builder(data_dir=str(tmp_path / 'data'), file_format='array_record')
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(manual_dir=str(tmp_path / 'made'))
  )
  seen = {}
  for split in ('train', 'test'):
    for record in builder.as_data_source(split):
      name = record['subject_id']
      name = name.decode() if isinstance(name, bytes) else str(np.asarray(name))
      assert seen.setdefault(name, split) == split
      assert bytes(record['video']) == f'clips of {name}\0'.encode()
      assert bytes(record['maps']) == f'mattes of {name}\0'.encode()
  assert sorted(seen) == names and set(seen.values()) == {'train', 'test'}


def test_an_empty_folder_says_what_to_do(builder_class, tmp_path):
  Builder, tfds = builder_class
  (tmp_path / 'made').mkdir()
  builder = Builder(data_dir=str(tmp_path / 'data'), file_format='array_record')
  with pytest.raises(AssertionError, match='exp_jax.actors'):
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir=str(tmp_path / 'made'))
    )
