"""What the portrait task starts from and trains: Wan weights, adapters, chosen sets, further
control channels."""

import dataclasses
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.convert import lora as lora_files
from exp_jax.convert import wan
from exp_jax.data.synthetic import synthetic_clip
from exp_jax.errors import UserError
from exp_jax.files.npz import write_npz
from exp_jax.files.safetensors import SafetensorsFile, flattened, write_safetensors
from exp_jax.networks.adapters import save_adapters
from exp_jax.networks.codec import open_codec
from exp_jax.networks.wan_dit import wan_dit
from exp_jax.networks.weights import load_weights
from exp_jax.systems.expportrait.generator import dit_task, prompts
from exp_jax.systems.expportrait.generator.conditions import PatchEncoder, PoseEncoder
from exp_jax.systems.expportrait.generator.dit import reference_code
from exp_jax.training import loop
from exp_jax.training.exports import write_export
from exp_jax.training.settings import settings_of

pytestmark = pytest.mark.usefixtures('lightly_compiled')
CONFIG = Path(__file__).parents[3] / 'configs' / 'dit_a800.py'
# the sizes of 'tiny', 16 channels in and out
BASE = dict(width=32, heads=2, ffn=64, depth=2, text_dim=12, freq_dim=16)


def config_of(**changes):
  """The training of the paper at toy size: Wan's strides and channels, latents from the records."""
  config = runpy.run_path(str(CONFIG))['get_config']().unlock()
  config.data.update(num_frames=5, height=32, width=32)
  config.model.update(
    variant='tiny', dtype='float32', residual_dtype='float32', attention='xla', remat='none'
  )
  config.flow.text_tokens, config.batch_size = 4, 2
  for key, value in changes.items():
    section, name = key.split('__')
    config[section][name] = value
  return config.lock()


def batch_of(config):
  spec, rng = dit_task.task(config).batch_spec, np.random.default_rng(0)
  return {
    k: (
      rng.integers(0, 256, v.shape).astype(np.uint8)
      if v.dtype == np.uint8
      else rng.normal(size=v.shape).astype(np.float16)
    )
    for k, v in spec.items()
  }


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  """(folder of converted weights, a file of adapters) of a random tiny text-to-video model."""
  path, rng = tmp_path_factory.mktemp('base'), np.random.default_rng(1)
  model = wan_dit('tiny', **BASE)
  leaves, arrays = wan.abstract_params(model), {}
  for name, piece in wan.plan('dit', model, 'diffusers').items():
    shape = leaves[piece.ours].shape[piece.layer is not None :]
    value = rng.normal(size=shape) / np.sqrt(shape[0] if len(shape) > 1 else 9)
    arrays[name] = wan.wan_names.from_ours(value.astype(np.float32), piece.layout)
  write_safetensors(path / 'base.safetensors', arrays)
  wan.convert(path / 'base.safetensors', path / 'w', dtype='keep', heads=2)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  adapters = {}
  for name, piece in wan.plan('dit', model, 'original').items():
    if piece.layer is not None and piece.ours.endswith('kernel'):
      i, o = leaves[piece.ours].shape[1:]
      stem = f'pipe.dit.{name.removesuffix(".weight")}'
      adapters |= {
        f'{stem}.lora_A.default.weight': draw(3, i),
        f'{stem}.lora_B.default.weight': draw(o, 3),
      }
  widths = (3, 16, 16, 16, 16, 16, 16, 32)
  for i in range(7):
    kernel = (1, 2, 2) if i == 6 else (3, 3, 3)
    adapters |= {
      f'dwpose_embedding.{2 * i}.weight': draw(widths[i + 1], widths[i], *kernel),
      f'dwpose_embedding.{2 * i}.bias': draw(widths[i + 1]),
    }
  save_adapters(lora_files.read(adapters, model), path / 'lora.safetensors')
  return path / 'w', path / 'lora.safetensors', adapters


def started(task):
  """Zeros, and what the task starts from in their place, as the trainer does."""
  params = jax.tree.map(
    lambda x: np.zeros(x.shape, np.float32), jax.eval_shape(task.init_fn, jax.random.key(0))
  )

  def put(into, values):
    for key, value in values.items():
      if isinstance(value, dict):
        put(into[key], value)
      else:
        assert into[key].shape == value.shape
        into[key] = np.asarray(value, np.float32)

  put(params, task.start())
  return params


@pytest.mark.long
def test_step_zero_is_the_unmodified_backbone(base):
  """Zero-init encoders and a patch embedding filled up with zeros: the portrait conditions change
  nothing yet."""
  config = config_of(model__weights=str(base[0]))
  codec = open_codec('wan', '')
  params = started(dit_task.task(config))
  rng = np.random.default_rng(2)
  for encoder, last in (
    ('pose', 'conv6'),
    ('reference', 'conv5'),
  ):  # zero_init: all but the last layer is drawn
    start = jax.eval_shape(dit_task.task(config).init_fn, jax.random.key(0))[encoder]
    params[encoder] = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), start)
    params[encoder][last] = jax.tree.map(np.zeros_like, params[encoder][last])
  zero = PoseEncoder(8, zero_last=True).init(jax.random.key(0), jnp.zeros((1, 1, 16, 16, 3)))[
    'params'
  ]['conv6']
  assert not zero['kernel'].any() and not zero['bias'].any()
  weights = load_weights(base[0], 'dit').arrays
  assert params['backbone']['patch']['kernel'].shape == (36 * 4, 32)
  for name, leaf in flattened(params['backbone']).items():
    if name != 'patch.kernel':
      np.testing.assert_array_equal(leaf, weights[name])
  batch = batch_of(config)
  conditions = dit_task.conditions_of(batch, codec)
  z, sigma, text = np.float32(batch['latents']), jnp.array([0.3, 0.9]), jnp.ones((2, 4, 12))
  v = jax.jit(dit_task.velocity_fn(dit_task.portrait_dit(config, codec), 'velocity'))(
    params, z, sigma, text=text, **conditions
  )
  alone = jax.jit(wan_dit('tiny', **BASE).apply)(
    {'params': load_weights(base[0], 'dit').tree()}, z, 1000 * sigma, text
  )
  np.testing.assert_allclose(v, alone, atol=2e-5 * np.abs(alone).max())
  assert np.abs(alone).max() > 0.5


def test_adapters_and_pose_encoder_are_started_from_a_file(base):
  changes = dict(
    model__weights=str(base[0]),
    model__adapters=str(base[1]),
    model__train='lora',
    model__lora_rank=3,
    model__lora_alpha=6.0,
    model__lora_targets=r'blocks/(self|cross|ffn)/.*',
  )
  task = dit_task.task(config_of(**changes))
  params = started(task)
  pair = params['lora']['backbone']['blocks']['self']['q']
  given = base[2]
  stem = 'pipe.dit.blocks.1.self_attn.q'
  product = given[f'{stem}.lora_B.default.weight'] @ given[f'{stem}.lora_A.default.weight']
  # alpha / rank is 2 in training
  np.testing.assert_allclose(2.0 * pair['a'][1] @ pair['b'][1], product.T, atol=1e-5)
  np.testing.assert_array_equal(
    params['pose']['conv0']['kernel'], given['dwpose_embedding.0.weight'].transpose(2, 3, 4, 1, 0)
  )
  paths = {
    jax.tree_util.keystr(p, simple=True, separator='/')
    for p, _ in jax.tree_util.tree_leaves_with_path(params)
  }
  trained = {p.split('/')[0] for p in paths if task.trainable(p)}
  assert trained == {'lora', 'pose', 'reference'} and not any(
    task.trainable(p) for p in paths if p.startswith('backbone')
  )
  with pytest.raises(UserError, match='has rank 3'):
    dit_task.task(config_of(**(changes | {'model__lora_rank': 4})))


def test_what_was_trained_goes_out_again(base, tmp_path):
  """An export of a LoRA run: adapters with their encoders in UniAnimate-DiT's names, the backbone
  as Wan weights."""
  config = config_of(
    model__weights=str(base[0]), model__train='lora', model__lora_rank=3, model__lora_alpha=6.0
  )
  rng = np.random.default_rng(4)
  draw = lambda x: rng.normal(size=x.shape).astype(jnp.bfloat16)
  params = jax.tree.map(draw, jax.eval_shape(dit_task.task(config).init_fn, jax.random.key(0)))
  write_export(tmp_path / 'e', config, params)
  lora_files.main(['release', str(tmp_path / 'e'), '-o', str(tmp_path / 'a.safetensors')])
  lora_files.main(
    [
      'export',
      str(tmp_path / 'a.safetensors'),
      '-o',
      str(tmp_path / 'u.safetensors'),
      '--base',
      str(base[0]),
    ]
  )
  with SafetensorsFile(tmp_path / 'u.safetensors') as file:
    names = set(file.names)
    down, alpha = (
      file.read('pipe.dit.blocks.1.cross_attn.o.lora_A.default.weight'),
      file.read('pipe.dit.blocks.1.cross_attn.o.alpha'),
    )
  np.testing.assert_array_equal(
    down, params['lora']['backbone']['blocks']['cross']['o']['a'][1].T.astype(np.float32)
  )
  assert alpha == 6 and {'dwpose_embedding.12.weight', 'randomref_embedding_pose.10.bias'} <= names
  wan.main(['release', str(tmp_path / 'e'), '-o', str(tmp_path / 'w')])
  wan.main(['export', str(tmp_path / 'w'), '-o', str(tmp_path / 'out')])
  with SafetensorsFile(tmp_path / 'out' / 'diffusion_pytorch_model.safetensors') as file:
    assert file.shape('patch_embedding.weight') == (32, 36, 1, 2, 2)
    assert file.dtype('blocks.0.attn1.to_q.weight') == jnp.bfloat16
    np.testing.assert_array_equal(
      file.read('blocks.0.attn1.to_q.weight'),
      params['backbone']['blocks']['self']['q']['kernel'][0].T,
    )


def zeros_but(task, bias):
  """Parameters of a network that says `bias` [C] everywhere, whatever it sees."""
  params = jax.tree.map(
    lambda x: jnp.zeros(x.shape), jax.eval_shape(task.init_fn, jax.random.key(0))
  )
  head = params['backbone']['head']
  head['bias'] = jnp.tile(bias, head['bias'].size // bias.size)  # channel fastest inside a patch
  return params


def test_what_is_learnt_leads_from_noise_to_the_data():
  """All clips have one colour c: the best constant velocity along the paths from noise is then -c,
  and its loss is known.

  The velocity v of a path is noise - data, so that data = noise - v. For a network that says b the
  loss is E[w] (1 + |b + c|^2 / C), with unit normal noise and w the weight at noise levels s = 5 u
  / (1 + 4 u), u even in 0..1.
  """
  config = config_of(flow__weight='x0', flow__sigma='grid', flow__shift=5.0)
  task, batch, color = (
    dit_task.task(config),
    batch_of(config),
    np.linspace(-2, 3, 16).astype(np.float32),
  )
  batch['latents'] = np.broadcast_to(color, batch['latents'].shape).astype(np.float16)
  keys = jax.random.split(jax.random.key(5), 60)
  run = jax.jit(
    lambda bias: jnp.mean(
      jax.lax.map(lambda key: task.loss_fn(zeros_but(task, bias), batch, key)[0], keys)
    )
  )
  u = np.arange(1, 1001) / 1000
  mean = np.mean((5 * u / (1 + 4 * u)) ** 2)
  best = run(jnp.asarray(-color))
  # 120 noise levels, whose weights deviate by half of their mean
  np.testing.assert_allclose(best, mean, rtol=0.12)
  for bias in (0 * color, color):
    np.testing.assert_allclose(
      run(jnp.asarray(bias)) / best, 1 + np.mean((bias + color) ** 2), rtol=0.02
    )
  # from pure noise in one step: noise - v, so that the best velocity leaves the noise's own
  # variance
  ((_, evaluate),) = task.eval_fns
  found = jax.jit(evaluate)(zeros_but(task, jnp.asarray(-color)), batch, jax.random.key(1))
  np.testing.assert_allclose(found['x0_error'], 1.0, rtol=0.1)


@pytest.mark.parametrize(
  'dropped, kept', [('normals', 'reference_latents'), ('reference_latents', 'normals')]
)
def test_conditions_are_dropped_by_their_own_chances(dropped, kept):
  """With a chance of 1 a condition makes no difference to the loss, while the other one, with a
  chance of 0, does."""
  chances = {'normals': 'condition__drop_pose', 'reference_latents': 'condition__drop_reference'}
  config = config_of(**{chances[dropped]: 1.0, chances[kept]: 0.0})
  task, rng, batch = dit_task.task(config), np.random.default_rng(3), batch_of(config)
  params = jax.tree.map(
    lambda x: np.asarray(0.3 * rng.normal(size=x.shape), np.float32),
    jax.eval_shape(task.init_fn, jax.random.key(0)),
  )
  loss = jax.jit(lambda batch: task.loss_fn(params, batch, jax.random.key(1))[0])
  other = lambda name: batch | {name: np.roll(batch[name], 1, 2)}
  assert loss(other(dropped)) == loss(batch)
  assert abs(loss(other(kept)) / loss(batch) - 1) > 1e-3


def gradient_of(config):
  task, rng = dit_task.task(config), np.random.default_rng(3)
  shapes = jax.eval_shape(task.init_fn, jax.random.key(0))
  params = jax.tree.map(lambda x: jnp.asarray(0.1 * rng.normal(size=x.shape), jnp.float32), shapes)
  batch = batch_of(config)
  return jax.jit(jax.grad(lambda p: task.loss_fn(p, batch, jax.random.key(1))[0]))(params)


def test_the_warm_up_leaves_the_rows_of_the_noisy_latents_alone():
  """Two updates with weight decay and an average: those rows keep their bits in both, the others
  and the encoders move."""
  config = config_of(
    model__train='warmup', optimizer__learning_rate=1.0, optimizer__weight_decay=0.5
  )
  task, rng = dit_task.task(config), np.random.default_rng(3)
  shapes = jax.eval_shape(task.init_fn, jax.random.key(0))
  params = jax.tree.map(lambda x: jnp.asarray(0.1 * rng.normal(size=x.shape), jnp.float32), shapes)
  settings = settings_of(config)
  step = jax.jit(loop.step_fn_of(settings, task))
  state, frozen = loop.init_fn_of(settings, dataclasses.replace(task, init_fn=lambda _: params))(
    None
  )
  for _ in range(2):
    state, metrics = step(state, frozen, batch_of(config), jax.random.key(1), np.zeros(1, np.int32))
  assert int(metrics['skipped'][0]) == 0 and int(state.step) == 2
  before = params['backbone']['patch']
  for tree in (state.params, state.ema):
    patch = tree['backbone']['patch']
    assert np.asarray(patch['kernel'][:64]).tobytes() == np.asarray(before['kernel'][:64]).tobytes()
    assert np.asarray(patch['bias']).tobytes() == np.asarray(before['bias']).tobytes()
    assert np.abs(patch['kernel'][64:] - before['kernel'][64:]).min() > 0
    assert np.abs(tree['pose']['conv6']['kernel'] - params['pose']['conv6']['kernel']).min() > 0
  trained = task.trainable
  assert (
    trained('pose/conv6/kernel')
    and trained('backbone/patch/kernel')
    and not trained('backbone/time/fc1/kernel')
  )


@pytest.mark.long
def test_further_control_channels_start_silent_and_learn():
  config = config_of(condition__extras=('mouth_depth', 'depth'))
  task = dit_task.task(config)
  assert task.batch_spec['extras'].shape == (2, 5, 32, 32, 2) and task.tokens == 2 * 2 * 2
  kernel = gradient_of(config)['pose']['conv0']['kernel']
  assert kernel.shape[-2] == 5 and np.abs(kernel[..., 3:, :]).max() > 0
  for encoder in (PoseEncoder(8), PatchEncoder(8, 16, 4, control=True)):
    x = jax.random.uniform(jax.random.key(0), (1, 5, 16, 32, 5))
    params = encoder.init(jax.random.key(1), x)
    silent = encoder.apply(params, x.at[..., 3:].multiply(0.3))
    np.testing.assert_array_equal(encoder.apply(params, x), silent)
    assert np.abs(encoder.apply(params, x.at[..., :3].multiply(0.3)) - silent).max() > 1e-4


def test_prompts_and_image_features_reach_the_backbone(tmp_path):
  write_npz(
    tmp_path / 'p.npz',
    {'positive': np.full((6, 12), 0.5, np.float32), 'negative': np.zeros((6, 12), np.float32)},
  )
  assert prompts.text_of(config_of(flow__prompt=str(tmp_path / 'p.npz')), 12).shape == (1, 6, 12)
  assert not prompts.text_of(config_of(flow__prompt=str(tmp_path / 'p.npz')), 12, 'negative').any()
  assert prompts.text_of(config_of(flow__prompt='zeros'), 12, 'negative') is None
  assert not prompts.text_of(config_of(flow__prompt='zeros'), 12).any()
  with pytest.raises(UserError, match='no positive'):
    prompts.text_of(config_of(flow__prompt=str(tmp_path / 'p.npz')), 13)
  config = config_of(model__variant='wan_14b_i2v')
  task = dit_task.task(config)
  assert task.batch_spec['clip'].shape == (2, 257, 1280)
  shapes = flattened(jax.eval_shape(task.init_fn, jax.random.key(0)))
  assert shapes['backbone.blocks.cross.ki.kernel'].shape == (40, 5120, 5120) and shapes[
    'backbone.patch.kernel'
  ].shape == (144, 5120)
  assert sum(x.size for n, x in shapes.items() if n.startswith('pose.')) == 368_752


@pytest.mark.parametrize(
  'changes, sentence',
  [
    (dict(model__train='some'), 'choose from'),
    (dict(model__train='lora'), 'belong together'),
    (dict(model__lora_rank=2), 'belong together'),
    (dict(model__weights='/nowhere'), 'no converted weights'),
  ],
)
def test_mistakes_are_named(changes, sentence):
  with pytest.raises(UserError, match=sentence):
    dit_task.task(config_of(**changes))


def test_weights_of_another_eps_are_refused(base):
  """No array shows it, and the network would answer something else."""
  with pytest.raises(
    UserError, match='was made for eps=1e-06, config.model has 0.001: .* set config.model.eps=1e-06'
  ):
    dit_task.task(config_of(model__weights=str(base[0]), model__eps=1e-3))


def test_the_condition_is_the_image_and_a_mask_for_its_frame():
  y = reference_code(jnp.ones((1, 3, 2, 2, 16)), 3, mask_channels=4, spread=False)
  assert (
    y.shape[-1] == 20
    and y[0, 0, ..., :4].all()
    and not y[0, 1:, ..., :4].any()
    and y[0, 2, ..., 4:].all()
  )


@pytest.mark.slow
def test_one_clip_is_learnt_by_heart():
  """The tiny variant, one clip: sampled again from noise it comes back at more than 30 dB."""
  from exp_jax.diffusion.samplers import euler, sigma_grid
  from exp_jax.training.optimizers import make_optimizer

  config = runpy.run_path(str(CONFIG))['get_config']('smoke').unlock()
  config.condition.update(drop_pose=0.0, drop_reference=0.0)
  config.flow.update(shift=3.0, sigma='noise_or_uniform', weight='x0')
  config = config.lock()
  task, codec = dit_task.task(config), open_codec(**config.vae)
  clip = synthetic_clip(4, num_frames=5, height=32, width=32) | {
    'valid': np.full((5, 8, 8), 255, np.uint8)
  }
  batch = {k: np.repeat(clip[k][None], 2, axis=0) for k in task.batch_spec}
  params = jax.jit(task.init_fn)(jax.random.key(0))
  tx = make_optimizer(
    learning_rate=lambda n: 3e-3 * jnp.minimum(1.0, n / 20) * jnp.exp(-n / 300), weight_decay=0.0
  )

  @jax.jit
  def update(params, state, rng):
    gradient = jax.grad(lambda p: task.loss_fn(p, batch, rng)[0])(params)
    updates, state = tx.update(gradient, state, params)
    return jax.tree.map(jnp.add, params, updates), state

  state = jax.jit(tx.init)(params)
  for step in range(1200):
    params, state = update(params, state, jax.random.fold_in(jax.random.key(2), step))
  model, text = dit_task.portrait_dit(config, codec), jnp.zeros((1, 4, 12))
  velocity = dit_task.velocity_fn(model, config.model.prediction)
  conditions = jax.tree.map(lambda x: x[:1], dit_task.conditions_of(batch, codec))
  denoise = lambda z, sigma: velocity(params, z, sigma * jnp.ones(1), text=text, **conditions)
  noise = jax.random.normal(jax.random.key(9), (1, 5, 8, 8, 48))
  found = jax.jit(
    lambda n: codec.decode(euler(denoise, n, sigma_grid(8, 3.0, convention='plain')))
  )(noise)
  error = np.square(np.clip(found[0] * 0.5 + 0.5, 0, 1) - clip['video'] / 255).mean()
  psnr = -10 * np.log10(error)
  print(f'PSNR {psnr:.1f} dB')
  assert psnr > 30, psnr


def test_an_evaluation_shows_what_the_network_makes_of_noise():
  """Reference, normals, guess and truth side by side; the truth is the batch's own, and an
  untrained guess is not."""
  config = runpy.run_path(str(CONFIG))['get_config']('smoke')
  task = dit_task.task(config)
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(task.init_fn, jax.random.key(0))
  params = jax.tree.map(lambda s: np.asarray(0.05 * rng.normal(size=s.shape), np.float32), shapes)
  batch = {k: rng.integers(0, 256, v.shape).astype(np.uint8) for k, v in task.batch_spec.items()}
  ((_, evaluate),) = task.eval_fns
  found = jax.jit(evaluate)(params, batch, jax.random.key(1))
  B, F, H, W, _ = batch['video'].shape
  assert found['clip'].shape == (F, B * H, 4 * W, 3) and np.isfinite(found['x0_error'])
  columns = np.split(np.asarray(found['clip']), 4, axis=2)
  second = slice(H, 2 * H)
  for column, truth in zip(
    columns, (batch['reference'][1], batch['normals'][1], None, batch['video'][1])
  ):
    if truth is not None:
      np.testing.assert_allclose(
        column[:, second], np.broadcast_to(truth / 255.0, column[:, second].shape), atol=2e-3
      )
  assert np.abs(columns[2] - columns[3]).mean() > 0.05


def test_pixels_that_a_crop_invented_are_never_a_target():
  """A network that answers zero: the loss is blind to codes that are not valid, a mean over the
  others, and 0 where none is."""
  config = config_of(flow__prompt='zeros')
  task = dit_task.task(config)
  params = jax.tree.map(
    lambda x: jnp.zeros(x.shape), jax.eval_shape(task.init_fn, jax.random.key(0))
  )
  batch = batch_of(config) | {'valid': np.full((2, 2, 4, 4), 255, np.uint8)}
  loss = jax.jit(
    lambda latents, valid: task.loss_fn(
      params, batch | {'latents': latents, 'valid': valid}, jax.random.key(3)
    )[0]
  )
  latents, hidden = batch['latents'], batch['valid'].copy()
  hidden[0, :, :, 3] = 0
  changed = latents.copy()
  changed[0, :, :, 3] += 3
  assert loss(latents, hidden) == loss(changed, hidden)
  assert abs(loss(latents, batch['valid']) - loss(changed, batch['valid'])) > 0.1
  nothing = np.zeros_like(hidden)
  assert loss(latents, nothing) == 0
  alone = [np.where(np.arange(2)[:, None, None, None] == i, batch['valid'], 0) for i in (0, 1)]
  np.testing.assert_allclose(
    sum(loss(latents, v) for v in alone), loss(latents, batch['valid']), rtol=1e-5
  )
  # a mean: what is left out leaves no hole in it
  twice = np.concatenate([latents[:, :, :, :2]] * 2, axis=3)
  left, right = batch['valid'].copy(), batch['valid'].copy()
  left[..., 2:], right[..., :2] = 0, 0
  np.testing.assert_allclose(
    loss(twice, left) + loss(twice, right), 2 * loss(twice, batch['valid']), rtol=1e-5
  )
