"""Makes tests/golden/whisper_tiny.npz: transformers' Whisper front end and encoder on the tensors
of test_speech.py.

PYTHONPATH=. python tests/systems/liveportrait/make_whisper_fixture.py        (torch and transformers of requirements-oracles.txt)
"""

import pathlib
import sys

import numpy as np
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from test_speech import GOLDEN, whisper_dict  # noqa: E402


def main():
  rng = np.random.default_rng(3)
  config = WhisperConfig(
    d_model=64,
    encoder_attention_heads=1,
    encoder_layers=2,
    encoder_ffn_dim=256,
    num_mel_bins=80,
    max_source_positions=20,
  )
  encoder = WhisperEncoder(config).eval()
  encoder.load_state_dict(
    {k: torch.from_numpy(v) for k, v in whisper_dict(1, np.random.default_rng(0)).items()},
    strict=False,
  )
  mel = rng.normal(size=(2, 40, 80)).astype(np.float32)
  with torch.no_grad():
    output = encoder(torch.from_numpy(mel.transpose(0, 2, 1).copy())).last_hidden_state.numpy()
  t = np.arange(16000) / 16000
  sound = (0.3 * np.sin(2 * np.pi * 300 * t * (1 + t)) + 0.05 * rng.normal(size=len(t))).astype(
    np.float32
  )
  extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=1)
  features = extractor(sound, sampling_rate=16000, return_tensors='np').input_features[0].T
  np.savez_compressed(
    GOLDEN, sound=sound, mel=features.astype(np.float32), input=mel, output=output
  )
  print(GOLDEN, GOLDEN.stat().st_size, output.shape, features.shape, float(np.abs(output).mean()))


if __name__ == '__main__':
  main()
