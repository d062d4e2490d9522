"""Fits personalized heads to photographs and clips.

  python -m exp_jax.fit -i portrait.jpg -o out/subjects                                  # default config
  python -m exp_jax.fit -i clip.mp4 -o out/subjects --config=configs/fit_head.py:smoke

Expect on two CPU cores: about a minute for a photograph (half of it compilation).
"""

import ml_collections


def get_config(mode: str = ''):
  c = ml_collections.ConfigDict()
  c.head = 'makehuman'  # or the path of a converted head with MediaPipe landmarks
  c.levels = (
    1  # subdivisions: 22k vertices for MakeHuman; -1: so many that a face's edges are 1.5 pixels
  )
  c.size = 512  # pixels of the square crop
  c.limit = 0  # frames read of a clip; 0 for all
  c.offsets = 'auto'  # 'yes', 'no', 'auto': for single pictures, and clips with normals
  # see normals, depth, matte; 'none', or separated by commas: ONNX files (DAViD, MoGe-2), exports
  c.networks = 'embedded'
  c.landmark_model = ''  # MediaPipe Tasks file face_landmarker.task; '' for the model of set-up
  c.observations = (
    ''  # folder of <name>.npz seen elsewhere (observe/arrays.py), instead of estimating
  )
  c.cache = ''  # folder that keeps what was estimated, by content
  c.focal = 0.0  # focal length of the camera, pixels of the input; 0: found
  c.face = -1  # which face, 0 the largest; -1 the largest, with a warning of rivals
  c.steps = 160  # of Adam in the offset stage
  c.batch = 4  # frames a step
  c.together = 0  # inputs fitted in one program; 0: 1 on a CPU, 16 on an accelerator
  if mode == 'smoke':
    c.levels, c.size, c.limit, c.steps = 0, 256, 4, 10
  elif mode:
    raise ValueError(f'unknown mode {mode!r}')
  return c.lock()
