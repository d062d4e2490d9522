"""Metrics: arrays in, a Score with value, variant, count and coverage out."""

from exp_jax.metrics.frechet import fid, frechet_distance, fvd
from exp_jax.metrics.image import l1, psnr, ssim
from exp_jax.metrics.motion import aed, apd, csim, gaze_mae, hef, hpf, rmse
from exp_jax.metrics.perceptual import lpips
from exp_jax.metrics.score import Score, pooled
from exp_jax.metrics.steadiness import av_offset, jitter, seam_ratio

__all__ = [
  'Score',
  'aed',
  'apd',
  'av_offset',
  'csim',
  'fid',
  'frechet_distance',
  'fvd',
  'gaze_mae',
  'hef',
  'hpf',
  'jitter',
  'l1',
  'lpips',
  'pooled',
  'psnr',
  'rmse',
  'seam_ratio',
  'ssim',
]
