"""Training checkpoints: Orbax arrays, the data iterator's state, and a manifest of digests.

  DIR/00000120/state/         parameters, optimizer, average and step, by Orbax
  DIR/00000120/data_0.json    the data iterator of process 0 (one file per process)
  DIR/00000120/manifest.json  SHA-256 of all of the above, written last

A step counts only with its manifest; it is verified before it is restored, and a damaged one is passed over,
loudly, for the newest one that is whole.
"""

import dataclasses
import json
import pathlib
import shutil
import sys

import jax
from jax.experimental import multihost_utils

from exp_jax.errors import UserError
from exp_jax.training import integrity


def _barrier(name: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


@dataclasses.dataclass(frozen=True)
class Checkpoints:
  """The checkpoints of one run. `keep` newest whole ones stay on disk."""
  directory: pathlib.Path
  keep: int = 2

  def steps(self) -> list[int]:
    """Finished steps, ascending; their content is not verified here."""
    return sorted(int(p.parent.name) for p in self.directory.glob(f'*/{integrity.MANIFEST}')
                  if p.parent.name.isdigit())

  def _path(self, step: int) -> pathlib.Path:
    return self.directory / f'{step:08d}'

  def save(self, step: int, state, data_state: dict) -> None:
    """Returns when the step is on disk and digested. Saving a finished step again does nothing."""
    import orbax.checkpoint as ocp
    path = self._path(step)
    if step in self.steps():
      return
    if jax.process_index() == 0:
      shutil.rmtree(path, ignore_errors=True)                 # left by a killed save
      path.mkdir(parents=True)
    _barrier(f'checkpoint {step} begins')
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(path.absolute() / 'state', state)
      checkpointer.wait_until_finished()
    integrity.write_atomically(path / f'data_{jax.process_index()}.json', json.dumps(data_state))
    _barrier(f'checkpoint {step} written')
    if jax.process_index() == 0:
      integrity.write_manifest(path)
      for old in self.steps()[:-self.keep]:
        shutil.rmtree(self._path(old))
    _barrier(f'checkpoint {step} finished')

  def latest_verified(self) -> int | None:
    """The newest step whose every file is as it was written; None if the run has no checkpoint.

    Raises:
      UserError: if there are checkpoints and all are damaged: starting over would hide the loss.
    """
    steps = self.steps()
    for step in reversed(steps):
      problem = integrity.problem(self._path(step))
      if problem is None:
        return step
      print(f'warning: checkpoint {self._path(step)} is passed over: {problem}', file=sys.stderr)
    if steps:
      raise UserError(f'every checkpoint in {self.directory} is damaged; '
                      'move the directory away to start over')
    return None

  def restore(self, step: int, like) -> tuple[object, dict]:
    """(state, data state) of a verified step.

    `like` is a tree of arrays or ShapeDtypeStructs with shardings: state comes back in that layout.

    Raises:
      UserError: if the state has another shape, or the run had another number of processes.
    """
    import orbax.checkpoint as ocp
    path = self._path(step)
    try:
      with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(path.absolute() / 'state', like)
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(f'{path} does not fit this config (other sizes or optimizer): use another '
                      f'--workdir, or the config it was made with ({str(error)[:200]})') from error
    data = path / f'data_{jax.process_index()}.json'
    if not data.exists() or len(list(path.glob('data_*.json'))) != jax.process_count():
      raise UserError(f'{path} was written by {len(list(path.glob("data_*.json")))} processes, '
                      f'this run has {jax.process_count()}: start it with the same number')
    return state, json.loads(data.read_text())
