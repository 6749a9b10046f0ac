"""What an error says: the parts of a source that only make the words of an error that it raises."""

from __future__ import annotations

import ast
from collections.abc import Iterator

Place = tuple[int, int]
Span = tuple[Place, Place]


def spans_of_words(source: str) -> list[Span]:
    """Return where the words of errors are, as first and last (line, column), the end excluded.

    They are the arguments of the call in a `raise`, and what is assigned to a name that nothing but
    such words reads. Which error is raised, and when, is no word.
    """
    return [
        ((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0))
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef)
        for node in _words_of(function)
    ]


def is_word(start: Place, end: Place, spans: list[Span]) -> bool:
    """Whether a place lies within one of the spans."""
    return any(first <= start and end <= last for first, last in spans)


def _words_of(function: ast.FunctionDef) -> list[ast.expr]:
    words = [word for node in ast.walk(function) for word in _arguments_raised(node)]
    assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
    while True:
        inside = {id(node) for word in words for node in ast.walk(word)}
        more = [
            node.value
            for node in assigned
            if id(node.value) not in inside and _is_read_in(inside, node.targets, function)
        ]
        if not more:
            return words
        words += more


def _arguments_raised(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        yield from node.exc.args
        yield from (keyword.value for keyword in node.exc.keywords)


def _is_read_in(inside: set[int], targets: list[ast.expr], function: ast.FunctionDef) -> bool:
    """Whether one name is assigned to, and it is read, and only there."""
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    if len(names) != len(targets) or len(names) != 1:
        return False
    reads = [
        id(node)
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id == names[0]
    ]
    return bool(reads) and inside.issuperset(reads)
