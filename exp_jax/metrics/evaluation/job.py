"""A set of clips under a protocol: pairs, probes, clip after clip, then the report.

Finished clips are not done again.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import pathlib
import sys
from collections.abc import Callable

import numpy as np
import tqdm

from exp_jax.errors import UserError, item_failure, one_line, without_folders
from exp_jax.files.npz import read_npz, write_npz
from exp_jax.heads.model import HeadModel
from exp_jax.media.footage import is_image
from exp_jax.media.formats import CLIP_SUFFIXES, PICTURE_SUFFIXES
from exp_jax.media.images import read_image
from exp_jax.media.video import read_frames, video_rate, write_video
from exp_jax.metrics.evaluation import probes
from exp_jax.metrics.evaluation.catalog import METRICS
from exp_jax.metrics.evaluation.clip_list import (
  check_listed,
  chosen_pairs,
  clip_entry,
  read_clip_list,
  write_clip_list,
)
from exp_jax.metrics.evaluation.clips import Settings, key_of, load_clip, measure_clip
from exp_jax.metrics.evaluation.pairs import Pair, find_pairs, without_result
from exp_jax.metrics.evaluation.protocols import PROTOCOLS, wanted
from exp_jax.metrics.evaluation.report import set_scores, write_report
from exp_jax.metrics.framing import Framing, framing_of, target_frames
from exp_jax.metrics.frechet import Moments, merged, moments
from exp_jax.metrics.networks import BATCH, SOURCES, Network, how_to_get, load_network
from exp_jax.metrics.steadiness import stream_times
from exp_jax.performance.results import read_record, write_record


@dataclasses.dataclass(frozen=True)
class Tools:
  """What an installation has. look: (name of a clip) -> follower of landmarks, (frames) -> points;
  follow: (name) -> fitter, (points, image size) -> coefficients; head: of the fitter. Where one is
  None, `lacking` says why and what to do."""

  look: Callable | None = None
  follow: Callable | None = None
  head: HeadModel | None = None
  lacking: dict[str, str] = dataclasses.field(default_factory=dict)
  digest: str = ''


def _plan(
  protocol: str, kind: str, tools: Tools, folder, has_real: bool
) -> tuple[tuple[str, ...], dict, dict]:
  """(metrics that can be computed, networks for them, {metric: sentence} of the others)."""
  networks, missing = {}, {}
  for name in wanted(protocol):
    metric = METRICS[name]
    for need in metric.needs:
      if need in SOURCES and need not in networks:
        networks[need] = load_network(need, folder)
      lacks = (
        (need in SOURCES and networks[need] is None and how_to_get(need, folder))
        or (
          need == 'landmarks'
          and tools.look is None
          and tools.lacking.get('landmarks', 'needs landmarks')
        )
        or (
          need == 'fit' and tools.follow is None and tools.lacking.get('fit', 'needs a head model')
        )
        or (need == 'elsewhere' and metric.reason)
      )
      if lacks:
        missing.setdefault(name, lacks)
    if name == 'fid' and kind == 'cross' and not has_real:
      missing.setdefault(
        name,
        'needs --real FOLDER with pictures or videos of real faces; there is no truth to stand in',
      )
  return (
    tuple(n for n in wanted(protocol) if n not in missing),
    {n: net for n, net in networks.items() if net},
    missing,
  )


def make_probes(
  chosen: tuple[str, ...],
  networks: dict[str, Network],
  tools: Tools,
  name: str,
  reference: probes.Reference | None,
) -> list[Callable]:
  """Fresh probes of one clip, for the chosen metrics."""
  part, made = functools.partial, [probes.Steadiness()]
  if {'psnr', 'ssim', 'l1'} & set(chosen):
    made.append(part(probes.pixels, wanted=chosen))
  for metric, key in (('lpips', 'lpips_alex'), ('lpips_vgg', 'lpips_vgg')):
    if metric in chosen:
      made.append(part(probes.perceptual, name=metric, network=networks[key]))
  for metric, key, probe in (
    ('fid', 'inception', probes.inception),
    ('fvd', 'i3d', probes.kinetics),
    ('aed', 'smirk', probes.smirk),
    ('e_rmse', 'deep3d', probes.deep3d),
    ('gaze', 'l2cs', probes.gaze),
  ):
    if (
      metric in chosen
      or metric == 'aed'
      and 'apd' in chosen
      or metric == 'e_rmse'
      and 'p_rmse' in chosen
    ):
      made.append(part(probe, network=networks[key]))
  for metric, key in (('csim', 'arcface'), ('csim_dlib', 'identity_dlib')):
    if metric in chosen:
      made.append(part(probes.identity, name=metric, network=networks[key], reference=reference))
  if any('fit' in METRICS[n].needs for n in chosen):
    made.append(
      part(
        probes.own_fit,
        head=tools.head,
        wanted=chosen,
        follow_result=tools.follow(f'{name}, result'),
        follow_target=tools.follow(f'{name}, target'),
      )
    )
  return made


def _reference(pair: Pair, tools: Tools) -> probes.Reference | None:
  """The portrait (or the first frame of a video of it) and its landmarks."""
  if pair.reference is None:
    return None
  picture = (
    read_image(pair.reference) if is_image(pair.reference) else next(read_frames(pair.reference))[0]
  )
  points = None if tools.look is None else tools.look(pair.reference.name)(picture[None])[0]
  return probes.Reference(
    picture, points if points is not None and np.isfinite(points).all() else None
  )


def real_moments(folder: pathlib.Path, network: Network, cache: pathlib.Path) -> Moments:
  """Inception moments of all pictures and video frames of a folder, kept in `cache` for the next
  time.

  Raises:
    UserError: no folder, or none in it.
  """
  if not folder.is_dir():
    raise UserError(
      f'--real {str(folder)!r} is no folder; give one with pictures or videos of real faces'
    )
  files = [
    p
    for p in sorted(folder.iterdir())
    if p.suffix.lower() in PICTURE_SUFFIXES + CLIP_SUFFIXES and not p.name.startswith('.')
  ]
  if not files:
    raise UserError(f'--real {str(folder)!r} holds neither pictures nor videos')
  listing = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
  key = hashlib.sha256(repr((listing, network.digest)).encode()).hexdigest()[:24]
  stored = cache / f'real-{key}.npz'
  if stored.is_file():
    with contextlib.suppress(UserError, KeyError):  # damaged counts as absent
      found = read_npz(stored)
      return Moments(int(found['count']), found['mean'], found['scatter'])
  total = None
  for path in tqdm.tqdm(files, desc='real faces', unit='file'):
    frames = (
      iter([read_image(path)]) if is_image(path) else (frame for frame, _ in read_frames(path))
    )
    while block := list(itertools.islice(frames, BATCH)):
      part = moments(network.run(np.stack(block)))
      total = part if total is None else merged(total, part)
  write_npz(stored, {'count': np.array(total.count), 'mean': total.mean, 'scatter': total.scatter})
  return total


def evaluate(
  result: pathlib.Path,
  target: pathlib.Path,
  reference: pathlib.Path | None,
  output: pathlib.Path,
  *,
  protocol: str,
  tools: Tools,
  weights=None,
  real: pathlib.Path | None = None,
  seam_every: int = 0,
  stride: int | None = None,
  face_crop: bool = False,
  framing: str = 'record',
  clip_list: pathlib.Path | None = None,
  truths: pathlib.Path | None = None,
  again: bool = False,
) -> tuple[str, dict]:
  """Measures all pairs and writes the report and the list of clips; clips that are done already are
  taken as they are.

  Args:
    stride: with which drivers must have been sampled; None: the protocol's.
    framing: 'record', or 'same' where results and truths show the same part of the picture
      (`framing_of`).
    clip_list: a clips.json of an earlier run: only its clips, which must be the same files and
      frames.
    weights: folder of converted weights, or several of which the first that has a network counts;
      None: no networks.
    truths: folder that gets the truths, cut and sampled as the results are.

  Returns:
    table: markdown.
    failed: {clip: sentence} of clips that could not be measured; the others are not harmed.

  Raises:
    UserError: nothing to compare, or every clip failed.
  """
  chosen, pairs = PROTOCOLS[protocol], find_pairs(result, target, reference)
  computed, networks, missing = _plan(protocol, chosen.kind, tools, weights, real is not None)
  digests = {name: network.digest for name, network in networks.items()}
  settings = Settings(
    chosen.kind, chosen.size, stride or chosen.stride, chosen.frames, seam_every, face_crop, framing
  )
  known = {'metrics': computed, 'weights': digests, 'tools': tools.digest, 'version': 2}
  listed = None if clip_list is None else read_clip_list(clip_list)
  wanted_pairs = pairs if listed is None else chosen_pairs(pairs, listed)
  clips, records, failed, entries = output / 'clips', [], {}, []
  output.mkdir(parents=True, exist_ok=True)
  inception = networks.get('inception')
  others = real_moments(real, inception, output) if real and inception else None
  for pair in tqdm.tqdm(wanted_pairs, desc=protocol, unit='clip', disable=len(wanted_pairs) == 1):
    try:
      together = framing_of(
        pair.result, pair.target, kind=chosen.kind, stride=settings.stride, declared=framing
      )
      if listed is not None:
        check_listed(listed[pair.name], together, pair.name)
      if truths is not None:
        write_truth(truths / f'{pair.name}.mp4', pair, together)
      make = functools.partial(make_probes, computed, networks, tools, pair.name)
      key = key_of(pair, settings, together, known)
      record = None if again else load_clip(clips, pair.name, key)
      if record is None:
        how = dict(keep=len(wanted_pairs) == 1, folder=clips, key=key, wanted=computed)
        record = _measured(pair, settings, tools, make=make, framing=together, **how)
      records.append(record)
      entries.append(clip_entry(pair, together, record['frames']))
    except Exception as error:  # the clip's failure, whatever a library raises; the others go on
      failed[pair.name] = _failure(pair, error)
  if not records:
    if len(failed) == 1:
      sys.exit(2)  # its sentence was said
    raise UserError(f'none of {len(failed)} clips could be measured')
  scores = set_scores(clips, records, real=others, fvd_variant=_fvd_variant(networks))
  missing |= _without_value(scores, computed, tools)
  absent = without_result(pairs, target) if listed is None else []
  write_clip_list(output, protocol, settings.stride, entries)
  parts = dict(scores=scores, missing=missing, records=records, failed=failed, absent=absent)
  return write_report(output, protocol, weights=digests, settings=settings, **parts), failed


def _measured(pair, settings, tools, *, make, keep: bool, folder, key: str, **how) -> dict:
  """The record of one clip, with a bar of its frames; make: portrait -> probes; keep: the bar."""
  portrait, steps = _reference(pair, tools), stream_times(pair.result).frames
  steps = min(steps, settings.frames or steps)
  look = None
  title = one_line(pair.name[:40])
  with tqdm.tqdm(total=steps, desc=title, unit='frame', leave=keep) as bar:
    if tools.look is not None:
      look = tools.look(pair.result.name), tools.look(pair.target.name)
    how |= dict(reference=portrait, look=look, look_once=tools.look, progress=bar.update)
    return measure_clip(pair, settings, make(portrait), folder, key, **how)


def write_truth(path: pathlib.Path, pair: Pair, framing: Framing) -> None:
  """The truth as the result is compared with it, in its square and its frames, as a video of its
  own with a record."""
  record = read_record(pair.result) or {}
  frames = target_frames(pair.target, framing)
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.resolve() in (pair.result.resolve(), pair.target.resolve()):
    raise UserError(f'--write_truth would replace {str(path)!r}; give another folder')
  write_video(path, frames, video_rate(pair.result), crf=0)
  write_record(
    path,
    {name: record[name] for name in ('square', 'driving') if name in record},
    truth=pair.target,
  )


def _failure(pair, error: Exception) -> str:
  """Says that a clip could not be measured; the sentence without folders, for the report."""
  words = item_failure(pair.name, error)
  tqdm.tqdm.write(f'error: {words}', file=sys.stderr)
  return without_folders(words, pair.result.parent, pair.target.parent)


def _fvd_variant(networks: dict) -> str:
  """What FVD of one network may differ in from FVD of another."""
  eps = networks['i3d'].sizes.get('eps') if 'i3d' in networks else None
  return f'batch norm epsilon {eps}'


def _without_value(scores: dict, computed, tools: Tools) -> dict[str, str]:
  """Takes metrics that no frame gave a value for out of `scores`; why not, for each of them."""
  absent = [
    name
    for name in computed
    if name not in scores or not scores[name].count and name not in ('fid', 'fvd')
  ]
  for name in absent:
    scores.pop(name, None)
  return {name: _why_not(name, tools) for name in absent}


def _why_not(name: str, tools: Tools) -> str:
  """Of a metric that no frame gave a value for."""
  if name == 'av_offset':
    return 'the result or its source has no sound'
  if name == 'seam_ratio':
    return 'nothing moves, or there is one frame only'
  if 'landmarks' in METRICS[name].needs:
    return 'no frame in which the face was found on both sides, or too few frames (jitter needs three, HPF two)'
  return 'no frame could be measured'
