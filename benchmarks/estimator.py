"""How well the map network sees heads it never saw: normals, parts, and how much it knows of its
own errors.

  python -m exp_jax.estimator -o out/estimator/held_out --people 64 --pictures 2 --seed 8
  python benchmarks/estimator.py out/estimator/held_out out/estimator/export [--sheet out/maps.png]

Seed 8 draws people that training (seed 7) does not. Each picture is seen as it is (clean) and as
training spoils it (spoilt). Face: skin, lids and lips, where the surface faces the camera (cosine
above 0.2). Over all pictures:

  degrees      mean angle on the face, and of the worst tenth of the pictures
  share        of the face's pixels below 11.25 degrees
  fine, middle, broad   correlation of what of the normals is finer than 6 mm, between 6 and 15, between 15 and 40 mm
  hair, cloth  mean angle there, degrees
  parts        intersection over union of skin, hair, cloth, background
  sureness     rank correlation of the expected with the actual angle over the face's pixels
  expected     mean expected angle, degrees: what it says of itself
  constant     mean angle on the face of the best constant normal of each picture, for comparison

Leaves docs/results/figures/estimator.json.
"""

import argparse
import os
import pathlib

import numpy as np
import scipy.ndimage
import scipy.stats
from record import Column, write_record

from exp_jax.estimator.spoil import spoil
from exp_jax.estimator.task import Pictures
from exp_jax.fitting.landmark_head import inter_ocular
from exp_jax.media.images import contact_sheet, write_image
from exp_jax.networks.face_maps import PARTS
from exp_jax.observe.maps.face_maps import FaceMapEstimator

_FACE = [PARTS.index(part) for part in ('skin', 'lids', 'lips')]
# millimetres between the outer corners of the eyes, and from the brow's middle to the chin
_EYES, _HEIGHT = 90.0, 150.0
COLUMNS = [
  Column('pictures_are', 'pictures'),
  Column('degrees', 'face', 'degrees', 1),
  Column('worst_tenth', 'worst tenth of the pictures', 'degrees', 1),
  Column('constant', 'a constant normal', 'degrees', 1),
  Column('fine', 'finer than 6 mm', 'correlation', 2),
  Column('middle', '6 to 15 mm', 'correlation', 2),
  Column('broad', '15 to 40 mm', 'correlation', 2),
  Column('hair', 'hair', 'degrees', 1),
  Column('cloth', 'cloth', 'degrees', 1),
  Column('iou_background', 'background', 'IoU', 2),
  Column('iou_skin', 'skin', 'IoU', 2),
  Column('iou_hair', 'hair', 'IoU', 2),
  Column('iou_cloth', 'cloth', 'IoU', 2),
  Column('expected', 'expected angle', 'degrees', 1),
  Column('sureness', 'rank correlation of expected and actual angle', '', 2),
]
_BANDS = {'fine': (0, 6), 'middle': (6, 15), 'broad': (15, 40)}


def scale_of(points: np.ndarray) -> float:
  """Millimetres of a pixel, by landmarks [478, 2]; turned heads are foreshortened along one of two
  lines."""
  return min(
    _EYES / max(float(inter_ocular(points)), 1e-3),
    _HEIGHT / max(float(np.linalg.norm(points[10] - points[152])), 1e-3),
  )


def band(normals: np.ndarray, mask: np.ndarray, low: float, high: float) -> np.ndarray:
  """What of the normals [S, S, 3] lies between two sizes, pixels, comparing like with like inside
  the mask only."""

  def blurred(size):
    if size <= 0:
      return normals
    blur = lambda x: scipy.ndimage.gaussian_filter(x, (size / 2.355, size / 2.355, 0)[: x.ndim])
    return (
      blur(normals * mask[..., None]) / np.maximum(blur(mask.astype(np.float32)), 1e-3)[..., None]
    )

  return blurred(low) - blurred(high)


def judge(
  estimator: FaceMapEstimator, example: dict, points: np.ndarray
) -> tuple[dict, np.ndarray]:
  """Figures of one picture as `spoil` leaves it, and the normals that were seen."""
  seen, parts = estimator.maps(example['image'])
  truth = example['normals'].astype(np.float32) * np.float32([1, -1, -1])
  angle = np.degrees(np.arccos(np.clip((seen['normals'] * truth).sum(-1), -1, 1)))
  known = example['known'] > 0
  face = known & np.isin(example['parts'], _FACE) & (truth[..., 2] > 0.2)
  row = {'face_pixels': int(face.sum())}
  if face.sum() < 200:
    return row, seen['normals']
  mean = truth[face].mean(0)
  row |= {
    'degrees': float(angle[face].mean()),
    'share': float((angle[face] < 11.25).mean()),
    'constant': float(
      np.degrees(np.arccos(np.clip(truth[face] @ (mean / np.linalg.norm(mean)), -1, 1))).mean()
    ),
    'expected': float(np.degrees(seen['expected'][face]).mean()),
    'sureness': float(scipy.stats.spearmanr(seen['expected'][face], angle[face])[0]),
  }
  for name, (low, high) in _BANDS.items():
    pixels = [size / scale_of(points) for size in (low, high)]
    a, b = (band(each, face, *pixels)[face].ravel() for each in (seen['normals'], truth))
    row[name] = float(np.corrcoef(a, b)[0, 1])
  for name in ('hair', 'cloth'):
    there = known & (example['parts'] == PARTS.index(name)) & (truth[..., 2] > 0.2)
    row[name] = float(angle[there].mean()) if there.sum() > 100 else float('nan')
  guess, inside = parts.argmax(-1), example['inside'] > 0
  for name in ('background', 'skin', 'hair', 'cloth'):
    wanted = _FACE if name == 'skin' else [PARTS.index(name)]
    a, b = np.isin(guess, wanted) & inside, np.isin(example['parts'], wanted) & inside
    row[f'iou_{name}'] = (
      float((a & b).sum() / max((a | b).sum(), 1)) if b.sum() > 100 else float('nan')
    )
  return row, seen['normals']


def summed_up(rows: list[dict]) -> dict:
  rows = [row for row in rows if 'degrees' in row]
  names = [name for name in rows[0] if name != 'face_pixels']
  summary = {name: float(np.nanmean([row[name] for row in rows])) for name in names}
  worst = sorted(row['degrees'] for row in rows)[-max(1, len(rows) // 10) :]
  return {
    'pictures': len(rows),
    'degrees': summary.pop('degrees'),
    'worst_tenth': float(np.mean(worst)),
  } | summary


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('pictures', help='folder of `python -m exp_jax.estimator`')
  parser.add_argument('network', help='an export of task estimator/face_maps')
  parser.add_argument(
    '--side',
    type=int,
    help="pixels of the network's square (default: 4/3 of those it was trained on)",
  )
  parser.add_argument('--count', type=int, default=128, help='pictures (default 128)')
  parser.add_argument('--sheet', type=pathlib.Path)
  options = parser.parse_args()
  before = os.getloadavg()[0]
  estimator, source = (
    FaceMapEstimator(options.network, side=options.side),
    Pictures(options.pictures),
  )
  summary, sheet = {}, []
  paint = lambda normals, mask: np.uint8(
    np.clip(127.5 * (normals + 1), 0, 255) * (mask > 0)[..., None]
  )
  for kind, wild in (('clean', False), ('spoilt', True)):
    rows = []
    for index in range(min(options.count, len(source))):
      stored = source[index]
      example = spoil(stored, np.random.default_rng((8, index)), estimator.side, wild=wild)
      row, normals = judge(
        estimator, example, stored['landmarks'] * estimator.side / len(stored['image'])
      )
      rows.append(row)
      if len(rows) <= 12:
        truth = example['normals'].astype(np.float32) * np.float32([1, -1, -1])
        sheet += [
          example['image'],
          paint(truth, example['known']),
          paint(normals, example['inside']),
        ]
    summary[kind] = summed_up(rows)
    print(
      f'{kind}: ' + ', '.join(f'{name} {value:.3f}' for name, value in summary[kind].items()),
      flush=True,
    )
  rows = [{'pictures_are': kind} | row for kind, row in summary.items()]
  print(write_record('estimator', COLUMNS, rows, load=(before, os.getloadavg()[0])))
  if options.sheet:
    write_image(options.sheet, contact_sheet(sheet, columns=6))


if __name__ == '__main__':
  main()
