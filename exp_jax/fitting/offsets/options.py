"""What may be chosen of the offset stage."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class OffsetOptions:
  """Weights of the energies (spec sec. 3), steps of Adam; hashable, because it is compiled in."""

  steps: int = 160
  polish: int = 20  # of them after the mean has moved
  batch: int = 4
  static_rate: float = 2e-3  # metres, the largest step
  dynamic_rate: float = 2e-4
  smoothing: int = 6  # rounds on the coarse field
  fine_smoothing: int = 2
  landmarks: float = 3000.0  # of squared half heights: one pixel of 512 is 0.05
  # share of a static offset that landmarks go along with. They lie on flesh and under beards, which
  # nobody tells apart: at 1 they hold every relief down, at 0 the face drifts, since normals hardly
  # see how far it has come
  follow: float = 0.5
  normals: float = 1.0
  depth: float = 0.3
  silhouette: float = 1.0
  photometric: float = 2.0
  # share of it that moves geometry, where there are normals and once albedo and light have settled
  shading: float = 0.25
  expression: float = 1e-3
  shape: float = 15.0  # of what is added to the coarse fit's
  magnitude_static: float = 1e-3
  magnitude_face: float = 1e-2  # static offsets inside the face
  # static offsets across the normal: maps of normals hardly see them, and one that slides carries
  # the wrong wrinkle
  magnitude_tangent: float = 10.0
  picture_face: float = (
    0.1  # share of static offsets that a single picture has on the face; the paper's form is 0
  )
  magnitude_dynamic: float = 0.1
  laplacian: float = 0.1  # of what bends over the distance of two vertices
  laplacian_dynamic: float = 20.0  # one frame's estimates are noisy, the clip's mean is not
  zero_mean: float = 1.0
  temporal: float = 1e-2
  parameters: bool = True  # also refine shape, expression and pose
  dynamic: bool = True  # False, one frame, or no normals: static only
  disentangle: bool = True  # False: none of what keeps the two fields apart (for ablations)
