"""Trains Loki: a driver map moves, a frozen Stable Diffusion speaks for the person.

  python -m exp_jax.train --config=configs/loki.py --workdir=$WORKDIR                       # 8 devices of 80 GB
  python -m exp_jax.train --config=configs/loki.py --dry_run --devices=8 --memory_gb=80
  python -m exp_jax.train --config=configs/loki.py:tiny --workdir=out/loki/run              # a CPU, from the embedded prior
  python -m exp_jax.train --config=configs/loki.py:smoke --workdir=out/loki_smoke           # CPU, minutes

The full run needs Stable Diffusion 2.1 base (`exp_jax.convert.sd import`; its autoencoder for
`loki.prepare`), the embedding of the empty prompt (`exp_jax.convert.sd prompts`) and records by
`exp_jax loki.prepare`. Stable Diffusion 1.5 is another start, 'sd15'.
Ablations: config.condition.map and config.model.reference, see systems/loki/model.py. Expect:
docs/results/loki.md.
"""

import ml_collections


def get_config(mode: str = ''):
  c = ml_collections.ConfigDict()
  c.task = 'loki'
  c.seed = 0

  c.data = dict(
    name='loki_clips',
    path='data/loki/train_*.array_record',
    held_out='',
    num_frames=16,
    stride=1,
    size=512,
    crop='clip',
    mirror=False,
    latents=True,
    vector=0,
  )
  c.batch_size = 16  # clips
  c.accumulate = 2  # one clip a device at a time
  c.model = dict(
    variant='sd21',
    weights='weights/sd21_unet',
    reference='frozen',
    prompt='weights/empty_prompt.npz',
    dtype='bfloat16',
    attention='cudnn',
    remat='attention',
  )
  c.condition = dict(map='full', encoder='full', gain=1.0, drop=0.1, dropout='joint')
  # SNR times 1 / sqrt(15); noise is predicted, as the checkpoint was trained
  c.diffusion = dict(
    prediction='eps',
    zero_snr=True,
    most_beta=0.99,
    shift=15**-0.5,
    late_share=0.0,
    shared_times=0.0,
  )
  c.vae = dict(name='sd', path='')  # latents are in the records; named, evaluations show pictures
  c.sample = dict(steps=50, guidance=2.0, reference_guidance=1.0, overlap=4)

  c.mesh = (('data', 1), ('fsdp', 8))
  c.param_sharding = ((r'.*kernel', 'fsdp'), (r'.*', None))
  c.frozen_dtype = 'bfloat16'
  c.compute_dtype = 'bfloat16'

  c.total_steps = 30_000
  # constant rate without warm-up, as published; clipping and the average are ours
  c.optimizer = dict(
    learning_rate=1e-4,
    warmup_steps=0,
    final_fraction=1.0,
    weight_decay=0.01,
    clip_norm=1.0,
    betas=(0.9, 0.999),
    ema_decay=0.9999,
  )
  c.log_every, c.save_every, c.eval_every, c.keep = 50, 1_000, 2_000, 2

  if mode == 'tiny':
    _tiny(c)
  elif mode == 'smoke':
    _smoke(c)
  elif mode:
    raise ValueError(f'unknown mode {mode!r}')
  return c.lock()


def _tiny(c):
  """Half an hour of one core, 64 pixels."""
  c.data.update(
    path='out/loki/records/train_*.array_record',
    held_out='out/loki/records/held_out_*.array_record',
    num_frames=3,
    stride=4,
    size=64,
    crop='square',
    mirror=True,
    latents=False,
  )
  c.batch_size = 3
  c.model.update(
    variant='tiny', weights='embedded', prompt='', dtype='float32', attention='xla', remat='none'
  )
  c.condition.update(encoder='tiny', gain=4.0)
  # as the prior was trained; half of the times late, where pose and identity are decided
  c.diffusion.update(prediction='v', most_beta=0.0, shift=1.0, late_share=0.5)
  c.vae.update(name='patch', path='embedded')
  c.sample.update(steps=10, guidance=1.0, overlap=1)
  c.mesh, c.param_sharding = (('data', -1),), ((r'.*', None),)
  c.frozen_dtype = c.compute_dtype = 'float32'
  c.total_steps = 1_500
  c.optimizer.update(
    learning_rate=1e-3, warmup_steps=30, final_fraction=0.05, ema_decay=0.99, betas=(0.9, 0.99)
  )
  c.log_every, c.save_every, c.eval_every, c.keep = 25, 150, 250, 1


def _smoke(c):
  """Drawn spheres, seconds."""
  c.data.update(
    name='synthetic_spheres',
    path='',
    num_frames=2,
    size=16,
    mirror=True,
    latents=False,
    crop='square',
  )
  c.batch_size = 2
  c.model.update(
    variant='tiny',
    widths=(32, 32),
    heads=(2, 2),
    weights='scratch',
    prompt='',
    dtype='float32',
    attention='xla',
    remat='none',
  )
  c.condition.update(encoder='smoke')
  c.vae.update(name='space_to_depth', path='')
  c.sample.update(steps=2, overlap=1)
  c.mesh, c.param_sharding = (('data', -1),), ((r'.*', None),)
  c.frozen_dtype = c.compute_dtype = 'float32'
  c.total_steps = 4
  c.log_every, c.save_every, c.eval_every = 1, 2, 4
