"""Trains the models that `animate` uses where it is given none, and packs them for
`exp_jax/embedded`.

  python -m exp_jax embedded -o out/embedded

Synthetic people only: actors, records, textured previews, autoencoder, expression transfer (which
also sees heads that were fitted to pictures of its people), video DiT, scores on people that
nothing was trained on; the network that repairs previews, which learns from heads that were fitted
to pictures; and the diffusion prior. Stages as in `make demo`: interrupted, the same command goes
on. Leaves out/embedded/package with `dit`, `vae`, `transfer`, `retouch` and `sd_tiny` as bfloat16
safetensors, and out/embedded/benchmark with scores and sheets.
"""

import pathlib
import shutil
import sys

from exp_jax.errors import ArgumentParser, exits_cleanly
from exp_jax.recipes.demo_stages import Stage, command, run_stages
from exp_jax.training.exports import write_release

ACTORS, HELD_OUT, FRAMES, SEED = 424, 24, 16, 2
PEOPLE, PEOPLE_SEED = 33, 31
# people of the transfer whose heads are fitted to a picture; the seed is that of its config
FITTED, TRANSFER_SEED = 34, 20


def stages(out: pathlib.Path) -> list[Stage]:
  """The recipe, in order of priority."""
  actors = out / 'actors'
  return [
    *_video(out),
    *_transfer(out),
    Stage(
      'evaluate',
      'People that nothing was trained on.',
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
    *_retouch(out),
    *_prior(out),
  ]


def _train(out: pathlib.Path, config: str, name: str, *more: str) -> list[str]:
  return ['train', f'--config=configs/{config}', f'--workdir={out / name}', *more]


def _export(out: pathlib.Path, name: str) -> list[str]:
  return command('export', workdir=out / name, o=out / f'{name}_export')


def _video(out: pathlib.Path):
  """The autoencoder and the video DiT."""
  actors, shards = out / 'actors', out / 'shards'
  return [
    Stage(
      'actors',
      'People to learn from, and the last 24 to be measured on.',
      command('actors', o=actors, num=ACTORS, frames=FRAMES, size=128, seed=SEED),
      actors / 'sheet.png',
    ),
    Stage(
      'prepare',
      'Frames with normal maps.',
      command(
        'prepare',
        clips=actors / 'clips',
        subjects=actors / 'truth',
        mattes=actors / 'mattes',
        o=shards,
        size=128,
        holdout=HELD_OUT,
      ),
      shards / 'train.array_record',
      ('actors',),
    ),
    Stage(
      'previews',
      'Each clip redrawn from two of its frames.',
      command(
        'previews',
        i=shards / 'train.array_record',
        subjects=actors / 'truth',
        o=out / 'previews',
        references=2,
      ),
      out / 'previews' / 'previews.array_record',
      ('prepare',),
    ),
    Stage(
      'train vae',
      'The autoencoder.',
      _train(out, 'vae.py:embedded', 'vae', f'--config.data.path={shards / "train.array_record"}'),
      out / 'vae' / 'finished',
      ('prepare',),
    ),
    Stage(
      'export vae', 'Averaged weights.', _export(out, 'vae'), out / 'vae_export', ('train vae',)
    ),
    Stage(
      'encode',
      'Clips and previews as latents.',
      command('encode', i=out / 'previews', o=out / 'latents', vae=out / 'vae_export', mirror=True),
      out / 'latents' / 'encoded.array_record',
      ('export vae', 'previews'),
    ),
    Stage(
      'train dit',
      'The video DiT.',
      _train(
        out,
        'dit_a800.py:embedded',
        'dit',
        f'--config.data.path={out / "latents"}',
        f'--config.vae.path={out / "vae_export"}',
      ),
      out / 'dit' / 'finished',
      ('encode',),
    ),
    Stage(
      'export dit', 'Averaged weights.', _export(out, 'dit'), out / 'dit_export', ('train dit',)
    ),
  ]


def _transfer(out: pathlib.Path):
  """The expression transfer, some of whose people are seen as their fits."""
  pictures, fits = out / 'pictures', out / 'fits'
  clips = pictures / 'clips'
  inputs = [part for i in range(FITTED) for part in ('-i', f'{clips / f"actor_{i:05d}.mp4"}')]
  return [
    Stage(
      'pictures',
      'One picture each of people that the transfer learns from.',
      command('actors', o=pictures, num=FITTED, frames=1, size=512, seed=TRANSFER_SEED),
      pictures / 'sheet.png',
    ),
    Stage(
      'fits',
      'Heads fitted to them.',
      command('fit', *inputs, '--config.limit=1', o=fits),
      fits / f'actor_{FITTED - 1:05d}.npz',
      ('pictures',),
    ),
    Stage(
      'train transfer',
      'The expression transfer, on a thousand people drawn for it.',
      _train(out, 'expression_transfer.py:actors', 'transfer', f'--config.data.fits={fits}'),
      out / 'transfer' / 'finished',
      ('fits',),
    ),
    Stage(
      'export transfer',
      'Averaged weights.',
      _export(out, 'transfer'),
      out / 'transfer_export',
      ('train transfer',),
    ),
  ]


def _retouch(out: pathlib.Path):
  """The network that repairs previews."""
  people = out / 'people'
  return [
    Stage(
      'people',
      'Previews of people by the way of a user, beside the truth.',
      command('retouch.records', o=people, num=PEOPLE, frames=12, seed=PEOPLE_SEED),
      people / f'person_{PEOPLE - 1:05d}.array_record',
    ),
    Stage(
      'people held out',
      'The same of people to be measured on.',
      command('retouch.records', o=out / 'people_held_out', num=4, frames=12, seed=PEOPLE_SEED + 1),
      out / 'people_held_out' / 'person_00003.array_record',
    ),
    Stage(
      'train retouch',
      'The network that repairs previews.',
      _train(
        out,
        'retouch.py:embedded',
        'retouch',
        f'--config.data.path={people}',
        f'--config.data.held_out={out / "people_held_out"}',
      ),
      out / 'retouch' / 'finished',
      ('people', 'people held out'),
    ),
    Stage(
      'export retouch',
      'Averaged weights.',
      _export(out, 'retouch'),
      out / 'retouch_export',
      ('train retouch',),
    ),
  ]


def _prior(out: pathlib.Path):
  """The diffusion prior."""
  actors = out / 'actors'
  return [
    Stage(
      'prior frames',
      'Frames of 64 pixels for the diffusion prior.',
      command('prior.frames', i=actors / 'clips', o=out / 'frames', holdout=HELD_OUT),
      out / 'frames' / 'held_out.array_record',
      ('actors',),
    ),
    Stage(
      'train prior',
      'The diffusion prior that Loki starts from.',
      _train(
        out,
        'sd_tiny.py',
        'prior',
        f'--config.data.path={out / "frames" / "train.array_record"}',
        f'--config.data.held_out={out / "frames" / "held_out.array_record"}',
      ),
      out / 'prior' / 'finished',
      ('prior frames',),
    ),
    Stage(
      'export prior',
      'Averaged weights.',
      _export(out, 'prior'),
      out / 'prior_export',
      ('train prior',),
    ),
  ]


def pack(out: pathlib.Path) -> pathlib.Path:
  """Writes <out>/package anew from the exports and returns it; the DiT finds the autoencoder beside
  itself."""
  package = out / 'package'
  shutil.rmtree(package, ignore_errors=True)
  write_release(out / 'vae_export', package / 'vae', **{'data.path': ''})
  write_release(out / 'transfer_export', package / 'transfer', **{'data.fits': ''})
  write_release(
    out / 'retouch_export', package / 'retouch', **{'data.path': '', 'data.held_out': ''}
  )
  write_release(out / 'prior_export', package / 'sd_tiny', **{'data.path': '', 'data.held_out': ''})
  write_release(out / 'dit_export', package / 'dit', **{'data.path': '', 'vae.path': '../vae'})
  return package


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__.partition('\n\n')[0])
  parser.add_argument('-o', '--output', type=pathlib.Path, default=pathlib.Path('out/embedded'))
  out = parser.parse_args(argv).output.absolute()
  run_stages(out, stages(out))
  print(f'done: {pack(out)}; scores and sheets in {out / "benchmark"}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
