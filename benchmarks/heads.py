"""Times posing a head, forward and forward + backward per frame, beside package smplx on torch in
the same run.

  python benchmarks/heads.py [--quick]

All sides pose the same file, a stand-in of SMPL-X's full size (exp_jax.convert.stand_in), with 100
shape and 100 expression coefficients in float32. The gradient is that of the mean squared vertex
error, to all parameters. Rows:

  whole      all 10475 vertices and 55 joints: the same work as the peer's
  subset     head and shoulders, 10 joints: what a portrait needs of that body (equal to a slice of the whole)
  folded     subset with the shape built into the template: every frame of a subject after the first
  dense      folded, lifted to four times the triangles (the splinters of the stand-in share no edges: 38k vertices
             where a real SMPL-X gives 22k)

The fastest of several runs counts, since other work on the machine only ever adds time; peer and
ours take turns. Without torch and smplx the peer's columns stay empty. Leaves
docs/results/figures/heads.json.
"""

import argparse
import os
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from record import Column, write_record

from exp_jax.convert import smplx as convert_smplx
from exp_jax.convert import stand_in
from exp_jax.heads import HeadParams, dense_vertices, head_vertices
from exp_jax.heads.densify import densify
from exp_jax.heads.skinning import fold_shape

COUNT = 100  # shape and expression coefficients each


def parameters(joints: int, batch: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  draw = lambda scale, *shape: (scale * rng.standard_normal((batch, *shape))).astype(np.float32)
  return {
    'shape': draw(1, COUNT),
    'expression': draw(1, COUNT),
    'pose': draw(0.2, joints, 3),
    'translation': draw(1, 3),
  }


def peer(path: pathlib.Path, batch: int):
  """Forward and forward + backward of package smplx as functions without arguments, or None."""
  try:
    import smplx
    import torch
  except ImportError:
    return None
  torch.set_num_threads(os.cpu_count())
  model = smplx.SMPLX(
    str(path.parent),
    ext='npz',
    use_pca=False,
    flat_hand_mean=True,
    num_betas=COUNT,
    num_expression_coeffs=COUNT,
    batch_size=batch,
  )
  given = {key: torch.tensor(value) for key, value in parameters(55, batch).items()}
  pose = given['pose'].reshape(batch, -1)
  pieces = {
    'global_orient': (0, 1),
    'body_pose': (1, 22),
    'jaw_pose': (22, 23),
    'leye_pose': (23, 24),
    'reye_pose': (24, 25),
    'left_hand_pose': (25, 40),
    'right_hand_pose': (40, 55),
  }
  inputs = {name: pose[:, 3 * a : 3 * b].clone() for name, (a, b) in pieces.items()}
  inputs |= {
    'betas': given['shape'],
    'expression': given['expression'],
    'transl': given['translation'],
  }
  leaves = {name: value.requires_grad_() for name, value in inputs.items()}
  with torch.no_grad():
    target = 0.99 * model(**inputs).vertices

  def forward():
    with torch.no_grad():
      model(**inputs)

  def both():
    loss = ((model(**leaves).vertices - target) ** 2).mean()
    torch.autograd.grad(loss, list(leaves.values()))

  return forward, both


def ours(function, batch: int, joints: int, shape: int, *records):
  """The same two functions for function(*records, params) -> [N, 3]; the records are arguments, not
  constants."""
  given = HeadParams(
    **{key: jnp.asarray(value) for key, value in parameters(joints, batch).items()}
  )
  given = given.replace(shape=given.shape[:, :shape])
  if batch == 1:
    given = jax.tree.map(lambda x: x[0], given)
    run = function
  else:
    run = lambda *args: jax.vmap(lambda p: function(*args[:-1], p))(args[-1])
  pose = jax.jit(run)
  target = 0.99 * pose(*records, given)
  loss = lambda params, records, target: jnp.mean((run(*records, params) - target) ** 2)
  slope = jax.jit(jax.grad(loss))
  return (lambda: jax.block_until_ready(pose(*records, given))), (
    lambda: jax.block_until_ready(slope(given, records, target))
  )


def fastest(functions: dict, *, seconds: float) -> dict[str, float]:
  """Milliseconds of the fastest call of each, taking turns for `seconds` each."""
  best = {name: float('inf') for name in functions}
  for function in functions.values():
    function()
  started = time.perf_counter()
  while time.perf_counter() - started < seconds * len(functions):
    for name, function in functions.items():
      start = time.perf_counter()
      function()
      best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
  return best


COLUMNS = [
  Column('batch', 'frames at once'),
  Column('case', 'case'),
  Column('vertices', 'vertices'),
  Column('forward_ms', 'forward', 'ms a frame', 2),
  Column('both_ms', 'forward + backward', 'ms a frame', 2),
  Column('forward_ratio', 'smplx / ours, forward', '', 1),
  Column('both_ratio', 'smplx / ours, both', '', 1),
]


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--quick', action='store_true', help='half a second for each figure instead of three'
  )
  arguments = parser.parse_args()
  seconds, rows, before = 0.5 if arguments.quick else 3.0, [], os.getloadavg()[0]
  with tempfile.TemporaryDirectory() as folder:
    path = stand_in.write_smplx(folder)
    whole = convert_smplx.convert(path, whole=True)
    subset = convert_smplx.convert(path)
    folded = fold_shape(subset, jnp.zeros(COUNT))
    dense = densify(subset, 1)
    zero = jnp.zeros((dense.coarse_ids.shape[0], 3))
    lifted = lambda head, dense, zero, params: dense_vertices(head, dense, params, zero, zero)
    cases = {  # name -> function, joints, shape coefficients, records, vertices
      'whole': (head_vertices, 55, COUNT, (whole,), len(whole.template)),
      'subset': (head_vertices, 10, COUNT, (subset,), len(subset.template)),
      'folded': (head_vertices, 10, 0, (folded,), len(folded.template)),
      'dense': (lifted, 10, 0, (folded, dense, zero), len(dense.coarse_ids)),
    }
    print(
      '| batch | case | vertices | forward ms/frame | forward + backward ms/frame | smplx / ours |'
    )
    print('|---|---|---|---|---|---|')
    for batch in (1, 64):
      pair = peer(path, batch)
      if pair is None and batch == 1:
        print('torch and smplx are not installed: the peer is left out (requirements-oracles.txt)')
      made = {
        name: ours(f, batch, joints, shape, *records)
        for name, (f, joints, shape, records, _) in cases.items()
      }
      made |= {} if pair is None else {'smplx': pair}
      times = [
        fastest({name: fs[k] for name, fs in made.items()}, seconds=seconds) for k in range(2)
      ]
      for name in ('smplx', *cases):
        if name not in made:
          continue
        forward, both = (t[name] / batch for t in times)
        ratio = [times[k]['smplx'] / times[k][name] for k in range(2)] if pair else [None, None]
        vertices = 10475 if name == 'smplx' else cases[name][4]
        rows.append(
          dict(
            batch=batch,
            case=name,
            vertices=vertices,
            forward_ms=forward,
            both_ms=both,
            forward_ratio=ratio[0],
            both_ratio=ratio[1],
          )
        )
        against = '' if name == 'smplx' or not pair else f'{ratio[0]:.1f}x, {ratio[1]:.1f}x'
        print(
          f'| {batch} | {name} | {vertices} | {forward:.2f} | {both:.2f} | {against} |', flush=True
        )
  print(write_record('heads', COLUMNS, rows, load=(before, os.getloadavg()[0])))


if __name__ == '__main__':
  main()
