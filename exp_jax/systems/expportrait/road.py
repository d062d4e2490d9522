"""The stages of `make demo`, each a command line that a user could type, and what is done when."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import skimage.data

from exp_jax.errors import UserError
from exp_jax.media.images import write_image
from exp_jax.systems.expportrait.road_page import write_page

ACTORS, HELD_OUT, FRAMES, SIZE = 88, 6, 12, 64   # people, people never trained on, frames each, training pixels
_DRIVER = ['--num', '1', '--frames', '60', '--size', '384', '--fps', '24', '--seed', '77']


@dataclasses.dataclass(frozen=True)
class Stage:
  """name; what it is for; the arguments after `python -m exp_jax.`; the file that exists when it is done."""
  name: str
  purpose: str
  arguments: list[str]
  leaves: pathlib.Path


def stages(out: pathlib.Path, portrait: pathlib.Path, driving: pathlib.Path | None) -> list[Stage]:
  """The road in order. Paths with the input's name in them, so that another portrait is another stage."""
  actors, shards, subjects = out / 'actors', out / 'shards', out / 'subjects'
  transfer, vae, dit = out / 'transfer', out / 'vae', out / 'dit'
  driver = driving or out / 'driver' / 'clips' / 'actor_00000.mp4'
  preview = out / 'preview' / f'{portrait.stem}_by_{driver.stem}.mp4'
  train = lambda config, workdir, *more: ['train', f'--config=configs/{config}:demo', f'--workdir={workdir}', *more]
  own_driver = [] if driving else [Stage(
    'driver', 'A synthetic actor moves in front of a camera: the default driving clip.',
    ['actors', '-o', f'{out / "driver"}', *_DRIVER], out / 'driver' / 'sheet.png')]
  return [
    Stage('fit', 'A personalized head for the photograph: landmarks, shape, expression, pose, then vertex offsets.',
          ['fit', '-i', f'{portrait}', '-o', f'{subjects}'], subjects / f'{portrait.stem}.npz'),
    *own_driver,
    Stage('track', 'The driving clip, from its video file, through the same observation and fit.',
          ['fit', '-i', f'{driver}', '-o', f'{subjects}'], subjects / f'{driver.stem}.npz'),
    Stage('actors', 'Synthetic people with known truth: the training and test clips.',
          ['actors', '-o', f'{actors}', '--num', f'{ACTORS}', '--frames', f'{FRAMES}', '--size', '128', '--seed', '1'],
          actors / 'sheet.png'),
    Stage('prepare', 'Clips and subjects to training shards with normal maps.',
          ['prepare', '--clips', f'{actors / "clips"}', '--subjects', f'{actors / "truth"}', '--mattes',
           f'{actors / "mattes"}', '-o', f'{shards}', '--size', f'{SIZE}', '--holdout', f'{HELD_OUT}'],
          shards / 'train.array_record'),
    Stage('train transfer', 'Driving expression + neutral geometry -> wrinkles of this person.',
          train('expression_transfer.py', transfer, f'--config.data.path={actors / "truth"}',
                f'--config.data.holdout={HELD_OUT}'), transfer / 'finished'),
    Stage('export transfer', 'Averaged weights for inference.',
          ['export', '--workdir', f'{transfer}', '-o', f'{out / "transfer_export"}'], out / 'transfer_export'),
    Stage('preview', 'The textured preview: the photograph on its head, moved by the driver. No network draws here.',
          ['animate', '-s', f'{portrait}', '-d', f'{driver}', '-o', f'{preview}', '--transfer',
           f'{out / "transfer_export"}', '--subjects', f'{subjects}'], preview.with_suffix('.json')),
    Stage('train vae', 'A small autoencoder of frames.',
          train('vae.py', vae, f'--config.data.path={shards / "train.array_record"}'), vae / 'finished'),
    Stage('export vae', 'Averaged weights for inference.',
          ['export', '--workdir', f'{vae}', '-o', f'{out / "vae_export"}'], out / 'vae_export'),
    Stage('train dit', 'The tiny video DiT, driven by normal maps.',
          train('dit_a800.py', dit, f'--config.data.path={shards / "train.array_record"}',
                f'--config.vae.path={out / "vae_export"}'), dit / 'finished'),
    Stage('export dit', 'Averaged weights for inference.',
          ['export', '--workdir', f'{dit}', '-o', f'{out / "dit_export"}'], out / 'dit_export'),
    Stage('evaluate', 'Self and cross reenactment of people the model has never seen, beside the truth.',
          ['evaluate', 'actors', '--export', f'{out / "dit_export"}', '--transfer', f'{out / "transfer_export"}',
           '--actors', f'{actors}', '--first', f'{ACTORS - HELD_OUT}', '--count', f'{HELD_OUT}', '-o',
           f'{out / "benchmark"}'], out / 'benchmark' / 'scores.json'),
  ]


def run(out: pathlib.Path, *, portrait: pathlib.Path | None, driving: pathlib.Path | None) -> pathlib.Path:
  """Runs what is not done yet and writes the page; returns its path.

  Raises:
    UserError: a stage failed (its own message is above), naming the stage and its log.
  """
  root = pathlib.Path(__file__).parents[3]
  out = out.absolute()
  (out / 'logs').mkdir(parents=True, exist_ok=True)
  if portrait is None:
    portrait = out / 'inputs' / 'astronaut.png'
    if not portrait.is_file():
      write_image(portrait, skimage.data.astronaut())
  portrait, driving = portrait.absolute(), driving and driving.absolute()
  if driving is not None and driving.stem == portrait.stem:
    raise UserError(f'portrait and driver are both called {portrait.stem!r}; rename one of them')
  times_file = out / 'seconds.json'
  times = json.loads(times_file.read_text()) if times_file.is_file() else {}
  # Compiled programs are shared between stages and between runs.
  environment = os.environ | {'JAX_COMPILATION_CACHE_DIR': f'{out / "compiled"}', 'PYTHONUNBUFFERED': '1',
                              'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.5', 'PYTHONPATH': f'{root}'}
  todo = stages(out, portrait, driving)
  for i, stage in enumerate(todo, 1):
    key = f'{stage.name} {stage.leaves.name}'
    if stage.leaves.exists():
      print(f'[{i}/{len(todo)}] {stage.name}: done before', flush=True)
      continue
    print(f'[{i}/{len(todo)}] {stage.name}: {stage.purpose}\n  python -m exp_jax.{" ".join(stage.arguments)}', flush=True)
    start = time.time()
    log = out / 'logs' / f'{stage.name.replace(" ", "_")}.log'
    status = _run([sys.executable, '-m', f'exp_jax.{stage.arguments[0]}', *stage.arguments[1:]], log, environment, root)
    if status:
      raise UserError(f'stage {stage.name!r} ended with status {status}, see {log}; run the same command again to go on')
    if stage.leaves.name == 'finished':
      stage.leaves.touch()
    times[key] = times.get(key, 0) + time.time() - start
    times_file.write_text(json.dumps(times, indent=1) + '\n')
    print(f'  {time.time() - start:.0f} s', flush=True)
  return write_page(out, todo, times)


def _run(command: list[str], log: pathlib.Path, environment: dict, root: pathlib.Path) -> int:
  """Runs one stage, its words to the screen and to its log; Ctrl-C reaches it and is passed on."""
  with log.open('ab') as copy:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=root)
    try:
      while chunk := process.stdout.read1(4096):
        sys.stdout.buffer.write(chunk)
        sys.stdout.flush()
        copy.write(chunk)
      return process.wait()
    except KeyboardInterrupt:
      process.wait(60)
      raise
