"""Single-point mutants of cache code: what cosmic-ray's operators change, one place at a time.

A unit is a function, or another statement of a class body. Each is mutated by itself, so that a
mutant is a few lines that take the place of a few lines, and can be made without reading the file
again.
"""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from kvlockstep._error_words import is_word, spans_of_words

# What a binary operator is replaced with; cosmic-ray has all the others too.
_INVERSES = {
    "Add": "Sub", "Sub": "Add", "Mul": "FloorDiv", "Div": "Mul", "FloorDiv": "Mul",
    "Mod": "FloorDiv", "Pow": "Mul", "RShift": "LShift", "LShift": "RShift", "BitOr": "BitAnd",
    "BitAnd": "BitOr", "BitXor": "BitAnd",
}  # fmt: skip
_BINARY = "ReplaceBinaryOperator"
# They need arguments: which variable to replace, by what.
_WITH_ARGUMENTS = ("VariableReplacer", "VariableInserter")
_WRAPPER = "class _:\n"


class NoOperatorsError(Exception):
    """cosmic-ray is not installed."""


@dataclass(frozen=True)
class Unit:
    """Lines `first` to `last` of a module, all of one function or statement.

    `function` is its dotted name in the module, `owner` the class that it is in ("" for none).
    """

    module: str
    file: str
    function: str
    owner: str
    first: int
    last: int
    text: str


@dataclass(frozen=True)
class Mutant:
    """A unit with one place changed: `text` takes the place of its lines.

    `number` counts the mutants of one operator on one line. `content` names it by what it changes,
    for lists that outlive a line number: the function, the operator, and a digest of both lines.
    `is_word` says that it only changes what an error says.
    """

    unit: Unit
    line: int
    operator: str
    number: int
    before: str
    after: str
    text: str
    content: str = ""
    is_word: bool = False

    @property
    def id(self) -> str:
        """File, line, operator and number."""
        return f"{self.unit.file}:{self.line}:{self.operator}:{self.number}"

    def apply(self, source: str) -> str:
        """Return the source of the module with the mutant in it."""
        lines = source.splitlines(keepends=True)
        lines[self.unit.first - 1 : self.unit.last] = [self.text]
        return "".join(lines)


def units_of(
    module: str, file: str, source: str, wanted: Callable[[str], bool] = lambda _: True
) -> Iterator[Unit]:
    """Yield the units of a module's classes and functions, those whose name is `wanted`."""
    lines = source.splitlines(keepends=True)

    def unit(node: ast.stmt, name: str, owner: str) -> Unit:
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(one.lineno for one in decorators)])
        last = node.end_lineno or node.lineno
        return Unit(module, file, name, owner, first, last, "".join(lines[first - 1 : last]))

    def walk(body: list[ast.stmt], prefix: str, owner: str) -> Iterator[Unit]:
        for node in body:
            name = getattr(node, "name", "")
            match node:
                case ast.ClassDef():
                    yield from walk(node.body, f"{prefix}{name}.", owner or name)
                case ast.FunctionDef():
                    yield unit(node, prefix + name, owner)
                case ast.Assign() | ast.AnnAssign() if owner:
                    yield unit(node, prefix.removesuffix("."), owner)

    for node in ast.parse(source).body:
        if wanted(getattr(node, "name", "")):
            yield from walk([node], "", "")


@lru_cache(maxsize=2)
def operators(every: bool = False) -> dict[str, Any]:
    """Return cosmic-ray's operators by name; raises `NoOperatorsError`.

    A binary operator is replaced with its inverse only, unless `every` one is wanted.
    """
    try:
        from cosmic_ray.operators.provider import OperatorProvider  # noqa: PLC0415
    except ImportError as error:
        raise NoOperatorsError(
            "mutants are made by cosmic-ray, which is not installed: "
            "python -m pip install 'kvlockstep[mutate]'"
        ) from error
    provider = OperatorProvider()
    found = {}
    for name in provider:
        kind, _, change = name.partition("_")
        before, _, after = change.partition("_")
        if name in _WITH_ARGUMENTS:
            continue
        if every or kind != _BINARY or _INVERSES[before] == after:
            found[name] = provider[name]
    return found


def mutants_of(units: Collection[Unit], every: bool = False) -> list[Mutant]:
    """Return all mutants of the units, each with a content id of its own.

    Left out: what does not compile, and what only an annotation would show.
    """
    known: Counter[str] = Counter()
    mutants = []
    for unit in units:
        for mutant in _mutants_of(unit, every):
            name = _content(mutant)
            known[name] += 1
            number = f"~{known[name]}" if known[name] > 1 else ""
            mutants.append(replace(mutant, content=name + number))
    return sorted(mutants, key=lambda one: (one.unit.file, one.line, one.operator, one.number))


def _mutants_of(unit: Unit, every: bool) -> Iterator[Mutant]:
    from cosmic_ray.ast import ast_nodes, get_ast  # noqa: PLC0415
    from cosmic_ray.mutating import mutate_code  # noqa: PLC0415

    source = _WRAPPER + unit.text if unit.text[0].isspace() else unit.text
    shift = unit.first - (2 if source is not unit.text else 1)
    own = _shape(source)
    nodes = list(ast_nodes(get_ast(source)))
    words = spans_of_words(source)
    numbers: Counter[tuple[int, str]] = Counter()
    for name, operator in operators(every).items():
        places = [place for node in nodes for place in operator().mutation_positions(node)]
        for occurrence, (start, end) in enumerate(places):
            mutated = mutate_code(source, operator(), occurrence)
            line = start[0] + shift
            number = numbers[line, name]
            numbers[line, name] += 1
            if mutated is None or _shape(mutated) in (None, own):
                continue
            before, after = _change(source, mutated)
            text = mutated.removeprefix(_WRAPPER) if source is not unit.text else mutated
            said = is_word(start, end, words)
            yield Mutant(unit, line, name, number, before, after, text, is_word=said)


def _shape(source: str) -> str | None:
    """Return what there is to run of a source, annotations left out; None if it does not parse."""
    try:
        with warnings.catch_warnings():
            # What a mutant compares with `is` is its own business.
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = compile(source, "", "exec", ast.PyCF_ONLY_AST)
            compile(source, "", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def _change(source: str, mutated: str) -> tuple[str, str]:
    """Return the lines that differ, stripped, as they were and as they are."""
    old, new = source.splitlines(), mutated.splitlines()
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    parts = old[start : len(old) - end], new[start : len(new) - end]
    before, after = (" ".join(line.strip() for line in part) for part in parts)
    return before, after


def _content(mutant: Mutant) -> str:
    digest = hashlib.sha256(f"{mutant.before}\n{mutant.after}".encode()).hexdigest()[:8]
    return f"{mutant.unit.function}:{mutant.operator}:{digest}"
