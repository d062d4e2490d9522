"""`python -m exp_jax.prepare` behind its arguments."""

import dataclasses
import sys

from exp_jax.data import clip_job as job
from exp_jax.data.clip_list import held_out_people, items_of, items_of_dataset, share_of
from exp_jax.heads.trained_head import write_head
from exp_jax.layers.batching import at_once
from exp_jax.systems.expportrait.records.encode import store_prompt, window_options
from exp_jax.systems.expportrait.records.prepare import Preparer, Settings
from exp_jax.systems.expportrait.records.quality import Limits


def _settings(args) -> Settings:
  """What the arguments say; comma-separated lists as tuples."""
  names = lambda text: tuple(name for name in text.split(',') if name)
  known = vars(args) | {
    'extras': names(args.extras),
    'windows': window_options(args),
    'limits': Limits(
      **{field.name: getattr(args, field.name) for field in dataclasses.fields(Limits)}
    ),
  }
  return Settings(**{field.name: known[field.name] for field in dataclasses.fields(Settings)})


def run(args, *, estimator=None) -> list[job.Outcome]:
  """Prepares what the arguments name.

  `estimator` replaces MediaPipe, for tests. UserError before anything is written.
  """
  if args.clips is not None:
    items = items_of(args.clips, people=args.people, skip=args.output)
  else:
    items = items_of_dataset(args.dataset, args.split)
  held_out = held_out_people(items, args.holdout)
  if args.shard is not None:
    share_of(items, args.shard, args.num_shards)
  together = at_once(args.together)
  with Preparer(
    args.output,
    _settings(args),
    subjects=args.subjects,
    mattes=args.mattes,
    estimator=estimator,
    digests_name=job.of_share('digests.jsonl', args),
  ) as preparer:
    if args.prompt is not None:
      store_prompt(args.prompt, args.output)
    write_head(args.output, preparer.head)
    work = job.Work(preparer.key, preparer.make, together, preparer.figures)
    outcomes = job.run_shared(items, args.output, work, args, held_out=held_out, label='prepare')
  linear = [o.item.name for o in outcomes if o.figures.get('offsets') == 'none' and not o.reason]
  if linear:
    print(
      f'{len(linear)} of {len(outcomes)} clips got no personalized head: their control maps show '
      'the linear head model alone '
      f'({", ".join(linear[:3])}{", ..." if len(linear) > 3 else ""}); give networks for normals '
      'by --networks, or train with '
      '--config.data.linear_heads=True',
      file=sys.stderr,
    )
  return outcomes
