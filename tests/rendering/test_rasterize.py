"""The rasterizer against an integer brute-force z-buffer, and against itself computed in other
ways.
"""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes_for_tests import brute_force, bumpy_head, front_camera, soup

from exp_jax.geometry import clip_coordinates
from exp_jax.rendering import Topology, rasterize
from exp_jax.rendering.clipping import clip_polygons, guard_planes
from exp_jax.rendering.streams import stream_of, visit_all

SIZE = (45, 70)


@functools.partial(jax.jit, static_argnames=('image_size', 'method', 'chunk', 'near', 'cull'))
def compiled(clip, faces, *, image_size, method, chunk, near, cull):
  nothing = jnp.zeros((0, 2), jnp.int32)
  topology = Topology(faces=faces, edges=nothing, edge_faces=nothing)
  return rasterize(clip, topology, image_size, method=method, chunk=chunk, near=near, cull=cull)


def drawn(clip, faces, *, image_size=SIZE, method='scatter', chunk=4096, near=1e-3, cull='none'):
  """`rasterize`, with V and F padded to few sizes (by faces without area) so that tests share
  compilations.
  """
  pad = lambda rows: jnp.pad(jnp.asarray(rows), ((0, -len(rows) % 1500), (0, 0)))
  clip, faces = pad(clip), pad(np.asarray(faces, np.int32))
  options = dict(image_size=image_size, method=method, chunk=chunk, near=near, cull=cull)
  return compiled(clip, faces, **options)


def assert_same(one, other):
  np.testing.assert_array_equal(one.face_id, other.face_id)
  np.testing.assert_array_equal(one.inv_w, other.inv_w)


def assert_matches_brute_force(clip, faces, image_size, **options):
  found = drawn(clip, faces, image_size=image_size, **options)
  ids, near, _ = brute_force(clip, faces, image_size)
  np.testing.assert_array_equal(found.face_id, ids)
  # 1/w is a float32 sum of three products of float32 weights.
  np.testing.assert_allclose(found.inv_w, near, rtol=2e-6)
  assert (ids >= 0).mean() > 0.1


@pytest.mark.long
@pytest.mark.parametrize('rings, sectors, image_size', [(9, 14, SIZE), (60, 80, (96, 64))])
def test_heads_equal_brute_force(rings, sectors, image_size):
  vertices, faces = bumpy_head(rings, sectors)
  clip = np.asarray(clip_coordinates(vertices, front_camera(image_size)))
  assert_matches_brute_force(clip, faces, image_size)


@pytest.mark.parametrize('size', [0.05, 0.6, 3.0])
def test_soups_equal_brute_force(size):
  clip, faces = soup(np.random.default_rng(3), 300, SIZE, size=size)
  assert_matches_brute_force(clip, faces, SIZE)


def test_needles_equal_brute_force():
  """Slivers a hundredth of a pixel wide, and wedges from a point, in all directions."""
  rng = np.random.default_rng(11)
  turn = rng.uniform(0, 2 * np.pi, 400)
  along = np.stack([np.cos(turn), np.sin(turn)], -1) * rng.uniform(0.1, 2, (400, 1))
  start = rng.uniform(-1, 1, (400, 2))
  wide = rng.choice([3e-4, 3e-3, 3e-2], (400, 1)) * rng.normal(size=(400, 2))
  xy = np.stack([start, start + along, start + along + wide], 1).reshape(-1, 2)
  w = rng.uniform(0.3, 2.0, (1200, 1))
  clip = np.concatenate([xy * w, w, w], -1).astype(np.float32)
  assert_matches_brute_force(clip, np.arange(1200).reshape(-1, 3), SIZE)


@pytest.mark.long
def test_back_faces_are_culled():
  """As brute force of the front faces alone; those are counter-clockwise as one sees them."""
  clip, faces = soup(np.random.default_rng(3), 300, SIZE, size=0.6)
  a, b, c = (clip[faces[:, k], :2] / clip[faces[:, k], 3:] for k in range(3))
  (ux, uy), (vx, vy) = (b - a).T, (c - a).T
  front = ux * vy - uy * vx < 0  # y points down
  assert 0.3 < front.mean() < 0.7
  found = drawn(clip, faces, cull='back')
  ids, _, _ = brute_force(clip, faces[front], SIZE)
  np.testing.assert_array_equal(found.face_id, np.where(ids < 0, -1, np.flatnonzero(front)[ids]))
  vertices, faces = bumpy_head(9, 14)
  clip = np.asarray(clip_coordinates(vertices, front_camera(SIZE)))
  closed = drawn(clip, faces, cull='back')
  np.testing.assert_array_equal(closed.face_id, drawn(clip, faces).face_id)


def test_a_triangle_that_overflows_one_limb_is_exact():
  """Larger than 2^15 sub-pixels: plain int32 edge functions would wrap round."""
  image_size = (500, 600)
  clip = np.array([[-0.9, -0.95, 1, 1], [0.97, -0.6, 1, 1.0], [0.1, 0.93, 1, 1.0]], np.float32)
  assert_matches_brute_force(clip, np.array([[0, 1, 2]]), image_size)


@pytest.mark.long
@pytest.mark.parametrize('seed', range(3))
def test_tilings_cover_each_pixel_once(seed):
  """Vertices and edges on pixel centres and borders, random windings and depths."""
  rng = np.random.default_rng(seed)
  height, width = 16, 24
  x, y = np.meshgrid(np.arange(0, 2 * width + 1), np.arange(0, 2 * height + 1))  # half pixels
  keep_x = np.sort(np.r_[0, rng.choice(np.arange(1, 2 * width), 17, replace=False), 2 * width])
  keep_y = np.sort(np.r_[0, rng.choice(np.arange(1, 2 * height), 11, replace=False), 2 * height])
  x, y = np.meshgrid(keep_x / width - 1, keep_y / height - 1)
  rows, columns = x.shape
  i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing='ij')
  a = (i * columns + j).reshape(-1)
  b, c, d = a + 1, a + columns + 1, a + columns
  diagonal = rng.random(len(a)) < 0.5
  one = np.where(diagonal[:, None], np.stack([a, b, c], -1), np.stack([a, b, d], -1))
  two = np.where(diagonal[:, None], np.stack([a, c, d], -1), np.stack([b, c, d], -1))
  faces = np.concatenate([one, two])
  faces = np.where(rng.random((len(faces), 1)) < 0.5, faces, faces[:, ::-1])
  xy = np.stack([x, y], -1).reshape(-1, 2)
  clip = np.concatenate([xy, np.ones((len(xy), 2))], -1).astype(np.float32)
  times = np.zeros((height, width), int)
  for part in np.array_split(faces, 4) if seed == 0 else [faces]:
    found = drawn(clip, part, image_size=(height, width))
    times += np.asarray(found.face_id >= 0)
  assert (times == 1).all()
  # One by one: no pixel is claimed twice either.
  assert (brute_force(clip, faces, (height, width))[2] == 1).all()
  found = drawn(clip, faces, image_size=(height, width))
  np.testing.assert_array_equal(found.face_id, brute_force(clip, faces, (height, width))[0])


def test_order_of_faces_changes_nothing():
  clip, faces = soup(np.random.default_rng(5), 200, SIZE, size=0.3)
  shuffle = np.random.default_rng(6).permutation(len(faces))
  plain = drawn(clip, faces)
  mixed = drawn(clip, faces[shuffle])
  np.testing.assert_array_equal(plain.inv_w, mixed.inv_w)
  named = np.where(mixed.face_id < 0, -1, shuffle[np.maximum(mixed.face_id, 0)])
  np.testing.assert_array_equal(plain.face_id, named)


@pytest.mark.parametrize('chunk, method', [(4096, 'scatter'), (64, 'sort')])
def test_equally_near_faces_show_the_lowest_index(chunk, method):
  """Also where they come in different chunks."""
  vertices, faces = bumpy_head(5, 7)
  clip = np.asarray(clip_coordinates(vertices, front_camera(SIZE)))
  thrice = drawn(clip, np.concatenate([faces, faces, faces]), chunk=chunk, method=method)
  np.testing.assert_array_equal(thrice.face_id, brute_force(clip, faces, SIZE)[0])
  backwards = drawn(clip, np.concatenate([faces[::-1], faces]), chunk=chunk, method=method)
  expected = brute_force(clip, faces[::-1], SIZE)[0]
  np.testing.assert_array_equal(backwards.face_id, expected)


@pytest.mark.long
@pytest.mark.parametrize(
  'chunk, method',
  [(37, 'scatter'), (1000, 'scatter'), (100_000, 'scatter'), (64, 'sort'), (4096, 'sort')],
)
def test_chunks_and_methods_agree(chunk, method):
  small, small_faces = bumpy_head(30, 40)
  clip = np.asarray(clip_coordinates(small, front_camera(SIZE)))
  large, large_faces = soup(np.random.default_rng(7), 20, SIZE, size=2.0)
  clip = np.concatenate([clip, large])
  faces = np.concatenate([small_faces, large_faces + len(small)])
  assert_same(drawn(clip, faces), drawn(clip, faces, chunk=chunk, method=method))


@pytest.mark.long
def test_vmaps_equal_loops_and_nest():
  vertices, faces = bumpy_head(11, 13)
  topology = Topology.from_faces(faces)
  scales = jnp.array([[1.0, 0.7, 0.1], [5.0, 0.4, 0.9]])
  clip_of = lambda s: clip_coordinates(vertices * s, front_camera(SIZE))
  together = jax.jit(jax.vmap(jax.vmap(lambda s: rasterize(clip_of(s), topology, SIZE))))(scales)
  for i in range(2):
    for j in range(3):
      single = drawn(clip_of(scales[i, j]), faces)
      np.testing.assert_array_equal(together.face_id[i, j], single.face_id)
      np.testing.assert_array_equal(together.inv_w[i, j], single.inv_w)


SHARDED = """
import jax, numpy as np, jax.numpy as jnp
from jax.sharding import PartitionSpec as P, AxisType
from meshes_for_tests import bumpy_head, front_camera
from exp_jax.geometry import clip_coordinates
from exp_jax.rendering import Topology, surface_maps
assert jax.device_count() == 8
vertices, faces = bumpy_head(8, 9)
topology, camera = Topology.from_faces(faces), front_camera((24, 20))
frames = vertices * jnp.linspace(0.5, 1.2, 16)[:, None, None]
def maps(frames, topology):
  return jax.vmap(lambda v: surface_maps(v, camera, topology)['normal'])(frames)
mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
specs = dict(in_specs=(P('data'), P()), out_specs=P('data'))
split = jax.shard_map(maps, mesh=mesh, check_vma=False, **specs)
# Other array sizes vectorize otherwise: normals may round differently in their last bit.
found, expected = jax.jit(split)(frames, topology), jax.jit(maps)(frames, topology)
np.testing.assert_allclose(found, expected, atol=5e-7)
text = jax.jit(split).lower(frames, topology).compile().as_text()
assert 'all-gather' not in text and 'all-reduce' not in text
"""


@pytest.mark.slow
def test_frames_shard_over_devices_without_communication():
  here = os.path.dirname(__file__)
  paths = os.pathsep.join([here, os.path.join(here, '..', '..')])
  env = dict(
    os.environ,
    XLA_FLAGS='--xla_force_host_platform_device_count=8',
    JAX_PLATFORMS='cpu',
    PYTHONPATH=paths,
  )
  done = subprocess.run([sys.executable, '-c', SHARDED], env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]


def floor_plane(near_edge, far_edge, half_width, *, tiles):
  """A plane below the camera, as clip coordinates of tiles x tiles quads; w from near_edge to
  far_edge.
  """
  w = np.linspace(near_edge, far_edge, tiles + 1)
  x = np.linspace(-half_width, half_width, tiles + 1)
  w, x = np.meshgrid(w, x, indexing='ij')
  clip = np.stack([x, np.full_like(x, 0.5), w, w], -1).reshape(-1, 4)
  i, j = np.meshgrid(np.arange(tiles), np.arange(tiles), indexing='ij')
  a = (i * (tiles + 1) + j).reshape(-1)
  b, c, d = a + 1, a + tiles + 2, a + tiles + 1
  return clip.astype(np.float32), np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])


@pytest.mark.long
@pytest.mark.parametrize('tiles, near', [(1, 0.01), (6, 0.01), (6, 0.8)])
def test_faces_through_the_near_plane_are_clipped(tiles, near):
  """y = 0.5 everywhere: the pixel at height Y sees w = 0.5 / Y, whatever crosses the camera
  plane.
  """
  height, width = SIZE
  clip, faces = floor_plane(-3.0, 5.0, 40.0, tiles=tiles)
  found = drawn(clip, faces, near=near)
  y = (2 * np.arange(height) + 1) / height - 1
  w = 0.5 / np.maximum(y, 1e-9)
  expected = np.where((near < w) & (w < 5.0), 1 / w, 0.0)
  seen = np.broadcast_to(expected[:, None], SIZE)
  np.testing.assert_array_equal(found.face_id >= 0, seen > 0)
  # Vertices at the guard band, 2,048 pixels out, snap to 1/256 pixel: 1/w of the slope keeps 1e-3.
  np.testing.assert_allclose(found.inv_w, seen, atol=2e-3)


def test_clipped_neighbours_leave_no_crack():
  rng = np.random.default_rng(9)
  clip, faces = floor_plane(-2.0, 3.0, 500.0, tiles=9)
  clip[:, 1] += rng.uniform(-0.05, 0.05, len(clip))
  clip = np.concatenate([clip, clip * [1, -1, 1, 1]]).astype(np.float32)
  found = drawn(clip[: len(clip) // 2], faces)
  filled = np.asarray(found.face_id >= 0)
  first = filled.argmax(0)
  below = np.arange(SIZE[0])[:, None] >= first
  assert filled.any(0).all() and (filled == below).all()


def test_nothing_behind_the_camera_is_seen():
  clip, faces = soup(np.random.default_rng(2), 30, SIZE, size=0.5)
  found = drawn(-clip, faces)
  assert (found.face_id == -1).all() and (found.inv_w == 0).all()


def test_far_outside_is_clipped_not_bent():
  """A triangle that reaches 10^6 pixels out covers the same half plane as a small one."""
  y = 0.1
  far = np.array([[-1e5, y, 1, 1], [1e5, y, 1, 1], [0, 1e5, 1, 1]], np.float32)
  found = drawn(far, np.array([[0, 1, 2]]))
  rows = (2 * np.arange(SIZE[0]) + 1) / SIZE[0] - 1 > y
  np.testing.assert_array_equal(found.face_id >= 0, np.broadcast_to(rows[:, None], SIZE))


@pytest.mark.parametrize('turn', range(4))
def test_a_sloping_edge_beyond_the_guard_band_stays_straight(turn):
  """The half plane above a line whose ends lie 10^6 pixels out, in four directions."""
  spin = np.array([[0, -1], [1, 0]])
  line = np.array([[-1e4, 0.1 - 0.3e4], [1e4, 0.1 + 0.3e4], [-0.3e5, 1e5]])
  matrix = np.linalg.matrix_power(spin, turn)
  clip = np.concatenate([line @ matrix.T, np.ones((3, 2))], -1).astype(np.float32)
  found = np.asarray(drawn(clip, np.array([[0, 1, 2]])).face_id >= 0)
  y, x = ((2 * np.arange(n) + 1) / n - 1 for n in SIZE)
  at = np.stack(np.meshgrid(x, y), -1) @ matrix  # turned back
  above = at[..., 1] - 0.1 - 0.3 * at[..., 0]
  sure = np.abs(above) > 2e-3  # float32 cannot place the line better, 10^4 units from its ends
  np.testing.assert_array_equal(found[sure], above[sure] > 0)
  assert 0.2 < found.mean() < 0.8 and sure.mean() > 0.9


def test_clipped_neighbours_agree_on_their_new_corner_bit_for_bit():
  rng = np.random.default_rng(0)
  p, q, r, s = rng.normal(size=(4, 400, 3)).astype(np.float32)
  p[:, 2], q[:, 2] = np.abs(p[:, 2]) + 0.1, -np.abs(q[:, 2])  # in front and behind
  planes = guard_planes((10, 10), near=1e-2, guard=2**19, sub_bits=8)
  polygons = [np.asarray(clip_polygons(jnp.stack(t, 1), planes)[0]) for t in ([p, q, r], [q, p, s])]
  for one, other in zip(*polygons):
    both = {row.tobytes() for row in one} & {row.tobytes() for row in other}
    assert any(abs(np.frombuffer(row, np.float32)[2] - 1e-2) < 1e-5 for row in both)


def test_broken_faces_leave_the_others_alone():
  vertices, faces = bumpy_head(12, 15)
  clip = np.array(clip_coordinates(vertices, front_camera(SIZE)))
  whole = drawn(clip, faces)
  extra = np.array(
    [[np.nan, 0, 1, 1], [np.inf, 0, 1, 1], [0, 0, 0, 0], [0.1, 0.1, 1, -1]], np.float32
  )
  n = len(clip)
  broken = [
    [n, 0, 1],
    [n + 1, 2, 3],
    [0, 0, 5],
    [7, 7, 7],
    [n + 2, n + 2, n + 3],
    [n + 2, n, n + 3],
  ]
  found = drawn(np.concatenate([clip, extra]), np.concatenate([faces, np.array(broken)]))
  assert_same(whole, found)


@pytest.mark.long
@pytest.mark.parametrize('image_size', [(1, 1), (1, 9), (5, 1)])
def test_tiny_images(image_size):
  clip, faces = soup(np.random.default_rng(4), 40, image_size, size=1.0)
  assert_matches_brute_force(clip, faces, image_size)


def test_an_empty_mesh_is_an_empty_image():
  found = rasterize(jnp.zeros((4, 4)), Topology.from_faces(np.zeros((0, 3), int)), SIZE)
  assert (found.face_id == -1).all() and (found.inv_w == 0).all()


@pytest.mark.parametrize(
  'bad',
  [dict(clip=jnp.zeros((2, 3))), dict(image_size=(0, 4)), dict(method='tiles'), dict(cull='front')],
)
def test_bad_arguments_are_named(bad):
  arguments = dict(clip=jnp.ones((3, 4)), image_size=(4, 4), method='scatter', cull='none') | bad
  with pytest.raises(ValueError, match=next(iter(bad))):
    rasterize(
      arguments['clip'],
      Topology.from_faces(np.array([[0, 1, 2]])),
      arguments['image_size'],
      method=arguments['method'],
      cull=arguments['cull'],
    )


@pytest.mark.parametrize('bad', [np.zeros((3, 4), int), np.zeros((3, 3)), np.array([[0, 1, -2]])])
def test_bad_faces_are_refused(bad):
  with pytest.raises(ValueError, match='faces'):
    Topology.from_faces(bad)


def test_seams_and_crowded_edges():
  """Two quads: a seam of doubled vertices is an inner edge when welded, a boundary when not."""
  positions = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0.0]])
  faces = np.array([[0, 1, 2], [3, 5, 4]])
  count = lambda t: int((t.edge_faces != 0).all(1).sum())
  assert count(Topology.from_faces(faces)) == 0
  assert count(Topology.from_faces(faces, positions=positions)) == 1
  book = Topology.from_faces(np.array([[0, 1, 2], [0, 1, 3], [0, 1, 4]]))
  spine = (np.asarray(book.edges) == [0, 1]).all(1)
  assert spine.sum() == 3 and (np.asarray(book.edge_faces)[spine, 1] == 0).all()


def test_streams_that_int32_cannot_number_are_refused():
  with pytest.raises(ValueError, match='int32'):
    stream_of(jnp.zeros(2**16, jnp.int32), chunk=64, most=2**15)


@pytest.mark.parametrize('most', [3, 2**17])
def test_streams_visit_every_item_once_and_in_order(most):
  """Long enough for sums by rows; counts that float32 products could not sum go another way."""
  rng = np.random.default_rng(0)
  counts = np.where(rng.random(10_000) < 0.4, rng.integers(0, 4, 10_000), 0)
  counts[777] = most
  add = lambda sums, owner, local, valid: tuple(
    s.at[jnp.where(valid, owner, 10_000)].add(x, mode='drop') for s, x in zip(sums, (1, local))
  )
  zero = jnp.zeros(10_000, jnp.int32)
  walk = jax.jit(
    lambda counts: visit_all(stream_of(counts, chunk=512, most=most), (zero, zero), add)
  )
  times, locals_ = walk(jnp.asarray(counts, jnp.int32))
  np.testing.assert_array_equal(times, counts)
  np.testing.assert_array_equal(locals_, (counts * (counts - 1) // 2).astype(np.int32))
