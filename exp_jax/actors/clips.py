"""Actor clips on disk: video, truth, mattes; each file whole or absent, finished ones kept."""

import json
import pathlib

import av
import numpy as np
from PIL import Image

from exp_jax.actors.render import Clip
from exp_jax.errors import UserError
from exp_jax.files import atomic, npz
from exp_jax.heads.personalized import save_subject
from exp_jax.media.video import write_video


def middle_frame(path: pathlib.Path) -> np.ndarray:
  """[H, W, 3] uint8, the frame in the middle of a short clip."""
  with av.open(str(path)) as container:
    frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
  return frames[len(frames) // 2]


def paths_of(folder: pathlib.Path, actor_id: str) -> dict[str, pathlib.Path]:
  """The files of one actor; the truth is written last, so where it is, all are."""
  return {
    'clip': folder / 'clips' / f'{actor_id}.mp4',
    'matte': folder / 'mattes' / f'{actor_id}.npz',
    'truth': folder / 'truth' / f'{actor_id}.npz',
  }


def is_finished(folder: pathlib.Path, actor_id: str) -> bool:
  """Whether all files of an actor are there; each is written under a temporary name and renamed."""
  return all(path.exists() for path in paths_of(folder, actor_id).values())


def write_clip(folder: pathlib.Path, actor_id: str, clip: Clip) -> None:
  """Writes clips/<id>.mp4, mattes/<id>.npz (matte, landmarks, gaze, the maps) and
  truth/<id>.npz."""
  paths = paths_of(folder, actor_id)
  write_video(paths['clip'], clip.frames, clip.truth.fps, crf=12)
  few = {'matte': clip.matte, 'landmarks': clip.landmarks, 'gaze': clip.gaze}
  npz.write_npz(paths['matte'], few | clip.maps)
  save_subject(paths['truth'], clip.truth)


def write_sheet(path: pathlib.Path, frames: list[np.ndarray], *, columns: int = 8) -> None:
  """One PNG of all frames [H, W, 3] side by side."""
  height, width = frames[0].shape[:2]
  rows = -(-len(frames) // columns)
  sheet = np.full((rows * height, min(columns, len(frames)) * width, 3), 255, np.uint8)
  for k, frame in enumerate(frames):
    row, column = divmod(k, columns)
    sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = frame
  with atomic.replacing(path) as partial:
    Image.fromarray(sheet).save(partial, format='PNG')


def claim_folder(folder: pathlib.Path, settings: dict) -> None:
  """Makes the folder, or checks that it was made with the same settings.

  Raises:
    UserError: another set of actors is there, or the place cannot be written.
  """
  note = folder / 'settings.json'
  try:
    folder.mkdir(parents=True, exist_ok=True)
    if note.exists():
      found = json.loads(note.read_text())
      if found != settings:
        changed = sorted(k for k in settings if found.get(k) != settings[k])
        raise UserError(
          f'{folder} holds actors made with another {", ".join(changed)} ({note}); '
          'choose another folder or delete that one'
        )
    else:
      atomic.write_text(note, json.dumps(settings, indent=1))
  except json.JSONDecodeError:
    raise UserError(f'{note} is not JSON; delete the folder or choose another') from None
  except OSError as error:
    raise UserError(f'cannot write to {folder}: {error.strerror}') from None
