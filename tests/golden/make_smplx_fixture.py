"""Makes tests/golden/smplx.npz: what package smplx 0.1.28 on torch 2.13.0 makes of the stand-in
model files.

  PYTHONPATH=. python tests/golden/make_smplx_fixture.py

Environment: torch==2.13.0 (CPU), smplx==0.1.28, numpy, scipy, and this repository on PYTHONPATH.
Each model is posed
three times in float64: all joints at random, the head turned by 17 and by -50 degrees. Kept are the
parameters,
every 25th (FLAME: 12th) vertex, the joints, the static landmarks and the contour.
"""

import pathlib
import tempfile

import numpy as np
import smplx
import torch

from exp_jax.convert import stand_in

OUT = pathlib.Path(__file__).parent / 'smplx.npz'
YAWS = (None, 17.0, -50.0)
STEP = {'smplx': 25, 'flame': 12}


def parameters(joints: int, chain: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
  """shape [3, 300], expression [3, 100], pose [3, J, 3], translation [3, 3]; `chain` are the joints
  up to the neck."""
  rng = np.random.default_rng(seed)
  pose = 0.3 * rng.normal(size=(3, joints, 3))
  for row, yaw in zip(pose[1:], YAWS[1:]):
    row[list(chain)] = 0
    row[0, 1] = np.radians(yaw)
  return {
    'shape': rng.normal(size=(3, 300)),
    'expression': rng.normal(size=(3, 100)),
    'pose': pose,
    'translation': rng.normal(size=(3, 3)),
  }


def forward(kind: str, folder: str, given: dict[str, np.ndarray], dtype=torch.float64):
  """The reference's vertices [B, V, 3], joints [B, J, 3], landmarks [B, 51, 3] and contour [B, 17,
  3]."""
  count = given['pose'].shape[1]
  common = dict(
    batch_size=len(given['pose']),
    num_betas=300,
    num_expression_coeffs=100,
    use_face_contour=True,
    dtype=dtype,
  )
  tensor = lambda x: torch.tensor(x, dtype=dtype)
  pose = lambda *joints: tensor(given['pose'][:, list(joints)].reshape(len(given['pose']), -1))
  arguments = dict(
    betas=tensor(given['shape']),
    expression=tensor(given['expression']),
    transl=tensor(given['translation']),
    global_orient=pose(0),
  )
  if kind == 'smplx':
    model = smplx.SMPLX(folder, ext='npz', use_pca=False, flat_hand_mean=True, **common)
    arguments |= dict(
      body_pose=pose(*range(1, 22)),
      jaw_pose=pose(22),
      leye_pose=pose(23),
      reye_pose=pose(24),
      left_hand_pose=pose(*range(25, 40)),
      right_hand_pose=pose(*range(40, 55)),
    )
  else:
    model = smplx.FLAME(folder, ext='pkl', **common)
    arguments |= dict(neck_pose=pose(1), jaw_pose=pose(2), leye_pose=pose(3), reye_pose=pose(4))
  with torch.no_grad():
    out = model(**arguments)
  points = out.joints.numpy()
  return out.vertices.numpy(), points[:, :count], points[:, -68:-17], points[:, -17:]


def main():
  arrays = {'versions': np.array(f'smplx 0.1.28, torch {torch.__version__}')}
  with tempfile.TemporaryDirectory() as folder:
    stand_in.write_smplx(folder)
    stand_in.write_flame(folder)
    # the neck of SMPL-X and what carries it; FLAME's contour follows its root in this package
    for kind, joints, chain in (('smplx', 55, (0, 3, 6, 9, 12)), ('flame', 5, (0, 1))):
      given = parameters(joints, chain, seed=joints)
      made = dict(zip(('vertices', 'joints', 'landmarks', 'contour'), forward(kind, folder, given)))
      made['vertices'] = made['vertices'][:, :: STEP[kind]]
      arrays |= {f'{kind}_{key}': value for key, value in (given | made).items()}
  np.savez_compressed(OUT, **arrays)
  print(OUT, OUT.stat().st_size)


if __name__ == '__main__':
  main()
