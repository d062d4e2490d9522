"""Trains MagicPortrait: depth, normals and a render of a head guide a latent video network,
AppearanceNet speaks for the person.

  python -m exp_jax.train --config=configs/magicportrait.py:stage1 --workdir=$WORKDIR/stage1          # 8 devices of 80 GB
  python -m exp_jax.export --workdir $WORKDIR/stage1 -o weights/magicportrait_stage1
  python -m exp_jax.train --config=configs/magicportrait.py:stage2 --workdir=$WORKDIR/stage2          # one device of 80 GB
  python -m exp_jax.train --config=configs/magicportrait.py:stage1 --dry_run --devices=8 --memory_gb=80
  python -m exp_jax.train --config=configs/magicportrait.py:tiny --workdir=out/magicportrait/run      # a CPU, from the embedded prior
  python -m exp_jax.train --config=configs/magicportrait.py:tiny2 --workdir=out/magicportrait/run2    # its second stage
  python -m exp_jax.train --config=configs/magicportrait.py:smoke --workdir=out/magic_smoke           # CPU, minutes; smoke2: stage 2

The full run needs Stable Diffusion 1.5 (`exp_jax.convert.sd import`; its autoencoder for
`magicportrait.prepare`), AnimateDiff's motion modules (the same, `--network sd_motion`), the
embedding of one sentence (`exp_jax.convert.sd prompts`) and records by
`exp_jax magicportrait.prepare`. Ablations: config.condition.maps, condition.attend and
config.model.fusion, see
systems/magicportrait/model.py. Expect: docs/results/magicportrait.md.
"""

import ml_collections


def get_config(mode: str = ''):
  c = ml_collections.ConfigDict()
  c.task = 'magicportrait/stage1'
  c.seed = 0

  c.data = dict(
    name='magicportrait_clips',
    path='data/magicportrait/train_*.array_record',
    held_out='',
    num_frames=1,
    stride=1,
    size=512,
    crop='clip',
    mirror=False,
    zoom=1.0,
    latents=True,
    apart=0,
  )
  c.data.maps = dict(camera='weak', depth='head', normals='clamped', albedo='subject')
  c.batch_size = 32  # pairs of frames
  c.model = dict(
    variant='sd15',
    weights='weights/sd15_unet',
    motion='',
    motion_weights='',
    fusion='concat',
    prompt='weights/close_up_prompt.npz',
    dtype='bfloat16',
    attention='cudnn',
    remat='attention',
  )
  c.condition = dict(
    maps=('depth', 'normals', 'render'),
    encoder='full',
    attend=True,
    gain=1.0,
    drop=0.1,
    dropout='example',
  )
  # linear betas, as the published sampler has them
  c.diffusion = dict(
    prediction='v', betas='linear', zero_snr=True, gamma=5.0, offset=0.05, late_share=0.0
  )
  c.vae = dict(name='sd', path='')  # latents are in the records; named, evaluations show pictures
  c.sample = dict(steps=20, guidance=3.5, overlap=4, windows='open')

  c.mesh = (('data', 1), ('fsdp', 8))
  c.param_sharding = ((r'.*kernel', 'fsdp'), (r'.*', None))
  c.frozen_dtype = 'bfloat16'
  c.compute_dtype = 'bfloat16'

  c.total_steps = 45_000
  # constant rate, as published; the average is ours
  c.optimizer = dict(
    learning_rate=1e-5,
    warmup_steps=1,
    final_fraction=1.0,
    weight_decay=0.01,
    clip_norm=1.0,
    betas=(0.9, 0.999),
    ema_decay=0.999,
  )
  c.log_every, c.save_every, c.eval_every, c.keep = 50, 1_000, 2_000, 2

  second = mode in ('stage2', 'tiny2', 'smoke2')
  if second:
    _second_stage(c)
  if mode in ('tiny', 'tiny2'):
    _tiny(c, second)
  elif mode in ('smoke', 'smoke2'):
    _smoke(c, second)
  elif mode not in ('', 'stage1', 'stage2'):
    raise ValueError(f'unknown mode {mode!r}')
  return c.lock()


def _second_stage(c):
  """Clips: the motion modules and what they need."""
  c.task = 'magicportrait/stage2'
  c.data.num_frames = 12
  c.batch_size, c.total_steps = 1, 50_000
  c.model.update(
    weights='weights/magicportrait_stage1', motion='frame', motion_weights='weights/animatediff'
  )
  c.mesh = (('data', 1), ('fsdp', 1))


def _tiny(c, second: bool):
  """64 pixels, the prior's schedule; a part of the times is pure noise, where pose and identity are
  decided."""
  c.data.update(
    path='out/magicportrait/records/train_*.array_record',
    held_out='out/magicportrait/records/held_out_*.array_record',
    size=64,
    crop='square',
    mirror=True,
    latents=False,
  )
  c.data.maps.normals = 'signed'  # as only signed normals can be mirrored
  c.batch_size = 8
  c.model.update(
    variant='tiny', weights='embedded', prompt='', dtype='float32', attention='xla', remat='none'
  )
  c.condition.update(encoder='tiny', gain=4.0)
  c.diffusion.update(betas='scaled_linear', late_share=0.4)
  c.vae.update(name='patch', path='embedded')
  c.sample.update(steps=10, guidance=1.5)
  c.mesh, c.param_sharding = (('data', -1),), ((r'.*', None),)
  c.frozen_dtype = c.compute_dtype = 'float32'
  c.total_steps = 1_500
  c.optimizer.update(
    learning_rate=1e-3, warmup_steps=30, final_fraction=0.05, ema_decay=0.99, betas=(0.9, 0.99)
  )
  c.log_every, c.save_every, c.eval_every, c.keep = 25, 100, 100, 1
  if second:
    c.data.num_frames = 6
    c.batch_size, c.total_steps = 2, 400
    c.model.update(weights='out/magicportrait/stage1', motion_weights='scratch')
    c.sample.overlap = 2


def _smoke(c, second: bool):
  c.data.update(
    name='synthetic_spheres', path='', size=16, mirror=False, zoom=0.9, latents=False, crop='square'
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
  if second:
    c.data.num_frames = 3
    c.model.motion_weights = 'scratch'
