"""Clips with maps of their fitted heads as records: made by a command from clips and subjects, read
by number, cut into examples.

A system says which maps a record holds and draws them; the rest is the same for all. Every record
has

| record | array | meaning |
|---|---|---|
| video | uint8 [T, S, S, 3] | frames |
| matte | uint8 [T, S, S] | 255 on the person, for measures alone; the map's mask where none was given |
| latents | float16 [T, h, w, C] | optional: codes of the frames |
| weights, clip_id, subject_id | str | digest of the autoencoder or '', where the clip comes from |

Letters: T frames of a clip, N of an example, S pixels, h, w, C latents.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
from tqdm import tqdm

from exp_jax.controls.framing import CROPS, MARGIN, box_in_film, boxes_of
from exp_jax.controls.maps import own_motion
from exp_jax.controls.reenact import Motion
from exp_jax.errors import ArgumentParser, UserError
from exp_jax.files import atomic, npz, record_bytes
from exp_jax.files.array_records import ArrayRecords, DamagedRecord, write_packed
from exp_jax.files.digests import file_digest
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject, check_head, load_subject
from exp_jax.heads.subject_squares import crops_of
from exp_jax.heads.trained_head import write_head
from exp_jax.media.formats import CLIP_SUFFIXES
from exp_jax.media.squares import Crop
from exp_jax.media.video import read_video
from exp_jax.networks.codec import open_codec

IN_A_FILE = 16
SETTINGS = 'settings.json'  # beside the records


class MapRecords(ArrayRecords):
  """Random access to records; see `ArrayRecords` for `path` and errors.

  Args:
    axes: {array: number of axes} that a record must have for each frame, 'video' among them.
    maker: the command that makes such records, for the complaint.
  """

  def __init__(self, path: str, axes: Mapping[str, int], maker: str):
    super().__init__(
      path,
      f'no records at {path!r}: make them with `python -m exp_jax {maker}`, and set '
      'config.data.path',
    )
    self.axes = axes

  def __getitem__(self, index: int) -> dict:
    file, local = self.place(index)
    where = f'record {local} of {file}'
    try:
      record = record_bytes.unpack(self.packed(index))
    except ValueError as error:
      raise DamagedRecord(f'{where} is damaged: {error}') from error
    check_record(record, self.axes, where)
    return record

  def made_with(self) -> dict | None:
    """The settings that the records were made with; None where they are not known."""
    note = pathlib.Path(self.files[0]).parent / SETTINGS
    return json.loads(note.read_text()) if note.is_file() else None


def check_record(record: dict, axes: Mapping[str, int], where: str) -> None:
  """DamagedRecord naming what is missing, of another form, or not finite."""
  for key, rank in axes.items():
    if key not in record or record[key].ndim != rank or len(record[key]) != len(record['video']):
      raise DamagedRecord(
        f'{where} has no {key!r} of {rank} axes for each frame; make the records again'
      )
    if record[key].dtype.kind == 'f' and not np.isfinite(record[key]).all():
      raise DamagedRecord(f'{where}: {key} holds NaN or infinite numbers')


@dataclasses.dataclass(frozen=True)
class CutClip:
  """A clip cut about its head.

  Attributes:
    subject: the fitted head. motion: its own.
    boxes: one a frame, pixels of the fit's square. cuts: the same in pixels of the film.
    video: uint8 [T, S, S, 3].
  """

  subject: Subject
  motion: Motion
  boxes: list[Crop]
  cuts: list[Crop]
  video: np.ndarray


def cut_clip(
  frames: np.ndarray,
  subject: Subject,
  head: HeadModel,
  *,
  size: int,
  crop: str,
  margin: float = MARGIN,
) -> CutClip:
  """The frames [T, H, W, 3] uint8 of a film in squares of `size` pixels about the head.

  Args:
    crop: 'square', the fit's; 'clip', one box about all heads of the clip; 'frame', one about each.
    margin: as of `boxes_of`.

  Raises:
    UserError: clip and subject do not fit.
  """
  if len(frames) != subject.num_frames:
    raise UserError(
      f'the clip has {len(frames)} frames, its subject {subject.num_frames}; fit it again'
    )
  squares, motion = crops_of(subject, size, len(frames), frames.shape[1:3]), own_motion(subject)
  boxes = boxes_of(head, subject, motion, crop, margin=margin)
  cuts = [
    box_in_film(square, box, subject.image_size[0], size) for square, box in zip(squares, boxes)
  ]
  return CutClip(
    subject, motion, boxes, cuts, np.stack([cut.cut(frame) for cut, frame in zip(cuts, frames)])
  )


def clip_record(
  clip: CutClip, maps: Mapping[str, np.ndarray], *, matte: np.ndarray | None, codec, weights: str
) -> dict:
  """The record of a clip and its maps, 'mask' among them.

  Args:
    matte: uint8 [T, H, W] of the film, or None.
    codec: encodes the frames, or None.
    weights: digest of the codec's weights.

  Raises:
    UserError: a matte that does not fit the film.
  """
  if matte is not None and (
    matte.dtype != np.uint8 or matte.ndim != 3 or len(matte) != len(clip.video)
  ):
    raise UserError(
      f'its matte is {matte.dtype} {matte.shape}, not uint8 with {len(clip.video)} frames'
    )
  name = clip.subject.subject_id
  record = dict(
    maps,
    video=clip.video,
    weights=weights,
    clip_id=name,
    subject_id=name,
    matte=maps['mask']
    if matte is None
    else np.stack([cut.cut(frame) for cut, frame in zip(clip.cuts, matte)]),
  )
  if codec is not None:
    codes = [
      np.asarray(codec.encode(frame[None, None].astype(np.float32) / 127.5 - 1.0))[0]
      for frame in clip.video
    ]
    record['latents'] = np.concatenate(codes).astype(np.float16)
  return record


def record_parser(command: str, description: str) -> ArgumentParser:
  """The flags that all such commands have."""
  parser = ArgumentParser(
    prog=f'python -m exp_jax {command}',
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('--clips', type=pathlib.Path, required=True, help='folder of clips')
  add(
    '--subjects', type=pathlib.Path, required=True, help='folder of their fitted heads, <clip>.npz'
  )
  add('--mattes', type=pathlib.Path, help='folder of <clip>.npz with `matte`, for measures')
  add('-o', '--output', type=pathlib.Path, required=True, help='folder to fill')
  add('--head', default='makehuman', help='head model (default makehuman)')
  add('--size', type=int, default=512, help='pixels, square (default 512)')
  add('--crop', choices=CROPS, default='clip', help='the square about the head (default clip)')
  add('--codec', choices=('patch', 'sd'), default='sd', help='autoencoder of --vae (default sd)')
  add('--vae', default='', help='weights of the autoencoder: latents are stored too')
  add('--holdout', type=int, default=0, help='clips that are not trained on (default 0)')
  return parser


def claim_folder(folder: pathlib.Path, settings: dict) -> None:
  """Makes the folder, or checks that its records were made with the same settings, which are noted
  there.

  Raises:
    UserError: they were made with others; names the settings.
  """
  folder.mkdir(parents=True, exist_ok=True)
  note = folder / SETTINGS
  if note.exists() and (found := json.loads(note.read_text())) != settings:
    changed = [name for name in settings if found.get(name) != settings[name]] or ['setting']
    raise UserError(
      f'{folder} holds records made with another {", ".join(changed)}; choose another folder or '
      'delete that one'
    )
  atomic.write_text(note, json.dumps(settings, indent=1))


def _read(
  path: pathlib.Path, options, head: HeadModel
) -> tuple[np.ndarray, Subject, np.ndarray | None]:
  """(frames, subject, matte or None) of a clip."""
  truth = options.subjects / f'{path.stem}.npz'
  if not truth.is_file():
    raise UserError(
      f'{path.name} has no subject {truth.name} in {options.subjects}: fit it with `python -m '
      'exp_jax.fit`'
    )
  subject = load_subject(truth)
  check_head(subject, head)
  frames = read_video(path).frames
  if options.mattes is None:
    return frames, subject, None
  matte = npz.read_npz(options.mattes / f'{path.stem}.npz', ('matte',))['matte']
  if matte.dtype != np.uint8 or matte.shape != frames.shape[:3]:
    raise UserError(
      f'{path.name}: its matte is {matte.dtype} {matte.shape}, not uint8 {frames.shape[:3]}'
    )
  return frames, subject, matte


def write_records(options, more: dict, start: Callable[[HeadModel], Callable[..., dict]]) -> None:
  """Fills a folder of records, 16 clips a file, the last clips in files of their own; goes on where
  it was.

  Args:
    options: of `record_parser`.
    more: further settings that records depend on, for the note beside them.
    start: head -> make, called once; make(frames, subject, head, size=, crop=, matte=, codec=,
      weights=) -> record.

  Raises:
    UserError: bad options, a clip that cannot be used, named, or a folder of other records.
  """
  if not 16 <= options.size <= 1024 or options.size % 8:
    raise UserError(f'--size must be a multiple of 8 in 16..1024, got {options.size}')
  clips = (
    sorted(p for p in options.clips.glob('*') if p.suffix.lower() in CLIP_SUFFIXES)
    if options.clips.is_dir()
    else []
  )
  if not 0 <= options.holdout < len(clips):
    raise UserError(
      f'{len(clips)} clips at {options.clips} for --holdout {options.holdout}: give more clips or '
      'hold out fewer'
    )
  head = load_head(options.head)
  make, codec = start(head), open_codec(options.codec, options.vae) if options.vae else None
  weights = file_digest(options.vae) if options.vae and options.vae != 'embedded' else options.vae
  claim_folder(
    options.output,
    {
      'size': options.size,
      'crop': options.crop,
      'weights': weights,
      'holdout': options.holdout,
      'head': head.name,
      'clips': len(clips),
    }
    | more,
  )
  write_head(options.output, head)
  cut = len(clips) - options.holdout
  halves = {'train': clips[:cut], 'held_out': clips[cut:]}
  parts = [
    (f'{name}_{k // IN_A_FILE:05d}', half[k : k + IN_A_FILE])
    for name, half in halves.items()
    for k in range(0, len(half), IN_A_FILE)
  ]

  def made(clip: pathlib.Path) -> bytes:
    frames, subject, matte = _read(clip, options, head)
    try:
      return record_bytes.pack(
        make(
          frames,
          subject,
          head,
          size=options.size,
          crop=options.crop,
          matte=matte,
          codec=codec,
          weights=weights,
        )
      )
    except UserError as error:
      raise UserError(f'{clip.name}: {error}') from None

  for name, group in tqdm(parts, unit='file'):
    path = options.output / f'{name}.array_record'
    if not path.exists():
      write_packed(path, map(made, group))
  print(f'{cut} clips to train on and {options.holdout} held out in {options.output}')


def check_window(data) -> None:
  """UserError for an example of no frames in a config's `data`."""
  if data.stride < 1 or data.num_frames < 1:
    raise UserError(
      f'config.data.stride and num_frames must be at least 1, got {data.stride} and '
      f'{data.num_frames}'
    )


def window_of(record: dict, rng: np.random.Generator, data) -> slice:
  """Which frames of a clip an example of a config's `data` shows: N of them, `data.stride` apart,
  anywhere.

  Raises:
    UserError: the clip is too short, of another size, or holds no latents where they are wanted.
  """
  T, name = len(record['video']), record['clip_id']
  span = data.stride * (data.num_frames - 1) + 1
  if T < span:
    raise UserError(
      f'clip {name} has {T} frames, windows of {data.num_frames} frames {data.stride} apart need '
      f'{span}: set '
      'config.data.num_frames or stride'
    )
  if record['video'].shape[1:3] != (data.size, data.size):
    raise UserError(
      f'clip {name} is {record["video"].shape[2]}x{record["video"].shape[1]}, config.data.size '
      f'says {data.size}'
    )
  if data.latents and 'latents' not in record:
    raise UserError(
      f'clip {name} holds no latents: prepare it with --vae, or set config.data.latents=False'
    )
  first = int(rng.integers(T - span + 1))
  return slice(first, first + span, data.stride)
