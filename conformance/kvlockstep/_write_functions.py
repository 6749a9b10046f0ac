"""Traces of the mask functions of the cache module."""

from __future__ import annotations

from kvlockstep._source import HEAD_BYTES, STEP_BYTES, Source, steps_in
from kvlockstep._steps import AttentionMask, CausalMask
from kvlockstep._trace import AnyStep, Mode, Trace


def generate_functions(data: bytes, mode: Mode) -> Trace:
    """Return the trace of mask functions that `data` stands for."""
    source = Source(data)
    steps: list[AnyStep] = []
    for index in range(steps_in(data)):
        source.window(HEAD_BYTES + index * STEP_BYTES, STEP_BYTES)
        n = source.pick((1, 2, 3, 4, 5, 8, 0, 1))
        offset = source.pick((0, 0, 1, 2, 3, 5, 8, 17))
        window = source.pick((None, None, 1, 2, 3, 4, 5, 8, 100, 0, -1))
        if source.one_in(3):
            return_array = source.one_in(2)
            steps.append(
                AttentionMask(n=n, offset=offset, window=window, return_array=return_array)
            )
            continue
        steps.append(
            CausalMask(
                n=n,
                offset=offset,
                window=window,
                right_padding=_padding(source),
                left_padding=_padding(source),
            )
        )
    return Trace(steps=tuple(steps), mode=mode)


def _padding(source: Source) -> tuple[int, ...] | None:
    if not source.one_in(3):
        return None
    return tuple(source.pick((0, 1, 2, 3, 5, -1)) for _ in range(1 + source.below(3)))
