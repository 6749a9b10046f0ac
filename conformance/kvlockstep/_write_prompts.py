"""Writers of the steps on prompts: token buffers, the trie, the LRU cache."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from kvlockstep._prompt_steps import (
    AppendTokens,
    LruFetch,
    LruInsert,
    LruTrim,
    Model,
    Token,
    TrieAdd,
    TrieGet,
    TriePop,
    TriePopPrefixes,
    TrieSearch,
)
from kvlockstep._source import Source
from kvlockstep._steps import Trim
from kvlockstep._trace import AnyStep
from kvlockstep._writing import Writer, Writing

_APPENDED = (1, 1, 1, 2, 3, 4, 5, 0, 8)
_MODELS: tuple[Model, ...] = ("m", "m", "m", "m", "n", None, 7)
_ALPHABET: tuple[Token, ...] = (0, 1, 2, 1, 0, 1, 2, 3)
# Equal but different, the name under which the release keeps its values, integers of any sign and
# size, and a list, which has no hash.
_ODD: tuple[Token, ...] = (True, 1.0, False, 0.0, "__value__", "x", None, 2.0, -1, 1 << 31, (9,))
# Sequences that share prefixes: the usual ones.
_PATHS: tuple[tuple[Token, ...], ...] = (
    (1, 2, 3, 4, 5, 6), (1, 2, 3, 0, 1, 2), (1, 2, 3, 4, 0, 0), (2, 1, 0, 1, 2, 3),
)  # fmt: skip
# Sequences of which none is the start of another: they stay until they are evicted.
_APART: tuple[tuple[Token, ...], ...] = ((3, 1), (0, 1), (4,), (0, 2))
_TYPES = ("assistant", "assistant", "user", "system", "user", "assistant", "system", "tool")


def _append_tokens(writing: Writing) -> Iterator[AnyStep]:
    source = writing.source
    count = source.pick(_APPENDED)
    tokens = tuple(source.below(100) for _ in range(count))
    yield AppendTokens(slot=writing.slot(), tokens=tokens, as_list=source.one_in(4))


def _tokens(source: Source) -> tuple[Token, ...]:
    """Draw a sequence of at most six tokens, most often the start of a common one.

    One in four is of up to five zeros and ones: many of those part from each other.
    """
    kind = source.below(8)
    if kind > 5:
        return tuple(int(digit) for digit in bin(source.below(64))[3:])
    if kind:
        tokens = list(source.pick(_PATHS)[: source.pick((3, 1, 2, 4, 5, 6, 3, 2, 0, 4))])
    else:
        tokens = [source.pick(_ALPHABET) for _ in range(source.pick((2, 1, 3, 4)))]
    if tokens and source.one_in(8):
        tokens[source.below(len(tokens))] = source.pick(_ODD)
    return tuple(tokens)


def _kept_tokens(source: Source) -> tuple[Token, ...]:
    """Draw a sequence for an LRU cache, one of a few in half of the cases."""
    return source.pick(_APART) if source.one_in(2) else _tokens(source)


def _trie_add(writing: Writing) -> Iterator[AnyStep]:
    source = writing.source
    value = None if source.one_in(16) else source.below(256)
    model, tokens = source.pick(_MODELS), _tokens(source)
    yield TrieAdd(slot=writing.slot(), model=model, tokens=tokens, value=value)


def _naming(kind: type[TrieGet | TriePop | TriePopPrefixes | TrieSearch]) -> Writer:
    """Return the writer of a step that names a sequence, and nothing else."""

    def write(writing: Writing) -> Iterator[AnyStep]:
        source = writing.source
        yield kind(slot=writing.slot(), model=source.pick(_MODELS), tokens=_tokens(source))

    return write


def _lru_cache(writing: Writing) -> Iterator[AnyStep]:
    """Make a cache that is to be inserted, or let one that was fetched go on decoding."""
    source = writing.source
    slot = source.pick(("s", "t", "r", "c", "f0", "f0", "s", "f1"))
    if slot in writing.constructs and source.one_in(2):
        yield replace(writing.constructs[slot], slot=slot)
    if source.one_in(8):
        yield Trim(slot=slot, n=source.pick((1, 2)))
    else:
        yield writing.update_of(slot, (1, 3, 2, 4, 5, 6))


def _lru_insert(writing: Writing) -> Iterator[AnyStep]:
    source = writing.source
    caches = source.pick((("s",), ("t",), ("s", "t"), ("r",), ("s", "r"), ("c",), ("f0",), ()))
    model, tokens = source.pick(("m", "m", "m", "n")), _kept_tokens(source)
    cache_type = source.pick(_TYPES[:7]) if source.below(12) else source.pick(_TYPES)
    yield LruInsert(slot="a", model=model, tokens=tokens, caches=caches, cache_type=cache_type)


def _lru_fetch(writing: Writing) -> Iterator[AnyStep]:
    source = writing.source
    model, tokens = source.pick(("m", "m", "m", "n")), _kept_tokens(source)
    yield LruFetch(slot="a", model=model, tokens=tokens)
    if source.one_in(2):
        yield writing.update_of("f0", (1, 1, 2, 3))


def _lru_trim(writing: Writing) -> Iterator[AnyStep]:
    source = writing.source
    sequences = source.pick((None, 2, 1, 0, 3, -1))
    size = source.pick((None, None, 0, 64, 256, 1024, -1))
    yield LruTrim(slot="a", n_sequences=sequences, n_bytes=size)


WRITERS: dict[str, Writer] = {
    "append_tokens": _append_tokens,
    "trie_add": _trie_add,
    "trie_get": _naming(TrieGet),
    "trie_pop": _naming(TriePop),
    "trie_pop_prefixes": _naming(TriePopPrefixes),
    "trie_search": _naming(TrieSearch),
    "lru_cache": _lru_cache,
    "lru_insert": _lru_insert,
    "lru_fetch": _lru_fetch,
    "lru_trim_to": _lru_trim,
}
