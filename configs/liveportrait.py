"""Trains LivePortrait: the networks (stage 1), then stitching and retargeting (stage 2), then
motion from speech.

  python -m exp_jax liveportrait.prepare CLIPS... -o out/faces/train.array_record        # footage into records
  python -m exp_jax liveportrait.prepare PHOTOS... -o out/photos/train.array_record     # photographs, styled ones above all
  python -m exp_jax.train --config=configs/liveportrait.py:stage1 --workdir=out/lp1 --config.data.path=out/faces \\
      --config.data.images=out/photos
      --config.model.features=metrics_weights/vgg19 --config.model.identity=metrics_weights/arcface
  python -m exp_jax.export --workdir out/lp1 -o out/lp1_export
  python -m exp_jax.train --config=configs/liveportrait.py:stage2 --workdir=out/lp2 --config.model.weights=out/lp1_export ...
  python -m exp_jax.train --config=configs/liveportrait.py:speech --workdir=out/speech --config.data.path=out/speech_records
  python -m exp_jax.train --config=configs/liveportrait.py:smoke --workdir=out/lp_smoke          # CPU, minutes; also smoke2, smoke3

`:actors` is stage 1 at the tiny size on synthetic people (python -m exp_jax.actors -o
out/actors --size 128 --frames 16 --num 40). `:animals` fine-tunes on clips alone: no head pose, no
lip critic, no identity. `:stage1` and `:animals` start only when what looks at pictures is named:
converted weights, or a stand-in by its own name.
The paper: 69 M frames, batch 104 on 8 A100, 10 days and 2 days.
The paper's weights of losses are not published; these are face vid2vid's where it has them. The
full runs have not been made yet.
"""

import ml_collections


def get_config(mode: str = ''):
  if mode not in (
    '',
    'stage1',
    'stage2',
    'speech',
    'actors',
    'animals',
    'smoke',
    'smoke2',
    'smoke3',
  ):
    raise ValueError(f'unknown mode {mode!r}')
  c = ml_collections.ConfigDict()
  c.task = 'liveportrait/stage1'
  c.seed = 0

  # name: face_clips (records at `path`), actors (a folder), toy_faces (drawn: count clips of
  # `frames`); image_share of the examples are photographs, from the records at `images`, which must
  # be named; 'none' trains on clips alone. The paper mixes 60,000 images
  # with clips of 18,900 people and does not publish the share: a quarter is our choice
  c.data = dict(
    name='face_clips',
    path='out/faces',
    held_out='',
    images='',
    image_share=0.25,
    frames=16,
    count=64,
    holdout=0,
  )
  c.batch_size = 104  # global, pairs of frames
  # norm 'group' from scratch; 'folded' to go on from published weights. features and identity:
  # folders of `convert.metrics vgg19` and `arcface`, as in the paper, or the stand-ins 'pyramid'
  # and 'coarse', which need no weights and are no substitute
  c.model = dict(variant='base', norm='group', weights='', features='', identity='')
  c.loss = dict(
    equivariance=10.0,
    prior=10.0,
    prior_distance=0.1,
    prior_depth=0.33,
    head_pose=20.0,
    deformation=5.0,
    perceptual=10.0,
    gan=1.0,
    feature_matching=10.0,
    critic=1.0,
    whole=1.0,
    face=1.0,
    lips=1.0,
    identity=1.0,
    guide=10.0,
    wing_omega=0.1,
    wing_epsilon=0.01,
    guided_keypoints=tuple(range(11, 21)),
    openness=1.0,
  )

  c.mesh = (('data', -1), ('fsdp', 1))
  c.param_sharding = ((r'.*', None),)  # 130 M parameters: replicated

  c.total_steps = 600_000
  c.optimizer = dict(
    learning_rate=2e-4,
    warmup_steps=500,
    weight_decay=0.0,
    clip_norm=100.0,
    betas=(0.5, 0.999),
    ema_decay=0.999,
  )
  c.log_every, c.save_every, c.eval_every, c.keep = 100, 5_000, 5_000, 3

  _stage(c, mode)
  _small(c, mode)
  return c.lock()


def _stage(c, mode: str):
  """The other trainings in place of stage one."""
  if mode in ('stage2', 'smoke2'):
    c.task = 'liveportrait/stage2'
    c.model = dict(variant='base', norm='group', weights='', openness='')
    c.data.image_share = 0.0
    c.loss = dict(
      regular=dict(stitching=1e-2, eyes=1e-1, lip=1e-1), condition=dict(eyes=10.0, lip=10.0)
    )
    c.total_steps = 100_000
  if mode in ('speech', 'smoke3'):
    # records: speech features at `features_rate` a second with the motion of the speaker at `rate`
    c.task = 'liveportrait/speech'
    c.data = dict(
      name='speech',
      path='out/speech_records',
      held_out='',
      frames=64,
      rate=25.0,
      features_rate=50.0,
      count=64,
      holdout=0,
    )
    c.model = dict(features=384, width=256, heads=4, depth=6)
    c.loss = dict(velocity=1.0, noise=0.05)
    c.batch_size, c.total_steps = 64, 200_000
    c.optimizer.update(learning_rate=1e-4, betas=(0.9, 0.99), clip_norm=1.0)
  if mode == 'animals':
    c.loss.update(head_pose=0.0, lips=0.0, identity=0.0)
    c.data.image_share = 0.0
    c.model.norm = 'folded'
    c.optimizer.learning_rate, c.total_steps = 5e-5, 20_000


def _small(c, mode: str):
  """Sizes to try a training with."""
  if mode == 'smoke' or mode in ('smoke2', 'actors'):
    c.data.update(name='toy_faces', path='', frames=6, count=16, holdout=2, image_share=0.25)
    c.model.variant = 'tiny'
    if mode != 'smoke2':
      c.model.update(features='pyramid', identity='coarse')
    c.batch_size, c.total_steps = 2, 4
    c.optimizer.update(learning_rate=1e-3, warmup_steps=2, ema_decay=0.9)
    c.log_every, c.save_every, c.eval_every, c.keep, c.eval_batches = 1, 2, 4, 2, 1
  if mode == 'smoke3':
    c.data.update(name='toy_speech', path='', frames=12, count=16, holdout=2)
    c.model.update(features=8, width=16, heads=2, depth=2)
    c.batch_size, c.total_steps = 4, 4
    c.optimizer.update(learning_rate=1e-3, warmup_steps=2, ema_decay=0.9)
    c.log_every, c.save_every, c.eval_every, c.keep, c.eval_batches = 1, 2, 4, 2, 1
  if mode == 'actors':
    c.data.update(name='actors', path='out/actors', holdout=4, image_share=0.0)
    c.batch_size, c.total_steps = 8, 2_000
    c.optimizer.update(ema_decay=0.99)
    c.log_every, c.save_every, c.eval_every = 50, 500, 500
