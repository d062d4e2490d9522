"""TFDS builder of VFHQ; see README.md."""

import pathlib
import re

from clip_records import ClipBuilder, Part, file_called, split_of, videos_below
from tensorflow_datasets import core

from exp_jax.errors import UserError

_NAME = re.compile(
  r'Clip\+(?P<video>.+)\+P(?P<person>\d+)\+C(?P<clip>\d+)\+F(?P<first>\d+)-(?P<last>\d+)'
)


def read_meta(path: pathlib.Path) -> dict[str, list[float]]:
  """The numbers behind H, W, FPS and CROP of a clip's text file. UserError if one is missing."""
  found = {}
  for line in path.read_text(errors='replace').splitlines():
    words = line.replace(':', ' ').split()
    count = {'H': 1, 'W': 1, 'FPS': 1, 'CROP': 4}.get(words[0] if words else '')
    if count:
      try:
        found[words[0]] = [float(word) for word in words[-count:]]
      except ValueError:
        raise UserError(f'{path}: {line!r} is not what VFHQ writes') from None
  if missing := {'H', 'W', 'FPS', 'CROP'} - set(found):
    raise UserError(f'{path} has no {sorted(missing)[0]}')
  return found


class Builder(ClipBuilder):
  """Interview clips; a subject is a person of a source video.

  All people of a video are in one split.
  """

  VERSION = core.Version('1.0.0')
  DESCRIPTION = 'VFHQ: more than 16,000 clips of interviews, high resolution.'
  LICENSE = "Research only, under the publishers' terms; the videos are their owners'."
  HOMEPAGE = 'https://liangbinxie.github.io/projects/vfhq/'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Put cut clips into MANUAL_DIR/clips, named Clip+VIDEO+P0+C0+F100-200.mp4, or the videos into '
    'MANUAL_DIR/raw as VIDEO.mp4 '
    'and the text files of the publishers into MANUAL_DIR/meta.'
  )

  def parts(self, folder):
    found = {}
    for path in sorted((folder / 'meta').rglob('*.txt')):
      if name := _NAME.fullmatch(path.stem):
        meta = read_meta(path)
        found[path.stem] = Part(
          path.stem,
          f'{name["video"]}_P{name["person"]}',
          file_called(folder / 'raw', name['video']),
          frames=(int(name['first']) + 1, int(name['last'])),
          rate=meta['FPS'][0],
          box=tuple(meta['CROP']),
          reference=(int(meta['H'][0]), int(meta['W'][0])),
          split=split_of(name['video']),
          attributes={'video': name['video']},
        )
    for path in videos_below(folder / 'clips'):
      name = _NAME.fullmatch(path.stem)
      person = f'{name["video"]}_P{name["person"]}' if name else path.stem
      found[path.stem] = Part(
        path.stem,
        person,
        path,
        split=split_of(name['video'] if name else path.stem),
        attributes={'video': name['video']} if name else {},
      )
    return list(found.values())
