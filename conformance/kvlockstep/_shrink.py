"""Shrinking: delta debugging on the trace itself.

It works because every operation is total: any part of a trace is a trace. First the steps that do
not matter go, in halving chunks; then what is left is merged and made simpler, trace by trace and
argument by argument (`_simpler.py`), as long as the same signature shows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from kvlockstep._divergence import Run, Signature
from kvlockstep._simpler import (
    SIMPLER_TRACES,
    always_looking,
    constructed,
    merged,
    simpler_steps,
    with_other_numbers,
)
from kvlockstep._trace import Trace, is_valid

_MAX_RUNS = 1500


class _BudgetSpentError(Exception):
    """The budget is used up."""


@dataclass
class _Search:
    """Runs candidates until the budget is used up."""

    run: Callable[[Trace], Run]
    signature: Signature
    best: Trace
    runs: int = 0

    def accept(self, candidate: Trace) -> bool:
        """Take `candidate` as the new best if it still shows the divergence.

        Raises `_BudgetSpentError` when there have been enough runs.
        """
        if self.runs >= _MAX_RUNS:
            raise _BudgetSpentError
        if candidate == self.best or not is_valid(candidate):
            return False
        self.runs += 1
        result = self.run(candidate)
        if self.signature not in result.signatures():
            return False
        self.best = _cut(candidate, result, self.signature)
        return True


def shrink(trace: Trace, signature: Signature, run: Callable[[Trace], Run]) -> Trace:
    """Return a short trace that still shows `signature`.

    `trace` must show it when run. No step of the result can be left out, if the runs sufficed.
    """
    first = run(trace)
    search = _Search(run, signature, _cut(trace, first, signature))
    with suppress(_BudgetSpentError):
        _shrink(search)
    return search.best


def _shrink(search: _Search) -> None:
    search.accept(always_looking(search.best))
    before = None
    while before != search.best:
        before = search.best
        _remove_steps(search)
        _use_numbers(search)
        _merge_steps(search)
        for simpler in SIMPLER_TRACES:
            search.accept(simpler(search.best))
        _remove_steps(search)
        _construct_directly(search)
        _simplify_steps(search)
        _remove_and_change(search)


def _cut(trace: Trace, result: Run, signature: Signature) -> Trace:
    """Drop what comes after the divergence, and the steps that had nothing to act on."""
    last = next(d.index for d in result.divergences if d.signature == signature)
    kept = zip(trace.steps[: last + 1], result.log, strict=False)
    return trace.part([step for step, ran in kept if ran is not None])


def _remove_steps(search: _Search) -> None:
    size = len(search.best.steps)
    while size >= 1:
        start = 0
        while start < len(search.best.steps):
            steps = search.best.steps
            if not search.accept(search.best.part(steps[:start] + steps[start + size :])):
                start += size
        size //= 2


def _merge_steps(search: _Search) -> None:
    """Make one step of two updates, or of two trims, on the same slot."""
    index = 0
    while index < len(search.best.steps):
        steps = search.best.steps
        for later in range(index + 1, len(steps)):
            joined = list(merged(steps[index], steps[later]))
            rest = [*steps[index + 1 : later]], [*steps[later + 1 :]]
            if any(
                search.accept(search.best.part([*steps[:index], *candidate]))
                for step in joined
                for candidate in ([step, *rest[0], *rest[1]], [*rest[0], step, *rest[1]])
            ):
                break
        else:
            index += 1


def _construct_directly(search: _Search) -> None:
    """Construct what is merged, where the caches that went into it do not matter."""
    for index in range(len(search.best.steps)):
        steps = search.best.steps
        if index < len(steps):
            for made in constructed(steps, index):
                if search.accept(search.best.part([*steps[:index], *made, *steps[index + 1 :]])):
                    break
    _remove_steps(search)


def _remove_and_change(search: _Search) -> None:
    """Leave one step out and change a number of another one, for what neither alone can do."""
    index = 0
    while index < len(search.best.steps):
        left = list(search.best.steps)
        del left[index]
        if not any(
            search.accept(search.best.part([*left[:other], candidate, *left[other + 1 :]]))
            for other, step in enumerate(left)
            for candidate in with_other_numbers(step)
        ):
            index += 1


def _simplify_steps(search: _Search) -> None:
    index = 0
    while index < len(search.best.steps):
        steps = search.best.steps
        for candidate in simpler_steps(steps[index]):
            if search.accept(search.best.part([*steps[:index], candidate, *steps[index + 1 :]])):
                break
        else:
            index += 1


def _use_numbers(search: _Search) -> None:
    """Write relative sizes as the numbers that they came to."""
    log = [step for step in search.run(search.best).log if step is not None]
    search.accept(search.best.part(log))
