"""Wan transformers, autoencoders and samplers beside diffusers, live, in other sizes than those of
the stored answers.

Weights are random. Tolerances: float32 sums in another order, 2e-5 of outputs near 3; samplers
2e-5.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.convert import wan
from exp_jax.diffusion.samplers import SAMPLERS, sigma_grid
from exp_jax.networks.wan_dit import wan_dit
from exp_jax.networks.wan_vae import decode_in_chunks, encode_in_chunks, wan_vae
from exp_jax.networks.weights import load_weights
from tests.oracles.oracle import oracle

KINDS = {  # sizes of the network as diffusers names them; frames, height and width of the latents
  't2v': (dict(num_attention_heads=3, attention_head_dim=22), (5, 6, 10)),
  'one head, another patch': (
    dict(num_attention_heads=1, attention_head_dim=32, patch_size=(2, 4, 1), out_channels=3),
    (4, 8, 3),
  ),
  'another eps': (dict(num_attention_heads=2, attention_head_dim=16, eps=1e-3), (3, 4, 6)),
  'i2v': (
    dict(
      num_attention_heads=5,
      attention_head_dim=12,
      in_channels=9,
      image_dim=18,
      added_kv_proj_dim=60,
    ),
    (3, 10, 4),
  ),
  'flf2v': (
    dict(
      num_attention_heads=2,
      attention_head_dim=34,
      in_channels=9,
      image_dim=14,
      added_kv_proj_dim=68,
      pos_embed_seq_len=22,
    ),
    (2, 6, 6),
  ),
}


def stirred(model, torch, seed):
  """Random numbers in every parameter, gains near 1."""
  torch.manual_seed(seed)
  with torch.no_grad():
    for name, p in model.named_parameters():
      gain = ('norm' in name and name.endswith('weight')) or name.endswith('gamma')
      p.copy_(torch.randn_like(p) * (0.15 if p.ndim > 1 else 0.1) + float(gain))
  return model.eval()


def close(found, expected, share=1e-5):
  expected = np.asarray(expected)
  np.testing.assert_allclose(found, expected, atol=share * np.abs(expected).max(), rtol=0)
  assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize('kind', KINDS)
def test_transformers_in_and_out(kind, tmp_path):
  """A folder of diffusers is read, gives the same output, and goes back into diffusers with the
  same output and eps."""
  torch, diffusers = oracle('torch'), oracle('diffusers')
  sizes, (F, H, W) = KINDS[kind]
  sizes = (
    dict(in_channels=4, out_channels=4, text_dim=14, freq_dim=18, ffn_dim=52, num_layers=3) | sizes
  )
  model = stirred(diffusers.WanTransformer3DModel(**sizes), torch, 5)
  model.save_pretrained(tmp_path / 'theirs')
  wan.convert(tmp_path / 'theirs', tmp_path / 'ours', dtype='keep')
  weights = load_weights(tmp_path / 'ours', 'dit')
  assert weights.sizes['eps'] == sizes.get('eps', 1e-6)
  image, places = sizes.get('image_dim'), sizes.get('pos_embed_seq_len')
  x, t = torch.randn(2, sizes['in_channels'], F, H, W), torch.tensor([13, 942])
  # diffusers finds the image's tokens behind 512 of text
  text = torch.randn(2, 512 if image else 7, sizes['text_dim'])
  clip = torch.randn(4 if places else 2, places // 2 if places else 9, image) if image else None
  with torch.no_grad():
    expected = model(x, t, text, clip, return_dict=False)[0].movedim(1, -1).numpy()
  ours = wan_dit('tiny', **weights.sizes)
  args = [np.asarray(x.movedim(1, -1)), np.asarray(t, np.float32), np.asarray(text)]
  args += [np.asarray(clip).reshape(2, -1, image)] if image else []
  apply = jax.jit(lambda params, *args: ours.apply({'params': params}, *args))
  close(apply(weights.tree(), *args), expected)
  wan.export(tmp_path / 'ours', tmp_path / 'back')
  back = diffusers.WanTransformer3DModel.from_pretrained(tmp_path / 'back').eval()
  with torch.no_grad():
    close(back(x, t, text, clip, return_dict=False)[0].movedim(1, -1).numpy(), expected)
  assert back.config.eps == model.config.eps


@pytest.mark.parametrize(
  'sizes, video',
  [
    (dict(base_dim=6, dim_mult=[1, 2, 2, 1], num_res_blocks=1), (13, 24, 40)),
    (dict(base_dim=10, dim_mult=[1, 2, 4, 4], num_res_blocks=2), (5, 32, 16)),
    (dict(base_dim=8, dim_mult=[1, 1, 1, 2], num_res_blocks=1), (1, 16, 16)),
  ],
  ids=('thirteen', 'published plan', 'one'),
)
def test_autoencoders(sizes, video, tmp_path):
  """Whole and in chunks; out and in again; diffusers streams frame by frame."""
  torch, diffusers = oracle('torch'), oracle('diffusers')
  model = stirred(diffusers.AutoencoderKLWan(z_dim=16, **sizes), torch, 3)
  model.save_pretrained(tmp_path / 'theirs')
  wan.convert(tmp_path / 'theirs', tmp_path / 'ours', dtype='keep')
  weights = load_weights(tmp_path / 'ours', 'vae')
  ours, params = wan_vae('tiny', **weights.sizes), weights.tree()
  pixels = torch.rand(1, 3, *video) * 2 - 1
  with torch.no_grad():
    mean = model.encode(pixels).latent_dist.mean
    decoded = model.decode(mean).sample.movedim(1, -1).numpy()
  given, code = (np.asarray(value.movedim(1, -1)) for value in (pixels, mean))
  method = lambda name, x: jax.jit(lambda x: ours.apply({'params': params}, x, method=name))(x)
  close(method('encode', given), code)
  close(encode_in_chunks(ours, params, jnp.asarray(given), chunk=2), code)
  np.testing.assert_allclose(method('decode', code), decoded, atol=3e-5)
  np.testing.assert_allclose(
    decode_in_chunks(ours, params, jnp.asarray(code), chunk=2), decoded, atol=3e-5
  )
  wan.export(tmp_path / 'ours', tmp_path / 'back')
  back = diffusers.AutoencoderKLWan.from_pretrained(tmp_path / 'back').eval().state_dict()
  assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize('steps', (1, 3, 8, 20))
@pytest.mark.parametrize('amount', (1.0, 3.0, 8.0))
def test_samplers_on_their_own_grids(steps, amount):
  """UniPC and Euler on the grid of each scheduler of diffusers, with a network that is not
  linear."""
  torch, diffusers = oracle('torch'), oracle('diffusers')
  torch.manual_seed(steps)
  noise, weight = torch.randn(3, 11), torch.randn(11, 11) * 0.3
  for name, scheduler in {
    'unipc_wan': diffusers.UniPCMultistepScheduler(
      prediction_type='flow_prediction', use_flow_sigmas=True, flow_shift=amount
    ),
    'euler': diffusers.FlowMatchEulerDiscreteScheduler(shift=amount),
  }.items():
    scheduler.set_timesteps(steps)
    x = noise.clone()
    for t in scheduler.timesteps:
      x = scheduler.step(torch.tanh(x @ weight) + 3e-4 * float(t) * x, t, x, return_dict=False)[0]
    time = lambda sigma: jnp.round(1000 * sigma) if name == 'unipc_wan' else 1000 * sigma  # noqa: B023  theirs are whole numbers
    denoise = lambda x, sigma: jnp.tanh(x @ np.asarray(weight)) + 3e-4 * time(sigma) * x  # noqa: B023
    grid = (
      sigma_grid(steps, amount) if name == 'unipc_wan' else scheduler.sigmas.numpy().astype(float)
    )
    np.testing.assert_allclose(grid, scheduler.sigmas.numpy(), atol=1e-6)
    np.testing.assert_allclose(
      SAMPLERS[name](denoise, jnp.asarray(noise), grid), x.numpy(), atol=2e-5, err_msg=name
    )
