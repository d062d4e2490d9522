"""Small Stable Diffusion networks with the weights of tests/golden/make_sd_fixture.py, in our
layout."""

import json
import pathlib

import numpy as np

from exp_jax.convert.sd import sd_names
from exp_jax.convert.sd.sd_conversion import plan_of
from exp_jax.files.safetensors import nested
from exp_jax.networks.sd_unet import sd_unet
from exp_jax.networks.sd_vae import sd_vae
from tests.golden.sd_inputs import weights_of

GOLDEN = np.load(
  pathlib.Path(__file__).parent.parent / 'golden' / 'sd_tiny.npz', allow_pickle=False
)
NAMES = json.loads(str(GOLDEN['names']))
MODELS = {  # network of the fixture -> (network of a folder, model, layout of projections)
  'unet15': ('sd_unet', sd_unet('tiny15'), 'point'),
  'unet21': ('sd_unet', sd_unet('tiny21'), 'linear'),
  'unet_without_text': ('sd_unet', sd_unet('tiny21', text_dim=0), 'linear'),
  'motion': ('sd_motion', sd_unet('tiny15', motion='frame'), ''),
  'vae': ('sd_vae', sd_vae('tiny'), ''),
}


def tensors(network: str) -> dict[str, np.ndarray]:
  """The tensors of diffusers by their names."""
  return weights_of({name: tuple(shape) for name, (shape, _) in NAMES[network].items()})


def flat_params(network: str) -> dict[str, np.ndarray]:
  """{path joined with dots: array}."""
  plan = plan_of(*MODELS[network][:2], 'diffusers', MODELS[network][2])
  return {
    plan[name][0]: sd_names.to_ours(value, plan[name][1])
    for name, value in tensors(network).items()
  }


def params(*networks: str) -> dict:
  """Nested parameters of one network, or of a UNet and its motion modules."""
  return nested([pair for network in networks for pair in flat_params(network).items()])
