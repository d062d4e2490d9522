"""Trains the identity-adaptive expression transfer on subject files.

  python -m exp_jax.train --config=configs/expression_transfer.py --workdir=out/transfer --config.data.path=out/subjects
  python -m exp_jax.train --config=configs/expression_transfer.py:demo --workdir=out/transfer \\
      --config.data.path=out/actors/truth                                                                  # CPU

  python -m exp_jax.train --config=configs/expression_transfer.py:smoke --workdir=out/smoke_transfer \\
      --config.data.path=out/smoke_subjects                                          # procedural head, seconds

The full run needs subjects fitted from footage and has not been made yet. Demo: about two minutes on two CPU cores.
"""

import ml_collections


def get_config(mode: str = ''):
  c = ml_collections.ConfigDict()
  c.task = 'expportrait/transfer'
  c.seed = 0

  c.data = dict(path='out/subjects', head='makehuman', holdout=8, points=8192, pool=332)  # pool: ceil(V / 17)
  c.batch_size = 64                    # (subject, frame) pairs
  c.model = dict(expression=49, code_dim=128, width=256, depth=5, octaves=6, identity_dim=32)
  c.loss = dict(edge=0.05)

  c.mesh = (('data', -1), ('fsdp', 1))
  c.param_sharding = ((r'.*', None),)  # 0.7 M parameters: replicated

  c.total_steps = 100_000
  c.optimizer = dict(learning_rate=1e-4, warmup_steps=500, final_fraction=0.01, weight_decay=0.01, clip_norm=1.0,
                     betas=(0.9, 0.999), ema_decay=0.999)
  c.log_every, c.save_every, c.eval_every, c.keep = 100, 5_000, 10_000, 3

  if mode in ('smoke', 'demo'):
    c.model.update(code_dim=64, width=96, depth=3)
    c.data.points, c.batch_size, c.total_steps = 512, 8, 600
    c.optimizer.update(learning_rate=2e-3, warmup_steps=50, ema_decay=0.98)
    c.log_every, c.save_every, c.eval_every = 50, 300, 600
  if mode == 'smoke':
    c.data.path, c.data.head, c.data.holdout = 'out/smoke_subjects', 'procedural', 1
    c.model.update(expression=10)
    c.data.pool, c.total_steps, c.save_every, c.eval_every = 41, 4, 2, 4
  if mode not in ('', 'smoke', 'demo'):
    raise ValueError(f'unknown mode {mode!r}')
  return c.lock()
