"""TFDS builder of HDTF; see README.md."""

import re

from clip_records import ClipBuilder, Part, file_called, seconds_of, split_of, videos_below
from tensorflow_datasets import core

from exp_jax.errors import UserError

_GROUPS = ('RD', 'WDA', 'WRA')


# Two names of the lists for one man.
_SAME = {'WDA_WhipJimClyburn': 'WDA_JamesClyburn'}


def person_of(video: str) -> str:
  """'WDA_BarackObama_000', 'WDA_BarackObama1' -> 'WDA_BarackObama': videos of one speaker differ in
  the number at the end.

  The radio programmes, RD_Radio1 and so on, name no speakers, and some share theirs: all of them
  are one subject.
  """
  return re.sub(r'[_\d]+$', '', video)


def split_of_person(person: str) -> str:
  """The split of a speaker, the same for all names that a speaker has."""
  return split_of(_SAME.get(person, person))


def _rows(path):
  """Name without suffix -> the other words of each line; empty if there is no such file."""
  rows = {}
  for line in path.read_text(errors='replace').splitlines() if path.is_file() else ():
    if words := line.split():
      rows[re.sub(r'\.\w+$', '', words[0])] = words[1:]
  return rows


class Builder(ClipBuilder):
  """Talking heads; a subject is a speaker."""

  VERSION = core.Version('1.0.0')
  DESCRIPTION = 'HDTF: 368 source videos of speeches, cut into talking heads.'
  LICENSE = "The lists are CC BY 4.0; the videos are their owners'."
  HOMEPAGE = 'https://github.com/MRzzm/HDTF'
  MAKE_SQUARE = 0.0
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Put cut clips into MANUAL_DIR/clips, named VIDEO_0.mp4, or the source videos into '
    'MANUAL_DIR/raw as GROUP_VIDEO.mp4 (GROUP '
    'is RD, WDA or WRA) and the text files of the publishers (RD_annotion_time.txt, ...) into '
    'MANUAL_DIR/meta.'
  )

  def parts(self, folder):
    found, meta = {}, folder / 'meta'
    for group in _GROUPS:
      times = _rows(meta / f'{group}_annotion_time.txt')
      boxes, sizes = _rows(meta / f'{group}_crop_wh.txt'), _rows(meta / f'{group}_resolution.txt')
      for video, stamps in times.items():
        for i, span in enumerate(stamps):
          name = video if video.startswith(f'{group}_') else f'{group}_{video}'
          clip_id, row = f'{name}_{i}', boxes.get(f'{video}_{i}')
          part = dict(
            clip_id=clip_id,
            subject_id=person_of(name),
            split=split_of_person(person_of(name)),
            file=file_called(folder / 'raw', name),
          )
          try:
            begin, end = map(seconds_of, span.split('-'))
            height = int(re.search(r'\d+', sizes[video][0])[0]) if row else 0
            box = (
              None if row is None else (lambda x, w, y, h: (x, y, x + w, y + h))(*map(float, row))
            )
          except (ValueError, KeyError, IndexError, TypeError):
            raise UserError(
              f'{meta}: what {group}_annotion_time.txt, {group}_crop_wh.txt and '
              f'{group}_resolution.txt say of '
              f'{video} ({span}) is not what HDTF writes'
            ) from None
          found[clip_id] = Part(
            **part,
            begin=begin,
            end=end,
            box=box,
            reference=(height, 0),
            attributes={'group': group},
            problem='' if row else f'{group}_crop_wh.txt has no box for it',
          )
    for path in videos_below(folder / 'clips'):
      found[path.stem] = Part(
        path.stem, person_of(path.stem), path, split=split_of_person(person_of(path.stem))
      )
    return list(found.values())
