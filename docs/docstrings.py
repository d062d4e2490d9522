"""What autodoc does not see: comments behind the fields of records, and bars that mean an absolute
value.

The project writes shape and unit of a record's field in the comment behind it:

  focal: jax.Array  # [..., 2] pixels
"""

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize


def fields_of(record: type) -> list[tuple[str, str, str]]:
  """(name, annotation, comment) of a dataclass' own fields, in their order, read from its source.

  The comment is that on the field's line, else the lines of comment right above it, else ''.
  """
  source = textwrap.dedent(inspect.getsource(record))
  comments = {
    token.start[0]: ' '.join(token.string.lstrip('#: ').split())
    for token in tokenize.generate_tokens(io.StringIO(source).readline)
    if token.type == tokenize.COMMENT
  }
  lines = source.splitlines()

  def comment(node: ast.AnnAssign) -> str:
    if node.end_lineno in comments:
      return comments[node.end_lineno]
    first = node.lineno
    while first > 1 and lines[first - 2].lstrip().startswith('#'):
      first -= 1
    return ' '.join(comments[number] for number in range(first, node.lineno))

  return [
    (node.target.id, ast.unparse(node.annotation), comment(node))
    for node in ast.parse(source).body[0].body
    if isinstance(node, ast.AnnAssign)
  ]


def process_docstring(app, what, name, obj, options, lines):
  """Sphinx's hook: escapes bars in every docstring; a record lists its fields with their
  annotations and comments."""
  lines[:] = [line.replace('|', r'\|') for line in lines]
  if what == 'class' and dataclasses.is_dataclass(obj):
    entries = [
      f'- ``{field}`` (``{kind}``)' + (f': ``{text}``' if text else '')
      for field, kind, text in fields_of(obj)
    ]
    lines += ['', '**Fields**', '', *entries, '']


def skip_member(app, what, name, obj, skip, options):
  """Sphinx's hook: flax's own `replace` belongs to every record and is left out."""
  return True if name == 'replace' else skip
