"""TFDS builder of NeRSemble; see README.md."""

import csv

from clip_records import ClipBuilder, Part, videos_below
from tensorflow_datasets import core

FRONT = '222200037'


class Builder(ClipBuilder):
  """Multi-view recordings; a subject is a participant. The front camera, for tests only."""

  VERSION = core.Version('1.0.0')
  DESCRIPTION = (
    'NeRSemble v2: expressions and sentences of more than 250 people; here the front camera.'
  )
  LICENSE = 'Research, on request; the recordings may not be passed on.'
  HOMEPAGE = 'https://tobias-kirschstein.github.io/nersemble/'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    f'Run `nersemble-data download MANUAL_DIR --camera {FRONT}`, which leaves '
    'PARTICIPANT/sequences/SEQUENCE/images/cam_'
    f'{FRONT}.mp4.'
  )

  def parts(self, folder):
    people = {}
    for table in sorted(folder.glob('*.csv')):
      with open(table, newline='', errors='replace') as stream:
        for row in csv.DictReader(stream):
          key = row.get('participant_id') or row.get('id') or row.get('ID')
          if key and key.strip().isdigit():
            people[int(key)] = {k: v for k, v in row.items() if k and isinstance(v, str)}
    parts = []
    for path in videos_below(folder):
      if (
        path.stem != f'cam_{FRONT}'
        or path.parent.name != 'images'
        or len(path.relative_to(folder).parts) < 5
      ):
        continue
      participant, _, sequence = path.relative_to(folder).parts[-5:-2]
      known = people.get(int(participant), {}) if participant.isdigit() else {}
      parts.append(
        Part(
          f'{participant}_{sequence}',
          participant,
          path,
          split='test',
          attributes={'sequence': sequence, 'camera': FRONT, 'participant': known},
        )
      )
    return parts
