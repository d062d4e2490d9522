"""The derivative of an antialiased mask of one triangle, against that of its exact coverage of
every pixel.

  python benchmarks/antialias_truth.py

The rasterizer blends a pixel with its neighbour by where the one edge between them crosses
(`rendering/antialias.py`): the value follows the edge, but a pair of pixels knows one crossing and
no corner. A mask that is weighted smoothly has as its derivative by each corner an integral along
the edges. Here it is compared with differences of areas: every pixel's square is clipped against
the triangle, so that the truth knows corners and edges that cross a pair twice. Six places below a
pixel for each triangle.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.rendering import Topology, antialias, rasterize

SIZE, PLACES, STEP = 48, 6, 1e-3  # pixels; places; pixels that a corner is moved by
TRIANGLES = {
  '30 pixels': [[9, 10], [38, 14], [20, 41]],
  '33 long, 3 wide': [[8, 12], [39, 23], [37, 26]],
  '5 pixels': [[21, 20], [26, 22], [22, 25.5]],
}
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]
WEIGHTS = {
  'of one sign': 1 + 0.3 * np.sin(COLUMNS / 9.0) + 0.2 * np.cos(ROWS / 7.0 + 0.5),
  'of both signs': np.sin(COLUMNS / 9.0) + 0.7 * np.cos(ROWS / 7.0 + 0.5),
}


def area(corners: np.ndarray, column: int, row: int) -> float:
  """Of the triangle [3, 2], counter-clockwise, inside the square of a pixel: clipped by each of its
  sides."""
  polygon = np.array(
    [[column, row], [column + 1, row], [column + 1, row + 1], [column, row + 1]], float
  )
  for first, second in zip(corners, np.roll(corners, -1, 0)):
    edge, kept = second - first, []
    side = edge[0] * (polygon[:, 1] - first[1]) - edge[1] * (polygon[:, 0] - first[0])
    for i in range(len(polygon)):
      if side[i - 1] * side[i] < 0:
        kept.append(
          polygon[i - 1] + (polygon[i] - polygon[i - 1]) * side[i - 1] / (side[i - 1] - side[i])
        )
      if side[i] >= 0:
        kept.append(polygon[i])
    if len(kept) < 3:
      return 0.0
    polygon = np.array(kept)
  x, y = polygon.T
  return 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def truth(corners: np.ndarray, weights: np.ndarray) -> float:
  """Weighted sum of exact coverages."""
  (left, top), (right, bottom) = (
    np.floor(corners.min(0)).astype(int),
    np.ceil(corners.max(0)).astype(int),
  )
  return sum(
    weights[row, column] * area(corners, column, row)
    for row in range(top, bottom)
    for column in range(left, right)
  )


@jax.jit
def ours(corners, topology, weights):
  """(weighted sum of the antialiased mask, its derivative by the corners [3, 2])."""

  def value(corners):
    clip = jnp.concatenate([corners * 2 / SIZE - 1, jnp.zeros((3, 1)), jnp.ones((3, 1))], 1)
    fragments = rasterize(jax.lax.stop_gradient(clip), topology, (SIZE, SIZE))
    mask = (fragments.face_id >= 0).astype(jnp.float32)[..., None]
    return (weights * antialias(mask, clip, topology, fragments)[..., 0]).sum()

  return jax.value_and_grad(value)(corners)


def main() -> None:
  topology, rng = Topology.from_faces(np.array([[0, 1, 2]])), np.random.default_rng(0)
  print(
    '| triangle | value, off by | derivative at one place, off by (of its largest component) | '
    'mean of the places | its size |'
  )
  print('|---|---|---|---|---|')
  for (name, corners), (kind, weights) in itertools.product(TRIANGLES.items(), WEIGHTS.items()):
    values, found, expected = [], [], []
    for shift in rng.uniform(0, 1, (PLACES, 2)):
      moved = np.array(corners, float) + shift
      value, slope = ours(
        jnp.asarray(moved, jnp.float32), topology, jnp.asarray(weights, jnp.float32)
      )
      step = lambda k, axis: STEP * np.eye(6)[2 * k + axis].reshape(3, 2)
      exact = truth(moved, weights)
      values.append(abs(float(value) - exact) / truth(moved, np.abs(weights)))
      found.append(np.asarray(slope))
      expected.append(
        [
          [
            (truth(moved + step(k, a), weights) - truth(moved - step(k, a), weights)) / (2 * STEP)
            for a in (0, 1)
          ]
          for k in range(3)
        ]
      )
    found, expected = np.array(found), np.array(expected)
    off = np.abs(found - expected).max((1, 2)) / np.abs(expected).max((1, 2))
    mean = np.abs(found.mean(0) - expected.mean(0)).max() / np.abs(expected.mean(0)).max()
    sizes = (np.linalg.norm(found, axis=(1, 2)) / np.linalg.norm(expected, axis=(1, 2))).mean() - 1
    cells = (
      f'{100 * max(values):.1f} %',
      f'{100 * off.min():.0f} to {100 * off.max():.0f} %',
      f'{100 * mean:.0f} %',
      f'{100 * sizes:+.0f} %',
    )
    print(f'| {name}, weights {kind} | {" | ".join(cells)} |')


if __name__ == '__main__':
  main()
