"""The nodes: a portrait animated by a clip, and the fitted head drawn over a portrait."""

import json

import numpy as np

from . import media
from .client import Client, Stopped

ENGINES = ['proxy', 'dit', 'liveportrait', 'loki', 'magicportrait']


def _server_inputs() -> dict:
  return {
    'server': (
      'STRING',
      {
        'default': '',
        'tooltip': 'address of `exp-jax serve`; empty: EXP_JAX_SERVER, else this machine',
      },
    )
  }


def _tensor(images: np.ndarray):
  import torch

  return torch.from_numpy(np.ascontiguousarray(images))


def _array(tensor) -> np.ndarray:
  return (
    tensor.detach().cpu().float().numpy()
    if hasattr(tensor, 'detach')
    else np.asarray(tensor, np.float32)
  )


def _sound(audio: dict | None) -> dict | None:
  return (
    None
    if audio is None
    else {'waveform': _array(audio['waveform']), 'sample_rate': audio['sample_rate']}
  )


def _progress(node: str | None):
  """(show a job's record, whether the reader has pressed the button that stops): by ComfyUI's own
  means."""
  import comfy.model_management
  import comfy.utils

  bar = comfy.utils.ProgressBar(100, node_id=node)

  def show(job: dict) -> None:
    share = job['done'] / job['total'] if job['total'] else 0
    bar.update_absolute(round(50 * share if job['stage'] != 'draw' else 50 + 50 * share), 100)

  return show, comfy.model_management.processing_interrupted


def _run(
  server: str, node: str | None, files: dict[str, tuple[str, bytes]], **asked
) -> tuple[dict, dict[str, bytes]]:
  """A job from its files to its results; nothing of it stays at the server."""
  import comfy.model_management

  client, (show, interrupted) = Client(server), _progress(node)
  uploads = {}
  try:
    for name, (file, content) in files.items():
      uploads[name] = client.upload(file, content)
    job = client.follow(client.create(**uploads, **asked), progress=show, cancelled=interrupted)
    results = {
      name: client.fetch(link)
      for name, link in job['results'].items()
      if name in ('video', 'record', 'head')
    }
    client.delete('jobs', job['id'])
    return job, results
  except Stopped:
    raise comfy.model_management.InterruptProcessingException from None
  finally:
    for upload in uploads.values():
      client.delete('uploads', upload)


def _options(text: str) -> dict:
  """Options out of a text field.

  Raises:
    ValueError: it is no JSON object.
  """
  try:
    found = json.loads(text or '{}')
  except ValueError as error:
    raise ValueError(
      f'options must be a JSON object such as {{"smoothing": 0.1}}: {error}'
    ) from None
  if not isinstance(found, dict):
    raise ValueError('options must be a JSON object such as {"smoothing": 0.1}')
  return found


class AnimatePortrait:
  """A portrait with the head motion and expression of a clip."""

  CATEGORY, FUNCTION, DESCRIPTION = (
    'exp_jax',
    'animate',
    'A portrait moves as the driver does; computed by `exp-jax serve`.',
  )
  RETURN_TYPES, RETURN_NAMES = (
    ('IMAGE', 'AUDIO', 'FLOAT', 'STRING'),
    ('frames', 'audio', 'frame_rate', 'record'),
  )

  @classmethod
  def INPUT_TYPES(cls):
    return {
      'required': {
        'portrait': ('IMAGE', {'tooltip': 'one picture'}),
        'driving': ('IMAGE', {'tooltip': 'the frames of the driver'}),
        'frame_rate': (
          'FLOAT',
          {
            'default': 25.0,
            'min': 1.0,
            'max': 240.0,
            'step': 0.001,
            'tooltip': 'of the driver, a second',
          },
        ),
        'engine': (ENGINES, {'tooltip': 'what draws; the server must have been started with it'}),
        'size': (
          'INT',
          {
            'default': 512,
            'min': 64,
            'max': 4096,
            'tooltip': 'side of the fitted square; engines proxy and dit',
          },
        ),
        'face': (
          'STRING',
          {
            'default': 'largest',
            'tooltip': 'largest, a number (0 the largest), left, right, or X,Y in pixels',
          },
        ),
        'seed': ('INT', {'default': 0, 'min': 0, 'max': 0xFFFFFFFF}),
        'options': (
          'STRING',
          {
            'default': '{}',
            'multiline': True,
            'tooltip': 'more options of the engine as a JSON object',
          },
        ),
      },
      'optional': {'audio': ('AUDIO', {'tooltip': 'of the driver'})} | _server_inputs(),
      'hidden': {'node': 'UNIQUE_ID'},
    }

  def animate(
    self,
    portrait,
    driving,
    frame_rate,
    engine,
    size,
    face,
    seed,
    options,
    audio=None,
    server='',
    node=None,
  ):
    """Frames [T, H, W, 3], the sound, frames a second, and the record of how they were made."""
    chosen = (
      {'face': face, 'seed': seed}
      | ({'size': size} if engine in ('proxy', 'dit') else {})
      | _options(options)
    )
    files = {
      'portrait': ('portrait.png', media.png(_array(portrait)[0])),
      'driving': ('driving.mkv', media.clip(_array(driving), frame_rate, _sound(audio))),
    }
    _, results = _run(server, node, files, kind='animate', engine=engine, options=chosen)
    frames, rate, sound = media.read(results['video'])
    # as ComfyUI's own for a silent video
    heard = None if sound is None else sound | {'waveform': _tensor(sound['waveform'])}
    return (_tensor(frames), heard, rate, results['record'].decode())


class FittedHead:
  """The head that is fitted to a portrait, drawn over it, with a number at every face."""

  CATEGORY, FUNCTION, DESCRIPTION = (
    'exp_jax',
    'fit',
    'The fitted head over the portrait, before anything is animated.',
  )
  RETURN_TYPES, RETURN_NAMES = ('IMAGE',), ('picture',)

  @classmethod
  def INPUT_TYPES(cls):
    face = {
      'default': 'largest',
      'tooltip': 'largest, a number (0 the largest), left, right, or X,Y in pixels',
    }
    return {
      'required': {'portrait': ('IMAGE',), 'face': ('STRING', face)},
      'optional': _server_inputs(),
      'hidden': {'node': 'UNIQUE_ID'},
    }

  def fit(self, portrait, face, server='', node=None):
    """The picture [1, H, W, 3]."""
    import io

    from PIL import Image

    files = {'portrait': ('portrait.png', media.png(_array(portrait)[0]))}
    _, results = _run(server, node, files, kind='portrait', engine='proxy', options={'face': face})
    with Image.open(io.BytesIO(results['head'])) as image:
      return (_tensor(np.asarray(image.convert('RGB'), np.float32)[None] / 255),)


NODE_CLASS_MAPPINGS = {'ExpJaxAnimatePortrait': AnimatePortrait, 'ExpJaxFittedHead': FittedHead}
NODE_DISPLAY_NAME_MAPPINGS = {
  'ExpJaxAnimatePortrait': 'Animate portrait (exp_jax)',
  'ExpJaxFittedHead': 'Fitted head (exp_jax)',
}
