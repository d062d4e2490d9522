"""TFDS builder of TalkingHead-1KH; see README.md."""

import re

from clip_records import ClipBuilder, Part, file_called, videos_below
from tensorflow_datasets import core

from exp_jax.errors import UserError

_SPLITS = {'train': 'train', 'small': 'small', 'val': 'validation'}
_CLIP = re.compile(
  r'(?P<segment>.+)_S(?P<S>\d+)_E(?P<E>\d+)_L(?P<L>\d+)_T(?P<T>\d+)_R(?P<R>\d+)_B(?P<B>\d+)'
)


def person_of(segment: str) -> str:
  """'abc_def_0004' -> 'abc_def': the video that a segment of a minute is of."""
  return re.sub(r'_\d{4}$', '', segment)


class Builder(ClipBuilder):
  """Talking heads of video calls and shows; a subject is a source video. The publishers' splits."""

  VERSION = core.Version('1.0.0')
  DESCRIPTION = 'TalkingHead-1KH: 500,000 clips, 80,000 of them at least 512x512.'
  LICENSE = 'The videos are CC BY 3.0, the lists MIT.'
  HOMEPAGE = 'https://github.com/tcwang0509/TalkingHead-1KH'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Put cut clips into MANUAL_DIR/train/cropped_clips and MANUAL_DIR/val/cropped_clips (or '
    "small), as the publishers' scripts "
    'leave them; or the segments of a minute into .../1min_clips and the lists '
    'train_video_tubes.txt, val_video_tubes.txt into '
    'MANUAL_DIR/data_list.'
  )

  def parts(self, folder):
    found = {}
    for name, split in _SPLITS.items():
      tubes = next(iter(sorted(folder.rglob(f'{name}_video_tubes.txt'))), None)
      for number, line in enumerate(
        tubes.read_text(errors='replace').splitlines() if tubes else (), 1
      ):
        if not line.strip():
          continue
        fields = line.strip().split(',')
        try:
          segment, (height, width, first, last, left, top, right, bottom) = (
            fields[0],
            map(int, map(float, fields[1:9])),
          )
        except ValueError:
          raise UserError(f'{tubes}: line {number} is not name,H,W,S,E,L,T,R,B') from None
        segment = re.sub(r'\.mp4$', '', segment)
        clip_id = f'{segment}_S{first}_E{last}_L{left}_T{top}_R{right}_B{bottom}'
        found[split, clip_id] = Part(
          clip_id,
          person_of(segment),
          file_called(folder / name / '1min_clips', segment),
          split=split,
          frames=(first, last + 1),
          box=(left, top, right, bottom),
          reference=(height, width),
        )
      for path in videos_below(folder / name / 'cropped_clips'):
        clip = _CLIP.fullmatch(path.stem)
        found[split, path.stem] = Part(
          path.stem, person_of(clip['segment']) if clip else path.stem, path, split=split
        )
    return list(found.values())
