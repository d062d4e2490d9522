"""Adds latents to records once, so that training need not encode the same frames again and again.

  python -m exp_jax.systems.expportrait.encode -i out/clips -o out/latents \\
      --vae out/vae_export [--codec patch | wan] [--tile 256] [--mirror]

The codes of a reference: of the image alone, or with Wan's autoencoder of the image followed by blank video.
"""

import pathlib
from collections.abc import Iterator

import jax
import numpy as np
from tqdm import tqdm

from exp_jax.data.sources import PortraitClips, write_records
from exp_jax.data.transforms import turned
from exp_jax.errors import ArgumentParser, exits_cleanly
from exp_jax.systems.expportrait.codec import Codec, open_codec


def encode_record(record: dict, encode, stride: int = 1) -> dict:
  """The record with `latents` [F, h, w, C] and `reference_latents` [h, w, C] or, for a temporal stride, [F, h, w, C]; float16.

  Textured previews become `preview_latents` [K, T, h, w, C], by autoencoders of single frames.

  `encode` maps [T, H, W, 3] in [-1, 1] to latents. Frames beyond the last 1 + stride k are left out.
  """
  scaled = lambda images: images.astype(np.float32) / 127.5 - 1.0
  if stride == 1:
    codes = {'latents': np.asarray(encode(scaled(record['video'])), np.float16),
             'reference_latents': np.asarray(encode(scaled(record['reference'])[None])[0], np.float16)}
    if 'previews' in record:                 # their pixels have served
      codes['preview_latents'] = np.stack([np.asarray(encode(scaled(clip)), np.float16) for clip in record['previews']])
    return {k: v for k, v in record.items() if k != 'previews'} | codes
  video = scaled(record['video'])
  video = video[: 1 + (len(video) - 1) // stride * stride]
  blank = np.zeros_like(video)
  blank[0] = scaled(record['reference'])
  return record | {'latents': np.asarray(encode(video), np.float16),
                   'reference_latents': np.asarray(encode(blank), np.float16)}


def encoded(source, codec: Codec, *, mirrored: bool) -> Iterator[dict]:
  """Every record with latents; with `mirrored` also its mirror image, under clip_id +
  '-mirrored'."""
  stride = codec.strides[0]
  encode = jax.jit(codec.encode) if stride == 1 else codec.encode        # Wan's compiles itself, weights as arguments
  for index in range(len(source)):
    record = source[index]
    yield encode_record(record, encode, stride)
    if mirrored:
      yield encode_record(turned(record) | {'clip_id': record['clip_id'] + '-mirrored'}, encode, stride)


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('-i', '--input', required=True, help='records: a folder, file or pattern')
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True, help='a folder')
  parser.add_argument('--vae', required=True, help="an export of task 'expportrait/vae', or weights by convert.wan")
  parser.add_argument('--codec', choices=('patch', 'wan'), default='patch')
  parser.add_argument('--tile', type=int, default=0, help="pixels of a tile's edge, where frames are too large for Wan's; 0: none")
  parser.add_argument('--mirror', action='store_true', help='double the data by mirror images')
  args = parser.parse_args(argv)
  source, codec = PortraitClips(args.input), open_codec(args.codec, args.vae, args.tile)
  total = len(source) * (2 if args.mirror else 1)
  records = tqdm(encoded(source, codec, mirrored=args.mirror), total=total, unit='clip')
  count = write_records(args.output / 'encoded.array_record', records)
  print(f'{args.output}: {count} clips with latents')


if __name__ == '__main__':
  main()
