"""Videos in and out: the door to `decode` and `encode`, where the conventions are explained.

A clip at its own pace, in the memory of one frame, with its sound:

    timed = ((edit(frame), time) for frame, time in read_frames(source))
    write_timed_video(target, timed, video_rate(source), audio_from=source)
"""

from exp_jax.media.decode import Clip, declared_frames, read_frames, read_video, video_rate
from exp_jax.media.encode import write_timed_video, write_video
from exp_jax.media.sound import has_sound

__all__ = [
  'Clip',
  'declared_frames',
  'has_sound',
  'read_frames',
  'read_video',
  'video_rate',
  'write_timed_video',
  'write_video',
]
