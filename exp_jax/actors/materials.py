"""Colour, gloss and fine relief of skin, hair, brows and cloth, computed at every pixel.

The mesh has a vertex every 2 to 8 mm; what is finer (strands, pores, stubble, weave, the crisp edge
of a hairline or collar) is a function of the place on the smooth template, so it sticks to the
skin, fits every identity and needs no texture atlas. Each pattern fades out where a pixel is wider
than its features, so that nothing shimmers at low resolution. All colours linear.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np

# fields [N, FIELDS] of a Look: coverage masks in 0..1, and signed distances in centimetres
FIELDS = ('hair', 'beard', 'brows', 'stubble', 'cloth', 'jacket', 'lash')
PATTERNS = ('plain', 'rows', 'columns', 'checks', 'speckles')


@flax.struct.dataclass
class Look:
  """What an actor is painted with; N dense vertices."""

  skin: jax.Array  # [N, 3] linear: skin, lips, mouth, teeth, tongue
  gloss: jax.Array  # [N]
  # [N, 7] see FIELDS: masks, but cloth and jacket are signed distances, cm, positive inside
  fields: jax.Array
  iris: jax.Array  # [3] linear
  hair: jax.Array  # [3]
  brow: jax.Array  # [3]
  grey: jax.Array  # [] share of white strands
  strand: jax.Array  # [2] metres across, and how many times as long
  cloth: jax.Array  # [3, 3] two colours of the garment, that of the jacket
  pattern: jax.Array  # [5] one-hot, see PATTERNS
  period: jax.Array  # [] metres, of the pattern
  pores: jax.Array  # [] 0..1
  seed: jax.Array  # [3] metres, shifts every noise


@flax.struct.dataclass
class Surface:
  """What the light meets at each pixel."""

  albedo: jax.Array  # [H, W, 3]
  gloss: jax.Array  # [H, W]
  bump: jax.Array  # [H, W, 3] added to the unit normal, template frame
  hair: jax.Array  # [H, W] 0..1, shaded as strands
  cloth: jax.Array  # [H, W] 0..1
  strand: jax.Array  # [H, W, 3] direction of the strands, template frame
  streak: jax.Array  # [H, W] about -1..1, how high each strand lies


def noise(points: jax.Array, seed: jax.Array) -> jax.Array:
  """[..., 3] points in cells -> [...] smooth noise in -1..1 (trilinear value noise, cubic fade)."""
  points = points + seed
  cell = jnp.floor(points)
  part = points - cell
  part = part * part * (3 - 2 * part)
  cell = cell.astype(jnp.int32).astype(jnp.uint32)
  axes = [
    (cell[..., axis] * prime, (cell[..., axis] + 1) * prime)
    for axis, prime in enumerate(np.array([0x8DA6B343, 0xD8163841, 0xCB1AB31F], np.uint32))
  ]

  def value(i, j, k):
    mixed = (axes[0][i] ^ axes[1][j] ^ axes[2][k]).astype(jnp.uint32)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x2C1B3C6D)
    mixed = (mixed ^ (mixed >> 12)) * jnp.uint32(0x297A2D39)
    return (mixed >> 8).astype(jnp.float32) * (2.0 / 2**24) - 1.0

  x, y, z = part[..., 0], part[..., 1], part[..., 2]
  along = [[value(0, j, k) * (1 - x) + value(1, j, k) * x for j in (0, 1)] for k in (0, 1)]
  across = [row[0] * (1 - y) + row[1] * y for row in along]
  return across[0] * (1 - z) + across[1] * z


def step(value: jax.Array, low, high) -> jax.Array:
  """0 below `low`, 1 above `high`, cubic between."""
  t = jnp.clip((value - low) / (high - low), 0, 1)
  return t * t * (3 - 2 * t)


def blend(below: jax.Array, share: jax.Array, above: jax.Array) -> jax.Array:
  """`above` [..., C] laid over `below` [..., C] with coverage `share` [...] in 0..1."""
  return below + share[..., None] * (above - below)


def _fabric(look: Look, place, cloth, jacket, *, pixel, shows) -> tuple[jax.Array, jax.Array]:
  """Colours [..., 3] of garment and jacket, and the height [...] of their knit; arguments as of
  `surface`."""
  wave = lambda t: (
    step(jnp.sin(2 * jnp.pi * t / look.period), -0.3, 0.3) * shows(look.period / 3)
    + (0.5 * (1 - shows(look.period / 3)))
  )
  rows, columns = wave(place[..., 1]), wave(place[..., 0])
  speckles = step(noise(place / 0.010, look.seed * 10), 0.3, 0.6)
  pattern = (
    jnp.stack([0 * rows, rows, columns, 0.5 * (rows + columns), speckles], -1) @ look.pattern
  )
  knit = (
    shows(0.0017)
    * jnp.sin(place[..., 0] * (2 * jnp.pi / 0.0034))
    * jnp.sin(place[..., 1] * (2 * jnp.pi / 0.0034) + 0.8)
  )
  fabric = look.cloth[0] + pattern[..., None] * (look.cloth[1] - look.cloth[0])
  hem = step(cloth, 0.75, 0.85) * step(cloth, 1.05, 0.95)  # a seam one centimetre from the edge
  coat = step(jacket, -0.6 * pixel * 100, 0.6 * pixel * 100)
  lapel = step(jacket, -0.5, 0.0) * (1 - coat)
  fabric = blend(
    fabric * (1 - 0.45 * lapel - 0.25 * hem * (1 - coat))[..., None], coat, look.cloth[2]
  )
  rough = 0.05 * noise(place / 0.012, look.seed * 15) + 0.05 * knit
  return fabric * (1 + rough)[..., None], knit


def surface(look: Look, skin, gloss, fields, place, crown, *, pixel) -> Surface:
  """The material at points of the template.

  Args:
    look: of the actor; its per-vertex arrays come interpolated in the next three.
    skin: [..., 3].
    gloss: [...].
    fields: [..., 7].
    place: [..., 3] metres, template frame.
    crown: [3] where hair grows from in a whorl.
    pixel: [] metres that a pixel is wide on the head.
  """
  hair, beard, brows, stubble, cloth, jacket, lash = (fields[..., k] for k in range(len(FIELDS)))
  shows = lambda size: step(size / pixel, 1.0, 2.2)  # 0 where a pixel would swallow the feature

  # strands run from the crown: narrow round it, long along
  away = place - crown
  ring = away[..., ::2] / jnp.maximum(jnp.linalg.norm(away[..., ::2], axis=-1, keepdims=True), 1e-4)
  radius = jnp.linalg.norm(away, axis=-1, keepdims=True)
  width, length = look.strand[0], look.strand[1]
  flow = jnp.concatenate([0.09 * ring, radius / length], -1)
  strands = shows(width) * noise(flow / width, look.seed * 100)
  locks = noise(flow / (5 * width), look.seed * 77) * shows(5 * width)
  fine = shows(0.4 * width) * noise(flow / (0.4 * width), look.seed * 31)
  streak = 0.5 * strands + 0.45 * locks + 0.5 * fine

  pore = shows(0.0011) * noise(place / 0.0011, look.seed * 50)
  crease = shows(0.0018) * noise(place / jnp.array([0.0018, 0.0009, 0.0018]), look.seed * 90)
  mottle = shows(0.004) * noise(place / 0.004, look.seed * 20)
  albedo = skin * (1 + look.pores * (0.05 * pore + 0.05 * mottle))[..., None]
  albedo = albedo * (1 + 0.03 * mottle[..., None] * jnp.array([0.2, 1.0, 1.0]))
  bump = look.pores * 0.10 * jnp.stack([pore, crease, 0.5 * mottle], -1)

  # short hairs: each lies along its own slant
  x, y = jnp.abs(place[..., :1]), place[..., 1:2]
  slant = jnp.concatenate([x + 0.9 * y, 0.25 * (y - 0.5 * x), place[..., 2:]], -1)
  hairs = shows(0.0008) * noise(slant / 0.0009, look.seed * 60)
  dots = shows(0.0007) * noise(place / 0.0008, look.seed * 40)
  stubble = jnp.clip(stubble * (0.75 + 0.7 * dots), 0, 0.8)
  albedo = blend(albedo, stubble, 0.3 * skin + 0.4 * look.hair)
  albedo = blend(albedo, jnp.clip(lash, 0, 1), 0.06 * skin)
  gaps = 1 - shows(0.0008) * 0.75 * step(-hairs, -0.15, 0.45)
  brow = step(brows + 0.25 * hairs, 0.10, 0.95) * gaps
  albedo = blend(albedo, 0.85 * brow, look.brow)

  white = step(look.grey + 0.4 * fine + 0.15 * strands, 0.2, 0.8)[..., None] * look.grey
  tone = look.hair + white * (jnp.array([0.62, 0.61, 0.60]) - look.hair)
  contrast = 0.75 - 0.45 * jnp.sqrt(tone.mean(-1))  # dark hair shows its gaps, white hair hardly
  tone = tone * jnp.clip(1 + contrast * streak, 0.25, 2.0)[..., None]
  chin = jnp.concatenate([place[..., :1], 0.35 * y, place[..., 2:]], -1)
  whiskers = shows(0.0013) * noise(chin / 0.0013, look.seed * 80)
  bearded = step(beard + 0.30 * whiskers, 0.22, 0.55)
  albedo = blend(albedo, bearded, 0.9 * tone * (1 + 0.35 * whiskers)[..., None])
  # the roots shade the skin before the hairline
  albedo = albedo * (1 - 0.35 * step(hair, 0.05, 0.45) * (1 - bearded))[..., None]
  haired = step(hair + 0.22 * strands + 0.10 * fine + 0.10 * locks, 0.40, 0.60)
  albedo = blend(albedo, haired, tone)

  cover = step(cloth, -0.6 * pixel * 100, 0.6 * pixel * 100) * (1 - haired)
  under = step(cloth, -0.7, 0.0) * (1 - cover) * (1 - haired)  # the garment's shadow on the skin
  albedo = albedo * (1 - 0.4 * under)[..., None]
  fabric, knit = _fabric(look, place, cloth, jacket, pixel=pixel, shows=shows)
  albedo = blend(albedo, cover, fabric)

  smooth_skin = (1 - haired) * (1 - cover) * (1 - bearded)
  side = jnp.stack([ring[..., 1], 0 * ring[..., 0], -ring[..., 0]], -1)
  bump = bump * smooth_skin[..., None] + (haired * 0.35 * streak)[..., None] * side
  bump = bump + (cover * 0.12 * knit)[..., None] * jnp.array([1.0, 0.6, 0.0])
  out = away / jnp.maximum(radius, 1e-4)
  # strands that lie higher catch the light elsewhere, which breaks the highlight up
  strand = out + jnp.array([0.0, -0.35, 0.0])
  return Surface(
    albedo=jnp.clip(albedo, 0.0, 1.0),
    gloss=gloss * smooth_skin * (1 + 0.4 * look.pores * pore) * (1 - 0.7 * brow),
    bump=bump,
    hair=jnp.maximum(haired, 0.7 * bearded) * (1 - cover),
    cloth=cover,
    strand=strand,
    streak=streak,
  )
