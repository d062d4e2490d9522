"""The seal of a directory is that of its manifest, by whatever kind of path it is named."""

import hashlib

import pytest

from exp_jax.files import manifest


@pytest.mark.parametrize('kind', (str, lambda path: path), ids=('str', 'path'))
def test_the_seal_is_the_manifests_digest(tmp_path, kind):
  with manifest.new_folder(tmp_path / 'export') as folder:
    (folder / 'params').write_bytes(b'numbers')
  expected = hashlib.sha256((tmp_path / 'export' / 'manifest.json').read_bytes()).hexdigest()
  assert manifest.seal(kind(tmp_path / 'export')) == expected
