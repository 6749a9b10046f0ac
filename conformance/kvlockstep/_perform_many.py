"""How the operations on batches, on lists of caches and on several caches run on one side."""

from __future__ import annotations

from typing import Any

from kvlockstep._arrays import build_item
from kvlockstep._memento import Memento
from kvlockstep._side import Side
from kvlockstep._sizes import all_in
from kvlockstep._snapshots import CAUGHT
from kvlockstep._steps import (
    Advance,
    Extend,
    Extract,
    Filter,
    Finalize,
    GetItem,
    Merge,
    Prepare,
    SetItem,
    Transfer,
)


def transfer(side: Side, step: Transfer) -> None:
    cache, other = side.at(step.slot), side.at(step.source)
    before = Memento(one for one in all_in([cache]) if hasattr(one, "__dict__"))
    cache.state = other.state
    if not hasattr(type(cache), "meta_state"):
        return
    try:
        cache.meta_state = other.meta_state
    except CAUGHT:
        # Two assignments are one step: where the second fails, the first is undone.
        before.put_back({})
        raise


def filter_rows(side: Side, step: Filter) -> Any:
    return side.at(step.slot).filter(step.rows)


def extend(side: Side, step: Extend) -> Any:
    return side.at(step.slot).extend(side.at(step.peer))


def extract(side: Side, step: Extract) -> None:
    side.slots[step.to] = side.at(step.slot).extract(_given(step.given, step.index))


def merge(side: Side, step: Merge) -> None:
    caches = side.all_at((step.slot, *step.peers))
    side.slots[step.to] = type(caches[0]).merge(caches[0] if step.bare else caches)


def prepare(side: Side, step: Prepare) -> Any:
    given = {
        "left_padding": step.left_padding,
        "lengths": step.lengths,
        "right_padding": step.right_padding,
    }
    named = {name: build_item(numbers) for name, numbers in given.items() if numbers is not None}
    return side.at(step.slot).prepare(**named)


def finalize(side: Side, step: Finalize) -> Any:
    return side.at(step.slot).finalize()


def advance(side: Side, step: Advance) -> Any:
    return side.at(step.slot).advance(_given(step.given, step.n))


def get_item(side: Side, step: GetItem) -> Any:
    return side.at(step.slot)[step.index]


def set_item(side: Side, step: SetItem) -> None:
    side.at(step.slot)[step.index] = build_item(step.value)


def _given(given: Any, usual: Any) -> Any:
    return usual if given is None else build_item(given)
