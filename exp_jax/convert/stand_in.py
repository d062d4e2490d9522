"""Random model files in the exact format and size of SMPL-X and FLAME, from a seed: for tests and
benchmarks.

  python -m exp_jax.convert.stand_in -o out/stand_in     # SMPLX_NEUTRAL.npz, FLAME_NEUTRAL.pkl and its side files
  python -m exp_jax.convert.stand_in -o out/stand_in --face     # the same with a person's head, and FLAME without a jaw

They hold no licensed number and look like a cloud of splinters, but every array has the shape, the
type and the bounds of the real one, so whoever has no licence yet can try the converters, and
whoever has can compare programs. With --face the head is MakeHuman's, on other triangles and in
other bases, so that it can be fitted to photographs.
"""

import argparse
import pathlib
import pickle

import numpy as np
import scipy.sparse

from exp_jax.convert.heads.stand_in_face import Person, flame_person, smplx_person
from exp_jax.convert.smplx import ALL_JOINTS
from exp_jax.errors import ArgumentParser, exits_cleanly
from exp_jax.files.atomic import replacing
from exp_jax.heads.head_files import load_head

SMPLX_PARENTS = (
  -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15, 20, 25, 26, 20, 28, 29,
  20, 31, 32, 20, 34, 35, 20, 37, 38, 21, 40, 41, 21, 43, 44, 21, 46, 47, 21, 49, 50, 21, 52, 53)  # fmt: skip
FLAME_PARENTS = (-1, 0, 1, 1, 1)
_PLACES = {  # metres, of the joints near the head
  'spine': (0, 1.1, 0),
  'neck': (0, 1.3, 0),
  'left_collar': (0.07, 1.25, 0),
  'right_collar': (-0.07, 1.25, 0),
  'head': (0, 1.4, 0),
  'left_shoulder': (0.18, 1.25, 0),
  'right_shoulder': (-0.18, 1.25, 0),
  'jaw': (0, 1.38, 0.03),
  'left_eye': (0.03, 1.45, 0.08),
  'right_eye': (-0.03, 1.45, 0.08),
  'left_elbow': (0.45, 1.25, 0),
  'right_elbow': (-0.45, 1.25, 0),
}
# vertices, near the real ones
_SHARES = {'head': 3000, 'jaw': 900, 'left_eye': 546, 'right_eye': 546, 'neck': 150}


def _model(parents, places, owner, faces, *, seed: int) -> dict[str, np.ndarray]:
  """The arrays that SMPL-X and FLAME share; `owner` [V] is the joint of each vertex. float32 as in
  newer files."""
  rng, count, joints = np.random.default_rng(seed), len(owner), len(parents)
  near = 0.8 * np.eye(joints)[owner]
  for _ in range(3):  # real weights are sparse: a handful of joints for each vertex
    near[np.arange(count), rng.integers(0, joints, count)] += rng.uniform(0, 0.1, count)
  regressor = np.eye(joints)[owner].T * rng.uniform(0.5, 1, count) * (rng.random(count) < 0.2)
  triangles, first, sizes = (
    [],
    np.cumsum(np.bincount(owner)) - np.bincount(owner),
    np.bincount(owner),
  )
  for joint, size in enumerate(sizes):  # in proportion to vertices, the last joint takes the rest
    amount = faces * size // count if joint < joints - 1 else faces - sum(map(len, triangles))
    step = rng.integers(1, size // 3, (amount, 2))
    corner = rng.integers(0, size, (amount, 1)) + np.concatenate(
      [0 * step[:, :1], np.cumsum(step, 1)], 1
    )
    triangles.append(first[joint] + corner % size)
  small = lambda scale, *shape: (scale * rng.standard_normal(shape, np.float32)).astype(np.float32)
  return {
    'v_template': (places[owner] + small(0.04, count, 3)).astype(np.float32),
    'f': np.concatenate(triangles).astype(np.uint32),
    'shapedirs': small(0.003, count, 3, 400),
    'posedirs': small(0.002, count, 3, 9 * (joints - 1)),
    'weights': (near / near.sum(1, keepdims=True)).astype(np.float64),
    'J_regressor': regressor / regressor.sum(1, keepdims=True),
    'kintree_table': np.stack([np.array(parents, np.int64) % 2**32, np.arange(joints)]).astype(
      np.uint32
    ),
  }


def _points(model, owner, among, *shape, seed):
  """Faces and barycentric weights of random points on triangles whose vertices all belong to joints
  `among`."""
  rng = np.random.default_rng(seed)
  choice = np.flatnonzero(np.isin(owner[model['f'][:, 0]], among))
  return rng.choice(choice, shape).astype(np.int64), rng.dirichlet([1, 1, 1], shape)


def smplx_owner() -> np.ndarray:
  """[10475] the joint of each vertex of the splinters."""
  given = [_SHARES.get(name, 0) for name in ALL_JOINTS.values()]
  rest, others = 10475 - sum(given), given.count(0)
  sizes = [n or rest // others for n in given]
  sizes[0] += 10475 - sum(sizes)
  return np.repeat(np.arange(55), sizes)


def smplx_model(*, seed: int = 0) -> dict[str, np.ndarray]:
  """All entries of SMPLX_NEUTRAL.npz: 10475 vertices, 20908 faces, 300 + 100 directions, 55
  joints."""
  names, rng, owner = tuple(ALL_JOINTS.values()), np.random.default_rng(seed), smplx_owner()
  places = np.array(
    [_PLACES.get(name, (0.3 * (-1) ** j, 0.5 - 0.01 * j, 0)) for j, name in enumerate(names)]
  )
  model = _model(SMPLX_PARENTS, places, owner, 20908, seed=seed)
  head = [names.index('head'), names.index('jaw')]
  for prefix, shape in (('', (51,)), ('dynamic_', (79, 17))):
    ids, shares = _points(model, owner, head, *shape, seed=seed + len(shape))
    model |= {f'{prefix}lmk_faces_idx': ids, f'{prefix}lmk_bary_coords': shares}
  for side in 'lr':
    model |= {
      f'hands_mean{side}': 0.1 * rng.normal(size=45),
      f'hands_components{side}': np.eye(45),
      f'hands_coeffs{side}': np.zeros((10, 45)),
    }
  return model


def flame_model(*, seed: int = 1) -> tuple[dict, dict, dict]:
  """Entries of generic_model.pkl (5023 vertices, 9976 faces), of the static and of the dynamic
  embedding."""
  names = ('neck', 'head', 'jaw', 'left_eye', 'right_eye')
  owner = np.repeat(np.arange(5), (500, 2531, 900, 546, 546))
  places = np.array([_PLACES[name] for name in names]) - [0, 1.4, 0]
  model = _model(FLAME_PARENTS, places, owner, 9976, seed=seed)
  static, dynamic = (
    dict(
      zip(
        ('lmk_face_idx', 'lmk_b_coords'),
        _points(model, owner, [1, 2], *shape, seed=seed + len(shape)),
      )
    )
    for shape in ((51,), (79, 17))
  )
  return model | {'J_regressor': scipy.sparse.csc_matrix(model['J_regressor'])}, static, dynamic


def _write(path: pathlib.Path, content) -> pathlib.Path:
  """Writes {name: array} as .npz, an array as .npy, anything else as a pickle; whole or not at all.

  Returns the path.
  """
  with replacing(path) as partial, open(partial, 'wb') as stream:
    if path.suffix == '.npz':
      np.savez(stream, **content)
    elif path.suffix == '.npy':
      np.save(stream, content, allow_pickle=True)
    else:
      pickle.dump(content, stream, 4 if path.name.startswith('FLAME_N') else 2)
  return path


def write_smplx(folder, *, seed: int = 0) -> pathlib.Path:
  """Writes SMPLX_NEUTRAL.npz (130 MB) to `folder` and returns its path."""
  return _write(pathlib.Path(folder) / 'SMPLX_NEUTRAL.npz', smplx_model(seed=seed))


def write_flame(folder, *, seed: int = 1) -> pathlib.Path:
  """Writes FLAME_NEUTRAL.pkl (27 MB) and its two embeddings, as pickles like the originals; returns
  its path."""
  folder = pathlib.Path(folder)
  model, static, dynamic = flame_model(seed=seed)
  _write(folder / 'flame_static_embedding.pkl', static)
  _write(folder / 'flame_dynamic_embedding.npy', np.array(dynamic, object))
  return _write(folder / 'FLAME_NEUTRAL.pkl', model)


def write_smplx_person(folder, *, seed: int = 0) -> Person:
  """Writes SMPLX_NEUTRAL.npz (130 MB) with the head of somebody, and returns who it is."""
  model, who = smplx_person(
    load_head('makehuman'),
    smplx_model(seed=seed),
    tuple(ALL_JOINTS.values()),
    smplx_owner(),
    seed=seed,
  )
  _write(pathlib.Path(folder) / 'SMPLX_NEUTRAL.npz', model)
  return who


def write_flame_person(folder, *, seed: int = 1, with_jaw: bool = True) -> Person:
  """Writes FLAME_NEUTRAL.pkl (or FLAME_NO_JAW.pkl), its two embeddings and FLAME_masks.pkl; returns
  who it is."""
  folder, parents = pathlib.Path(folder), FLAME_PARENTS if with_jaw else (-1, 0, 1, 1)
  model, static, dynamic, masks, who = flame_person(
    load_head('makehuman'), parents, seed=seed, with_jaw=with_jaw
  )
  _write(folder / ('FLAME_NEUTRAL.pkl' if with_jaw else 'FLAME_NO_JAW.pkl'), model)
  _write(folder / 'flame_static_embedding.pkl', static)
  _write(folder / 'FLAME_masks.pkl', masks)
  _write(folder / 'flame_dynamic_embedding.npy', np.array(dynamic, object))
  return who


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True, help='folder to fill')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--face',
    action='store_true',
    help='heads of people, which can be fitted; needs the MakeHuman head',
  )
  options = parser.parse_args(argv)
  options.output.mkdir(parents=True, exist_ok=True)
  if options.face:
    write_smplx_person(options.output, seed=options.seed)
    for with_jaw in (False, True):
      (folder := options.output / ('flame' if with_jaw else 'flame_no_jaw')).mkdir(exist_ok=True)
      write_flame_person(folder, seed=options.seed + 1, with_jaw=with_jaw)
    print(*sorted(str(path) for path in options.output.rglob('*') if path.is_file()), sep='\n')
    return
  print(write_smplx(options.output, seed=options.seed))
  print(write_flame(options.output, seed=options.seed + 1))


if __name__ == '__main__':
  main()
