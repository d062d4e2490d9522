"""An export of the video model, verified and ready to sample."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import ml_collections

from exp_jax.errors import UserError
from exp_jax.networks.codec import Codec, open_codec
from exp_jax.systems.expportrait.generator.dit import PortraitDiT
from exp_jax.systems.expportrait.generator.dit_task import portrait_dit
from exp_jax.systems.expportrait.generator.prompts import text_of
from exp_jax.systems.expportrait.generator.sampling_options import Sampling, sampling_of
from exp_jax.systems.expportrait.records.clip_tokens import open_clip
from exp_jax.training.exports import load_export


@dataclasses.dataclass(frozen=True)
class Generator:
  """An export of task 'expportrait/dit', ready to sample."""

  model: PortraitDiT
  params: dict
  codec: Codec
  config: ml_collections.ConfigDict
  text: jax.Array | None = None  # [1, tokens, width]
  negative: jax.Array | None = None  # the same of the branch whose pose is dropped
  see: object = None  # reference [H, W, 3] -> CLIP tokens [1, 257, 1280], or None

  @property
  def size(self) -> tuple[int, int]:
    """(height, width) it was trained at."""
    return self.config.data.height, self.config.data.width

  @property
  def window(self) -> int:
    """Latent frames of the clips it was trained on."""
    return (self.config.data.num_frames - 1) // self.codec.strides[0] + 1

  def sampling(self, *, streamed: bool = True, **given) -> Sampling:
    """How it is sampled: the export's choice, or what is `given`.

    Raises UserError as `sampling_of`.
    """
    return sampling_of(self.config, self.window, streamed=streamed, **given)


def load_generator(path, *, vae_path: str | None = None, tile: int | None = None) -> Generator:
  """Loads and verifies an export; `vae_path` and `tile` replace what its config says of the
  autoencoder.

  Raises:
    UserError: if an export is missing, damaged or of another task.
  """
  config, params = load_export(path)
  if config.task != 'expportrait/dit':
    raise UserError(f'{path} is an export of {config.task!r}, not of expportrait/dit')
  codec = open_codec(
    config.vae.name,
    vae_path or _beside(path, config.vae.path),
    config.vae.get('tile', 0) if tile is None else tile,
  )
  model = portrait_dit(config, codec)
  text, negative = (
    text_of(config, model.backbone.text_dim, name, folder=path) for name in ('positive', 'negative')
  )
  see = (
    _clip_tower(_beside(path, config.condition.get('clip_weights', '')))
    if model.backbone.image_dim
    else None
  )
  text, negative = (x if x is None else jnp.asarray(x) for x in (text, negative))
  return Generator(model, jax.tree.map(jnp.asarray, params), codec, config, text, negative, see)


def _beside(export, path: str) -> str:
  """The path of a config that an export was released with: relative to the export where that is a
  folder."""
  near = pathlib.Path(export) / path
  return str(near) if path.startswith('..') and near.is_dir() else path


def _clip_tower(path: str):
  if not path:
    raise UserError(
      'this generator looks at the portrait with CLIP: convert it with `python -m '
      'exp_jax.convert.wan_towers '
      'clip` and name the folder in condition.clip_weights'
    )
  return open_clip(path)
