"""The UNets of Stable Diffusion: outputs of diffusers 0.42.1 (make_sd_fixture.py), published sizes,
exact properties."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.files.safetensors import nested
from exp_jax.networks.motion_module import MotionModule, frame_positions
from exp_jax.networks.sd_unet import SdUNet, sd_unet
from tests.golden.sd_inputs import TEXT, TIMES, inputs
from tests.networks.sd_tiny import GOLDEN, MODELS, flat_params, params

WORDS, CLIPS = inputs(1, 2, 7, TEXT), inputs(2, 2, 3, 16, 24, 4)
IMAGES, REFERENCE = inputs(3, 2, 16, 24, 4), inputs(4, 2, 16, 24, 4)
TIME = np.array(TIMES)
QUICK = {'xla_backend_optimization_level': 0}  # most of these tests is the compiler's time


@functools.cache
def weights(*networks):
  return {'params': params(*networks)}


@functools.cache
def compiled(model, method='__call__'):
  return jax.jit(functools.partial(model.apply, method=method), compiler_options=QUICK)


def bank(network, text):
  return compiled(MODELS[network][1], 'features')(weights(network), REFERENCE, np.zeros(2), text)


def close(found, name):
  # float32 sums in another order; outputs are about 2, banks 5
  np.testing.assert_allclose(found, GOLDEN[name], rtol=0, atol=2e-5)


@pytest.mark.long
@pytest.mark.parametrize('network', ['unet15', 'unet21'])
def test_predictions_are_those_of_diffusers(network):
  found = compiled(MODELS[network][1])(weights(network), IMAGES[:, None], TIME, WORDS)
  close(found[:, 0], network)


@pytest.mark.long
def test_what_a_reference_shows_is_what_self_attentions_see_in_diffusers():
  found = bank('unet15', WORDS)
  assert len(found) == 16 == MODELS['unet15'][1].transformers
  for i, tokens in enumerate(found):
    close(tokens[:1], f'bank{i:02}')


@pytest.mark.long
def test_a_reference_is_read_by_concatenation_or_dropped():
  """Clips without reference are as they were, and each of their frames is the image that it is
  alone, at its own time."""
  run, tokens, both = compiled(MODELS['unet15'][1]), bank('unet15', WORDS), np.array([True, True])
  reading = run(
    weights('unet15'), CLIPS, np.repeat(TIME, 3).reshape(2, 3), WORDS, reference=tokens, keep=both
  )
  close(reading, 'reading')
  times = np.array([[17, 3, 999], [801, 801, 0]])
  mixed = run(weights('unet15'), CLIPS, times, WORDS, reference=tokens, keep=~both)
  for t in range(3):
    alone = run(weights('unet15'), CLIPS[:, t : t + 1], times[:, t], WORDS)
    np.testing.assert_allclose(alone[:, 0], mixed[:, t], atol=1e-5)
  mixed = run(
    weights('unet15'), CLIPS, times, WORDS, reference=tokens, keep=np.array([False, True])
  )
  np.testing.assert_allclose(
    mixed[0, 0], run(weights('unet15'), CLIPS[:, :1], TIME, WORDS)[0, 0], atol=1e-5
  )
  np.testing.assert_allclose(mixed[1, 0], reading[1, 0], atol=1e-5)


@pytest.mark.long
def test_attention_over_all_frames_reads_a_reference():
  model = MODELS['unet_without_text'][1]
  found = compiled(model.clone(three_d=True))
  tokens = bank('unet_without_text', None)
  out = found(weights('unet_without_text'), CLIPS, TIME, reference=tokens)
  close(out, 'across')
  order = np.array([2, 0, 1])
  moved = found(weights('unet_without_text'), CLIPS[:, order], TIME, reference=tokens)
  np.testing.assert_allclose(moved, out[:, order], atol=1e-5)  # frames have no place
  changed = CLIPS * np.array([1, 1, 0.5], np.float32)[:, None, None, None]
  other = found(weights('unet_without_text'), changed, TIME, reference=tokens)
  assert np.abs(other - out)[:, 0].max() > 1e-3  # and see each other


@pytest.mark.long
@pytest.mark.parametrize('norm', ['frame', 'clip'])
def test_motion_modules_are_those_of_diffusers(norm):
  model, video = MODELS['motion'][1].clone(motion=norm), inputs(5, 1, 5, 16, 24, 4)
  run, both = compiled(model), weights('unet15', 'motion')
  out = run(both, video, np.array([400]), WORDS[:1])
  close(out, f'motion_{norm}')
  order = np.array([2, 0, 1, 4, 3])
  # frames have a place
  assert np.abs(run(both, video[:, order], np.array([400]), WORDS[:1]) - out[:, order]).max() > 1e-3
  with pytest.raises(ValueError, match='unknown norm of motion'):
    MotionModule(norm='batch').init(jax.random.key(0), jnp.zeros((1, 2, 4, 4, 32)))


@pytest.mark.long
def test_a_fresh_motion_module_is_the_identity():
  x = inputs(7, 2, 3, 4, 6, 64)
  module = MotionModule(heads=8)
  fresh = module.init(jax.random.key(0), x)
  np.testing.assert_array_equal(module.apply(fresh, x), x)
  fresh['params']['proj_out']['kernel'] += 1.0
  assert np.abs(module.apply(fresh, x) - x).max() > 0.1


@pytest.mark.long
def test_a_network_with_fresh_motion_is_the_network_without():
  """Every last layer of a motion module at zero, as it starts: each frame is what diffusers makes
  of its image."""
  fresh = {
    name: 0 * value if '.motion.proj_out.' in name else value
    for name, value in flat_params('motion').items()
  }
  both = {'params': nested([*flat_params('unet15').items(), *fresh.items()])}
  out = compiled(MODELS['motion'][1])(
    both, np.repeat(IMAGES[:1, None], 5, axis=1), TIME[:1], WORDS[:1]
  )
  for frame in np.moveaxis(np.asarray(out), 1, 0):
    np.testing.assert_allclose(frame[0], GOLDEN['unet15'][0], rtol=0, atol=2e-5)


def test_frame_positions_alternate_sine_and_cosine():
  table = frame_positions(3, 6)
  expected = [
    [f(p * 10_000 ** (-2 * i / 6)) for i in range(3) for f in (math.sin, math.cos)]
    for p in range(3)
  ]
  np.testing.assert_allclose(table, expected, atol=1e-7)


@pytest.mark.long
def test_guidance_is_added_behind_the_first_convolution():
  """It acts as another bias of that convolution would, which the last skip carries, too."""
  model, changed = MODELS['unet15'][1], params('unet15')
  shift = inputs(8, 32)
  changed['conv_in']['bias'] = changed['conv_in']['bias'] + shift
  guidance = np.broadcast_to(shift, (2, 1, 16, 24, 32))
  found = compiled(model)(weights('unet15'), IMAGES[:, None], TIME, WORDS, guidance=guidance)
  np.testing.assert_allclose(
    found, compiled(model)({'params': changed}, IMAGES[:, None], TIME, WORDS), atol=1e-5
  )
  none = compiled(model)(weights('unet15'), IMAGES[:, None], TIME, WORDS, guidance=0 * guidance)
  np.testing.assert_allclose(none[:, 0], GOLDEN['unet15'], atol=2e-5)


def drawn(model, *given):
  """Random parameters; what `init` draws takes the compiler far longer than the network itself."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.normal(scale=0.1, size=leaf.shape).astype(np.float32),
    jax.eval_shape(lambda: model.init(jax.random.key(0), *given)),
  )


@functools.cache
def gradients(remat):
  """(program, gradients) of a small network with respect to its parameters."""
  model = sd_unet('tiny15', widths=(32, 64), heads=(4, 4), blocks=1, remat=remat)
  given = IMAGES[:1, None, :2, :4], TIME[:1], WORDS[:1]
  own = drawn(model, *given)
  program = jax.jit(
    jax.grad(lambda p: jnp.square(model.apply(p, *given)).mean()), compiler_options=QUICK
  ).lower(own)
  return program.as_text(), program.compile()(own)


@pytest.mark.long
@pytest.mark.parametrize('remat', ['input', 'attention'])
def test_less_memory_gives_the_same_gradients(remat):
  (program, found), (plain, expected) = gradients(remat), gradients('none')
  # they are run again
  assert program.count('stablehlo.convolution') > plain.count('stablehlo.convolution')
  largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(expected))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), found, expected)


@pytest.mark.long
def test_half_precision_stays_close():
  """Two levels with random weights: bfloat16 has three digits, and the answer is float32."""
  model = sd_unet('tiny15', widths=(32, 64), heads=(4, 4), blocks=1, motion='frame')
  given = IMAGES[:, None, :2, :4], TIME, WORDS
  own = drawn(model, *given)
  exact, half = (
    compiled(model.clone(dtype=dtype))(own, *given) for dtype in ('float32', 'bfloat16')
  )
  assert half.dtype == np.float32 and 1e-4 < np.abs(half - exact).max() < 0.05 * np.abs(exact).max()


_MOTION = 453_209_280
SIZES = {  # parameters and leaves of the published networks
  'sd15': (sd_unet('sd15'), 859_520_964, 686),
  'without a head': (sd_unet('sd15', head=False), 859_508_800, 682),
  'with motion': (sd_unet('sd15', motion='frame'), 859_520_964 + _MOTION, 686 + 546),
  'sd21': (sd_unet('sd21'), 865_910_724, 686),
  'without text': (sd_unet('sd21', text_dim=0, three_d=True), 815_533_444, 574),
}


@pytest.mark.long
@pytest.mark.parametrize('name', SIZES)
def test_published_sizes(name):
  model, count, leaves = SIZES[name]
  x, text = (
    jnp.zeros((1, 1, 64, 64, 4)),
    jnp.zeros((1, 77, model.text_dim)) if model.text_dim else None,
  )
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x, jnp.zeros(1), text))
  found = jax.tree.leaves(variables)
  assert (sum(math.prod(leaf.shape) for leaf in found), len(found)) == (count, leaves)
  if name == 'without a head':  # as a reference network may be
    tokens = jax.eval_shape(
      lambda v: model.apply(v, x[:, 0], jnp.zeros(1), text, method='features'), variables
    )
    assert [t.shape[2] for t in tokens] == [320] * 2 + [640] * 2 + [1280] * 6 + [640] * 3 + [
      320
    ] * 3
    assert [t.shape[1] for t in tokens] == [4096] * 2 + [1024] * 2 + [256] * 2 + [64] + [
      256
    ] * 3 + [1024] * 3 + [4096] * 3


@pytest.mark.parametrize(
  'change, call, words',
  [
    ({}, dict(text=None), 'text of shape None'),
    ({}, dict(text=WORDS[..., :5]), 'expects a width of 24'),
    (dict(text_dim=0), dict(text=WORDS), 'expects a width of 0'),
    ({}, dict(x=CLIPS[:, :, :12]), 'cannot be halved 3 times'),
    ({}, dict(reference=[WORDS] * 15), '15 arrays for a network of 16'),
    (dict(remat='offload'), {}, 'unknown remat level'),
  ],
)
def test_mistakes_are_named(change, call, words):
  model = MODELS['unet15'][1].clone(**change)
  given = dict(x=CLIPS, text=WORDS) | call
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(
      lambda: model.init(
        jax.random.key(0), given.pop('x'), jnp.zeros(2), given.pop('text'), **given
      )
    )


def test_variants_have_names():
  with pytest.raises(ValueError, match='unknown variant'):
    sd_unet('sd3')
  assert sd_unet('tiny15', blocks=1) == SdUNet((32, 64, 96, 96), (4, 4, 4, 4), 24, blocks=1)
