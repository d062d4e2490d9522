"""Two hundred cheap clips, ten of them broken, and stand-ins for what looks at faces, fits heads
and draws them.

Run as a script it is `python -m exp_jax.prepare` with the stand-ins, so that it can be killed.
"""

import csv
import sys
import types

import av
import numpy as np

from exp_jax.commands.prepare import main
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import Subject
from exp_jax.systems.expportrait.records import clip_record, prepare
from tests.media.films import write_film

SIZE, FRAMES, GOOD = 96, 3, 190
RED = (220, 30, 40)
BROKEN = {  # clip id -> what its reason says
  'empty': 'is empty',
  'cut': 'truncated|damaged',
  'text': 'not a video',
  'nobody': 'no face found',
  'couple': 'two faces',
  'still': '1 frame',
  'timeless': 'nan',
  'hdr': 'PQ',
  'stranger': r"suffix '\.xyz'",
  'song': 'no picture',
}


def frames_of(seed: int, *, faces: int = 1, count: int = FRAMES) -> np.ndarray:
  """uint8 [T, SIZE, SIZE, 3]: red discs, which the stand-in takes for faces, on a colour of the
  clip's own."""
  rng = np.random.default_rng(seed)
  ground = rng.integers(0, 120, 3)
  frames = np.broadcast_to(np.uint8([0, *ground[1:]]), (count, SIZE, SIZE, 3)).copy()
  y, x = np.mgrid[:SIZE, :SIZE] + 0.5
  radius = 30 if faces == 1 else 22
  for t in range(count):
    for k in range(faces):
      at = 48 + 2 * t * rng.random() if faces == 1 else 24 + 48 * k
      frames[t][(x - at) ** 2 + (y - 48) ** 2 < radius**2] = RED
  return frames


def write_clips(folder) -> str:
  """Fills a folder and returns the path of a list of all clips in it."""
  folder.mkdir(parents=True)
  film = lambda name, frames, **more: write_film(
    folder / name, np.arange(len(frames)), 25, frames=frames, **more
  )
  rows = []
  for i in range(GOOD):
    film(f'clip_{i:03d}.mp4', frames_of(i))
    rows.append(dict(path=f'clip_{i:03d}.mp4', subject_id=f'person_{i // 3:03d}'))
  (folder / 'empty.mp4').touch()
  rng = np.random.default_rng(0)
  film(
    'whole.mp4',
    rng.integers(0, 255, (30, SIZE, SIZE, 3), np.uint8),
    options={'movflags': '+faststart'},
  )
  film('cut.mkv', rng.integers(0, 255, (30, SIZE, SIZE, 3), np.uint8))
  whole = (folder / 'cut.mkv').read_bytes()
  (folder / 'whole.mp4').unlink()
  (folder / 'cut.mkv').write_bytes(whole[: len(whole) // 2])
  (folder / 'text.mp4').write_text('this is not a film\n')
  film('nobody.mp4', frames_of(1, faces=0))
  film('couple.mp4', frames_of(2, faces=2))
  film('still.mp4', frames_of(3, count=1))
  film('timeless.mp4', frames_of(4))
  film('hdr.mp4', frames_of(5), tags=(9, 16, 9, 1), pix_fmt='yuv420p10le')
  film('stranger.mp4', frames_of(6))
  (folder / 'stranger.mp4').rename(folder / 'stranger.xyz')
  with av.open(str(folder / 'song.mp4'), 'w') as out:
    track = out.add_stream('aac', rate=16000, layout='mono')
    samples = av.AudioFrame.from_ndarray(
      np.zeros((1, 4096), np.float32), format='fltp', layout='mono'
    )
    samples.sample_rate = 16000
    out.mux(track.encode(samples))
    out.mux(track.encode(None))
  names = {'cut': 'cut.mkv', 'stranger': 'stranger.xyz'}
  rows += [
    dict(
      path=names.get(name, f'{name}.mp4'),
      subject_id=f'a_{name}',
      begin='nan' if name == 'timeless' else '',
    )
    for name in BROKEN
  ]
  with open(folder / 'list.csv', 'w', newline='') as stream:
    writer = csv.DictWriter(stream, ('path', 'subject_id', 'begin'))
    writer.writeheader()
    writer.writerows(rows)
  return str(folder / 'list.csv')


class Estimator:
  """Finds red discs: 478 points on each, the outer corners of the eyes where they belong."""

  name = 'discs 1'

  def __exit__(self, *_):
    pass

  def __call__(self, image):
    red = (image[..., 0] > 150) & (image[..., 1] < 110)
    columns = np.flatnonzero(red.any(0))
    faces = []
    for run in np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1) if len(columns) else ():
      rows = np.flatnonzero(red[:, run].any(1))
      center, radius = np.array([run.mean(), rows.mean()]) + 0.5, len(run) / 2
      k = np.arange(478)
      points = center + radius * np.sqrt((k + 0.5) / 478)[:, None] * np.stack(
        [np.cos(2.4 * k), np.sin(2.4 * k)], -1
      )
      points[[33, 263]] = center + radius * np.array([[-0.6, -0.2], [0.6, -0.2]])
      faces.append(np.concatenate([points, np.zeros((478, 1))], 1))
    return np.float32(faces).reshape(-1, 478, 3), np.ones(len(faces), np.float32), None


def fit_clips(clips, *, head, dense, **_):
  """A head at rest, as far to the side as the landmarks are."""
  results = []
  for clip in clips:
    count, size = len(clip.pictures), clip.crop.size
    move = (clip.observation.points.mean(1) - size / 2) / size
    zero = lambda *shape: np.zeros(shape, np.float32)
    translation = np.stack([0.3 * move[:, 0], -0.3 * move[:, 1], np.full(count, -0.7)], -1)
    subject = Subject(
      clip.name,
      head.name,
      head_digest(head),
      dense.levels,
      (size, size),
      clip.rate,
      zero(head.shape_basis.shape[-1]),
      zero(count, head.expression_basis.shape[-1]),
      zero(count, len(head.parents), 3),
      translation.astype(np.float32),
      np.full(2, 2.0 * size, np.float32),
      np.full(2, size / 2, np.float32),
      np.arange(count, dtype=np.float32) / 25,
      zero(dense.coarse_ids.shape[0], 3),
      np.zeros(0, np.int32),
      zero(count, 0, 3),
      source_crop=np.repeat(np.linalg.inv(clip.crop.matrix())[None], count, 0).astype(np.float32),
    )
    results.append(types.SimpleNamespace(subject=subject, observation=clip.observation))
  return results


def control_maps(head, dense, subject, motion, offsets, *, size):
  """Stripes that lie where the head does."""
  at = (
    np.arange(size)[None, None, :, None]
    + 1000 * subject.translation[:, :1, None, None]
    + np.arange(3) * size / 3
  )
  return np.broadcast_to(
    np.uint8(127 + 120 * np.sin(at)), (subject.num_frames, size, size, 3)
  ).copy()


def use_stand_ins(patch) -> None:
  """patch(object, name, value) for each."""
  patch(prepare, 'FaceEstimator', Estimator)
  patch(prepare, 'interpreter', lambda: None)
  patch(prepare, 'fit_clips', fit_clips)
  patch(clip_record, 'control_maps', control_maps)


def arguments(clips: str, output, *more) -> list[str]:
  """Of `exp_jax.prepare`, small."""
  return [
    '--clips',
    clips,
    '-o',
    str(output),
    '--size',
    '16',
    '--fit_size',
    '64',
    '--head',
    'procedural',
    '--levels',
    '0',
    '--holdout',
    '5',
    '--networks',
    'none',
    '--least_face',
    '0',
    '--least_sharpness',
    '0',
    '--least_motion',
    '0',
    '--most_invented',
    '1',
    *more,
  ]


if __name__ == '__main__':
  use_stand_ins(setattr)
  sys.exit(main(sys.argv[1:]))
