"""What CSIM (dlib) owes to its alignment: faces cut on MediaPipe's landmarks against faces cut on
dlib's own five points.

  python benchmarks/identity_alignment.py [PICTURE_OR_CLIP...] [--archives DIR] [-o out/benchmark_identity]

Needs `exp-jax setup --metrics`, of whose archive (in DIR, by default in the home) dlib reads its
five points and its network, and dlib-bin, without which nothing is measured. Without files it looks
at scikit-image's astronaut; of a clip every 40th frame counts, up to the 120th. Both ways see the
same picture; dlib finds the face by itself. Prints a table, leaves scores.json: cosine and distance
of the two descriptors, how far the points are apart (in distances of the eyes), and by how much the
cosine of two pictures changes.
"""

import argparse
import importlib.util
import json
import pathlib
import tempfile

import numpy as np
from skimage import data

from exp_jax.convert.foreign.pinned_archives import member
from exp_jax.convert.metric_weights.fetched import FACE_MODELS, FETCHED
from exp_jax.errors import UserError, exits_cleanly
from exp_jax.files.atomic import write_text
from exp_jax.files.resources import assets, metric_weights, setup_command
from exp_jax.fitting.coefficients import LandmarkFollower
from exp_jax.media.footage import is_image
from exp_jax.media.images import read_image
from exp_jax.media.video import read_frames
from exp_jax.metrics import faces
from exp_jax.metrics.motion import cosines
from exp_jax.metrics.networks import load_network
from exp_jax.observe.landmarks import FaceEstimator

_POINTS = 'face_recognition_models-0.3.0/face_recognition_models/models/shape_predictor_5_face_landmarks.dat'
_EVERY, _LAST = 40, 120


def pictures(path: pathlib.Path):
  """uint8 [H, W, 3], each with the name of its file."""
  if is_image(path):
    return [read_image(path)]
  return [frame for t, (frame, _) in zip(range(_LAST + 1), read_frames(path)) if t % _EVERY == 0]


def dlibs_own(archive: pathlib.Path):
  """(picture, a point of the face) -> (descriptor [128], points [5, 2] in our pixels), or None
  where dlib finds no face there."""
  import dlib

  with tempfile.TemporaryDirectory() as scratch:
    files = []
    for name in (_POINTS, FETCHED['identity_dlib'].member):
      files.append(pathlib.Path(scratch, pathlib.PurePosixPath(name).name))
      files[-1].write_bytes(member(archive, name, 2**26))
    predictor, network = (
      dlib.shape_predictor(str(files[0])),
      dlib.face_recognition_model_v1(str(files[1])),
    )
  detector = dlib.get_frontal_face_detector()

  def look(picture, inside):
    picture = np.ascontiguousarray(picture)
    boxes = [box for box in detector(picture, 1) if box.contains(dlib.point(*map(int, inside)))]
    if not boxes:
      return None
    shape = predictor(picture, boxes[0])
    return np.array(network.compute_face_descriptor(picture, shape)), np.array(
      [[p.x, p.y] for p in shape.parts()]
    ) + 0.5

  return look


@exits_cleanly
def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('files', nargs='*', type=pathlib.Path)
  parser.add_argument('--archives', type=pathlib.Path, default=assets() / 'wheels', metavar='DIR')
  parser.add_argument(
    '-o', '--output', type=pathlib.Path, default=pathlib.Path('out/benchmark_identity')
  )
  args = parser.parse_args()
  if not importlib.util.find_spec('dlib'):
    print('dlib is not there, so that nothing is measured: pip install dlib-bin==20.0.1.post1')
    return
  network, look = (
    load_network('identity_dlib', metric_weights()),
    dlibs_own(args.archives / FACE_MODELS.file),
  )
  if network is None:
    raise UserError(f'the network is not fetched: run {setup_command("--metrics")}')
  of, chips, theirs, apart, unseen = [], [], [], [], 0
  with FaceEstimator() as estimator:
    for path in args.files or [pathlib.Path('astronaut')]:
      for picture in pictures(path) if args.files else [data.astronaut()]:
        landmarks = LandmarkFollower(estimator, path.name)(picture[None])[0]
        found = look(picture, landmarks[:468].mean(0)) if np.isfinite(landmarks).all() else None
        if found is None:
          unseen += 1
          continue
        ours = landmarks[list(faces.DLIB_IDS)]
        eyes = np.linalg.norm(ours[:2].mean(0) - ours[2:4].mean(0))
        (
          of.append(path.name),
          chips.append(faces.dlib_cut(picture, landmarks)),
          theirs.append(found[0]),
        )
        apart.append(np.linalg.norm(ours - found[1], axis=-1).mean() / eyes)
  if not of:
    raise UserError('both must see a face in at least one picture')
  ours, theirs = network.run(np.stack(chips)), np.stack(theirs)
  first, second = np.triu_indices(len(of), 1)
  same = np.array([of[a] == of[b] for a, b in zip(first, second)], bool)
  pair, pair_dlib = cosines(ours[first], ours[second]), cosines(theirs[first], theirs[second])
  cosine, distance, moved = (
    cosines(ours, theirs),
    np.linalg.norm(ours - theirs, axis=-1),
    np.abs(pair - pair_dlib),
  )
  middle = lambda values, of_them, take: float(take(values[of_them])) if of_them.any() else None
  table = {
    'pictures': len(of),
    'without a face by one of them': unseen,
    'cosine, mean': cosine.mean(),
    'cosine, least': cosine.min(),
    'distance, mean': distance.mean(),
    'distance, most': distance.max(),
    'points apart, mean': float(np.mean(apart)),
    'cosine of pairs changes, mean': middle(moved, moved >= 0, np.mean),
    'most': middle(moved, moved >= 0, np.max),
    'pairs of one clip': int(same.sum()),
    'their cosine, mean': middle(pair, same, np.mean),
    'cosine of pairs of two files, median': middle(pair, ~same, np.median),
  }
  for name, value in table.items():
    print(
      f'{name:<40}{value if value is None or isinstance(value, int) else round(float(value), 4)}'
    )
  write_text(
    args.output / 'scores.json',
    json.dumps({n: v if v is None else float(v) for n, v in table.items()}, indent=1) + '\n',
  )


if __name__ == '__main__':
  main()
