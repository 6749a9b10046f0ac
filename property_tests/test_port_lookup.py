"""Prompt look-up in the port: it answers as plain dicts would, and a failure changes nothing."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import mlx.core as mx
from hypothesis import example, given, settings
from hypothesis import strategies as st
from property_tests.port_support import CONTRACTS

import mlxkv

PROFILE = settings(max_examples=100, deadline=None)
RELEASE_BYTES_A_TOKEN = 224
NEAR_THE_ENDS_OF_32_BITS = (2**31 - 1, 2**31, -(2**31), -(2**31) - 1)
# Branches of equal length: the last that came is preferred, also once it was split or joined.
THREE_BRANCHES = [("add", [1, 2, 3]), ("add", [1, 7, 3]), ("add", [1, 4, 5])]
NESTED_BRANCH = [*THREE_BRANCHES[:2], ("add", [1, 4]), ("add", [1, 4, 5])]

alphabets = st.sampled_from(
    [(0, 1), (0, 1, 2), (1, 1.0, True, 2), ("a", "b", 1), (-1, -2, 0), NEAR_THE_ENDS_OF_32_BITS]
)


class Plain:
    """A trie of one model without a tree: the values, and when each of their prefixes came."""

    def __init__(self):
        self.values, self.came, self.clock, self.known = {}, {}, 0, False

    def starts(self, tokens):
        return [stored for stored in self.values if stored[: len(tokens)] == tokens]

    def add(self, tokens, value):
        self.known = True
        for end in range(1, len(tokens) + 1):
            self.came.setdefault(tokens[:end], self.clock)
            self.clock += 1
        previous = self.values.get(tokens)
        self.values[tokens] = value
        return previous

    def get(self, tokens):
        return self.values[tokens]

    def pop(self, tokens):
        value = self.values.pop(tokens)
        for end in range(1, len(tokens) + 1):
            if not self.starts(tokens[:end]):
                self.came.pop(tokens[:end], None)
        return value

    def pop_prefixes(self, tokens):
        if not self.known or (tokens and not self.starts(tokens)):
            raise KeyError
        ends = [end for end in range(len(tokens)) if tokens[:end] in self.values]
        return [(end, self.values.pop(tokens[:end])) for end in ends]

    def search(self, tokens):
        if tokens in self.values:
            return list(tokens), None, None, 0
        ends = range(1, len(tokens) + 1)
        common = max((end for end in ends if tokens[:end] in self.came), default=0)
        shorter = [list(tokens[:end]) for end in ends if end > 1 and tokens[:end] in self.values]
        longer = None
        if common:
            stored = self.starts(tokens[:common])
            least = min(map(len, stored))
            longer = max(
                (one for one in stored if len(one) == least),
                key=lambda one: [self.came[one[:end]] for end in range(common + 1, least + 1)],
            )
        return None, shorter[-1] if shorter else None, longer and list(longer), common


def outcome(call, *arguments):
    """What a call returns, or KeyError."""
    try:
        return call(*arguments)
    except KeyError:
        return KeyError


@st.composite
def operations(draw):
    """Operations on one trie, whose sequences often share a part."""
    alphabet = draw(alphabets)
    sequences = st.lists(st.sampled_from(alphabet), max_size=7)
    names = st.sampled_from(["add", "add", "get", "pop", "pop_prefixes", "search", "search"])
    return draw(st.lists(st.tuples(names, sequences), max_size=60))


@CONTRACTS
@PROFILE
@given(steps=operations())
@example(steps=[("add", [1, 2]), ("add", [1, 3]), ("search", [1])])
@example(steps=[("add", [1]), ("add", [1, 2]), ("pop_prefixes", [1, 2]), ("search", [1, 3])])
@example(steps=[*THREE_BRANCHES, ("add", [1, 4, 6]), ("search", [1])])
@example(steps=[*THREE_BRANCHES, ("add", [1, 4]), ("pop", [1, 4]), ("search", [1])])
@example(steps=[*NESTED_BRANCH, ("pop", [1, 4]), ("search", [1])])
@example(steps=[*NESTED_BRANCH, ("pop_prefixes", [1, 4, 5]), ("search", [1])])
@example(steps=[("add", []), ("search", []), ("pop", []), ("pop_prefixes", []), ("search", [])])
def test_trie_answers_as_plain_dicts_do(contract, steps):
    """Every operation returns what a dict of whole sequences says, ties included."""
    trie, plain = contract.PromptTrie(), Plain()
    for i, (name, tokens) in enumerate(steps):
        value = [i] if name == "add" else []
        expected = outcome(getattr(plain, name), tuple(tokens), *value)
        actual = outcome(getattr(trie, name), "m", tokens, *value)
        if name == "search":
            assert actual.exact is (tokens if expected[0] else None) or not tokens
            actual = (actual.exact, actual.shorter, actual.longer, actual.common_prefix)
        assert actual == expected


class Value:
    """Something that can be referred to weakly."""


def dump(trie):
    """Everything in a trie, by object and in order."""
    found, stack = [], [(model, root) for model, root in trie._trie.items()]
    while stack:
        key, node = stack.pop()
        entry = (type(key), key, id(node), bytes(node.label) if not node.label else node.label)
        found.append((*entry, node.held, node.distance, id(node.nearest), node.order))
        stack += node.children.items()
    return found


bad_calls = st.one_of(
    st.tuples(st.sampled_from(["get", "pop", "pop_prefixes"]), st.sampled_from([[1, 2, 9], [9]])),
    st.tuples(
        st.sampled_from(["add", "get", "pop", "pop_prefixes", "search"]),
        st.sampled_from([[[]], [1, []], [1, 2, {}], [0, []], None, 5]),
    ),
    st.tuples(st.just("pop"), st.sampled_from([{1}, {1: 2}.keys()])),
    st.tuples(st.just("search"), st.sampled_from([(1,), (1, 2), "a", mx.array([1, 2])])),
    st.tuples(st.just("add"), st.just(mx.array([1, 2]))),
)


@CONTRACTS
@PROFILE
@given(
    stored=st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=6),
    call=bad_calls,
    model=st.sampled_from(["m", "n", []]),
)
def test_failure_leaves_the_trie_as_it_was(contract, stored, call, model):
    """Whatever raises leaves every node, value and order of the trie as it was."""
    trie = contract.PromptTrie()
    for tokens in stored:
        trie.add("m", tokens, object())
    name, tokens = call
    before, raised = dump(trie), None
    try:
        getattr(trie, name)(model, tokens, *(["value"] if name == "add" else []))
    except mlxkv.CacheError as error:
        raised = error
    if raised is not None:
        assert dump(trie) == before
        assert str(raised).startswith(f"PromptTrie.{name}: expected ")


@CONTRACTS
def test_longer_match_has_the_objects_that_came_first(contract):
    """Equal tokens are one, and a longer match goes on with the object that came first."""
    trie = contract.PromptTrie()
    trie.add("m", [1, True, 2.0], "a")
    trie.add("m", [1.0, 1, 2, 3], "b")
    found = trie.search("m", [True])
    assert [type(token) for token in found.longer] == [bool, bool, float]
    assert trie.get("m", [1, 1, 2]) == "a"
    trie.pop("m", [1, 1, 2])
    assert [type(token) for token in trie.search("m", [1]).longer] == [int, bool, float, int]


@CONTRACTS
def test_value_key_of_the_release_is_a_token(contract):
    """The token "__value__" is a token like others, and None a value."""
    trie = contract.PromptTrie()
    trie.add("m", [1], "one")
    assert trie.add("m", [2], None) is None
    assert trie.search("m", [2]).exact == [2]
    assert trie.pop("m", [2]) is None
    assert trie.add("m", [1, "__value__"], "two") is None
    assert trie.get("m", [1]) == "one"
    assert trie.search("m", [1, "__value__", 3]).shorter == [1, "__value__"]


@CONTRACTS
def test_deep_tries_do_not_recurse(contract):
    """Thousands of nested prefixes can be added, searched, contracted and removed."""
    depth = 5000
    tokens = list(range(depth))
    trie = contract.PromptTrie()
    for end in range(depth, 0, -1):
        trie.add("m", tokens[:end], end)
    trie.add("m", [*tokens, 7, 8], "last")
    assert trie.search("m", [*tokens, 7]).longer == [*tokens, 7, 8]
    assert len(trie.pop_prefixes("m", [*tokens, 7])) == depth
    assert trie.search("m", [0]).longer == [*tokens, 7, 8]
    assert trie.pop("m", [*tokens, 7, 8]) == "last"
    assert trie.search("m", [0]).common_prefix == 0


@CONTRACTS
def test_tokens_take_little_memory(contract):
    """Plain integers take a twentieth of what they take in mlx-lm, at most."""
    shared = list(range(10**6, 10**6 + 5000))
    prompts = [shared + [10**6 + i * 7 + j for j in range(2000)] for i in range(10)]
    nodes = 5000 + 10 * 2000
    tracemalloc.start()
    trie = contract.PromptTrie()
    for prompt in prompts:
        trie.add("m", prompt, None)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / nodes < RELEASE_BYTES_A_TOKEN / 20


@CONTRACTS
def test_a_removed_value_is_let_go(contract):
    """What is removed is freed at once, and so is all with the trie: there are no cycles."""
    trie, values = contract.PromptTrie(), []
    gc.disable()
    try:
        for i in range(40):
            for tokens in ([1, 2, i], [1, 2, i, 3]):
                value = Value()
                values.append(weakref.ref(value))
                trie.add("m", tokens, value)
                del value
            trie.pop_prefixes("m", [1, 2, i, 3])
            if i % 2:
                trie.pop("m", [1, 2, i, 3])
        assert sum(value() is not None for value in values) == 20
        del trie
        assert not any(value() for value in values)
    finally:
        gc.enable()
