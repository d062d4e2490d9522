"""Times the Wan transformer: forward, training step and sampling, beside diffusers on torch in the
same run.

  python benchmarks/dit.py [--sizes tiny,small] [--json out.json]                           two CPU cores
  python benchmarks/dit.py --sizes 1.3b,14b_blocks --dtype bfloat16 --attention cudnn       a GPU

| size | network | tokens |
|---|---|---|
| tiny | 256 wide, 4 layers | 256 |
| small | 512 wide, 6 layers | 1024 |
| 1.3b | 1536 wide, 30 layers | 512 x 512 x 81: 21504 |
| 14b_blocks | 5120 wide, 4 layers of the 14B shape | 21504 |
| 14b | 5120 wide, 40 layers | 21504 |

A step is forward, backward and AdamW on the mean squared error; sampling is Euler, per network
evaluation. FLOPs are the formula's (networks/wan_flops.py, tested), MFU is told for known devices.
The peer runs the same sizes with the same weights' shapes, in turns with ours, the fastest of
several rounds counts; without torch and diffusers its column stays empty. Ratios of one run are
sound on a busy machine, times are not.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from exp_jax.diffusion.samplers import euler, sigma_grid
from exp_jax.networks.wan_dit import wan_dit
from exp_jax.networks.wan_flops import flops, peak_tflops

_LARGE = dict(variant='wan_14b_t2v')
SIZES = {  # overrides of a variant, latent frames, rows and columns, text tokens
  'tiny': (
    dict(variant='tiny', width=256, heads=2, ffn=1024, depth=4, text_dim=64, freq_dim=64),
    (4, 16, 16),
    32,
  ),
  'small': (
    dict(variant='tiny', width=512, heads=4, ffn=2048, depth=6, text_dim=128, freq_dim=128),
    (4, 32, 32),
    64,
  ),
  '1.3b': (dict(variant='wan_1_3b'), (21, 64, 64), 512),
  '14b_blocks': (_LARGE | dict(depth=4), (21, 64, 64), 512),
  '14b': (_LARGE, (21, 64, 64), 512),
}


def ours(size, options, steps):
  """{work: function without arguments} and the network."""
  config, (F, H, W), text_tokens = SIZES[size]
  model = wan_dit(
    **config,
    dtype=options.dtype,
    residual_dtype=options.dtype,
    attention=options.attention,
    remat=options.remat,
  )
  keys = jax.random.split(jax.random.key(0), 4)
  x = jax.random.normal(keys[0], (1, F, H, W, 16))
  text = jax.random.normal(keys[1], (1, text_tokens, model.text_dim))
  shapes = jax.eval_shape(lambda: model.init(keys[2], x, jnp.zeros(1), text)['params'])
  store = lambda s: (
    jnp.dtype(options.dtype) if len(s.shape) > 1 and options.dtype != 'float32' else jnp.float32
  )
  rng = np.random.default_rng(0)
  draw = lambda s: jnp.asarray(rng.standard_normal(s.shape, np.float32) * 0.02, store(s))
  params = jax.tree.map(draw, shapes)
  tx = optax.adamw(1e-5)

  @jax.jit
  def forward(params, x, t, text):
    return model.apply({'params': params}, x, t, text)

  @jax.jit
  def step(params, state, x, t, text):
    loss = lambda p: jnp.square(model.apply({'params': p}, x, t, text) - x).mean()
    value, gradient = jax.value_and_grad(loss)(params)
    updates, state = tx.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value

  @jax.jit
  def sample(params, x, text):
    grid = sigma_grid(steps, 5.0, convention='plain')
    return euler(
      lambda z, sigma: model.apply({'params': params}, z, 1000 * sigma[None], text), x, grid
    )

  t, state = jnp.array([500.0]), {}

  def run_step():
    if not state:
      state['tx'] = jax.jit(tx.init)(params)
    jax.block_until_ready(step(params, state['tx'], x, t, text))

  return {
    'forward': lambda: jax.block_until_ready(forward(params, x, t, text)),
    'step': run_step,
    'sampling': lambda: jax.block_until_ready(sample(params, x, text)),
  }, model


def peer(size, options):
  """{forward, step} of diffusers on torch, or {} where they are not installed."""
  try:
    import torch
    from diffusers import WanTransformer3DModel
  except ImportError:
    return {}
  config, (F, H, W), text_tokens = SIZES[size]
  own, device = wan_dit(**config), 'cuda' if torch.cuda.is_available() else 'cpu'
  dtype = getattr(torch, options.dtype)
  with torch.device(device):
    model = WanTransformer3DModel(
      num_attention_heads=own.heads,
      attention_head_dim=own.width // own.heads,
      text_dim=own.text_dim,
      freq_dim=own.freq_dim,
      ffn_dim=own.ffn,
      num_layers=own.depth,
    ).to(dtype)
    x, t = torch.randn(1, 16, F, H, W, dtype=dtype), torch.tensor([500])
    text = torch.randn(1, text_tokens, own.text_dim, dtype=dtype)
  if device == 'cuda':
    model.enable_gradient_checkpointing()
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
  wait = torch.cuda.synchronize if device == 'cuda' else lambda: None

  def forward():
    with torch.no_grad():
      model(x, t, text, return_dict=False)
    wait()

  def step():
    optimizer.zero_grad()
    (model(x, t, text, return_dict=False)[0] - x).square().mean().backward()
    optimizer.step()
    wait()

  return {'forward': forward, 'step': step}


def fastest(functions, rounds):
  """Seconds of the fastest round of each, taking turns after one round to compile."""
  found = [[] for _ in functions]
  for _ in range(rounds + 1):
    for times, function in zip(found, functions):
      began = time.perf_counter()
      function()
      times.append(time.perf_counter() - began)
  return [min(times[1:]) for times in found]


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--sizes', default='tiny,small')
  parser.add_argument('--work', default='forward,step,sampling')
  parser.add_argument('--dtype', default='float32', choices=('float32', 'bfloat16'))
  parser.add_argument('--attention', default='xla')
  parser.add_argument(
    '--remat',
    default='',
    help="level of layers/stack.py; default: 'none' on a CPU, else 'attention'",
  )
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--steps', type=int, default=4, help='of the sampler')
  parser.add_argument('--json', help='also write the rows here')
  options = parser.parse_args()
  device = jax.devices()[0]
  options.remat = options.remat or ('none' if device.platform == 'cpu' else 'attention')
  peak, rows = peak_tflops(device.device_kind), []
  print(
    f'{device.device_kind}, jax {jax.__version__}, {options.dtype}, attention {options.attention}, '
    f'remat {options.remat}'
  )
  print(
    f'{"size":11} {"work":9} {"seconds":>9} {"TFLOP/s":>8} {"MFU":>6} {"diffusers":>10} '
    f'{"ours / theirs":>14}'
  )
  for size in options.sizes.split(','):
    mine, model = ours(size, options, options.steps)
    theirs = peer(size, options)
    _, (F, H, W), text_tokens = SIZES[size]
    grid = tuple(n // p for n, p in zip((F, H, W), model.patch))
    work = flops(model, grid, text_tokens=text_tokens)
    for name in options.work.split(','):
      functions = [mine[name]] + ([theirs[name]] if name in theirs else [])
      seconds, *other = fastest(functions, options.rounds)
      seconds = seconds / options.steps if name == 'sampling' else seconds
      rate = (work.train if name == 'step' else work.forward) / seconds / 1e12
      rows.append(
        dict(
          size=size,
          work=name,
          seconds=seconds,
          tflops=rate,
          mfu=rate / peak if peak else None,
          diffusers=other[0] if other else None,
        )
      )
      print(
        f'{size:11} {name:9} {seconds:9.4f} {rate:8.3f} {f"{rate / peak:.1%}" if peak else "-":>6} '
        + (f'{other[0]:10.4f} {seconds / other[0]:14.2f}' if other else f'{"-":>10} {"-":>14}'),
        flush=True,
      )
  if options.json:
    with open(options.json, 'w') as file:
      json.dump(dict(device=device.device_kind, rows=rows, **vars(options)), file, indent=1)


if __name__ == '__main__':
  main()
