import numpy as np
import pytest

from exp_jax.data.sources import PortraitClips, from_bytes, open_source, to_bytes, write_records
from exp_jax.data.synthetic import synthetic_clip
from exp_jax.data.transforms import mirror, take_window
from exp_jax.errors import UserError

SIZE = dict(num_frames=3, height=20, width=28)


def records(count):
  return [synthetic_clip(i, **SIZE) for i in range(count)]


def test_synthetic_normals_are_unit_and_explain_the_matte():
  clip = synthetic_clip(3, **SIZE)
  n = clip['normals'].astype(float) / 255 * 2 - 1
  inside = clip['matte'] == 255
  assert 0.1 < inside.mean() < 0.9
  np.testing.assert_allclose(np.linalg.norm(n[inside], axis=-1), 1.0, atol=0.02)  # 8-bit steps
  assert (n[inside][:, 2] > -0.01).all() and not clip['normals'][~inside].any()
  assert np.abs(clip['video'][0].astype(int) - clip['video'][2]).mean() > 1


def test_record_survives_bytes():
  record = records(1)[0]
  again = from_bytes(to_bytes(record))
  assert set(again) == set(record) and again['clip_id'] == 'ellipsoid_00000'
  for key in ('video', 'normals', 'matte', 'reference'):
    np.testing.assert_array_equal(again[key], record[key])


@pytest.mark.parametrize(
  'change, words',
  [
    (lambda r: r.pop('matte'), "lacks 'matte'"),
    (lambda r: r.update(audio=np.zeros(3)), 'unknown key'),
    (lambda r: r.update(video=r['video'].astype(float)), 'float64'),
    (lambda r: r.update(normals=r['normals'][:2]), 'asks for'),
  ],
)
def test_bad_records_are_refused(change, words):
  record = records(1)[0]
  change(record)
  with pytest.raises(ValueError, match=words):
    to_bytes(record)


def test_pickles_are_refused():
  import io

  buffer = io.BytesIO()
  np.savez(buffer, video=np.array([{}], dtype=object))
  with pytest.raises(ValueError):
    from_bytes(buffer.getvalue())


def test_files_are_read_in_order_and_damage_is_named(tmp_path):
  assert write_records(tmp_path / 'b.array_record', records(4)[2:]) == 2
  write_records(tmp_path / 'a.array_record', records(2))
  assert [p.name for p in tmp_path.iterdir() if p.name.startswith('.')] == []
  source = PortraitClips(str(tmp_path))
  assert [source[i]['clip_id'][-1] for i in range(len(source))] == ['0', '1', '2', '3']

  data = bytearray((tmp_path / 'b.array_record').read_bytes())
  data[3000] ^= 0xFF  # inside the first record; most of the file is padding
  (tmp_path / 'b.array_record').write_bytes(data)
  with pytest.raises(UserError, match='b.array_record'):
    source = PortraitClips(str(tmp_path))
    [source[i] for i in range(len(source))]


def test_no_files_is_a_sentence(tmp_path):
  with pytest.raises(UserError, match='no records'):
    open_source('portrait_clips', path=str(tmp_path), **SIZE)
  with pytest.raises(UserError, match='unknown data source'):
    open_source('clips', path='', **SIZE)


def test_window_takes_frames_that_belong_together():
  record = synthetic_clip(0, num_frames=9, height=8, width=8)
  rng = np.random.default_rng(0)
  for _ in range(20):
    example = take_window(record, rng, num_frames=3, stride=2, reference='random')
    starts = [
      i for i in range(5) if np.array_equal(record['video'][i : i + 5 : 2], example['video'])
    ]
    assert any(np.array_equal(record['normals'][i : i + 5 : 2], example['normals']) for i in starts)
    assert any(np.array_equal(example['reference'], f) for f in record['video'])
  with pytest.raises(UserError, match='9 frames'):
    take_window(record, rng, num_frames=10, stride=1, reference='record')


def test_mirror_turns_normals_too():
  class Always:
    def random(self):
      return 1.0

  example = take_window(
    synthetic_clip(1, **SIZE), np.random.default_rng(0), num_frames=2, stride=1, reference='record'
  )
  turned = mirror(example, Always())
  np.testing.assert_array_equal(turned['video'], example['video'][:, :, ::-1])
  np.testing.assert_array_equal(turned['matte'], example['matte'][:, :, ::-1])
  n, m = example['normals'][:, :, ::-1].astype(int), turned['normals'].astype(int)
  covered = n.any(-1)
  np.testing.assert_array_equal(m[covered][:, 0], 255 - n[covered][:, 0])
  np.testing.assert_array_equal(m[..., 1:], n[..., 1:])
  assert not m[~covered].any()
