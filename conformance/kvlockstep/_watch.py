"""What there is to know of the caches before a step: counted for coverage, kept for the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvlockstep._caches import CACHES
from kvlockstep._divergence import Cell, Pair, Run
from kvlockstep._facts import Context, Seen, counts_of
from kvlockstep._operations import destination
from kvlockstep._prompt_steps import OnSequence, TrimPrompt
from kvlockstep._side import Side, walk
from kvlockstep._sizes import Sizes, sizes_of, slot_shapes_of
from kvlockstep._snapshots import Snapshot
from kvlockstep._states import leaves_of, state_of
from kvlockstep._steps import Copy, Extend, OnSlot, Reload, SetState, Transfer, Trim, Update
from kvlockstep._trace import AnyStep

# What has leaves or slots.
_WITH_PARTS = ("ArraysCache", "CacheList")


class Watch:
    """Counts the steps of one trace by the state classes of their caches.

    Remembers what a cache does not tell of itself: which were trimmed by their last change, and
    which tokens the trace has named so far.
    """

    def __init__(self, side: Side, result: Run) -> None:
        self._side = side
        self._result = result
        self._trimmed: set[str] = set()
        self._tokens: set[Any] = set()

    def note(
        self,
        step: AnyStep,
        name: str,
        operation: str,
        taken: Sequence[str],
        caches: Sequence[Any],
        sizes: Sizes,
        contents: Mapping[int, Snapshot],
    ) -> Context:
        """Count the step, and return what the ledger may want to know of its caches."""
        seen: list[Seen] = []
        for address, cache in zip(taken, caches, strict=True):
            own = sizes if sizes and not seen else sizes_of(cache)
            seen.append(self._see(address, cache, own, contents))
        state = seen[0].state if seen and isinstance(step, OnSlot) else "none"
        self._result.steps += 1
        self._result.cells[Cell(name, operation, state)] += 1
        if name in CACHES and operation in CACHES[name].peers:
            for cache, other in zip(caches[1:], seen[1:], strict=True):
                if type(cache) is type(caches[0]):
                    self._result.pairs[Pair(name, operation, state, other.state)] += 1
        self._note_trims(step, taken)
        trimmable = type(step) is Trim and _is_trimmable(caches[0])
        if not isinstance(step, OnSequence):
            return Context(tuple(seen), trimmable)
        self._tokens |= {*step.tokens}
        return Context(tuple(seen), trimmable, frozenset(self._tokens))

    def _see(
        self, address: str, cache: Any, sizes: Sizes, contents: Mapping[int, Snapshot]
    ) -> Seen:
        kind = type(cache).__name__
        state = state_of(cache, sizes, address in self._trimmed)
        if kind not in _WITH_PARTS and "left_padding" not in vars(cache):
            return Seen(kind, sizes, state)
        leaves = leaves_of(address, cache, self._trimmed)
        counts = counts_of(cache, contents)
        return Seen(kind, sizes, state, slot_shapes_of(cache), leaves, counts)

    def _note_trims(self, step: AnyStep, taken: Sequence[str]) -> None:
        """Remember which caches were trimmed by their last change."""
        if isinstance(step, (Trim, TrimPrompt)):
            for address in taken:
                self._trimmed |= {below for below, _ in walk(address, self._side.at(address))}
        if not self._trimmed:
            return
        if isinstance(step, (Update, SetState, Transfer, Extend)):
            self._trimmed.discard(step.slot)
        if (slot := destination(step)) is not None:
            given = isinstance(step, Reload) and step.state is not None
            same = isinstance(step, (Copy, Reload)) and not given and taken[0] in self._trimmed
            self._trimmed = {one for one in self._trimmed if one.partition(".")[0] != slot}
            if same:
                self._trimmed.add(slot)


def _is_trimmable(cache: Any) -> bool:
    try:
        return bool(cache.is_trimmable())
    except Exception:
        return False
