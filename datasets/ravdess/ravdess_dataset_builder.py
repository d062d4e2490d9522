"""TFDS builder of RAVDESS; see README.md."""

import re

from clip_records import ClipBuilder, Part, videos_below
from tensorflow_datasets import core

_FIELDS = ('modality', 'channel', 'emotion', 'intensity', 'statement', 'repetition', 'actor')
EMOTIONS = ('neutral', 'calm', 'happy', 'sad', 'angry', 'fearful', 'disgust', 'surprised')


class Builder(ClipBuilder):
  """Actors who speak and sing with emotions; a subject is an actor. For tests only."""

  VERSION = core.Version('1.0.0')
  DESCRIPTION = 'RAVDESS: 24 actors, two sentences, eight emotions; video with sound, 1280x720.'
  LICENSE = 'CC BY-NC-SA 4.0'
  HOMEPAGE = 'https://zenodo.org/records/1188976'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Unpack Video_Speech_Actor_*.zip (and Video_Song_Actor_*.zip) below MANUAL_DIR.'
  )

  def parts(self, folder):
    found = {}
    for path in videos_below(folder):
      if not re.fullmatch(r'\d\d(-\d\d){6}', path.stem):
        continue
      fields = dict(zip(_FIELDS, map(int, path.stem.split('-'))))
      # The same take comes with sound (01) and without (02); the one with sound is used.
      take = path.stem[3:]
      if take in found and found[take].attributes['modality'] == 1:
        continue
      emotion = EMOTIONS[fields['emotion'] - 1] if 1 <= fields['emotion'] <= 8 else 'unknown'
      found[take] = Part(
        path.stem,
        f'actor_{fields["actor"]:02d}',
        path,
        split='test',
        attributes=fields
        | {'emotion': emotion, 'channel': {1: 'speech', 2: 'song'}.get(fields['channel'], '')},
        problem='it holds sound only' if fields['modality'] == 3 else '',
      )
    return list(found.values())
