"""Content credentials (C2PA): who made a video, with what, of what; signed into the file, and read
from it.

The signature is made with a certificate of the user's, where the environment names one, else with
one made on this machine:

  EXP_JAX_CERTIFICATE       a PEM file: the signing certificate, then those that vouch for it
  EXP_JAX_CERTIFICATE_KEY   a PEM file: its private key
  <home>/.provenance/       what was made here (its key is readable by the user alone); nobody vouches for it, and readers say so

c2pa-python (Content Authenticity Initiative) writes and reads the manifest; nothing is sent
anywhere, so there is no time stamp.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib

from exp_jax.errors import UserError
from exp_jax.files.atomic import replacing
from exp_jax.files.resources import home

ABOUT = 'org.exp-jax.animation'  # label of the assertion that tells how a video was made
SELF_MADE = 'exp_jax, self-made'  # organization in certificates that are made here
OFF = '--no-provenance'
FIRST_NOTE = (
  'Animate only people who have agreed to it. Videos are signed (C2PA, by a certificate made on '
  'this machine) and '
  f'carry an invisible mark, which `exp-jax verify` reads; {OFF} leaves both out.'
)
_YEARS = 10
_COMPOSITE = 'http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia'


@dataclasses.dataclass(frozen=True)
class Certificate:
  """What signs: PEM bytes of the chain, the leaf first, and of its private key; `self_made`: nobody
  vouches for it."""

  chain: bytes
  key: bytes
  self_made: bool


@dataclasses.dataclass(frozen=True)
class Credentials:
  """What a video tells of itself.

  Attributes:
    valid: the file is as it was signed.
    issuer: organization of the certificate.
    self_made: the certificate was made by the program on somebody's machine: the name proves
      nothing.
    trusted: a list of trusted certificates was at hand, and vouches for it.
    problems: codes of what does not hold, of the C2PA specification.
    about: what `sign` was given, {} where another program signed.
    generator: name and version of the program that signed.
  """

  valid: bool
  issuer: str
  self_made: bool
  trusted: bool
  problems: tuple[str, ...]
  about: dict
  generator: str


def own_file() -> pathlib.Path:
  """Where the certificate made on this machine lies, with its key."""
  return home() / '.provenance' / 'certificate.pem'


def certificate() -> Certificate:
  """The user's certificate, else the one of this machine, which is made if there is none.

  Raises:
    UserError: a named file is missing or holds no certificate or key, or none can be made.
  """
  names = ('EXP_JAX_CERTIFICATE', 'EXP_JAX_CERTIFICATE_KEY')
  paths = [os.environ.get(name) for name in names]
  if any(paths):
    if not all(paths):
      raise UserError(f'set {" and ".join(names)} both, to PEM files of a certificate and its key')
    return Certificate(
      *(
        _pem(path, name, what)
        for path, name, what in zip(paths, names, (b'CERTIFICATE', b'PRIVATE KEY'))
      ),
      False,
    )
  path = own_file()
  if not path.is_file():
    make_own()
  chain, begin, key = _pem(path, 'the home', b'PRIVATE KEY').partition(b'-----BEGIN PRIVATE KEY')
  return Certificate(chain, begin + key, True)


def first_note() -> str | None:
  """What is said once, before the first video is signed on a machine; None later.

  Makes the certificate.
  """
  if own_file().is_file():
    return None
  return FIRST_NOTE if certificate().self_made else None


def _pem(path, name: str, what: bytes) -> bytes:
  try:
    content = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise UserError(
      f'{name}: {str(path)!r} cannot be read ({error.strerror}): name a PEM file, or leave the '
      f'signature out with {OFF}'
    ) from error
  if what not in content[: 2**20]:
    raise UserError(f'{name}: {str(path)!r} is no PEM file with a {what.decode().lower()}')
  return content


def make_own() -> pathlib.Path:
  """Makes the certificate of this machine: a root and, vouched for by it, a leaf that may sign
  content (C2PA, 14.5).

  Raises:
    UserError: the home cannot be written.
  """
  from cryptography import x509
  from cryptography.hazmat.primitives import hashes, serialization
  from cryptography.hazmat.primitives.asymmetric import ec
  from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

  begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
  root_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
  name = lambda common: x509.Name(
    [
      x509.NameAttribute(NameOID.COMMON_NAME, common),
      x509.NameAttribute(NameOID.ORGANIZATION_NAME, SELF_MADE),
    ]
  )

  def issued(common: str, key, is_root: bool, *more):
    usage = dict.fromkeys(
      (
        'digital_signature',
        'content_commitment',
        'key_encipherment',
        'data_encipherment',
        'key_agreement',
        'key_cert_sign',
        'crl_sign',
        'encipher_only',
        'decipher_only',
      ),
      False,
    )
    usage['key_cert_sign' if is_root else 'digital_signature'] = True
    builder = (
      x509.CertificateBuilder()
      .subject_name(name(common))
      .issuer_name(name('root'))
      .public_key(key.public_key())
      .serial_number(x509.random_serial_number())
      .not_valid_before(begin)
      .not_valid_after(begin + datetime.timedelta(days=365 * _YEARS))
      .add_extension(x509.BasicConstraints(is_root, 0 if is_root else None), True)
      .add_extension(x509.KeyUsage(**usage), True)
      .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )
    for extension in more:
      builder = builder.add_extension(extension, False)
    return builder.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

  chain = issued(
    'exp_jax',
    leaf_key,
    False,
    x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]),
    x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()),
  ) + issued('root', root_key, True)
  key = leaf_key.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
  )
  path = own_file()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    with replacing(path) as partial:
      partial.chmod(0o600)
      partial.write_bytes(chain + key)
  except OSError as error:
    raise UserError(
      f'the certificate that signs videos cannot be written to {str(path.parent)!r} '
      f'({error.strerror}): set '
      f'EXP_JAX_HOME to a folder of yours, or leave the signature out with {OFF}'
    ) from error
  return path


def _algorithm(key: bytes):
  """The C2PA name of what a private key signs with."""
  import c2pa
  from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
  from cryptography.hazmat.primitives.serialization import load_pem_private_key

  try:
    loaded = load_pem_private_key(key, None)
  except (ValueError, TypeError) as error:
    raise UserError(
      'EXP_JAX_CERTIFICATE_KEY: the key cannot be read; it must be PEM (PKCS 8) without a password'
    ) from error
  kinds = c2pa.C2paSigningAlg
  if isinstance(loaded, ec.EllipticCurvePrivateKey):
    return {256: kinds.ES256, 384: kinds.ES384, 521: kinds.ES512}[loaded.curve.key_size]
  if isinstance(loaded, ed25519.Ed25519PrivateKey):
    return kinds.ED25519
  if isinstance(loaded, rsa.RSAPrivateKey):
    return kinds.PS256
  raise UserError(
    'EXP_JAX_CERTIFICATE_KEY: a key on a curve of NIST, of Ed25519 or of RSA is needed'
  )


def sign(path: pathlib.Path, signs: Certificate, about: dict) -> None:
  """Signs an mp4 file in its place; the file is replaced by the signed one, which holds the same
  streams.

  Args:
    path: a finished mp4 file that nobody else sees yet.
    signs: of `certificate`.
    about: how it was made, plain values.

  Raises:
    UserError: the certificate is refused: out of date, not its key's, or not meant for signing
      content.
  """
  import c2pa

  from exp_jax import __version__

  manifest = {
    'claim_generator_info': [{'name': 'exp_jax', 'version': __version__}],
    'assertions': [
      {
        'label': 'c2pa.actions.v2',
        'data': {'actions': [{'action': 'c2pa.created', 'digitalSourceType': _COMPOSITE}]},
      },
      {'label': ABOUT, 'data': about},
    ],
  }
  try:
    info = c2pa.C2paSignerInfo(
      alg=_algorithm(signs.key), sign_cert=signs.chain, private_key=signs.key, ta_url=None
    )
    with replacing(path) as partial:
      with (
        c2pa.Signer.from_info(info) as signer,
        c2pa.Builder(json.dumps(manifest)) as builder,
        path.open('rb') as source,
        partial.open('wb+') as signed,
      ):
        builder.sign(signer, 'video/mp4', source, signed)
  except c2pa.C2paError as error:
    raise UserError(
      f'the video cannot be signed ({_first_line(error)}): look at EXP_JAX_CERTIFICATE, or leave '
      'it out '
      f'with {OFF}'
    ) from error


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0][:200]


def read(path: str | os.PathLike) -> Credentials | None:
  """What is signed into an mp4 file, or None where nothing is.

  Raises:
    UserError: there is something, but it cannot be read.
  """
  import c2pa

  try:
    with open(path, 'rb') as stream, contextlib.closing(c2pa.Reader('video/mp4', stream)) as reader:
      told, state = json.loads(reader.json()), reader.get_validation_state()
  except c2pa.C2paError as error:
    if 'ManifestNotFound' in type(error).__name__ or 'no JUMBF' in str(error):
      return None
    raise UserError(
      f'the credentials of {str(path)!r} are damaged: {_first_line(error)}'
    ) from error
  manifest = told['manifests'][told['active_manifest']]
  about = [a['data'] for a in manifest.get('assertions', ()) if a['label'] == ABOUT]
  issuer = manifest.get('signature_info', {}).get('issuer') or 'unknown'
  codes = tuple(s['code'] for s in told.get('validation_status', ()))
  program = manifest.get('claim_generator_info', [{}])[0]
  return Credentials(
    state in ('Valid', 'Trusted'),
    issuer,
    issuer == SELF_MADE,
    state == 'Trusted',
    tuple(c for c in codes if c != 'signingCredential.untrusted'),
    about[0] if about else {},
    f'{program.get("name", "unknown")} {program.get("version", "")}'.strip(),
  )
