"""The four papers' evaluations as presets: which metrics, at which size, on which frames, and the
papers' own numbers.

The numbers are the papers', on the papers' test sets, with their trackers and baselines: they order
methods, they are not a
bar for ours on other clips. Sources: ExpPortrait (arXiv 2602.19900) table 1; LivePortrait
(2407.03168) tables 2 and 3; MagicPortrait (2504.21497) table I; Loki (2605.24176), its authors'
walk-through (HDTF, 16 frames).
"""

import dataclasses

from exp_jax.metrics.evaluation.catalog import METRICS

ALL = {
  kind: tuple(
    name
    for name, metric in METRICS.items()
    if kind in metric.kinds and 'elsewhere' not in metric.needs
  )
  for kind in ('self', 'cross')
}


@dataclasses.dataclass(frozen=True)
class Protocol:
  """size: pixels of the square that frames are brought to, None as they are; frames: at most so
  many of a clip;
  stride: drivers are sampled with, before anything is generated, None any;
  columns: metrics in the paper's order; paper: test set -> {method: numbers in that order, None
  where there is none}."""

  kind: str
  columns: tuple[str, ...]
  size: int | None = None
  frames: int | None = None
  stride: int | None = None
  paper: dict = dataclasses.field(default_factory=dict)
  note: str = ''


def _table(columns: int, text: str) -> dict[str, tuple[float | None, ...]]:
  """Lines 'method: numbers' -> {method: numbers}; '-' is None."""
  found = {}
  for line in text.strip().splitlines():
    method, _, numbers = line.partition(':')
    found[method.strip()] = tuple(None if n == '-' else float(n) for n in numbers.split())
    if len(found[method.strip()]) != columns:
      raise ValueError(f'{line!r} has not {columns} numbers')
  return found


_EXPPORTRAIT_SELF = _table(
  7,
  """
  LivePortrait: 23.2897 0.82985 0.37339 0.04619 0.12924 0.02144 0.82972
  AniPortrait: 22.2527 0.80838 0.30018 0.04078 0.17581 0.01631 0.76038
  Follow-Your-Emoji: 25.6872 0.84146 0.23645 0.02905 0.14717 0.01485 0.80284
  HunyuanPortrait: 22.9453 0.79333 0.27573 0.03962 0.15593 0.02329 0.81150
  X-NeMo: 21.5618 0.78051 0.32411 0.04760 0.13671 0.01789 0.83018
  ExpPortrait: 26.5507 0.85908 0.18394 0.02160 0.13185 0.00948 0.83506""",
)
_EXPPORTRAIT_CROSS = _table(
  3,
  """
  LivePortrait: 0.28641 0.23048 0.72869
  AniPortrait: 0.22753 0.08784 0.62998
  Follow-Your-Emoji: 0.22069 0.02338 0.68373
  HunyuanPortrait: 0.22753 0.08784 0.67451
  X-NeMo: 0.17092 0.02101 0.72164
  ExpPortrait: 0.21092 0.01277 0.72917""",
)
_LIVEPORTRAIT_SELF = {
  'TalkingHead-1KH': _table(
    6,
    """
  FOMM: 31.0681 .7620 .1201 .0419 .8805 10.1745
  Face Vid2vid: 30.8438 .7743 .0940 .0432 .8774 10.8117
  DaGAN: 31.3657 .7903 .0969 .0389 .8798 11.8655
  MCNet: 32.0013 .8042 .1018 .0349 .8876 10.9035
  TPSM: 31.2934 .7965 .0990 .0395 .8848 9.6036
  FADM: 30.2141 .7695 .1049 .0484 .8708 11.4484
  AniPortrait: 31.4669 .7144 .0922 .0470 .8550 12.0807
  LivePortrait: 32.0082 .8193 .0664 .0347 .9125 7.0535""",
  ),
  'VFHQ': _table(
    6,
    """
  FOMM: 30.5912 .7098 .1410 .0505 .8700 10.9327
  Face Vid2vid: 30.5166 .7247 .1132 .0500 .8775 11.1500
  DaGAN: 30.7038 .7315 .1258 .0481 .8747 11.2051
  MCNet: 31.3459 .7540 .1209 .0429 .8849 9.6634
  TPSM: 31.0262 .7476 .1177 .0466 .8884 9.8169
  FADM: 30.0932 .7180 .1252 .0535 .8707 11.7523
  AniPortrait: 30.9013 .6718 .1073 .0542 .8570 14.2411
  LivePortrait: 31.5616 .7653 .0798 .0422 .9121 6.6966""",
  ),
}
_LIVEPORTRAIT_CROSS = {
  'TalkingHead-1KH': _table(
    5,
    """
  FOMM: 90.8068 .3057 .7934 .0411 18.3946
  Face Vid2vid: 82.9066 .3687 .8285 .0559 20.2687
  DaGAN: 81.1110 .2937 .7636 .0405 21.0156
  MCNet: 89.3218 .2863 .7163 .0375 17.0721
  TPSM: 80.5436 .3289 .7492 .0387 17.4371
  FADM: 95.4043 .3755 .8158 .0525 18.8346
  AniPortrait: 47.8739 .3733 .9127 .0450 19.7136
  LivePortrait: 58.0370 .3909 .6772 .0333 14.7946""",
  ),
  'VFHQ': _table(
    5,
    """
  FOMM: 94.1640 .2011 .7374 .0336 18.6282
  Face Vid2vid: 83.8891 .2360 .7891 .0470 19.9852
  DaGAN: 82.6255 .1969 .7108 .0334 20.6918
  MCNet: 89.9694 .1907 .6545 .0329 17.3642
  TPSM: 77.5867 .2197 .6700 .0290 16.8058
  FADM: 98.2516 .2473 .7811 .0438 18.9776
  AniPortrait: 70.8077 .2538 .9018 .0501 20.1085
  LivePortrait: 56.4165 .2606 .6476 .0271 13.3464""",
  ),
}
_MAGICPORTRAIT_SELF = _table(
  8,
  """
  TPSM: .8518 .157 77.41 .087 .170 .080 .232 206.08
  DPE: .8876 .132 60.35 .039 .076 .137 .426 232.08
  HyperReenact: .7687 .337 69.21 .047 .082 .083 .251 168.82
  LivePortrait: .8605 .239 58.22 .104 .188 .046 .167 156.29
  FaceAdapter: .7091 .349 90.43 .029 .061 .129 .422 485.51
  AniPortrait: .8517 .165 72.11 .033 .067 .115 .394 226.49
  Follow-your-emoji: .8753 .149 56.80 .052 .106 .052 .186 211.43
  MagicPortrait: .9102 .125 53.68 .027 .064 .036 .146 179.13""",
)
_LOKI_SELF = _table(
  2,
  """
  AniTalker: 3.10 0.0963
  EchoMimic: 3.31 0.0823
  HunyuanPortrait: 2.08 0.0658
  Loki: 2.13 0.0664
  SadTalker: 3.42 0.0811
  X-Portrait: 2.14 0.0652""",
)
_LOKI_CROSS = _table(
  3,
  """
  AniTalker: 3.03 0.1134 0.815
  EchoMimic: 3.27 0.1156 0.897
  HunyuanPortrait: 2.19 0.0850 0.823
  Loki: 2.24 0.0828 0.791
  SadTalker: 3.22 0.1107 0.921
  X-Portrait: 2.94 0.1053 0.825""",
)

PROTOCOLS = {
  'all-self': Protocol('self', ALL['self'], note='every metric, frames as they are'),
  'all-cross': Protocol('cross', ALL['cross'], note='every metric, frames as they are'),
  'expportrait-self': Protocol(
    'self',
    ('psnr', 'ssim', 'lpips', 'l1', 'aed', 'apd', 'csim'),
    size=512,
    stride=4,
    paper={'RAVDESS and NeRSemble': _EXPPORTRAIT_SELF},
    note='the paper names neither the LPIPS backbone nor the tracker of AED and APD: AlexNet and '
    'SMIRK are our reading; nor the '
    'stride with which it samples drivers, so that their poses differ from the reference: 4 is our '
    'choice',
  ),
  'expportrait-cross': Protocol(
    'cross',
    ('aed', 'apd', 'csim'),
    size=512,
    stride=4,
    paper={'RAVDESS and NeRSemble': _EXPPORTRAIT_CROSS},
    note='drivers are sampled with a stride as in expportrait-self; '
    "HunyuanPortrait's AED and APD equal AniPortrait's in the paper, probably a slip",
  ),
  'liveportrait-self': Protocol(
    'self',
    ('psnr', 'ssim', 'lpips', 'l1', 'csim', 'gaze'),
    size=256,
    paper=_LIVEPORTRAIT_SELF,
    note='the first frame is the source; the recogniser behind CSIM is not named',
  ),
  'liveportrait-cross': Protocol(
    'cross',
    ('fid', 'csim', 'aed', 'apd', 'gaze'),
    size=256,
    paper=_LIVEPORTRAIT_CROSS,
    note='FID against real faces: --real FOLDER (the paper: the last 38,400 pictures of FFHQ, '
    '15,000 for VFHQ)',
  ),
  'magicportrait-self': Protocol(
    'self',
    ('csim_dlib', 'lpips', 'fid', 'apd', 'p_rmse', 'aed_emoca', 'e_rmse', 'fvd'),
    size=512,
    paper={'40 identities of CelebV-HQ': _MAGICPORTRAIT_SELF},
    note="besides: csim and aed by the networks that there are converters for; the paper's CSIM is "
    "dlib's face_recognition, which "
    "finds faces and landmarks by dlib; ours are MediaPipe's",
  ),
  'magicportrait-cross': Protocol(
    'cross',
    ('csim_dlib', 'fid', 'apd', 'p_rmse', 'aed_emoca', 'e_rmse', 'fvd'),
    size=512,
    note="the paper's table of it is in no text that we have, so that no number of it stands "
    'beside ours',
  ),
  'loki-self': Protocol(
    'self',
    ('hpf', 'hef', 'psnr', 'ssim', 'lpips', 'fvd_videomae'),
    size=512,
    frames=16,
    paper={
      'HDTF, 16 frames': {
        method: (*row, None, None, None, None) for method, row in _LOKI_SELF.items()
      }
    },
    note="the paper's tracker is a FLAME fit; ours is our own head model's",
  ),
  'loki-cross': Protocol(
    'cross',
    ('hpf', 'hef', 'csim'),
    size=512,
    frames=16,
    paper={'HDTF, 16 frames': _LOKI_CROSS},
    note="the paper's tracker is a FLAME fit; its ID is the cosine with the mean embedding of the "
    'reference clip',
  ),
}
BESIDES = {'magicportrait-self': ('csim', 'aed'), 'magicportrait-cross': ('csim', 'aed')}


def wanted(name: str) -> tuple[str, ...]:
  """All metrics that a protocol computes: its columns, its stand-ins, our own fit's, and what says
  how steady it is."""
  from exp_jax.metrics.evaluation.catalog import EXTRAS, OWN

  protocol = PROTOCOLS[name]
  listed = (*protocol.columns, *BESIDES.get(name, ()), *OWN, *EXTRAS)
  return tuple(dict.fromkeys(n for n in listed if protocol.kind in METRICS[n].kinds))
