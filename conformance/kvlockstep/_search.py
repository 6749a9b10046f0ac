"""The search for divergences: Hypothesis, or a seeded generator, draws the bytes of traces."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import accumulate, count, pairwise
from typing import Any, Literal

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from kvlockstep._source import HEAD_BYTES, STEP_BYTES

Engine = Literal["hypothesis", "seeded"]

_LENGTHS = (3, 6, 10, 14, 18, 24, 30, 36, 48, 64)
_EXAMPLES = 40
# Hypothesis draws bytes one by one: a word of few stands for the bytes that a step reads.
_WORD = 4

_SETTINGS = settings(
    max_examples=_EXAMPLES,
    phases=[Phase.generate],
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class _EnoughError(BaseException):
    """Ends a round of Hypothesis; what is no `Exception` it lets through at once."""


@st.composite
def trace_bytes(draw: Any) -> bytes:
    """Draw the bytes of a trace, its length first: a size drawn last stays small."""
    size = _words_in(draw(st.sampled_from(_LENGTHS)))
    return _spell(draw(st.binary(min_size=size, max_size=size)))


def _words_in(steps: int) -> int:
    """Return how many bytes of words make a trace of so many steps."""
    return (HEAD_BYTES // STEP_BYTES + steps) * _WORD


def _spell(words: bytes) -> bytes:
    """Return the bytes that `words` stand for: one changed word changes one step."""
    starts = range(0, len(words), _WORD)
    spelt = (blake2b(words[i : i + _WORD], digest_size=STEP_BYTES).digest() for i in starts)
    return b"".join(spelt)


def search(engine: Engine, first_seed: int, visit: Callable[[bytes], bool]) -> None:
    """Call `visit` with the bytes of one trace after another until it returns False."""
    if engine == "seeded":
        _search_seeded(first_seed, visit)
    else:
        _search_with_hypothesis(first_seed, visit)


def _search_seeded(first_seed: int, visit: Callable[[bytes], bool]) -> None:
    for data in seeded_bytes(first_seed):
        if not visit(data):
            return


def seeded_bytes(first_seed: int) -> Iterator[bytes]:
    """Yield the bytes of traces without end, the same ones for the same seed."""
    generator = random.Random(first_seed)
    while True:
        yield generator.randbytes(HEAD_BYTES + STEP_BYTES * generator.choice(_LENGTHS))


def _search_with_hypothesis(first_seed: int, visit: Callable[[bytes], bool]) -> None:
    """Run Hypothesis in rounds, each with a seed of its own, for it has no budget of steps.

    What an example costs Hypothesis is shared by many steps: it has a trace of every length.
    """
    ends = [0, *accumulate(map(_words_in, _LENGTHS))]
    rounds = given(st.binary(min_size=ends[-1], max_size=ends[-1]))

    def play(words: bytes) -> None:
        # The simplest example comes first: zeros, one and the same step throughout.
        for start, end in pairwise(ends if any(words) else ()):
            if not visit(_spell(words[start:end])):
                raise _EnoughError

    for number in count(first_seed * 1_000):
        # Hypothesis reads the source of what it is given anew each time: here it is short.
        def one_round(words: bytes) -> None:
            play(words)

        try:
            seed(number)(_SETTINGS(rounds(one_round)))()
        except _EnoughError:
            return
