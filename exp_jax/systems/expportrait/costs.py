"""What an animation costs before it is made."""

from exp_jax.performance.animation import Estimate

# Seconds on two CPU cores at 512 pixels: of a driver's frame, a driver's fit, a portrait, a frame
# by the preview, by the video model; what a repair adds to a preview's frame; and what compiling
# adds once. What a loaded system measures replaces them.
TYPICAL = {
  'track': 0.07,
  'fit': 3.0,
  'portrait': 16.0,
  'draw': 0.18,
  'generate': 1.0,
  'retouch': 0.4,
  'compile': 110.0,
}


def cost_of(frames: int, *, size: int, engine: str, measured: dict[str, float]) -> Estimate:
  """The estimate for so many frames.

  Args:
    frames: that are drawn.
    size: side of a drawn frame, pixels.
    engine: 'preview'; 'repaired', a preview that a network repairs; 'generated', by a video model.
    measured: seconds of a unit of stages that were measured, in place of `TYPICAL`.
  """
  cost = TYPICAL | measured
  draw = cost['draw'] * (size / 512) ** 2
  if engine == 'generated':
    draw = cost['generate'] * (size / 128) ** 2
  elif engine == 'repaired':
    draw += cost['retouch']
  before = (
    cost['portrait']
    + cost['fit']
    + cost['track'] * frames
    + cost['compile'] * ('compile' not in measured)
  )
  return Estimate(
    frames,
    round(before + draw * frames, 1),
    round(before + draw, 1),
    int(0.04 * size * size * frames) + 20_000,
    int(2.0e9 + 3 * 4 * size * size * 64),
    'draw' in measured or 'generate' in measured,
  )
