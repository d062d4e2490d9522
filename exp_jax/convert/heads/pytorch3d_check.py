"""The dense asset of a head by two roads: PyTorch3D where it is installed, sparse matrices where it
is not.

Both give the same vertices and faces bit for bit and in the same order, and the same normals and
Laplacian up to rounding; tests/golden/pytorch3d.npz keeps what PyTorch3D 0.7.9 says. Nothing else
imports PyTorch3D.

PyTorch3D has no wheel for current Python on Linux. To build it without a GPU (17 minutes of one
core):

  python3.11 -m venv oracle && . oracle/bin/activate
  pip install torch==2.13.0 numpy iopath ninja setuptools wheel     # a CPU build of torch
  git clone --depth 1 --branch v0.7.9 https://github.com/facebookresearch/pytorch3d && cd pytorch3d
  FORCE_CUDA=0 CFLAGS='-O1 -g0' MAX_JOBS=1 python setup.py build_ext --inplace
  export PYTHONPATH=$PWD
"""

import numpy as np
import scipy.sparse

from exp_jax.errors import UserError
from exp_jax.geometry.meshes import subdivide, unique_edges
from exp_jax.heads.densify import densify
from exp_jax.heads.model import HeadModel

# PyTorch3D's own guards against division by zero, kept so that both roads agree
_SHORTEST_NORMAL, _SHORTEST_EDGE = 1e-6, 1e-12


def installed() -> bool:
  """Whether PyTorch3D can be imported, its compiled part included."""
  try:
    import torch  # noqa: F401  (first: the compiled part needs its libraries)
    from pytorch3d import _C  # noqa: F401
  except ImportError:
    return False
  return True


def dense_asset(
  head: HeadModel, levels: int, *, implementation: str | None = None
) -> dict[str, np.ndarray]:
  """The head's template, each triangle split in four `levels` times.

  Args:
    implementation: 'pytorch3d', 'sparse', or None for the first that is installed.

  Returns:
    vertices [N, 3] float32 metres; faces [G, 3] int32; coarse_ids [N, 3] int32 and barycentric [N,
    3] float32, the operator from coarse vertices; normals [N, 3] float32, area-weighted; edges [E,
    2] int32, smaller vertex first; affinity [E] float32, one over the length of each edge, per
    metre (PyTorch3D's norm_laplacian); and the name of the implementation.

  Raises:
    UserError: an unknown implementation, or PyTorch3D is asked for and not installed.
  """
  if implementation not in (None, *_IMPLEMENTATIONS):
    raise UserError(
      f'there is no implementation {implementation!r}; there are {", ".join(_IMPLEMENTATIONS)}'
    )
  implementation = implementation or ('pytorch3d' if installed() else 'sparse')
  if implementation == 'pytorch3d' and not installed():
    raise UserError(
      'PyTorch3D is not installed; exp_jax/convert/heads/pytorch3d_check.py tells how to build it'
    )
  vertices, faces = np.asarray(head.template, np.float32), np.asarray(head.faces, np.int32)
  vertices, faces, normals, edges, affinity = _IMPLEMENTATIONS[implementation](
    vertices, faces, levels
  )
  operator = densify(head, levels)
  assert np.array_equal(faces, operator.faces), 'the two roads number their vertices differently'
  return {
    'vertices': vertices,
    'faces': faces,
    'coarse_ids': np.asarray(operator.coarse_ids),
    'barycentric': np.asarray(operator.barycentric),
    'normals': normals,
    'edges': edges,
    'affinity': affinity,
    'implementation': np.array(implementation),
  }


def by_sparse(vertices: np.ndarray, faces: np.ndarray, levels: int):
  """Vertices, faces, normals, edges, affinity with numpy and scipy alone."""
  for _ in range(levels):
    step = subdivide(faces, len(vertices))
    pairs = np.asarray(step.sources)[len(vertices) :, :2]
    vertices = np.concatenate([vertices, vertices[pairs].sum(1) / np.float32(2)])
    faces = np.asarray(step.faces)
  corners = vertices[faces].astype(np.float64)
  cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
  around = scipy.sparse.coo_matrix(
    (np.ones(faces.size), (faces.ravel(), np.repeat(np.arange(len(faces)), 3))),
    (len(vertices), len(faces)),
  )
  sums = around.tocsr() @ cross
  normals = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), _SHORTEST_NORMAL)
  edges = unique_edges(faces).astype(np.int32)
  length = np.linalg.norm(np.subtract(*vertices[edges.T].astype(np.float64)), axis=1)
  affinity = 1 / (length + _SHORTEST_EDGE)
  return vertices, faces, normals.astype(np.float32), edges, affinity.astype(np.float32)


def by_pytorch3d(vertices: np.ndarray, faces: np.ndarray, levels: int):
  """The same by PyTorch3D: SubdivideMeshes, Meshes.verts_normals_packed, norm_laplacian."""
  import torch
  from pytorch3d.ops import SubdivideMeshes, norm_laplacian
  from pytorch3d.structures import Meshes

  mesh = Meshes([torch.tensor(vertices)], [torch.tensor(faces, dtype=torch.int64)])
  for _ in range(levels):
    mesh = SubdivideMeshes()(mesh)
  edges = mesh.edges_packed()
  laplacian = norm_laplacian(mesh.verts_packed(), edges).coalesce()
  table = scipy.sparse.coo_matrix(
    (laplacian.values().numpy(), laplacian.indices().numpy()), laplacian.shape
  ).tocsr()
  edges = edges.numpy()
  affinity = np.asarray(table[edges[:, 0], edges[:, 1]]).ravel()
  return (
    mesh.verts_packed().numpy(),
    mesh.faces_packed().numpy().astype(np.int32),
    mesh.verts_normals_packed().numpy(),
    edges.astype(np.int32),
    affinity,
  )


_IMPLEMENTATIONS = {'pytorch3d': by_pytorch3d, 'sparse': by_sparse}


def to_pytorch3d(pixels: np.ndarray, depth: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
  """Pixels [V, 2] (x right, y down, first centre at 0.5) and depth [V] -> [V, 3] for its
  rasterizer.

  PyTorch3D looks along +z with x to the left and y up; both run from -1 to 1 over a square image.

  Raises:
    ValueError: the image is not square (its shorter side would be the unit).
  """
  height, width = image_size
  if height != width:
    raise ValueError(f'a square image is needed, got {image_size}')
  return np.concatenate([1 - 2 * pixels / width, depth[:, None]], 1)


def reference_fragments(
  vertices: np.ndarray, faces: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
  """PyTorch3D's face ids [size, size], -1 where empty, and depths; vertices [V, 3] as
  `to_pytorch3d` gives them."""
  import torch
  from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
  from pytorch3d.structures import Meshes

  mesh = Meshes(
    [torch.tensor(vertices, dtype=torch.float32)], [torch.tensor(faces, dtype=torch.int64)]
  )
  ids, depth, *_ = rasterize_meshes(
    mesh, image_size=size, blur_radius=0.0, faces_per_pixel=1, bin_size=0, perspective_correct=True
  )
  return ids[0, ..., 0].numpy(), depth[0, ..., 0].numpy()
