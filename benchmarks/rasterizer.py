"""Times the rasterizer: visibility, forward, forward + backward, batches, memory; prints a table
and JSON.

  python benchmarks/rasterizer.py [--quick] [--cases 19k@256,154k@512] [--json out.json]

Forward: vertex normals, visibility, interpolation, antialiased normals + depth + mask. Backward:
gradient of their mean squared error to the vertices. All variants of a case are run in turn, round
after round, so that other work on the machine meets them alike; what counts are the ratios of their
fastest and of their median runs within one call. Memory is XLA's own plan of temporaries.

Peers are timed between the same rounds where they can be imported: PyTorch3D's rasterizer (one face
a pixel, no blur: no gradient at silhouettes) on the CPU, and nvdiffrast on a GPU. Any interpreter
that has both jax and a peer will do.
"""

import argparse
import json
import os
import statistics
import time

# The cores of a CPU as devices, so that frames can be shared out; one call alone still uses all of
# them.
os.environ.setdefault('XLA_FLAGS', f'--xla_force_host_platform_device_count={os.cpu_count()}')

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from exp_jax.geometry import clip_coordinates, perspective_camera
from exp_jax.rendering import Topology, rasterize, surface_maps

CASES = {'19k@256': (98, 256), '38k@512': (138, 512), '154k@512': (277, 512)}  # rings, pixels
PEER_CASES = ('19k@256',)  # PyTorch3D needs minutes for more
FIELD_OF_VIEW, DISTANCE, BATCH = np.radians(25.0), 0.7, 8


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


def in_turn(variants, rounds):
  """Seconds of each run, {name: [rounds]}, of functions without arguments; run in turn."""
  for run in variants.values():
    run()
  times = {name: [] for name in variants}
  for _ in range(rounds):
    for name, run in variants.items():
      start = time.perf_counter()
      run()
      times[name].append(time.perf_counter() - start)
  return times


def measure(rings, size, rounds, peers):
  """One row of the table."""
  vertices, faces = bumpy_ellipsoid(rings)
  vertices, topology = jnp.asarray(vertices), Topology.from_faces(faces)
  camera = perspective_camera((size, size), field_of_view=FIELD_OF_VIEW, distance=DISTANCE)
  visible = lambda v: rasterize(clip_coordinates(v, camera), topology, (size, size))
  maps = lambda v: surface_maps(v, camera, topology)
  target = jax.tree.map(lambda x: 0.9 * x, jax.jit(maps)(vertices))
  gradient = jax.grad(lambda v, t: sum(jnp.mean((x - t[k]) ** 2) for k, x in maps(v).items()))
  frames = vertices * jnp.linspace(0.93, 1.0, BATCH)[:, None, None]
  one_by_one = jax.block_until_ready(list(frames))
  memory, variants = {}, {}

  def add(name, function, *arguments, over=None):
    compiled = (
      jax.jit(function).lower(*(arguments if over is None else (over[0], *arguments))).compile()
    )
    memory[name] = compiled.memory_analysis().temp_size_in_bytes / 1e6
    if over is None:
      variants[name] = lambda: jax.block_until_ready(compiled(*arguments))
    else:
      variants[name] = lambda: [jax.block_until_ready(compiled(v, *arguments)) for v in over]

  add('raster', visible, vertices)
  add('forward', maps, vertices)
  add('both', gradient, vertices, target)
  add('raster_singles', visible, over=one_by_one)
  add('raster_batch', jax.vmap(visible), frames)
  add('both_singles', gradient, target, over=one_by_one)
  add('both_batch', jax.vmap(gradient, (0, None)), frames, target)
  add('both_mapped', lambda f, t: jax.lax.map(lambda v: gradient(v, t), f), frames, target)
  devices = max(n for n in range(1, BATCH + 1) if BATCH % n == 0 and n <= jax.device_count())
  mesh = jax.make_mesh((devices,), ('frames',), axis_types=(AxisType.Auto,))
  apart = PartitionSpec('frames')
  shared = jax.device_put(frames, NamedSharding(mesh, apart))

  def add_shared(name, function):
    each = jax.shard_map(
      lambda v: jax.lax.map(function, v),
      mesh=mesh,
      in_specs=apart,
      out_specs=apart,
      check_vma=False,
    )
    add(name, each, shared)

  add_shared('raster_shared', lambda v: visible(v).face_id)
  add_shared('both_shared', lambda v: gradient(v, target))
  for name, run in peers(np.asarray(vertices), faces, size).items():
    variants[name] = run
  times = in_turn(variants, rounds)
  row = dict(
    faces=len(faces), size=size, temp_mb=memory['both'], temp_mb_batch=memory['both_batch']
  )
  for name, seconds in times.items():
    row[f'{name}_ms'] = min(seconds) * 1e3
    row[f'{name}_median_ms'] = statistics.median(seconds) * 1e3
  for pick in ('_ms', '_median_ms'):
    ratio = lambda a, b, pick=pick: row[a + pick] / row[b + pick]
    suffix = '' if pick == '_ms' else '_median'
    row['both_per_raster' + suffix] = ratio('both', 'raster')
    row['raster_batch_per_single' + suffix] = ratio('raster_batch', 'raster_singles')
    row['both_batch_per_single' + suffix] = ratio('both_batch', 'both_singles')
    row['both_mapped_per_single' + suffix] = ratio('both_mapped', 'both_singles')
    row['raster_shared_per_single' + suffix] = ratio('raster_shared', 'raster_singles')
    row['both_shared_per_single' + suffix] = ratio('both_shared', 'both_singles')
    for name in times:
      if name.startswith(('pytorch3d', 'nvdiffrast')):
        ours = 'both' if name.endswith('both') else 'forward'
        row[f'{name}_per_ours{suffix}'] = ratio(name, ours)
  return {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}


def no_peers(*_):
  return {}


def pytorch3d_peer(vertices, faces, size):
  """PyTorch3D's CPU rasterizer with interpolated normals, depth and mask: {name: run}."""
  import torch
  from pytorch3d.ops import interpolate_face_attributes
  from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
  from pytorch3d.structures import Meshes

  focal = float(1 / np.tan(FIELD_OF_VIEW / 2))
  world, faces = torch.tensor(vertices), torch.tensor(faces.astype(np.int64))

  def forward(world):
    z = world[:, 2] + DISTANCE
    # Its x points left and its y up.
    ndc = torch.stack([-focal * world[:, 0] / z, -focal * world[:, 1] / z, z], -1)
    found, depth, weights, _ = rasterize_meshes(
      Meshes([ndc], [faces]),
      image_size=size,
      blur_radius=0.0,
      faces_per_pixel=1,
      perspective_correct=True,
    )
    normals = Meshes([world], [faces]).verts_normals_packed()
    normal = interpolate_face_attributes(found, weights, normals[faces])[..., 0, :]
    return torch.nn.functional.normalize(normal, dim=-1), depth, found

  def both():
    moving = world.clone().requires_grad_()
    normal, depth, _ = forward(moving)
    (normal.square().mean() + depth.square().mean()).backward()

  def forward_only():
    with torch.no_grad():
      return forward(world)

  camera = perspective_camera((size, size), field_of_view=FIELD_OF_VIEW, distance=DISTANCE)
  topology = Topology.from_faces(faces.numpy())
  ours = rasterize(clip_coordinates(jnp.asarray(vertices), camera), topology, (size, size))
  ours, theirs = np.asarray(ours.face_id), forward_only()[2][0, ..., 0].numpy()
  filled = (ours >= 0) & (theirs >= 0)
  inner = filled.copy()
  for axis in (0, 1):
    for step in (1, -1):
      inner &= np.roll(filled, step, axis)
  print(
    f'PyTorch3D at {len(faces):,} faces, {size} px: same face in '
    f'{(ours == theirs)[inner].mean():.2%} of '
    f'{inner.sum():,} pixels inside the outline; same mask in '
    f'{((ours >= 0) == (theirs >= 0)).mean():.3%} of all'
  )
  return dict(pytorch3d_forward=forward_only, pytorch3d_both=both)


def nvdiffrast_peer(vertices, faces, size):
  """nvdiffrast with interpolated normals, depth and mask and its antialiasing, on the GPU."""
  import nvdiffrast.torch as nvdiffrast
  import torch

  context = nvdiffrast.RasterizeCudaContext()
  focal = float(1 / np.tan(FIELD_OF_VIEW / 2))
  world = torch.tensor(vertices, device='cuda')
  faces = torch.tensor(faces.astype(np.int32), device='cuda')

  def forward(world):
    z = world[:, 2] + DISTANCE
    near, far = 0.01, 10.0
    depth = (far + near) / (far - near) * z - 2 * far * near / (far - near)
    clip = torch.stack([focal * world[:, 0], focal * world[:, 1], depth, z], -1)[None]
    found, _ = nvdiffrast.rasterize(context, clip, faces, (size, size))
    a, b, c = (world[faces[:, k].long()] for k in range(3))
    sums = torch.zeros_like(world)
    for k in range(3):
      sums = sums.index_add(0, faces[:, k].long(), torch.linalg.cross(b - a, c - a))
    values = torch.cat(
      [torch.nn.functional.normalize(sums, dim=-1), z[:, None], z[:, None] * 0 + 1], -1
    )
    image, _ = nvdiffrast.interpolate(values[None].contiguous(), found, faces)
    return nvdiffrast.antialias(image, found, clip, faces)

  def both():
    moving = world.clone().requires_grad_()
    forward(moving).square().mean().backward()
    torch.cuda.synchronize()

  def forward_only():
    with torch.no_grad():
      forward(world)
    torch.cuda.synchronize()

  return dict(nvdiffrast_forward=forward_only, nvdiffrast_both=both)


def find_peer():
  """The peer for this device, and which cases it is timed in; says why where there is none."""
  on_gpu = jax.devices()[0].platform == 'gpu'
  try:
    if on_gpu:
      import nvdiffrast.torch  # noqa: F401

      return nvdiffrast_peer, tuple(CASES)
    import pytorch3d.renderer  # noqa: F401

    return pytorch3d_peer, PEER_CASES
  except ImportError as error:
    print(f'no peer: {error}; {"nvdiffrast" if on_gpu else "PyTorch3D"} is not compared')
    return no_peers, ()


COLUMNS = (
  'raster_ms',
  'forward_ms',
  'both_ms',
  'both_per_raster',
  'raster_batch_per_single',
  'both_batch_per_single',
  'both_mapped_per_single',
  'raster_shared_per_single',
  'both_shared_per_single',
  'temp_mb',
)


def main():
  raw = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
  parser.add_argument('--quick', action='store_true', help='three rounds, and no peers')
  parser.add_argument('--cases', default=','.join(CASES), help=f'of {", ".join(CASES)}')
  parser.add_argument('--rounds', type=int, default=9, help='runs of each variant (default 9)')
  parser.add_argument('--json', help='also write the rows here')
  arguments = parser.parse_args()
  names = arguments.cases.split(',')
  if unknown := set(names) - set(CASES):
    parser.error(f'unknown cases {sorted(unknown)}; there are {", ".join(CASES)}')
  peer, peer_cases = (no_peers, ()) if arguments.quick else find_peer()
  rows = []
  print(' | '.join(('case', *COLUMNS)))
  for name in names:
    rings, size = CASES[name]
    rounds = 3 if arguments.quick else arguments.rounds
    row = dict(case=name) | measure(rings, size, rounds, peer if name in peer_cases else no_peers)
    rows.append(row)
    print(' | '.join([name, *(str(row[c]) for c in COLUMNS)]), flush=True)
    for key in (k for k in row if k.endswith('_per_ours')):
      print(f'  {key}: {row[key]}x')
  result = dict(
    jax=jax.__version__, device=str(jax.devices()[0]), load=os.getloadavg()[0], rows=rows
  )
  print(json.dumps(result))
  if arguments.json:
    with open(arguments.json, 'w') as file:
      json.dump(result, file, indent=1)


if __name__ == '__main__':
  main()
