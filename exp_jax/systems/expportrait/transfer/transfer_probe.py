"""Who can be recognised in a cross-driven normal map? A probe for what leaks from the driver.

Every person is driven by every other with faces of their own, seen from the front under one camera,
so that nothing but the dynamic offsets could tell the driver. Two linear classifiers are trained on
one half of the faces and asked about the
other, which are other expressions: one names the target from the map; one names the driver from
what the map differs by from the target's mean map (the attacker knows the target). Direct copy
shows that the probe sees what is there.
Letters: A people, K faces each, S pixels.
"""

import dataclasses

import numpy as np

from exp_jax.actors import sample_actor, sample_motion, still_motion
from exp_jax.actors.actor import truth
from exp_jax.controls.maps import control_maps
from exp_jax.controls.reenact import Motion
from exp_jax.systems.expportrait.transfer.network import Transfer
from exp_jax.systems.expportrait.transfer.transfer_data import ActorFaces

_RIDGE = 0.1  # of the mean feature energy


def accuracy(features: np.ndarray, labels: np.ndarray, train: np.ndarray) -> float:
  """Share of the rest that a ridge regression on one-hot labels names rightly. features [M, S],
  train [M] bool."""
  centre = features[train].mean(0)
  x, names = (
    (features - centre) / max(np.sqrt(((features[train] - centre) ** 2).mean()), 1e-9),
    np.eye(labels.max() + 1)[labels],
  )
  gram = x[train] @ x[train].T
  gram += _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
  answer = x[~train] @ (x[train].T @ np.linalg.solve(gram, names[train] - names[train].mean(0)))
  return float(np.mean(answer.argmax(1) == labels[~train]))


def probe(
  transfer: Transfer,
  faces: ActorFaces,
  *,
  seed: int,
  people: int = 8,
  frames: int = 24,
  size: int = 64,
) -> dict[str, float]:
  """Accuracies of naming target and driver, by transfer and by direct copy, and chance.

  Args:
    faces: of the seed `seed`, from which the people are drawn again with all they have.
    frames: faces of each driver, half of them to train on.
  """
  stage, head, dense = faces.stage, faces.head, faces.dense
  jaw = head.joint('jaw')
  cast = [
    truth(
      sample_actor(np.random.default_rng([seed, i]), stage), still_motion(head), stage, size=size
    )
    for i in range(people)
  ]
  moves = [
    [sample_motion(np.random.default_rng([11, j, k]), head, num_frames=1) for k in range(frames)]
    for j in range(people)
  ]
  maps, labels = {'transfer': [], 'direct copy': []}, []
  for i, target in enumerate(cast):
    seat = np.repeat(target.translation[:1] * [0, 0, 1], frames, 0)
    for j in range(people):
      expression = np.concatenate([m.expression for m in moves[j]])
      pose = np.zeros((frames, *target.pose.shape[1:]), np.float32)
      pose[:, jaw] = np.concatenate([m.pose[:, jaw] for m in moves[j]])
      motion = Motion(expression, pose, seat.astype(np.float32))
      copied = np.zeros((frames, faces.surface.count, 3), np.float32)
      copied[:, faces.surface.ids] = faces.offsets(j, expression)
      for method, dynamic in (
        ('transfer', transfer(target, expression, pose[:, jaw])),
        ('direct copy', copied),
      ):
        maps[method].append(control_maps(head, dense, target, motion, dynamic, size=size))
      labels.append((i, j))
  target, driver = np.repeat(np.array(labels), frames, 0).T
  train = np.tile(np.arange(frames) % 2 == 0, len(labels))
  scores = {'chance': 1 / people}
  for method, found in maps.items():
    features = np.concatenate(found).reshape(len(target), -1).astype(np.float32) / 255
    own = (
      features - np.stack([features[train & (target == i)].mean(0) for i in range(people)])[target]
    )
    scores[f'{method}: target named'] = accuracy(features, target, train)
    scores[f'{method}: driver named'] = accuracy(own, driver, train)
  return scores


def mirror_error(
  transfer: Transfer,
  faces: ActorFaces,
  order: np.ndarray,
  person: int,
  expression: np.ndarray,
  jaw: np.ndarray,
) -> float:
  """How far mirrored driving of the mirrored person is from the mirrored result, relative to its
  size.

  order [E]: `transfer_task.mirrored_expressions`. The network is asked at the mirrored places, so
  no vertex needs a partner.
  """
  seen, across = faces.neutral(person), np.array([-1, 1, 1], np.float32)
  plain = transfer.on_surface(seen, expression, jaw)
  turned = lambda one: dataclasses.replace(
    one, neutral=one.neutral * across, normals=one.normals * across
  )
  mirrored = dataclasses.replace(faces.surface, place=faces.surface.place * across)
  own, transfer.surface = transfer.surface, mirrored
  try:
    found = transfer.on_surface(turned(seen), expression[:, order], jaw * -across) * across
  finally:
    transfer.surface = own
  return float(np.linalg.norm(found - plain) / np.linalg.norm(plain))
