"""Trains the tiny Stable Diffusion prior that Loki's networks start from, on frames of synthetic
people.

  python -m exp_jax actors -o out/prior/actors --num 448 --size 128 --seed 24
  python -m exp_jax prior.frames -i out/prior/actors/clips -o out/prior/frames --size 64 --holdout 24
  python -m exp_jax.train --config=configs/sd_tiny.py --workdir=out/prior/run
  python -m exp_jax.train --config=configs/sd_tiny.py:smoke --workdir=out/prior_smoke            # CPU, two minutes

Expect: docs/results/loki.md. 64 pixels, since a step costs a CPU four times as much at 128.
"""

import ml_collections


def get_config(mode: str = ''):
  c = ml_collections.ConfigDict()
  c.task = 'sd/prior'
  c.seed = 0

  c.data = dict(
    name='frames',
    path='out/prior/frames/train.array_record',
    held_out='out/prior/frames/held_out.array_record',
    size=64,
    mirror=True,
  )
  c.batch_size = 8  # frames
  c.model = dict(variant='tiny')
  c.vae = dict(name='patch', path='embedded')
  c.eval_time = 500

  c.mesh = (('data', -1),)  # -1: all devices
  c.param_sharding = ((r'.*', None),)

  c.total_steps = 3_000
  c.optimizer = dict(
    learning_rate=1e-3,
    warmup_steps=50,
    final_fraction=0.05,
    weight_decay=0.0,
    clip_norm=1.0,
    betas=(0.9, 0.99),
    ema_decay=0.995,
  )
  c.log_every, c.save_every, c.eval_every, c.keep = 50, 250, 500, 1

  if mode == 'smoke':
    c.data.update(name='synthetic_frames', path='', held_out='', size=32)
    c.model.widths, c.model.heads, c.model.in_channels, c.model.out_channels = (
      (32, 32),
      (2, 2),
      48,
      48,
    )
    c.vae.update(name='space_to_depth', path='')
    c.batch_size, c.total_steps = 2, 4
    c.optimizer.warmup_steps = 2
    c.log_every, c.save_every, c.eval_every = 1, 2, 4
  elif mode:
    raise ValueError(f'unknown mode {mode!r}')
  return c.lock()
