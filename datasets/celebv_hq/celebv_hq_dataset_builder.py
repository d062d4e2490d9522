"""TFDS builder of CelebV-HQ; see README.md."""

import json

from clip_records import ClipBuilder, Part, file_called, videos_below
from tensorflow_datasets import core

from exp_jax.errors import UserError


class Builder(ClipBuilder):
  """Clips of celebrities with attributes; a subject is a source video, as the list names no
  people."""

  VERSION = core.Version('1.0.0')
  DESCRIPTION = 'CelebV-HQ: 35,666 clips of 15,653 people with 83 attributes, at least 512x512.'
  LICENSE = 'Non-commercial research; the clips may not be passed on.'
  HOMEPAGE = 'https://celebv-hq.github.io/'
  MAKE_SQUARE = 0.02
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Put celebvhq_info.json into MANUAL_DIR/meta, and cut clips into MANUAL_DIR/clips as CLIP.mp4 '
    'or the source videos into '
    'MANUAL_DIR/raw as YOUTUBE_ID.mp4.'
  )

  def parts(self, folder):
    cut = {path.stem: path for path in videos_below(folder / 'clips')}
    info = folder / 'meta' / 'celebvhq_info.json'
    found = {}
    if info.is_file():
      try:
        for clip_id, clip in json.loads(info.read_text())['clips'].items():
          box = clip['bbox']
          whole = cut.get(clip_id)
          place = (
            {}
            if whole
            else dict(
              begin=float(clip['duration']['start_sec']),
              end=float(clip['duration']['end_sec']),
              box=tuple(float(box[side]) for side in ('left', 'top', 'right', 'bottom')),
            )
          )
          found[clip_id] = Part(
            clip_id,
            clip['ytb_id'],
            whole or file_called(folder / 'raw', clip['ytb_id']),
            attributes=clip.get('attributes', {}),
            **place,
          )
      except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
          f'{info} is not the list of CelebV-HQ ({type(error).__name__}: {error})'
        ) from None
    # Clips without the list: their names end in _ and a number.
    for stem, path in cut.items():
      found.setdefault(stem, Part(stem, stem.rpartition('_')[0] or stem, path))
    return list(found.values())
