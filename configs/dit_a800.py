"""Trains the ExpPortrait DiT: on 4 x A800-80GB as the paper tells, on one GPU, on a pod, with LoRA
on 14B.

  python -m exp_jax.train --config=configs/dit_a800.py --workdir=$WORKDIR                       # 4 GPUs of one host
  sbatch --nodes=4 launch/slurm.sh configs/dit_a800.py:pod $WORKDIR                             # 32 x 80 GB
  python -m exp_jax.train --config=configs/dit_a800.py:pod --dry_run --devices=32 --memory_gb=80   # what it would need
  python -m exp_jax.train --config=configs/dit_a800.py:tpu --dry_run --devices=v5p:4x4x4           # with libtpu, without TPUs
  python -m exp_jax.train --config=configs/dit_a800.py:smoke --workdir=out/smoke                # CPU
  python -m exp_jax.train --config=configs/dit_a800.py:demo --workdir=out/dit \\
      --config.data.path=out/latents --config.vae.path=out/vae_export                           # CPU

| mode | hardware | network | hours, expected loss |
|---|---|---|---|
| (none) | 4 x A800-80GB, batch 1 each | 1.3B, all parameters | (nobody has run it) |
| one_gpu | 1 x 80 GB, batch 4 in four parts | 1.3B, all parameters | (nobody has run it) |
| pod | 32 x 80 GB | 14B image-to-video, all parameters | (nobody has run it) |
| tpu | 64 chips of v5p, batch 1 each | the same | (nobody has run it) |
| lora14b | 4 x A800-80GB, batch 1 each | 14B image-to-video, rank-128 LoRA | (nobody has run it) |
| smoke | 2 CPU cores | tiny, synthetic clips, no download | half a minute |
| demo | 2 CPU cores | demo, see `mode == 'demo'` | minutes |
| embedded | 2 CPU cores | the default of `animate`, see `exp_jax/embedded/README.md` | see there |

Published: 512x512, 30 epochs of about 4,000 clips, learning rate 1e-4, batch 1 per GPU. Not
published: the size of the base and the frames per clip. The runs read latents that `prepare`
stored.
"""

import ml_collections

# The first axis of stacked kernels is the layer; splitting the input features keeps examples apart:
# at most 42 GB on a device by the dry run; with the largest axis of every kernel the compiler found
# no such way.
_BLOCKS = (r'.*blocks/.*kernel', (None, 'fsdp', None))


def get_config(mode: str = ''):
  c = _published()
  if mode == 'one_gpu':
    c.accumulate = 4
    c.mesh = (('data', 1), ('fsdp', 1), ('context', 1), ('tensor', 1))
  elif mode in ('pod', 'tpu'):
    _pod(c, tpu=mode == 'tpu')
  elif mode == 'lora14b':
    c.model.update(
      variant='wan_14b_i2v',
      train='lora',
      lora_rank=128,
      lora_alpha=128.0,  # as UniAnimate-DiT on 4 GPUs
      remat='input',
    )
    c.param_sharding = (_BLOCKS, *c.param_sharding)
  elif mode == 'smoke':
    _smoke(c)
  elif mode in ('demo', 'embedded'):
    _small(c, embedded=mode == 'embedded')
  elif mode:
    raise ValueError(f'unknown mode {mode!r}')
  return c.lock()


def _published():
  """As the paper, where it says it; 1.3B on four GPUs of one host."""
  c = ml_collections.ConfigDict()
  c.task = 'expportrait/dit'
  c.seed = 0

  c.data = dict(
    name='portrait_clips',
    path='data/portraits/train',
    held_out='',
    num_frames=49,
    height=512,
    width=512,
    stride=2,
    reference='random',
    reference_degrees=5.0,
    mirror=False,
    latents=True,
    linear_heads=False,
  )
  c.data_threads, c.data_workers, c.bad_records, c.data_changed_ok = 8, 0, 0.05, False
  c.batch_size = 4  # global, clips
  c.accumulate = 1  # parts of a batch, one after the other
  c.model = dict(
    variant='wan_1_3b',
    prediction='velocity',
    dtype='bfloat16',
    residual_dtype='bfloat16',
    attention='cudnn',
    context='ulysses',
    remat='attention',
    weights='',  # a folder by convert.wan; 'scratch' starts from nothing
    eps=1e-6,
    adapters='',
    lora_rank=0,
    lora_alpha=0.0,
    lora_targets='',
    train='all',
  )
  # chances of dropping as in UniAnimate-DiT
  c.condition = dict(
    fusion='sum',
    encoder='conv',
    encoder_width=16,
    zero_init=True,
    preview=False,
    refiner=(64, 2),
    reference_input='both',
    extras=(),
    clip_weights='',
    drop_pose=0.05,
    drop_reference=0.1,
  )
  # tile: its edge in pixels, for frames too large at once; 0: none
  c.vae = dict(name='wan', path='', tile=0)
  # prompt '': the embedding of the empty prompt
  c.flow = dict(shift=5.0, sigma='grid', weight='bell', text_tokens=512, prompt='')
  # How `animate` samples the export, unless told otherwise: the template's 50 steps and guidance,
  # 16 frames shared by windows.
  c.sample = dict(sampler='unipc', steps=50, guidance=1.5, reference_guidance=1.0, overlap=4)
  _published_run(c)
  return c


def _published_run(c):
  """Devices, steps, optimizer, checkpoints and patience."""
  c.mesh = (('data', 1), ('fsdp', 4), ('context', 1), ('tensor', 1))  # a dict would be sorted
  c.param_sharding = ((r'.*kernel', 'fsdp'), (r'.*', None))  # first match wins
  c.compute_dtype = c.frozen_dtype = 'bfloat16'  # masters of what is trained stay float32

  c.total_steps = 30_000  # 30 epochs of 4,000 clips at the paper's batch of 4
  c.optimizer = dict(
    learning_rate=1e-4,
    warmup_steps=500,
    final_fraction=1.0,
    weight_decay=0.01,
    clip_norm=1.0,
    betas=(0.9, 0.999),
    ema_decay=0.9999,
    moments='float32',
  )
  # updates that are not finite are skipped; so many in a row end the run
  c.skip_norm, c.skip_limit = 0.0, 10
  c.log_every, c.save_every, c.eval_every, c.eval_batches, c.keep = 50, 1_000, 2_000, 8, 3
  c.save_failures = 0  # failed saves in a row that the run survives
  # seconds
  c.batch_timeout, c.step_timeout, c.start_timeout, c.heartbeat = 300.0, 600.0, 3600.0, 60
  c.peak_tflops = 0.0  # of one device, for MFU; 0: by its name
  c.tensorboard, c.wandb = True, ''


def _pod(c, *, tpu: bool):
  """14B image-to-video, all parameters."""
  c.model.update(variant='wan_14b_i2v', remat='input')
  c.mesh = (('data', 1), ('fsdp', 32), ('context', 1), ('tensor', 1))
  c.param_sharding = (_BLOCKS, *c.param_sharding)
  c.batch_size, c.total_steps = 32, 3_750  # the same 30 epochs
  c.optimizer.learning_rate = 1e-5
  c.optimizer.warmup_steps = 200
  c.save_every, c.eval_every = 250, 500
  if tpu:
    c.model.attention = 'splash'
    c.mesh = (('data', 1), ('fsdp', 64), ('context', 1), ('tensor', 1))
    c.batch_size, c.total_steps = 64, 1_875


def _smoke(c):
  """A tiny network, drawn clips, half a minute of two cores."""
  c.data.update(
    name='synthetic_clips',
    path='',
    num_frames=5,
    height=32,
    width=32,
    latents=False,
    reference_degrees=0.0,
  )
  c.model.update(
    variant='tiny',
    prediction='x0',
    dtype='float32',
    residual_dtype='float32',
    attention='xla',
    weights='scratch',
  )
  c.condition.update(fusion='sequence', encoder='patch', zero_init=False)
  c.vae.update(name='space_to_depth')
  c.flow.update(text_tokens=4, shift=1.0, prompt='zeros')
  c.sample.update(sampler='euler', steps=2, guidance=1.0, overlap=2)
  c.mesh = (('data', -1), ('fsdp', 1))
  c.compute_dtype, c.data_threads, c.tensorboard = 'float32', 2, False
  c.batch_size, c.total_steps = 2, 8
  c.optimizer.update(learning_rate=1e-3, warmup_steps=2)
  c.log_every, c.save_every, c.eval_every, c.eval_batches = 1, 3, 8, 1


def _small(c, *, embedded: bool):
  """Minutes, or an hour if embedded, on two CPU cores; the autoencoder is of the same mode of vae.py."""
  c.data.update(
    path='out/demo/latents',
    num_frames=5,
    height=128,
    width=128,
    stride=3,
    reference='preview',
    reference_degrees=0.0,
  )
  c.model.update(
    variant='demo',
    prediction='x0',
    dtype='float32',
    residual_dtype='float32',
    attention='xla',
    remat='none',
    weights='scratch',
  )
  c.condition.update(
    fusion='sequence',
    encoder='patch',
    encoder_width=128,
    zero_init=False,
    preview=True,
    drop_reference=0.0,
  )
  c.vae.update(name='patch', path='out/demo/vae_export')
  c.flow.update(shift=3.0, sigma='noise_or_uniform', weight='x0')
  c.sample.update(sampler='euler', steps=8, guidance=1.0, overlap=2)
  c.mesh = (('data', -1), ('fsdp', 1))
  c.compute_dtype, c.data_threads, c.tensorboard = 'float32', 2, False
  c.batch_size, c.total_steps = 2, 240
  c.optimizer.update(learning_rate=1e-3, warmup_steps=30, final_fraction=0.02, ema_decay=0.98)
  c.log_every, c.save_every, c.eval_every, c.eval_batches, c.keep = 20, 80, 240, 4, 1
  if embedded:
    c.data.path, c.vae.path = 'out/embedded/latents', 'out/embedded/vae_export'
    c.condition.refiner = (96, 4)
    c.total_steps, c.optimizer.ema_decay, c.optimizer.warmup_steps = 1_500, 0.998, 50
    c.log_every, c.save_every, c.eval_every = 50, 150, 750
