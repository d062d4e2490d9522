"""What may go wrong while a run goes on: each fault ends as the table at the head of
exp_jax/train.py says."""

import json
import time

import jax
import numpy as np
import pytest

from exp_jax.data.loader import batches_from
from exp_jax.errors import UserError
from exp_jax.training import loop
from exp_jax.training.checkpoints import FROZEN, Checkpoints, SaveFailed
from exp_jax.training.loop import NotFinite
from tests.training import runs
from tests.training.runs import assert_same_bits, end, losses, records, start, wait_for_step

tiny_config, tiny_task = runs.tiny('tiny_config'), runs.tiny('tiny_task')


class Log:
  """Keeps what is written."""

  def __init__(self):
    self.lines, self.starts = [], []

  def start(self, step):
    self.starts.append(step)

  def write(self, step, metrics, kind='train'):
    self.lines.append((kind, step, metrics))


def train(workdir, warn=lambda words: None, **changes):
  """(state, log) of a run in this process."""
  config = tiny_config.get_config()
  with config.unlocked():
    for key, value in changes.items():
      section, _, name = key.rpartition('__')
      (config[section] if section else config)[name] = value
  opener = lambda source, transform: batches_from(source, transform, batch_size=8, seed=config.seed)
  log = Log()
  state, _ = loop.train(
    config,
    tiny_task.task(config),
    opener(*tiny_task.examples(config)),
    Checkpoints(workdir, keep=9),
    log,
    open_held_out=opener(*tiny_task.held_out(config)),
    warn=warn,
  )
  return jax.tree.map(np.asarray, state), log


@pytest.mark.long
def test_no_transfer_happens_behind_our_back(tmp_path, monkeypatch):
  """All that goes to the device goes there by name, from the first step to the last checkpoint."""
  monkeypatch.setattr(
    Log, 'start', lambda self, step: jax.config.update('jax_transfer_guard', 'disallow')
  )
  try:
    train(tmp_path, total_steps=6, save_every=3, eval_every=3)
    with pytest.raises(jax.errors.JaxRuntimeError, match='Disallowed'):
      jax.random.key(1)  # it was on guard
  finally:
    jax.config.update('jax_transfer_guard', None)


@pytest.mark.long
def test_lora_like_runs_resume_and_save_what_is_frozen_once(tmp_path):
  whole, _ = train(
    tmp_path / 'a', total_steps=6, save_every=3, frozen='two', frozen_dtype='bfloat16', seed=4
  )
  train(tmp_path / 'b', total_steps=3, save_every=3, frozen='two', frozen_dtype='bfloat16', seed=4)
  made = (tmp_path / 'b' / FROZEN / 'commit.json').stat().st_mtime_ns
  again, log = train(
    tmp_path / 'b', total_steps=6, save_every=3, frozen='two', frozen_dtype='bfloat16', seed=4
  )
  assert log.starts == [3] and set(whole.params) == set(whole.ema) == {'one'}
  assert (tmp_path / 'b' / FROZEN / 'commit.json').stat().st_mtime_ns == made
  assert_same_bits(whole, again)


@pytest.mark.long
def test_given_weights_take_the_place_of_drawn_ones(tmp_path):
  drawn, _ = train(tmp_path / 'a', total_steps=1, optimizer__learning_rate=0.0)
  given, _ = train(tmp_path / 'b', total_steps=1, optimizer__learning_rate=0.0, start=True)
  assert (given.params['two']['kernel'] == np.float32(0.01)).all() and (
    given.ema['two']['kernel'] == np.float32(0.01)
  ).all()
  np.testing.assert_array_equal(given.params['one']['kernel'], drawn.params['one']['kernel'])
  params = {'a': {'kernel': jax.numpy.zeros((2, 3))}}
  for values, words in (
    ({'b': np.zeros(1)}, "'b', which"),
    ({'a': {'kernel': np.zeros((3, 2))}}, "'a/kernel'"),
  ):
    with pytest.raises(UserError, match=words):
      loop.started(params, values)


@pytest.mark.long
def test_evaluation_sees_the_same_held_out_batches_and_draws(tmp_path):
  _, log = train(
    tmp_path, total_steps=8, eval_every=4, optimizer__learning_rate=0.0, optimizer__ema_decay=0.0
  )
  first, second = [metrics for kind, _, metrics in log.lines if kind == 'tiny']
  assert first['loss'] == second['loss']  # nothing was learned, and nothing else differs
  assert first['kernel'].shape == (16, 32, 3) and first['clip'].shape == (2, 16, 32, 3)
  assert len({float(m['loss']) for kind, _, m in log.lines if kind == 'train'}) == 8


@pytest.mark.long
def test_skipped_updates_are_told_and_too_many_in_a_row_end_the_run(tmp_path):
  said = []
  state, log = train(
    tmp_path / 'a', said.append, total_steps=20, fault__nan_loss=True, fault__flagged=7
  )
  bad = [step for _, step, m in log.lines if 'loss' in m and not np.isfinite(m['loss'])]
  # once an epoch of 8 steps
  assert 2 <= len(bad) <= 3 and len(said) == len(bad) == state.skipped[0]
  assert all(
    np.isfinite(x).all() for x in jax.tree.leaves((state.params, state.opt_state, state.ema))
  )
  with pytest.raises(NotFinite, match='3 updates in a row .* up to step 3'):
    train(tmp_path / 'b', total_steps=20, skip_norm=1e-9)


@pytest.mark.long
def test_failed_saves_are_survived_as_often_as_allowed(tmp_path, monkeypatch):
  real, said = Checkpoints.finish, []

  def no_space(*args, **kwargs):
    raise OSError(28, 'No space left')

  def full(self, path, checkpointer):
    if path.name in ('00000002', '00000004', '00000008'):
      monkeypatch.setattr('exp_jax.files.manifest.write_manifest', no_space)
    try:
      real(self, path, checkpointer)
    finally:
      monkeypatch.undo()
      monkeypatch.setattr(Checkpoints, 'finish', full)

  monkeypatch.setattr(Checkpoints, 'finish', full)
  train(tmp_path / 'a', said.append, total_steps=10, save_every=2, save_failures=2)
  assert (
    Checkpoints(tmp_path / 'a').steps() == [6, 10] and len(said) == 3 and 'No space left' in said[0]
  )
  with pytest.raises(SaveFailed, match='No space left'):
    train(tmp_path / 'b', said.append, total_steps=10, save_every=2, save_failures=1)
  assert Checkpoints(tmp_path / 'b').steps() == []


def test_the_failure_of_the_last_save_is_not_hidden(tmp_path, monkeypatch):
  """However many failures are allowed: after the last one there is no other save to make up for
  it."""
  real = Checkpoints.finish

  def full(self, path, checkpointer):
    if path.name == '00000006':

      def no_space(*args, **kwargs):
        raise OSError(28, 'No space left')

      monkeypatch.setattr('exp_jax.files.manifest.write_manifest', no_space)
    real(self, path, checkpointer)

  monkeypatch.setattr(Checkpoints, 'finish', full)
  with pytest.raises(SaveFailed, match='step 6 .*No space left'):
    train(tmp_path / 'a', total_steps=6, save_every=2, save_failures=9)
  assert Checkpoints(tmp_path / 'a').steps() == [2, 4]


@pytest.mark.long
def test_a_folder_that_vanishes_ends_the_run_within_one_save(tmp_path):
  workdir = tmp_path / 'run'
  process = start(workdir, '--config.data.pace=0.02')
  while not (workdir / 'checkpoints' / '00000010' / 'commit.json').exists():
    assert process.poll() is None
    time.sleep(0.02)
  (workdir / 'checkpoints').rename(tmp_path / 'aside')
  status, _, err = end(process)
  assert status == 74 and err.splitlines()[-1].startswith('error: the checkpoint'), err
  (tmp_path / 'aside').rename(workdir / 'checkpoints')
  status, _, err = end(start(workdir))
  assert status == 0 and records(workdir, 'start')[-1]['step'] >= 10, err


@pytest.mark.long
@pytest.mark.parametrize(
  'more, status, words',
  [
    (('--config.data.hang=9',), 75, 'reading record 9 has not ended'),
    pytest.param(
      ('--config.data.hang=9', '--config.data_workers=1'),
      75,
      'a reader process hangs',
      marks=pytest.mark.slow,
    ),
    pytest.param(
      ('--config.data.die=9', '--config.data_workers=1'), 1, 'exit code -9', marks=pytest.mark.slow
    ),
    pytest.param(('--config.data.bug=9',), 1, 'record 9: on demand', marks=pytest.mark.slow),
    pytest.param(
      ('--config.data.damaged=(3,4,5,6)',), 2, 'config.bad_records', marks=pytest.mark.slow
    ),
  ],
)
def test_data_that_does_not_come_ends_the_run_and_leaves_no_process(tmp_path, more, status, words):
  since = time.monotonic()
  found, _, err = end(start(tmp_path / 'run', '--config.batch_timeout=6', *more), 60)
  assert found == status and words in err, err
  assert time.monotonic() - since < 60
  if status == 75:
    assert 'Thread' in err and 'tiny_task.py' in err or 'reader process' in err


@pytest.mark.slow
def test_one_percent_of_bad_records_changes_nothing_but_the_count(tmp_path):
  more = ('--config.data.count=100', '--config.data.damaged=(17,)', '--config.data.nan=(18,)')
  status, _, err = end(start(tmp_path / 'a', *more))
  assert (
    status == 0 and err.count('it is skipped') == 2 and 'record 17' in err and 'record 18' in err
  )
  process = start(tmp_path / 'b', '--config.data.pace=0.005', *more)
  wait_for_step(process, tmp_path / 'b', 33)
  runs.kill(process)
  status, _, err = end(start(tmp_path / 'b', *more))
  assert status == 0 and losses(tmp_path / 'a') == losses(tmp_path / 'b')
  data = json.loads((tmp_path / 'b' / 'checkpoints' / '00000060' / 'data.json').read_text())
  assert data['damaged'] == [17, 18]
