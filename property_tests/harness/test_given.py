"""What a trace passes to a cache as it stands: rows, counts, tokens and states of any kind."""

from __future__ import annotations

import mlx.core as mx
import pytest
from property_tests.harness.ports import construct, play, trace_of, update

from kvlockstep._arrays import build_item
from kvlockstep._explain import tell_step
from kvlockstep._prompt_steps import TrieAdd, TrieGet
from kvlockstep._recipes import Literals, Slice
from kvlockstep._steps import Advance, Construct, Extract, Filter, SetItem, SetState
from kvlockstep._trace import dumps, loads
from kvreference import RELEASES

NEW = RELEASES[-1]
ONE = Literals(shape=(2,), dtype="int32", values=(2, 0))
ARRAYS = construct("ArraysCache", size=1), SetItem(index=0, value=Literals(
    shape=(3, 1), dtype="int32", values=(7, 8, 9)))  # fmt: skip


def test_item_is_built():
    """Arrays are made, tuples are lists, a slice is one, and all else stands for itself."""
    built = build_item((1, "x", None, (2.5, True), Slice(stop=3, by=2), ONE))

    assert built[:4] == [1, "x", None, [2.5, True]]
    assert built[4] == slice(None, 3, 2)
    assert isinstance(built[5], mx.array)
    assert built[5].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("given", "left"),
    [((2, 0), [[9], [7]]), (ONE, [[9], [7]]), (Slice(start=1), [[8], [9]]), (1, [8])],
)
def test_rows_are_filtered(given, left):
    """Rows go to the cache as a list, as an array, as a slice, or as the number that they are."""
    side = play(NEW, *ARRAYS, Filter(indices=(0,), given=given))

    assert side.at("a").cache[0].tolist() == left


def test_row_is_extracted():
    """What is given stands for the index."""
    side = play(NEW, *ARRAYS, Extract(index=0, given=2))

    assert side.at("e").cache[0].tolist() == [[9]]


def test_counts_advance_by_what_is_given():
    """Counts go down by a fraction, which an index could not be."""
    made = construct("ArraysCache", size=1, left_padding=(3,))

    assert play(NEW, made, Advance(n=0, given=0.5)).at("a").left_padding.tolist() == [2.5]


def test_slot_takes_a_number():
    """A slot is set to what is no array."""
    assert play(NEW, *ARRAYS, SetItem(index=0, value=5)).at("a").cache == [5]


def test_argument_is_an_array():
    """A cache is made with an array where it takes numbers."""
    made = Construct(cache="TokenBuffer", args={"tokens": ONE})

    assert play(NEW, made).at("a").tokens.tolist() == [2, 0]


def test_state_is_bare():
    """A number is no state."""
    with pytest.raises(TypeError):
        play(NEW, construct(), update(1), SetState(state=(), bare=5))


@pytest.mark.parametrize(
    "step",
    [
        TrieAdd(tokens=((1,),)),
        TrieAdd(tokens=(1, Slice())),
        TrieAdd(tokens=(), model=(1,)),
        TrieAdd(tokens=(), bare=5),
    ],
)
def test_tokens_without_a_hash_are_said(step):
    """A dict refuses a list or a slice as a token or a model; a number is no sequence."""
    with pytest.raises(TypeError):
        play(NEW, construct("PromptTrie"), step)


def test_tokens_are_a_set():
    """Tokens go to the cache as a set."""
    side = play(NEW, construct("PromptTrie"), TrieAdd(tokens=("x", "x"), as_set=True, value=3))

    assert side.at("a").get("m", ["x"]) == 3
    assert TrieGet(tokens=("x", "x"), as_set=True).given == {"x"}


def test_given_reads_as_it_is_written():
    """What is given goes through a file."""
    trace = trace_of(
        Construct(cache="TokenBuffer", args={"tokens": ONE}),
        Filter(indices=(), given=(1, (2.0, "x"), Slice(by=2))),
        SetState(state=(), bare=5),
        TrieAdd(tokens=((1,), ONE, Slice()), model=(1,)),
    )

    assert loads(dumps(trace)) == trace


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (Extract(index=0, given=ONE), "e = a.extract(int32 [2])"),
        (Extract(index=4), "e = a.extract(4)"),
        (SetItem(index=0, value=5), "a[0] = 5"),
        (SetState(state=(), bare=5), "a: state = 5"),
        (Construct(cache="TokenBuffer", args={"tokens": ONE}), "a = TokenBuffer(tokens=int32 [2])"),
    ],
)
def test_given_is_told(step, told):
    """What is given is told as it stands, an array by its dtype and shape."""
    assert tell_step(step) == told
