"""The config of tiny_task.py."""

import ml_collections


def get_config(mode: str = ''):
  c = ml_collections.ConfigDict()
  c.task = 'tiny'
  c.seed = 0
  c.data = dict(count=64, pace=0.0, damaged=(), nan=(), hang=-1, die=-1, bug=-1)
  c.fault = dict(nan_loss=False, flagged=-1)
  c.frozen, c.start = '', False
  c.batch_size = 8
  c.mesh = (('data', -1), ('fsdp', 1))
  c.param_sharding = ((r'.*kernel', 'fsdp'), (r'.*', None))
  c.total_steps = 60
  c.optimizer = dict(
    learning_rate=0.01, warmup_steps=3, clip_norm=1.0, ema_decay=0.9, moments='float32'
  )
  c.log_every, c.save_every, c.eval_every, c.keep = 1, 10, 30, 2
  c.accumulate, c.compute_dtype, c.frozen_dtype, c.eval_batches = 1, 'float32', 'float32', 2
  c.skip_limit, c.save_failures, c.bad_records, c.data_workers = 3, 0, 0.05, 0
  c.batch_timeout, c.step_timeout, c.start_timeout, c.heartbeat = 60.0, 60.0, 120.0, 60
  c.data_changed_ok, c.tensorboard = False, False
  return c.lock()
