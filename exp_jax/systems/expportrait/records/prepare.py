"""Clips to training records (see `exp_jax.data.sources` for the keys), stage by stage, each
remembered by its content.

clip -> landmarks, matte, head crop -> is it worth it? (`quality`) -> (normals, depth) -> fitted
     head -> (transferred offsets) -> control maps, reference (`clip_record`) -> (windows of
     latents, `windows`)

observations/  landmarks, mattes and maps, by the digest of the frames (`exp_jax.files.array_cache`)
fits/          subject files of the clips that came without one, with their mattes beside them; `exp_jax.train` of the
               expression transfer reads this folder
parts/         records and reasons (`clip_job`)
figures/       what was measured of each clip (`quality`)
sheets/        frames and control maps of each clip, to be looked at
"""

import dataclasses
import hashlib
import json
import math
import pathlib
import zlib

import numpy as np

from exp_jax.controls.channels import extra_channels
from exp_jax.data import clip_job as job
from exp_jax.data.clip_list import Item, contents
from exp_jax.errors import UserError
from exp_jax.files import npz
from exp_jax.files.atomic import write_text
from exp_jax.files.digests import RememberedDigests, file_digest
from exp_jax.files.names import existing
from exp_jax.fitting.mesh_levels import levels_for
from exp_jax.fitting.offsets.options import OffsetOptions
from exp_jax.fitting.seen_clip import SeenClip, look_at
from exp_jax.fitting.subject import fit_clips
from exp_jax.heads.densify import Dense, densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import Subject, check_head, load_subject, save_subject
from exp_jax.heads.subject_squares import crops_of
from exp_jax.media.images import resize, write_image
from exp_jax.media.shots import cuts, longest_shot
from exp_jax.media.video import Clip, read_frames, video_rate
from exp_jax.observe.landmarks import ESTIMATOR, EstimatorFailed, FaceEstimator, interpreter
from exp_jax.observe.maps.map_sources import open_map_estimators
from exp_jax.systems.expportrait.records.clip_record import make_record, sheet, shown_pixels
from exp_jax.systems.expportrait.records.encode import open_towers
from exp_jax.systems.expportrait.records.quality import Limits, black_bars, complaint, figures_of
from exp_jax.systems.expportrait.records.windows import WindowOptions, window_records
from exp_jax.systems.expportrait.transfer.network import Transfer

VERSION = 4  # of this file: records of another version are made again
_MOST_BYTES = 6 << 30
_OF_FITS = (
  'fit_size',
  'levels',
  'offsets',
  'steps',
  'faces',
  'shots',
  'limit',
  'least_frames',
  'allow_partial',
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """What records depend on, beside the clips."""

  size: int = 512  # pixels of the training frames
  fit_size: int = 512  # of the square that a head is fitted in
  head: str = 'makehuman'
  levels: int = 1  # subdivisions of the heads fitted here; -1: by their pixels
  offsets: str = 'auto'  # as configs/fit_head.py
  steps: int = 160  # of the offset stage
  networks: str = 'embedded'  # that see normals, depth, matte; as of `open_map_estimators`
  transfer: str = (
    ''  # export of the expression transfer: its offsets replace fitted dynamic ones ...
  )
  transfer_share: float = (
    0.3  # ... in this share of the clips (the paper's spec mixes 70 to 30), drawn by the clip's id
  )
  extras: tuple[str, ...] = ()  # further control channels, of controls.channels.EXTRAS
  vae: str = ''  # autoencoder: window records instead of clip records
  codec: str = 'patch'
  clip: str = ''  # CLIP tower: their references get tokens
  tile: int = 0  # pixels of a tile's edge, for Wan's autoencoder
  windows: WindowOptions = WindowOptions()
  limits: Limits = Limits()
  faces: str = (
    'one'  # 'one' refuses clips of two faces of similar size, 'largest' follows the largest
  )
  shots: str = (
    'one'  # 'one' refuses clips with a cut, 'longest' takes the longest shot, 'any' does not look
  )
  limit: int = 0  # frames used of a clip, 0 all
  least_frames: int = 2
  allow_partial: bool = False


def read_span(
  path: pathlib.Path,
  *,
  begin: float = 0.0,
  end: float = math.inf,
  limit: int = 0,
  allow_partial: bool = False,
) -> Clip:
  """The frames of a clip from `begin` on and before `end`, seconds, at most `limit` of them, as one
  array.

  Raises:
    UserError: as `read_frames`; or nothing lies between; or they take more memory than a clip
      should.
  """
  frames, times = [], []
  for frame, time in read_frames(path, begin=begin, allow_partial=allow_partial):
    if time >= end or limit and len(frames) >= limit:
      break
    frames.append(frame)
    times.append(time)
    if len(frames) * frame.nbytes > _MOST_BYTES:
      raise UserError(
        f'{str(path)!r} is too long: {len(frames)} frames of {frame.shape[1]}x{frame.shape[0]} '
        'fill '
        f'{_MOST_BYTES >> 30} GB; cut it into shorter clips or pass --limit'
      )
  if not frames:
    raise UserError(f'{str(path)!r} has no frame between {begin:g} and {end:g} s')
  return Clip(np.stack(frames), np.asarray(times) - times[0], video_rate(path))


def one_shot(clip: Clip, shots: str) -> Clip:
  """The clip, if it has no cut or `shots` is 'any'; its longest shot for 'longest'.

  UserError for a cut and 'one'.
  """
  starts = [] if shots == 'any' else cuts(clip.frames)
  if not starts:
    return clip
  if shots == 'one':
    raise UserError(
      f'the film cuts to another shot at {", ".join(f"{clip.times[t]:.2f}" for t in starts[:4])} '
      's; cut the clip '
      'there, or pass --shots longest'
    )
  first, last = longest_shot(len(clip.frames), starts)
  return Clip(clip.frames[first:last], clip.times[first:last] - clip.times[first], clip.rate)


class Preparer:
  """Makes records of clips; `key` and `make` are what `clip_job.Work` wants.

  Use it as a context manager.

  Args:
    subjects: folder of <clip_id>.npz; a clip without one is fitted.
    mattes: folder of <clip_id>.npz with `matte` uint8 [T, H, W].
    estimator: of landmarks; None: MediaPipe, started when it is first needed.
  """

  def __init__(
    self,
    output: pathlib.Path,
    settings: Settings,
    *,
    subjects: pathlib.Path | None = None,
    mattes: pathlib.Path | None = None,
    estimator=None,
    digests_name: str = 'digests.jsonl',
  ):
    self.output, self.settings = output, settings
    self._subjects, self._mattes = subjects, mattes
    self.head = load_head(settings.head)
    self._dense: dict[int, Dense] = {}
    self._networks = open_map_estimators(settings.networks)
    self._estimator, self._own_estimator = estimator, None
    self._digest = RememberedDigests(output / digests_name)
    self._transfers: dict[int, Transfer] = {}
    extra_channels(settings.extras)
    if not 0 <= settings.transfer_share <= 1:
      raise UserError(f'--transfer_share must be in 0..1, got {settings.transfer_share}')
    self._fit_identity = [
      VERSION,
      {key: getattr(settings, key) for key in _OF_FITS},
      head_digest(self.head),
      [network.digest for network in self._networks],
      getattr(estimator, 'name', ESTIMATOR),
    ]
    transfer = (
      [file_digest(settings.transfer), settings.transfer_share, settings.windows.seed]
      if settings.transfer
      else []
    )
    self._record_identity = [
      self._fit_identity,
      settings.size,
      transfer,
      settings.extras,
      dataclasses.asdict(settings.limits),
    ]
    self._towers = None
    if settings.vae:
      self._towers = open_towers(
        codec=settings.codec, vae=settings.vae, tile=settings.tile, clip=settings.clip
      )
      settings.windows.check(self._towers.codec.strides[0])
      self._record_identity += [self._towers.digests, dataclasses.asdict(settings.windows)]
    elif settings.clip:
      raise UserError('--clip stores tokens beside latents: name the autoencoder too, --vae')

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._stop_estimator()

  def dense(self, levels: int) -> Dense:
    """The mesh of this many subdivisions, made once."""
    if levels not in self._dense:
      self._dense[levels] = densify(self.head, levels)
    return self._dense[levels]

  def _beside(self, folder: pathlib.Path | None, item: Item) -> pathlib.Path | None:
    path = folder and existing(folder / f'{item.clip_id}.npz')
    return path if path and path.is_file() else None

  def _inputs(self, item: Item) -> dict[str, str]:
    """Digests of the clip, its subject file and its matte, '' where there is none."""
    found = {'video': '', 'truth': '', 'maps': ''}
    if item.path is not None:
      found['video'] = self._digest(item.path)
    else:
      held = contents(item.source[item.row])
      if not held.get('video'):
        raise UserError(f'{item.name}: its record holds no video')
      found |= {key: hashlib.sha256(value).hexdigest() for key, value in held.items()}
    for key, folder in (('truth', self._subjects), ('maps', self._mattes)):
      if path := self._beside(folder, item):
        found[key] = self._digest(path)
    return found

  def key(self, item: Item) -> str:
    """All that the record depends on."""
    return job.digest_of(
      self._record_identity,
      self._inputs(item),
      item.clip_id,
      item.subject_id,
      item.begin,
      repr(item.end),
    )

  def _fit_paths(self, item: Item, inputs: dict[str, str]) -> tuple[pathlib.Path, pathlib.Path]:
    key = job.digest_of(
      self._fit_identity, inputs['video'], item.clip_id, item.subject_id, item.begin, repr(item.end)
    )
    name = _file_name(item)
    folder = self.output / 'fits'
    return folder / f'{name}-{key[:16]}.npz', folder / 'mattes' / f'{name}-{key[:16]}.npz'

  def _note(self, item: Item) -> pathlib.Path:
    return self.output / 'figures' / f'{self.key(item)}.json'

  def figures(self, item: Item, key: str) -> dict:
    """What was measured of a clip: of its pictures, and which head its maps show; {} where nothing
    was."""
    try:
      return dict(json.loads((self.output / 'figures' / f'{key}.json').read_text()))
    except (OSError, ValueError, TypeError):
      return {}

  def _worth_it(self, item: Item, pictures: np.ndarray, valid: np.ndarray, **more) -> None:
    """Notes the figures of a clip; UserError with what is wrong with it."""
    figures = figures_of(pictures, valid, **more)
    write_text(self._note(item), json.dumps(figures) + '\n')
    if words := complaint(figures, self.settings.limits):
      raise UserError(words)

  def make(self, items: list[Item]) -> list:
    """Records for each item, or the exception that it ended with; none harms another."""
    results: list = [None] * len(items)
    clips, seen, bars = {}, {}, {}
    for i, item in enumerate(items):
      try:
        inputs = self._inputs(item)
        with item.files() as paths:
          clip = read_span(
            paths['video'],
            begin=item.begin,
            end=item.end,
            limit=self.settings.limit,
            allow_partial=self.settings.allow_partial,
          )
          given = self._beside(self._subjects, item) or paths.get('truth')
          subject = None if given is None else load_subject(given)
          clip = clip if subject is not None else one_shot(clip, self.settings.shots)
          if len(clip.frames) < self.settings.least_frames:
            raise UserError(
              f'the clip has {len(clip.frames)} frame(s), at least {self.settings.least_frames} '
              'are needed'
            )
          matte = _matte(self._beside(self._mattes, item) or paths.get('maps'))
        bars[i], film = black_bars(clip.frames), clip.frames.shape[1:3]
        clips[i] = clip, subject, matte, self._fit_paths(item, inputs)
        if subject is None and not _is_whole(*clips[i][3]):
          seen[i] = self._look(clip, item)
          crop = seen[i].crop
          valid = shown_pixels([crop] * len(clip.frames), film, bars[i])
          pictures = np.stack(
            [resize(picture, (self.settings.size,) * 2) for picture in seen[i].pictures]
          )
          self._worth_it(item, pictures, valid, face_pixels=seen[i].eyes / 0.45)
      except Exception as error:  # whatever a clip does, the others are prepared
        results[i] = job.of_the_clip(error)
    self._fit(seen, clips, {i: items[i].subject_id for i in seen}, results)
    for i, (clip, subject, matte, (fit, fitted_matte)) in clips.items():
      if results[i] is not None:
        continue
      try:
        cropped = None
        if subject is None:
          # From its file even if it was just made: what is stored is rounded, and a restart must
          # give the same bytes.
          subject, cropped = load_subject(fit), _matte(fitted_matte)
        results[i] = self._records(items[i], clip, subject, matte, cropped, bars[i])
      except Exception as error:
        results[i] = job.of_the_clip(error)
    return results

  def _look(self, clip: Clip, item: Item) -> SeenClip:
    """Landmarks, matte and crop; RuntimeError where the estimator and not the clip failed, so that
    it is tried again."""
    settings = self.settings
    try:
      seen = look_at(
        clip.frames,
        name=item.clip_id,
        rate=float(clip.rate),
        size=settings.fit_size,
        cache=self.output / 'observations',
        estimator=self._running(),
      )
    except EstimatorFailed as error:
      raise RuntimeError(str(error)) from error
    rivals = [words for words in seen.observation.warnings if 'two faces' in words]
    if rivals and settings.faces == 'one':
      raise UserError(f'{rivals[0].split("; choose")[0]}; crop the clip, or pass --faces largest')
    return seen

  def _running(self):
    if self._estimator is None:
      try:
        interpreter()
      except UserError as error:
        raise job.Stop(str(error)) from None  # no fault of the clip
      self._estimator = self._own_estimator = FaceEstimator()
    return self._estimator

  def _stop_estimator(self) -> None:
    if self._own_estimator is not None:
      self._own_estimator.__exit__()
      self._estimator = self._own_estimator = None

  def _fit(
    self, seen: dict[int, SeenClip], clips: dict, people: dict[int, str], results: list
  ) -> None:
    """Fits what was looked at and stores subjects and mattes; errors go into `results`."""
    if not seen:
      return
    try:
      levels = levels_for(self.head, self.settings.fit_size, self.settings.levels)
      fitted = fit_clips(
        list(seen.values()),
        head=self.head,
        dense=self.dense(levels),
        map_estimators=self._networks,
        cache=self.output / 'observations',
        offsets={'auto': None, 'yes': True, 'no': False}[self.settings.offsets],
        options=OffsetOptions(steps=self.settings.steps),
      )
    except Exception as error:
      if len(seen) > 1:  # one by one, to tell whose fault it is
        for i, clip in seen.items():
          self._fit({i: clip}, clips, people, results)
        return
      fitted = [job.of_the_clip(error)]
    for i, one in zip(seen, fitted):
      if isinstance(one, Exception):
        results[i] = one
        continue
      subject_file, matte_file = clips[i][3]
      try:
        if one.observation.matte is not None:
          npz.write_npz(matte_file, {'matte': one.observation.matte})
        save_subject(subject_file, dataclasses.replace(one.subject, subject_id=people[i]))
      except UserError as error:
        results[i] = error

  def _dynamic(self, item: Item, subject: Subject, dense: Dense) -> np.ndarray | None:
    """[T, N, 3] transferred offsets of a clip that was drawn to have them, else None."""
    settings = self.settings
    drawn = np.random.default_rng(
      (settings.windows.seed, 2, zlib.crc32(item.clip_id.encode()))
    ).random()
    if not settings.transfer or drawn >= settings.transfer_share:
      return None
    if subject.levels not in self._transfers:
      self._transfers[subject.levels] = Transfer(settings.transfer, self.head, dense)
    return self._transfers[subject.levels](
      subject, subject.expression, self.head.joint_turns(subject.pose, 'jaw')
    )

  def _records(
    self, item: Item, clip: Clip, subject: Subject, matte, cropped_matte, bars
  ) -> list[dict]:
    dense = self.dense(subject.levels)
    check_head(subject, self.head, dense)
    if not self._note(
      item
    ).is_file():  # a subject that came with the clip: nobody has looked at it yet
      crops = crops_of(subject, self.settings.size, len(clip.frames), clip.frames.shape[1:3])
      pictures = np.stack([crop.cut(frame) for crop, frame in zip(crops, clip.frames)])
      self._worth_it(item, pictures, shown_pixels(crops, clip.frames.shape[1:3], bars))
    record = make_record(
      clip,
      subject,
      self.head,
      dense,
      size=self.settings.size,
      matte=matte,
      cropped_matte=cropped_matte,
      dynamic=self._dynamic(item, subject, dense),
      extras=self.settings.extras,
      bars=bars,
    )
    record |= {'clip_id': item.clip_id, 'subject_id': item.subject_id}
    figures = self.figures(item, self.key(item)) | {'offsets': record['offsets']}
    write_text(self._note(item), json.dumps(figures) + '\n')
    write_image(self.output / 'sheets' / f'{_file_name(item)}.jpg', sheet(record))
    return (
      [record]
      if self._towers is None
      else window_records(record, self._towers, self.settings.windows)
    )


def _file_name(item: Item) -> str:
  return ''.join(c if c.isalnum() or c in '-_.' else '_' for c in item.clip_id)[:60]


def _is_whole(subject_file: pathlib.Path, matte_file: pathlib.Path) -> bool:
  """Whether a fit is there and can be read; a damaged one counts as absent."""
  try:
    load_subject(subject_file)
    _matte(matte_file)
  except UserError:
    return False
  return True


def _matte(path: pathlib.Path | None) -> np.ndarray | None:
  if path is None or not path.is_file():
    return None
  try:
    return npz.read_npz(path, ('matte',), most_bytes=npz.LONG_CLIPS)['matte']
  except (KeyError, UserError):
    raise UserError(f'{path} holds no matte or is damaged') from None
