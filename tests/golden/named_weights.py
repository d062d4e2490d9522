"""Random weights that follow from a tensor's name alone, so that a fixture stores outputs only."""

import json
import zlib

import numpy as np


def named_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """float32, of a size that keeps activations near one: fan-in scaled kernels, norms near the
  identity."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if name.endswith('num_batches_tracked'):
    return np.zeros(shape, np.int64)
  if len(shape) < 2:
    kind = name.rsplit('.', 1)[-1]
    spread = 0.1 * rng.normal(size=shape)
    return (spread if kind in ('bias', 'running_mean') else np.exp(2 * spread)).astype(np.float32)
  kernel = rng.normal(size=shape) * np.sqrt(2 / max(1, np.prod(shape[1:])))
  return (np.abs(kernel) if name.startswith('lin') else kernel).astype(np.float32)


def named_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """{name: array} of {name: shape}."""
  return {name: named_weight(name, tuple(shape)) for name, shape in shapes.items()}


def images(seed: int, *shape: int) -> np.ndarray:
  """[..., 3] float32 in [0, 1], smooth enough to have structure."""
  rng = np.random.default_rng(seed)
  coarse = rng.uniform(size=(*shape[:-3], -(-shape[-3] // 4), -(-shape[-2] // 4), 3))
  large = np.repeat(np.repeat(coarse, 4, -3), 4, -2)[..., : shape[-3], : shape[-2], :]
  return np.clip(large + 0.1 * rng.normal(size=shape), 0, 1).astype(np.float32)


def shapes_of(fixture, key: str) -> dict[str, tuple[int, ...]]:
  """{name: shape} that the fixture keeps as JSON below `key`."""
  return {name: tuple(shape) for name, shape in json.loads(str(fixture[key])).items()}
