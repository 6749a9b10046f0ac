"""State classes: what a cache is like before a step. Coverage and the report count by them."""

from __future__ import annotations

import pytest
from property_tests.harness.ports import construct, itself, play, trace_of, update

from kvlockstep._caches import CACHES
from kvlockstep._divergence import Cell
from kvlockstep._prompt_steps import AppendTokens, LruInsert, LruTrim, TrieAdd, TriePop, TrimPrompt
from kvlockstep._recipes import Rows
from kvlockstep._sizes import sizes_of
from kvlockstep._states import state_of
from kvlockstep._steps import (
    Construct,
    Copy,
    Extend,
    Filter,
    Finalize,
    FrontTrim,
    Made,
    Merge,
    Prepare,
    Reload,
    SetItem,
    SetState,
    Transfer,
    Trim,
    Update,
)
from kvreference import RELEASES

ARRAY = Rows(shape=(2, 3))
PADDED = Prepare(lengths=(2, 1), right_padding=(0, 1), fit=True)
BATCH = construct("BatchKVCache", left_padding=(1, 0))
RING = construct("BatchRotatingKVCache", max_size=4, left_padding=(1, 0))
CHUNKS = construct("ChunkedKVCache", chunk_size=3)
KV = Made(cache="KVCache")


def arrays(*filled: int, size: int = 2, prepared: bool = False):
    """Return a cache of arrays with some slots filled."""
    steps = [construct("ArraysCache", size=size)]
    steps += [SetItem(index=index, value=ARRAY) for index in filled]
    return *steps, *([Prepare(lengths=(3, 2))] if prepared else [])


def listed(*filled: int):
    """Return a list of two caches, some of them filled."""
    made = Construct(cache="CacheList", children=(KV, KV))
    return made, *(update(1, f"a.{index}") for index in filled)


def fed(number: int, batch: int = 1):
    """Return updates of one token each."""
    return [update(1, start=start, batch=batch) for start in range(number)]


def wide(rows: int):
    """Return an update that can be quantized."""
    return Update(keys=Rows(shape=(1, 1, rows, 32)))


QUANTIZED = construct("QuantizedKVCache", group_size=32, bits=8)

# With a growth step of 2: what brings `a` into which state.
REACHED: dict[str, dict[str, tuple]] = {
    "KVCache": {
        "empty": (construct(),),
        "spare": (construct(), update(1)),
        "full": (construct(), update(2)),
        "trimmed": (construct(), update(2), Trim(n=1)),
        "past its data": (construct(), update(2), Trim(n=-1)),
    },
    "ConcatenateKVCache": {
        "empty": (construct("ConcatenateKVCache"),),
        "full": (construct("ConcatenateKVCache"), update(3)),
        "trimmed": (construct("ConcatenateKVCache"), update(3), Trim(n=1)),
        "past its data": (construct("ConcatenateKVCache"), update(3), Trim(n=-1)),
    },
    "RotatingKVCache": {
        "empty": (construct("RotatingKVCache", max_size=4),),
        "filling": (construct("RotatingKVCache", max_size=4), update(3)),
        "full": (construct("RotatingKVCache", max_size=4), *fed(4)),
        "wrapped": (construct("RotatingKVCache", max_size=4), *fed(5)),
        "longer than the window": (construct("RotatingKVCache", max_size=4), update(6)),
        "trimmed": (construct("RotatingKVCache", max_size=4), update(3), Trim(n=1)),
    },
    "ChunkedKVCache": {
        "empty": (CHUNKS,),
        "spare": (CHUNKS, update(1)),
        "full": (CHUNKS, update(2)),
        "trimmed": (CHUNKS, update(2), Trim(n=1)),
        "past its data": (CHUNKS, update(2), Trim(n=-1)),
        "spare, front-trimmed": (CHUNKS, update(4), FrontTrim(), update(1)),
        "full, front-trimmed": (CHUNKS, update(4), FrontTrim()),
        "trimmed, front-trimmed": (CHUNKS, update(4), FrontTrim(), Trim(n=1)),
        "past its data, front-trimmed": (CHUNKS, update(4), FrontTrim(), Trim(n=-1)),
    },
    "QuantizedKVCache": {
        "empty": (QUANTIZED,),
        "spare": (QUANTIZED, wide(1)),
        "full": (QUANTIZED, wide(2)),
        "trimmed": (QUANTIZED, wide(2), Trim(n=1)),
        "past its data": (QUANTIZED, wide(2), Trim(n=-1)),
    },
    "BatchKVCache": {
        "empty": (BATCH,),
        "spare": (BATCH, update(1, batch=2)),
        "full": (BATCH, update(2, batch=2)),
        "trimmed": (BATCH, update(2, batch=2), Trim(n=1)),
        "past its data": (BATCH, update(2, batch=2), Trim(n=-1)),
        "empty, padding pending": (BATCH, PADDED),
        "padding pending": (BATCH, PADDED, update(2, batch=2)),
    },
    "BatchRotatingKVCache": {
        "empty": (RING,),
        "filling": (RING, update(2, batch=2)),
        "full": (RING, *fed(4, 2)),
        "rotated": (RING, *fed(5, 2)),
        "longer than the window": (RING, update(6, batch=2)),
        "trimmed": (RING, update(2, batch=2), Trim(n=1)),
        "empty, padding pending": (RING, PADDED),
        "padding pending": (RING, PADDED, update(2, batch=2)),
    },
    "ArraysCache": {
        "no slots": arrays(size=0),
        "empty": arrays(),
        "first slot empty": arrays(1),
        "partly filled": arrays(0),
        "filled": arrays(0, 1),
        "empty, prepared": arrays(prepared=True),
        "first slot empty, prepared": arrays(1, prepared=True),
        "partly filled, prepared": arrays(0, prepared=True),
        "filled, prepared": arrays(0, 1, prepared=True),
    },
    "CacheList": {
        "no children": (construct("CacheList"),),
        "empty": listed(),
        "partly filled": listed(1),
        "filled": listed(0, 1),
    },
    "TokenBuffer": {
        "empty": (construct("TokenBuffer"),),
        "spare": (construct("TokenBuffer"), AppendTokens(tokens=(1,))),
        "full": (construct("TokenBuffer"), AppendTokens(tokens=(1, 2))),
    },
    "PromptTrie": {
        "empty": (construct("PromptTrie"),),
        "one model": (construct("PromptTrie"), TrieAdd(tokens=(1,)), TriePop(tokens=(1,))),
        "several models": (
            construct("PromptTrie"),
            *(TrieAdd(model=model, tokens=(1,)) for model in ("m", None)),
        ),
    },
    "LRUPromptCache": {
        "empty": (
            construct("LRUPromptCache"),
            LruInsert(tokens=(1,), caches=()),
            LruTrim(n_sequences=0),
        ),
        "one type": (construct("LRUPromptCache"), LruInsert(tokens=(1,), caches=())),
        "several types": (
            construct("LRUPromptCache"),
            LruInsert(tokens=(1,), caches=()),
            LruInsert(tokens=(2,), caches=(), cache_type="user"),
        ),
    },
}  # fmt: skip
CASES = [(cache, state) for cache, states in REACHED.items() for state in states]


def states(steps, release: str, step_size: int = 2) -> list[str]:
    """Return the states that `a` is in when it is copied behind these steps."""
    run = itself(release).run(trace_of(*steps, Copy(to="z"), step_size=step_size))
    assert run.divergences == []
    return [cell.state for cell in run.cells if cell.operation == "copy"]


def test_every_state_of_every_class_is_in_the_table():
    """The table below has each class with all the states that coverage asks for."""
    assert {cache: set(states) for cache, states in REACHED.items()} == {
        cache: set(kind.states) for cache, kind in CACHES.items()
    }


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("cache", "state"), CASES)
def test_state_is_told(cache, state, release):
    """Each state class is what a cache is in after the steps that stand for it."""
    assert states(REACHED[cache][state], release) == [state]


ONE = update(1, "b")


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        ((construct(), update(3), Trim(n=1), Copy(to="a")), "trimmed"),
        ((construct(), update(3), Trim(n=1), Reload()), "trimmed"),
        ((construct(), update(3), Trim(n=1), construct()), "empty"),
        ((construct(), update(3), Trim(n=1), update(1)), "spare"),
        ((construct(), update(3), Trim(n=1), construct(slot="b"), ONE, Transfer()), "spare"),
        ((construct(), update(3), TrimPrompt(slots=("a",), n=1)), "trimmed"),
        ((BATCH, update(3, batch=2), Trim(n=1), Filter(indices=(0,))), "trimmed"),
        ((BATCH, update(3, batch=2), Trim(n=1), Copy(), Extend()), "spare"),
        ((BATCH, PADDED, update(2, batch=2), Finalize()), "full"),
        ((construct(slot="b"), ONE, Trim(slot="b", n=0), Merge(slot="b", to="a")), "full"),
        ((construct(), SetState(state=(Rows(shape=(1, 1, 3, 2)),) * 2 + (3,))), "full"),
    ],
)  # fmt: skip
def test_trimmed_is_by_the_last_change(steps, state):
    """A cache is `trimmed` until it is changed otherwise; a copy of it is as well."""
    run = itself().run(trace_of(*steps, Copy(to="z"), step_size=2))
    (last,) = [cell.state for cell in run.cells if cell.operation == "copy"][-1:]

    assert run.divergences == []
    assert last == state


def test_children_are_trimmed_with_their_list():
    """A trim of a list is a trim of each child, by its own account."""
    made = Construct(cache="CacheList", children=(KV, Made(cache="CacheList", children=(KV,))))
    steps = made, update(2, "a.0"), update(2, "a.1.0"), Trim(n=1)

    run = itself().run(
        trace_of(*steps, update(1, "a.1.0"), update(1, "a.0"), Trim(slot="a.0", n=0))
    )

    assert Cell("KVCache", "update", "trimmed") in run.cells
    assert run.cells[Cell("KVCache", "update", "trimmed")] == 2
    assert run.cells[Cell("KVCache", "trim", "spare")] == 1
    assert run.cells[Cell("CacheList", "trim", "filled")] == 1


def test_states_of_children_make_the_state_of_a_list():
    """A list is empty while all its children are, lists and caches of arrays among them."""
    inner = Made(cache="CacheList", children=(KV, Made(cache="CacheList")))
    made = Construct(
        cache="CacheList", children=(Made(cache="ArraysCache", args={"size": 1}), inner)
    )
    steps = [made, update(1, "a.1.0"), SetItem(slot="a.0", index=0, value=ARRAY)]

    seen = [states(steps[:number], "0.32.2") for number in (1, 2, 3)]

    assert seen == [["empty"], ["partly filled"], ["filled"]]


@pytest.mark.parametrize("cache", CACHES)
def test_cache_in_no_state_of_its_class_is_odd(cache):
    """A cache whose fields are not what its class has is `odd`, whatever they are."""
    side = play("0.32.2", *REACHED[cache][CACHES[cache].states[0]][:1])
    found = side.slots["a"]
    vars(found).clear()

    assert state_of(found, sizes_of(found), False) == "odd"
