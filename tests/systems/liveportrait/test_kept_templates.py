"""A driver that was read before an interruption is taken as it was, to the bit; files of motion
that could not run are refused."""

import dataclasses
import fractions

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.files.npz import read_npz, write_npz
from exp_jax.systems.liveportrait import animate as engine
from exp_jax.systems.liveportrait.motion.kept_templates import kept_template
from exp_jax.systems.liveportrait.motion.templates import Template, load_template, save_template
from exp_jax.systems.liveportrait.networks.motion import KEYPOINTS, Motion
from tests.systems.liveportrait.test_animate import clip, files, picture, pretended, run  # noqa: F401

T = 4


def template(**changes) -> Template:
  rng = np.random.default_rng(0)
  numbers = lambda *shape: rng.uniform(0.5, 1, (T, *shape)).astype(np.float32)
  turns = np.linalg.qr(rng.normal(size=(T, 3, 3)))[0].astype(np.float32)
  motion = Motion(numbers(KEYPOINTS, 3), turns, numbers(KEYPOINTS, 3), numbers(), numbers(3))
  found = Template(
    motion,
    fractions.Fraction(24000, 1001),
    numbers(2),
    numbers(),
    np.array([0, 0.1, 0.15, 1 / 3]),
    np.array([True, False, True, True]),
  )
  return dataclasses.replace(found, **changes)


def same(one, two):
  for name, value in vars(one.motion).items():
    np.testing.assert_array_equal(getattr(two.motion, name), value, err_msg=name)
  for name in ('eyes', 'lip', 'times', 'found'):
    np.testing.assert_array_equal(getattr(two, name), getattr(one, name), err_msg=name)
  assert one.rate == two.rate


def test_the_same_bits_and_the_same_warnings(tmp_path):
  said, made = [], []

  def make(warn):
    made.append(1)
    warn('2 frames without a face')
    return template(), np.array([0, 2, 3, 8])

  for _ in range(3):
    found, kept = kept_template(tmp_path / 'new', 'a', make, said.append)
    same(template(), found)
    assert kept.tolist() == [0, 2, 3, 8]
  assert len(made) == 1 and said == ['2 frames without a face'] * 3
  kept_template(tmp_path / 'new', 'b', make, said.append)
  assert len(made) == 2


@pytest.mark.parametrize('name', ('a.npz', 'a.frames.npz'))
def test_a_damaged_or_lost_file_is_made_again(tmp_path, name):
  made, make = [], lambda warn: made.append(1) or (template(), np.arange(T))
  for number, damage in enumerate(
    (lambda path: path.write_bytes(path.read_bytes()[:100]), lambda path: path.unlink()), 2
  ):
    kept_template(tmp_path, 'a', make, print)
    damage(tmp_path / name)
    same(template(), kept_template(tmp_path, 'a', make, print)[0])
    assert len(made) == number


@pytest.mark.long
def test_another_process_goes_on_with_it_and_other_options_do_not(tmp_path, monkeypatch):
  read, reads = engine.read_clip, []
  monkeypatch.setattr(
    engine,
    'read_clip',
    lambda *args, **kwargs: reads.append(kwargs['limit']) or read(*args, **kwargs),
  )
  source, driver = picture((80, 90), (30, 30, 20)), clip(3)
  for limit, seed in ((None, 0), (None, 0), (2, 0), (2, 0), (2, 1)):
    with engine.load(random_weights='tiny', seed=seed, drivers=tmp_path) as model:
      model.animate(source, driver, options=engine.Options(limit=limit))
  assert reads == [None, 2, 2], 'once for each limit and each set of weights'


@pytest.mark.long
def test_an_interrupted_command_goes_on_with_the_driver_that_it_had_read(
  files,  # noqa: F811
  monkeypatch,
  capsys,
):
  """A kill leaves the folder of drivers; here an error that is no UserError does."""
  reads, read, save = [], engine.read_clip, engine.Animation.save
  monkeypatch.setattr(
    engine, 'read_clip', lambda *args, **kwargs: reads.append(1) or read(*args, **kwargs)
  )
  command = '-s', files / 'one.png', '-d', files / 'drive.mp4', '-o', files / 'out.mp4'

  def killed(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(engine.Animation, 'save', killed)
  assert run(files, *command) == 130 and [
    path for path in files.glob('.*.drivers') if path.is_dir()
  ]
  monkeypatch.setattr(engine.Animation, 'save', save)
  assert run(files, *command) == 0 and len(reads) == 1
  assert (files / 'out.mp4').is_file() and not list(files.glob('.*'))


WRONG = {
  'times back': (dict(times=np.array([0, 0.1, 0.1, 0.2])), 'times must increase'),
  'times late': (dict(times=np.array([0, 1, 2, 1e9])), 'times must increase'),
  'a rate of nothing': (dict(rate=fractions.Fraction(1, 2**40)), 'frame rate'),
  'a rate beyond all': (dict(rate=fractions.Fraction(2**40, 1)), 'frame rate'),
  'no face': (dict(found=np.zeros(T, bool)), 'no frame of it shows a face'),
  'eyes': (dict(eyes=np.full((T, 2), 1e30)), 'eyes reaches'),
}
WRONG_MOTION = {
  'expression': 1e30,
  'translation': 1e30,
  'scale': 0.0,
  'canonical': -1e30,
  'rotation': 0.0,
}


@pytest.mark.parametrize('kind', (*WRONG, *WRONG_MOTION))
def test_motion_that_could_not_run_is_refused_when_it_is_read(kind, tmp_path):
  if kind in WRONG:
    changes, words = WRONG[kind]
    wrong = template(**changes)
  else:
    motion, words = template().motion, kind
    wrong = template(
      motion=dataclasses.replace(
        motion, **{kind: np.full_like(getattr(motion, kind), WRONG_MOTION[kind])}
      )
    )
  save_template(tmp_path / 'a.npz', wrong)
  with pytest.raises(UserError, match=words):
    load_template(tmp_path / 'a.npz')


@pytest.mark.parametrize(
  'name, value',
  [
    ('scale', np.float32(1)),
    ('scale', np.array(['a'] * T)),
    ('rate', np.array([np.nan, 1])),
    ('rate', np.array(['25', '1'])),
    ('rate', np.array([25, -1])),
    ('format', np.array('text')),
    ('times', np.array(['a'] * T)),
    ('found', np.ones((T, 2), bool)),
  ],
  ids=str,
)
def test_arrays_of_other_kinds_are_one_sentence(name, value, tmp_path):
  save_template(tmp_path / 'a.npz', template())
  write_npz(tmp_path / 'a.npz', read_npz(tmp_path / 'a.npz') | {name: value})
  with pytest.raises(UserError, match='a.npz'):
    load_template(tmp_path / 'a.npz')
