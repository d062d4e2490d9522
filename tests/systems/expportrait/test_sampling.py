"""How an export is sampled: its own choice, what replaces it, what is refused.

No network runs here.
"""

import dataclasses
import pathlib
import runpy

import pytest

from exp_jax.errors import UserError
from exp_jax.systems.expportrait.embedded import embedded
from exp_jax.systems.expportrait.generator.sampling_options import Sampling, sampling_of
from exp_jax.training.exports import config_from_json

CONFIG = pathlib.Path(__file__).parents[3] / 'configs' / 'dit_a800.py'
FULL = Sampling('unipc', 50, 1.5, 1.0, 4)
WINDOW = {'': 13, 'lora14b': 13, 'pod': 13, 'smoke': 5, 'demo': 5, 'embedded': 5}  # latent frames


def config_of(mode='', **sample):
  config = runpy.run_path(str(CONFIG))['get_config'](mode).copy_and_resolve_references().unlock()
  for name, value in sample.items():
    config.sample[name] = value
  return config.lock()


@pytest.mark.parametrize(
  'mode, wanted',
  [
    ('', FULL),
    ('lora14b', FULL),
    ('pod', FULL),
    ('demo', Sampling('euler', 8, 1.0, 1.0, 2)),
    ('embedded', Sampling('euler', 8, 1.0, 1.0, 2)),
    ('smoke', Sampling('euler', 2, 1.0, 1.0, 2)),
  ],
)
def test_the_config_names_how_its_export_is_sampled(mode, wanted):
  assert sampling_of(config_of(mode), WINDOW[mode]) == wanted


def test_an_export_without_the_section_is_sampled_as_before():
  config = config_from_json((embedded('dit') / 'config.json').read_text())
  assert 'sample' not in config
  assert sampling_of(config, 5) == Sampling('euler', 8, 1.0, 1.0, 2)
  assert sampling_of(config, 2).overlap == 1 and sampling_of(config, 1).overlap == 0
  assert sampling_of(config, 5, steps=3, overlap=0, sampler=None) == Sampling(
    'euler', 3, 1.0, 1.0, 0
  )


def test_a_value_given_by_hand_replaces_the_exports():
  given = dict(sampler='unipc_wan', steps=7, guidance=2.5, reference_guidance=1.25, overlap=6)
  assert dataclasses.asdict(sampling_of(config_of(), 13, **given)) == given
  for name, value in given.items():
    assert sampling_of(config_of(), 13, **{name: value}) == dataclasses.replace(
      FULL, **{name: value}
    )


@pytest.mark.parametrize(
  'given, words',
  [
    (dict(sampler='ddim'), 'must be one of euler'),
    (dict(sampler='heun'), "sampler='heun'"),
    (dict(steps=0), 'steps must be'),
    (dict(overlap=13), 'windows of 13 latent frames: choose 0 to 12'),
    (dict(overlap=-1), 'choose 0 to 12'),
    (dict(guidance=-0.5), 'guidance must be in 0..20'),
    (dict(guidance=float('nan')), 'guidance must be in'),
    (dict(reference_guidance=21.0), 'reference_guidance must be'),
  ],
)
def test_what_cannot_be_is_refused(given, words):
  with pytest.raises(UserError, match=words):
    sampling_of(config_of(), 13, **given)
  with pytest.raises(UserError, match=words):
    sampling_of(config_of(**given), 13)


def test_refusals_that_depend_on_the_model():
  assert sampling_of(config_of(), 13, sampler='heun', streamed=False).sampler == 'heun'
  with pytest.raises(UserError, match='condition.drop_reference is 0'):
    sampling_of(config_of('embedded'), 5, reference_guidance=1.5)
  never = config_of().copy_and_resolve_references().unlock()
  never.condition.drop_pose = 0.0
  with pytest.raises(UserError, match='guidance=1.5 compares with the pose left out'):
    sampling_of(never, 13)
  assert sampling_of(never, 13, guidance=1.0).guidance == 1
  unknown = config_of().copy_and_resolve_references().unlock()
  unknown.sample.step = 5
  with pytest.raises(UserError, match='config.sample.step is no option'):
    sampling_of(unknown, 13)
