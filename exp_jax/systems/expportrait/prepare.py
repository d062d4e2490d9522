"""Clips to training records (see `exp_jax.data.sources` for the keys), stage by stage, each remembered by its content.

  clip -> landmarks, matte, head crop -> (normals, depth) -> fitted head -> (transferred offsets) -> control maps, reference
       -> (latents)

  observations/  landmarks, mattes and maps, by the digest of the frames (`exp_jax.observe.cache`)
  fits/          subject files of the clips that came without one, with their mattes beside them; `exp_jax.train` of the
                 expression transfer reads this folder
  parts/         records and reasons (`prepare_job`)
"""

import dataclasses
import hashlib
import math
import pathlib
import zipfile
import zlib

import jax
import numpy as np

from exp_jax.controls.maps import control_maps, full_offsets, own_motion
from exp_jax.errors import UserError
from exp_jax.fitting.offsets import OffsetOptions
from exp_jax.fitting.subject import SeenClip, fit_clips, look_at
from exp_jax.heads import files
from exp_jax.heads.densify import Dense, densify
from exp_jax.heads.model import HeadModel, head_digest, load_head
from exp_jax.heads.personalized import Subject, check_head, load_subject, save_subject
from exp_jax.media.shots import cuts, longest_shot
from exp_jax.media.video import Clip, read_frames, video_rate
from exp_jax.observe.face_crop import Crop
from exp_jax.observe.landmarks import ESTIMATOR, FaceEstimator, interpreter
from exp_jax.observe.maps import load_map_estimator
from exp_jax.systems.expportrait import prepare_job as job
from exp_jax.systems.expportrait.codec import open_codec
from exp_jax.systems.expportrait.encode import encode_record
from exp_jax.systems.expportrait.prepare_list import Item, contents, share_of
from exp_jax.systems.expportrait.transfer import Transfer

VERSION = 3  # of this file: records of another version are made again
_MOST_BYTES = 6 << 30
_OF_FITS = ('fit_size', 'levels', 'offsets', 'steps', 'faces', 'shots', 'limit', 'least_frames', 'allow_partial')


@dataclasses.dataclass(frozen=True)
class Settings:
  """What records depend on, beside the clips."""
  size: int = 512                      # pixels of the training frames
  fit_size: int = 512                  # of the square that a head is fitted in
  head: str = 'makehuman'
  levels: int = 1                      # subdivisions of the heads fitted here
  offsets: str = 'auto'                # as configs/fit_head.py
  steps: int = 160                     # of the offset stage
  networks: tuple[str, ...] = ()       # ONNX files for normals, depth, matte
  transfer: str = ''                   # export of the expression transfer: its offsets replace the fitted dynamic ones
  vae: str = ''                        # autoencoder: records get latents
  codec: str = 'patch'
  faces: str = 'one'                   # 'one' refuses clips of two faces of similar size, 'largest' follows the largest
  shots: str = 'one'                   # 'one' refuses clips with a cut, 'longest' takes the longest shot, 'any' does not look
  limit: int = 0                       # frames used of a clip, 0 all
  least_frames: int = 2
  allow_partial: bool = False


def cut_frames(frames: np.ndarray, subject: Subject, size: int) -> np.ndarray:
  """uint8 [T, H, W(, 3)] of the source -> [T, size, size(, 3)] of the subject's crop, cut as for the fit."""
  height, width = subject.image_size
  if height != width:
    raise UserError(f'the subject was fitted at {width}x{height}, training frames are square')
  cut = []
  for i, frame in enumerate(frames):
    if subject.source_crop is None:
      if frame.shape[:2] != (height, width):
        raise UserError(f'the clip is {frame.shape[1]}x{frame.shape[0]}, its subject was fitted at {width}x{height}')
      crop = Crop(0.0, 0.0, float(width), size)
    else:
      back = np.linalg.inv(subject.source_crop[i])               # crop pixels -> source pixels
      crop = Crop(float(back[0, 2]), float(back[1, 2]), float(back[0, 0] * width), size)
    cut.append(crop.cut(frame))
  return np.stack(cut)


def make_record(clip: Clip, subject: Subject, head: HeadModel, dense: Dense, *, size: int, matte: np.ndarray | None = None,
                cropped_matte: np.ndarray | None = None, dynamic: np.ndarray | None = None) -> dict:
  """One clip as a record; the reference is its first frame (training draws another one each time).

  Args:
    matte: uint8 [T, H, W] of the source; cropped_matte: or of the crop that the subject was fitted in. None of both: where
      the head model is drawn.
    dynamic: [T, N, 3] offsets in place of the subject's own.
  """
  if len(clip.frames) != subject.num_frames:
    raise UserError(f'the clip has {len(clip.frames)} frames, its subject {subject.num_frames}; fit it again')
  video = cut_frames(clip.frames, subject, size)
  offsets = full_offsets(subject) if dynamic is None else dynamic
  normals = control_maps(head, dense, subject, own_motion(subject), offsets, size=size)
  if matte is not None:
    if matte.shape[:1] != clip.frames.shape[:1] or matte.ndim != 3 or matte.dtype != np.uint8:
      raise UserError(f'its matte is {matte.dtype} {list(matte.shape)}, not uint8 with one image for each of '
                      f'{len(clip.frames)} frames')
    matte = cut_frames(matte, subject, size)
  elif cropped_matte is not None:
    whole = Crop(0.0, 0.0, float(cropped_matte.shape[1]), size)
    matte = np.stack([whole.cut(one) for one in cropped_matte])
  else:
    matte = np.where(normals.any(-1), 255, 0).astype(np.uint8)
  return dict(video=video, normals=normals, matte=matte, reference=video[0], reference_normals=normals[0], clip_id=subject.subject_id,
              subject_id=subject.subject_id)


def read_span(path: pathlib.Path, *, begin: float = 0.0, end: float = math.inf, limit: int = 0,
              allow_partial: bool = False) -> Clip:
  """The frames of a clip from `begin` on and before `end`, seconds, at most `limit` of them, as one array.

  Raises:
    UserError: as `read_frames`; or nothing lies between; or they take more memory than a clip should.
  """
  frames, times = [], []
  for frame, time in read_frames(path, begin=begin, allow_partial=allow_partial):
    if time >= end or limit and len(frames) >= limit:
      break
    frames.append(frame)
    times.append(time)
    if len(frames) * frame.nbytes > _MOST_BYTES:
      raise UserError(f'{str(path)!r} is too long: {len(frames)} frames of {frame.shape[1]}x{frame.shape[0]} fill '
                      f'{_MOST_BYTES >> 30} GB; cut it into shorter clips or pass --limit')
  if not frames:
    raise UserError(f'{str(path)!r} has no frame between {begin:g} and {end:g} s')
  return Clip(np.stack(frames), np.asarray(times) - times[0], video_rate(path))


def one_shot(clip: Clip, shots: str) -> Clip:
  """The clip, if it has no cut or `shots` is 'any'; its longest shot for 'longest'. UserError for a cut and 'one'."""
  starts = [] if shots == 'any' else cuts(clip.frames)
  if not starts:
    return clip
  if shots == 'one':
    raise UserError(f'the film cuts to another shot at {", ".join(f"{clip.times[t]:.2f}" for t in starts[:4])} s; cut the clip '
                    'there, or pass --shots longest')
  first, last = longest_shot(len(clip.frames), starts)
  return Clip(clip.frames[first:last], clip.times[first:last] - clip.times[first], clip.rate)


class Preparer:
  """Makes records of clips; `key` and `make` are what `prepare_job.Work` wants. Use it as a context manager.

  Args:
    subjects: folder of <clip_id>.npz; a clip without one is fitted.
    mattes: folder of <clip_id>.npz with `matte` uint8 [T, H, W].
    estimator: of landmarks; None: MediaPipe, started when it is first needed.
  """

  def __init__(self, output: pathlib.Path, settings: Settings, *, subjects: pathlib.Path | None = None,
               mattes: pathlib.Path | None = None, estimator=None, digests_name: str = 'digests.jsonl'):
    self.output, self.settings = output, settings
    self._subjects, self._mattes = subjects, mattes
    self.head = load_head(settings.head)
    self._dense: dict[int, Dense] = {}
    self._networks = tuple(load_map_estimator(path) for path in settings.networks)
    self._estimator, self._own_estimator = estimator, None
    self._digest = job.Digests(output / digests_name)
    self._transfers: dict[int, Transfer] = {}
    weights = [path and files.file_digest(path) for path in (settings.transfer, settings.vae)]
    self._fit_identity = [VERSION, {key: getattr(settings, key) for key in _OF_FITS}, head_digest(self.head),
                          [files.file_digest(path) for path in settings.networks], getattr(estimator, 'name', ESTIMATOR)]
    self._record_identity = [self._fit_identity, settings.size, settings.codec if settings.vae else '', weights]
    if settings.vae:
      self._codec = open_codec(settings.codec, settings.vae)
      self._encode = jax.jit(self._codec.encode) if self._codec.strides[0] == 1 else self._codec.encode

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
    path = folder and folder / f'{item.clip_id}.npz'
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
    return job.digest_of(self._record_identity, self._inputs(item), item.clip_id, item.subject_id, item.begin, repr(item.end))

  def _fit_paths(self, item: Item, inputs: dict[str, str]) -> tuple[pathlib.Path, pathlib.Path]:
    key = job.digest_of(self._fit_identity, inputs['video'], item.clip_id, item.subject_id, item.begin, repr(item.end))
    name = ''.join(c if c.isalnum() or c in '-_.' else '_' for c in item.clip_id)[:60]
    folder = self.output / 'fits'
    return folder / f'{name}-{key[:16]}.npz', folder / 'mattes' / f'{name}-{key[:16]}.npz'

  def make(self, items: list[Item]) -> list:
    """A record for each item, or the exception that it ended with; none harms another."""
    results: list = [None] * len(items)
    clips, seen = {}, {}
    for i, item in enumerate(items):
      try:
        inputs = self._inputs(item)
        with item.files() as paths:
          clip = read_span(paths['video'], begin=item.begin, end=item.end, limit=self.settings.limit,
                           allow_partial=self.settings.allow_partial)
          given = self._beside(self._subjects, item) or paths.get('truth')
          subject = None if given is None else load_subject(given)
          clip = clip if subject is not None else one_shot(clip, self.settings.shots)
          if len(clip.frames) < self.settings.least_frames:
            raise UserError(f'the clip has {len(clip.frames)} frame(s), at least {self.settings.least_frames} are needed')
          matte = _matte(self._beside(self._mattes, item) or paths.get('maps'))
        clips[i] = clip, subject, matte, self._fit_paths(item, inputs)
        if subject is None and not _is_whole(*clips[i][3]):
          seen[i] = self._look(clip, item)
      except Exception as error:  # whatever a clip does, the others are prepared
        results[i] = job.of_the_clip(error)
    self._fit(seen, clips, {i: items[i].subject_id for i in seen}, results)
    for i, (clip, subject, matte, (fit, fitted_matte)) in clips.items():
      if results[i] is not None:
        continue
      try:
        cropped = None
        if subject is None:
          # From its file even if it was just made: what is stored is rounded, and a restart must give the same bytes.
          subject, cropped = load_subject(fit), _matte(fitted_matte)
        results[i] = self._record(items[i], clip, subject, matte, cropped)
      except Exception as error:
        results[i] = job.of_the_clip(error)
    return results

  def _look(self, clip: Clip, item: Item) -> SeenClip:
    """Landmarks, matte and crop. A landmark process that died is started again, once."""
    settings = self.settings
    for attempt in (0, 1):
      try:
        seen = look_at(clip.frames, name=item.clip_id, rate=float(clip.rate), size=settings.fit_size,
                       cache=self.output / 'observations', estimator=self._running())
        break
      except UserError as error:
        if attempt or 'estimator stopped' not in str(error):
          raise
        self._stop_estimator()
    rivals = [words for words in seen.observation.warnings if 'two faces' in words]
    if rivals and settings.faces == 'one':
      raise UserError(f'{rivals[0].split("; choose")[0]}; crop the clip, or pass --faces largest')
    return seen

  def _running(self):
    if self._estimator is None:
      try:
        interpreter()
      except UserError as error:
        raise job.Stop(str(error)) from None             # no fault of the clip
      self._estimator = self._own_estimator = FaceEstimator()
    return self._estimator

  def _stop_estimator(self) -> None:
    if self._own_estimator is not None:
      self._own_estimator.__exit__()
      self._estimator = self._own_estimator = None

  def _fit(self, seen: dict[int, SeenClip], clips: dict, people: dict[int, str], results: list) -> None:
    """Fits what was looked at and stores subjects and mattes; errors go into `results`."""
    if not seen:
      return
    try:
      fitted = fit_clips(list(seen.values()), head=self.head, dense=self.dense(self.settings.levels),
                         map_estimators=self._networks, cache=self.output / 'observations',
                         offsets={'auto': None, 'yes': True, 'no': False}[self.settings.offsets],
                         options=OffsetOptions(steps=self.settings.steps))
    except Exception as error:
      if len(seen) > 1:                                  # one by one, to tell whose fault it is
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
          files.write_npz(matte_file, {'matte': one.observation.matte})
        save_subject(subject_file, dataclasses.replace(one.subject, subject_id=people[i]))
      except UserError as error:
        results[i] = error

  def _record(self, item: Item, clip: Clip, subject: Subject, matte, cropped_matte) -> dict:
    dense = self.dense(subject.levels)
    check_head(subject, self.head, dense)
    dynamic = None
    if self.settings.transfer:
      if subject.levels not in self._transfers:
        self._transfers[subject.levels] = Transfer(self.settings.transfer, self.head, dense)
      jaw = list(self.head.joint_names).index('jaw')
      dynamic = self._transfers[subject.levels](subject, subject.expression, subject.pose[:, jaw])
    record = make_record(clip, subject, self.head, dense, size=self.settings.size, matte=matte, cropped_matte=cropped_matte,
                         dynamic=dynamic)
    record |= {'clip_id': item.clip_id, 'subject_id': item.subject_id}
    return encode_record(record, self._encode, self._codec.strides[0]) if self.settings.vae else record


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
    with np.load(path, allow_pickle=False) as arrays:
      return arrays['matte']
  except (KeyError, OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile):
    raise UserError(f'{path} holds no matte or is damaged') from None


def prepare(items: list[Item], output: pathlib.Path, preparer: Preparer, *, held_out: set[str], together: int = 1,
            shard: int | None = None, num_shards: int = 1, per_file: int = 0, retry: bool = False) -> list[job.Outcome]:
  """Prepares a list, or one host's share of it (then no shards are written); see `prepare_job`.

  A run over the whole list takes what shares have made: it is their merging.
  """
  work = job.Work(preparer.key, preparer.make, together)
  if shard is not None:
    outcomes = job.run_items(share_of(items, shard, num_shards), output, work, retry=retry, label=f'prepare {shard}/{num_shards}')
    job.write_report(output / f'report-{shard:05d}-of-{num_shards:05d}.jsonl', outcomes)
    return outcomes
  outcomes = job.run_items(items, output, work, retry=retry)
  job.write_shards(output, job.plan_shards(outcomes, held_out, per_file), work)
  job.write_report(output / 'report.jsonl', outcomes)
  return outcomes
