"""Trains the network that sees normals, depth and parts of a head in a picture.

  python -m exp_jax.estimator -o out/estimator/pictures --people 2688 --seed 9
  python -m exp_jax.estimator -o out/estimator/held_out --people 64 --seed 8
  python -m exp_jax.train --config=configs/estimator.py:coarse --workdir=out/estimator/coarse
  python -m exp_jax.train --config=configs/estimator.py:smoke --workdir=out/estimator_smoke       # CPU, a minute

`:coarse` first: at 96 pixels a picture costs a fifth, and the large forms are learned there. The
default mode goes on from its export at 160 pixels. `exp-jax estimator` runs all stages; the smoke
mode needs pictures of 64 pixels in out/estimator/smoke.
"""

import ml_collections


def get_config(mode: str = ''):
  c = ml_collections.ConfigDict()
  c.task = 'estimator/face_maps'
  c.seed = 0

  c.data = dict(path='out/estimator/pictures', held_out='out/estimator/held_out', side=160)
  c.batch_size = 8
  c.model = dict(variant='small', weights='out/estimator/coarse_export')
  c.loss = dict(normals=1.0, fine=2.0, sureness=0.05, depth=2.0, parts=0.2)

  c.mesh = (('data', -1),)  # -1: all devices
  c.param_sharding = ((r'.*', None),)

  c.total_steps = 7_000
  c.optimizer = dict(
    kind='muon',
    learning_rate=4e-3,
    warmup_steps=100,
    final_fraction=0.02,
    weight_decay=0.0,
    clip_norm=1.0,
    betas=(0.9, 0.99),
    ema_decay=0.998,
  )
  c.log_every, c.save_every, c.eval_every, c.keep = 50, 500, 2000, 2
  c.data_changed_ok = True  # more pictures may be drawn while it trains

  if mode == 'coarse':
    c.data.side, c.model.weights = 96, 'scratch'
    c.total_steps, c.optimizer.learning_rate, c.optimizer.final_fraction = 3_000, 1e-2, 0.2
    c.log_every, c.save_every, c.eval_every = 50, 250, 1000
  elif mode == 'smoke':
    c.data.update(path='out/estimator/smoke', held_out='', side=64)
    c.batch_size, c.model.weights, c.model.variant = 2, 'scratch', 'tiny'
    c.total_steps, c.optimizer.warmup_steps = 6, 2
    c.log_every, c.save_every, c.eval_every = 1, 3, 6
  elif mode:
    raise ValueError(f'unknown mode {mode!r}')
  return c.lock()
