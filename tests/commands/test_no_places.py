"""No path of the machine is in what a command writes, however a file packs its text."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
import zstandard
from PIL import Image, PngImagePlugin

from exp_jax.commands import evaluate
from exp_jax.convert import export_subject, lora, subjects, wan
from exp_jax.convert.gltf import export_gltf
from exp_jax.files.safetensors import write_safetensors
from exp_jax.media.video import write_video
from exp_jax.systems.expportrait.records import encode
from tests.convert.test_flame_param import exported  # noqa: F401
from tests.convert.test_lora_scale import base, golden  # noqa: F401
from tests.convert.test_subjects import head_file  # noqa: F401
from tests.systems.expportrait import prepare_films as films
from tests.systems.expportrait import test_encode as encoding
from tests.test_installed import make_motion

NAME = 'Zebedee_Quill'
ROOT = pathlib.Path(__file__).parents[2]
ZSTD = re.compile(re.escape(b'\x28\xb5\x2f\xfd'))


@pytest.fixture
def tmp_path(tmp_path_factory):
  """A folder whose own name would give its owner away."""
  return tmp_path_factory.mktemp(NAME)


def contents(path: pathlib.Path):
  """The bytes of a file, and of what is packed inside: members of zip files, chunks of PNG files,
  Zstandard frames."""
  whole = path.read_bytes()
  yield whole
  if whole[:2] == b'PK':
    with zipfile.ZipFile(path) as archive:
      yield from map(archive.read, archive.namelist())
  if whole[:4] == b'\x89PNG':
    for kind in (b'zTXt', b'iTXt', b'iCCP', b'eXIf'):
      for at in (m.end() for m in re.finditer(kind, whole)):
        for start in (m.start() for m in re.finditer(b'x', whole[at : at + 100])):
          try:
            yield zlib.decompressobj().decompress(whole[at + start :])
          except zlib.error:
            continue
  for found in ZSTD.finditer(whole):
    try:
      yield zstandard.ZstdDecompressor().decompressobj().decompress(whole[found.start() :])
    except zstandard.ZstdError:
      continue


def told(folder: pathlib.Path, name: str = NAME) -> list[str]:
  """Files below a folder that hold a name, in any of the encodings that numpy and media files use;
  there is at least one file."""
  forms = [name.encode(kind) for kind in ('utf8', 'utf-16-le', 'utf-32-le', 'utf-32-be')]
  files = [path for path in folder.rglob('*') if path.is_file()]
  assert files
  return [
    str(path.relative_to(folder))
    for path in files
    if any(form in part for part in contents(path) for form in forms)
  ]


def test_the_search_finds_every_kind(tmp_path):
  np.savez_compressed(tmp_path / 'a.npz', text=np.array(f'/home/{NAME}/x'))
  chunks = PngImagePlugin.PngInfo()
  chunks.add_text('place', f'/home/{NAME}' * 50, zip=True)
  Image.new('RGB', (2, 2)).save(tmp_path / 'b.png', pnginfo=chunks)
  (tmp_path / 'c.zst').write_bytes(b'before' + zstandard.compress(f'/home/{NAME}'.encode() * 50))
  write_video(
    tmp_path / 'd.mp4', np.zeros((2, 16, 16, 3), np.uint8), 10, metadata={'comment': NAME}
  )
  write_safetensors(
    tmp_path / 'e.safetensors', {'a': np.zeros(1, np.float32)}, {'from': f'/home/{NAME}/a'}
  )
  (tmp_path / 'f.json').write_text('{}')
  assert sorted(told(tmp_path)) == ['a.npz', 'b.png', 'c.zst', 'd.mp4', 'e.safetensors']


def run(main, *arguments) -> None:
  assert not main([str(each) for each in arguments])


def test_evaluate(tmp_path):
  for name in 'ab':
    write_video(
      tmp_path / 'clips' / f'{name}.mp4',
      np.random.default_rng(0).integers(0, 255, (3, 64, 72, 3), np.uint8),
      10,
    )
  # what is said of a failure is a file too
  (tmp_path / 'clips' / 'bad.mp4').write_bytes(b'no film')
  arguments = (
    '--protocol',
    'all-self',
    '--result',
    tmp_path / 'clips',
    '--truth',
    tmp_path / 'clips',
    '--framing',
    'same',
    '--no_landmarks',
    '-o',
    tmp_path / 'out',
  )
  assert evaluate.main([str(each) for each in arguments]) == 2, 'one clip failed'
  assert 'bad' in (tmp_path / 'out' / 'table.md').read_text() and told(tmp_path / 'out') == []


@pytest.mark.long
def test_subjects_and_their_meshes(exported, head_file, tmp_path):  # noqa: F811
  (tmp_path / 'out').mkdir()
  shutil.copy(head_file, tmp_path / 'head.npz')
  run(
    subjects.main,
    exported[0],
    '--kind',
    'vhap',
    '--head',
    tmp_path / 'head.npz',
    '-o',
    tmp_path / 'out',
  )
  subject = tmp_path / 'out' / 'ann.npz'
  for kind in ('ply', 'glb'):
    run(
      export_subject.main,
      subject,
      '--head',
      tmp_path / 'head.npz',
      '-o',
      tmp_path / 'out' / f'ann.{kind}',
    )
  assert told(tmp_path / 'out') == []


@pytest.mark.slow
def test_gltf(tmp_path):
  make_motion(tmp_path / 'motion.npz')
  run(export_gltf.main, tmp_path / 'motion.npz', '-o', tmp_path / 'out' / 'a.glb', '--mesh', 'head')
  assert told(tmp_path / 'out') == []


def test_weights_and_adapters(base, tmp_path):  # noqa: F811
  shutil.copy(base[0] / 'a.safetensors', tmp_path / 'a.safetensors')
  adapter, _ = golden('plain', tmp_path / 'adapter')
  out = tmp_path / 'out'
  run(wan.main, 'import', tmp_path / 'a.safetensors', '-o', out / 'w', '--heads', 2)
  run(wan.main, 'export', out / 'w', '-o', out / 'theirs')
  run(lora.main, 'import', adapter, '-o', out / 'a.safetensors', '--base', out / 'w')
  run(
    lora.main,
    'export',
    out / 'a.safetensors',
    '-o',
    out / 'peft.safetensors',
    '--base',
    out / 'w',
    '--dialect',
    'peft',
  )
  run(lora.main, 'merge', out / 'a.safetensors', '-o', out / 'merged', '--base', out / 'w')
  assert told(out) == []


def test_encode(tmp_path, monkeypatch):
  clips = tmp_path / 'clips'
  records = [encoding.synthetic_clip(i, num_frames=13, height=16, width=16) for i in range(2)]
  encoding.write_records(clips / 'train.array_record', records)
  (clips / 'vae').mkdir()
  (clips / 'vae' / 'weights').write_bytes(b'some')
  encoding.use_stand_in(monkeypatch.setattr)
  run(encode.main, *encoding.arguments(clips, tmp_path / 'out'))
  assert told(tmp_path / 'out') == []


def program(*arguments) -> None:
  subprocess.run(
    [sys.executable, '-m', *map(str, arguments)],
    check=True,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
  )


@pytest.mark.slow
def test_prepare(tmp_path):
  (tmp_path / 'clips').mkdir()
  rows = ['path,subject_id']
  for i in range(3):
    frames = films.frames_of(i)
    films.write_film(tmp_path / 'clips' / f'{i}.mp4', np.arange(len(frames)), 25, frames=frames)
    rows.append(f'{i}.mp4,person_{i}')
  (tmp_path / 'clips' / 'list.csv').write_text('\n'.join(rows))
  program(
    'tests.systems.expportrait.prepare_films',
    *films.arguments(str(tmp_path / 'clips' / 'list.csv'), tmp_path / 'out', '--holdout', '1'),
  )
  assert told(tmp_path / 'out') == []


@pytest.mark.slow
def test_train_and_export(tmp_path):
  program(
    'exp_jax',
    'train',
    '--config=configs/expression_transfer.py:smoke',
    '--config.total_steps=1',
    f'--workdir={tmp_path / "run"}',
  )
  program('exp_jax', 'export', '--workdir', tmp_path / 'run', '-o', tmp_path / 'export')
  assert told(tmp_path / 'export') == [] and told(tmp_path / 'run' / 'checkpoints') == []


@pytest.mark.slow
def test_render(tmp_path):
  program(
    'exp_jax', 'render', 'procedural', '-o', tmp_path / 'out', '--size', '32', '--frames', '2'
  )
  assert told(tmp_path / 'out') == []
