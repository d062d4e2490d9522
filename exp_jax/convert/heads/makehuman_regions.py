"""Where the parts of the MakeHuman head are: soft region masks and a few anatomical landmarks.

Lips, lids, ears, mouth cavity and face come from the masks that are painted with the mesh; scalp,
neck, brows and clothing from distances measured on the template relative to its joints. Frame:
see heads/model.py.
"""

import numpy as np

from exp_jax.heads.regions import feather, polyline_distance, smooth_step


def regions(vertices, faces, weights, joints, parts, painted) -> dict[str, np.ndarray]:
  """Soft masks.

  Args:
    vertices: [V, 3] template, metres, head joint at the origin. faces: [F, 3]. weights: [V, J].
    joints: [J, 3] in the order spine, neck, head, jaw, left_eye, right_eye.
    parts: name -> [V] bool for eyes, teeth and tongue. painted: name -> [V] in 0..1.

  Returns:
    name -> [V] in 0..1.
  """
  x, y, z = vertices.T
  eyeballs = parts['helper-l-eye'] | parts['helper-r-eye']
  teeth, tongue = parts['helper-upper-teeth'] | parts['helper-lower-teeth'], parts['helper-tongue']
  skin = ~(eyeballs | teeth | tongue)
  inner = skin * (painted['inside-mouth'] > 0.5)
  outside = skin & (inner < 0.5)
  eye_y, eye_z = joints[4, 1], joints[4, 2]
  top = y[outside].max()
  on_head = weights[:, 2] + weights[:, 3] + weights[:, 4] + weights[:, 5]
  ears = outside * painted['ears']

  # the hairline: an ellipse over the forehead seen from the front, then round the ears and down to
  # the nape
  front = eye_y + 0.60 * (top - eye_y)
  # 0 at the forehead, 1 at the ear and behind it
  temple = np.clip((eye_z + 0.012 - z) / 0.10, 0, 1)
  hairline = front - 0.45 * (front - eye_y) * (np.abs(x) / 0.075) ** 2 * (1 - temple)
  hairline = hairline - (front - eye_y + 0.085) * smooth_step(temple, 0.55, 1.0)
  scalp = (
    smooth_step(y - hairline, -0.004, 0.010)
    * smooth_step(on_head, 0.35, 0.7)
    * outside
    * (1 - ears)
  )
  scalp = scalp * smooth_step(z - (eye_z - 0.035), 0.02, -0.015) + scalp * (
    y > front - 0.02
  ) * smooth_step(z - (eye_z - 0.035), -0.015, 0.02)

  shoulder = (
    joints[1, 1]
    + 0.015
    - 0.16 * np.clip(z - joints[1, 2], -0.02, 0.10)
    + 0.05 * smooth_step(joints[1, 2] - z, 0.0, 0.06)
  )
  clothing = smooth_step(shoulder - y, -0.004, 0.008) * outside
  neck = smooth_step(weights[:, 1] + weights[:, 0], 0.2, 0.6) * outside * (1 - clothing)
  # brows: an arch over each eye
  side = np.sign(x) * 1.0
  centre = np.stack([np.abs(joints[4, 0]) * side, np.full_like(x, eye_y)], -1)
  arch = np.array(
    [[-0.016, 0.0225], [-0.008, 0.026], [0.006, 0.029], [0.017, 0.0265], [0.024, 0.021]]
  )
  local = np.stack([(x - centre[:, 0]) * side, y - centre[:, 1]], -1)
  brows = smooth_step(polyline_distance(local, arch), 0.0055, 0.0015) * outside * (z > eye_z - 0.02)

  masks = {
    'face': painted['face'] * outside * (1 - ears),
    'ears': ears,
    'lips': painted['lips'] * outside,
    'lids': painted['eyelids'] * outside,
    'scalp': scalp,
    'clothing': clothing,
    'neck': neck,
    'brows': brows,
  }
  masks = {name: np.clip(feather(mask, faces, rounds=1), 0, 1) for name, mask in masks.items()}
  masks |= {'eyeballs': eyeballs, 'teeth': teeth, 'tongue': tongue, 'inner_mouth': inner}
  return {name: np.asarray(mask, np.float64) for name, mask in masks.items()}


def landmarks(vertices, faces, weights, masks):
  """A few points found by geometry: names, faces [K], barycentric [K, 3] (each is a vertex of its
  face)."""
  x, y, z = vertices.T
  lips, face = masks['lips'] > 0.3, (masks['face'] > 0.5) & (masks['inner_mouth'] < 0.5)
  middle = face & (np.abs(x) < 0.004)

  def best(score, among):
    return int(np.flatnonzero(among)[np.argmax(score[among])])

  nose = best(z, middle)
  chin_band = middle & (y < vertices[lips, 1].min() - 0.012)
  found = {'nose_tip': nose, 'chin': best(z, chin_band)}
  for name, side in (('left', 1), ('right', -1)):
    half = side * x > 0.002
    found[f'mouth_corner_{name}'] = best(side * x, lips & half)
    lids = (masks['lids'] > 0.3) & half
    found[f'eye_outer_{name}'] = best(side * x - 0.5 * np.abs(y - y[lids].mean()), lids)
    found[f'eye_inner_{name}'] = best(-side * x - 0.5 * np.abs(y - y[lids].mean()), lids)
    found[f'brow_{name}'] = best(masks['brows'], half)
    found[f'ear_{name}'] = best(side * x, (masks['ears'] > 0.5) & half)
  corners = np.zeros((len(found), 3))
  ids = []
  for k, vertex in enumerate(found.values()):
    face_id, corner = np.argwhere(faces == vertex)[0]
    ids.append(face_id)
    corners[k, corner] = 1
  return tuple(found), np.array(ids), corners
