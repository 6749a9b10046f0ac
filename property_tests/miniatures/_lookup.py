"""Token buffers and look-up that go wrong: `TokenBuffer`, `PromptTrie`."""

from __future__ import annotations

import dataclasses

import mlx.core as mx
from property_tests.miniatures._registry import broken
from property_tests.miniatures._steps import (
    AppendTokens,
    TrieAdd,
    TriePop,
    TriePopPrefixes,
    TrieSearch,
    construct,
)

BUFFER = "TokenBuffer"
TRIE = "PromptTrie"
EMPTY = construct(TRIE)


@broken(
    "0.32.2",
    BUFFER,
    by_hand=(construct(BUFFER, tokens=(1,)), AppendTokens(tokens=(1,))),
    shows="append_tokens",
    field="_buffer",
)
class TokensLostOnGrowth:
    """A buffer that grows for the first time holds zeros where its tokens were."""

    _has_grown = False

    def update_and_fetch(self, tokens):
        own, capacity = self._size, self._buffer.size
        grew_before = self._has_grown
        try:
            result = super().update_and_fetch(tokens)
        finally:
            self._has_grown = grew_before or self._buffer.size > capacity
        if self._has_grown and not grew_before:
            self._buffer[:own] = 0
        return result


@broken(
    "0.31.3",
    BUFFER,
    by_hand=(construct(BUFFER), AppendTokens(tokens=(1,))),
    shows="append_tokens",
    field="result",
)
class WholeBufferReturned:
    """What is returned are all the rows of the buffer, those not in use too."""

    def update_and_fetch(self, tokens):
        super().update_and_fetch(tokens)
        return mx.array(self._buffer)


@broken(
    "0.32.2",
    TRIE,
    by_hand=(EMPTY, TrieAdd(tokens=(1, 1)), TrieAdd(tokens=(1, 2)), TrieSearch(tokens=(1,))),
    shows="trie_search",
    field="result[4]",
)
class TieGoesToTheFirst:
    """Of longer sequences of one length, the first that was added is found."""

    def search(self, model, tokens):
        found = super().search(model, tokens)
        if found.longer is None:
            return found
        ends = list(ends_below(self._trie[model], tokens[: found.common_prefix]))
        return dataclasses.replace(found, longer=min(ends, key=len))


def ends_below(node, tokens):
    """Yield the sequences that begin with `tokens`, those of a node in the order of adding."""
    for token in tokens:
        node = node[token]
    stack = [(node, list(tokens))]
    while stack:
        node, path = stack.pop()
        if "__value__" in node:
            yield path
        below = [(node[token], [*path, token]) for token in node if token != "__value__"]
        stack += reversed(below)


@broken(
    "0.31.3",
    TRIE,
    by_hand=(EMPTY, TrieAdd(tokens=(1, 1)), TrieAdd(tokens=(1, 2, 1)), TrieSearch(tokens=(1,))),
    shows="trie_search",
    field="result[4]",
)
class LongerIsTheLongest:
    """Of longer sequences, the longest is found."""

    def search(self, model, tokens):
        found = super().search(model, tokens)
        if found.longer is None:
            return found
        ends = list(ends_below(self._trie[model], tokens[: found.common_prefix]))
        longest = max(ends, key=len)
        is_longer = len(longest) > len(found.longer)
        return dataclasses.replace(found, longer=longest if is_longer else found.longer)


@broken(
    "0.31.3",
    TRIE,
    by_hand=(EMPTY, TrieAdd(tokens=(1,)), TrieSearch(tokens=(1, 1))),
    shows="trie_search",
    field="result[3]",
)
class OneTokenIsAPrefix:
    """A prefix of a single token is found, which the release passes over."""

    def search(self, model, tokens):
        found = super().search(model, tokens)
        if found.shorter or found.exact is not None or len(tokens) < 2:
            return found
        first = self._trie.get(model, {}).get(tokens[0], {})
        return dataclasses.replace(found, shorter=tokens[:1] if "__value__" in first else None)


@broken(
    "0.32.2",
    TRIE,
    by_hand=(EMPTY, TrieAdd(tokens=(1,)), TrieSearch(tokens=(1,))),
    shows="trie_search",
    field="result[6]",
)
class ExactIsACopy:
    """What is found is a list of its own, where the release returns the one asked for."""

    def search(self, model, tokens):
        return super().search(model, list(tokens))


@broken(
    "0.32.2",
    TRIE,
    by_hand=(EMPTY, TrieAdd(tokens=(1, 1)), TrieSearch(tokens=(1, 2))),
    shows="trie_search",
    field="result[5]",
)
class CommonPrefixOffByOne:
    """The first token that differs is counted as common."""

    def search(self, model, tokens):
        found = super().search(model, tokens)
        more = 0 < found.common_prefix < len(tokens)
        return dataclasses.replace(found, common_prefix=found.common_prefix + more)


@broken(
    "0.32.2",
    TRIE,
    by_hand=(EMPTY, TrieAdd(tokens=(1, 1)), TrieSearch(tokens=(True,))),
    shows="trie_search",
    field="result[4]",
)
class EqualTokensKeptApart:
    """True, 1.0 and the like are no 1, where the release takes equal tokens for the same."""

    def search(self, model, tokens):
        if any(isinstance(token, (bool, float)) for token in tokens):
            tokens = [token if type(token) is int else object() for token in tokens]
        return super().search(model, tokens)


@broken(
    "0.31.3",
    TRIE,
    by_hand=(EMPTY, TrieAdd(tokens=(1,)), TriePop(tokens=(1,)), TrieSearch(tokens=(1,))),
    shows="trie_search",
    field="raises TypeError",
)
class PopLeavesEmptyBranches:
    """The branch of a sequence that is taken out stays, with nothing at its end."""

    def pop(self, model, tokens):
        value = super().pop(model, tokens)
        node = self._trie[model]
        for token in tokens:
            node = node.setdefault(token, {})
        return value


@broken(
    "0.31.3",
    TRIE,
    by_hand=(EMPTY, TrieAdd(tokens=(1,)), TriePopPrefixes(tokens=(1,))),
    shows="trie_pop_prefixes",
    field="result",
)
class PrefixesWithTheSequenceItself:
    """A sequence counts as a prefix of its own."""

    def pop_prefixes(self, model, tokens):
        values = super().pop_prefixes(model, tokens)
        node = self._trie[model]
        for token in tokens:
            node = node[token]
        if "__value__" in node:
            values.append((len(tokens), node.pop("__value__")))
        return values


@broken(
    "0.31.3",
    TRIE,
    by_hand=(EMPTY, TrieAdd(tokens=())),
    shows="trie_add",
    field="result",
)
class AddReturnsTheNewValue:
    """What is returned is the value that was added, not the one before it."""

    def add(self, model, tokens, value):
        super().add(model, tokens, value)
        return value
