"""Embeddings of fixed sentences by the text encoder of Stable Diffusion, made once with torch and
transformers, kept as arrays.

The portrait systems use one sentence for every portrait, so no text encoder is needed at run time.
"""

import pathlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.foreign_tensors import check_finite
from exp_jax.files.npz import write_npz


def encode_prompts(tokenizer, encoder, prompts: dict[str, str]) -> dict[str, np.ndarray]:
  """{name: float32 [tokens, width]} of {name: sentence}: the last hidden state, padding included,
  as the UNets were trained on.

  Args:
    tokenizer: called as one of transformers is; its `model_max_length` (77) is the number of
      tokens.
    encoder: a CLIP text model of transformers.

  Raises:
    UserError: a sentence has more tokens than the encoder sees.
  """
  import torch

  found, most = {}, tokenizer.model_max_length
  for name, text in prompts.items():
    whole = tokenizer([text], truncation=False)['input_ids'][0]
    if len(whole) > most:
      raise UserError(
        f'the sentence {name!r} has {len(whole)} tokens, the text encoder sees {most}: shorten it'
      )
    tokens = tokenizer(
      [text], padding='max_length', max_length=most, truncation=True, return_tensors='pt'
    )
    with torch.no_grad():
      state = encoder(tokens['input_ids']).last_hidden_state[0].float().numpy()
    found[name] = check_finite(state, name, 'the text encoder')
  return found


def write_prompts(folder, output, prompts: dict[str, str]) -> dict[str, tuple[int, ...]]:
  """Encodes {name: sentence} with text_encoder/ and tokenizer/ below a folder of diffusers; returns
  {name: shape}.

  Raises:
    UserError: no such folder, or torch or transformers are not installed.
  """
  folder = pathlib.Path(folder)
  for part in ('text_encoder', 'tokenizer'):
    if not (folder / part).is_dir():
      raise UserError(
        f'{folder} has no {part}/: name the folder of a release in the layout of diffusers'
      )
  try:
    import torch
    from transformers import CLIPTextModel, CLIPTokenizer
  except ImportError:
    raise UserError(
      'prompts are encoded by torch and transformers: pip install "exp_jax[convert]"'
    ) from None
  encoder = CLIPTextModel.from_pretrained(
    folder / 'text_encoder', dtype=torch.float32, use_safetensors=True
  ).eval()
  found = encode_prompts(CLIPTokenizer.from_pretrained(folder / 'tokenizer'), encoder, prompts)
  write_npz(output, found)
  return {name: value.shape for name, value in found.items()}
