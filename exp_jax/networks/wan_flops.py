"""Floating-point operations of the Wan transformer, by formula: what MFU is measured against.

A multiply-add counts as two; elementwise work is left out. A compiler's own count takes a scanned
block once and cannot see into kernels, hence the formula, which a test compares with an unrolled
model.

Letters: S tokens, D width, f feed-forward width, L layers, Tx text and Ti image tokens.
"""

import dataclasses

import numpy as np

from exp_jax.networks.wan_dit import WanDiT

# TFLOP/s of dense bfloat16, from the makers' data sheets; matched against the device's name
PEAKS = {
  'H200': 989.0,
  'H100': 989.0,
  'H20': 148.0,
  'B200': 2250.0,
  'GB200': 2500.0,
  'A100': 312.0,
  'A800': 312.0,
  'L40S': 362.0,
  'RTX 4090': 165.0,
  'TPU v4': 275.0,
  'TPU v5p': 459.0,
  'TPU v5 lite': 197.0,
  'TPU v6 lite': 918.0,
}


@dataclasses.dataclass(frozen=True)
class Flops:
  """Of one sample's forward pass: linear layers and attention's two products."""

  linear: float
  attention: float

  @property
  def forward(self) -> float:
    return self.linear + self.attention

  @property
  def train(self) -> float:
    """A training step of all parameters: the backward pass is twice the forward one."""
    return 3.0 * self.forward

  @property
  def train_adapters(self) -> float:
    """A training step of adapters: frozen kernels get no gradient; the adapters' own work is left
    out."""
    return 2.0 * self.linear + 3.0 * self.attention


def flops(
  model: WanDiT, grid: tuple[int, int, int], *, text_tokens: int = 512, image_tokens: int = 257
) -> Flops:
  """Forward FLOPs of one sample whose tokens are a grid (frames, rows, columns) after the patch
  embedding."""
  S, D, patch = float(np.prod(grid)), model.width, float(np.prod(model.patch))
  Tx = text_tokens if model.text_dim else 0
  Ti = (model.image_positions or image_tokens) if model.image_dim else 0
  cross = 4 * S * D**2 + 4 * (Tx + Ti) * D**2 if Tx else 0.0
  layer = 8 * S * D**2 + cross + 4 * S * D * model.ffn
  outside = 2 * S * D * patch * (model.in_channels + model.out_channels) + 2 * Tx * (
    model.text_dim * D + D**2
  )
  outside += 2 * Ti * (model.image_dim**2 + model.image_dim * D) + 2 * (
    model.freq_dim * D + 7 * D**2
  )
  attention = 4 * S**2 * D + 4 * S * (Tx + Ti) * D
  return Flops(model.depth * layer + outside, model.depth * attention)


def peak_tflops(device_kind: str) -> float | None:
  """Dense bfloat16 TFLOP/s of a device by its name, or None if it is not in the table."""
  found = [name for name in PEAKS if name.lower() in device_kind.lower()]
  return PEAKS[max(found, key=len)] if found else None
