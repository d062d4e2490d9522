"""Training checkpoints: Orbax arrays, the position in the data, and a manifest of digests.

  DIR/00000120/state/         parameters, optimizer, average and step, by Orbax
  DIR/00000120/data.json      the position in the data; the same for any number of processes
  DIR/00000120/manifest.json  size and SHA-256 of all of the above
  DIR/00000120/commit.json    the mark of completion, written last
  DIR/00000120/unfinished     there while a save is under way
  DIR/frozen/                 parameters that are not trained, saved once, in the same form

Arrays are copied to the host at once and written while training goes on. A step counts only with
its mark; all its bytes are verified before it is restored, and a damaged one is passed over,
loudly, for the newest that is whole.
"""

import json
import pathlib
import shutil
import sys
import threading

import jax
import numpy as np
from jax.experimental import multihost_utils

from exp_jax.errors import UserError, one_line
from exp_jax.files import atomic, manifest

UNFINISHED, FROZEN = 'unfinished', 'frozen'
_NONE, _ALL_DAMAGED = -1, -2


def forget_places(folder: pathlib.Path) -> None:
  """Empties the marks in which Orbax notes the path that it wrote to; that they are there is what
  counts."""
  for mark in folder.rglob('commit_success.txt'):
    mark.write_text('')


class SaveFailed(Exception):
  """A checkpoint could not be written. Older ones are untouched; what was half-written is gone."""


def _barrier(name: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _agreed(number: int) -> int:
  """The number of process 0, in every process."""
  if jax.process_count() == 1:
    return number
  return int(multihost_utils.broadcast_one_to_all(np.asarray(number, np.int32)))


def _one_line(error: BaseException) -> str:
  return ' '.join(str(error).split())[:300] or type(error).__name__


class Checkpoints:
  """The checkpoints of one run. The `keep` newest whole ones stay on disk.

  One save is under way at a time, in a thread; `check` and every other method raise `SaveFailed` if
  it went wrong.
  """

  def __init__(self, directory: pathlib.Path, keep: int = 2):
    self.directory, self.keep = pathlib.Path(directory), keep
    self._thread: threading.Thread | None = None
    self._error: BaseException | None = None
    self._damaged: set[int] = set()  # seen by this process
    self._saving = 0

  def steps(self) -> list[int]:
    """Finished steps, ascending; their content is not verified here."""
    return sorted(
      int(p.parent.name)
      for p in self.directory.glob(f'*/{manifest.COMMIT}')
      if p.parent.name.isdigit()
    )

  def _path(self, step: int) -> pathlib.Path:
    return self.directory / f'{step:08d}'

  def save(self, step: int, state, data_state: dict) -> None:
    """Returns when `state` may be donated; the writing goes on.

    A finished, sound step is not saved again.

    Raises:
      SaveFailed: if this save cannot begin, or an earlier one went wrong meanwhile.
    """
    self.wait()
    if _agreed(int(step in self.steps() and step not in self._damaged)):
      return
    self._saving, path = step, self._path(step)
    checkpointer = self._begin(path, state, json.dumps(data_state))
    self._thread = threading.Thread(
      target=self.finish, args=(path, checkpointer), name=f'save {step}', daemon=True
    )
    self._thread.start()

  def save_frozen(self, params) -> None:
    """Saves what is not trained, once per run; returns when it is on disk."""
    self.wait()
    path = self.directory / FROZEN
    if not _agreed(int(manifest.is_sealed(path))):
      self.finish(path, self._begin(path, params, '{}'))
      self.check()
    _barrier('frozen parameters are saved')

  def _begin(self, path: pathlib.Path, tree, data: str):
    """Makes the folder and hands the arrays to Orbax, which copies them to the host before it
    returns."""
    import orbax.checkpoint as ocp

    try:
      if jax.process_index() == 0:
        atomic.remove_folder(path)  # left by a killed save, or damaged
        with atomic.new_folder(path) as new:
          (new / UNFINISHED).touch()
          (new / 'data.json').write_text(data)
      _barrier(f'{path.name} begins')
      checkpointer = ocp.StandardCheckpointer()
      checkpointer.save(path.absolute() / 'state', tree)
      return checkpointer
    except Exception as error:
      self._discard(path)
      raise SaveFailed(f'the checkpoint {path} could not be written: {_one_line(error)}') from error

  def finish(self, path: pathlib.Path, checkpointer) -> None:
    try:
      checkpointer.wait_until_finished()  # of all processes
      checkpointer.close()
      if jax.process_index() == 0:
        forget_places(path)
        manifest.write_manifest(path, without=(UNFINISHED,))
        (path / UNFINISHED).unlink()
        if path.name.isdigit():
          self._damaged.discard(int(path.name))
          self._prune()
    except BaseException as error:
      self._error = error
      self._discard(path)

  def _discard(self, path: pathlib.Path) -> None:
    if jax.process_index() == 0 and not manifest.is_sealed(path):
      atomic.remove_folder(path)  # a full disk gets its room back

  def _prune(self) -> None:
    """Deletes what is older than the `keep` newest steps that are not known or seen to be
    damaged."""
    sound = [
      s
      for s in self.steps()
      if s not in self._damaged and manifest.problem(self._path(s), sizes_only=True) is None
    ]
    for step in sound[: -self.keep]:
      atomic.remove_folder(self._path(step))

  def check(self) -> None:
    """Raises SaveFailed if the save under way has gone wrong; does not wait."""
    if self._error is not None:
      error, self._error = self._error, None
      raise SaveFailed(
        f'the checkpoint of step {self._saving} in {self.directory} could not be written: '
        f'{_one_line(error)}'
      ) from error

  def wait(self) -> None:
    """Returns when nothing is under way; raises SaveFailed if it went wrong."""
    if self._thread is not None:
      self._thread.join()
      self._thread = None
    self.check()

  def clear_unfinished(self) -> None:
    """Removes what killed saves left.

    Folders without our sign of a save under way are never touched.
    """
    if jax.process_index() == 0:
      for left in filter(atomic.is_partial, self.directory.glob('*')):
        shutil.rmtree(left, ignore_errors=True)
      for sign in self.directory.glob(f'*/{UNFINISHED}'):
        if not manifest.is_sealed(sign.parent):
          print(
            f'note: {sign.parent} was not finished by the run before and is removed',
            file=sys.stderr,
          )
          atomic.remove_folder(sign.parent)

  def latest_verified(self) -> int | None:
    """The newest step whose every file is as it was written; None if the run has no checkpoint.

    Process 0 reads and decides for all.

    Raises:
      Damaged: if there are checkpoints and all are damaged: starting over would hide the loss.
    """
    found = _agreed(self._newest_sound() if jax.process_index() == 0 else _NONE)
    if found == _ALL_DAMAGED:
      raise manifest.Damaged(
        f'every checkpoint in {self.directory} is damaged; restore one from a copy, or move the '
        'directory away to start over'
      )
    return None if found == _NONE else found

  def _newest_sound(self) -> int:
    folders = sorted(
      (
        p
        for p in self.directory.glob('*')
        if p.name.isdigit() and not ((p / UNFINISHED).exists() and not manifest.is_sealed(p))
      ),
      reverse=True,
    )
    for path in folders:
      words = manifest.problem(path)
      if words is None:
        return int(path.name)
      self._damaged.add(int(path.name))
      print(one_line(f'warning: checkpoint {path} is passed over: {words}'), file=sys.stderr)
    return _ALL_DAMAGED if folders else _NONE

  def restore(self, step: int, like) -> tuple[object, dict]:
    """(state, data state) of a verified step.

    `like` is a tree of ShapeDtypeStructs with shardings: state comes back in that layout, whatever
    it was saved from.

    Raises:
      UserError: if the state has another shape.
    """
    path = self._path(step)
    return self._restore(path, like), json.loads((path / 'data.json').read_text())

  def restore_frozen(self, like):
    """The parameters that are not trained, verified.

    Raises:
      Damaged: if they are not as they were written.
      UserError: if they have another shape.
    """
    path = self.directory / FROZEN
    words = (manifest.problem(path) or '') if jax.process_index() == 0 else ''
    if _agreed(int(bool(words))):
      raise manifest.Damaged(
        f'the frozen parameters in {path} cannot be used: {words or "see process 0"}'
      )
    return self._restore(path, like)

  def _restore(self, path: pathlib.Path, like):
    import orbax.checkpoint as ocp

    try:
      with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path.absolute() / 'state', like)
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(
        f'{path} does not fit this config (other sizes or optimizer): use another --workdir, or '
        'the '
        f'config it was made with ({_one_line(error)[:200]})'
      ) from error
