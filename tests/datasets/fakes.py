"""Three clips of each dataset, laid out as its users have them: cut clips, or raw videos with the
publishers' lists.

A raw picture tells where and when it is: red grows to the right, green down, blue with the frame.
"""

import json

import numpy as np

from tests.media.films import write_film

HEIGHT, WIDTH, FRAMES, RATE = 90, 160, 50, 25


def raw_frames(count=FRAMES, height=HEIGHT, width=WIDTH):
  """[T, H, W, 3] uint8."""
  y, x = np.mgrid[:height, :width]
  planes = [
    np.stack(
      [
        255 * x / (width - 1),
        255 * y / (height - 1),
        np.full((height, width), 255 * t / (FRAMES - 1)),
      ],
      -1,
    )
    for t in range(count)
  ]
  return np.rint(np.stack(planes)).astype(np.uint8)


def write_raw(path, **more):
  """A raw video of two seconds."""
  path.parent.mkdir(parents=True, exist_ok=True)
  write_film(
    path,
    np.arange(FRAMES),
    RATE,
    frames=raw_frames(),
    pix_fmt='yuv444p',
    options={'qp': '4'},
    **more,
  )


def write_cut(path, count=3):
  """A clip that is cut already."""
  path.parent.mkdir(parents=True, exist_ok=True)
  write_film(path, np.arange(count), RATE, frames=raw_frames(count, 32, 32))


def vfhq(folder):
  """Cut clips of two people."""
  for person, clip in ((0, 0), (0, 1), (1, 0)):
    write_cut(folder / 'clips' / f'Clip+a-b_c+P{person}+C{clip}+F10-20.mp4')


def vfhq_raw(folder):
  """One video, three places in it, of which one video is missing."""
  write_raw(folder / 'raw' / 'a-b_c.mp4')
  for name, crop in (
    ('Clip+a-b_c+P0+C0+F9-20', (40, 20, 120, 100)),
    ('Clip+a-b_c+P1+C0+F29-40', (200, 60, 280, 140)),
    ('Clip+gone+P0+C0+F0-10', (0, 0, 64, 64)),
  ):
    meta = folder / 'meta' / f'{name}.txt'
    meta.parent.mkdir(parents=True, exist_ok=True)
    meta.write_text(
      f'H {2 * HEIGHT}\nW {2 * WIDTH}\nFPS {RATE}.0\nCROP {" ".join(map(str, crop))}\n0 1 2 3\n'
    )


def celebv_hq(folder):
  """A raw video and a cut clip, in the list, and a cut clip that is not."""
  write_raw(folder / 'raw' / 'M2Ohb0FAaJU.mp4')
  write_cut(folder / 'clips' / 'other-id_3.mp4')
  write_cut(folder / 'clips' / 'third_id_1.mp4')
  clip = lambda ytb, box: {
    'ytb_id': ytb,
    'duration': {'start_sec': 0.4, 'end_sec': 1.0},
    'attributes': {'emotion': 'happy'},
    'bbox': dict(zip(('top', 'bottom', 'left', 'right'), box)),
  }
  (folder / 'meta').mkdir()
  (folder / 'meta' / 'celebvhq_info.json').write_text(
    json.dumps(
      {
        'clips': {
          'M2Ohb0FAaJU_1': clip('M2Ohb0FAaJU', (0.2, 0.8, 0.5, 0.8)),
          'other-id_3': clip('other-id', (0, 1, 0, 1)),
        }
      }
    )
  )


def hdtf(folder):
  """A raw video with two spans, one without a box, and a cut clip."""
  write_raw(folder / 'raw' / 'WDA_SomeBody_000.mp4')
  write_cut(folder / 'clips' / 'RD_Radio1_000_0.mp4')
  write_cut(folder / 'clips' / 'WDA_SomeBody_001_0.mp4')
  (folder / 'meta').mkdir()
  (folder / 'meta' / 'WDA_annotion_time.txt').write_text(
    'WDA_SomeBody_000.mp4 00:00-00:01 00:01-00:02\n'
  )
  (folder / 'meta' / 'WDA_crop_wh.txt').write_text('WDA_SomeBody_000_1.mp4 640 480 80 480\n')
  (folder / 'meta' / 'WDA_resolution.txt').write_text('WDA_SomeBody_000.mp4 720\n')


def ravdess(folder):
  """Two takes, one of them with and without sound, and sound alone."""
  for name in (
    '01-01-06-01-02-01-12',
    '02-01-06-01-02-01-12',
    '01-01-03-02-01-02-07',
    '02-02-05-01-01-01-07',
  ):
    write_cut(folder / f'Actor_{name[-2:]}' / f'{name}.mp4')


def nersemble(folder):
  """Three sequences of two participants; another camera is left aside."""
  for person, sequence in (
    ('017', 'EXP-1-head'),
    ('017', 'SEN-01-cramp_small_danger'),
    ('240', 'EMO-1-shout+laugh'),
  ):
    write_cut(folder / person / 'sequences' / sequence / 'images' / 'cam_222200037.mp4')
  write_cut(folder / '017' / 'sequences' / 'EXP-1-head' / 'images' / 'cam_220700191.mp4')
  (folder / 'participants.csv').write_text('participant_id,gender\n17,f\n240,m\n')


def talkinghead_1kh(folder):
  """A segment with a place in the list, and cut clips of two splits."""
  write_raw(folder / 'train' / '1min_clips' / 'ab_cd_0004.mp4')
  (folder / 'data_list').mkdir()
  (folder / 'data_list' / 'train_video_tubes.txt').write_text(
    f'ab_cd_0004,{2 * HEIGHT},{2 * WIDTH},10,19,60,30,140,110\n'
  )
  write_cut(folder / 'val' / 'cropped_clips' / 'ef-gh_0000_S0_E10_L0_T0_R32_B32.mp4')
  write_cut(folder / 'train' / 'cropped_clips' / 'ij_0002_S5_E15_L0_T0_R32_B32.mp4')


FAKES = {
  'vfhq': vfhq,
  'celebv_hq': celebv_hq,
  'hdtf': hdtf,
  'ravdess': ravdess,
  'nersemble': nersemble,
  'talkinghead_1kh': talkinghead_1kh,
}
SUBJECTS = {  # clip id -> subject, split ('' by the name)
  'vfhq': {
    'Clip+a-b_c+P0+C0+F10-20': ('a-b_c_P0', ''),
    'Clip+a-b_c+P0+C1+F10-20': ('a-b_c_P0', ''),
    'Clip+a-b_c+P1+C0+F10-20': ('a-b_c_P1', ''),
  },
  'celebv_hq': {
    'M2Ohb0FAaJU_1': ('M2Ohb0FAaJU', ''),
    'other-id_3': ('other-id', ''),
    'third_id_1': ('third_id', ''),
  },
  'hdtf': {
    'WDA_SomeBody_000_1': ('WDA_SomeBody', ''),
    'WDA_SomeBody_001_0': ('WDA_SomeBody', ''),
    'RD_Radio1_000_0': ('RD_Radio', ''),
  },
  'ravdess': {
    '01-01-06-01-02-01-12': ('actor_12', 'test'),
    '01-01-03-02-01-02-07': ('actor_07', 'test'),
    '02-02-05-01-01-01-07': ('actor_07', 'test'),
  },
  'nersemble': {
    '017_EXP-1-head': ('017', 'test'),
    '017_SEN-01-cramp_small_danger': ('017', 'test'),
    '240_EMO-1-shout+laugh': ('240', 'test'),
  },
  'talkinghead_1kh': {
    'ab_cd_0004_S10_E19_L60_T30_R140_B110': ('ab_cd', 'train'),
    'ef-gh_0000_S0_E10_L0_T0_R32_B32': ('ef-gh', 'validation'),
    'ij_0002_S5_E15_L0_T0_R32_B32': ('ij', 'train'),
  },
}
