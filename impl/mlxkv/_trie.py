"""Values under sequences of tokens, and the nearest of them to a sequence that is asked for."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import mlx.core as mx

from mlxkv._errors import TokenSequenceError, UnhashableTokenError, UnknownPromptError
from mlxkv._radix import Node, Walk, find_nearest, follow, hold, release, release_prefixes
from mlxkv._runs import Path, Run, pack, size_of, unpack


@dataclass
class PromptTrieResult:
    """What `PromptTrie.search` found: each sequence None where there is none such.

    `exact` is the sequence asked for, `shorter` its longest stored prefix of two tokens or more,
    `longer` the shortest stored sequence that goes on from the `common_prefix` tokens that are
    alike. Source: cache.py `PromptTrieResult`.
    """

    model: Any
    exact: list[Any] | None
    shorter: list[Any] | None
    longer: list[Any] | None
    common_prefix: int


class Match(NamedTuple):
    """Where a sequence leads: what is held there, before and beyond, None or a tuple each.

    `shorter` is held after `short` tokens, `longer` after `common` tokens and those of `rest`.
    """

    exact: tuple[Any] | None = None
    shorter: tuple[Any] | None = None
    short: int = 0
    longer: tuple[Any] | None = None
    rest: Sequence[Run] = ()
    common: int = 0

    def long(self) -> int:
        """The tokens of the longer sequence."""
        return self.common + sum(map(size_of, self.rest))


class PromptTrie:
    """Values under (model, tokens): a compressed radix tree for every model.

    Models and tokens are any hashable objects, alike where a dict takes them for one key. Tokens
    are given as any iterable, to `search` and `pop` as a sequence; nothing of it is kept but the
    tokens. Plain integers of 32 bits take five bytes each, others a reference to the object that
    came first. Time grows with the tokens given and the nodes passed, of which there are at most
    two for every value. What raises changes nothing. Source: cache.py `PromptTrie`.
    """

    def __init__(self) -> None:
        self._trie: dict[Any, Node] = {}

    def add(self, model: Any, tokens: Iterable[Any], value: Any) -> Any:
        """Store a value and return the one that was stored there, or None.

        Mutates. Raises `UnhashableTokenError`, and `TokenSequenceError` for what is no iterable
        or is an `mx.array`, whose tokens could never be found again.
        """
        path = self._key(self, "add", model, tokens)
        root = self._trie.get(model)
        if root is None:
            root = self._trie[model] = Node()
        previous = hold(root, path, (value,))
        return None if previous is None else previous[0]

    def get(self, model: Any, tokens: Iterable[Any]) -> Any:
        """The value stored there. Raises `UnknownPromptError` if there is none."""
        node = self._held(self, "get", model, tokens).nodes[-1]
        return node.held[0] if node.held is not None else None

    def pop(self, model: Any, tokens: Sequence[Any]) -> Any:
        """Remove and return the value stored there; the model stays known.

        Mutates. Raises `UnknownPromptError`, `UnhashableTokenError`, `TokenSequenceError`.
        """
        walk = self._held(self, "pop", model, tokens)
        _check_sized(self, "pop", tokens)
        held = walk.nodes[-1].held
        release(walk.nodes)
        return held[0] if held is not None else None

    def pop_prefixes(self, model: Any, tokens: Iterable[Any]) -> list[tuple[int, Any]]:
        """Remove the values of all proper prefixes; return (tokens of the prefix, value) each.

        Mutates. The shortest prefix comes first; it may be empty. Raises `UnknownPromptError`
        unless a stored sequence starts with these tokens, and `UnhashableTokenError`.
        """
        path, walk = self._walk(self, "pop_prefixes", model, tokens)
        return release_prefixes(walk, path.size)

    def search(self, model: Any, tokens: Sequence[Any]) -> PromptTrieResult:
        """Find the nearest stored sequences: one that is equal, or a shorter and a longer one.

        Does not mutate. `exact` is `tokens` itself, or a new list if that is empty; the others are
        new lists. `longer` begins with the tokens given and goes on with those stored, as they
        came first; of equally long ones the search prefers, where they part, what came last. It
        may equal `shorter`. Raises `UnhashableTokenError`, and `TokenSequenceError` for what is no
        sequence, or is none that a list can be added to where there is a longer one.
        """
        match = self._find(self, "search", model, tokens)
        if match.exact is not None:
            exact: Any = tokens if len(tokens) else []
            return PromptTrieResult(model, exact, None, None, 0)
        shorter: Any = tokens[: match.short] if match.shorter is not None else None
        longer: Any = None
        if match.longer is not None:
            more = list(chain.from_iterable(map(unpack, match.rest)))
            longer = operator.add(tokens[: match.common], more)
        return PromptTrieResult(model, None, shorter, longer, match.common)

    def _find(self, owner: object, operation: str, model: Any, tokens: Any) -> Match:
        """What `search` finds, as places in the tree; raises as it does, for that operation."""
        root = self._root(owner, operation, model)
        if root is None:
            return Match()
        if not isinstance(tokens, Sequence):
            got = type(tokens).__name__
            raise TokenSequenceError(owner, operation, "a list of tokens", got)
        path = self._read(owner, operation, tokens)
        walk = follow(root, path)
        path.check(owner, operation, walk.reached)
        last = walk.nodes[-1]
        if walk.reached == path.size and walk.inside is None and last.held is not None:
            return Match(exact=last.held)
        if walk.reached == 0:
            return Match()
        _check_list(owner, operation, tokens)
        shorter, short = None, 0
        for depth, node in zip(walk.depths(), walk.nodes, strict=True):
            if depth > 1 and node.held is not None:
                shorter, short = node.held, depth
        node, rest = find_nearest(walk)
        return Match(None, shorter, short, node.held, rest, walk.reached)

    def _key(self, owner: object, operation: str, model: Any, tokens: Any) -> Path:
        """The tokens as `add` takes them; raises as it does, for that operation."""
        self._root(owner, operation, model)
        if isinstance(tokens, mx.array):
            raise TokenSequenceError(owner, operation, "a list of tokens", "an mx.array")
        path = self._read(owner, operation, tokens)
        path.check(owner, operation, path.size)
        return path

    def _root(self, owner: object, operation: str, model: Any) -> Node | None:
        try:
            return self._trie.get(model)
        except TypeError:
            got = type(model).__name__
            raise UnhashableTokenError(owner, operation, "a hashable model", got) from None

    def _read(self, owner: object, operation: str, tokens: Iterable[Any]) -> Path:
        if isinstance(tokens, Path):
            return tokens
        try:
            return pack(tokens if isinstance(tokens, list) else list(tokens))
        except TypeError:
            got = type(tokens).__name__
            raise TokenSequenceError(owner, operation, "a list of tokens", got) from None

    def _walk(
        self, owner: object, operation: str, model: Any, tokens: Iterable[Any]
    ) -> tuple[Path, Walk]:
        """The whole way along the tokens; raises where the tree ends before."""
        root = self._root(owner, operation, model)
        if root is None:
            raise UnknownPromptError(owner, operation, "a model with prompts", repr(model))
        path = self._read(owner, operation, tokens)
        walk = follow(root, path)
        path.check(owner, operation, walk.reached)
        if walk.reached < path.size or path.broken:
            expected = "tokens that a stored sequence starts with"
            got = f"{path.size}, known up to {walk.reached}"
            raise UnknownPromptError(owner, operation, expected, got)
        return path, walk

    def _held(self, owner: object, operation: str, model: Any, tokens: Iterable[Any]) -> Walk:
        """The way to a stored value; raises where there is none."""
        path, walk = self._walk(owner, operation, model, tokens)
        if walk.inside is not None or walk.nodes[-1].held is None:
            expected, got = "tokens with a value", f"{path.size} without one"
            raise UnknownPromptError(owner, operation, expected, got)
        return walk


def _check_sized(owner: object, operation: str, tokens: Any) -> None:
    """Raise for what can be read only once, or in no order."""
    if not hasattr(tokens, "__getitem__") or not hasattr(tokens, "__len__"):
        raise TokenSequenceError(owner, operation, "a list of tokens", type(tokens).__name__)


def _check_list(owner: object, operation: str, tokens: Any) -> None:
    """Raise unless a list can be added to a part of the tokens."""
    try:
        operator.add(tokens[:0], [])
    except TypeError:
        got = type(tokens).__name__
        raise TokenSequenceError(owner, operation, "a list of tokens", got) from None
