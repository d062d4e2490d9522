"""Where the error of a fitted neutral head lies: the parts of `static` in fit_accuracy.py.

  python benchmarks/fit_error_parts.py [--people 3] [--first 11] [--frames 12] [--oracles] [--json parts.json]

People, degradation and alignment are those of fit_accuracy.py; vertices are those of its `static`
(face, ears and scalp where some frame shows them), so the neck and what no frame shows are not in
it. For each neutral head, mm:

  all                  mean distance; over that of the linear model on landmarks it is `static`
  normal, tangent      along and across the true normals: with a perfect depth everywhere `tangent` would be left
  low, high            before and after 40 half-steps of Laplacian smoothing over the mesh (about 1 cm)
  skin, hair, ears, ears under hair   the mean of each region, and its share of the vertices

of which head:

  none                 the linear model on landmarks
  fit                  what `exp_jax.fit` finds
  true shape, no field    the truth without its static field: what a perfect linear model leaves
  fit's shape, true field, and true shape, fit's field: which of the two carries the rest

and with --oracles, one more fit each: observations that are not degraded; true cameras, poses and
expressions (which are then kept); twice the frames.
"""

import argparse
import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from fit_accuracy import _TURN, _rest, draw_case, observed, targets_of, truth_vertices, visible

from exp_jax.actors import load_stage
from exp_jax.fitting.coarse.fit import fit_coarse
from exp_jax.fitting.offsets.fit import fit_offsets
from exp_jax.fitting.offsets.options import OffsetOptions
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import laplacian, rest_vertices

_HAIR = 1.5e-3  # metres of true static offset, beside the smooth surface, that count as hair
_ROUNDS = 40


def fit_case(stage, case, *, maps=True, kept=None, options=OffsetOptions()):
  """(coarse fit, offsets or None) of the held-in frames; `kept` a function that replaces parts of
  the coarse fit."""
  assets, used = stage.assets, slice(0, case.used)
  coarse = fit_coarse(assets.head, observed(case, used, maps=maps))
  if not maps:
    return coarse, None
  coarse = kept(coarse) if kept else coarse
  return coarse, fit_offsets(
    assets.head,
    assets.dense,
    coarse,
    case.points[used],
    np.ones(case.used),
    targets_of(case, used, maps=True),
    options=options,
  )


def undegraded(case):
  maps = {name: value.astype(np.float32) for name, value in case.clip.maps.items()}
  inside = case.clip.matte > 128
  return dataclasses.replace(
    case,
    points=case.clip.landmarks.astype(np.float32),
    depth=inside * (3 - 1.7 * maps['depth']),
    normals=inside[..., None] * maps['normals'] * _TURN,
  )


def with_true_motion(case):
  truth, used = case.clip.truth, slice(0, case.used)
  return lambda coarse: coarse.replace(
    expression=jnp.asarray(truth.expression[used]),
    pose=jnp.asarray(truth.pose[used]),
    translation=jnp.asarray(truth.translation[used]),
    focal=jnp.float32(truth.focal[0]),
  )


def neutral(stage, shape, static) -> np.ndarray:
  still = jnp.zeros((len(stage.place), 3))
  return np.asarray(
    rest_vertices(
      stage.assets.head, stage.assets.dense, _rest(stage.assets, shape), jnp.asarray(static), still
    )
  )


def regions(stage, case) -> dict[str, np.ndarray]:
  """name -> [N] bool; together the vertices that `static` is measured on."""
  dense, truth = stage.assets.dense, case.clip.truth
  shown = np.zeros(len(stage.place), bool)
  for t in range(case.used):
    shown |= visible(stage, truth_vertices(stage, case.actor, case.clip, t), truth.focal[0])
  each = np.stack([np.asarray(dense.regions[name]) for name in ('face', 'ears', 'scalp')])
  on, most = shown & (each.max(0) > 0.5), each.argmax(0)
  head = stage.assets.head
  smooth = stage.smooth @ (
    np.asarray(head.template) + np.asarray(head.shape_basis) @ np.asarray(truth.shape)
  )
  hair = np.linalg.norm(np.asarray(case.actor.static_offsets) - smooth, axis=1) > _HAIR
  return {
    'skin': on & (most != 1) & ~hair,
    'hair': on & (most != 1) & hair,
    'ears': on & (most == 1) & ~hair,
    'ears under hair': on & (most == 1) & hair,
  }


def aligned(points, goal, on) -> np.ndarray:
  """[N, 3] after the similarity that fits the vertices `on` best, as in fit_accuracy.py."""
  a, b = points[on] - points[on].mean(0), goal[on] - goal[on].mean(0)
  u, s, vt = np.linalg.svd(b.T @ a)
  flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
  return (points - points[on].mean(0)) @ (u @ flip @ vt).T * (s @ np.diag(flip)) / (
    a**2
  ).sum() + goal[on].mean(0)


def parts(stage, case, where, points) -> dict:
  """Millimetres of one neutral head [N, 3]; of a region its mean and its share of the vertices."""
  truth = neutral(stage, case.clip.truth.shape, case.actor.static_offsets)
  on = np.any(list(where.values()), 0)
  error = 1e3 * (aligned(points, truth, on) - truth)
  normals = np.asarray(vertex_normals(jnp.asarray(truth), stage.assets.dense.faces))
  along = (error * normals).sum(1, keepdims=True)
  low = np.asarray(_smoothed(stage.assets.dense, jnp.asarray(error, jnp.float32)))
  mean = lambda field, some=on: float(np.linalg.norm(field, axis=1)[some].mean())
  row = dict(
    all=mean(error),
    normal=mean(along),
    tangent=mean(error - along * normals),
    low=mean(low),
    high=mean(error - low),
  )
  return row | {
    name: (mean(error, some), float(some.sum() / on.sum()))
    for name, some in where.items()
    if some.any()
  }


@jax.jit
def _smoothed(dense, field):
  return jax.lax.fori_loop(0, _ROUNDS, lambda _, f: f + 0.5 * laplacian(dense, f), field)


def judge(stage, index: int, frames: int, oracles: bool) -> dict[str, dict]:
  case = draw_case(stage, index, frames)
  where, truth = regions(stage, case), case.clip.truth
  zero = np.zeros((len(stage.place), 3), np.float32)
  _, fit = fit_case(stage, case)
  heads = {
    'none': (fit_case(stage, case, maps=False)[0].shape, zero),
    'fit': (fit.shape, fit.static),
    'true shape, no field': (truth.shape, zero),
    "fit's shape, true field": (fit.shape, case.actor.static_offsets),
    "true shape, fit's field": (truth.shape, fit.static),
  }
  if oracles:
    still = OffsetOptions(parameters=False)
    variants = {
      'not degraded': (undegraded(case), {}),
      'twice the frames': (draw_case(stage, index, 2 * frames), {}),
      'true motion': (case, dict(kept=with_true_motion(case), options=still)),
    }
    for name, (other, more) in variants.items():
      found = fit_case(stage, other, **more)[1]
      heads[name] = found.shape, found.static
  rows = {name: parts(stage, case, where, neutral(stage, *head)) for name, head in heads.items()}
  for row in rows.values():
    row['static'] = row['all'] / rows['none']['all']
  return rows


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--people', type=int, default=3)
  parser.add_argument('--first', type=int, default=11)
  parser.add_argument('--frames', type=int, default=12)
  parser.add_argument('--oracles', action='store_true')
  parser.add_argument('--json', type=pathlib.Path)
  options = parser.parse_args()
  stage, found = load_stage(), {}
  for index in range(options.first, options.first + options.people):
    found[index] = judge(stage, index, options.frames, options.oracles)
    for name, row in found[index].items():
      said = (
        f'{k} {v[0]:.2f} ({100 * v[1]:.0f} %)' if isinstance(v, tuple) else f'{k} {v:.2f}'
        for k, v in row.items()
      )
      print(f'{index} {name:24s} ' + ', '.join(said), flush=True)
  if options.json:
    options.json.write_text(json.dumps(found, indent=1))


if __name__ == '__main__':
  main()
