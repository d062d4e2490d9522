"""Every tensor is used once and every leaf is filled once, whatever the table; what is wrong is
named."""

import numpy as np
import pytest

from exp_jax.convert.foreign.book import Book, Entry, check_names, check_table, filled
from exp_jax.errors import UserError

LEAVES = {'fc.kernel': (3, 5), 'fc.bias': (5,), 'blocks.scale': (2, 7), 'scalar': ()}
TABLE = [
  Entry(('fc.kernel', 'fc.bias'), ('a.weight', 'a.bias'), lambda w, b: [w.T, b], part=(0, 2)),
  Entry(
    ('fc.kernel', 'fc.bias'),
    ('b.weight', 'b.bias', 'b.gain'),
    lambda w, b, gain: [gain * w.T, gain * b],
    part=(2, 5),
  ),
  Entry(('blocks.scale',), ('blocks.0',), part=0),
  Entry(('blocks.scale',), ('blocks.1',), part=1),
  Entry(('scalar',), ('s',)),
]


def tensors():
  shapes = {
    'a.weight': (2, 3),
    'a.bias': (2,),
    'b.weight': (3, 3),
    'b.bias': (3,),
    'b.gain': (),
    'blocks.0': (7,),
    'blocks.1': (7,),
    's': (),
  }
  rng = np.random.default_rng(0)
  return {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in shapes.items()}


def test_a_table_fills_every_leaf_from_its_tensors():
  given = tensors()
  check_table(TABLE, LEAVES)
  check_names([name for entry in TABLE for name in entry.theirs], given, 'x is not y')
  arrays, report = filled(TABLE, LEAVES, given.__getitem__, 'x')
  gain = given['b.gain']
  np.testing.assert_array_equal(
    arrays['fc.kernel'], np.concatenate([given['a.weight'], gain * given['b.weight']]).T
  )
  np.testing.assert_array_equal(
    arrays['fc.bias'], np.concatenate([given['a.bias'], gain * given['b.bias']])
  )
  np.testing.assert_array_equal(
    arrays['blocks.scale'], np.stack([given['blocks.0'], given['blocks.1']])
  )
  assert (
    arrays['scalar'] == given['s']
    and {name: value.shape for name, value in arrays.items()} == LEAVES
  )
  assert report['fc.bias'] == ['a.weight', 'a.bias', 'b.weight', 'b.bias', 'b.gain']
  assert report['blocks.scale'] == ['blocks.0', 'blocks.1']


@pytest.mark.parametrize(
  'table, words',
  [
    (TABLE[1:], r'fc.kernel \(3, 5\) is filled by \[\(2, 5\)\]'),
    (TABLE[:1] + TABLE[2:], 'fc.kernel .* is filled by'),
    (TABLE[:3] + TABLE[4:], r'blocks.scale \(2, 7\) is filled by \[0\]'),
    (TABLE[:4], r'scalar \(\) is filled by \[\]'),
    ([*TABLE, TABLE[4]], 'two entries take s'),
    ([*TABLE, Entry(('scalar',), ('t',))], 'scalar .* is filled by'),
    ([*TABLE, Entry(('blocks.scale',), ('t',), part=1)], 'blocks.scale .* is filled by'),
    ([*TABLE, Entry(('blocks.scale',), ('t',))], 'blocks.scale .* is filled by'),
    ([*TABLE, Entry(('fc.bias',), ('t',), part=(1, 3))], 'fc.bias .* is filled by'),
    ([*TABLE, Entry(('other',), ('t',))], 'no leaf other'),
  ],
)
def test_a_table_that_does_not_cover_the_network_is_our_mistake(table, words):
  with pytest.raises(ValueError, match=words) as caught:
    check_table(table, LEAVES)
  assert not isinstance(caught.value, UserError)


def test_leftovers_on_either_side_are_counted_and_named():
  wanted = ['a', 'b', 'c', 'd', 'e.count']
  assert check_names(wanted, ['z', *wanted, 'y'], 'x', ignored='[yz]$') == ['z', 'y']
  assert check_names(wanted, wanted[:4], 'x', optional=r'.*\.count$') == []
  with pytest.raises(
    UserError, match=r"^x is not y: missing \['b', 'c', 'd'\] \(4\), unknown \['t', 'u'\] \(2\)$"
  ):
    check_names(wanted, ['u', 'a', 't'], 'x is not y')


def test_a_tensor_of_another_shape_is_named_with_its_leaf():
  given = tensors() | {'b.bias': np.zeros(2, np.float32)}
  with pytest.raises(
    UserError,
    match=r'^x: b.weight and b.bias and b.gain \[\(3, 3\), \(2,\), \(\)\] do not fit fc.bias '
    r'\(3,\)$',
  ):
    filled(TABLE, LEAVES, given.__getitem__, 'x')


def test_a_book_knows_what_each_leaf_was_made_of():
  book = Book({'w': np.ones((2, 3)), 'b': np.ones(3), 'n': np.ones(1), 'skipped': np.ones(4)}, 'x')
  kernel, bias = book.take('w'), book.take('b')
  book.put_all({'kernel': kernel, 'bias': bias})
  book.drop('n')
  book.drop('absent')
  assert book.names == ['skipped'] and book.leaves['kernel'].dtype == np.float32
  found = book.close({'kernel': (2, 3), 'bias': (3,)}, ignored='skip')
  assert found == {'leaves': {'kernel': ['w', 'b'], 'bias': ['w', 'b']}, 'left_out': ['skipped']}
  book.put('more', np.ones(1))
  assert book.report['more'] == []
  with pytest.raises(
    UserError, match='left over: skipped; missing: other; misshapen: kernel .*; unknown: more'
  ):
    book.close({'kernel': (2, 4), 'bias': (3,), 'other': ()})
  with pytest.raises(UserError, match="x has no tensor 'w'"):
    book.take('w')
