"""Trains the small per-frame autoencoder.

  python -m exp_jax.train --config=configs/vae.py:demo --workdir=out/vae \\
      --config.data.path=out/clips
  python -m exp_jax.train --config=configs/vae.py:smoke --workdir=out/vae_smoke         # CPU, 20 s
"""

import ml_collections


def get_config(mode: str = ''):
  c = ml_collections.ConfigDict()
  c.task = 'expportrait/vae'
  c.seed = 0

  c.data = dict(
    name='portrait_clips',
    path='data/portraits/train',
    held_out='',
    num_frames=1,
    height=128,
    width=128,
    stride=1,
    reference='record',
    mirror=True,
  )
  c.batch_size = 16  # global, clips
  c.model = dict(variant='demo')
  c.loss = dict(gradient=0.5, latent_noise=0.05, moments=0.1)

  c.mesh = (('data', -1),)  # -1: all devices
  c.param_sharding = ((r'.*', None),)

  c.total_steps = 1_000
  c.optimizer = dict(
    learning_rate=2e-3,
    warmup_steps=50,
    final_fraction=0.02,
    weight_decay=0.0,
    clip_norm=1.0,
    betas=(0.9, 0.99),
    ema_decay=0.99,
  )
  c.log_every, c.save_every, c.eval_every, c.keep = 50, 500, 500, 2

  if mode == 'smoke':
    c.data.update(name='synthetic_clips', path='', num_frames=2, height=32, width=32)
    c.model.variant = 'tiny'
    c.batch_size, c.total_steps = 4, 6
    c.optimizer.warmup_steps = 2
    c.log_every, c.save_every, c.eval_every = 1, 3, 6
  elif mode == 'demo':  # two CPU cores, minutes; frames of synthetic actors
    c.data.update(path='out/demo/shards/train.array_record')
    c.total_steps, c.optimizer.warmup_steps = 220, 30
    c.log_every, c.save_every, c.eval_every, c.keep = 20, 110, 220, 1
  elif mode == 'embedded':  # the default of `animate`, see exp_jax/embedded/README.md
    c.data.update(path='out/embedded/shards/train.array_record')
    c.model.channels = 8
    c.total_steps = 900
    c.log_every, c.save_every, c.eval_every, c.keep = 50, 150, 450, 1
  elif mode:
    raise ValueError(f'unknown mode {mode!r}')
  return c.lock()
