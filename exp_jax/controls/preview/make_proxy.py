"""The textured preview: a portrait's own pixels on its fitted head, re-posed, over its inpainted
background.

No network is involved, so it can be looked at before any training. Three layers, far to near:

  background   the portrait with the person taken out and the hole filled smoothly; it never moves
  cut-out      a fine grid over the person's matte at the fitted depth: hair, clothes, everything the head model
               does not have. It follows the joints of the nearest skin, and the skin's own
               deformation near it
  head         the fitted dense mesh: the photograph where the portrait showed the surface, mirrored and diffused
               colour where it did not, painted eyeballs, teeth and mouth cavity where lips and lids
               uncover them

The two moving layers agree wherever the portrait showed skin, so no seam is visible between them.
Letters: H, W image, N dense vertices, J joints, G grid points.
"""

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.controls.mouth import shown_edge, tooth_places, tooth_share, tooth_shift
from exp_jax.controls.preview.cut_out import inpaint_background, make_grid, person_colours
from exp_jax.controls.preview.make_texture import make_texture
from exp_jax.controls.preview.proxy import Proxy, with_teeth
from exp_jax.geometry import Camera, clip_coordinates, project
from exp_jax.heads.densify import Dense
from exp_jax.media.matte import refined_matte
from exp_jax.rendering import Topology, rasterize

_FITTED_TEETH = (
  0.003  # metres by which teeth are moved to end where those of the portrait do, at most
)
_rasterize = jax.jit(rasterize, static_argnums=2)  # one program for all portraits


def make_proxy(
  photo: np.ndarray,
  matte: np.ndarray,
  mouth: np.ndarray,
  *,
  dense: Dense,
  template: np.ndarray,
  vertices: jax.Array,
  transforms: jax.Array,
  camera: Camera,
  eye_centers: np.ndarray,
  lips: tuple | None = None,
  rims: tuple | None = None,
  shut: jax.Array | None = None,
) -> Proxy:
  """Prepares a portrait.

  Args:
    photo: [H, W, 3] uint8 crop that the head was fitted in; H and W are camera.image_size.
    matte: [H, W] uint8 person matte.
    mouth: [H, W] bool, the opening between the lips (`portrait.mouth_opening`).
    dense: the dense head.
    template: [N, 3] its rest vertices, for mirroring and for the eyes' painted irises.
    vertices: [N, 3] posed as in the portrait, static and dynamic offsets included.
    transforms: [J, 4, 4] rest-relative joint transforms of that pose.
    camera: the fitted camera.
    eye_centers: [2, 3] left and right eye joint in rest coordinates.
    lips: of `mouth.inner_lips`; rims: of `skin.rims_of`; None for heads without such landmarks.
    shut: [N, 3] `vertices` with the eyes shut, where the skin that then comes out can be seen;
      None: it is not known.
  """
  photo, coarse = photo.astype(np.float32) / 255, matte.astype(np.float32) / 255
  matte = refined_matte(photo, coarse)
  topology = Topology.from_faces(np.asarray(dense.faces))
  teeth, shift = _teeth_in_place(photo, mouth, dense, template, vertices, transforms, camera, lips)
  vertices = with_teeth(vertices, transforms, dense.weights, teeth, shift)
  clip = clip_coordinates(vertices, camera)
  fragments = _rasterize(clip, topology, camera.image_size)
  texture, tooth = make_texture(
    photo,
    matte,
    mouth,
    dense=dense,
    template=template,
    vertices=vertices,
    camera=camera,
    topology=topology,
    fragments=fragments,
    eye_centers=eye_centers,
    lips=lips,
    rims=rims,
    shut=shut,
  )
  background = inpaint_background(photo, np.maximum(coarse, matte))
  return Proxy(
    photo=jnp.asarray(np.concatenate([photo, tooth[..., None]], -1)),
    teeth=teeth,
    teeth_shift=shift,
    cut_out=jnp.asarray(person_colours(photo, matte, background)),
    background=jnp.asarray(background),
    texture=texture,
    topology=topology,
    camera=camera,
    weights=dense.weights,
    reference_vertices=vertices,
    reference_transforms=transforms,
    **make_grid(
      photo,
      matte,
      dense=dense,
      vertices=vertices,
      opacity=np.asarray(texture.opacity()),
      camera=camera,
      clip=clip,
      topology=topology,
      fragments=fragments,
    ),
  )


@jax.jit
def _posed_teeth(
  vertices, transforms, weights, teeth, shift, camera
) -> tuple[jax.Array, jax.Array]:
  """[M, 3] metres and [M, 2] pixels of the teeth, shifted."""
  posed = with_teeth(vertices, transforms, weights, teeth, shift)
  return posed, project(posed, camera)[0]


def _teeth_in_place(
  photo, mouth, dense, template, vertices, transforms, camera, lips
) -> tuple[jax.Array, jax.Array]:
  """Vertices of teeth [M] and their shift at rest [M, 3]: as people show teeth, and where the
  portrait shows them, as it does."""
  region = np.asarray(dense.regions.get('teeth', np.zeros(len(template)))) > 0.5
  ids = np.flatnonzero(region)
  places = tooth_places(template, np.asarray(dense.faces), region)
  shift = tooth_shift(template, places, lips)[ids]
  teeth = jnp.asarray(ids, jnp.int32)
  front = np.flatnonzero((places[:, 2] > 0) & (np.abs(places[:, 0]) < 9) & (places[:, 1] < 1.5))
  if mouth.any() and len(front) and lips is not None:
    pixels = np.asarray(project(vertices, camera)[0])
    face = pixels[np.asarray(dense.regions['face']) > 0.5].astype(int)
    face = face[((face >= 0) & (face < photo.shape[1::-1])).all(-1)]
    skin = np.median(photo[face[:, 1], face[:, 0]], axis=0) if len(face) else np.full(3, 0.6)
    posed, edge = (
      np.asarray(each)[front]
      for each in _posed_teeth(vertices, transforms, dense.weights, teeth, shift, camera)
    )
    row = shown_edge(tooth_share(photo, skin) * mouth, (edge[:, 0].min(), edge[:, 0].max()))
    if row is not None:
      lower = (row - edge[:, 1].max()) * float(-posed[:, 2].mean() / np.asarray(camera.focal)[1])
      shift[places[ids, 2] > 0, 1] -= np.clip(lower, -_FITTED_TEETH, _FITTED_TEETH)
  return teeth, jnp.asarray(shift)
