"""FLAME's texture space and the light of its trackers, as the published maps use them.

  albedo = (mean + sum_k code_k basis_k) / 255       512 x 512 texels, every second one of each row and column, blue and red exchanged
  light  = sum_k l_k c_k Y_k(n),  Y = 1, x, y, z, xy, xz, yz, x^2 - y^2, 3 z^2 - 1,  y up and z to
  the viewer

The file, FLAME_texture.npz, is had from its publisher by registration; its licence allows research
alone. Where there is none, the albedo is the subject file's, or grey.

Letters: F faces, K components.
Source: Feng et al., DECA, 2021, section 3 and its published code, which MagicPortrait's uses.
"""

import dataclasses

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.npz import read_npz

CODES = 50  # components that the published code uses
_SIDE, _STEP = 512, 2
# constants of the published basis; then for each its row of ours (1, y, z, x, xy, yz, 3z^2 - 1, xz,
# x^2 - y^2), the constant there, and the sign that y down and z away give it
_THEIRS = (0.282095, 1.023327, 1.023327, 1.023327, 0.858086, 0.858086, 0.858086, 0.429043, 0.247708)
_OURS = (
  (0, 0.282095, 1),
  (3, 0.488603, 1),
  (1, 0.488603, -1),
  (2, 0.488603, -1),
  (4, 1.092548, -1),
  (7, 1.092548, -1),
  (5, 1.092548, 1),
  (8, 0.546274, 1),
  (6, 0.315392, 1),
)


@dataclasses.dataclass(frozen=True)
class HeadTexture:
  """A head's colours.

  Attributes:
    image: float32 [256, 256, 3] RGB in 0..1, row 0 on top.
    corners: float32 [F, 3, 2] where the corners of each face lie in it, (0, 0) its top left, (1, 1)
      its bottom right.
  """

  image: np.ndarray
  corners: np.ndarray


def load_texture(path, codes: np.ndarray | None = None) -> HeadTexture:
  """The texture of a person, or the mean.

  Args:
    path: FLAME_texture.npz, with mean [512, 512, 3], tex_dir [512, 512, 3, K] (blue first, 0..255),
      vt [N, 2] and ft [F, 3].
    codes: [up to 50] of a tracker; None: the mean.

  Raises:
    UserError: the file is missing, of another form, not finite, or there are more codes than
      components.
  """
  found = read_npz(path, ('mean', 'tex_dir', 'vt', 'ft'))
  if missing := [name for name in ('mean', 'tex_dir', 'vt', 'ft') if name not in found]:
    raise UserError(
      f'{path} has no {missing[0]!r}: it is not the FLAME_texture.npz of the texture space'
    )
  mean, basis, places, faces = (found[name] for name in ('mean', 'tex_dir', 'vt', 'ft'))
  texels = _SIDE * _SIDE * 3
  if (
    mean.size != texels
    or basis.size % texels
    or basis.size < texels
    or places.ndim != 2
    or places.shape[1] != 2
    or faces.ndim != 2
    or faces.shape[1] != 3
    or faces.dtype.kind not in 'iu'
  ):
    raise UserError(
      f'{path}: mean {mean.shape}, tex_dir {basis.shape}, vt {places.shape}, ft {faces.shape} are '
      'not those of the '
      f'texture space of {_SIDE} x {_SIDE} texels'
    )
  basis = basis.reshape(_SIDE, _SIDE, 3, -1)
  codes = np.zeros(0) if codes is None else np.asarray(codes, np.float64)
  if codes.ndim != 1 or len(codes) > min(CODES, basis.shape[-1]) or not np.isfinite(codes).all():
    raise UserError(
      f'codes of a texture are at most {min(CODES, basis.shape[-1])} finite numbers, got '
      f'{codes.shape}'
    )
  if faces.size and not (0 <= faces.min() and faces.max() < len(places)):
    raise UserError(f'{path}: ft names places that vt has not')
  texture = mean.reshape(_SIDE, _SIDE, 3)[::_STEP, ::_STEP].astype(np.float64)
  texture = texture + basis[::_STEP, ::_STEP, :, : len(codes)].astype(np.float64) @ codes
  corners = places[faces].astype(np.float32) * [1, -1] + [0, 1]
  if not (np.isfinite(texture).all() and np.isfinite(corners).all()):
    raise UserError(f'{path} holds NaN or infinite numbers')
  return HeadTexture(
    np.ascontiguousarray(texture[..., ::-1] / 255, np.float32), corners.astype(np.float32)
  )


def light_of_tracker(light: np.ndarray) -> np.ndarray:
  """Light [9, 3] of DECA as that of a subject file: the same irradiance on every normal."""
  light, found = np.asarray(light, np.float64), np.zeros((9, 3))
  if light.shape != (9, 3):
    raise ValueError(f'light must be [9, 3], got {light.shape}')
  for row, theirs, (own, constant, sign) in zip(light, _THEIRS, _OURS):
    found[own] = sign * row * theirs / constant
  return found.astype(np.float32)
