"""The stages of `make demo`, each a command line that a user could type, what it waits for, and
when it is done."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import skimage.data

from exp_jax.errors import UserError, one_line
from exp_jax.files import resources
from exp_jax.files.atomic import write_text
from exp_jax.files.locks import only_one
from exp_jax.media.images import write_image
from exp_jax.recipes.page import write_page

# people, people never trained on, frames each, training pixels
ACTORS, HELD_OUT, FRAMES, SIZE = 54, 6, 12, 128
_AT_ONCE = 2  # stages side by side: much of each is compilation, which uses one core
_DRIVER = ['--num', '1', '--frames', '60', '--size', '384', '--fps', '24', '--seed', '359']


@dataclasses.dataclass(frozen=True)
class Stage:
  """name; what it is for; arguments after `python -m exp_jax`; the file that exists when done;
  stages it needs."""

  name: str
  purpose: str
  arguments: list[str]
  leaves: pathlib.Path
  after: tuple[str, ...] = ()


def command(*words, **options) -> list[str]:
  """Words after `python -m exp_jax`: command('fit', o='out', size=512) is fit -o out --size 512; True
  is a flag alone."""
  given = []
  for name, value in options.items():
    flag = ('-' if len(name) == 1 else '--') + name
    given += [flag] if value is True else [flag, str(value)]
  return [*map(str, words), *given]


def stages(out: pathlib.Path, portrait: pathlib.Path, driving: pathlib.Path | None) -> list[Stage]:
  """The stages in order of priority: what the video model waits for comes first.

  Paths with the input's name in them, so that another portrait is another stage.
  """
  driver = driving or out / 'driver' / 'clips' / 'actor_00000.mp4'
  return [
    *_data(out, portrait, driver, made=driving is None),
    *_models(out),
    *_results(out, portrait, driver),
  ]


def _train(config: str, workdir: pathlib.Path, *more: str) -> list[str]:
  return ['train', f'--config=configs/{config}:demo', f'--workdir={workdir}', *more]


def _data(out: pathlib.Path, portrait: pathlib.Path, driver: pathlib.Path, *, made: bool):
  """Clips, fitted heads and training shards; made: the driver is an actor who is drawn here."""
  actors, shards, subjects, vae = out / 'actors', out / 'shards', out / 'subjects', out / 'vae'
  own_driver = Stage(
    'driver',
    'A synthetic actor moves in front of a camera: the default driving clip.',
    command('actors', *_DRIVER, o=out / 'driver'),
    out / 'driver' / 'sheet.png',
  )
  return [
    Stage(
      'actors',
      'Synthetic people with known truth: the training and test clips.',
      command('actors', o=actors, num=ACTORS, frames=FRAMES, size=128, seed=1),
      actors / 'sheet.png',
    ),
    Stage(
      'fit',
      'A personalized head for the photograph: landmarks, shape, expression, pose, then vertex '
      'offsets.',
      command('fit', i=portrait, o=subjects),
      subjects / f'{portrait.stem}.npz',
    ),
    Stage(
      'prepare',
      'Clips and subjects to training shards with normal maps.',
      command(
        'prepare',
        clips=actors / 'clips',
        subjects=actors / 'truth',
        mattes=actors / 'mattes',
        o=shards,
        size=SIZE,
        holdout=HELD_OUT,
      ),
      shards / 'train.array_record',
      ('actors',),
    ),
    Stage(
      'previews',
      'Each clip redrawn from single frames of it: what the video model starts from.',
      command(
        'previews', i=shards / 'train.array_record', subjects=actors / 'truth', o=out / 'previews'
      ),
      out / 'previews' / 'previews.array_record',
      ('prepare',),
    ),
    Stage(
      'train vae',
      'A small autoencoder of frames.',
      _train('vae.py', vae, f'--config.data.path={shards / "train.array_record"}'),
      vae / 'finished',
      ('prepare',),
    ),
    *((own_driver,) if made else ()),
    Stage(
      'track',
      'The driving clip, from its video file, through the same observation and fit.',
      command('fit', i=driver, o=subjects),
      subjects / f'{driver.stem}.npz',
      ('driver',) if made else (),
    ),
  ]


def _models(out: pathlib.Path):
  """The small models of the demo, trained and exported."""
  transfer, dit = out / 'transfer', out / 'dit'
  return [
    Stage(
      'train transfer',
      'Driving expression + neutral geometry -> wrinkles of this person; of people drawn for it '
      'alone.',
      _train('expression_transfer.py', transfer),
      transfer / 'finished',
    ),
    Stage(
      'export vae',
      'Averaged weights for inference.',
      command('export', workdir=out / 'vae', o=out / 'vae_export'),
      out / 'vae_export',
      ('train vae',),
    ),
    Stage(
      'encode',
      'The clips as latents, once, so that training need not encode them again.',
      command('encode', i=out / 'previews', o=out / 'latents', vae=out / 'vae_export', mirror=True),
      out / 'latents' / 'encoded.array_record',
      ('export vae', 'previews'),
    ),
    Stage(
      'train dit',
      'The tiny video DiT, driven by normal maps and textured previews.',
      _train(
        'dit_a800.py',
        dit,
        f'--config.data.path={out / "latents"}',
        f'--config.vae.path={out / "vae_export"}',
      ),
      dit / 'finished',
      ('encode',),
    ),
    Stage(
      'export transfer',
      'Averaged weights for inference.',
      command('export', workdir=transfer, o=out / 'transfer_export'),
      out / 'transfer_export',
      ('train transfer',),
    ),
  ]


def _results(out: pathlib.Path, portrait: pathlib.Path, driver: pathlib.Path):
  """What is looked at."""
  preview = out / 'preview' / f'{portrait.stem}_by_{driver.stem}.mp4'
  actors, subjects = out / 'actors', out / 'subjects'
  return [
    Stage(
      'preview',
      'The textured preview: the photograph on its head, moved by the driver. No network draws '
      'here.',
      command('animate', s=portrait, d=driver, o=preview, subjects=subjects),
      preview.with_suffix('.json'),
      ('fit', 'track'),
    ),
    Stage(
      'embedded',
      'The same by the small video model that ships with the package.',
      command(
        'animate',
        s=portrait,
        d=driver,
        o=out / 'embedded' / preview.name,
        engine='dit',
        subjects=subjects,
      ),
      (out / 'embedded' / preview.name).with_suffix('.json'),
      ('fit', 'track'),
    ),
    Stage(
      'export dit',
      'Averaged weights for inference.',
      command('export', workdir=out / 'dit', o=out / 'dit_export'),
      out / 'dit_export',
      ('train dit',),
    ),
    Stage(
      'evaluate',
      'Self and cross reenactment of people the model has never seen, beside the truth.',
      command(
        'evaluate',
        'actors',
        export=out / 'dit_export',
        transfer=out / 'transfer_export',
        actors=actors,
        first=ACTORS - HELD_OUT,
        count=HELD_OUT,
        steps=4,
        o=out / 'benchmark',
      ),
      out / 'benchmark' / 'scores.json',
      ('export dit', 'export transfer'),
    ),
  ]


def run(
  out: pathlib.Path, *, portrait: pathlib.Path | None, driving: pathlib.Path | None
) -> pathlib.Path:
  """Runs what is not done yet and writes the page; returns its path. Errors as of `run_stages`."""
  out = out.absolute()
  if portrait is None:
    portrait = out / 'inputs' / 'astronaut.png'
    if not portrait.is_file():
      write_image(portrait, skimage.data.astronaut())
  portrait, driving = portrait.absolute(), driving and driving.absolute()
  if driving is not None and driving.stem == portrait.stem:
    raise UserError(f'portrait and driver are both called {portrait.stem!r}; rename one of them')
  todo = stages(out, portrait, driving)
  return write_page(out, todo, run_stages(out, todo))


def read_seconds(path: pathlib.Path) -> dict[str, float]:
  """Seconds by stage and result of earlier runs; none where the file is missing or was cut off."""
  try:
    found = json.loads(path.read_text(errors='replace'))
  except (OSError, ValueError, RecursionError):
    return {}
  return (
    {name: value for name, value in found.items() if type(value) in (int, float)}
    if isinstance(found, dict)
    else {}
  )


def run_stages(out: pathlib.Path, todo: list[Stage]) -> dict[str, float]:
  """Runs the stages that are not done yet, two side by side; returns seconds by stage and result,
  all runs together.

  Raises:
    UserError: a stage failed (its own message is above), naming the stage and its log; or another
      process is at work there.
  """
  with only_one(out, folder=True):
    return _run_stages(out, todo)


def _run_stages(out: pathlib.Path, todo: list[Stage]) -> dict[str, float]:
  # names of configs that are not files below it are the package's own
  root = resources.checkout() or out
  (out / 'logs').mkdir(parents=True, exist_ok=True)
  times_file = out / 'seconds.json'
  times = read_seconds(times_file)
  # Compiled programs are shared between stages and between runs.
  environment = os.environ | {
    'JAX_COMPILATION_CACHE_DIR': f'{out / "compiled"}',
    'PYTHONUNBUFFERED': '1',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.5',
    'PYTHONPATH': f'{resources.package_folder().parent}',
  }
  for stage in todo:
    if stage.leaves.exists():
      print(f'{stage.name}: done before', flush=True)
  running: dict[str, _Running] = {}
  finished = {stage.name for stage in todo if stage.leaves.exists()}
  try:
    while len(finished) < len(todo):
      for stage in todo:
        ready = (
          stage.name not in finished
          and stage.name not in running
          and finished.issuperset(stage.after)
        )
        if ready and len(running) < _AT_ONCE:
          print(
            f'[{len(finished) + len(running) + 1}/{len(todo)}] {stage.name}: {stage.purpose}\n'
            f'  python -m exp_jax {" ".join(stage.arguments)}',
            flush=True,
          )
          log = out / 'logs' / f'{stage.name.replace(" ", "_")}.log'
          running[stage.name] = _Running(stage, log, environment, root)
      time.sleep(0.5)
      for name, job in list(running.items()):
        status = job.process.poll()
        if status is None:
          continue
        del running[name]
        if status:
          raise UserError(
            f'stage {name!r} ended with status {status}: {job.last_line()!r}; its whole log is '
            f'{job.log}. '
            'Run the same command again to go on'
          )
        if job.stage.leaves.name == 'finished':
          job.stage.leaves.touch()
        finished.add(name)
        key = f'{name} {job.stage.leaves.name}'
        times[key] = times.get(key, 0) + time.time() - job.start
        write_text(times_file, json.dumps(times, indent=1) + '\n')
        print(f'  {name}: {time.time() - job.start:.0f} s', flush=True)
      for job in running.values():
        job.report()
  finally:
    for (
      job
    ) in running.values():  # the other lane's stage saves what it can and is gone on with next time
      job.process.terminate()
    for job in running.values():
      job.process.wait(120)
  return times


class _Running:
  """One stage as a process; its words go to its log, and every half minute the last of them to the
  screen."""

  def __init__(self, stage: Stage, log: pathlib.Path, environment: dict, root: pathlib.Path):
    self.stage, self.log, self.start, self.told = stage, log, time.time(), time.time()
    with log.open('ab') as words:
      self.process = subprocess.Popen(
        [sys.executable, '-m', 'exp_jax', *stage.arguments],
        stdout=words,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=root,
      )

  def last_line(self) -> str:
    """The last non-empty line, progress bars included."""
    words = self.log.read_bytes()[-4000:].decode(errors='replace').replace('\r', '\n').split('\n')
    return next((line.strip() for line in reversed(words) if line.strip()), '')

  def report(self) -> None:
    if time.time() - self.told > 30:
      self.told = time.time()
      print(f'  {self.stage.name}: {one_line(self.last_line()[:150])}', flush=True)
