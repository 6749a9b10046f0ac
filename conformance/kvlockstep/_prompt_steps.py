"""Steps on what mlx-lm keeps prompts in: lists of caches, token buffers, trie and LRU cache."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from kvlockstep._arrays import build_item
from kvlockstep._recipes import AnyRecipe, Count, Slice
from kvlockstep._steps import Addresses, OnSlot, Step

# A list, which a tuple of a trace stands for, is one that cannot be hashed.
Model = str | int | tuple[int, ...] | None
Token = AnyRecipe | Slice | int | float | bool | str | tuple[int, ...] | None
Tokens = Annotated[tuple[Token, ...], Meta(max_length=1024)]


class MakePrompt(Step, frozen=True, tag="make_prompt_cache", kw_only=True):
    """`make_prompt_cache(model, max_kv_size)`, its caches put into slots `to` + "0", "1", ...

    The model has so many `layers`; with `makes`, also a `make_cache` that returns one `KVCache`.
    """

    layers: Annotated[int, Meta(ge=0, le=8)]
    max_kv_size: Count | None = None
    makes: bool = False
    to: Annotated[str, Meta(pattern=r"^[a-z]{1,8}$(?!\n)")] = "p"


class CanTrimPrompt(Step, frozen=True, tag="can_trim_prompt_cache", kw_only=True):
    """`can_trim_prompt_cache([caches at slots])`."""

    slots: Addresses


class TrimPrompt(Step, frozen=True, tag="trim_prompt_cache", kw_only=True):
    """`trim_prompt_cache([caches at slots], n)`."""

    slots: Addresses
    n: Count | float


class AppendTokens(OnSlot, frozen=True, tag="append_tokens", kw_only=True):
    """`update_and_fetch(tokens)` of a token buffer: an int32 array, a list, or the `array`."""

    tokens: Annotated[tuple[Count, ...], Meta(max_length=1024)] = ()
    as_list: bool = False
    array: AnyRecipe | None = None


class OnSequence(OnSlot, frozen=True, kw_only=True):
    """A step that names a sequence of tokens of one model, as a list, as a tuple or as a set.

    With `bare`, that number instead, which is no sequence.
    """

    model: Model = "m"
    tokens: Tokens
    as_tuple: bool = False
    as_set: bool = False
    bare: int | None = None

    @property
    def given(self) -> Any:
        """The tokens as the call gets them."""
        if self.bare is not None:
            return self.bare
        tokens = build_item(self.tokens)
        if self.as_set:
            return set(tokens)
        return tuple(tokens) if self.as_tuple else tokens

    @property
    def of(self) -> Any:
        """The model as the call gets it."""
        return build_item(self.model)


class TrieAdd(OnSequence, frozen=True, tag="trie_add", kw_only=True):
    """`add(model, tokens, value)`."""

    value: int | None = 0


class TrieGet(OnSequence, frozen=True, tag="trie_get", kw_only=True):
    """`get(model, tokens)`."""


class TriePop(OnSequence, frozen=True, tag="trie_pop", kw_only=True):
    """`pop(model, tokens)`."""


class TriePopPrefixes(OnSequence, frozen=True, tag="trie_pop_prefixes", kw_only=True):
    """`pop_prefixes(model, tokens)`."""


class TrieSearch(OnSequence, frozen=True, tag="trie_search", kw_only=True):
    """`search(model, tokens)`; the result is seen with whether `exact` is the list asked for."""


class LruInsert(OnSequence, frozen=True, tag="lru_insert", kw_only=True):
    """`insert_cache(model, tokens, [caches at `caches`], cache_type=cache_type)`."""

    caches: Addresses
    cache_type: str = "assistant"


class LruFetch(OnSequence, frozen=True, tag="lru_fetch", kw_only=True):
    """`fetch_nearest_cache(model, tokens)`, its caches put into slots `to` + "0", "1", ...

    The result is seen as the number of caches (None for none), the tokens that are left, and
    whether those are the list asked for.
    """

    to: Annotated[str, Meta(pattern=r"^[a-z]{1,8}$(?!\n)")] = "f"


class LruTrim(OnSlot, frozen=True, tag="lru_trim_to", kw_only=True):
    """`trim_to(n_sequences=n_sequences, n_bytes=n_bytes)`."""

    n_sequences: Count | float | str | None = None
    n_bytes: Count | float | str | None = None


AnyPromptStep = (
    MakePrompt | CanTrimPrompt | TrimPrompt | AppendTokens | TrieAdd | TrieGet | TriePop
    | TriePopPrefixes | TrieSearch | LruInsert | LruFetch | LruTrim
)  # fmt: skip
