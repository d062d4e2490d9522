"""Makes tests/golden/pytorch3d.npz: what PyTorch3D 0.7.9 makes of a small head and of a picture of
a large one.

  PYTHONPATH=.:/path/to/pytorch3d python tests/golden/make_pytorch3d_fixture.py

Environment: see exp_jax/convert/heads/pytorch3d_check.py, with this repository on PYTHONPATH. Kept
are subdivision, normals and Laplacian of the procedural head split once, its faces split twice, and
the face ids (every pixel) and depths (every fourth pixel of every fourth row) of a bumpy head of
19k faces at 256 x 256 under our camera.
"""

import pathlib
import sys

import numpy as np
import pytorch3d

from exp_jax.convert.heads import pytorch3d_check
from exp_jax.geometry import project
from exp_jax.heads import load_head

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / 'rendering'))
from meshes_for_tests import bumpy_head, front_camera  # noqa: E402

SIZE, RINGS = 256, 98


def main():
  head, arrays = (
    load_head('procedural'),
    {'versions': np.array(f'pytorch3d {pytorch3d.__version__}')},
  )
  for levels in (1, 2):
    made = pytorch3d_check.dense_asset(head, levels, implementation='pytorch3d')
    keep = ('vertices', 'faces', 'normals', 'edges', 'affinity') if levels == 1 else ('faces',)
    arrays |= {f'{key}_{levels}': made[key] for key in keep}
  vertices, faces = bumpy_head(RINGS, RINGS)
  pixels, depth = project(vertices, front_camera((SIZE, SIZE)))
  placed = pytorch3d_check.to_pytorch3d(np.asarray(pixels), np.asarray(depth), (SIZE, SIZE))
  ids, near = pytorch3d_check.reference_fragments(placed, faces, SIZE)
  arrays |= {'face_id': ids.astype(np.int16), 'depth': near[::4, ::4]}
  np.savez_compressed(HERE / 'pytorch3d.npz', **arrays)
  print(
    len(faces),
    'faces',
    (ids >= 0).sum(),
    'pixels',
    (HERE / 'pytorch3d.npz').stat().st_size,
    'bytes',
  )


if __name__ == '__main__':
  main()
