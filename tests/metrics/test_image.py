import numpy as np
import pytest
from skimage import metrics as oracle

from exp_jax.metrics import l1, psnr, ssim

RNG = np.random.default_rng(0)
TRUTH = RNG.uniform(size=(3, 23, 31, 3))
IMAGE = np.clip(TRUTH + RNG.normal(0, 0.05, TRUTH.shape), 0, 1)


def test_psnr_is_the_mean_over_frames_and_agrees_with_scikit_image():
  expected = np.mean(
    [oracle.peak_signal_noise_ratio(t, i, data_range=1) for t, i in zip(TRUTH, IMAGE)]
  )
  score = psnr(IMAGE, TRUTH)
  assert abs(score.value - expected) < 1e-6 and score.count == 3 and score.coverage == 1


def test_the_order_of_frames_does_not_matter_and_equal_videos_are_perfect():
  order = np.array([2, 0, 1])
  for metric, best in ((psnr, np.inf), (ssim, 1), (l1, 0)):
    assert metric(IMAGE[order], TRUTH[order]).value == pytest.approx(
      metric(IMAGE, TRUTH).value, abs=1e-12
    )
    assert metric(IMAGE[order], TRUTH).value != pytest.approx(metric(IMAGE, TRUTH).value, abs=1e-3)
    assert metric(TRUTH, TRUTH).value == best


def test_ssim_agrees_with_scikit_image_at_wangs_settings():
  expected = np.mean(
    [
      oracle.structural_similarity(
        t,
        i,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=-1,
      )
      for t, i in zip(TRUTH, IMAGE)
    ]
  )
  assert abs(ssim(IMAGE, TRUTH).value - expected) < 1e-6


def test_masks_choose_pixels_and_empty_frames_lower_coverage():
  mask = np.zeros((3, 23, 31))
  mask[0, 2:9, 3:8] = 1
  mask[1, 5:20, 5:20] = 1
  expected = np.mean([np.abs(IMAGE[i] - TRUTH[i])[mask[i] == 1].mean() for i in (0, 1)])
  score = l1(IMAGE, TRUTH, mask=mask)
  assert (
    abs(score.value - expected) < 1e-12 and score.count == 2 and abs(score.coverage - 2 / 3) < 1e-12
  )
  worse = np.where(mask[..., None] == 1, IMAGE, 0)
  assert psnr(worse, TRUTH, mask=mask).value == psnr(IMAGE, TRUTH, mask=mask).value


def test_equal_images_are_perfect():
  assert (
    psnr(TRUTH, TRUTH).value == np.inf
    and abs(ssim(TRUTH, TRUTH).value - 1) < 1e-12
    and l1(TRUTH, TRUTH).value == 0
  )


@pytest.mark.parametrize(
  'bad, words',
  [
    (TRUTH * 255, r'\[0, 1\]'),
    (TRUTH[:, 1:], 'must both be'),
    (np.full_like(TRUTH, np.nan), 'NaN'),
  ],
)
def test_bad_input_is_refused(bad, words):
  with pytest.raises(ValueError, match=words):
    psnr(bad, TRUTH)
