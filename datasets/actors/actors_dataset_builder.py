"""TFDS builder of synthetic actors: the folder that `python -m exp_jax.actors` leaves, as
ArrayRecords.

Records hold encoded files only (H.264, npz), so neither building nor reading needs TensorFlow.
"""

import pathlib
import zlib

import numpy as np
import tensorflow_datasets as tfds

_TEST_SHARE = 10  # one subject in ten, chosen by its name, so that adding subjects moves none


class Builder(tfds.core.GeneratorBasedBuilder):
  """One record per clip; splits are by subject."""

  VERSION = tfds.core.Version('1.0.0')
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Make the actors first: `python -m exp_jax.actors -o MANUAL_DIR --num 40`, '
    'and pass that folder as manual_dir.'
  )

  def _info(self) -> tfds.core.DatasetInfo:
    encoded = lambda: tfds.features.Tensor(shape=(), dtype=np.object_)
    return self.dataset_info_from_configs(
      description='Synthetic people with known head parameters, wrinkles, hair, light and motion.',
      features=tfds.features.FeaturesDict(
        {
          'clip_id': tfds.features.Text(),
          'subject_id': tfds.features.Text(),
          'video': encoded(),  # mp4
          'truth': encoded(),  # npz, exp_jax.heads.load_subject
          'maps': encoded(),  # npz: matte, landmarks, gaze, perhaps normals, depth, uv
        }
      ),
      license='The people are CC0; their head model is under its own licence (MakeHuman: CC0).',
    )

  def _split_generators(self, dl_manager):
    folder = pathlib.Path(dl_manager.manual_dir)
    names = sorted(path.stem for path in (folder / 'truth').glob('*.npz'))
    if not names:
      raise AssertionError(f'{folder} holds no actors. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}')
    held_out = [name for name in names if zlib.crc32(name.encode()) % _TEST_SHARE == 0]
    training = [name for name in names if name not in held_out]
    splits = {'train': training, 'test': held_out}
    return {
      split: self._generate_examples(folder, chosen) for split, chosen in splits.items() if chosen
    }

  def _generate_examples(self, folder, names):
    for name in names:
      yield (
        name,
        {
          'clip_id': name,
          'subject_id': name,
          'video': (folder / 'clips' / f'{name}.mp4').read_bytes(),
          'truth': (folder / 'truth' / f'{name}.npz').read_bytes(),
          'maps': (folder / 'mattes' / f'{name}.npz').read_bytes(),
        },
      )
