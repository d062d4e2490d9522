"""The fit of one frame of a person whose shape and focal length are known, again and again.

`fit_coarse_many` reads the head's landmarks off the model at every call, which a clip does not notice
and a camera does: it takes as long as the solution. Here that is done once.
"""

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.fitting.coarse.clips import clip_data
from exp_jax.fitting.coarse.coarse_fit import CoarseFit
from exp_jax.fitting.coarse.landmark_jacobian import landmark_corners
from exp_jax.fitting.coarse.solver import solve
from exp_jax.fitting.landmark_head import landmark_head
from exp_jax.heads.model import HeadModel
from exp_jax.observe.observation import Observation


class FrameSolver:
  """observation of one frame -> its fit, as `fit_coarse_many` gives it for known shape and focal.

  Args:
    head: with MediaPipe's landmarks.
    known: a fit of the person; its shape and focal length are kept.
  """

  def __init__(self, head: HeadModel, known: CoarseFit):
    self._head = landmark_head(head)
    self._corners = landmark_corners(self._head)
    self._shape, self._focal = np.asarray(known.shape), float(known.focal)

  def __call__(self, observation: Observation) -> CoarseFit:
    clip = clip_data(self._head, observation, length=1, shape=self._shape, focal=self._focal)
    stacked = jax.tree.map(lambda each: jnp.asarray(np.asarray(each)[None]), clip)
    size = observation.image_size
    fits = solve(self._corners, None, stacked, camera_size=size, known=True, sweeps=3, at_once=1)
    names = ('shape', 'expression', 'pose', 'translation', 'focal', 'error')
    values = jax.device_get({name: getattr(fits, name) for name in names})
    return CoarseFit(**{name: value[0] for name, value in values.items()}, image_size=size)
