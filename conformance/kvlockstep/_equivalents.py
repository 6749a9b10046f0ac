"""Mutants that no input can tell apart, and functions that no release has: each with a reason.

Strict both ways: an entry that names no mutant fails, and so does one whose mutant is killed, or
whose function some trace runs.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

Text = Annotated[str, Meta(min_length=1)]

EQUIVALENTS = Path(__file__).resolve().parent.parent / "equivalent_mutants.toml"


class EquivalentsError(ValueError):
    """A list of equivalent mutants that cannot be read."""


class Entry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Mutants of these targets, by their content ids, and why no input tells them apart."""

    targets: Annotated[tuple[Text, ...], Meta(min_length=1)]
    mutants: Annotated[tuple[Text, ...], Meta(min_length=1)]
    reason: Text


class Outside(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Functions of these targets that nothing in a contract runs: they are not mutated."""

    targets: Annotated[tuple[Text, ...], Meta(min_length=1)]
    functions: Annotated[tuple[Text, ...], Meta(min_length=1)]
    reason: Text


class Equivalents(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole list."""

    version: int
    equivalent: tuple[Entry, ...] = ()
    outside: tuple[Outside, ...] = ()

    def reasons(self, target: str) -> dict[str, str]:
        """Return the reason for each equivalent mutant of a target, by content id."""
        entries = [entry for entry in self.equivalent if target in entry.targets]
        return {name: entry.reason for entry in entries for name in entry.mutants}

    def functions(self, target: str) -> dict[str, str]:
        """Return the reason for each function of a target that is not mutated."""
        entries = [entry for entry in self.outside if target in entry.targets]
        return {name: entry.reason for entry in entries for name in entry.functions}


def read_equivalents(path: Path = EQUIVALENTS) -> Equivalents:
    """Read the list in `path`; raises `EquivalentsError` with the offending field."""
    try:
        found = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Equivalents)
    except (msgspec.ValidationError, tomllib.TOMLDecodeError, UnicodeError, OSError) as error:
        raise EquivalentsError(f"{path}: {error}") from error
    if found.version != 1:
        raise EquivalentsError(f"{path}: expected version 1, got {found.version}")
    for target in {target for entry in found.equivalent for target in entry.targets}:
        names = [n for entry in found.equivalent if target in entry.targets for n in entry.mutants]
        if twice := {name for name in names if names.count(name) > 1}:
            raise EquivalentsError(f"{path}: {target}: listed twice: {', '.join(sorted(twice))}")
    return found


def judge_equivalents(
    listed: Iterable[str], made: Collection[str], killed: Collection[str]
) -> list[str]:
    """Return what is wrong with a list of equivalent mutants after a whole run, a line each."""
    problems = []
    for name in listed:
        if name not in made:
            problems.append(f"listed as equivalent, but there is no such mutant: {name}")
        elif name in killed:
            problems.append(f"listed as equivalent, but killed: {name}")
    return problems
