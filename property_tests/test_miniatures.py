"""The harness catches every miniature within its CI profile, and shrinks it to its shortest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from property_tests.miniatures import MINIATURES, Miniature

from kvlockstep import _gate
from kvlockstep._caches import CACHES, FUNCTIONS
from kvlockstep._contract import contract_of
from kvlockstep._divergence import Run, Signature
from kvlockstep._engine import Lockstep
from kvlockstep._gate import run_job
from kvlockstep._jobs import Job, JobReport
from kvlockstep._settings import Settings
from kvlockstep._targets import load_target
from kvlockstep._trace import Trace, dumps, read
from kvreference import RELEASES

ALL = pytest.mark.parametrize("miniature", MINIATURES, ids=lambda miniature: miniature.name)

# What the issue that asked for miniatures names.
NAMED = {
    "off-by-one-after-the-wrap",
    "keep-ignored-after-the-wrap",
    "stale-idx-after-temporal-order",
    "window-closed-at-both-ends",
    "mask-offset-capped-wrongly",
    "front-trim-drops-the-head",
    "trim-moves-the-start",
    "values-written-before-keys-fail",
    "dtype-promoted-on-growth",
    "zeros-missing-in-the-spare",
    "capacity-rounded-up",
    "k-window-used-for-v",
    "negative-zero-lost",
    "nan-payload-lost",
    "state-aliases-the-buffer",
    "error-of-another-type",
    "error-moves-the-offset",
    "copy-shares-its-future",
    "nbytes-off-by-the-spare",
    "scales-in-the-wrong-dtype",
}

MANY = 1_000_000_000


class Hasty(JobReport):
    """A report that has had enough steps as soon as something undeclared shows."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field; no budget is larger than the steps after a first divergence."""
        if name == "steps" and getattr(self, "undeclared", None):
            value = MANY
        super().__setattr__(name, value)


@dataclass(frozen=True)
class Caught:
    """What the gate found first in a miniature, and the trace that it wrote for it."""

    signature: Signature
    trace: Trace


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Miniature], Caught]:
    """Return a function that runs the gate's CI profile until it has caught a miniature."""

    @cache
    def run(miniature: Miniature) -> Caught:
        miniature.build()
        job = Job("lockstep", miniature.release, miniature.cache, miniature.mode)
        folder = tmp_path_factory.mktemp(miniature.name)
        with mock.patch.object(_gate, "JobReport", Hasty):
            report = run_job(job, Settings(target=miniature.target, profile="ci", report=folder))
        assert not report.broken
        assert report.found, f"nothing was found in {report.steps} steps"
        return Caught(report.found[0].signature, read(Path(report.found[0].trace)))

    return run


def run_beside_release(miniature: Miniature, target: str, trace: Trace) -> Run:
    """Run `trace` on the miniature's release and on `target`."""
    miniature.build()
    loaded = load_target(target, miniature.release)
    return Lockstep(contract_of(miniature.release), loaded).run(trace)


def is_of_an_outcome(signature: Signature) -> bool:
    """Tell whether one side raised and the other did not, or not the same."""
    return signature.field.split()[0] in ("raises", "returns", "message")


@ALL
def test_is_caught(miniature: Miniature, gate: Callable[[Miniature], Caught]) -> None:
    """The CI profile catches each miniature, in the operation and in the way of its fault."""
    found = gate(miniature).signature
    expected = miniature.release, miniature.cache, miniature.shows
    assert (found.contract, found.cache, found.operation) == expected
    shown = run_beside_release(miniature, miniature.target, miniature.by_hand).signatures()
    assert is_of_an_outcome(found) == any(map(is_of_an_outcome, shown))


@ALL
def test_shrinks_to_the_shortest(miniature: Miniature, gate: Callable[[Miniature], Caught]) -> None:
    """The trace that the gate writes has no more steps than the shortest one found by hand."""
    trace = gate(miniature).trace
    assert len(trace.steps) <= miniature.steps, dumps(trace)


@ALL
def test_by_hand_is_the_shortest(miniature: Miniature, gate: Callable[[Miniature], Caught]) -> None:
    """The trace found by hand shows the fault, needs all of its steps, and no search beats it."""
    steps = miniature.by_hand.steps
    run = run_beside_release(miniature, miniature.target, miniature.by_hand)
    assert {signature.operation for signature in run.signatures()} == {miniature.shows}
    for index in range(len(steps)):
        part = miniature.by_hand.part(steps[:index] + steps[index + 1 :])
        assert not run_beside_release(miniature, miniature.target, part).divergences
    found = gate(miniature).trace
    assert len(found.steps) >= miniature.steps, dumps(found)


@ALL
def test_release_shows_nothing(miniature: Miniature, gate: Callable[[Miniature], Caught]) -> None:
    """The release itself, as the target, shows nothing over the traces of the miniature."""
    for trace in (miniature.by_hand, gate(miniature).trace):
        run = run_beside_release(miniature, f"release:{miniature.release}", trace)
        assert run.steps == len(trace.steps)
        assert not run.divergences


def test_the_issue_is_covered() -> None:
    """All faults that were asked for are there, on both releases and all classes."""
    assert {miniature.name for miniature in MINIATURES} >= NAMED
    assert {miniature.release for miniature in MINIATURES} == set(RELEASES)
    assert {miniature.cache for miniature in MINIATURES} == {*CACHES, FUNCTIONS}


def test_names_are_told_apart() -> None:
    """Each miniature has a name of its own, and one line that says what is broken."""
    assert len({miniature.name for miniature in MINIATURES}) == len(MINIATURES)
    for miniature in MINIATURES:
        assert miniature.fault.__doc__
        assert "\n" not in miniature.fault.__doc__
