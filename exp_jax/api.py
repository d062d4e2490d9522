"""exp_jax for programs: load a system, animate, fit; nothing is printed, and no state is kept but
what the caller holds.

import exp_jax
with exp_jax.load('expportrait', generator='embedded') as model:
  animation = model.animate('me.jpg', 'clip.mp4', progress=print)
  for frame in animation: ...                      # uint8 [H, W, 3]; or animation.save('out.mp4')
  print(animation.record)
subject = exp_jax.fit('me.jpg')                    # a personalized head, exp_jax.heads.Subject
"""

import os
from collections.abc import Callable

import numpy as np

from exp_jax import catalog
from exp_jax.errors import UserError
from exp_jax.fitting.offsets.options import OffsetOptions
from exp_jax.fitting.subject import fit_frames
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.personalized import Subject, save_subject
from exp_jax.observe.maps.map_sources import EMBEDDED, open_map_estimators
from exp_jax.performance.inputs import Footage, footage
from exp_jax.progress import Watch


def load(name: str = 'expportrait', **options):
  """A system, loaded: an object with `animate`, `estimate`, `warm_up`, `close`, and `Options`.

  Args:
    name: 'expportrait', 'liveportrait', 'loki' or 'magicportrait'.
    options: what is loaded; see `exp_jax.systems.<name>.animate.load`.

  Raises:
    UserError: no such system, or weights that are missing or damaged.
  """
  if name not in catalog.SYSTEMS:
    raise UserError(f'there is no system {name!r}; choose from {", ".join(catalog.SYSTEMS)}')
  return catalog.SYSTEMS[name].load(**options)


def fit(
  source: str | os.PathLike | np.ndarray | Footage,
  *,
  output: str | os.PathLike | None = None,
  rate: float = 25,
  size: int = 512,
  head: str | os.PathLike = 'makehuman',
  limit: int | None = None,
  face: int | None = None,
  offsets: OffsetOptions = OffsetOptions(),
  estimator: Callable | None = None,
  networks: str = EMBEDDED,
  progress: Callable[[str, int, int | None], None] | None = None,
  cancel: Callable[[], bool] | None = None,
) -> Subject:
  """A personalized head fitted to a picture or a clip.

  Args:
    source: a path, or uint8 RGB [H, W, 3] of a picture, [T, H, W, 3] of a clip.
    output: where to write the subject file (.npz), or None.
    rate: frames a second of an array.
    size: pixels of the square that is fitted.
    head: the head model.
    limit: use only so many frames.
    face: which face of the first frame, 0 the largest; None: the largest.
    offsets: of the static and dynamic offsets.
    estimator: image -> (faces [F, 478, 3], scores [F], matte [H, W]); None: MediaPipe.
    networks: that see normals and depth, as of `observe.maps.map_sources.open_map_estimators`.
    progress: called with (stage, done, total or None).
    cancel: asked at least every 0.1 s; when it answers true, `Cancelled` is raised and nothing is
      written.

  Raises:
    UserError: bad input, no face, or one that is too small.
    Cancelled: by `cancel`.
  """
  watch, clip = Watch(progress, cancel), footage(source, rate=rate)
  total = clip.count if limit is None or clip.count is None else min(limit, clip.count)
  frames = []
  for frame, _ in watch.each(clip.frames(), 'read', total):
    frames.append(frame)
    if len(frames) == limit:
      break
  model, see_maps = load_head(head), open_map_estimators(networks)
  fitted = watch.wait_for(
    lambda: fit_frames(
      np.stack(frames),
      name=clip.stem,
      rate=float(clip.rate),
      head=model,
      dense=densify(model, 1),
      size=size,
      options=offsets,
      estimator=estimator,
      face=face,
      map_estimators=see_maps,
    ),
    'fit',
  )
  if output is not None:
    save_subject(output, fitted.subject)
  return fitted.subject
