import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.networks.wan_dit import wan_dit
from exp_jax.systems.expportrait.generator.conditions import (
  PatchEncoder,
  PoseEncoder,
  ReferenceEncoder,
)
from exp_jax.systems.expportrait.generator.dit import PortraitDiT, reference_code

pytestmark = pytest.mark.usefixtures('lightly_compiled')
B, H, W, C = 2, 32, 48, 4


def inputs(frames, latent_frames, stride):
  keys = jax.random.split(jax.random.key(0), 5)
  image = lambda key, *shape: jax.random.uniform(key, (B, *shape, H, W, 3))
  grid = (H // stride, W // stride, C)
  return dict(
    latents=jax.random.normal(keys[0], (B, latent_frames, *grid)),
    t=jnp.array([5.0, 900.0]),
    reference_latents=jax.random.normal(keys[1], (B, 1, *grid)),
    reference=image(keys[2]),
    reference_normals=image(keys[3]),
    normals=image(keys[4], frames),
  )


def portrait(strides, *, preview=False, **options):
  channels = (3 if preview else 2) * C + strides[0]
  backbone = wan_dit('tiny', in_channels=channels, out_channels=C, text_dim=0)
  return PortraitDiT(backbone, strides, preview=preview, **options)


def filled(init, *args, **kwargs):
  """Random parameters of the right shapes; compiling the initializers would take too long."""
  shapes = jax.eval_shape(lambda: init(jax.random.key(0), *args, **kwargs))['params']
  rng = np.random.default_rng(0)
  draw = lambda s: rng.normal(size=s.shape) / np.sqrt(np.prod(s.shape[-4:-1]) or 1)
  return jax.tree.map(lambda s: np.asarray(draw(s), np.float32), shapes)


@pytest.mark.parametrize('frames', [1, 5, 25, 49, 81])
def test_pose_tokens_fill_the_grid_of_the_transformer(frames):
  shape = jax.eval_shape(
    lambda x: PoseEncoder(24).init_with_output(jax.random.key(0), x)[0],
    jnp.zeros((1, frames, H, W, 3)),
  ).shape
  assert shape == (1, (frames - 1) // 4 + 1, H // 16, W // 16, 24)


def test_the_pose_encoder_sees_the_first_frame_repeated_in_front():
  """Against loops over the windows of each convolution: three copies of frame 0, then the clip,
  zeros beyond both."""
  frames, width = 5, 7
  normals = np.random.default_rng(1).random((frames, 16, 32, 3)).astype(np.float32)
  encoder = PoseEncoder(width, hidden=4)
  params = filled(encoder.init, normals[None])

  def convolved(x, layer, strides, pad):
    kernel = layer['kernel'].astype(np.float64)
    x = np.pad(x, ((pad, pad),) * 3 + ((0, 0),))
    sizes = [(n - k) // s + 1 for n, k, s in zip(x.shape, kernel.shape, strides)]
    out = np.zeros((*sizes, kernel.shape[-1])) + layer['bias']
    for window in np.ndindex(kernel.shape[:3]):
      part = tuple(slice(a, a + s * (n - 1) + 1, s) for a, s, n in zip(window, strides, sizes))
      out += x[part] @ kernel[window]
    return out

  x = np.concatenate([np.repeat(normals[:1], 3, axis=0), normals]).astype(np.float64)
  for i, strides in enumerate([(1, 1, 1)] * 3 + [(1, 2, 2), (2, 2, 2), (2, 2, 2)]):
    x = convolved(x, params[f'conv{i}'], strides, 1)
    x = x / (1 + np.exp(-x))
  expected = convolved(x, params['conv6'], (1, 2, 2), 0)
  found = jax.jit(encoder.apply)({'params': params}, normals[None])[0]
  assert found.shape == expected.shape == (2, 1, 2, width)
  # float32 through seven layers
  np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_encoders_have_the_published_sizes():
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  pose = jax.eval_shape(
    lambda: PoseEncoder(5120).init(jax.random.key(0), jnp.zeros((1, 5, 32, 32, 3)))
  )
  assert count(pose) == 368_752
  reference = jax.eval_shape(
    lambda: ReferenceEncoder(20).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  )
  assert count(reference) == 12_628
  encode = lambda x: PatchEncoder(24, 16, 8).init_with_output(jax.random.key(0), x)[0]
  shape = jax.eval_shape(encode, jnp.zeros((B, 3, H, W, 3))).shape
  assert shape == (B, 3, H // 16, W // 16, 24)


def test_the_condition_marks_and_holds_the_reference():
  code = jnp.arange(1, B * 2 * 3 * C + 1.0).reshape(B, 1, 2, 3, C)
  y = reference_code(code, 3, mask_channels=4, spread=False)
  assert y.shape == (B, 3, 2, 3, 4 + C)
  np.testing.assert_array_equal(y[:, 0, ..., 4:], code[:, 0])
  np.testing.assert_array_equal(y[:, 0, ..., :4], 1.0)
  np.testing.assert_array_equal(y[:, 1:], 0.0)
  spread = reference_code(code, 3, mask_channels=1, spread=True)
  np.testing.assert_array_equal(spread[:, 2, ..., 1:], code[:, 0])


@pytest.mark.parametrize(
  'fusion, encoder, preview',
  [('sum', 'conv', False), ('concat_linear', 'patch', False), ('sequence', 'patch', True)],
)
def test_shapes_and_influence_of_each_condition(fusion, encoder, preview):
  strides = (4, 8, 8) if encoder == 'conv' else (1, 4, 4)
  frames, latent_frames = (5, 2) if encoder == 'conv' else (3, 3)
  model = portrait(strides, fusion=fusion, encoder=encoder, preview=preview)
  given = inputs(frames, latent_frames, strides[1])
  if preview:
    given['preview_latents'] = jax.random.normal(jax.random.key(9), given['latents'].shape)
  params = filled(model.init, **given)
  apply = jax.jit(lambda p, **kw: model.apply({'params': p}, **kw))
  kept = dict(keep_pose=jnp.ones(B), keep_reference=jnp.ones(B))
  out = apply(params, **given, **kept)
  assert out.shape == given['latents'].shape and out.dtype == jnp.float32
  changes = {
    key: given[key] * 0.5
    for key in ('reference_latents', 'reference', 'reference_normals', 'normals', 'preview_latents')
    if key in given
  }
  for key, other in changes.items():
    assert np.abs(apply(params, **(given | {key: other}), **kept) - out).max() > 1e-4, key
  dropped = dict(keep_pose=jnp.zeros(B), keep_reference=jnp.zeros(B))
  a, b = apply(params, **given, **dropped), apply(params, **(given | changes), **dropped)
  np.testing.assert_allclose(a, b, atol=1e-6 * np.abs(a).max())


def test_a_reference_in_front_leaves_each_frame_its_own_prediction():
  """With blocks that add nothing a token speaks for itself: frame 1 of the prediction depends on
  frame 1 of the latents alone."""
  given = inputs(3, 3, 4)
  model = portrait((1, 4, 4), fusion='sequence', encoder='patch')
  params = filled(model.init, **given)
  params['backbone']['blocks'] = jax.tree.map(np.zeros_like, params['backbone']['blocks'])
  apply = jax.jit(lambda latents: model.apply({'params': params}, **(given | {'latents': latents})))
  changed = np.abs(apply(given['latents'].at[:, 1].add(1.0)) - apply(given['latents'])).max(
    (0, 2, 3, 4)
  )
  assert changed[1] > 0.1 and changed[0] == changed[2] == 0


def test_zero_init_starts_from_the_backbone():
  given = inputs(5, 2, 8)
  model = portrait((4, 8, 8), zero_init=True)
  params = filled(model.init, **given)
  for encoder, conv, size in (('pose', 'conv6', 5), ('reference', 'conv5', 4)):
    start = jax.eval_shape(lambda: model.init(jax.random.key(0), **given))['params'][encoder][conv]
    assert len(start['kernel'].shape) == size
    params[encoder][conv] = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), start)
  out = jax.jit(model.apply)({'params': params}, **given)
  y = reference_code(given['reference_latents'], 2, mask_channels=4, spread=False)
  alone = jax.jit(model.backbone.apply)(
    {'params': params['backbone']}, jnp.concatenate([given['latents'], y], -1), given['t']
  )
  np.testing.assert_allclose(out, alone, atol=1e-5)
  last = PoseEncoder(8, zero_last=True).init_with_output(
    jax.random.key(0), jnp.ones((1, 1, 16, 16, 3))
  )[0]
  assert not last.any()


@pytest.mark.long
def test_the_start_of_a_refining_network_is_the_preview_itself():
  """With a backbone that says nothing yet, the output is the preview's code, not the
  reference's."""
  given = inputs(3, 3, 4) | {
    'preview_latents': jax.random.normal(jax.random.key(9), (B, 3, H // 4, W // 4, C))
  }
  model = portrait((1, 4, 4), preview=True, encoder='patch', fusion='sequence')
  params = filled(model.init, **given)
  start = jax.jit(model.init)(jax.random.key(0), **given)['params']
  params['refine'] = start['refine']  # its last layer is drawn as zeros
  params['backbone']['head'] = jax.tree.map(np.zeros_like, params['backbone']['head'])
  apply = jax.jit(lambda p, **kw: model.apply({'params': p}, **kw))
  np.testing.assert_allclose(apply(params, **given), given['preview_latents'], atol=1e-6)
  without = apply(params, **given, keep_pose=jnp.zeros(B), keep_reference=jnp.ones(B))
  np.testing.assert_allclose(
    without, jnp.broadcast_to(given['reference_latents'], without.shape), atol=1e-6
  )
