"""What the demo leaves of its own: the page's links, and its tables after a kill."""

import json

import pytest

from exp_jax.recipes.demo_stages import read_seconds
from exp_jax.recipes.page import loss_curves


@pytest.mark.parametrize(
  'content, expected',
  [
    ('{"fit": 3.5, "dit": 2}', {'fit': 3.5, 'dit': 2}),
    ('{"fit": 3.5, "d', {}),
    ('', {}),
    ('[1]', {}),
    ('[' * 100_000, {}),
    ('{"fit": "long", "dit": 2}', {'dit': 2}),
  ],
  ids=lambda value: str(value)[:12],
)
def test_seconds_that_were_cut_off_count_as_none(tmp_path, content, expected):
  path = tmp_path / 'seconds.json'
  assert read_seconds(path) == {}
  path.write_text(content)
  assert read_seconds(path) == expected


def test_curves_of_logs_with_cut_lines(tmp_path):
  for name, key in (('transfer', 'error_mm'), ('vae', 'psnr'), ('dit', 'x0_error')):
    (tmp_path / name).mkdir()
    line = json.dumps({'kind': 'train', 'step': 1, key: 2.0})
    (tmp_path / name / 'metrics.jsonl').write_text(f'{line}\n{line[:20]}\n[1, 2]\n"text"\n{line}\n')
  assert loss_curves(tmp_path).is_file()
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    'curves.png',
    'dit',
    'transfer',
    'vae',
  ]
