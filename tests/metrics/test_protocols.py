import pytest

from exp_jax.metrics.evaluation.catalog import METRICS
from exp_jax.metrics.evaluation.protocols import PROTOCOLS, wanted
from exp_jax.metrics.networks import FETCHED, SOURCES, how_to_get


@pytest.mark.parametrize('name', PROTOCOLS)
def test_columns_are_known_and_the_papers_rows_fit_them(name):
  protocol = PROTOCOLS[name]
  assert name.endswith(protocol.kind)
  assert all(protocol.kind in METRICS[n].kinds for n in protocol.columns)
  assert set(protocol.columns) <= set(wanted(name)) and len(set(wanted(name))) == len(wanted(name))
  for methods in protocol.paper.values():
    assert len(methods) >= 6 and all(len(row) == len(protocol.columns) for row in methods.values())


def test_the_best_of_each_column_is_who_the_papers_say():
  """Catches a slipped digit or column: who leads is known from the papers' prose."""

  def best(protocol, table, metric):
    chosen = PROTOCOLS[protocol]
    column, better = chosen.columns.index(metric), max if METRICS[metric].better == 'up' else min
    return better(
      (row[column], method)
      for method, row in chosen.paper[table].items()
      if row[column] is not None
    )[1]

  ours, cross = (
    ('expportrait-self', 'RAVDESS and NeRSemble'),
    ('expportrait-cross', 'RAVDESS and NeRSemble'),
  )
  assert {
    m: best(*ours, m) for m in ('psnr', 'ssim', 'lpips', 'l1', 'apd', 'csim')
  } == dict.fromkeys(('psnr', 'ssim', 'lpips', 'l1', 'apd', 'csim'), 'ExpPortrait')
  assert (
    best(*ours, 'aed') == 'LivePortrait'
    and best(*cross, 'aed') == 'X-NeMo'
    and best(*cross, 'csim') == 'ExpPortrait'
  )
  for test_set in ('TalkingHead-1KH', 'VFHQ'):
    assert {
      best('liveportrait-self', test_set, m)
      for m in ('psnr', 'ssim', 'lpips', 'l1', 'csim', 'gaze')
    } == {'LivePortrait'}
  assert best('liveportrait-cross', 'TalkingHead-1KH', 'fid') == 'AniPortrait'
  magic = ('magicportrait-self', '40 identities of CelebV-HQ')
  assert best(*magic, 'csim_dlib') == 'MagicPortrait' and best(*magic, 'fvd') == 'LivePortrait'
  assert best(*magic, 'p_rmse') == 'FaceAdapter'
  assert (
    best('loki-cross', 'HDTF, 16 frames', 'hef') == 'Loki'
    and best('loki-cross', 'HDTF, 16 frames', 'csim') == 'SadTalker'
  )


def test_every_need_says_how_it_is_met():
  for name, metric in METRICS.items():
    for need in metric.needs:
      assert (
        need in SOURCES or need in ('landmarks', 'fit') or need == 'elsewhere' and metric.reason
      ), name
  for name in SOURCES:
    text = how_to_get(name, 'weights')
    if name in FETCHED:
      assert name in text and 'exp_jax setup --metrics' in text
    else:
      assert f'weights/{name}' in text and 'python -m exp_jax.convert.metrics' in text
