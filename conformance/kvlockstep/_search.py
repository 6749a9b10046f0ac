"""The search for divergences: Hypothesis, or a seeded generator, draws the bytes of traces."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Literal

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from kvlockstep._source import HEAD_BYTES, STEP_BYTES

Engine = Literal["hypothesis", "seeded"]

_LENGTHS = (3, 6, 10, 14, 18, 24, 30, 36, 48, 64)
_EXAMPLES = 200


class _EnoughError(BaseException):
    """Ends a round of Hypothesis; what is no `Exception` it lets through at once."""


@st.composite
def trace_bytes(draw: Any) -> bytes:
    """Draw the bytes of a trace, its length first: a size drawn last stays small."""
    size = HEAD_BYTES + STEP_BYTES * draw(st.sampled_from(_LENGTHS))
    return bytes(draw(st.binary(min_size=size, max_size=size)))


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
    """Run Hypothesis in rounds, each with a seed of its own, for it has no budget of steps."""
    for number in count(first_seed * 1_000):

        @seed(number)
        @settings(
            max_examples=_EXAMPLES,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(trace_bytes())
        def one_round(data: bytes) -> None:
            if not visit(data):
                raise _EnoughError

        try:
            one_round()
        except _EnoughError:
            return
