"""All metrics by name: how they are called and printed, where they apply, and what each needs.

`needs` are names of weights (`networks.SOURCES`) or of what an installation has: 'landmarks'
(MediaPipe's sidecar), 'fit' (our head model on those landmarks), 'real' (--real FOLDER),
'elsewhere' (only in the system that a paper used; its reason is
given). The '_fit' metrics need nothing foreign: they work right after set-up.
`exp-jax setup --metrics` fetches what LPIPS and CSIM (dlib) look through.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Metric:
  """better: 'up', 'down' or '' (neither); kinds: where it applies; reason: why 'elsewhere'."""

  label: str
  better: str
  kinds: tuple[str, ...]
  needs: tuple[str, ...] = ()
  digits: int = 4
  reason: str = ''

  @property
  def heading(self) -> str:
    """The label with its arrow."""
    return self.label + {'up': ' ↑', 'down': ' ↓', '': ''}[self.better]


_SELF, _BOTH = ('self',), ('self', 'cross')
METRICS = {
  'psnr': Metric('PSNR', 'up', _SELF),
  'ssim': Metric('SSIM', 'up', _SELF),
  'l1': Metric('L1', 'down', _SELF),
  'lpips': Metric('LPIPS', 'down', _SELF, ('lpips_alex',)),
  'lpips_vgg': Metric('LPIPS (VGG)', 'down', _SELF, ('lpips_vgg',)),
  'csim': Metric('CSIM', 'up', _BOTH, ('arcface', 'landmarks')),
  'csim_dlib': Metric('CSIM (dlib)', 'up', _BOTH, ('identity_dlib', 'landmarks')),
  'aed': Metric('AED', 'down', _BOTH, ('smirk', 'landmarks')),
  'apd': Metric('APD', 'down', _BOTH, ('smirk', 'landmarks')),
  'aed_emoca': Metric(
    'AED (EMOCA)',
    'down',
    _BOTH,
    ('elsewhere',),
    reason="MagicPortrait's AED is of EMOCA, which needs FLAME's "
    'licence; AED (SMIRK) and AED (exp_jax fit) are our stand-ins',
  ),
  'e_rmse': Metric('E-RMSE', 'down', _BOTH, ('deep3d', 'landmarks')),
  'p_rmse': Metric('P-RMSE', 'down', _BOTH, ('deep3d', 'landmarks')),
  'gaze': Metric('MAE(°)', 'down', _BOTH, ('l2cs', 'landmarks'), digits=3),
  'fid': Metric('FID', 'down', _BOTH, ('inception',), digits=2),
  'fvd': Metric('FVD', 'down', _BOTH, ('i3d',), digits=2),
  'fvd_videomae': Metric(
    'FVD (VideoMAE)',
    'down',
    _BOTH,
    ('elsewhere',),
    reason="Loki's FVD is of VideoMAE-v2; FVD (I3D) is our stand-in",
  ),
  'aed_fit': Metric('AED (exp_jax fit)', 'down', _BOTH, ('landmarks', 'fit')),
  'apd_fit': Metric('APD (exp_jax fit)', 'down', _BOTH, ('landmarks', 'fit')),
  'e_rmse_fit': Metric('E-RMSE (exp_jax fit)', 'down', _BOTH, ('landmarks', 'fit')),
  'p_rmse_fit': Metric('P-RMSE (exp_jax fit)', 'down', _BOTH, ('landmarks', 'fit')),
  'gaze_fit': Metric('gaze MAE(°) (exp_jax fit)', 'down', _BOTH, ('landmarks', 'fit'), digits=3),
  'hpf': Metric('HPF(°)', 'down', _BOTH, ('landmarks', 'fit'), digits=3),
  'hpf_camera': Metric('HPF(°), camera side', 'down', _BOTH, ('landmarks', 'fit'), digits=3),
  'hef': Metric('HEF', 'down', _BOTH, ('landmarks', 'fit')),
  'jitter': Metric('jitter(px)', 'down', _BOTH, ('landmarks',), digits=3),
  'jitter_driver': Metric('jitter(px) of the driver', '', _BOTH, ('landmarks',), digits=3),
  'seam_ratio': Metric('seam ratio', 'down', _BOTH, digits=3),
  'av_offset': Metric('A/V offset(ms)', 'down', _BOTH, digits=1),
  'found': Metric('frames with a face', 'up', _BOTH, ('landmarks',), digits=3),
}
# What is measured beside the columns of a protocol: what needs no weights under a licence.
OWN = (
  'csim_dlib',
  'aed_fit',
  'apd_fit',
  'e_rmse_fit',
  'p_rmse_fit',
  'gaze_fit',
  'hpf',
  'hpf_camera',
  'hef',
)
EXTRAS = ('jitter', 'jitter_driver', 'seam_ratio', 'av_offset', 'found')
