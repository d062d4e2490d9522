"""Where files of the package and fetched files are, in a checkout and in an installed copy."""

import pathlib
import sys

import pytest

from exp_jax.errors import UserError
from exp_jax.files import resources

ROOT = pathlib.Path(__file__).parents[2]
VARIABLES = ('EXP_JAX_HOME', 'EXP_JAX_ASSETS', 'XDG_CACHE_HOME', 'LOCALAPPDATA')


@pytest.fixture(autouse=True)
def unset(monkeypatch):
  for name in VARIABLES:
    monkeypatch.delenv(name, raising=False)


@pytest.fixture
def installed(tmp_path, monkeypatch):
  """A package folder as pip leaves it, in which the program looks for its files."""
  package = tmp_path / 'site-packages' / 'exp_jax'
  (package / 'configs').mkdir(parents=True)
  (package / 'configs' / 'vae.py').write_text('packaged')
  (package / 'requirements-mediapipe.txt').touch()
  monkeypatch.setattr(resources, 'package_folder', lambda: package)
  monkeypatch.chdir(tmp_path)
  return package


def test_this_is_a_checkout():
  assert (
    resources.checkout() == ROOT
    and resources.home() == ROOT
    and resources.assets() == ROOT / 'assets'
  )
  assert resources.setup_command() == '`make setup`'
  assert (
    resources.package_file('heads', 'makehuman_landmarks.npz').parent == ROOT / 'exp_jax' / 'heads'
  )
  assert resources.top_level_file('configs') == ROOT / 'configs'


def test_an_installed_copy_uses_the_users_cache(installed, tmp_path, monkeypatch):
  monkeypatch.setattr(pathlib.Path, 'home', lambda: tmp_path)
  assert resources.checkout() is None and resources.setup_command() == '`exp-jax setup`'
  for platform, folder in (
    ('linux', '.cache'),
    ('darwin', 'Library/Caches'),
    ('win32', 'AppData/Local'),
  ):
    monkeypatch.setattr(sys, 'platform', platform)
    assert (
      resources.home() == tmp_path / folder / 'exp_jax'
      and resources.assets() == resources.home() / 'assets'
    )
  monkeypatch.setattr(sys, 'platform', 'linux')
  monkeypatch.setenv('XDG_CACHE_HOME', '/elsewhere')
  assert resources.home() == pathlib.Path('/elsewhere/exp_jax')
  monkeypatch.setenv('XDG_CACHE_HOME', 'relative')  # not valid by the XDG specification
  assert resources.home() == tmp_path / '.cache' / 'exp_jax'


def test_a_source_tree_with_an_old_build_in_it_is_an_installed_copy_to_that_build(
  tmp_path, monkeypatch
):
  """A package folder without configs/ beside it is none either: some folder of the user's."""
  (tmp_path / 'exp_jax').mkdir()
  monkeypatch.setattr(resources, 'package_folder', lambda: tmp_path / 'exp_jax')
  assert resources.checkout() is None
  (tmp_path / 'configs').mkdir()
  assert resources.checkout() == tmp_path
  (tmp_path / 'exp_jax' / 'configs').mkdir()
  assert resources.checkout() is None


def test_variables_rule_in_a_checkout_too(monkeypatch, tmp_path):
  monkeypatch.setenv('EXP_JAX_HOME', str(tmp_path))
  assert resources.home() == tmp_path and resources.assets() == tmp_path / 'assets'
  monkeypatch.setenv('EXP_JAX_ASSETS', str(tmp_path / 'own'))
  assert resources.home() == tmp_path and resources.assets() == tmp_path / 'own'
  monkeypatch.setenv('EXP_JAX_HOME', '~/here')
  assert resources.home() == pathlib.Path.home() / 'here'


def test_a_config_is_the_users_file_or_the_packages_own(installed, tmp_path):
  for name in ('vae.py', 'configs/vae.py'):
    assert resources.config_file(name) == installed / 'configs' / 'vae.py'
  (tmp_path / 'vae.py').write_text('of the user')
  assert resources.config_file('vae.py').read_text() == 'of the user'
  assert resources.config_file('configs/vae.py').read_text() == 'packaged'
  for name in ('other/vae.py', '../configs/vae.py', 'vae', '', 'configs'):
    with pytest.raises(UserError, match='no config file.*the package has vae.py'):
      resources.config_file(name)


def test_a_file_that_the_package_lacks_is_named(installed):
  with pytest.raises(UserError, match='lacks embedded/dit: install it again'):
    resources.package_file('embedded', 'dit')
  (installed / 'requirements-mediapipe.txt').unlink()
  with pytest.raises(UserError, match='requirements-mediapipe.txt'):
    resources.top_level_file('requirements-mediapipe.txt')
