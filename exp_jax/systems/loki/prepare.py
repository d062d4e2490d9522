"""Draws the driver maps of clips whose heads are fitted, as records that Loki trains on.

  python -m exp_jax actors -o out/actors --num 448 --seed 24
  python -m exp_jax loki.prepare --clips out/actors/clips --subjects out/actors/truth --mattes out/actors/mattes \\
      -o out/loki/records --size 64 --crop square --holdout 24

--subjects are files of `exp_jax.fit`, of the actors, or converted trackers'
(exp_jax.convert.subjects), one for each clip, of any head model. Leaves
<output>/train_00000.array_record and so on, 16 clips to a file, the last clips in held_out_00000
and so on, and head.json. Run again it goes on where it was.
"""

import functools

from exp_jax.controls.driver_map import driver_surface
from exp_jax.controls.map_records import record_parser, write_records
from exp_jax.errors import exits_cleanly
from exp_jax.systems.loki.records import make_record


@exits_cleanly
def main(argv=None):
  options = record_parser('loki.prepare', __doc__).parse_args(argv)
  write_records(
    options, {}, lambda head: functools.partial(make_record, surface=driver_surface(head))
  )
  return 0


if __name__ == '__main__':
  main()
