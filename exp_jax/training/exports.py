"""Exports: the averaged parameters of a run in bfloat16, with the config that tells what they are.

DIR/config.json     the resolved config
DIR/params/         parameters, by Orbax; in a release DIR/params.safetensors instead, names joined by dots
DIR/manifest.json, commit.json   digests of all files and their mark, written last, verified before use
"""

import functools
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from exp_jax.errors import UserError
from exp_jax.files import manifest
from exp_jax.files.atomic import check_room, replacing
from exp_jax.files.safetensors import SafetensorsFile
from exp_jax.training.checkpoints import forget_places

RELEASE = 'params.safetensors'
_NEEDED = ('vae', 'path'), ('condition', 'clip_weights')
_EMBEDDED = 'embedded'  # as a path: what ships with the package, wherever that is
_AROUND = (
  65_536  # bytes of an export beside its parameters: Orbax's tables, the config, the manifest
)


def config_to_json(config) -> str:
  """A ConfigDict as JSON, keys sorted; tuples become lists (see `config_from_json`)."""
  return json.dumps(config.to_dict(), indent=1, sort_keys=True) + '\n'


def _tuples(value):
  if isinstance(value, list):
    return tuple(_tuples(v) for v in value)
  return {k: _tuples(v) for k, v in value.items()} if isinstance(value, dict) else value


def config_from_json(text: str) -> ml_collections.ConfigDict:
  """The config again, locked; every list comes back as the tuple it was."""
  return ml_collections.ConfigDict(_tuples(json.loads(text))).lock()


def without_places(config, output: str | os.PathLike) -> ml_collections.ConfigDict:
  """The config of a run without the paths of its maker's machine.

  What an export needs when it is loaded, the autoencoder and the CLIP tower, is named relative to
  `output`; other paths are emptied.
  """
  found = config.copy_and_resolve_references().unlock()
  for section, name in _NEEDED:
    if found.get(section) and found[section].get(name) not in (None, '', _EMBEDDED):
      found[section][name] = os.path.relpath(found[section][name], output)
  for section in found.values():
    for name, value in section.items() if isinstance(section, ml_collections.ConfigDict) else ():
      if isinstance(value, str) and (
        name == 'path' and section is not found.get('vae') or os.path.isabs(value)
      ):
        section[name] = ''
  return found.lock()


def write_export(
  path,
  config,
  params,
  *,
  dtype: str = 'bfloat16',
  files: dict | None = None,
  texts: dict[str, str] | None = None,
) -> None:
  """Writes an export atomically: it appears under its name when it is complete.

  Args:
    files: copied into it, name -> path.
    texts: written into it, name -> content.

  Raises:
    UserError: if `path` exists already, or there is no room for it.
  """
  import orbax.checkpoint as ocp

  size = sum(leaf.size for leaf in jax.tree.leaves(params)) * jnp.dtype(dtype).itemsize
  # Orbax's threads end in tracebacks of their own on a full disk
  check_room(pathlib.Path(path).parent, size + _AROUND)
  with manifest.new_folder(path) as folder:
    (folder / 'config.json').write_text(config_to_json(config))
    for name, source in (files or {}).items():
      shutil.copyfile(source, folder / name)
    for name, text in (texts or {}).items():
      (folder / name).write_text(text)
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(
        folder.absolute() / 'params', jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
      )
      checkpointer.wait_until_finished()
    forget_places(folder)


def read_arrays(path: pathlib.Path):
  """The tree of arrays that Orbax stored at `path`, on one device of this host, whatever devices it
  was saved from."""
  import orbax.checkpoint as ocp

  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  with ocp.StandardCheckpointer() as checkpointer:
    stored = checkpointer.metadata(path.absolute()).item_metadata.tree
    return checkpointer.restore(
      path.absolute(),
      jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), stored),
    )


def load_export(path) -> tuple[ml_collections.ConfigDict, dict]:
  """(config, params as float32 numpy arrays) of an export, every digest verified.

  Raises:
    UserError: if there is no export at `path`, or any of its files is not as written.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    raise UserError(f'there is no export at {path}: make one with `python -m exp_jax.export`')
  problem = manifest.problem(path)
  if problem:
    raise UserError(f'the export {path} cannot be used: {problem}')
  tree = (
    read_arrays(path / 'params')
    if (path / 'params').is_dir()
    else _nested(_read_release(path / RELEASE))
  )
  params = jax.tree.map(lambda x: np.asarray(x, np.float32), tree)
  return config_from_json((path / 'config.json').read_text()), params


def _read_release(path: pathlib.Path) -> dict:
  with SafetensorsFile(path) as file:
    return {name: file.read(name) for name in file.names}


def _nested(flat: dict) -> dict:
  tree: dict = {}
  for name, leaf in flat.items():
    *folders, last = name.split('.')
    into = tree
    for folder in folders:
      into = into.setdefault(folder, {})
    into[last] = leaf
  return tree


def _flat(params, dtype) -> dict:
  return {
    '.'.join(k.key for k in keys): jnp.asarray(leaf, dtype)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params)
  }


def write_release(path, output, **changes) -> None:
  """An export as one bfloat16 safetensors file with its config: small, plain, read by `load_export`
  like any other; atomic.

  Args:
    path: an export. output: a folder that does not exist.
    changes: values of the config by dotted key, such as {'vae.path': 'vae'}: paths of the maker's
      machine say nothing elsewhere.

  Raises:
    UserError: the export cannot be used, or `output` exists already.
  """
  from safetensors.flax import save_file

  config, params = load_export(path)
  config = config.copy_and_resolve_references().unlock()
  for key, value in changes.items():
    *sections, last = key.split('.')
    functools.reduce(lambda section, name: section[name], sections, config)[last] = value
  with manifest.new_folder(output) as folder:
    (folder / 'config.json').write_text(config_to_json(config.lock()))
    own = ('config.json', manifest.MANIFEST, manifest.COMMIT)
    for more in sorted(
      p for p in pathlib.Path(path).iterdir() if p.suffix in ('.npz', '.json') and p.name not in own
    ):
      shutil.copyfile(more, folder / more.name)
    save_file(_flat(params, jnp.bfloat16), folder / RELEASE)
    (folder / RELEASE).chmod(0o644)  # it is written for its owner alone


def write_safetensors(path) -> pathlib.Path:
  """Adds `params.safetensors` (names joined by dots, float32) beside a verified export, for
  release."""
  from safetensors.flax import save_file

  _, params = load_export(path)
  output = pathlib.Path(path) / RELEASE
  with replacing(output) as partial:
    save_file(_flat(params, jnp.float32), partial)
  output.chmod(0o644)  # it is written for its owner alone
  return output
