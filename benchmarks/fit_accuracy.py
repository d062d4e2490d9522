"""How well and how fast personalized heads are fitted, on synthetic actors whose truth is known.

  python benchmarks/fit_accuracy.py [--people 4] [--frames 12] [--ablations 2] [--sheet out/fit.png] [--json out.json]
  python benchmarks/fit_accuracy.py --seen pictures [--networks EXPORT] ...   # as users fit: MediaPipe's landmarks, estimated maps
  python benchmarks/fit_accuracy.py --seen maps --noise 0.02 ...             # maps estimated, landmarks from the truth, made worse
  python benchmarks/fit_accuracy.py --seen landmarks ...                      # MediaPipe's landmarks, maps from the truth

Actors are rendered; numbers 0 to 10 were looked at while options were chosen, so the default starts
at 11. What an estimator would say of the frames is their truth, degraded: landmarks jitter by 0.5 %
(--noise) of the eye distance and some lie far off, normals and depth are blurred and noisy, a box
hides part of
some frames. With --seen pictures nothing is handed over: landmarks, matte, normals and depth are
those that `fit` finds in the frames. Fitted are the first frames of a clip; the last quarter is
held out (of a single frame nothing is). Measured, per person and on average:

  normals     mean angle between rendered and true normals on the face, degrees, held-in frames
  wrinkles    correlation of the fine part of the normals (finer than 6 mm) where the truth has
              expression wrinkles deeper than 0.3 mm
  landmarks   root mean square distance to the true landmarks over the eye distance; landmarks are places of the
              linear head, of the actor's as of the fitted one's
  on_offsets  the same between those places with all offsets added (on a beard, not under it), the
  actor's and the fit's
  static      distance of the neutral head (face, ears, scalp, where some frame shows it) to the true
              one, after scale and rigid alignment, over that of the coarse fit, which has no static
              field; neutral_mm is that distance on the face alone. Over all people: the mean of
              these ratios, and static_pooled, the sum of the distances over the sum of the coarse
              fits'
  mean        largest mean of the dynamic field over the clip, mm
  transfer    error of the static field under held-out expressions, over that under held-in ones; both
              against the true person without wrinkles, so that neither pays for wrinkles. Held-in
              expressions were refined by normals, held-out ones are found from landmarks alone;
  transfer_alike  the same with those of both found from landmarks alone

The ablations lose the terms that keep static and dynamic offsets apart, the dynamic field, or the
normal maps (photometric only). Speed: seconds of a second call, after compilation.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from record import Column, write_record

from exp_jax.actors import dynamic_offsets, load_stage, render_actor, sample_actor, sample_motion
from exp_jax.actors.render import Clip
from exp_jax.fitting.coarse.coarse_fit import make_camera
from exp_jax.fitting.coarse.fit import fit_coarse
from exp_jax.fitting.offsets.fit import fit_offsets
from exp_jax.fitting.offsets.options import OffsetOptions
from exp_jax.fitting.offsets.targets import make_targets
from exp_jax.geometry import clip_coordinates, project
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import dense_vertices, rest_vertices
from exp_jax.heads.model import HeadParams
from exp_jax.heads.skinning import head_landmarks
from exp_jax.media.images import contact_sheet, write_image
from exp_jax.observe.landmarks import FaceEstimator, observe
from exp_jax.observe.maps.map_sources import EMBEDDED, observe_maps, open_map_estimators
from exp_jax.observe.observation import Observation
from exp_jax.rendering import interpolate, rasterize

COLUMNS = [
  Column('person', 'person'),
  Column('variant', 'fit'),
  Column('by_landmarks', 'linear head, landmarks', 'degrees', 1),
  Column('by_maps', 'linear head, landmarks and maps', 'degrees', 1),
  Column('maps_share', 'of the first', '', 2),
  Column('offsets', 'with offsets', 'degrees', 1),
  Column('less', 'less than the first', '%', 0),
  Column('wrinkles', 'wrinkles', 'correlation', 2),
  Column('static', 'static error, of the first', '', 2),
  Column('mean_mm', 'mean dynamic field', 'mm', 3),
  Column('held_out', 'held-out expressions', '', 2),
]
_SIZE, _MAP = 512, 256
_FINE = 9.0  # pixels of 512, about 6 mm: what is finer counts as wrinkle
_TURN = np.array([1, -1, -1], np.float32)  # camera frame (y down, z away) <-> towards the viewer


@dataclasses.dataclass(frozen=True)
class Case:
  """One actor: truth and degraded observations of all frames; the first `used` are fitted."""

  actor: object
  clip: Clip
  points: np.ndarray
  normals: np.ndarray
  depth: np.ndarray
  matte: np.ndarray
  wrinkled: np.ndarray  # [T, H, W] bool
  used: int
  weights: np.ndarray | None = (
    None  # [T, H, W] how far normals and depth are believed; None: inside the matte
  )
  estimator: str = 'truth'  # of the landmarks


def draw_case(
  stage, index: int, frames: int, faces=None, networks: tuple = (), noise: float = 0.005
) -> Case:
  """An actor's clip; `faces` sees its landmarks and matte, `networks` its maps, where given; else
  they are the truth made worse."""
  rng = np.random.default_rng([4242, index])
  actor = sample_actor(rng, stage, age=float(np.linspace(0.4, 1.0, 5)[index % 5]))
  motion = sample_motion(rng, stage.assets.head, num_frames=frames, fps=4)
  clip = render_actor(actor, motion, stage, size=_SIZE, maps=True)
  width = np.median(np.linalg.norm(clip.landmarks[:, 263] - clip.landmarks[:, 33], axis=-1))
  points = clip.landmarks + rng.normal(0, noise * width, clip.landmarks.shape)
  lost = rng.random(points.shape[:2]) < 0.01
  points[lost] += rng.normal(0, 0.1 * width, (lost.sum(), 2))
  inside = (clip.matte > 128)[..., None]
  blurred = lambda maps, sigma: scipy.ndimage.gaussian_filter(
    maps.astype(np.float32), (0, sigma, sigma, 0)[: maps.ndim]
  )
  normals = inside * (
    blurred(clip.maps['normals'], 0.8) * _TURN + rng.normal(0, 0.08, clip.maps['normals'].shape)
  )
  depth = inside[..., 0] * (
    -1.7 * clip.maps['depth'].astype(np.float32) + 3 + rng.normal(0, 0.002, clip.matte.shape)
  )
  matte = clip.matte.copy()
  for frame in np.flatnonzero(rng.random(frames) < 0.25):  # something passes before the head
    x, y = rng.integers(60, 380, 2)
    normals[frame, y : y + 60, x : x + 90] = [0, 0, 1]
    depth[frame, y : y + 60, x : x + 90] += 0.3
  deep = jnp.stack(
    [
      jnp.zeros(len(stage.place))
      .at[stage.assets.skin_ids]
      .set(jnp.linalg.norm(dynamic_offsets(actor, jnp.asarray(e)), axis=-1))
      for e in clip.truth.expression
    ]
  )
  seen = np.stack(
    [
      render(stage, truth_vertices(stage, actor, clip, t), clip.truth.focal[0], d[:, None])[1][
        ..., 0
      ]
      for t, d in enumerate(deep)
    ]
  )
  case = Case(
    actor,
    clip,
    points.astype(np.float32),
    normals.astype(np.float32),
    depth.astype(np.float32),
    matte,
    seen > 3e-4,
    max(1, (3 * frames) // 4),
  )
  found = Observation(case.points, np.ones(frames, bool), matte, (_SIZE, _SIZE), case.estimator)
  if faces is not None:
    found = observe(clip.frames, name=f'actor {index}', estimator=faces)
    case = dataclasses.replace(
      case, points=found.points, matte=found.matte, estimator=found.estimator
    )
  if not networks:
    return case
  found = observe_maps(clip.frames, found, list(networks), name=f'actor {index}')
  return dataclasses.replace(
    case,
    normals=np.asarray(found.normals, np.float32),
    depth=-np.asarray(found.depth, np.float32),
    weights=np.asarray(found.normal_weights, np.float32),
    matte=found.matte,
  )


def truth_vertices(stage, actor, clip: Clip, frame: int):
  truth = clip.truth
  moving = (
    jnp.zeros_like(actor.static_offsets)
    .at[truth.dynamic_vertices]
    .set(truth.dynamic_offsets[frame])
  )
  params = HeadParams(
    truth.shape, truth.expression[frame], truth.pose[frame], truth.translation[frame]
  )
  return _posed(stage.assets, params, actor.static_offsets, moving)


def plain_error(stage, case: Case, frame: int, found, mask) -> float:
  """Mean angle of normals [H, W, 3] to those of the true person without wrinkles, degrees."""
  truth = case.clip.truth
  params = HeadParams(
    truth.shape, truth.expression[frame], truth.pose[frame], truth.translation[frame]
  )
  static = case.actor.static_offsets
  vertices = _posed(stage.assets, params, static, jnp.zeros_like(static))
  true, _ = render(stage, vertices, truth.focal[0], jnp.zeros((len(static), 1)))
  return float(angles(found, true)[mask & (true[..., 2] > 0.2)].mean())


def visible(stage, vertices, focal) -> np.ndarray:
  """[N] bool: vertices of faces that own a pixel."""
  ids = np.unique(
    np.asarray(_owners(stage.assets.topology, jnp.asarray(vertices), jnp.float32(focal)))
  )
  seen = np.zeros(len(vertices), bool)
  seen[np.asarray(stage.assets.dense.faces)[ids[ids >= 0]].ravel()] = True
  return seen


@jax.jit
def _owners(topology, vertices, focal):
  return rasterize(
    clip_coordinates(vertices, make_camera(focal, (_SIZE, _SIZE))), topology, (_SIZE, _SIZE)
  ).face_id


@jax.jit
def _posed(assets, params, static, dynamic):
  return dense_vertices(assets.head, assets.dense, params, static, dynamic)


def render(stage, vertices, focal, attributes):
  """Unit normals towards the viewer [H, W, 3], and interpolated attributes [H, W, C]."""
  maps = _maps(
    stage.assets, jnp.asarray(vertices), jnp.float32(focal), jnp.asarray(attributes, jnp.float32)
  )
  maps = np.asarray(maps)
  return maps[..., :3] / np.maximum(
    np.linalg.norm(maps[..., :3], axis=-1, keepdims=True), 1e-6
  ), maps[..., 3:]


@jax.jit
def _maps(assets, vertices, focal, attributes):
  clip = clip_coordinates(vertices, make_camera(focal, (_SIZE, _SIZE)))
  fragments = rasterize(clip, assets.topology, (_SIZE, _SIZE))
  columns = jnp.concatenate([vertex_normals(vertices, assets.dense.faces), attributes], -1)
  return interpolate(columns, clip, assets.topology, fragments)


def angles(a, b):
  return np.degrees(np.arccos(np.clip((a * b).sum(-1), -1, 1)))


def fine(normals, mask):
  """What of the normals is finer than _FINE, comparing like with like inside the mask only."""
  blur = lambda x: scipy.ndimage.gaussian_filter(x, (_FINE / 2.355, _FINE / 2.355, 0)[: x.ndim])
  weight = np.maximum(blur(mask.astype(np.float32)), 1e-3)[..., None]
  return normals - blur(normals * mask[..., None]) / weight


def judge(stage, case: Case, coarse, fit=None) -> dict:
  """All figures of one fit; `fit` None judges the coarse one."""
  assets, truth = stage.assets, case.clip.truth
  count = len(assets.place)
  face = np.asarray(
    assets.dense.regions['face']
    * (1 - assets.dense.regions['eyeballs'])
    * (1 - np.clip(assets.dense.regions['inner_mouth'], 0, 1))
  )[:, None]
  get = (lambda name: getattr(fit, name)) if fit is not None else lambda name: getattr(coarse, name)
  static = fit.static if fit is not None else jnp.zeros((count, 3))
  still = jnp.zeros((count, 3))
  errors, carried, correlation, marks, on_offsets = [], [], [], [], []
  shown = np.zeros(count, bool)
  width = np.median(
    np.linalg.norm(case.clip.landmarks[:, 263] - case.clip.landmarks[:, 33], axis=-1)
  )
  for t in range(case.used):
    params = HeadParams(get('shape'), get('expression')[t], get('pose')[t], get('translation')[t])
    dynamic = fit.dynamic[t] if fit is not None else still
    found, seen = render(stage, _posed(assets, params, static, dynamic), coarse.focal, face)
    alone, _ = render(stage, _posed(assets, params, static, still), coarse.focal, face)
    true = case.clip.maps['normals'][t].astype(np.float32) * _TURN
    mask = (seen[..., 0] > 0.5) & (np.linalg.norm(true, axis=-1) > 0.5)
    mask &= true[..., 2] > 0.2
    errors.append(angles(found, true)[mask].mean())
    carried.append(plain_error(stage, case, t, alone, mask))
    shown |= visible(stage, truth_vertices(stage, case.actor, case.clip, t), truth.focal[0])
    band = mask & case.wrinkled[t]
    if band.sum() > 50:
      a, b = fine(found, mask)[band].ravel(), fine(true, mask)[band].ravel()
      correlation.append(np.corrcoef(a, b)[0, 1])
    camera = make_camera(coarse.focal, (_SIZE, _SIZE))
    pixels, _ = project(head_landmarks(assets.head, params), camera)
    marks.append(((np.asarray(pixels) - case.clip.landmarks[t])[:468] ** 2).sum(-1).mean())
    lens = make_camera(jnp.float32(truth.focal[0]), (_SIZE, _SIZE))
    apart = marks_on(assets, _posed(assets, params, static, dynamic), camera) - marks_on(
      assets, truth_vertices(stage, case.actor, case.clip, t), lens
    )
    on_offsets.append((apart[:468] ** 2).sum(-1).mean())
  neutral = rest_vertices(assets.head, assets.dense, _rest(assets, get('shape')), static, still)
  true = rest_vertices(
    assets.head, assets.dense, _rest(assets, truth.shape), case.actor.static_offsets, still
  )
  on_face = face[:, 0] > 0.5
  distance = aligned_distance(np.asarray(neutral)[on_face], np.asarray(true)[on_face])
  regions = assets.dense.regions
  on_head = shown & (np.max([np.asarray(regions[k]) for k in ('face', 'ears', 'scalp')], 0) > 0.5)
  head_mm = 1e3 * aligned_distance(np.asarray(neutral)[on_head], np.asarray(true)[on_head])
  mean = (
    1e3 * float(jnp.linalg.norm(fit.dynamic.mean(0), axis=-1).max()) if fit is not None else 0.0
  )
  return dict(
    normals=float(np.mean(errors)),
    static_normals=float(np.mean(carried)),
    wrinkles=float(np.mean(correlation)) if correlation else float('nan'),
    landmarks=float(np.sqrt(np.mean(marks)) / width),
    on_offsets=float(np.sqrt(np.mean(on_offsets)) / width),
    neutral_mm=1e3 * distance,
    head_mm=head_mm,
    mean_mm=mean,
  )


def marks_on(assets, vertices, camera) -> np.ndarray:
  """[478, 2] pixels of the landmarks' places on the surface of a posed dense head [N, 3]."""
  corners = np.asarray(vertices)[np.asarray(assets.head.faces[assets.head.landmark_faces])]
  points = np.einsum('kcd,kc->kd', corners, np.asarray(assets.head.landmark_barycentric))
  return np.asarray(project(jnp.asarray(points), camera)[0])


def _rest(assets, shape):
  head = assets.head
  return HeadParams(
    jnp.asarray(shape),
    jnp.zeros(len(head.expression_names)),
    jnp.zeros((len(head.parents), 3)),
    jnp.zeros(3),
  )


def aligned_distance(points, goal) -> float:
  """Mean distance after the best similarity transform (Umeyama 1991), in the unit of `goal`."""
  a, b = points - points.mean(0), goal - goal.mean(0)
  u, s, vt = np.linalg.svd(b.T @ a)
  flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
  return float(
    np.linalg.norm(a @ (u @ flip @ vt).T * (s @ np.diag(flip)) / (a**2).sum() - b, axis=1).mean()
  )


def observed(case: Case, frames: slice, *, maps: bool) -> Observation:
  """What is seen of some frames: landmarks and matte, and normals and depth inside the matte."""
  count, matte = len(case.points[frames]), case.matte[frames]
  seen = Observation(
    case.points[frames], np.ones(count, bool), matte, (_SIZE, _SIZE), case.estimator
  )
  if not maps:
    return seen
  believed = (scipy.ndimage.minimum_filter(matte, (1, 9, 9)) > 128).astype(np.float16)
  if case.weights is not None:
    believed = case.weights[frames].astype(np.float16)
  return dataclasses.replace(
    seen,
    normals=case.normals[frames].astype(np.float16),
    normal_weights=believed,
    depth=-case.depth[frames],
    depth_weights=believed,
  )


def targets_of(case: Case, frames: slice, *, maps: bool):
  given = dict(matte=case.matte[frames])
  if maps:
    given |= dict(
      normals=case.normals[frames],
      depth=case.depth[frames],
      weights=None if case.weights is None else case.weights[frames],
    )
  else:
    given |= dict(frames=case.clip.frames[frames])
  return make_targets(case.points[frames], _MAP, **given)


def static_alone(stage, case, fit, rest: slice) -> float:
  """Degrees: the static field in some frames, whose expression and pose are fitted to their
  landmarks alone."""
  observation = observed(case, rest, maps=False)
  other = fit_coarse(stage.assets.head, observation, shape=fit.shape)
  assets, errors = stage.assets, []
  face = np.asarray(
    assets.dense.regions['face']
    * (1 - assets.dense.regions['eyeballs'])
    * (1 - np.clip(assets.dense.regions['inner_mouth'], 0, 1))
  )[:, None]
  for t in range(len(observation.points)):
    vertices = _posed(assets, other.params(t), fit.static, jnp.zeros_like(fit.static))
    found, seen = render(stage, vertices, other.focal, face)
    true = case.clip.maps['normals'][rest][t].astype(np.float32) * _TURN
    mask = (seen[..., 0] > 0.5) & (true[..., 2] > 0.2)
    errors.append(plain_error(stage, case, range(len(case.points))[rest][t], found, mask))
  return float(np.mean(errors))


ABLATIONS = {
  'full': {},
  'no disentanglement': dict(disentangle=False),
  'static only': dict(dynamic=False),
  'all of the face': dict(picture_face=1.0),
  'photometric only': {},
}


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--people', type=int, default=4)
  parser.add_argument(
    '--first',
    type=int,
    default=11,
    help='number of the first; 0 to 10 were looked at while choosing options',
  )
  parser.add_argument('--frames', type=int, default=12)
  parser.add_argument(
    '--ablations', type=int, default=2, help='people that the ablations are run on'
  )
  parser.add_argument('--steps', type=int, default=OffsetOptions().steps)
  parser.add_argument(
    '--seen',
    choices=('truth', 'landmarks', 'maps', 'pictures'),
    default='truth',
    help='what is estimated: nothing, landmarks and matte, maps, or all of it',
  )
  parser.add_argument(
    '--networks', help="see the maps, as config.networks of `fit` (default 'embedded')"
  )
  parser.add_argument(
    '--noise', type=float, help='of landmarks from the truth, in eye distances (default 0.005)'
  )
  parser.add_argument(
    '--variants', default=','.join(ABLATIONS), help='fits to make, separated by commas'
  )
  parser.add_argument('--sheet', type=pathlib.Path)
  parser.add_argument('--json', type=pathlib.Path, help='written after each person')
  parser.add_argument(
    '--record', metavar='NAME', help='leaves docs/results/figures/NAME.json, a row for each person'
  )
  parser.add_argument(
    '--also',
    type=pathlib.Path,
    nargs='*',
    default=[],
    help='JSON of earlier runs on other people, to sum up with',
  )
  options = parser.parse_args()
  before, stage = os.getloadavg()[0], load_stage()
  for name, where in (('networks', ('maps', 'pictures')), ('noise', ('truth', 'maps'))):
    if getattr(options, name) is not None and options.seen not in where:
      parser.error(f'--{name} changes nothing with --seen {options.seen}')
  faces = FaceEstimator() if options.seen in ('landmarks', 'pictures') else None
  networks = (
    open_map_estimators(options.networks or EMBEDDED)
    if options.seen in ('maps', 'pictures')
    else ()
  )
  noise = 0.005 if options.noise is None else options.noise
  assets, sheet = stage.assets, []
  rows = [row for path in options.also for row in json.loads(path.read_text())['rows']]
  for index in range(options.first, options.first + options.people):
    case = draw_case(stage, index, options.frames, faces, networks, noise)
    used = slice(0, case.used)
    by_landmarks = fit_coarse(assets.head, observed(case, used, maps=False))
    base = judge(stage, case, by_landmarks)
    print(f'{index} linear model, landmarks: ' + said(base), flush=True)
    by_maps = fit_coarse(assets.head, observed(case, used, maps=True))
    linear = judge(stage, case, by_maps)
    print(f'{index} linear model, landmarks and maps: ' + said(linear), flush=True)
    for name, changes in ABLATIONS.items():
      if (
        name not in options.variants.split(',')
        or name != 'full'
        and index >= options.first + options.ablations
      ):
        continue
      chosen = dataclasses.replace(OffsetOptions(steps=options.steps), **changes)
      maps = name != 'photometric only'
      coarse, target = by_maps if maps else by_landmarks, targets_of(case, used, maps=maps)
      fitting = functools.partial(
        fit_offsets,
        assets.head,
        assets.dense,
        coarse,
        case.points[used],
        np.ones(case.used),
        target,
        options=chosen,
      )
      start = time.perf_counter()
      fit = jax.block_until_ready(fitting())
      seconds = time.perf_counter() - start
      row = judge(stage, case, coarse, fit)
      later = (
        static_alone(stage, case, fit, slice(case.used, None))
        if options.frames > 1
        else float('nan')
      )
      row |= dict(
        person=index,
        variant=name,
        seconds=seconds,
        coarse=base,
        linear=linear,
        normals_less=1 - row['normals'] / base['normals'],
        static=row['head_mm'] / base['head_mm'],
        normals_less_than_linear=1 - row['normals'] / linear['normals'],
        static_over_linear=row['head_mm'] / linear['head_mm'],
        transfer=later / row['static_normals'],
        transfer_alike=later / static_alone(stage, case, fit, used),
      )
      rows.append(row)
      print(f'{index} {name}: ' + said(row), flush=True)
      if name == 'full':
        sheet += pictures(stage, case, by_landmarks, coarse, fit)
    if options.json:
      options.json.write_text(json.dumps(dict(rows=rows, summary=summed_up(rows)), indent=1))
  for name, row in summed_up(rows).items():
    print(f'{name:20s} ' + said(row))
  if options.record:
    load = before, os.getloadavg()[0]
    print(write_record(options.record, COLUMNS, people_of(rows), load=load))
  if options.sheet:
    write_image(options.sheet, contact_sheet(sheet, columns=5))


def summed_up(rows: list[dict]) -> dict[str, dict]:
  """Means over the people of each variant, and `static_pooled`."""
  figures = (
    'normals_less',
    'normals_less_than_linear',
    'normals',
    'wrinkles',
    'landmarks',
    'on_offsets',
    'static',
    'static_over_linear',
    'neutral_mm',
    'mean_mm',
    'transfer',
    'transfer_alike',
    'seconds',
  )
  summary = {}
  for name in ABLATIONS:
    if mine := [row for row in rows if row['variant'] == name]:
      pooled = sum(row['head_mm'] for row in mine) / sum(row['coarse']['head_mm'] for row in mine)
      summary[name] = {k: float(np.nanmean([row[k] for row in mine])) for k in figures} | dict(
        static_pooled=pooled
      )
  return summary


def people_of(rows: list[dict]) -> list[dict]:
  """A row for each person and variant, and the means of each variant, for the tables."""
  found = [
    {
      'person': str(row['person']),
      'variant': row['variant'],
      'by_landmarks': row['coarse']['normals'],
      'by_maps': row['linear']['normals'],
      'maps_share': row['linear']['normals'] / row['coarse']['normals'],
      'offsets': row['normals'],
      'less': 100 * row['normals_less'],
      'wrinkles': row['wrinkles'],
      'static': row['static'],
      'mean_mm': row['mean_mm'],
      'held_out': row['transfer'],
    }
    for row in rows
  ]
  means = []
  for variant in dict.fromkeys(row['variant'] for row in found):
    mine = [row for row in found if row['variant'] == variant]
    mean = {key: float(np.nanmean([row[key] for row in mine])) for key in list(found[0])[2:]}
    means.append({'person': 'mean', 'variant': variant} | mean)
  known = lambda value: None if isinstance(value, float) and np.isnan(value) else value
  return [{k: known(v) for k, v in row.items()} for row in (*found, *means)]


def said(row: dict) -> str:
  return ', '.join(f'{k} {v:.3f}' for k, v in row.items() if isinstance(v, float))


def pictures(stage, case, linear, coarse, fit):
  """Picture, true normals, linear, fitted over coarse, static alone: of the frame with the deepest
  wrinkles."""
  t = int(case.wrinkled[: case.used].sum((1, 2)).argmax())
  paint = lambda normals: np.uint8(
    np.clip(127.5 * (normals + 1), 0, 255) * (np.abs(normals).sum(-1, keepdims=True) > 0.1)
  )
  none = jnp.zeros((len(stage.place), 1))
  params = HeadParams(fit.shape, fit.expression[t], fit.pose[t], fit.translation[t])
  zero = jnp.zeros_like(fit.static)
  seen = lambda fit, p, s, d: paint(
    render(stage, _posed(stage.assets, p, s, d), fit.focal, none)[0]
  )
  return [
    case.clip.frames[t],
    paint(case.clip.maps['normals'][t].astype(np.float32) * _TURN),
    seen(linear, linear.params(t), zero, zero),
    seen(coarse, params, fit.static, fit.dynamic[t]),
    seen(coarse, params, fit.static, zero),
  ]


if __name__ == '__main__':
  main()
