import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.observe import landmarks
from exp_jax.observe.face_tiles import tile_levels


@pytest.mark.parametrize(
  'height, width', [(1365, 2048), (2160, 3840), (3000, 900), (801, 800), (4000, 6001)]
)
def test_every_face_lies_whole_in_a_tile_of_each_level(height, width):
  """Of any place and of up to half a tile's side, by comparison with all tiles."""
  rng = np.random.default_rng(0)
  levels = tile_levels(height, width)
  sides = [tiles[0][2] for tiles in levels]
  assert sides[0] == max(height, width) // 2 and all(b == a // 2 for a, b in zip(sides, sides[1:]))
  assert sides[-1] >= 400 > sides[-1] // 2
  for tiles in levels:
    side = tiles[0][2]
    assert all(0 <= top < height and 0 <= left < width for top, left, _ in tiles) and len(
      set(tiles)
    ) == len(tiles)
    size = side // 2 - 1
    for top, left in zip(
      rng.integers(0, max(1, height - size), 200), rng.integers(0, max(1, width - size), 200)
    ):
      assert any(
        t <= top
        and top + min(size, height) <= t + side
        and x <= left
        and left + min(size, width) <= x + side
        for t, x, _ in tiles
      ), (side, top, left)


def test_small_pictures_are_not_searched_again():
  assert (
    tile_levels(512, 512) == [] and tile_levels(480, 799) == [] and len(tile_levels(480, 800)) == 1
  )


def test_the_real_estimator_finds_small_faces_where_they_are():
  """The astronaut's face, pasted at a known place so that it has 4.6 and 2.3 % of the width; and
  none where there is none."""
  data, images = pytest.importorskip('skimage.data'), pytest.importorskip('PIL.Image')
  try:
    landmarks.interpreter()
  except UserError:
    pytest.skip('run `make setup` for the landmark estimator')
  astronaut = data.astronaut()
  with landmarks.FaceEstimator() as estimator:
    for scale, top, left in ((1.0, 426, 768), (0.5, 900, 1500)):
      picture = np.full((1365, 2048, 3), 128, np.uint8)
      side = int(512 * scale)
      picture[top : top + side, left : left + side] = np.asarray(
        images.fromarray(astronaut).resize((side, side))
      )
      points, _, matte = estimator(picture)
      assert points.shape == (1, 478, 3) and matte.shape == (1365, 2048)
      # Irises of the photograph, read off the enlarged picture; to 2 % of the face's width of 95
      # pixels.
      for number, x, y in ((468, 204, 101.5), (473, 247, 103.5)):
        np.testing.assert_allclose(
          points[0, number, :2], (left + scale * x, top + scale * y), atol=2
        )
    for name in ('coffee', 'brick'):
      still = np.asarray(
        images.fromarray(getattr(data, name)()).convert('RGB').resize((1400, 1000))
      )
      assert len(estimator(still)[0]) == 0, name
