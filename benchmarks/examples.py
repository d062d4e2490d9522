"""What a training example of the main mode is: a histogram over 1,000 drawn ones.

  python benchmarks/examples.py [-o examples.json] [--records FOLDER_OR_FILE --size 512] [--count 1000]

Starts and strides of the windows, which of them begin in the middle of a code, and how far the
reference's head is turned away from the window's first frame. Without --records 40 synthetic clips
of 225 frames are encoded by a stand-in (the codes do not matter here). Prints histograms and JSON;
ends with 1 if a part of the clips is never seen, or a reference is the window's first frame.
"""

import argparse
import json
import pathlib
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from configs.dit_a800 import get_config  # noqa: E402
from exp_jax.data.sources import write_records  # noqa: E402
from exp_jax.data.synthetic import synthetic_clip  # noqa: E402
from exp_jax.data.transforms import angles  # noqa: E402
from exp_jax.errors import exits_cleanly  # noqa: E402
from exp_jax.networks.codec import Codec  # noqa: E402
from exp_jax.systems.expportrait.records.examples import examples  # noqa: E402
from exp_jax.systems.expportrait.records.windows import Towers, WindowOptions, window_records  # noqa: E402

CLIPS, FRAMES, SIZE = 40, 225, (16, 32)


def write_synthetic(path: pathlib.Path) -> None:
  """Window records of turning ellipsoids, with zeros in place of codes."""
  zeros = lambda video: np.zeros(
    (*video.shape[:-4], (video.shape[-4] - 1) // 4 + 1, SIZE[0] // 8, SIZE[1] // 8, 16), np.float32
  )
  towers = Towers(Codec((4, 8, 8), 16, zeros, None, lambda: None))
  clips = (
    synthetic_clip(i, num_frames=FRAMES, height=SIZE[0], width=SIZE[1]) for i in range(CLIPS)
  )
  write_records(
    path, (made for clip in clips for made in window_records(clip, towers, WindowOptions()))
  )


def drawn(config, count: int) -> dict[str, np.ndarray]:
  """Of `count` examples: start and end as shares of the clip, stride, whether later, degrees
  between reference and first frame."""
  keys = ('latents', 'normals', 'reference', 'reference_normals', 'reference_latents', 'valid')
  source, transform = examples(config, (*keys, 'reference_turn', 'turns'), strides=(4, 8, 8))
  lengths = {}
  for i in range(len(source)):
    record = source[i]
    start, stride, _, _ = map(int, record['window'])
    end = start + stride * (len(record['normals']) - 1) + 1
    lengths[record['clip_id']] = max(end, lengths.get(record['clip_id'], 0))
  rows = []
  for g in range(count):
    rng = np.random.default_rng((0, g))
    record = source[int(rng.integers(len(source)))]
    example = transform(record, rng)
    start, stride, _, lead = map(int, record['window'])
    rows.append(
      (
        start / lengths[record['clip_id']],
        (start + stride * (config.data.num_frames - 1) + 1) / lengths[record['clip_id']],
        stride,
        lead > 0,
        angles(example['turns'][0], example['reference_turn'][None])[0],
      )
    )
  return dict(zip(('start', 'end', 'stride', 'later', 'degrees'), np.array(rows).T))


def histogram(name: str, values: np.ndarray, edges: np.ndarray) -> list[float]:
  """Shares of the bins, printed as bars."""
  shares = np.histogram(values, edges)[0] / len(values)
  print(name)
  for low, high, share in zip(edges, edges[1:], shares):
    print(f'  {low:6.2f} to {high:6.2f}  {100 * share:5.1f} %  {"#" * round(100 * share)}')
  return [round(float(share), 4) for share in shares]


@exits_cleanly
def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('-o', '--output', type=pathlib.Path, help='JSON')
  parser.add_argument('--records', help='window records by `exp_jax encode`')
  parser.add_argument('--size', type=int, default=512, help='pixels of --records')
  parser.add_argument('--count', type=int, default=1000)
  args = parser.parse_args()
  config = get_config().unlock()
  with tempfile.TemporaryDirectory() as folder:
    if args.records:
      config.data.update(path=args.records, height=args.size, width=args.size)
    else:
      config.data.update(path=f'{folder}/windows.array_record', height=SIZE[0], width=SIZE[1])
      write_synthetic(pathlib.Path(config.data.path))
    found = drawn(config.lock(), args.count)
  seen = np.linspace(0, 1, 101)[:-1] + 0.005
  covered = [float(((found['start'] <= place) & (place < found['end'])).mean()) for place in seen]
  result = dict(
    examples=args.count,
    starts=histogram(
      'start of the window, share of the clip', found['start'], np.linspace(0, 1, 11)
    ),
    strides={
      int(s): round(float((found['stride'] == s).mean()), 4) for s in np.unique(found['stride'])
    },
    later=round(float(found['later'].mean()), 4),
    least_seen_part=round(min(covered), 4),
    degrees=histogram(
      'reference against first frame, degrees',
      found['degrees'],
      np.array([0, 1, 5, 10, 20, 40, 60, 90, 180]),
    ),
    reference_is_first_frame=round(float((found['degrees'] < 1e-3).mean()), 4),
  )
  print(json.dumps(result))
  if args.output:
    args.output.write_text(json.dumps(result, indent=1) + '\n')
  return 1 if min(covered) == 0 or result['reference_is_first_frame'] > 0 else 0


if __name__ == '__main__':
  sys.exit(main())
