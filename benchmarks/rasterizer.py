"""Times the rasterizer: visibility, forward, forward + backward, batches, memory; prints a table
and JSON.

  python benchmarks/rasterizer.py [--quick] [--json out.json]

Forward: vertex normals, visibility, interpolation, antialiased normals + depth + mask. Backward:
gradient of their mean squared error to the vertices. The fastest of several runs counts, since
other work on the machine only ever adds time; compare within one run, by ratios. Memory is XLA's
own plan of temporaries. PyTorch3D's naive CPU rasterizer is timed as well where it is installed (it
needs minutes).
"""

import argparse
import json
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.geometry import clip_coordinates, perspective_camera
from exp_jax.rendering import Topology, rasterize, surface_maps

CASES = (('19k', 98, 256), ('38k', 138, 512), ('154k', 277, 512))  # name, rings, pixels


def bumpy_ellipsoid(rings):
  """Head-sized mesh of about 2 rings^2 faces: vertices [V, 3] metres, faces [F, 3]."""
  t, p = np.meshgrid(
    np.linspace(0.02, np.pi - 0.02, rings), np.arange(rings) / rings * 2 * np.pi, indexing='ij'
  )
  r = 1 + np.sin(t) ** 2 * (
    0.05 * np.sin(5 * t) * np.cos(4 * p) + 0.01 * np.sin(31 * t) * np.cos(27 * p)
  )
  xyz = [0.1 * r * np.sin(t) * np.cos(p), -0.13 * r * np.cos(t), 0.1 * r * np.sin(t) * np.sin(p)]
  i, j = np.meshgrid(np.arange(rings - 1), np.arange(rings), indexing='ij')
  a, b = i * rings + j, i * rings + (j + 1) % rings
  quads = [np.stack([a, b, b + rings], -1), np.stack([a, b + rings, a + rings], -1)]
  return np.stack(xyz, -1).reshape(-1, 3).astype(np.float32), np.concatenate(quads).reshape(-1, 3)


def fastest(function, *arguments, runs):
  """Milliseconds of the fastest run after compilation, and the MB of temporaries that XLA plans."""
  compiled = jax.jit(function).lower(*arguments).compile()
  jax.block_until_ready(compiled(*arguments))
  times = []
  for _ in range(runs):
    start = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    times.append(time.perf_counter() - start)
  return min(times) * 1e3, compiled.memory_analysis().temp_size_in_bytes / 1e6


def measure(name, rings, size, runs):
  vertices, faces = bumpy_ellipsoid(rings)
  vertices, topology = jnp.asarray(vertices), Topology.from_faces(faces)
  camera = perspective_camera((size, size), field_of_view=np.radians(25.0), distance=0.7)
  visible = lambda v: rasterize(clip_coordinates(v, camera), topology, (size, size))
  maps = lambda v: surface_maps(v, camera, topology)
  target = jax.tree.map(lambda x: 0.9 * x, jax.jit(maps)(vertices))
  loss = lambda v, t: sum(jnp.mean((x - t[k]) ** 2) for k, x in maps(v).items())
  gradient = jax.grad(loss)
  raster, _ = fastest(visible, vertices, runs=runs)
  forward, _ = fastest(maps, vertices, runs=runs)
  both, memory = fastest(gradient, vertices, target, runs=runs)
  frames = vertices * jnp.linspace(0.93, 1.0, 8)[:, None, None]
  batch, _ = fastest(jax.vmap(gradient, (0, None)), frames, target, runs=max(2, runs // 3))
  raster_batch, _ = fastest(jax.vmap(visible), frames, runs=max(2, runs // 3))
  row = dict(
    case=f'{name} @{size}',
    faces=len(faces),
    raster_ms=raster,
    forward_ms=forward,
    backward_ms=both,
    ratio=both / raster,
    batch_of_8_ms=batch,
    batch_per_single=batch / (8 * both),
    raster_batch_per_single=raster_batch / (8 * raster),
    temp_mb=memory,
  )
  return {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}


def pytorch3d_forward(rings, size):
  """Milliseconds of PyTorch3D's naive CPU rasterizer, or None where it is not installed."""
  try:
    import torch
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes
  except ImportError:
    return None
  vertices, faces = bumpy_ellipsoid(rings)
  scaled = vertices * [6.4, 6.4, 1.0] + [0, 0, 0.7]
  mesh = Meshes([torch.tensor(scaled, dtype=torch.float32)], [torch.tensor(faces)])
  start = time.perf_counter()
  rasterize_meshes(mesh, image_size=size, blur_radius=0.0, faces_per_pixel=1)
  return (time.perf_counter() - start) * 1e3


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--quick', action='store_true', help='three runs each, and no PyTorch3D')
  parser.add_argument('--json', help='also write the rows here')
  arguments = parser.parse_args()
  rows = []
  columns = (
    'case',
    'raster_ms',
    'forward_ms',
    'backward_ms',
    'ratio',
    'batch_per_single',
    'temp_mb',
  )
  print(' | '.join(columns))
  for name, rings, size in CASES:
    row = measure(name, rings, size, 3 if arguments.quick else 9)
    if not arguments.quick and name == '19k':
      row['pytorch3d_raster_ms'] = pytorch3d_forward(rings, size)
    rows.append(row)
    print(' | '.join(str(row[c]) for c in columns), flush=True)
  result = dict(
    jax=jax.__version__, device=str(jax.devices()[0]), load=os.getloadavg()[0], rows=rows
  )
  print(json.dumps(result))
  if arguments.json:
    with open(arguments.json, 'w') as file:
      json.dump(result, file, indent=1)


if __name__ == '__main__':
  main()
