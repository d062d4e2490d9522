"""How well the tiny prior knows faces: held-out denoising, and how many of its samples are found as
faces.

python benchmarks/sd_prior.py out/prior/export out/prior/frames/held_out.array_record -o out/prior/benchmark [--samples 32]

share      mean square of the denoised latents at t = 500 over that of the mean latent of all held-out frames, place by place
noise      mean square of the predicted noise, whose mean is 0: 1 is what predicting the mean achieves
faces      share of samples (DDIM, --steps) in which MediaPipe finds a face, of pictures enlarged fourfold
real       the same of held-out frames through the autoencoder, and of the frames themselves
"""

import argparse
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.diffusion import ddpm
from exp_jax.errors import ArgumentParser
from exp_jax.files.atomic import write_text
from exp_jax.media.images import contact_sheet, resize, write_image
from exp_jax.networks.codec import open_codec
from exp_jax.observe.landmarks import FaceEstimator
from exp_jax.prior.frames import FrameRecords
from exp_jax.prior.task import prior_bars, prior_unet
from exp_jax.training.exports import load_export


def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('export')
  parser.add_argument('frames')
  parser.add_argument('--samples', type=int, default=32)
  parser.add_argument('--steps', type=int, default=25)
  parser.add_argument('--time', type=int, default=500)
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True)
  args = parser.parse_args(argv)
  config, params = load_export(args.export)
  net, codec, bars = prior_unet(config), open_codec(config.vae.name, 'embedded'), prior_bars()
  predict = jax.jit(lambda x, t: net.apply({'params': params}, x[:, None], t)[:, 0])
  source = FrameRecords(args.frames)
  real = np.stack([source[i][t] for i in range(len(source)) for t in (0, len(source[i]) // 2)])
  codes = np.asarray(codec.encode(jnp.asarray(real, jnp.float32)[:, None] / 127.5 - 1)[:, 0])
  noise = np.asarray(jax.random.normal(jax.random.key(0), codes.shape))
  errors, noises = [], []
  n = args.samples
  for k in range(0, len(codes), n):
    z, e = (
      np.concatenate([part, part[:1].repeat(n - len(part), 0)])
      for part in (codes[k : k + n], noise[k : k + n])
    )
    x = ddpm.add_noise(jnp.asarray(z), jnp.asarray(e), jnp.float32(bars[args.time]))
    x0, eps = ddpm.x0_and_noise(
      predict(x, jnp.full(n, args.time)), x, jnp.float32(bars[args.time]), 'v'
    )
    kept = len(codes[k : k + n])
    errors.append(np.square(np.asarray(x0) - z)[:kept])
    noises.append(np.square(np.asarray(eps) - e)[:kept])
  share = float(np.concatenate(errors).mean() / np.square(codes - codes.mean(0)).mean())
  x, times = (
    jax.random.normal(jax.random.key(1), (n, *codes.shape[1:])),
    ddpm.sampling_times(args.steps),
  )
  for now, time in enumerate(times):
    following = bars[times[now + 1]] if now + 1 < len(times) else 1.0
    x = ddpm.ddim_step(
      x, predict(x, jnp.full(n, int(time))), jnp.float32(bars[time]), jnp.float32(following), 'v'
    )
  unit = lambda z: np.clip(
    np.asarray(codec.decode(jnp.asarray(z)[:, None]))[:, 0] * 0.5 + 0.5, 0, 1
  )
  decoded = lambda z: np.rint(unit(z) * 255).astype(np.uint8)
  pictures = {'faces': decoded(x), 'real, coded': decoded(codes[:n]), 'real': real[:n]}
  results = {
    'share': share,
    'noise': float(np.concatenate(noises).mean()),
    'frames': len(codes),
    'samples': n,
    'steps': args.steps,
  }
  with FaceEstimator() as find:
    for name, images in pictures.items():
      large = [resize(image, (4 * image.shape[0],) * 2) for image in images]
      results[name] = float(np.mean([len(find(image)[0]) > 0 for image in large]))
  args.output.mkdir(parents=True, exist_ok=True)
  write_image(
    args.output / 'samples.png',
    contact_sheet([resize(image, (128, 128)) for image in pictures['faces']], columns=8),
  )
  write_text(args.output / 'scores.json', json.dumps(results, indent=1) + '\n')
  print(json.dumps(results, indent=1))


if __name__ == '__main__':
  main()
