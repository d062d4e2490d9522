"""Trains the ExpPortrait DiT on 4 hosts x 8 A800-80GB.

  sbatch launch/slurm.sh configs/dit_a800.py $WORKDIR                                    # 4 hosts
  python -m exp_jax.train --config=configs/dit_a800.py:smoke --workdir=out/smoke         # CPU
  python -m exp_jax.train --config=configs/dit_a800.py:demo --workdir=out/dit \\
      --config.data.path=out/latents --config.vae.path=out/vae_export                    # CPU

The full run has not been made yet; it reads latents that `prepare` stored. Smoke: half a minute on
two CPU cores, synthetic clips, no download. Demo: see `mode == 'demo'`.
"""

import ml_collections


def get_config(mode: str = ''):
  c = ml_collections.ConfigDict()
  c.task = 'expportrait/dit'
  c.seed = 0

  c.data = dict(name='portrait_clips', path='data/portraits/train', num_frames=49, height=512,
                width=512, stride=2, reference='random', mirror=False, latents=True)
  c.batch_size = 32                    # global, clips
  c.model = dict(variant='wan_1_3b', prediction='velocity', dtype='bfloat16',
                 residual_dtype='bfloat16', attention='cudnn', context='ulysses', remat='attention',
                 weights='', adapters='', lora_rank=0, lora_alpha=0.0, lora_targets='', train='all')
  c.condition = dict(fusion='sum', encoder='conv', encoder_width=16, zero_init=True, guide=False,
                     reference_input='both', extra_channels=0, clip_weights='',
                     drop_pose=0.05, drop_reference=0.1)      # drops as in UniAnimate-DiT
  c.vae = dict(name='wan', path='')
  c.flow = dict(shift=5.0, sigma='grid', weight='bell', text_tokens=512, prompt='', place_weight=0.0)

  c.mesh = (('data', 4), ('fsdp', 8))  # hosts x devices per host; a dict would be sorted
  c.param_sharding = ((r'.*kernel', 'fsdp'), (r'.*', None))   # first match wins

  c.total_steps = 30_000               # 30 epochs of 4,000 clips at the paper's batch of 4
  c.optimizer = dict(learning_rate=1e-4, warmup_steps=500, final_fraction=1.0, weight_decay=0.01,
                     clip_norm=1.0, betas=(0.9, 0.999), ema_decay=0.9999)
  c.log_every, c.save_every, c.eval_every, c.keep = 50, 1_000, 2_000, 3

  if mode == 'smoke':
    c.data.update(name='synthetic_clips', path='', num_frames=5, height=32, width=32, latents=False)
    c.model.update(variant='tiny', prediction='x0', dtype='float32', residual_dtype='float32',
                   attention='xla')
    c.condition.update(fusion='sequence', encoder='patch', zero_init=False)
    c.vae.update(name='space_to_depth')
    c.flow.update(text_tokens=4, shift=1.0)
    c.mesh = (('data', -1), ('fsdp', 1))
    c.batch_size, c.total_steps = 2, 8
    c.optimizer.update(learning_rate=1e-3, warmup_steps=2)
    c.log_every, c.save_every, c.eval_every = 1, 3, 8
  elif mode == 'demo':               # minutes on two CPU cores, with the autoencoder of vae.py:demo
    c.data.update(path='out/demo/latents', num_frames=5, height=128, width=128, stride=3)
    c.model.update(variant='demo', prediction='x0', dtype='float32', residual_dtype='float32',
                   attention='xla', remat='none')
    c.condition.update(fusion='sequence', encoder='patch', encoder_width=128, zero_init=False,
                       guide=True, drop_reference=0.0)
    c.vae.update(name='patch', path='out/demo/vae_export')
    c.flow.update(shift=3.0, sigma='noise_or_uniform', weight='x0', place_weight=2.0)
    c.mesh = (('data', -1), ('fsdp', 1))
    c.batch_size, c.total_steps = 2, 420
    c.optimizer.update(learning_rate=1e-3, warmup_steps=50, final_fraction=0.02, ema_decay=0.99)
    c.log_every, c.save_every, c.eval_every, c.keep = 20, 105, 420, 1
  elif mode:
    raise ValueError(f'unknown mode {mode!r}')
  return c.lock()
