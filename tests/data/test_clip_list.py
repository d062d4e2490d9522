from PIL import Image

from exp_jax.data.clip_list import items_of
from tests.media.films import moving_square


def test_animated_pictures_are_clips_and_still_ones_are_not(tmp_path):
  first, *rest = (Image.fromarray(frame) for frame in moving_square(3))
  for name in ('a.gif', 'b.webp', 'c.png'):
    first.save(tmp_path / name, save_all=True, append_images=rest, duration=40)
  for name in ('d.gif', 'e.jfif'):
    first.save(tmp_path / name, 'GIF' if name == 'd.gif' else 'JPEG')
  (tmp_path / 'f.xyz').write_bytes(b'x')
  (tmp_path / 'list.txt').write_text('a.gif\nd.gif\n')
  wrong = {item.name: item.wrong for item in items_of(tmp_path)}
  assert [name for name, words in wrong.items() if not words] == ['a.gif', 'b.webp', 'c.png']
  assert (
    'photograph' in wrong['d.gif']
    and 'photograph' in wrong['e.jfif']
    and "'.xyz'" in wrong['f.xyz']
  )
  assert [bool(item.wrong) for item in items_of(tmp_path / 'list.txt')] == [False, True]
