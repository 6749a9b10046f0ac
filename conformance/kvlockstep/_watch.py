"""What there is to know of the caches before a step: counted for coverage, kept for the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvlockstep._caches import CACHES
from kvlockstep._divergence import Cell, Pair, Run
from kvlockstep._facts import counts_of
from kvlockstep._operations import destination
from kvlockstep._prompt_steps import OnSequence, TrimPrompt
from kvlockstep._side import Side, walk
from kvlockstep._sizes import Sizes, sizes_of, slot_shapes_of
from kvlockstep._snapshots import Snapshot
from kvlockstep._states import leaves_of, state_of
from kvlockstep._steps import Copy, Extend, OnSlot, Reload, SetState, Transfer, Trim, Update
from kvlockstep._trace import AnyStep


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
    ) -> dict[str, Any]:
        """Count the step, and return what the ledger may want to know of its caches."""
        every = [sizes, *map(sizes_of, caches[1:])] if sizes else [*map(sizes_of, caches)]
        found = zip(taken, caches, every, strict=True)
        states = [state_of(cache, own, address in self._trimmed) for address, cache, own in found]
        state = states[0] if states and isinstance(step, OnSlot) else "none"
        self._result.steps += 1
        self._result.cells[Cell(name, operation, state)] += 1
        if name in CACHES and operation in CACHES[name].peers:
            for cache, other in zip(caches[1:], states[1:], strict=True):
                if type(cache) is type(caches[0]):
                    self._result.pairs[Pair(name, operation, state, other)] += 1
        pairs = zip(taken, caches, strict=True)
        leaves = [leaves_of(address, cache, self._trimmed) for address, cache in pairs]
        self._note_trims(step, taken)
        peer = every[1] if len(every) > 1 else {}
        context: dict[str, Any] = {f"peer_{size}": number for size, number in peer.items()}
        context["sizes"] = every
        context |= counts_of(caches, contents)
        context["classes"] = [type(cache).__name__ for cache in caches]
        context["states"] = states
        context["slot_shapes"] = [slot_shapes_of(cache) for cache in caches]
        context["leaves"] = [[name for name, _ in inside] for inside in leaves]
        context["leaf_batches"] = [[batch for _, batch in inside] for inside in leaves]
        if isinstance(step, OnSequence):
            self._tokens |= {*step.tokens}
            context["tokens_so_far"] = set(self._tokens)
        context["trimmable"] = type(step) is Trim and _is_trimmable(caches[0])
        return context

    def _note_trims(self, step: AnyStep, taken: Sequence[str]) -> None:
        """Remember which caches were trimmed by their last change."""
        if isinstance(step, (Trim, TrimPrompt)):
            for address in taken:
                self._trimmed |= {below for below, _ in walk(address, self._side.at(address))}
        elif isinstance(step, (Update, SetState, Transfer, Extend)):
            self._trimmed.discard(step.slot)
        if (slot := destination(step)) is not None:
            same = isinstance(step, (Copy, Reload)) and taken[0] in self._trimmed
            self._trimmed = {one for one in self._trimmed if one.partition(".")[0] != slot}
            if same:
                self._trimmed.add(slot)


def _is_trimmable(cache: Any) -> bool:
    try:
        return bool(cache.is_trimmable())
    except Exception:
        return False
