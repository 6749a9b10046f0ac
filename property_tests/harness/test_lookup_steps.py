"""Steps on prompts: token buffers, lists of caches, the trie, the LRU cache."""

from __future__ import annotations

from typing import get_args

import mlx.core as mx
import pytest
from property_tests.harness.ports import (
    construct,
    itself,
    lockstep_with,
    play,
    release_module,
    shown,
    trace_of,
    update,
)

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
from kvlockstep._steps import Copy, Trim
from kvlockstep._trace import Mode
from kvreference import RELEASES

MODES = get_args(Mode)
RELEASED = release_module()
BUFFER, TRIE = construct("TokenBuffer"), construct("PromptTrie")
LRU, KV = construct("LRUPromptCache", max_size=3), construct(slot="s")
both = pytest.mark.parametrize("release", RELEASES)


def result(release: str, *steps):
    """Return what the last of these steps returned."""
    return play(release, *steps).returned


def insert(tokens, *slots: str, **fields) -> LruInsert:
    """Return an insertion of the caches in these slots."""
    return LruInsert(tokens=tokens, caches=slots or ("s",), **fields)


# What each step does, on a release alone.


@both
def test_append_tokens(release):
    """Tokens are appended as an int32 array; a list is handed over as a list."""
    steps = construct("TokenBuffer", tokens=(7,)), AppendTokens(tokens=(8, 9))
    side = play(release, *steps, step_size=2)

    assert side.returned.tolist() == [7, 8, 9]
    assert side.returned.dtype == mx.int32
    assert side.slots["a"].tokens.tolist() == [7, 8, 9]
    run = itself(release).run(trace_of(BUFFER, AppendTokens(tokens=(1,), as_list=True)))
    assert run.divergences == []
    assert run.steps == 2


@both
def test_trie_steps(release):
    """Values are added, got, popped, searched; a model and its tokens name them."""
    added = [TRIE, TrieAdd(tokens=(1,), value=10), TrieAdd(tokens=(1, 2, 3), value=30)]

    assert result(release, *added) is None
    assert result(release, *added, TrieAdd(tokens=(1,), value=None)) == 10
    assert result(release, *added, TrieGet(tokens=(1, 2, 3))) == 30
    assert result(release, *added, TriePop(tokens=(1,))) == 10
    assert result(release, *added, TriePopPrefixes(tokens=(1, 2, 3))) == [(1, 10)]
    other = TrieAdd(model=None, tokens=(1,), value=0)
    assert result(release, *added, other, TrieGet(model=None, tokens=(1,))) == 0


@both
def test_search_is_seen_with_whether_its_answer_is_the_question(release):
    """A search is seen as its class, its five parts, and whether `exact` is the list asked for."""
    added = TRIE, TrieAdd(tokens=(1, 2)), TrieAdd(tokens=(1, 2, 3, 4)), TrieAdd(tokens=())
    head = "PromptTrieResult", "m"

    exact = result(release, *added, TrieSearch(tokens=(1, 2)))
    longer = result(release, *added, TrieSearch(tokens=(1, 2, 3)))
    empty = result(release, *added, TrieSearch(tokens=()))

    assert exact == (*head, [1, 2], None, None, 0, True)
    assert longer == (*head, None, [1, 2], [1, 2, 3, 4], 3, False)
    assert empty == (*head, [], None, None, 0, False)


@both
def test_fetch_puts_its_caches_into_slots(release):
    """Fetched caches get slots; the result is their number, the tokens left, and whose list."""
    steps = LRU, KV, construct(slot="t"), update(3, "s"), update(3, "t", start=50)
    steps = *steps, insert((1, 2, 3), "s", "t")

    side = play(release, *steps, LruFetch(tokens=(1, 2, 3, 4)))
    nothing = play(release, *steps, LruFetch(tokens=(9,), to="g"))

    assert side.returned == (2, [4], False)
    assert [side.slots[slot].offset for slot in ("f0", "f1")] == [3, 3]
    assert side.slots["f1"].keys[0, 0, 0, 0].item() == 51
    assert side.slots["f0"] is not side.slots["s"]
    assert nothing.returned == (None, [9], True)
    assert "g0" not in nothing.slots


@both
def test_prompts_are_made_and_trimmed(release):
    """A model's caches are made, one a layer or by the model itself, and trimmed together."""
    plain = play(release, MakePrompt(layers=2))
    rings = play(release, MakePrompt(layers=3, max_kv_size=5, to="r"))
    own = play(release, MakePrompt(layers=3, makes=True))

    assert {slot: type(cache).__name__ for slot, cache in plain.slots.items()} == {
        "p0": "KVCache",
        "p1": "KVCache",
    }
    assert (plain.returned, rings.returned, own.returned) == (2, 3, 1)
    assert [(cache.max_size, cache.keep) for cache in rings.slots.values()] == [(5, 4)] * 3
    fed = MakePrompt(layers=2), update(3, "p0"), update(2, "p1")
    assert result(release, *fed, CanTrimPrompt(slots=("p0", "p1"))) is True
    trimmed = play(release, *fed, TrimPrompt(slots=("p0", "p1"), n=2))
    assert trimmed.returned == 2
    assert [cache.offset for cache in trimmed.slots.values()] == [1, 0]
    assert result(release, TrimPrompt(slots=(), n=2)) == 0


# What is seen of a look-up.


def differs(*steps, classes, mode="value", **promises) -> list[tuple[int, str]]:
    """Return what a run of a port with these classes shows."""
    return shown(lockstep_with(*classes, **promises).run(trace_of(*steps, mode=mode)))


def searching(change) -> type:
    """Return a trie whose search results are changed."""

    class PromptTrie(RELEASED.PromptTrie):
        def search(self, model, tokens):
            found = super().search(model, tokens)
            change(found)
            return found

    return PromptTrie


def test_copy_of_the_question_is_seen():
    """An `exact` that is equal to the list asked for, and another object, is a difference."""

    def change(found):
        found.exact = found.exact and list(found.exact)

    steps = TRIE, TrieAdd(tokens=(1, 2)), TrieSearch(tokens=(1, 3)), TrieSearch(tokens=(1, 2))

    assert differs(*steps, classes=[searching(change)]) == [(3, "result[6]")]


def test_copy_of_what_is_left_is_seen():
    """Tokens left by a fetch that found nothing are the list asked for, not a copy."""

    class LRUPromptCache(RELEASED.LRUPromptCache):
        def fetch_nearest_cache(self, model, tokens):
            caches, left = super().fetch_nearest_cache(model, tokens)
            return caches, list(left)

    assert differs(LRU, LruFetch(tokens=(1,)), classes=[LRUPromptCache]) == [(1, "result[2]")]


def test_equal_but_different_tokens_are_told_apart():
    """1 and True are the same path; which of them is in the answer is seen."""

    def change(found):
        found.longer = found.longer and [int(token) for token in found.longer]

    steps = TRIE, TrieAdd(tokens=(1, True, 2)), TrieSearch(tokens=(True, 1))

    assert result("0.32.2", *steps)[4] == [True, 1, 2]
    assert differs(*steps, classes=[searching(change)]) == [(2, "result[4]")]


def test_tie_that_is_broken_the_other_way_is_seen():
    """Of two values that are as long the release takes one; taking the other is a difference."""

    class PromptTrie(RELEASED.PromptTrie):
        def search(self, model, tokens):
            found = super().search(model, tokens)
            if found.longer:
                node = self._trie[model]
                for token in found.longer[:-1]:
                    node = node[token]
                last = next(token for token in node if token != "__value__")
                found.longer = [*found.longer[:-1], last]
            return found

    one = TRIE, TrieAdd(tokens=(1, 2)), TrieSearch(tokens=(1,))
    tie = *one[:2], TrieAdd(tokens=(1, 3)), TrieSearch(tokens=(1,))

    assert differs(*one, classes=[PromptTrie]) == []
    assert differs(*tie, classes=[PromptTrie]) == [(3, "result[4]")]


def test_another_class_of_result_is_seen():
    """A result of a class of another name is a difference, its parts being equal."""

    class Found(RELEASED.PromptTrieResult):
        pass

    class PromptTrie(RELEASED.PromptTrie):
        def search(self, model, tokens):
            return Found(**vars(super().search(model, tokens)))

    assert differs(TRIE, TrieSearch(tokens=()), classes=[PromptTrie]) == [(1, "result[0]")]


@pytest.mark.parametrize("field", ["n_sequences", "n_bytes", "order", "extra"])
def test_statistics_are_seen_to_their_order(field):
    """Statistics by type are compared in numbers, in keys and in the order of the keys."""

    class LRUPromptCache(RELEASED.LRUPromptCache):
        def stats_by_type(self):
            stats = super().stats_by_type()
            if field == "order":
                return dict(reversed(stats.items()))
            if field == "extra":
                return stats | {"tool": {}}
            if len(self):
                stats["user"][field] += 1
            return stats

    steps = LRU, KV, insert((1,))
    first = 2 if field.startswith("n_") else 0

    index, name = differs(*steps, classes=[LRUPromptCache])[0]
    assert index == first
    assert name.startswith("stats_by_type()")


@pytest.mark.parametrize("what", ["__len__", "nbytes"])
def test_sizes_of_an_lru_cache_are_seen(what):
    """The number of entries and of their bytes is compared after every step."""
    base = RELEASED.LRUPromptCache
    wrong = {
        "__len__": lambda self: base.__len__(self) + (base.__len__(self) > 1),
        "nbytes": property(lambda self: base.nbytes.fget(self) // 100),
    }
    port = type("LRUPromptCache", (base,), {what: wrong[what]})
    steps = LRU, KV, update(4, "s"), insert((1,)), insert((2,))

    (found,) = differs(*steps, classes=[port])

    assert found[1].removesuffix("()") == what


def test_eviction_of_another_entry_is_found_by_a_fetch():
    """Which entry was evicted cannot be seen at once: the fetch that misses it shows."""

    class LRUPromptCache(RELEASED.LRUPromptCache):
        def trim_to(self, *, n_sequences=None, n_bytes=None):
            for queue in self._lru._lrus.values():
                queue.reverse()
            super().trim_to(n_sequences=n_sequences, n_bytes=n_bytes)

    steps = LRU, KV, insert((1,)), insert((2,)), LruTrim(n_sequences=1)
    fetches = LruFetch(tokens=(3,)), LruFetch(tokens=(2,))

    assert differs(*steps, classes=[LRUPromptCache]) == []
    assert differs(*steps, *fetches, classes=[LRUPromptCache])[0][0] == 6


def test_difference_that_is_kept_out_of_sight_ends_the_trace():
    """After a look-up that differs the two sides have parted: what follows is not told."""

    class PromptTrie(RELEASED.PromptTrie):
        def add(self, model, tokens, _):
            super().add(model, tokens, 7)

    steps = TRIE, TrieAdd(tokens=(1,), value=3), *(TrieGet(tokens=(1,)),) * 3
    run = lockstep_with(PromptTrie).run(trace_of(*steps))

    assert shown(run) == [(2, "result")]
    assert run.steps == 3


# Caches inside.


@pytest.mark.parametrize("mode", MODES)
@both
def test_fetched_caches_go_on_decoding(release, mode):
    """What is fetched decodes on, is inserted again, and leaves what is stored alone."""
    steps = [LRU, KV, construct("RotatingKVCache", "r", max_size=4), update(5, "s"), update(5, "r")]
    steps += [insert((1, 2, 3, 4, 5), "s", "r"), LruFetch(tokens=(1, 2, 3, 4, 5, 6))]
    steps += [update(1, "f0", start=30), update(1, "f1", start=30), update(3, "f1", start=31)]
    steps += [
        insert((1, 2, 3, 4, 5, 6), "f0", "f1"),
        update(1, "s", start=60),
        Trim(slot="f0", n=2),
    ]
    steps += [LruFetch(tokens=(1, 2, 3, 4, 5), to="g"), update(2, "g0"), Copy(slot="g1", to="h")]
    steps += [LruFetch(tokens=(1, 2), to="k"), LruTrim(n_bytes=0), LruFetch(tokens=(1, 2), to="n")]

    run = itself(release).run(trace_of(*steps, mode=mode, step_size=2))

    assert run.divergences == []
    assert None not in run.log
    assert {cell.state for cell in run.cells if cell.operation == "lru_fetch"} == {
        "one type",
        "empty",
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", ["state", "buffer"])
def test_wrong_bytes_in_a_fetched_cache_are_found(level, mode):
    """One bit of one row of a fetched cache is found, at once or when it shows."""

    class LRUPromptCache(RELEASED.LRUPromptCache):
        def fetch_nearest_cache(self, model, tokens):
            caches, left = super().fetch_nearest_cache(model, tokens)
            if caches and left:
                caches[-1].values[0, 1, 0, 1] = -0.0
            return caches, left

    zeros = update(2, "s", dtype="bool")
    steps = LRU, KV, construct(slot="t"), zeros, update(2, "t"), insert((1, 2), "s", "t")
    quiet = *steps, LruFetch(tokens=(1, 2)), update(1, "f1", start=9)
    loud = *steps, LruFetch(tokens=(1, 2, 3)), update(1, "f1", start=9)

    assert differs(*quiet, classes=[LRUPromptCache], mode=mode, level=level) == []
    (index, field), *_ = differs(*loud, classes=[LRUPromptCache], mode=mode, level=level)
    assert index == 6
    assert field == {"buffer": "other cache: values", "state": "other cache: state[1]"}[level]


@pytest.mark.parametrize("mode", MODES)
def test_stored_cache_that_is_handed_out_itself_is_found(mode):
    """A port that fetches what is stored, not a copy, differs when what was fetched goes on."""

    class LRUPromptCache(RELEASED.LRUPromptCache):
        def fetch_nearest_cache(self, model, tokens):
            found = self._trie.search(model, tokens)
            if found.exact is not None:
                return self._trie.get(model, found.exact).prompt_cache, []
            return super().fetch_nearest_cache(model, tokens)

    steps = LRU, KV, update(2, "s"), insert((1, 2)), LruFetch(tokens=(1, 2))

    assert differs(*steps, classes=[LRUPromptCache], mode=mode) == []
    shows = differs(*steps, update(1, "f0", start=8), classes=[LRUPromptCache], mode=mode)
    assert shows[0][0] == 5


def test_another_number_of_fetched_caches_is_found():
    """A port that fetches one cache fewer differs in the number, and its caches are paired."""

    class LRUPromptCache(RELEASED.LRUPromptCache):
        def fetch_nearest_cache(self, model, tokens):
            caches, left = super().fetch_nearest_cache(model, tokens)
            return caches and caches[:1], left

    steps = LRU, KV, construct(slot="t"), insert((1,), "s", "t"), LruFetch(tokens=(1,))
    (first, *_) = differs(*steps, update(1, "f1"), classes=[LRUPromptCache])

    assert first[0] == 4


def test_buffer_of_tokens_is_compared_at_level_buffer_only():
    """Spare rows of a token buffer are private: seen at level `buffer`, not at `state`."""

    class TokenBuffer(RELEASED.TokenBuffer):
        def update_and_fetch(self, tokens):
            result = super().update_and_fetch(tokens)
            self._buffer[self._size :] = 5
            return result

    class Lazy(RELEASED.TokenBuffer):
        @property
        def state(self):
            return self.tokens

    Lazy.__name__ = "TokenBuffer"
    steps = BUFFER, AppendTokens(tokens=(1,))

    assert differs(*steps, classes=[TokenBuffer], level="buffer") == [(1, "_buffer")]
    assert differs(*steps, classes=[Lazy], level="state") == [(1, "state")]
