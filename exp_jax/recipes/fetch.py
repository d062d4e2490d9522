"""Fetches weights from the Hugging Face Hub, after showing their revision, digests and licence.

  exp-jax fetch OWNER/NAME                                  # shows what there is; nothing is downloaded
  exp-jax fetch OWNER/NAME -o weights/name --yes            # and takes it
  exp-jax fetch OWNER/NAME -o weights/name --revision 3f2a... --include '*.safetensors' --yes

Every file is checked against the digest that the hub states (SHA-256 of large files, Git's of small
ones) before anything appears under its name, and SOURCE.json beside them says where they are from.
The hub's own cache is used and honoured (HF_HOME,
HF_HUB_CACHE): with HF_HUB_OFFLINE=1 the files come from there, checked in the same way. HF_ENDPOINT
names another hub, HF_TOKEN your
right to a gated one. What is fetched is not ours: its licence is its publisher's. Needs the extra
`hub`: pip install "exp_jax[hub]".
Exit status: 0 all there, 2 bad input, no such files, or a digest that differs.
"""

import argparse
import dataclasses
import fnmatch
import hashlib
import json
import pathlib
import re
import shutil
import sys

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly, one_line
from exp_jax.files.atomic import check_room, new_folder, write_text

_REPOSITORY = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Offer:
  """What a hub has under a name.

  Attributes:
    repository: OWNER/NAME.
    revision: the commit, 40 hexadecimal digits.
    licence: as its card states, or ''.
    files: {path: (bytes or None, digest or '')}; a digest of 64 digits is SHA-256, one of 40 Git's
      of a blob.
  """

  repository: str
  revision: str
  licence: str
  files: dict[str, tuple[int | None, str]]


def _hub():
  try:
    import huggingface_hub
    import huggingface_hub.constants
  except ModuleNotFoundError:
    raise UserError(
      'this needs the package huggingface_hub, which the extra `hub` has: pip install '
      '"exp_jax[hub]"'
    ) from None
  return huggingface_hub


def offered(repository: str, revision: str | None = None) -> Offer:
  """What the hub, or its cache where HF_HUB_OFFLINE is set, has under a name.

  Raises:
    UserError: no such name or revision, no right to it, or no answer.
  """
  if not _REPOSITORY.fullmatch(repository):
    raise UserError(f'{repository!r} is no name of the hub: give OWNER/NAME')
  hub = _hub()
  if hub.constants.HF_HUB_OFFLINE:
    return _cached(hub, repository, revision)
  try:
    found = hub.HfApi().model_info(repository, revision=revision, files_metadata=True)
  except (
    Exception
  ) as error:  # of several libraries: a refusal, no connection, an answer that is none
    raise UserError(f'{repository}: {_reason(error)}') from error
  card = found.card_data.to_dict() if found.card_data else {}
  files = {
    each.rfilename: (each.size, each.lfs.sha256 if each.lfs else each.blob_id or '')
    for each in found.siblings
  }
  return Offer(
    repository, found.sha, str(card.get('license_name') or card.get('license') or ''), files
  )


def _cached(hub, repository: str, revision: str | None) -> Offer:
  """What lies in the hub's cache."""
  try:
    folder = pathlib.Path(
      hub.snapshot_download(repository, revision=revision, local_files_only=True)
    )
  except Exception as error:
    raise UserError(
      f'{repository} is not in the cache of the hub, and HF_HUB_OFFLINE is set: {_reason(error)}'
    ) from error
  files = {
    path.relative_to(folder).as_posix(): (path.stat().st_size, path.resolve().name)
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }
  card = folder / 'README.md'
  found = (
    re.search(r'^license(?:_name)?:\s*(\S+)', card.read_text(errors='replace'), re.MULTILINE)
    if card.is_file()
    else None
  )
  return Offer(repository, folder.name, found[1] if found else '', files)


def _reason(error: Exception) -> str:
  name = type(error).__name__
  known = {
    'RepositoryNotFoundError': 'the hub has no such repository, or wants a token (HF_TOKEN)',
    'RevisionNotFoundError': 'the hub has no such revision',
    'GatedRepoError': 'its publisher wants you to accept terms on its page',
    'LocalEntryNotFoundError': 'fetch it once with a network',
  }
  return known.get(name, one_line(f'{name}: {" ".join(str(error).split())[:200]}'))


def chosen(offer: Offer, patterns: list[str]) -> Offer:
  """The files of an offer that match a pattern; all of them where there is none.

  Raises:
    UserError: none matches, or a path would lead out of the folder.
  """
  files = {
    path: about
    for path, about in offer.files.items()
    if not patterns or any(fnmatch.fnmatch(path, p) for p in patterns)
  }
  if not files:
    raise UserError(
      f'{offer.repository} has no file like {" or ".join(patterns)}; it has '
      f'{", ".join(sorted(offer.files)[:20])}'
    )
  for path in files:
    if (
      pathlib.PurePosixPath(path).is_absolute()
      or '..' in pathlib.PurePosixPath(path).parts
      or '\\' in path
    ):
      raise UserError(f'{offer.repository} names a file {path!r}, which leads out of its folder')
  return dataclasses.replace(offer, files=files)


def described(offer: Offer) -> str:
  """What is shown before anything is downloaded."""
  lines = [
    f'{offer.repository} at revision {offer.revision}',
    f'licence: {offer.licence or "its publisher states none"}',
  ]
  sizes = {path: '?' if size is None else f'{size:,}' for path, (size, _) in offer.files.items()}
  lines += [
    f'  {path}  {sizes[path]} bytes  {_named(digest)}' for path, (_, digest) in offer.files.items()
  ]
  return '\n'.join(map(one_line, lines))


def _named(digest: str) -> str:
  return {64: f'sha256 {digest}', 40: f'git {digest}'}.get(len(digest), 'no digest')


def check_digest(path: pathlib.Path, digest: str, name: str) -> str:
  """Compares a file with the digest that was stated; returns its SHA-256.

  Raises:
    UserError: it is another file, or none was stated.
  """
  known = hashlib.sha256()
  git = hashlib.sha1(f'blob {path.stat().st_size}\0'.encode())
  with open(path, 'rb') as stream:
    while content := stream.read(_CHUNK):
      known.update(content)
      git.update(content)
  found = {64: known.hexdigest(), 40: git.hexdigest()}.get(len(digest))
  if found is None:
    raise UserError(f'{name}: the hub states no digest that could be checked')
  if found != digest:
    raise UserError(
      f'{name} has the digest {found}, the hub states {digest}: it was damaged or changed; delete '
      'it from the cache of '
      'the hub (HF_HUB_CACHE) and fetch it again'
    )
  return known.hexdigest()


def take(offer: Offer, output: pathlib.Path) -> None:
  """Downloads the files of an offer into a folder that appears when all of them are there and
  checked.

  Raises:
    UserError: the folder exists, the disk is full, a file cannot be had, or its digest differs.
  """
  hub = _hub()
  output.absolute().parent.mkdir(parents=True, exist_ok=True)
  with new_folder(output) as partial:
    check_room(partial, sum(size or 0 for size, _ in offer.files.values()))
    digests = {}
    for path, (_, digest) in offer.files.items():
      try:
        cached = pathlib.Path(hub.hf_hub_download(offer.repository, path, revision=offer.revision))
      except Exception as error:
        raise UserError(f'{offer.repository} {path}: {_reason(error)}') from error
      digests[path] = check_digest(cached.resolve(), digest, f'{offer.repository} {path}')
      (partial / path).parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(cached, partial / path)
      check_digest(partial / path, digests[path], path)
    about = {
      'repository': offer.repository,
      'revision': offer.revision,
      'licence': offer.licence,
      'sha256': digests,
    }
    write_text(partial / 'SOURCE.json', json.dumps(about, indent=1) + '\n')


@exits_cleanly
def main(argv=None):
  p = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  p.add_argument('name', help='OWNER/NAME on the hub')
  p.add_argument('-o', '--output', type=pathlib.Path, help='the folder to make; none: show only')
  p.add_argument('--revision', help='commit, branch or tag (default: the newest)')
  p.add_argument(
    '--include', nargs='+', default=[], metavar='PATTERN', help='take only files of such paths'
  )
  p.add_argument('--yes', action='store_true', help='the licence was read and suits: download')
  args = p.parse_args(argv)
  if args.output is not None and args.output.exists():
    raise UserError(f'{str(args.output)!r} exists already: choose another name or move it away')
  offer = chosen(offered(args.name, args.revision), args.include)
  print(described(offer))
  if args.output is None or not args.yes:
    print('nothing was downloaded; -o DIR --yes takes it, once its licence was read')
    return 0
  take(offer, args.output)
  print(
    f'{args.output}: {len(offer.files)} files, all with the stated digests; SOURCE.json says where '
    'they are from'
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())
