"""The expression transfer against the truth that only synthetic people have, beside the paper's two
baselines.

Person i makes the faces of person j:
  transfer     G of person i's neutral geometry and j's expressions
  direct copy  j's own dynamic offsets, vertex by vertex (the paper's Fig. 8)
  none         no dynamic offsets: the linear model alone (its Fig. 7)
Errors are against the offsets that person i would have: root mean square over frames and skin,
millimetres, and the angle
between normals where i wrinkles (`band`), degrees. Letters: T frames, P skin vertices.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.files.atomic import replacing
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import lift
from exp_jax.systems.expportrait.transfer.network import Transfer
from exp_jax.systems.expportrait.transfer.transfer_data import ActorFaces

METHODS = ('transfer', 'direct copy', 'none')
GAPS = (0.0, 0.15, 0.3, 0.5, 1.0)  # of age, 0 young adult .. 1 old
_BAND = 0.2  # of a wrinkle's full depth


@dataclasses.dataclass(frozen=True)
class Pair:
  """One person driven by another: ages, and per method the error of the offsets (mm) and of normals
  in the band (degrees), and how large the offsets are (mm, root mean square) that the transfer
  gives and those that are true."""

  target: int
  driver: int
  age: float
  driver_age: float
  offsets: dict[str, float]
  normals: dict[str, float]
  given: float
  true: float


def score_pairs(
  transfer: Transfer,
  faces: ActorFaces,
  *,
  drivers: int = 1,
  frames: int = 12,
  shown: Callable = lambda i, seen: seen,
) -> list[Pair]:
  """Every person of `faces` driven by `drivers` others (the following ones), `frames` frames each.

  `shown(i, Neutral) -> Neutral` is what the transfer sees of person i instead of the truth.
  """
  basis = np.asarray(lift(faces.dense, faces.head.expression_basis))[faces.surface.ids]  # [P, 3, E]
  triangles = jnp.asarray(faces.surface.faces)

  @jax.jit
  def band_error(base, true, guess, band):
    one = lambda vertices: vertex_normals(vertices, triangles)
    cosine = jnp.sum(jax.vmap(one)(base + true) * jax.vmap(one)(base + guess), -1)
    angle = jnp.rad2deg(jnp.arccos(jnp.clip(cosine, -1, 1)))
    return jnp.sum(angle * band) / jnp.maximum(jnp.sum(band) * len(base), 1)

  pairs = []
  for i in range(len(faces)):
    seen, wrinkles, _, age, _ = faces.person(i)
    relative = np.abs(wrinkles.astype(np.float32)) / np.maximum(
      np.abs(wrinkles.astype(np.float32)).max(0), 1e-6
    )
    band = jnp.asarray(relative.max(1) > _BAND, jnp.float32)
    for step in range(1, drivers + 1):
      j = (i + step) % len(faces)
      rng = np.random.default_rng([3, i, j])
      expression, jaw, copied = faces.frames(j, rng, frames)
      true = faces.offsets(i, expression)
      guesses = dict(
        zip(
          METHODS,
          (transfer.on_surface(shown(i, seen), expression, jaw), copied, np.zeros_like(true)),
        )
      )
      base = seen.neutral + np.einsum('pce,te->tpc', basis, expression)
      rms = lambda guess, true=true: 1e3 * float(np.sqrt(np.mean(np.sum((guess - true) ** 2, -1))))
      pairs.append(
        Pair(
          i,
          j,
          age,
          faces.person(j)[3],
          {k: rms(v) for k, v in guesses.items()},
          {k: float(band_error(base, true, v, band)) for k, v in guesses.items()},
          rms(guesses['transfer'] + true),
          rms(0 * true),
        )
      )
  return pairs


def summary(pairs: list[Pair]) -> dict[str, float]:
  """Means over pairs, and what the transfer leaves of either baseline."""
  found = {'pairs': len(pairs)}
  for kind, unit in (('offsets', 'mm'), ('normals', 'degrees')):
    mean = {m: float(np.mean([getattr(p, kind)[m] for p in pairs])) for m in METHODS}
    found |= {f'{m}, {unit}': v for m, v in mean.items()}
    found |= {
      f'{kind} of copy': mean['transfer'] / mean['direct copy'],
      f'{kind} of none': mean['transfer'] / mean['none'],
    }
    worse = np.mean([getattr(p, kind)['transfer'] > getattr(p, kind)['none'] for p in pairs])
    found[f'{kind}: share of pairs above none'] = float(worse)
  found['spread between people, of the true one'] = _spread(pairs, 'given') / max(
    _spread(pairs, 'true'), 1e-9
  )
  return found


def _spread(pairs: list[Pair], size: str) -> float:
  """Standard deviation over people of the mean size of their offsets, mm."""
  people = sorted({p.target for p in pairs})
  return float(
    np.std([np.mean([getattr(p, size) for p in pairs if p.target == i]) for i in people])
  )


def by_age_gap(pairs: list[Pair]) -> dict[str, dict[str, float]]:
  """`summary` of the pairs in each range of |age - driver's age|; empty ranges are left out."""
  gap = np.array([abs(p.age - p.driver_age) for p in pairs])
  table = {}
  for low, high in zip(GAPS, GAPS[1:]):
    chosen = [p for p, g in zip(pairs, gap) if low <= g < high or g == high == GAPS[-1]]
    if chosen:
      table[f'{low:g} to {high:g}'] = summary(chosen)
  return table


def plot_age_gap(pairs: list[Pair], path) -> None:
  """Error of each method over the gap in age, signed (positive: an older target), one point a pair,
  with means."""
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  gap = np.array([p.age - p.driver_age for p in pairs])
  edges = np.array([-g for g in GAPS[:0:-1]] + list(GAPS))
  figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
  for axis, kind, unit in zip(
    axes,
    ('offsets', 'normals'),
    ('offset error, mm (rms)', 'normal error where it wrinkles, degrees'),
  ):
    for method, colour in zip(METHODS, ('tab:blue', 'tab:red', 'tab:gray')):
      value = np.array([getattr(p, kind)[method] for p in pairs])
      axis.plot(gap, value, '.', color=colour, markersize=3, alpha=0.35)
      inside = [(gap >= low) & (gap <= high) for low, high in zip(edges, edges[1:])]
      centre = [gap[m].mean() for m in inside if m.any()]
      axis.plot(
        centre, [value[m].mean() for m in inside if m.any()], '-o', color=colour, label=method
      )
    axis.set(
      xlabel="age of the target minus the driver's (0 young adult, 1 old)",
      ylabel=unit,
      ylim=(0, None),
    )
  axes[0].legend(frameon=False)
  figure.tight_layout()
  with replacing(path) as partial:
    figure.savefig(partial, dpi=130)
  plt.close(figure)
