"""What training sees of a face: clips with landmarks and head angles, from three sources.

| record | array | meaning |
|---|---|---|
| video | uint8 [T, 2 S, 2 S, 3] | the face, cropped as for animation; one frame for a photograph |
| landmarks | float32 [T, 478, 2] | MediaPipe's, from -1 to 1 over the crop |
| angles | float32 [T, 3] | pitch, yaw, roll in degrees; NaN where unknown |

  toy_faces    drawn by the number, no files: discs with eyes and a mouth, whose turn and openness are known
  actors       a folder of `python -m exp_jax.actors`: its pictures, landmarks and poses
  face_clips   ArrayRecord files of `python -m exp_jax liveportrait.prepare`

Photographs are clips of one frame; `images` names a second source of them, of which `image_share`
of the examples are; 'none' says
that there are none. Source: LivePortrait, section 3.2, "Mixed image and video training".
Letters: T frames, S pixels of the networks' input.
"""

import functools
import io
import os
import pathlib

import numpy as np
from scipy.spatial.transform import Rotation

from exp_jax.errors import UserError
from exp_jax.files import npz
from exp_jax.files.array_records import ArrayRecords, DamagedRecord
from exp_jax.geometry import HEAD_TO_CAMERA
from exp_jax.heads.head_files import load_head
from exp_jax.heads.personalized import load_subject
from exp_jax.media.images import resize
from exp_jax.media.video import read_video
from exp_jax.systems.liveportrait.networks.keypoints import degrees_from_rotation

POINTS = 478
KEYS = ('video', 'landmarks', 'angles')  # of a record
# where a toy face has what the losses look at: x, y in its own frame, -1 to 1
_EYES = {33: (-1, 0), 133: (1, 0), 160: (-0.5, -0.7), 159: (0, -1), 145: (0, 1), 158: (0.5, -0.7)}
_OTHER = {362: (-1, 0), 263: (1, 0), 385: (-0.5, -0.7), 386: (0, -1), 374: (0, 1), 387: (0.5, -0.7)}
_LIPS = {61: (-1, 0), 291: (1, 0), 0: (0, -1.3), 17: (0, 1.3), 13: (0, -1), 14: (0, 1)}


def toy_face(rng: np.random.Generator, frames: int, size: int) -> dict:
  """A clip of a disc with two eyes and a mouth; [T = frames] of `size` pixels."""
  skin, ground, iris = (
    rng.uniform([0.4, 0.3, 0.2], [1, 0.8, 0.7]),
    rng.uniform(0, 1, 3),
    rng.uniform(0, 0.5, 3),
  )
  lips = rng.uniform([0.5, 0, 0], [1, 0.3, 0.3])
  radii, spread = rng.uniform([0.42, 0.5], [0.52, 0.62]), rng.uniform(0.16, 0.22)
  angles = np.clip(np.cumsum(rng.normal(0, 6, (frames, 3)), 0) + rng.normal(0, 8, 3), -30, 30)
  gap, mouth = rng.uniform(0.05, 0.4, frames), rng.uniform(0.02, 0.6, frames)
  place = rng.normal(0, 0.05, (frames, 2))
  y, x = np.mgrid[:size, :size] * 2 / size - 1 + 1 / size
  video, landmarks = [], []
  for t in range(frames):
    pitch, yaw, roll = np.deg2rad(angles[t])
    c, s = np.cos(roll), np.sin(roll)
    px, py = (
      c * (x - place[t, 0]) + s * (y - place[t, 1]),
      -s * (x - place[t, 0]) + c * (y - place[t, 1]),
    )
    shift = np.array([0.35 * np.sin(yaw), -0.35 * np.sin(pitch)])
    image = np.where(
      (np.hypot(px / radii[0], py / radii[1]) < 1)[..., None],
      skin * (0.85 + 0.3 * (px - py))[..., None],
      ground,
    )
    points = np.zeros((POINTS, 2))
    around = 2 * np.pi * np.arange(POINTS) / POINTS
    points[:] = np.stack([radii[0] * np.cos(around), radii[1] * np.sin(around)], 1)
    for side, table in ((-1, _EYES), (1, _OTHER)):
      middle, wide = np.array([side * spread, -0.12]) + shift, 0.09
      eye = np.hypot((px - middle[0]) / wide, (py - middle[1]) / (wide * gap[t])) < 1
      image = np.where(eye[..., None], 0.95, image)
      image = np.where(
        (eye & (np.hypot(px - middle[0], py - middle[1]) < 0.045))[..., None], iris, image
      )
      for index, (u, v) in table.items():
        points[index] = middle + wide * np.array([u, v * gap[t]])
    middle, wide = np.array([0, 0.27]) + shift, 0.14
    image = np.where(
      (np.hypot((px - middle[0]) / wide, (py - middle[1]) / (wide * mouth[t] + 0.02)) < 1)[
        ..., None
      ],
      lips,
      image,
    )
    for index, (u, v) in _LIPS.items():
      points[index] = middle + wide * np.array([u, v * mouth[t]])
    points[152] = (0, radii[1])
    landmarks.append(points @ np.array([[c, s], [-s, c]]) + place[t])
    video.append(np.clip(255 * image, 0, 255))
  return dict(
    video=np.stack(video).astype(np.uint8),
    landmarks=np.stack(landmarks).astype(np.float32),
    angles=angles.astype(np.float32),
  )


class ToyFaces:
  """`count` clips of `toy_face`, the same for the same number, always."""

  def __init__(self, count: int, frames: int, size: int, seed: int = 0):
    self.count, self.frames, self.size, self.seed = count, frames, size, seed
    self.fingerprint = repr((count, frames, size, seed))

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    return toy_face(np.random.default_rng([self.seed, int(index)]), self.frames, self.size)


class ActorFaces:
  """Clips of a folder of `python -m exp_jax.actors`, resized to `size`; the last `holdout` are kept
  for 'held_out'.

  Raises:
    UserError: no finished actors there.
  """

  def __init__(self, folder: str, size: int, *, part: str = 'train', holdout: int = 0):
    self.folder, self.size = pathlib.Path(folder), size
    names = sorted(p.stem for p in (self.folder / 'truth').glob('*.npz'))
    if len(names) <= holdout:
      raise UserError(
        f'no actors at {folder!r}: make them with `python -m exp_jax.actors -o {folder} --num 40`, '
        'and set '
        'config.data.path'
      )
    self.names = names[: len(names) - holdout] if part == 'train' else names[len(names) - holdout :]
    self.fingerprint = repr(self.names)

  def __len__(self):
    return len(self.names)

  def __getitem__(self, index):
    return _actor(str(self.folder), self.names[index], self.size)


@functools.lru_cache(maxsize=512)
def _actor(folder, name, size):
  folder = pathlib.Path(folder)
  clip = read_video(folder / 'clips' / f'{name}.mp4').frames
  seen, truth = (
    npz.read_npz(folder / 'mattes' / f'{name}.npz', ('landmarks',)),
    load_subject(folder / 'truth' / f'{name}.npz'),
  )
  head = load_head(truth.head_name)
  own = [int(n) if n.isdigit() else -1 for n in head.landmark_names]
  if max(own) < 68:
    raise UserError(
      f'the actors in {folder} were made with the head {truth.head_name!r}, which has no landmarks '
      'of MediaPipe'
    )
  landmarks = np.repeat(seen['landmarks'].mean(1, keepdims=True), POINTS, 1)
  landmarks[:, own] = seen['landmarks']
  extent = np.array(clip.shape[2:0:-1], np.float32)
  return dict(
    video=np.stack([resize(frame, (size, size)) for frame in clip]),
    landmarks=(landmarks * 2 / extent - 1).astype(np.float32),
    angles=actor_angles(truth.pose, head),
  )


def actor_angles(pose: np.ndarray, head) -> np.ndarray:
  """[T, J, 3] axis-angle -> [T, 3] pitch, yaw, roll of the head as LivePortrait has them."""
  joint, turn = head.joint('head'), None
  while joint >= 0:
    own = Rotation.from_rotvec(pose[:, joint]).as_matrix()
    turn = own if turn is None else own @ turn
    joint = int(head.parents[joint]) if joint else -1
  return degrees_from_rotation((HEAD_TO_CAMERA @ turn @ HEAD_TO_CAMERA).transpose(0, 2, 1))


def to_bytes(record: dict) -> bytes:
  """A record as npz bytes."""
  buffer = io.BytesIO()
  np.savez(buffer, **record)
  return buffer.getvalue()


def from_bytes(data: bytes, where: str) -> dict:
  """The record again; DamagedRecord if it is none."""
  try:
    record = npz.read_npz(data, KEYS, most_bytes=npz.LONG_CLIPS)
    record = {key: record[key] for key in KEYS}
  except (KeyError, UserError) as error:
    raise DamagedRecord(f'{where} is damaged: {error}') from None
  T = len(record['video'])
  if (
    record['landmarks'].shape != (T, POINTS, 2)
    or record['angles'].shape != (T, 3)
    or not np.isfinite(record['landmarks']).all()
  ):
    raise DamagedRecord(f'{where} does not hold a face in every frame')
  return record


class FaceClips(ArrayRecords):
  """Random access to face clips in ArrayRecord files; see `ArrayRecords` for `path` and errors."""

  def __init__(self, path: str):
    super().__init__(
      path, f'no face clips at {path!r}: make them with `python -m exp_jax liveportrait.prepare`'
    )

  @property
  def fingerprint(self) -> str:
    """Names and sizes of the files."""
    return repr([(os.path.basename(f), os.path.getsize(f)) for f in self.files])

  def __getitem__(self, index: int) -> dict:
    file, local = self.place(index)
    return from_bytes(self.packed(index), f'record {local} of {file}')


class Mixed:
  """Clips, and photographs in the share asked for: index i is a photograph if the running total of
  the share steps over one."""

  def __init__(self, clips, images, share: float):
    self.clips, self.images, self.share = clips, images, share
    self.fingerprint = (
      f'{getattr(clips, "fingerprint", "")} {getattr(images, "fingerprint", "")} {share}'
    )

  def __len__(self):
    return int(np.ceil(len(self.clips) / (1 - self.share)))

  def __getitem__(self, index):
    before, now = int(index * self.share), int((index + 1) * self.share)
    return (
      self.images[before % len(self.images)]
      if now > before
      else self.clips[(index - now) % len(self.clips)]
    )


def source_of(data, size: int, *, part: str = 'train'):
  """The source of a config's `data` section: name, path, images, image_share, frames, count,
  holdout."""
  if data.name == 'toy_faces':
    source = ToyFaces(
      data.count if part == 'train' else max(data.holdout, 1),
      data.frames,
      size,
      0 if part == 'train' else 1,
    )
  elif data.name == 'actors':
    source = ActorFaces(data.path, size, part=part, holdout=data.holdout)
  elif data.name == 'face_clips':
    source = FaceClips(data.path if part == 'train' else data.held_out)
  else:
    raise UserError(
      f"config.data.name is {data.name!r}; choose 'toy_faces', 'actors' or 'face_clips'"
    )
  if part == 'train' and (images := photographs_of(data, size)) is not None:
    source = Mixed(source, images, data.image_share)
  return source


def photographs_of(data, size: int):
  """The photographs that training mixes in, or None.

  Raises:
    UserError: a share is asked for and no photographs are named, or the other way round; a share
      that is none.
  """
  share, images = data.image_share, data.images
  if not 0 <= share < 1:
    raise UserError(f'config.data.image_share must be at least 0 and below 1, got {share}')
  if images == 'none' or not share and not images:
    return None
  if not share:
    raise UserError(
      f'config.data.images={images} is never looked at with config.data.image_share=0: give the '
      'share of photographs, '
      'or leave the images out'
    )
  if images:
    return FaceClips(images)
  if data.name == 'toy_faces':
    return ToyFaces(data.count, 1, size, 2)
  raise UserError(
    f'a share of {share:g} of the examples is to be photographs, as the paper mixes them: name '
    'their records with '
    '--config.data.images=DIR (python -m exp_jax liveportrait.prepare PHOTOS...), or train on '
    'clips alone '
    'with --config.data.images=none'
  )


def pair(record: dict, rng: np.random.Generator, size: int) -> dict:
  """Two frames of a clip, the same one of a photograph, as an example of training.

  Raises:
    UserError: the record has another size.
  """
  if record['video'].shape[1:3] != (size, size):
    raise UserError(
      f'the clips are {record["video"].shape[2]}x{record["video"].shape[1]}, the networks want '
      f'{size}x{size}'
    )
  T = len(record['video'])
  source, driving = rng.integers(T), rng.integers(T)
  known = np.isfinite(record['angles']).all(-1)
  angles = np.where(known[:, None], record['angles'], 0)
  out = {}
  for name, t in (('source', source), ('driving', driving)):
    out[name] = record['video'][t]
    out[f'{name}_landmarks'] = record['landmarks'][t]
    out[f'{name}_angles'] = angles[t].astype(np.float32)
    out[f'{name}_posed'] = np.float32(known[t])
  return out


def batch_spec(batch: int, size: int) -> dict:
  """Shapes of `pair` in a batch."""
  import jax

  spec = {}
  for name in ('source', 'driving'):
    spec |= {
      name: ((size, size, 3), np.uint8),
      f'{name}_landmarks': ((POINTS, 2), np.float32),
      f'{name}_angles': ((3,), np.float32),
      f'{name}_posed': ((), np.float32),
    }
  return {k: jax.ShapeDtypeStruct((batch, *shape), dtype) for k, (shape, dtype) in spec.items()}


def angles_from_mesh(points: np.ndarray) -> np.ndarray:
  """[T, 478, 3] of MediaPipe, z toward the viewer negative -> [T, 3] pitch, yaw, roll in degrees.

  The face's axes are read off the mesh: across from eye corner to eye corner, down from the bridge
  of the nose to the chin. No network and no licence; the chin drops with the jaw, so pitch follows
  an open mouth by a few degrees.
  """
  points = np.asarray(points, np.float64)
  across = points[:, 263] - points[:, 33]
  down = points[:, 152] - (points[:, 168] + points[:, 10]) / 2
  across /= np.linalg.norm(across, axis=-1, keepdims=True)
  down -= across * (down * across).sum(-1, keepdims=True)
  down /= np.linalg.norm(down, axis=-1, keepdims=True)
  # rows are the images of the face's own axes
  rows = np.stack([across, down, np.cross(across, down)], 1)
  return degrees_from_rotation(rows)
