"""Metrics: arrays in, a Score with value, variant, count and coverage out."""

from exp_jax.metrics.image import Score, l1, psnr, ssim

__all__ = ['Score', 'l1', 'psnr', 'ssim']
