"""How fast heads are fitted: the landmark stage beside an eager PyTorch loop, the detail stage for
one subject and for many in one program.

  python benchmarks/fit.py [--frames 32] [--subjects 16] [--json out.json]

Times are of a call after the compiling one, the fastest of three. The landmark stage solves shape,
focal length, expression, pose and translation of a clip of the default head seen in 478 landmarks
(Levenberg-Marquardt with temporal sweeps); once more with normals and depth, which 8 key frames are
registered to. The peer takes 300 Adam steps on the same landmarks and unknowns, a step at a time,
in PyTorch on the CPU; it is left out where torch is not installed. The detail stage is 10 steps of
4 frames at 256 pixels with normals, depth and matte; memory is the peak of the process so far.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.fitting.coarse.coarse_fit import FOCAL_PRIOR, make_camera
from exp_jax.fitting.coarse.fit import fit_coarse
from exp_jax.fitting.landmark_head import landmark_head
from exp_jax.fitting.offsets.fit import fit_many
from exp_jax.fitting.offsets.options import OffsetOptions
from exp_jax.fitting.offsets.targets import make_targets
from exp_jax.geometry import project
from exp_jax.heads import load_head
from exp_jax.heads.densify import densify
from exp_jax.heads.model import HeadParams
from exp_jax.heads.skinning import head_landmarks, head_vertices
from exp_jax.observe.observation import Observation
from exp_jax.rendering import Topology, surface_maps

_SIZE, _MAP = 512, 256


def a_clip(head, frames: int, seed: int = 0):
  """Observation of a person who turns, smiles and speaks."""
  rng = np.random.default_rng(seed)
  time_ = np.linspace(-1, 1, frames) if frames > 1 else np.array([0.5])
  expression = np.zeros((frames, len(head.expression_names)))
  for name in ('mouthSmileLeft', 'mouthSmileRight'):
    expression[:, head.expression_names.index(name)] = 0.3 + 0.3 * time_
  pose = np.zeros((frames, len(head.parents), 3))
  index = {name: k for k, name in enumerate(head.joint_names)}
  pose[:, index['neck'], 1] = pose[:, index['head'], 1] = 0.17 * time_
  pose[:, index['jaw'], 0] = 0.08 + 0.05 * time_
  shape = np.clip(rng.normal(0, 0.4, head.shape_basis.shape[-1]), -1, 1)
  camera, small = make_camera(jnp.float32(2.4 * _SIZE), (_SIZE, _SIZE)), landmark_head(head)
  as32 = lambda x: jnp.asarray(x, jnp.float32)
  each = jax.vmap(
    lambda e, p: project(
      head_landmarks(small, HeadParams(as32(shape), e, p, jnp.array([0.01, -0.03, -0.75]))), camera
    )[0]
  )
  points = np.asarray(each(as32(expression), as32(pose))) + rng.normal(0, 0.7, (frames, 478, 2))
  return Observation(
    points.astype(np.float32), np.ones(frames, bool), None, (_SIZE, _SIZE), 'truth'
  )


def fastest(function, runs: int = 3) -> float:
  """Seconds of the fastest call after one that compiles."""
  jax.block_until_ready(function())
  times = []
  for _ in range(runs):
    start = time.perf_counter()
    jax.block_until_ready(function())
    times.append(time.perf_counter() - start)
  return min(times)


def landmark_stage(head, clip):
  return fit_coarse(head, clip).shape


def with_maps(head, clip):
  """The same observation with normals and depth of the head that fits its landmarks."""
  fit, topology = fit_coarse(head, clip), Topology.from_faces(np.asarray(head.faces))
  draw = jax.jit(lambda params: surface_maps(head_vertices(head, params), fit.camera(), topology))
  drawn = [draw(fit.params(t)) for t in range(len(clip.points))]
  normals = np.stack([np.asarray(maps['normal'], np.float16) for maps in drawn]) * np.float16(
    [1, -1, -1]
  )
  believed = (np.abs(normals).sum(-1) > 0).astype(np.float16)
  return dataclasses.replace(
    clip,
    normals=normals,
    normal_weights=believed,
    depth_weights=believed,
    depth=np.stack([np.asarray(maps['depth'][..., 0], np.float32) for maps in drawn]),
  )


def detail(head, subjects: int, frames: int = 4, steps: int = 10) -> float:
  """Seconds of the detail stage for many subjects in one call."""
  dense, rng = densify(head, 1), np.random.default_rng(0)
  clips = [a_clip(head, frames, seed) for seed in range(subjects)]
  fits = [fit_coarse(head, clip) for clip in clips]
  normals = rng.normal(size=(frames, _MAP, _MAP, 3)) * 0.2 + [0, 0, 1]
  matte = np.full((frames, _SIZE, _SIZE), 255, np.uint8)
  targets = [
    make_targets(c.points, _MAP, matte=matte, normals=normals, depth=normals[..., 0]) for c in clips
  ]
  options = OffsetOptions(steps=steps, polish=2, batch=4)
  run = lambda: [
    f.static
    for f in fit_many(
      head,
      dense,
      fits,
      [c.points for c in clips],
      [c.found for c in clips],
      targets,
      options=options,
    )
  ]
  return fastest(run, runs=1 if subjects > 1 else 3)


def eager_torch(head, clip, steps: int = 300) -> float:
  """Seconds of the same fit by Adam in an eager loop; the mathematics of heads/skinning.py."""
  import torch

  small = landmark_head(head)
  tensor = lambda x: torch.tensor(np.asarray(x), dtype=torch.float32)
  template, shapes, actions = (
    tensor(small.template),
    tensor(small.shape_basis),
    tensor(small.expression_basis),
  )
  joints, joint_shapes = tensor(small.joint_template), tensor(small.joint_shape)
  weights, shares = tensor(small.weights), tensor(small.landmark_barycentric)
  corners = torch.tensor(
    np.asarray(small.faces)[np.asarray(small.landmark_faces)], dtype=torch.long
  )
  seen, count = tensor(clip.points), len(clip.points)
  zeros = lambda *shape: torch.zeros(*shape, requires_grad=True)
  shape, focal = zeros(shapes.shape[-1]), zeros(1)
  expression, pose = zeros(count, actions.shape[-1]), zeros(count, len(small.parents), 3)
  translation = torch.tensor(np.tile(np.float32([0, 0, -0.75]), (count, 1)), requires_grad=True)
  unknowns = [shape, focal, expression, pose, translation]
  optimizer = torch.optim.Adam(unknowns, lr=5e-3)

  def rotation(vector):
    angle = torch.sqrt((vector**2).sum(-1, keepdim=True) + 1e-12)
    x, y, z = (vector / angle).unbind(-1)
    o = torch.zeros_like(x)
    cross = torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*x.shape, 3, 3)
    angle = angle[..., None]
    return torch.eye(3) + torch.sin(angle) * cross + (1 - torch.cos(angle)) * cross @ cross

  start = time.perf_counter()
  for _ in range(steps):
    optimizer.zero_grad()
    vertices = template + shapes @ shape + torch.einsum('vce,te->tvc', actions, expression)
    places, turns = joints + joint_shapes @ shape, rotation(pose)
    world, moved = [turns[:, 0]], [places[0].expand(count, 3)]
    for j, parent in enumerate(small.parents[1:], 1):
      world.append(world[parent] @ turns[:, j])
      moved.append(moved[parent] + world[parent] @ (places[j] - places[parent]))
    world, moved = torch.stack(world, 1), torch.stack(moved, 1)
    offset = moved - torch.einsum('tjab,jb->tja', world, places)
    posed = torch.einsum('vj,tjab,tvb->tva', weights, world, vertices) + torch.einsum(
      'vj,tja->tva', weights, offset
    )
    points = torch.einsum('tkcd,kc->tkd', posed[:, corners], shares) + translation[:, None]
    flat = points * torch.tensor([1.0, -1, -1])
    pixels = flat[..., :2] / flat[..., 2:] * FOCAL_PRIOR * _SIZE * torch.exp(focal) + _SIZE / 2
    loss = (
      ((pixels - seen) ** 2).mean() / 4 + 1e-3 * (shape**2).sum() + 1e-3 * (expression**2).mean()
    )
    loss.backward()
    optimizer.step()
  return time.perf_counter() - start


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--frames', type=int, default=32)
  parser.add_argument('--subjects', type=int, default=16)
  parser.add_argument('--json', type=pathlib.Path)
  options = parser.parse_args()
  head, row = load_head('makehuman'), {}

  def note(name, value):
    row[name] = value
    print(f'{name:45s} {value:10.2f}', flush=True)

  for frames in sorted({1, options.frames}):
    clip = a_clip(head, frames)
    note(
      f'landmarks_{frames}_frames_ms_a_frame',
      1e3 * fastest(functools.partial(landmark_stage, head, clip)) / frames,
    )
    note(
      f'landmarks_and_maps_{frames}_frames_ms_a_frame',
      1e3 * fastest(functools.partial(landmark_stage, head, with_maps(head, clip))) / frames,
    )
    try:
      note(f'eager_torch_{frames}_frames_ms_a_frame', 1e3 * eager_torch(head, clip) / frames)
    except ImportError:
      print('eager PyTorch: left out, torch is not installed')
  one = detail(head, 1)
  note('detail_ms_a_frame_and_step', 1e3 * one / 40)
  many = detail(head, options.subjects)
  note(
    f'detail_{options.subjects}_subjects_ms_a_frame_and_step', 1e3 * many / 40 / options.subjects
  )
  note('many_over_one', many / options.subjects / one)
  note('peak_memory_mb', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
  if options.json:
    options.json.write_text(json.dumps(row, indent=1))


if __name__ == '__main__':
  main()
