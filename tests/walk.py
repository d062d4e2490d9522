"""Goes through all stages of a lab at tiny size, from mp4 files to scores, and kills every command
once on the way.

  python -m tests.walk -o out/walk [--footage FOLDER] [--no_kill]        (make walk)

  actors (or your own footage), laid out as HDTF -> datasets/build.py -> prepare (landmarks, fits,
  mixed offsets, further control channels, masks) -> convert (random Wan networks, their CLIP tower
  and prompts) -> encode (both kinds of windows) -> train (the main mode, and lora14b with CLIP) ->
  export -> animate -> evaluate

Every command is the documented one, with sizes that two cores can bear; the networks are random, so
the pictures are noise and only the formats and their meaning are looked at. Each command is killed
(SIGKILL) as soon as it has left something, then run
again: it must go on. Leaves a table on the screen and walk.json; run again, it goes on. Exit status
0: everything held.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np

from exp_jax.data.sources import PortraitClips
from exp_jax.errors import UserError, exits_cleanly
from exp_jax.files.npz import write_npz
from exp_jax.media.video import read_video, write_video
from exp_jax.networks.clip_vision import clip_vision
from exp_jax.networks.wan_dit import wan_dit
from exp_jax.networks.wan_vae import wan_vae
from exp_jax.networks.weights import FORMAT
from tests.systems.expportrait.test_wan_road import write_folder, write_tower

ROOT = pathlib.Path(__file__).parents[1]
# pixels, frames of a window, tokens of a prompt and their width
SIZE, FRAMES, WORDS = 64, 9, (4, 12)
_TINY = (
  '--config.model.dtype=float32',
  '--config.model.residual_dtype=float32',
  '--config.model.attention=xla',
  '--config.model.remat=none',
  '--config.flow.text_tokens=4',
  '--config.batch_size=2',
  "--config.mesh=(('data',1),)",
  "--config.param_sharding=(('.*',None),)",
  '--config.tensorboard=False',
  '--config.log_every=1',
  '--config.save_every=2',
  '--config.total_steps=6',
  '--config.eval_batches=1',
  '--config.data_threads=2',
  '--config.optimizer.warmup_steps=1',
  f'--config.data.num_frames={FRAMES}',
  f'--config.data.height={SIZE}',
  f'--config.data.width={SIZE}',
  "--config.condition.extras=('iris','mouth')",
)


@dataclasses.dataclass(frozen=True)
class Stage:
  """A command, what it leaves at its end, and files (a pattern) whose first tells that it has begun
  to leave something."""

  name: str
  command: tuple[str, ...]
  leaves: str
  begun: str = ''


def stages(footage: pathlib.Path, portrait: str) -> list[Stage]:
  """The commands; paths are relative to the output folder.

  `portrait` is the clip that is reenacted at the end.
  """
  module = lambda name, *more: (sys.executable, '-m', 'exp_jax', name, *map(str, more))
  config = f'--config={ROOT / "configs" / "dit_a800.py"}'
  train = lambda mode, name, *more: module(
    'train',
    config + mode,
    f'--workdir={name}',
    *_TINY,
    '--config.data.path=latents/encoded.array_record',
    '--config.vae.path=vae',
    *more,
  )
  begun = lambda name: f'{name}/checkpoints/*/commit.json'
  clip = f'hdtf/clips/{portrait}.mp4'
  return [
    Stage(
      'build',
      (
        sys.executable,
        str(ROOT / 'datasets' / 'build.py'),
        'hdtf',
        '--manual_dir',
        'hdtf',
        '--data_dir',
        'tfds',
      ),
      'tfds/hdtf/1.0.0/dataset_info.json',
      'tfds/hdtf/*',
    ),
    Stage(
      'prepare',
      module(
        'prepare',
        '--dataset',
        'tfds/hdtf/1.0.0',
        '--split',
        'train',
        '-o',
        'shards',
        '--size',
        SIZE,
        '--fit_size',
        128,
        '--offsets',
        'yes',
        '--steps',
        12,
        '--levels',
        0,
        '--extras',
        'iris,mouth',
        '--transfer',
        ROOT / 'exp_jax' / 'embedded' / 'transfer',
        '--transfer_share',
        0.5,
        '--most_invented',
        0.8,
        '--faces',
        'largest',
      ),
      'shards/train.array_record',
      'shards/parts/*.array_record',
    ),
    Stage('import dit', module('convert.wan', 'import', 'wan', '-o', 'dit'), 'dit/commit.json'),
    Stage('import i2v', module('convert.wan', 'import', 'wan_i2v', '-o', 'i2v'), 'i2v/commit.json'),
    Stage('import vae', module('convert.wan', 'import', 'wan_vae', '-o', 'vae'), 'vae/commit.json'),
    Stage(
      'encode',
      module(
        'encode',
        '-i',
        'shards/train.array_record',
        '-o',
        'latents',
        '--vae',
        'vae',
        '--codec',
        'wan',
        '--clip',
        'clip',
        '--prompt',
        'words.npz',
        '--frames',
        FRAMES,
        '--references',
        3,
        '--lead',
        2,
      ),
      'latents/encoded.array_record',
      'latents/parts/*.array_record',
    ),
    Stage(
      'train',
      train('', 'main', '--config.model.variant=tiny', '--config.model.weights=dit'),
      'main/finished',
      begun('main'),
    ),
    Stage(
      'train lora14b',
      train(
        ':lora14b',
        'lora',
        '--config.model.variant=tiny_i2v',
        '--config.model.weights=i2v',
        '--config.model.lora_rank=4',
        '--config.condition.clip_weights=clip',
      ),
      'lora/finished',
      begun('lora'),
    ),
    *[
      Stage(
        f'export {name}',
        module('export', '--workdir', name, '-o', f'{name}_export'),
        f'{name}_export/commit.json',
      )
      for name in ('main', 'lora')
    ],
    *[
      Stage(
        f'animate {name}',
        module(
          'animate',
          '-s',
          clip,
          '--source_frame',
          0,
          '-d',
          clip,
          '-o',
          f'videos_{name}/{portrait}.mp4',
          '--engine',
          'dit',
          '--export',
          f'{name}_export',
          '--vae',
          'vae',
          '--steps',
          2,
          '--sampler',
          'euler',
          '--overlap',
          1,
          '--size',
          128,
          '--limit',
          20,
        ),
        f'videos_{name}/{portrait}.json',
      )
      for name in ('main', 'lora')
    ],
    Stage(
      'evaluate',
      module(
        'evaluate',
        '--protocol=expportrait-self',
        '--stride',
        1,
        '--result',
        f'videos_main/{portrait}.mp4',
        '--truth',
        clip,
        '-o',
        'scores',
      ),
      'scores/scores.json',
    ),
  ]


def lay_out(output: pathlib.Path, footage: pathlib.Path | None) -> str:
  """Fills hdtf/clips with mp4 files of talking people, tightly cut; returns the name of the one
  that is reenacted."""
  clips = output / 'hdtf' / 'clips'
  if footage is None:
    footage = output / 'actors' / 'clips'
    run(
      (
        sys.executable,
        '-m',
        'exp_jax.actors',
        '-o',
        'actors',
        '--num',
        '3',
        '--frames',
        '26',
        '--size',
        '256',
        '--fps',
        '25',
        '--seed',
        '9',
      ),
      output,
    )
  films = sorted(footage.glob('*.mp4'))[:3]
  if not films:
    raise UserError(f'no mp4 files in {str(footage)!r}')
  names = [f'RD_Walker{i}_0' for i in range(len(films))]
  for name, film in zip(names, films):
    if not (clips / f'{name}.mp4').is_file():
      clip = read_video(film, limit=60)
      frames = clip.frames
      # so that the head's square is larger than the film
      edge = frames.shape[1] // 9 * 2 if footage.parent == output / 'actors' else 0
      height, width = ((n - 2 * edge) // 2 * 2 for n in frames.shape[1:3])
      write_video(
        clips / f'{name}.mp4',
        frames[:, edge // 2 : edge // 2 + height, edge : edge + width],
        clip.rate,
      )
  return names[0]


def make_networks(output: pathlib.Path) -> None:
  """Random tiny networks in the files of a Wan release: text to video, image to video, autoencoder,
  CLIP tower, prompts."""
  rng = np.random.default_rng(0)
  small = dict(width=32, heads=2, ffn=64, depth=2, text_dim=WORDS[1], freq_dim=16)
  for name, network, model in (
    ('wan', 'dit', wan_dit('tiny', **small)),
    ('wan_i2v', 'dit', wan_dit('tiny_i2v')),
    ('wan_vae', 'vae', wan_vae('tiny')),
  ):
    if not (output / name).is_dir():
      write_folder(output / name, network, model, rng)
  if not (output / 'clip').is_dir():
    write_tower(output / 'clip', clip_vision('tiny', image=64), FORMAT)
  write_npz(
    output / 'words.npz',
    {name: rng.normal(size=WORDS).astype(np.float32) for name in ('positive', 'negative', 'empty')},
  )


def run(command: tuple[str, ...], output: pathlib.Path) -> None:
  """UserError with a command's last words unless it ends with 0."""
  done = subprocess.run(
    command, cwd=output, env=_environment(output), capture_output=True, text=True
  )
  if done.returncode:
    raise UserError(
      f'{" ".join(command[1:4])} ended with {done.returncode}: {done.stderr.strip()[-600:]}'
    )


def _environment(output: pathlib.Path) -> dict[str, str]:
  return os.environ | {
    'PYTHONPATH': str(ROOT),
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(output / 'compiled'),
  }


def kill_once(stage: Stage, output: pathlib.Path, seconds: float) -> str:
  """Starts a command and kills it when it has left something, or after `seconds`; says what was
  there then."""
  process = subprocess.Popen(
    stage.command,
    cwd=output,
    env=_environment(output),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  began = time.monotonic()
  while process.poll() is None:
    if list(output.glob(stage.begun)) if stage.begun else time.monotonic() - began > seconds:
      process.send_signal(signal.SIGKILL)
      process.wait()
      break
    time.sleep(0.02)
  found = (output / stage.leaves).exists()
  return (
    'ended first'
    if process.returncode >= 0
    else f'killed after {time.monotonic() - began:.0f} s' + (', was whole' if found else '')
  )


def look(output: pathlib.Path) -> dict:
  """What the records and scores hold; UserError where they do not mean what they should."""
  clips, windows = (
    PortraitClips(str(output / name))
    for name in ('shards/train.array_record', 'latents/encoded.array_record')
  )
  pixels, codes = [clips[i] for i in range(len(clips))], [windows[i] for i in range(len(windows))]
  found = dict(
    clips=len(pixels),
    windows=len(codes),
    offsets=sorted({r['offsets'] for r in pixels}),
    invented=[round(1 - float((r['valid'] > 0).mean()), 3) for r in pixels],
    later=sum(int(r['window'][3]) > 0 for r in codes),
    strides=sorted({int(r['window'][1]) for r in codes}),
    tokens=list(codes[0]['references_clip'].shape),
    extras=codes[0]['extra_names'],
    weights=sorted(json.loads(codes[0]['weights'])),
  )
  if not (
    0 < found['later'] < len(codes)
    and max(found['invented']) > 0.02
    and 'transferred' in found['offsets']
  ):
    raise UserError(
      f'the records lack windows of both kinds, invented pixels or transferred offsets: {found}'
    )
  scores = json.loads((output / 'scores' / 'scores.json').read_text())
  return found | {'scores': scores}


@exits_cleanly
def main(argv=None):
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('-o', '--output', type=pathlib.Path, default=pathlib.Path('out/walk'))
  parser.add_argument(
    '--footage',
    type=pathlib.Path,
    help='folder of mp4 files of one speaker each, instead of synthetic people',
  )
  parser.add_argument('--no_kill', action='store_true', help='run every command once only')
  args = parser.parse_args(argv)
  output = args.output.absolute()
  output.mkdir(parents=True, exist_ok=True)
  portrait = lay_out(output, args.footage and args.footage.absolute())
  make_networks(output)
  rows = []
  for stage in stages(output, portrait):
    if (output / stage.leaves).exists():
      rows.append((stage.name, 'done before', 0.0))
      continue
    killed = '' if args.no_kill else kill_once(stage, output, seconds=4.0)
    began = time.monotonic()
    if not (output / stage.leaves).exists():  # what was whole when it was killed is not made again
      run(stage.command, output)
    if stage.leaves.endswith('finished'):
      (output / stage.leaves).touch()
    if not (output / stage.leaves).exists():
      raise UserError(f'{stage.name} ended with 0 and left no {stage.leaves}')
    rows.append((stage.name, killed, time.monotonic() - began))
    print(f'{stage.name:16s} {killed:28s} then {rows[-1][2]:6.1f} s', flush=True)
  found = look(output)
  (output / 'walk.json').write_text(json.dumps({'stages': rows} | found, indent=1) + '\n')
  print(json.dumps({k: v for k, v in found.items() if k != 'scores'}))
  return 0


if __name__ == '__main__':
  sys.exit(main())
