"""An invisible mark in every frame, found again after re-encoding and cropping, without the
original.

The mark is a square of noise, repeated over the frame and added to its brightness: less than one
grey level where the picture is smooth, more where its own texture hides it. Its wavelengths are 5
to 20 pixels, which H.264 keeps. Each spatial frequency belongs to one of 65 patterns, so that
patterns are orthogonal however they are shifted. The first is always there and tells where the
squares lie (a crop shifts them); the others, eight groups of eight, carry 32 bits: in each group
one pattern is there, with a sign. 24 bits are the identity, 8 a check of it.

To find it, frames are freed from their local mean and contrast, added up over time and over
squares, whitened, and correlated with the first pattern at every shift. Spread-spectrum marking is
Cox, Kilian, Leighton, Shamoon (IEEE TIP 1997); periodic tiling against crops is Kalker, Depovere,
Haitsma, Maes (SPIE 1999).

Letters: H, W a frame's size; S = SIDE.
"""

import dataclasses
import functools
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from exp_jax.media.images import resize

SIDE = 128  # pixels of the square that repeats
# of a copy over the original, where it is asked for
SCALES = 1.0, 2.0, 0.5, 1.5, 0.75, 4 / 3, 2 / 3
_STRENGTH = 0.7  # grey levels, rms, where the picture is smooth
_HIDING = 3  # grey levels of contrast that hide as much again
_SHORTEST, _LONGEST = 5, 20  # pixels of a wave
_GROUPS, _EACH = 8, 8
_SHARE = 0.35  # of the energy, in the first pattern
_BLOCK = 4  # pixels over which contrast is measured when marking
_WINDOW = 9  # the same when looking
_CERTAIN = 5.5  # standard deviations from which on the first pattern counts as found
_FRAMES = 150  # looked at
_LUMA = np.float32([0.299, 0.587, 0.114])


@dataclasses.dataclass(frozen=True)
class Mark:
  """A mark that was found.

  Attributes:
    identity: 6 hex digits, as `tile` was given.
    certainty: standard deviations by which its first pattern stands out of all shifts.
    scale: of the frames over those that were marked.
  """

  identity: str
  certainty: float
  scale: float


@functools.cache
def _patterns() -> np.ndarray:
  """Fourier transforms of the patterns, complex128 [65, S, S]; in space each has mean square 1.

  Made from fixed random numbers.
  """
  draw = np.random.Generator(np.random.PCG64(7))
  cycles = np.fft.fftfreq(SIDE)
  radius = np.hypot(cycles[:, None], cycles)
  rows, columns = np.nonzero((radius > 1 / _LONGEST) & (radius < 1 / _SHORTEST))
  mirrored = lambda n: -n % SIDE
  upper = (rows * SIDE + columns) < (mirrored(rows) * SIDE + mirrored(columns))
  rows, columns = rows[upper], columns[upper]
  order = draw.permutation(len(rows))
  rows, columns = rows[order], columns[order]
  first = round(len(rows) * _SHARE)
  owner = np.concatenate(
    [np.zeros(first, int), 1 + np.arange(len(rows) - first) % (_GROUPS * _EACH)]
  )
  waves = np.exp(2j * np.pi * draw.random(len(rows)))
  found = np.zeros((1 + _GROUPS * _EACH, SIDE, SIDE), complex)
  found[owner, rows, columns] = waves
  found[owner, mirrored(rows), mirrored(columns)] = waves.conj()
  return found * (SIDE**2 / np.sqrt((np.abs(found) ** 2).sum((1, 2), keepdims=True)))


def _symbols(identity: str) -> list[int]:
  """Eight numbers below 16 of six hex digits and their check."""
  data = bytes.fromhex(identity)
  if len(data) != 3:
    raise ValueError(f'an identity has 6 hex digits, got {identity!r}')
  return [int(digit, 16) for digit in identity + f'{zlib.crc32(data) & 255:02x}']


def tile(identity: str) -> np.ndarray:
  """The square that marks frames with an identity of 6 hex digits: float32 [S, S], mean
  square 1."""
  return _tile(identity.lower())


@functools.lru_cache(8)
def _tile(identity: str) -> np.ndarray:
  waves = np.sqrt(_SHARE) * _patterns()[0]
  for group, symbol in enumerate(_symbols(identity)):
    waves = (
      waves
      + np.sqrt((1 - _SHARE) / _GROUPS)
      * (1 - 2 * (symbol % 2))
      * _patterns()[1 + group * _EACH + symbol // 2]
    )
  return np.float32(np.fft.ifft2(waves).real)


def marked(frame: np.ndarray, square: np.ndarray) -> np.ndarray:
  """A frame with the mark.

  Args:
    frame: uint8 [H, W, 3].
    square: of `tile`.

  Returns:
    uint8 [H, W, 3].
  """
  height, width = frame.shape[:2]
  strength = _STRENGTH * (1 + np.clip(_contrast(frame @ _LUMA) / _HIDING, 0, 3))
  added = np.tile(square, (-(-height // SIDE), -(-width // SIDE)))[:height, :width]
  added *= np.repeat(np.repeat(strength, _BLOCK, 0), _BLOCK, 1)[:height, :width]
  return np.uint8(np.clip(np.rint(frame + added[..., None]), 0, 255))


def _contrast(luma: np.ndarray) -> np.ndarray:
  """What is left of blocks without their mean and slope, rms: float32 [ceil(H / 4), ceil(W / 4)].

  A smooth ramp hides nothing.
  """
  padded = np.pad(luma, [(0, -n % _BLOCK) for n in luma.shape], mode='edge')
  blocks = padded.reshape(padded.shape[0] // _BLOCK, _BLOCK, -1, _BLOCK)
  ramp = np.arange(_BLOCK, dtype=np.float32) - (_BLOCK - 1) / 2
  slopes = sum(np.einsum(f'iajb,{axis}->ij', blocks, ramp) ** 2 for axis in 'ab') / (
    _BLOCK * (ramp**2).sum() * _BLOCK**2
  )
  return np.sqrt(np.maximum(blocks.var((1, 3)) - slopes, 0))


def find(frames: Iterable[np.ndarray], scales: tuple[float, ...] = (1.0,)) -> Mark | None:
  """The mark of frames, or None where there is none that is sure.

  Args:
    frames: uint8 [H, W, 3], all of one size; the first 150 are looked at.
    scales: sizes over those of the marked frames, to be tried one after the other.
  """
  sums: list = [0.0] * len(scales)
  for frame, _ in zip(frames, range(_FRAMES)):
    for i, scale in enumerate(scales):
      sums[i] = sums[i] + _texture(
        frame
        if scale == 1
        else resize(frame, tuple(max(1, round(n / scale)) for n in frame.shape[:2]))
      )
  for summed, scale in zip(sums, scales):
    if isinstance(summed, np.ndarray) and (mark := _read(summed, scale)):
      return mark
  return None


def _box(values: np.ndarray) -> np.ndarray:
  """Means over windows of 9 x 9, at the border of the part inside; float64 [H, W]."""
  for axis in (0, 1):
    n = values.shape[axis]
    total = np.concatenate(
      [np.zeros_like(np.take(values, [0], axis)), np.cumsum(values, axis)], axis
    )
    low, high = (
      np.maximum(np.arange(n) - _WINDOW // 2, 0),
      np.minimum(np.arange(n) + _WINDOW // 2 + 1, n),
    )
    count = (high - low).reshape([-1 if a == axis else 1 for a in (0, 1)])
    values = (np.take(total, high, axis) - np.take(total, low, axis)) / count
  return values


def _texture(frame: np.ndarray) -> np.ndarray:
  """Brightness without its local mean, bounded, over its local variance, as noise of known size is
  weighed best; float64 [H, W]."""
  luma = np.float64(frame @ _LUMA)
  high = luma - _box(luma)
  spread = np.sqrt(np.maximum(_box(high * high), 0)) + 1.5
  return np.clip(high / spread, -2, 2) / spread


def _read(summed: np.ndarray, scale: float) -> Mark | None:
  fold = lambda x: (
    np.pad(x, [(0, -n % SIDE) for n in x.shape])
    .reshape(-(-x.shape[0] // SIDE), SIDE, -1, SIDE)
    .sum((0, 2))
  )
  waves = np.fft.fft2(fold(summed) / np.maximum(fold(np.ones_like(summed)), 1))
  size = np.abs(waves)
  # mean size of the frequencies about each
  ring = np.fft.ifft2(np.fft.fft2(size) * np.conj(np.fft.fft2(_window_of(9)))).real
  waves = waves / np.maximum(ring, 1e-9 + 1e-6 * size.max())
  correlated = lambda pattern: np.fft.ifft2(waves * pattern.conj()).real
  first = correlated(_patterns()[0])
  spread = first.std()
  if spread == 0:
    return None
  place = np.unravel_index(first.argmax(), first.shape)
  certainty = (first[place] - first.mean()) / spread
  if certainty < _CERTAIN:
    return None
  strengths = np.array(
    [(c := correlated(p))[place] / (c.std() + 1e-12) for p in _patterns()[1:]]
  ).reshape(_GROUPS, _EACH)
  for symbols in _likely(strengths):
    digits = ''.join(f'{s:x}' for s in symbols[:6])
    if _symbols(digits) == symbols:
      return Mark(digits, float(certainty), scale)
  return None


def _likely(strengths: np.ndarray) -> Iterator[list[int]]:
  """The strongest symbol of each group; then with the second strongest in the group that is least
  sure, the one after it, in both."""
  order = np.argsort(-np.abs(strengths), 1)
  rows = np.arange(_GROUPS)
  best, second = (2 * order[:, k] + (strengths[rows, order[:, k]] < 0) for k in (0, 1))
  gap = np.abs(strengths)[rows, order[:, 0]] - np.abs(strengths)[rows, order[:, 1]]
  weak, weaker = np.argsort(gap)[1::-1]
  for others in ((), (weaker,), (weak,), (weak, weaker)):
    yield [int(second[g] if g in others else best[g]) for g in range(_GROUPS)]


@functools.cache
def _window_of(side: int) -> np.ndarray:
  """A mean over side x side frequencies, wrapped about the first one; float64 [S, S]."""
  near = np.minimum(np.arange(SIDE), SIDE - np.arange(SIDE)) <= side // 2
  return np.outer(near, near) / side**2
