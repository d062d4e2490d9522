"""What all actors of one head model share: the dense mesh, its smooth template, where
features are, and how it shadows itself.

All patterns (wrinkles, hair, beard, cloth) are functions of the place on the smooth template, so
they sit right on every identity. This is computed once. N dense vertices.
"""

import dataclasses
import functools

import flax
import jax
import numpy as np
import scipy.sparse

from exp_jax.actors.lighting import sh_basis
from exp_jax.actors.occlusion import transfer_vectors
from exp_jax.controls.mouth import inner_lips, labial_faces, tooth_places
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import Dense, densify, rounding
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadModel
from exp_jax.heads.regions import NAMES
from exp_jax.rendering import Topology


@flax.struct.dataclass
class Assets:
  """What the renderer needs on the device."""

  head: HeadModel
  dense: Dense
  topology: Topology
  skin_ids: jax.Array  # [M] int32, the dense vertices that carry dynamic offsets
  # [N, 3] unit direction from the eye's centre, in the rest pose; zero off the eyeballs
  eye: jax.Array
  place: jax.Array  # [N, 3] metres, the smooth template
  normals: jax.Array  # [N, 3] of it
  transfer: jax.Array  # [N, 9] its self-shadowing, see occlusion.py
  crown: jax.Array  # [3] metres, where hair grows from
  cavity: jax.Array  # [M] int32, the dense vertices inside the mouth, which is lit through the lips
  tooth: jax.Array  # [N, 3] see `controls.mouth.tooth_places`
  labial: jax.Array  # [L, 3] int32, the outer faces of teeth, see `controls.mouth.labial_faces`
  crowns: jax.Array  # [C] int32, their vertices
  lips: tuple[jax.Array, jax.Array] | None  # see `controls.mouth.inner_lips`


@dataclasses.dataclass(frozen=True)
class Anatomy:
  """Places on the template, metres, head frame; the left side (x > 0) stands for both."""

  eye: np.ndarray  # [3] centre of the eyeball
  eye_radius: float
  mouth: np.ndarray  # [3] middle of the lips' surface
  mouth_half: float  # half its width
  nose: np.ndarray  # [3] tip
  chin: np.ndarray  # [3] the foremost point below the lips
  brow: np.ndarray  # [3] centre
  top: float  # height of the crown
  hairline: float  # height where scalp begins over the forehead
  ear: np.ndarray  # [3]


@dataclasses.dataclass(frozen=True)
class Stage:
  """What all actors on one head model share: meshes, places, regions."""

  assets: Assets
  anatomy: Anatomy
  place: np.ndarray  # [N, 3] smooth template
  # [N, V] smooth minus lifted: its product with vertices is an offset
  smooth: scipy.sparse.csr_matrix
  regions: dict[str, np.ndarray]  # all of heads.regions.NAMES, zeros where the head lacks one


@functools.lru_cache(maxsize=4)
def load_stage(name: str = 'makehuman', levels: int = 1) -> Stage:
  """`make_stage` of a head by its name or path. Raises UserError as `load_head`."""
  return make_stage(load_head(name), levels)


def make_stage(head: HeadModel, levels: int = 1) -> Stage:
  """Prepares a head model, subdivided `levels` times, for actors."""
  dense = densify(head, levels)
  regions = {
    name: np.asarray(dense.regions.get(name, np.zeros(len(dense.coarse_ids)))) for name in NAMES
  }
  smooth = rounding(head, dense)
  template = np.asarray(head.template, np.float64)
  place = (
    np.einsum('nkc,nk->nc', template[np.asarray(dense.coarse_ids)], np.asarray(dense.barycentric))
    + smooth @ template
  )
  spots = find_anatomy(head, place, regions)
  near_eyes = regions['eyeballs'] > 0.5
  centre = spots.eye * np.where(place[:, :1] > 0, [1, 1, 1], [-1, 1, 1])
  toward = (place - centre) / np.linalg.norm(place - centre, axis=1, keepdims=True)
  skin = np.maximum(regions['face'], regions['lids']) > 0.02
  # the mouth is shut in the template and would stay black when it opens; `draw_frame` lights it
  cavity = np.clip(regions['inner_mouth'] + regions['teeth'] + regions['tongue'], 0, 1)[:, None]
  normals = np.asarray(vertex_normals(jax.numpy.asarray(place, np.float32), dense.faces))
  transfer = transfer_vectors(place, dense.faces)
  transfer = transfer + cavity * (0.7 * sh_basis(normals) - transfer)
  faces = np.asarray(dense.faces)
  tooth = tooth_places(place, faces, regions['teeth'] > 0.5)
  labial = labial_faces(place, faces, tooth).astype(np.int32)
  assets = Assets(
    head=head,
    dense=dense,
    topology=Topology.from_faces(np.asarray(dense.faces)),
    skin_ids=np.flatnonzero(skin & ~near_eyes).astype(np.int32),
    eye=np.where(near_eyes[:, None], toward, 0).astype(np.float32),
    place=place.astype(np.float32),
    normals=normals,
    transfer=transfer.astype(np.float32),
    crown=np.array([0.0, spots.top - 0.012, spots.ear[2] - 0.045], np.float32),
    cavity=np.flatnonzero(cavity[:, 0] > 0.5).astype(np.int32),
    tooth=tooth,
    labial=labial,
    crowns=np.unique(labial).astype(np.int32),
    lips=inner_lips(head),
  )
  return Stage(jax.tree.map(jax.numpy.asarray, assets), spots, place, smooth, regions)


def find_anatomy(head: HeadModel, place: np.ndarray, regions: dict[str, np.ndarray]) -> Anatomy:
  """Where eyes, mouth, brows, chin and hairline are, metres, from regions and joints of the
  template [N, 3]."""
  x, y, z = place.T
  joint = lambda name: np.asarray(head.joint_template)[head.joint(name)].astype(np.float64)
  eye = joint('left_eye') * [np.sign(joint('left_eye')[0]), 1, 1]
  ball = (regions['eyeballs'] > 0.5) & (x > 0)
  lips = regions['lips'] > 0.5 * regions['lips'].max()
  lips &= z >= np.quantile(z[lips], 0.3)
  mouth = place[lips].mean(0) * [0, 1, 1]
  middle = (regions['face'] > 0.5) & (np.abs(x) < 0.006)
  best = lambda among: place[np.flatnonzero(among)[np.argmax(z[among])]] * [0, 1, 1]
  lips_low = y[lips].min()
  brow = (regions['brows'] * (x > 0))[:, None]
  ear = (regions['ears'] * (x > 0))[:, None]
  front = (regions['scalp'] > 0.5) & (np.abs(x) < 0.02) & (z > 0)
  return Anatomy(
    eye=eye,
    eye_radius=float(np.linalg.norm(place[ball] - eye, axis=1).max()),
    mouth=mouth,
    mouth_half=float(np.abs(x[lips]).max()),
    nose=best(middle & (y > y[lips].max() + 0.008) & (y < eye[1])),
    chin=best(middle & (y < lips_low - 0.006)),
    brow=(brow * place).sum(0) / brow.sum(),
    top=float(y.max()),
    hairline=float(y[front].min()) if front.any() else float(y.max()) - 0.04,
    ear=(ear * place).sum(0) / ear.sum(),
  )
