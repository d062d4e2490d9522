"""Makes the picture of the README: NASA's astronaut (public domain) driven by a synthetic actor
through the textured preview.

  python docs/picture.py -o docs/images/astronaut.webp     # a few minutes on two idle cores

Runs `exp_jax.actors` and `exp_jax.animate`, then packs the side-by-side video as a WebP that plays
to and fro.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import PIL.Image
import skimage.data

from exp_jax.media.images import write_image
from exp_jax.media.video import read_video

_FRAMES = slice(14, 32)  # the actor blinks before, and the preview's closed lids smear
_HEIGHT = 240  # pixels of the picture
_RATE = 12  # frames a second


def run(command: str, *arguments: str) -> None:
  subprocess.run([sys.executable, '-m', f'exp_jax.{command}', *arguments], check=True)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('-o', '--output', required=True, help='the .webp file')
  parser.add_argument(
    '--folder', help='where clips and videos are left (default: a temporary folder)'
  )
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(args.folder or temporary)
    folder.mkdir(parents=True, exist_ok=True)
    write_image(folder / 'astronaut.png', skimage.data.astronaut())
    run(
      'actors',
      '-o',
      str(folder / 'actors'),
      '--num',
      '1',
      '--frames',
      '32',
      '--size',
      '384',
      '--seed',
      '3',
    )
    run(
      'animate',
      '-s',
      str(folder / 'astronaut.png'),
      '-d',
      str(folder / 'actors' / 'clips' / 'actor_00000.mp4'),
      '--size',
      '384',
      '-o',
      str(folder / 'astronaut.mp4'),
    )
    frames = read_video(folder / 'astronaut_side_by_side.mp4').frames[_FRAMES]
  pack(frames, args.output)


def pack(frames: np.ndarray, output: str) -> None:
  """Writes frames [T, H, W, 3] uint8 as an animated WebP of _HEIGHT pixels that plays to and
  fro."""
  height, width = frames.shape[1:3]
  small = [
    PIL.Image.fromarray(frame).resize(
      (width * _HEIGHT // height, _HEIGHT), PIL.Image.Resampling.LANCZOS
    )
    for frame in frames
  ]
  first, *rest = small + small[-2:0:-1]
  first.save(
    output, save_all=True, append_images=rest, duration=1000 // _RATE, loop=0, quality=80, method=6
  )


if __name__ == '__main__':
  main()
