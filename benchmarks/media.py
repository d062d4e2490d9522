"""Frames per second and peak memory of reading, writing, cropping and pasting video, beside plain
loops over PyAV.

  python benchmarks/media.py [--size 512 --frames 200] [--clip FILE]

Ours and the plain loop are timed one after the other, several times, the fastest of each counts, so
that the ratio means something on a busy machine; the frame rates do not then. The plain loops are
the least that PyAV needs: decode to RGB without turning, colour tags, times or checks; encode RGB
at the same x264 settings without sound. Peak memory is that of a process of its own that streams a
clip through reader and writer, for 200 and for 2,000 frames; it ends with 1 if the second is more
than 1.2 times the first. Leaves docs/results/figures/media.json and media_memory.json.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import av
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from record import Column, write_record  # noqa: E402

from exp_jax.errors import exits_cleanly  # noqa: E402
from exp_jax.media import paste, squares, video  # noqa: E402

REPEATS = 3
_STREAM = """
import resource, sys
from exp_jax.media import video
timed = ((frame, time) for frame, time in video.read_frames(sys.argv[1]))
print(video.write_timed_video(sys.argv[2], timed, 25), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def moving_picture(count: int, size: int):
  """Frames [size, size, 3] of grain and gradients that move, about as hard to code as a talking
  head."""
  rng = np.random.default_rng(0)
  y, x = np.mgrid[: size + 64, : size + 64]
  base = 110 + 60 * np.sin(x / 37) * np.cos(y / 23) + rng.normal(0, 6, x.shape)
  base = np.clip(base[..., None] + [0, 12, -20], 0, 255).astype(np.uint8)
  for t in range(count):
    dx, dy = int(32 + 30 * np.sin(t / 9)), int(32 + 30 * np.cos(t / 13))
    yield base[dy : dy + size, dx : dx + size]


def plain_decode(path) -> int:
  """Frames decoded by PyAV alone."""
  count = 0
  with av.open(str(path)) as container:
    container.streams.video[0].thread_type = 'AUTO'
    for frame in container.decode(video=0):
      frame.to_ndarray(format='rgb24')
      count += 1
  return count


def plain_encode(path, frames) -> int:
  """Frames encoded by PyAV alone, at the same settings of x264."""
  with av.open(str(path), 'w') as out:
    stream = out.add_stream('libx264', rate=25, options={'crf': '16', 'preset': 'medium'})
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = 'yuv420p'
    for pixels in frames:
      out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format='rgb24')))
    out.mux(stream.encode(None))
  return len(frames)


def alternately(actions: dict, repeats: int = REPEATS) -> dict[str, float]:
  """Least seconds of each action, run in turn."""
  least = dict.fromkeys(actions, float('inf'))
  for _ in range(repeats):
    for name, action in actions.items():
      began = time.perf_counter()
      action()
      least[name] = min(least[name], time.perf_counter() - began)
  return least


def peak_megabytes(folder: pathlib.Path, count: int, size: int) -> float:
  """Of a process that reads and writes a clip of so many frames."""
  source = folder / f'{count}.mp4'
  video.write_video(source, moving_picture(count, size), 25, crf=28)
  done = subprocess.run(
    [sys.executable, '-c', _STREAM, str(source), str(folder / 'copy.mp4')],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  frames, kilobytes = map(int, done.stdout.split())
  assert frames == count
  return kilobytes / 1024


SPEEDS = [
  Column('what', 'what'),
  Column('rate', 'frames a second', '', 0),
  Column('ratio', 'of a plain PyAV loop', '', 2),
]
PEAKS = [
  Column('frames', 'frames'),
  Column('peak', 'peak memory', 'MB', 1),
  Column('ratio', 'of that for 200 frames', '', 2),
]


@exits_cleanly
def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--size', type=int, default=512)
  parser.add_argument('--frames', type=int, default=200)
  parser.add_argument('--clip', type=pathlib.Path, help='decode this file instead of a made one')
  parser.add_argument(
    '--memory_size', type=int, default=256, help='pixels of the clips for peak memory'
  )
  args = parser.parse_args()
  rows, before = {}, os.getloadavg()[0]
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    frames = list(moving_picture(args.frames, args.size))
    clip = args.clip or folder / 'clip.mp4'
    if args.clip is None:
      video.write_video(clip, frames, 25)
    count = plain_decode(clip)
    seconds = alternately(
      {'ours': lambda: sum(1 for _ in video.read_frames(clip)), 'plain': lambda: plain_decode(clip)}
    )
    rows['decode'] = {k: count / v for k, v in seconds.items()}
    seconds = alternately(
      {
        'ours': lambda: video.write_video(folder / 'a.mp4', frames, 25),
        'plain': lambda: plain_encode(folder / 'b.mp4', frames),
      }
    )
    rows['encode'] = {k: len(frames) / v for k, v in seconds.items()}
    picture = np.ascontiguousarray(next(moving_picture(1, 1080)))
    cut = squares.Square((540, 520), 500, 0.1).cut(512)
    crop = np.rint(squares.cut_out(picture, cut)).astype(np.uint8)
    patch = paste.open_patch(cut, paste.feathered_box((512, 512)), picture.shape[:2])
    again = lambda action: lambda: [action() for _ in range(20)]
    seconds = alternately(
      {
        'cut': again(lambda: squares.cut_out(picture, cut)),
        'paste': again(lambda: paste.paste(patch, picture, crop)),
      }
    )
    rows['cut 512 of 1080'] = {'ours': 20 / seconds['cut']}
    rows['paste 512 into 1080'] = {'ours': 20 / seconds['paste']}
    peaks = {n: peak_megabytes(folder, n, args.memory_size) for n in (200, 2000)}
  for name, row in rows.items():
    ratio = f'  {row["ours"] / row["plain"]:6.2f} of the plain loop' if 'plain' in row else ''
    print(f'{name:22s} {row["ours"]:9.1f} frames a second{ratio}')
  print(
    f'peak memory            {peaks[200]:9.1f} MB for 200 frames, {peaks[2000]:.1f} MB for 2,000: '
    f'{peaks[2000] / peaks[200]:.3f}'
  )
  found = [
    {
      'what': f'{name}, {args.size} pixels' if 'code' in name else name,
      'rate': row['ours'],
      'ratio': row['ours'] / row['plain'] if 'plain' in row else None,
    }
    for name, row in rows.items()
  ]
  print(write_record('media', SPEEDS, found, load=(before, os.getloadavg()[0])))
  found = [
    {'frames': count, 'peak': peak, 'ratio': peak / peaks[200]} for count, peak in peaks.items()
  ]
  print(write_record('media_memory', PEAKS, found, load=(before, os.getloadavg()[0])))
  return 0 if peaks[2000] <= 1.2 * peaks[200] else 1


if __name__ == '__main__':
  sys.exit(main())
