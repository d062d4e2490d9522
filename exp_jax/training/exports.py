"""Exports: the averaged parameters of a run in bfloat16, with the config that tells what they are.

  DIR/config.json     the resolved config
  DIR/params/         parameters, by Orbax
  DIR/manifest.json, commit.json   digests of all files and their mark, written last, verified before use
"""

import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from exp_jax.errors import UserError
from exp_jax.training import integrity


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


def write_export(path, config, params, *, dtype: str = 'bfloat16') -> None:
  """Writes an export atomically: it appears under its name when it is complete.

  Raises:
    UserError: if `path` exists already.
  """
  import orbax.checkpoint as ocp
  path = pathlib.Path(path)
  if path.exists():
    raise UserError(f'{path} exists already: choose another name or move it away')
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  temporary.mkdir(parents=True)
  try:
    (temporary / 'config.json').write_text(config_to_json(config))
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(temporary.absolute() / 'params',
                        jax.tree.map(lambda x: jnp.asarray(x, dtype), params))
      checkpointer.wait_until_finished()
    integrity.write_manifest(temporary)
    os.replace(temporary, path)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def read_arrays(path: pathlib.Path):
  """The tree of arrays that Orbax stored at `path`, on one device of this host, whatever devices it was saved from."""
  import orbax.checkpoint as ocp
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  with ocp.StandardCheckpointer() as checkpointer:
    stored = checkpointer.metadata(path.absolute()).item_metadata.tree
    return checkpointer.restore(path.absolute(), jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), stored))


def load_export(path) -> tuple[ml_collections.ConfigDict, dict]:
  """(config, params as float32 numpy arrays) of an export, every digest verified.

  Raises:
    UserError: if there is no export at `path`, or any of its files is not as written.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    raise UserError(f'there is no export at {path}: make one with `python -m exp_jax.export`')
  problem = integrity.problem(path)
  if problem:
    raise UserError(f'the export {path} cannot be used: {problem}')
  params = jax.tree.map(lambda x: np.asarray(x, np.float32), read_arrays(path / 'params'))
  return config_from_json((path / 'config.json').read_text()), params


def write_safetensors(path) -> pathlib.Path:
  """Adds `params.safetensors` (names joined by dots, float32) beside a verified export, for
  release."""
  from safetensors.numpy import save_file
  _, params = load_export(path)
  flat = {'.'.join(k.key for k in keys): np.ascontiguousarray(leaf)
          for keys, leaf in jax.tree_util.tree_leaves_with_path(params)}
  output = pathlib.Path(path) / 'params.safetensors'
  save_file(flat, output)
  return output
