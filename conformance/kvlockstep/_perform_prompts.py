"""How the operations on prompts run on one side: lists of caches, token buffers, look-up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mlx.core as mx

from kvlockstep._arrays import build
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


def make_prompt(side: Side, step: MakePrompt) -> int:
    model = SimpleNamespace(layers=[None] * step.layers)
    if step.makes:
        model.make_cache = lambda: [side.module.KVCache()]
    caches = side.module.make_prompt_cache(model, max_kv_size=step.max_kv_size)
    side.put_all(step.to, caches)
    return len(caches)


def can_trim_prompt(side: Side, step: CanTrimPrompt) -> Any:
    return side.module.can_trim_prompt_cache(side.all_at(step.slots))


def trim_prompt(side: Side, step: TrimPrompt) -> Any:
    return side.module.trim_prompt_cache(side.all_at(step.slots), step.n)


def append_tokens(side: Side, step: AppendTokens) -> Any:
    given: Any = [*step.tokens]
    if step.array is not None:
        given = build(step.array)
    elif not step.as_list:
        given = mx.array(given, mx.int32)
    side.returned = side.at(step.slot).update_and_fetch(given)
    return side.returned


def trie_add(side: Side, step: TrieAdd) -> Any:
    return side.at(step.slot).add(step.of, step.given, step.value)


def trie_get(side: Side, step: TrieGet) -> Any:
    return side.at(step.slot).get(step.of, step.given)


def trie_pop(side: Side, step: TriePop) -> Any:
    return side.at(step.slot).pop(step.of, step.given)


def trie_pop_prefixes(side: Side, step: TriePopPrefixes) -> Any:
    return side.at(step.slot).pop_prefixes(step.of, step.given)


def trie_search(side: Side, step: TrieSearch) -> Any:
    tokens = step.given
    found = side.at(step.slot).search(step.of, tokens)
    seen = (found.model, found.exact, found.shorter, found.longer, found.common_prefix)
    return type(found).__name__, *seen, found.exact is tokens


def lru_insert(side: Side, step: LruInsert) -> Any:
    return side.at(step.slot).insert_cache(
        step.of, step.given, side.all_at(step.caches), cache_type=step.cache_type
    )


def lru_fetch(side: Side, step: LruFetch) -> Any:
    tokens = step.given
    caches, left = side.at(step.slot).fetch_nearest_cache(step.of, tokens)
    if caches is not None:
        side.put_all(step.to, caches)
    return None if caches is None else len(caches), left, left is tokens


def lru_trim(side: Side, step: LruTrim) -> Any:
    return side.at(step.slot).trim_to(n_sequences=step.n_sequences, n_bytes=step.n_bytes)
