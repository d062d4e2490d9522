"""The network that repairs previews behind `animate`: frames at the portrait's size, what the
preview knows, refusals by name."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.controls import maps
from exp_jax.controls.preview.drawing import KNOWN
from exp_jax.controls.same_picture import driven_motion
from exp_jax.errors import UserError
from exp_jax.fitting.tracked_driver import frames_of
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.personalized import load_subject
from exp_jax.heads.trained_head import write_head
from exp_jax.observe import shared_estimator
from exp_jax.systems.expportrait import animate
from exp_jax.systems.expportrait.portrait import (
  Portrait,
  fitted_mouth,
  known_frames,
  preview_frames,
  scaled,
)
from exp_jax.systems.expportrait.retouch.network import CHANNELS, retouch_net
from exp_jax.training.exports import write_export
from tests.small_portrait import Truth, make_small_portrait

CONFIG = pathlib.Path(__file__).parents[4] / 'configs' / 'retouch.py'


def _head_ready() -> bool:
  try:
    return bool(load_head('makehuman'))
  except UserError:
    return False


pytestmark = [
  pytest.mark.skipif(not _head_ready(), reason='`make setup` makes the MakeHuman head'),
  pytest.mark.usefixtures('lightly_compiled'),
]


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  folder = tmp_path_factory.mktemp('small')
  return folder, *make_small_portrait(folder)


@pytest.fixture(scope='module')
def exports(tmp_path_factory):
  """Exports that see 32 pixels: of one that does nothing, and of one that makes all a tenth
  darker."""
  folder = tmp_path_factory.mktemp('exports')
  config = runpy.run_path(str(CONFIG))['get_config']('smoke')
  with config.unlocked():
    config.data.size = config.data.side = 32
  write_head(folder, load_head('makehuman'))
  params = retouch_net('tiny').init(jax.random.key(0), jnp.zeros((1, 32, 32, CHANNELS)))['params']
  write_export(folder / 'nothing', config, params, files={'head.json': folder / 'head.json'})
  bias = np.tile([0.0, 0.0, -0.1, -0.1, -0.1], 4)  # of 2 x 2 pixels: flow, colour
  params = params | {'paint': params['paint'] | {'bias': jnp.asarray(bias, jnp.float32)}}
  write_export(folder / 'darker', config, params)
  return folder


def animated(small, monkeypatch, generator, **options):
  folder, _, points, matte = small
  monkeypatch.setattr(shared_estimator, 'FaceEstimator', lambda: Truth(points, matte))
  with animate.load(
    generator=generator, transfer='none', networks='none', subjects=folder / 'fits'
  ) as model:
    found = model.animate(
      folder / 'me.png', folder / 'motion.npz', options=model.Options(size=64, **options)
    )
    return np.stack(list(found)), found.record


@pytest.mark.long
def test_a_generator_that_does_nothing_gives_the_preview_to_the_bit_and_another_its_repair(
  small, exports, monkeypatch
):
  plain, _ = animated(small, monkeypatch, None)
  same, record = animated(small, monkeypatch, exports / 'nothing')
  np.testing.assert_array_equal(same, plain)
  assert (
    record['engine'] == 'dit'
    and record['generator'] == 'expportrait/retouch'
    and 'sampling' not in record
  )
  assert record['square']['size'] == [64, 64] and len(record['export_sha256']) == 64
  darker, _ = animated(small, monkeypatch, exports / 'darker')
  bright = plain > 30
  np.testing.assert_allclose(plain[bright].astype(float) - darker[bright], 25.5, atol=1.2)


@pytest.mark.long
def test_options_of_sampling_are_refused_by_name(small, exports, monkeypatch):
  for name, value in (
    ('steps', 4),
    ('guidance', 1.5),
    ('sampler', 'euler'),
    ('reference_guidance', 1.0),
    ('overlap', 1),
  ):
    with pytest.raises(UserError, match=f'--{name} belongs to a model that samples'):
      animated(small, monkeypatch, exports / 'nothing', **{name: value})
  with pytest.raises(UserError, match='--vae belongs to a video model of latents'):
    animate.load(generator=exports / 'nothing', vae=exports)


@pytest.mark.long
def test_an_export_is_refused_on_another_head_and_estimated_at_the_portraits_size(small, exports):
  with pytest.raises(UserError, match="trained on the head 'makehuman'"):
    animate.load(generator=exports / 'nothing', transfer='none', head='procedural')
  with animate.load(generator=exports / 'nothing', transfer='none', networks='none') as model:
    few, many = (model.estimate(10, options=model.Options(size=size)) for size in (64, 512))
    assert many.seconds > few.seconds and model.engine == 'dit'


@pytest.mark.long
def test_what_is_known_of_a_preview_fits_it(small):
  """Frames are those of the preview to the bit; in its own pose every pixel of the head comes from
  itself."""
  folder, picture, _, matte = small
  head = load_head('makehuman')
  dense, subject = densify(head, 1), load_subject(folder / 'fits' / 'me.npz')
  portrait = Portrait(subject, picture, matte, fitted_mouth(head, subject, 0))
  motion = driven_motion(subject, load_subject(folder / 'motion.npz'), head)
  found = list(known_frames(portrait, motion, None, head, dense))
  for (frame, known), plain in zip(found, preview_frames(portrait, motion, None, head, dense)):
    np.testing.assert_array_equal(frame, plain)
    assert known.shape == (64, 64, KNOWN) and known.dtype == np.uint8
  still, moved = found[0][1].astype(int), found[1][1].astype(int)
  seen = still[..., 6] > 200
  assert seen.sum() > 50
  np.testing.assert_allclose(still[seen][:, 11:], 127.5, atol=4)
  np.testing.assert_array_equal(still[..., :3], still[..., 3:6])
  # the head stands six pixels to the right: its colours come from the left
  there = moved[..., 6] > 200
  assert abs(np.median(moved[there][:, 11] - 127.5) + 6 / (0.5 * 64) * 255) < 8
  normals = maps.control_maps(head, dense, subject, maps.own_motion(subject), None, size=64)[
    0
  ].astype(int)
  # y and z the other way
  inner, turned = (
    seen & (normals.min(-1) > 0),
    np.where([False, True, True], 255 - normals, normals),
  )
  assert np.median(np.abs(turned - still[..., :3])[inner]) < 4
  half = scaled(portrait, 32)
  one = next(
    known_frames(half, maps.own_motion(frames_of(subject, slice(0, 1))), None, head, dense)
  )
  assert one[1].shape == (32, 32, KNOWN)
