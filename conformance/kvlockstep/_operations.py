"""What each step does, under which name. The next operation goes here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from kvlockstep import _perform, _perform_many, _perform_prompts
from kvlockstep._prompt_steps import (
    AppendTokens,
    CanTrimPrompt,
    LruFetch,
    LruInsert,
    LruTrim,
    MakePrompt,
    TrieAdd,
    TrieGet,
    TriePop,
    TriePopPrefixes,
    TrieSearch,
    TrimPrompt,
)
from kvlockstep._side import Side
from kvlockstep._steps import (
    Advance,
    AttentionMask,
    CausalMask,
    Construct,
    Copy,
    Depends,
    Extend,
    Extract,
    Fetch,
    Filter,
    Finalize,
    FrontTrim,
    GetItem,
    Hold,
    Mask,
    Merge,
    OnSlot,
    Prepare,
    Quantize,
    Reload,
    Reserve,
    SetItem,
    SetMetaState,
    SetState,
    Step,
    Transfer,
    Trim,
    Update,
)
from kvlockstep._trace import AnyStep


@dataclass(frozen=True, slots=True)
class Operation:
    """`perform` runs the step; `member` is what the class (or module) must have for it."""

    name: str
    perform: Callable[[Side, Any], Any]
    member: str | None = None


_ALL: tuple[tuple[type[Step], Callable[[Side, Any], Any], str | None], ...] = (
    (Construct, _perform.construct, None),
    (Update, _perform.update, "update_and_fetch"),
    (Fetch, _perform.fetch, "keys_and_values"),
    (Trim, _perform.trim, "trim"),
    (FrontTrim, _perform.front_trim, "maybe_trim_front"),
    (Mask, _perform.mask, "make_mask"),
    (SetState, _perform.set_state, "state"),
    (SetMetaState, _perform.set_meta_state, "meta_state"),
    (Transfer, _perform_many.transfer, "state"),
    (Depends, _perform.depends, None),
    (Reserve, _perform.reserve, None),
    (Hold, _perform.hold, None),
    (Reload, _perform.reload, "from_state"),
    (Copy, _perform.copy, None),
    (Quantize, _perform.quantize, "to_quantized"),
    (Filter, _perform_many.filter_rows, "filter"),
    (Extend, _perform_many.extend, "extend"),
    (Extract, _perform_many.extract, "extract"),
    (Merge, _perform_many.merge, "merge"),
    (Prepare, _perform_many.prepare, "prepare"),
    (Finalize, _perform_many.finalize, "finalize"),
    (Advance, _perform_many.advance, "advance"),
    (GetItem, _perform_many.get_item, "__getitem__"),
    (SetItem, _perform_many.set_item, "__setitem__"),
    (CausalMask, _perform.causal_mask, "create_causal_mask"),
    (AttentionMask, _perform.attention_mask, "create_attention_mask"),
    (MakePrompt, _perform_prompts.make_prompt, "make_prompt_cache"),
    (CanTrimPrompt, _perform_prompts.can_trim_prompt, "can_trim_prompt_cache"),
    (TrimPrompt, _perform_prompts.trim_prompt, "trim_prompt_cache"),
    (AppendTokens, _perform_prompts.append_tokens, "update_and_fetch"),
    (TrieAdd, _perform_prompts.trie_add, "add"),
    (TrieGet, _perform_prompts.trie_get, "get"),
    (TriePop, _perform_prompts.trie_pop, "pop"),
    (TriePopPrefixes, _perform_prompts.trie_pop_prefixes, "pop_prefixes"),
    (TrieSearch, _perform_prompts.trie_search, "search"),
    (LruInsert, _perform_prompts.lru_insert, "insert_cache"),
    (LruFetch, _perform_prompts.lru_fetch, "fetch_nearest_cache"),
    (LruTrim, _perform_prompts.lru_trim, "trim_to"),
)
# An operation goes by the tag of its step.
OPERATIONS: dict[type[Step], Operation] = {
    kind: Operation(str(kind.__struct_config__.tag), perform, member)
    for kind, perform, member in _ALL
}


# The further caches that a step takes, or all of them where it has no slot of its own.
_TAKEN: dict[type[Step], Callable[[Any], tuple[str, ...]]] = {
    Construct: lambda _: (),
    Transfer: lambda step: (step.slot, step.source),
    Extend: lambda step: (step.slot, step.peer),
    Merge: lambda step: (step.slot, *step.peers),
    LruInsert: lambda step: (step.slot, *step.caches),
    TrimPrompt: lambda step: step.slots,
    CanTrimPrompt: lambda step: step.slots,
}
_TO = frozenset({Reload, Copy, Quantize, Extract, Merge})


def operands(step: Step) -> tuple[str, ...]:
    """Return the addresses of the caches that `step` takes, its own slot first."""
    taken = _TAKEN.get(type(step))
    if taken is not None:
        return taken(step)
    return (step.slot,) if isinstance(step, OnSlot) else ()


def destination(step: Step) -> str | None:
    """Return the slot that `step` puts a new cache into, or None."""
    if type(step) in _TO:
        return step.to  # type: ignore[attr-defined, no-any-return]
    return step.slot if type(step) is Construct else None


def present(step: AnyStep, there: Callable[[str], bool]) -> AnyStep | None:
    """Return `step` without the further caches that are not there, or None.

    None stands for a step that has nothing to act on: its own slot is empty, or the one that it
    cannot do without.
    """
    if all(map(there, operands(step))):
        return step
    match step:
        case Transfer(source=other) | Extend(peer=other) if not there(other):
            return None
        case OnSlot(slot=slot) if not there(slot):
            return None
        case Merge(peers=others):
            return replace(step, peers=tuple(filter(there, others)))
        case LruInsert(caches=others):
            return replace(step, caches=tuple(filter(there, others)))
        case TrimPrompt(slots=slots) | CanTrimPrompt(slots=slots):
            return replace(step, slots=tuple(filter(there, slots)))
        case _:
            return step
