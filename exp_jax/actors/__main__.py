"""Makes synthetic people with known truth.

  python -m exp_jax.actors -o out/actors --num 40 --frames 16 --size 128 --seed 0

leaves in the folder clips/<id>.mp4, truth/<id>.npz (subject files: parameters, static and dynamic
offsets, camera, light), mattes/<id>.npz (matte, landmarks, gaze; with --maps also normals, depth
and uv) and sheet.png. Run again, it goes on where it was; more people (--num) can be added later.
"""

import argparse
import pathlib

import numpy as np
from tqdm import tqdm

from exp_jax.actors import clips
from exp_jax.actors.actor import sample_actor
from exp_jax.actors.motion import sample_motion
from exp_jax.actors.render import render_actor
from exp_jax.actors.stage import load_stage
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(
    prog='python -m exp_jax.actors',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True, help='folder to fill')
  parser.add_argument('--num', type=int, default=40, help='people, one clip each (default 40)')
  parser.add_argument('--frames', type=int, default=16, help='frames of each clip (default 16)')
  parser.add_argument('--size', type=int, default=128, help='pixels, square, even (default 128)')
  parser.add_argument('--fps', type=float, default=12.0, help='frames per second (default 12)')
  parser.add_argument(
    '--seed', type=int, default=0, help='equal seeds make equal people (default 0)'
  )
  parser.add_argument(
    '--head', default='makehuman', help="head model: 'makehuman', 'procedural' or a file"
  )
  parser.add_argument(
    '--maps', action='store_true', help='also store normals, depth and uv of every pixel'
  )
  options = parser.parse_args(argv)
  if options.num < 1 or options.frames < 1 or not 0 < options.fps <= 240 or options.seed < 0:
    raise UserError('--num and --frames must be at least 1, --fps in 0..240, --seed not negative')
  if options.size % 2 or not 16 <= options.size <= 2048:
    raise UserError(f'--size must be an even number in 16..2048, got {options.size}')
  folder = options.output
  stage = load_stage(options.head)
  clips.claim_folder(
    folder,
    {
      'head': stage.assets.head.name,
      'frames': options.frames,
      'size': options.size,
      'fps': options.fps,
      'seed': options.seed,
      'maps': options.maps,
    },
  )
  names = [f'actor_{index:05d}' for index in range(options.num)]
  kept = [name for name in names if clips.is_finished(folder, name)]
  if kept:
    print(f'{len(kept)} of {len(names)} are there already')
  for index, name in enumerate(tqdm(names, unit='actor')):
    if name in kept:
      continue
    rng = np.random.default_rng([options.seed, index])
    actor = sample_actor(rng, stage)
    motion = sample_motion(rng, stage.assets.head, num_frames=options.frames, fps=options.fps)
    clip = render_actor(actor, motion, stage, size=options.size, subject_id=name, maps=options.maps)
    clips.write_clip(folder, name, clip)
  clips.write_sheet(
    folder / 'sheet.png',
    [clips.middle_frame(clips.paths_of(folder, name)['clip']) for name in names],
  )
  print(f'{len(names)} actors in {folder}; {folder / "sheet.png"} shows them')


if __name__ == '__main__':
  main()
