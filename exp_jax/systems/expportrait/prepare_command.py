"""`python -m exp_jax.prepare` behind its arguments."""

import dataclasses

import jax

from exp_jax.systems.expportrait.prepare import Preparer, Settings, prepare
from exp_jax.systems.expportrait.prepare_job import Outcome
from exp_jax.systems.expportrait.prepare_list import held_out_people, items_of, items_of_dataset, share_of


def run(args, *, estimator=None) -> list[Outcome]:
  """Prepares what the arguments name. `estimator` replaces MediaPipe, for tests. UserError before anything is written."""
  if args.clips is not None:
    items = items_of(args.clips, people=args.people, skip=args.output)
  else:
    items = items_of_dataset(args.dataset, args.split)
  held_out = held_out_people(items, args.holdout)
  if args.shard is not None:
    share_of(items, args.shard, args.num_shards)
  known = vars(args) | {'networks': tuple(path for path in args.networks.split(',') if path)}
  settings = Settings(**{field.name: known[field.name] for field in dataclasses.fields(Settings)})
  names = 'digests.jsonl' if args.shard is None else f'digests-{args.shard:05d}-of-{args.num_shards:05d}.jsonl'
  together = args.together or (1 if jax.default_backend() == 'cpu' else 16)
  with Preparer(args.output, settings, subjects=args.subjects, mattes=args.mattes, estimator=estimator,
                digests_name=names) as preparer:
    return prepare(items, args.output, preparer, held_out=held_out, together=together, shard=args.shard,
                   num_shards=args.num_shards, per_file=args.records_per_file, retry=args.retry_failed)
