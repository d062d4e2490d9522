"""Landmarks from the JSON files that Sapiens pose estimation (308 keypoints) leaves.

Only the JSON is read; the networks (CC-BY-NC-4.0) run elsewhere. `POINTS` is the part of the 308
names that
means one and the same place in MediaPipe's mesh: ends and middles of lids, brows, lips and nose,
irises. Numbered midpoints whose order along the line is not documented are left out, and are
counted. Left and right are the person's in both numberings.
"""

import hashlib
import json
import os
import pathlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.observe.observation import NUM_POINTS, Observation, make_observation

COUNT = 308
POINTS = {  # Sapiens' name -> (its index, MediaPipe's index)
  'center_of_glabella': (70, 9), 'center_of_nose_root': (71, 168),
  'upper_startpoint_of_r_eyebrow': (78, 107), 'lower_startpoint_of_r_eyebrow': (79, 55),
  'upper_startpoint_of_l_eyebrow': (87, 336), 'lower_startpoint_of_l_eyebrow': (88, 285),
  'end_of_r_eyebrow': (80, 46), 'end_of_l_eyebrow': (89, 276),
  'l_inner_end_of_upper_lash_line': (96, 362), 'l_outer_end_of_upper_lash_line': (97, 263),
  'l_centerpoint_of_upper_lash_line': (98, 386), 'l_centerpoint_of_lower_lash_line': (146, 374),
  'r_inner_end_of_upper_lash_line': (120, 133), 'r_outer_end_of_upper_lash_line': (121, 33),
  'r_centerpoint_of_upper_lash_line': (122, 159), 'r_centerpoint_of_lower_lash_line': (163, 145),
  'tip_of_nose': (178, 1), 'bottom_center_of_nose': (179, 2),
  'r_outer_corner_of_nose': (180, 129), 'l_outer_corner_of_nose': (181, 358),
  'r_outer_corner_of_mouth': (188, 61), 'l_outer_corner_of_mouth': (189, 291),
  'center_of_cupid_bow': (190, 0), 'center_of_lower_outer_lip': (191, 17),
  'r_inner_corner_of_mouth': (204, 78), 'l_inner_corner_of_mouth': (205, 308),
  'center_of_upper_inner_lip': (206, 13), 'center_of_lower_inner_lip': (207, 14),
  'l_center_of_iris': (272, 473), 'l_border_of_iris_12': (275, 475), 'l_border_of_iris_6': (279, 477),
  'r_center_of_iris': (281, 468), 'r_border_of_iris_12': (284, 470), 'r_border_of_iris_6': (288, 472),
  'tip_of_chin': (77, 152)}  # fmt: skip
_FACE = range(70, COUNT)


def read_sapiens(
  path: str | os.PathLike,
  *,
  image_size: tuple[int, int],
  name: str,
  person: int = 0,
  least_score: float = 0.3,
) -> Observation:
  """Landmarks of one person in all frames.

  Args:
    path: a folder with one JSON a frame (in the order of their names), each with `instance_info`, a
      list of people with `keypoints` [308, 2] pixels and `keypoint_scores` [308]; or one JSON whose
      `instance_info` is a list of frames with `instances`.
    image_size: (height, width) of the pictures that the keypoints refer to.
    person: which one of each frame, 0 the one with the largest box.
    least_score: below it a keypoint is not believed; a frame without twelve believed ones has no
      face.

  Returns:
    an Observation whose trust is 0 for the points that Sapiens does not have, with a count in
    `warnings`.

  Raises:
    UserError: no files, not this JSON, or no face in any frame.
  """
  path = pathlib.Path(path)
  texts = sorted(path.glob('*.json')) if path.is_dir() else [path]
  if not texts or not all(p.is_file() for p in texts):
    raise UserError(f'no Sapiens JSON at {path}; give the file, or the folder of one file a frame')
  frames, digest = [], hashlib.sha256()
  for text in texts:
    content = text.read_bytes()
    digest.update(content)
    frames += _frames(content, text)
  places = np.array([p for p, _ in POINTS.values()])
  targets = np.array([m for _, m in POINTS.values()])
  points = np.full((len(frames), NUM_POINTS, 2), np.nan, np.float32)
  trust = np.zeros((len(frames), NUM_POINTS), np.float32)
  for t, people in enumerate(frames):
    people = sorted(people, key=lambda one: -np.ptp(one[0][_FACE], axis=0).max())
    if person < len(people):
      places_of, scores = people[person]
      believed = np.clip(scores[places], 0, 1) * (scores[places] >= least_score)
      points[t, targets], trust[t, targets] = places_of[places], believed
  found = (trust > 0).sum(1) >= 12
  warning = (
    f'{name}: {len(POINTS)} of the {len(_FACE)} face points of Sapiens are used, '
    f'{len(_FACE) - len(POINTS)} have no agreed place on the head'
  )
  credit = {
    'estimator': 'Sapiens 308 keypoints (JSON)',
    'licence': 'CC-BY-NC-4.0',
    'digest': digest.hexdigest(),
  }
  return make_observation(
    points,
    found=found,
    trust=trust,
    image_size=image_size,
    estimator=credit['estimator'],
    name=name,
    provenance={'points': credit},
    warnings=(warning,),
  )


def _frames(content: bytes, text: pathlib.Path) -> list[list[tuple[np.ndarray, np.ndarray]]]:
  """The people of each frame in one JSON: keypoints [308, 2] and scores [308]."""
  try:
    info = json.loads(content)['instance_info']
    groups = [f['instances'] for f in info] if info and 'instances' in info[0] else [info]
    found = [
      [
        (np.array(one['keypoints'], np.float32), np.array(one['keypoint_scores'], np.float32))
        for one in people
      ]
      for people in groups
    ]
  except (ValueError, KeyError, TypeError, AttributeError, IndexError):
    raise UserError(
      f'{text} is not JSON of Sapiens keypoints (instance_info with keypoints and keypoint_scores)'
    ) from None
  for points, scores in (one for people in found for one in people):
    if points.shape != (COUNT, 2) or scores.shape != (COUNT,):
      raise UserError(
        f'{text} has keypoints {list(points.shape)}, the 308 keypoints of Sapiens are '
        'needed; run its model with 308 keypoints'
      )
  return found
