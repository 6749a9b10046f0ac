"""Divergences: where a target differs from its contract, and by what they are counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kvlockstep._trace import AnyStep


class Signature(NamedTuple):
    """What the ledger and the reports count by."""

    contract: str
    cache: str
    operation: str
    field: str

    def __str__(self) -> str:
        return "/".join(self)


@dataclass(frozen=True)
class Divergence:
    """In step `index` the target showed `actual` in `where`, the reference `expected`.

    `facts` are the sizes and arguments of the step, which a ledger entry's `when` may refer to.
    """

    signature: Signature
    index: int
    where: str
    expected: Any
    actual: Any
    facts: dict[str, Any]


class Cell(NamedTuple):
    """An operation on a cache in a state class."""

    cache: str
    operation: str
    state: str


class Pair(NamedTuple):
    """An operation on a cache in a state class, with a peer of the same class in another."""

    cache: str
    operation: str
    state: str
    peer: str


@dataclass
class Run:
    """What one trace showed: its divergences in order, and what it reached.

    `log` holds the steps with their sizes resolved, None where a step had nothing to act on.
    """

    divergences: list[Divergence] = field(default_factory=list)
    steps: int = 0
    cells: Counter[Cell] = field(default_factory=Counter)
    pairs: Counter[Pair] = field(default_factory=Counter)
    lacking: set[str] = field(default_factory=set)
    undefined: Counter[str] = field(default_factory=Counter)
    log: list[AnyStep | None] = field(default_factory=list)

    def signatures(self) -> set[Signature]:
        """Return the distinct signatures."""
        return {divergence.signature for divergence in self.divergences}
