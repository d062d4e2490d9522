"""Training runs as the studio shows them: what restarts did again is left out, and nothing outside
of the folder is read."""

import json
import os
import re
import time

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.media.images import write_image
from exp_jax.studio.refusals import Unknown
from exp_jax.studio.runs import Runs, chart, curves_of, described, thinned
from exp_jax.training.metrics_log import MetricsLog


@pytest.fixture
def root(tmp_path):
  """runs/dit and runs/deep/er/vae, and a run outside."""
  draw = {
    'picture': lambda path, x: write_image(path.with_suffix('.png'), (255 * x).astype(np.uint8))
  }
  for name in ('runs/dit', 'runs/deep/er/vae', 'outside'):
    log = MetricsLog(tmp_path / name, 100, draw=draw)
    log.start(0)
    for step in range(1, 8):
      log.write(step, {'loss': 10.0 / step, 'step_seconds': 0.5, 'data_seconds': 0.1})
    log.start(4)  # it was killed after its checkpoint of step 4
    for step in range(5, 9):
      log.write(step, {'loss': 1.0, 'step_seconds': 0.5, 'data_seconds': 0.1})
    log.write(8, {'score': 0.25, 'mask': np.ones((4, 6, 3))}, kind='eval faces')
    log.close()
  (tmp_path / 'runs' / 'link').symlink_to(tmp_path / 'outside')
  (tmp_path / 'runs' / 'dit' / 'samples' / 'secret.png').symlink_to(
    tmp_path / 'outside' / 'metrics.jsonl'
  )
  return tmp_path / 'runs'


def test_runs_are_found_and_links_that_lead_out_are_none(root):
  assert set(Runs(root).names()) == {'dit', os.path.join('deep', 'er', 'vae')}
  with pytest.raises(UserError, match='does not exist'):
    Runs(root / 'none')


@pytest.mark.parametrize(
  'name', ['link', '../outside', '/etc', 'dit/../../outside', '', '.', 'none', 'dit/samples']
)
def test_no_name_leads_out(root, name):
  with pytest.raises(Unknown):
    Runs(root).run(name)
  with pytest.raises(Unknown):
    Runs(root).sample(name, '00000008_eval_faces_mask.png')


@pytest.mark.parametrize(
  'sample', ['secret.png', '../metrics.jsonl', '../../../outside/metrics.jsonl', '/etc/passwd', '']
)
def test_no_sample_leads_out(root, sample):
  with pytest.raises(Unknown):
    Runs(root).sample('dit', sample)


def test_curves_samples_and_goodput(root):
  run = Runs(root).run('dit')
  steps, losses = zip(*run.curves['train loss'])
  assert steps == (1, 2, 3, 4, 5, 6, 7, 8) and losses[4:] == (1.0,) * 4
  assert run.curves['eval faces score'] == [(8, 0.25)] and run.step == 8 and run.going
  assert (
    run.samples == ('00000008_eval_faces_mask.png',)
    and Runs(root).sample('dit', run.samples[0]).is_file()
  )
  assert run.goodput['restarts'] == 1 and run.goodput['lost'] == pytest.approx(3 * 0.5)
  assert '1 restarts' in described(run)
  old = time.time() - 3600
  os.utime(root / 'dit' / 'metrics.jsonl', (old, old))
  assert not Runs(root).run('dit').going


def test_lines_that_are_no_records_are_passed_over(root):
  with open(root / 'dit' / 'metrics.jsonl', 'a') as stream:
    for line in (
      'nonsense',
      '[1]',
      '{"kind": "train"}',
      '{"kind": 3, "step": 1, "time": 1}',
      json.dumps(
        {
          'kind': 'train',
          'step': 9,
          'time': 9.0,
          'loss': float('nan'),
          'step_seconds': 1,
          'data_seconds': 0,
        }
      ),
    ):
      stream.write(line + '\n')
  run = Runs(root).run('dit')
  assert run.step == 9 and run.curves['train loss'][-1][0] == 8


def test_a_long_curve_is_thinned_by_means():
  points = [(step, float(step % 2)) for step in range(1000)]
  drawn = thinned(points, 100)
  assert len(drawn) == 100 and {value for _, value in drawn} == {0.5}
  assert thinned(points[:7], 100) == [(float(step), value) for step, value in points[:7]]


@pytest.mark.parametrize(
  'points, log',
  [
    ([(0, 1.0)], False),
    ([(0, 1.0), (5, 1.0)], False),
    ([(0, 100.0), (9, 1.0)], True),
    ([(0, -1.0), (9, 100.0)], False),
  ],
)
def test_a_chart_stays_inside_of_itself(points, log):
  drawn = chart('<loss>', points)
  places = [
    float(n) for pair in re.search('points="([^"]*)"', drawn)[1].split() for n in pair.split(',')
  ]
  assert all(0 <= place <= 320 for place in places) and ('logarithmic' in drawn) == log
  assert '<loss>' not in drawn


def test_curves_go_on_after_a_restart_from_nothing():
  record = lambda step, loss: {'kind': 'train', 'step': step, 'time': 0.0, 'loss': loss}
  start = {'kind': 'start', 'step': 0, 'time': 0.0}
  assert curves_of([start, record(1, 5.0), start, record(1, 4.0)]) == {'train loss': [(1, 4.0)]}
